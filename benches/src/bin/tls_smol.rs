//! The TLS benchmark on futures-rustls and a local executor of smol.

#[path = "../tls.rs"]
mod tls;

mod rt {
    use std::os::unix::net::UnixListener as StdUnixListener;
    use std::sync::Arc;

    use futures_rustls::TlsAcceptor;
    use rustls::ServerConfig;
    use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use smol::net::unix::UnixListener;
    use smol::{Async, LocalExecutor};

    use crate::tls;

    include!("../tls_serve.rs");

    pub fn serve(listener: StdUnixListener, config: Arc<ServerConfig>) {
        let executor = LocalExecutor::new();
        smol::block_on(executor.run(async {
            let listener = Async::new(listener).expect("a listener");
            let listener = UnixListener::from(listener);
            let acceptor = TlsAcceptor::from(config);
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let acceptor = acceptor.clone();
                let serving = async move { obey(acceptor.accept(stream).await?).await };
                executor.spawn(serving).detach();
            }
        }))
    }
}

fn main() -> std::io::Result<()> {
    tls::run()
}
