//! The TLS benchmark on tokio-rustls and tokio's current-thread runtime.

#[path = "../tls.rs"]
mod tls;

mod rt {
    use std::os::unix::net::UnixListener as StdUnixListener;
    use std::sync::Arc;

    use rustls::ServerConfig;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::UnixListener;
    use tokio_rustls::TlsAcceptor;

    use crate::tls;

    include!("../tls_serve.rs");

    pub fn serve(listener: StdUnixListener, config: Arc<ServerConfig>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().build().expect("a runtime");
        runtime.block_on(async {
            listener.set_nonblocking(true).expect("a socket");
            let listener = UnixListener::from_std(listener).expect("a listener");
            let acceptor = TlsAcceptor::from(config);
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let acceptor = acceptor.clone();
                tokio::spawn(async move { obey(acceptor.accept(stream).await?).await });
            }
        })
    }
}

fn main() -> std::io::Result<()> {
    tls::run()
}
