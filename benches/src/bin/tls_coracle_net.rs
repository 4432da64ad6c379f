//! The TLS benchmark on coracle's streams.

#[path = "../tls.rs"]
mod tls;

mod rt {
    use std::os::unix::net::UnixListener as StdUnixListener;
    use std::sync::Arc;

    use coracle::net::{TlsStream, UnixListener};
    use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use rustls::ServerConfig;

    use crate::tls;

    include!("../tls_serve.rs");

    pub fn serve(listener: StdUnixListener, config: Arc<ServerConfig>) {
        coracle::block_on(async {
            let listener = UnixListener::try_from(listener).expect("a listener");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let config = config.clone();
                let serving = async { obey(TlsStream::accept(stream, config).await?).await };
                coracle::spawn(serving).detach();
            }
        })
    }
}

fn main() -> std::io::Result<()> {
    tls::run()
}
