//! HTTP over a Unix socket with hyper, as Docker and other local services speak it: asks for one
//! path after the other over a connection that is kept, and prints each status, and each body as
//! it comes.
//!
//! `unix_http SOCKET PATH...`, for example `/run/docker.sock /version /containers/json`; `@name`
//! is an abstract name (Linux).
//!
//! Exits with 0 if every status says success, 3 if one says something else, 1 if no whole answer
//! came, 2 if the arguments are wrong.

use std::process::ExitCode;

#[cfg(unix)]
mod http {
    use std::error::Error;
    use std::future::Future;
    use std::io::{self, ErrorKind, Write};
    use std::time::Duration;

    use coracle::net::UnixStream;
    use coracle::time::timeout;
    use coracle::Task;
    use http_body_util::{BodyExt, Empty};
    use hyper::body::{Bytes, Incoming};
    use hyper::client::conn::http1;
    use hyper::{Request, Response, Uri};
    use smol_hyper::rt::FuturesIo;

    /// How long the server may be silent.
    const PATIENCE: Duration = Duration::from_secs(5);
    /// The most bytes of a head.
    const HEAD: usize = 16 * 1024;

    type Sender = http1::SendRequest<Empty<Bytes>>;

    /// What hyper says, with its reasons.
    fn failed(error: hyper::Error) -> io::Error {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(reason) = source {
            text += &format!(": {reason}");
            source = reason.source();
        }
        io::Error::other(text)
    }

    async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let silent = || io::Error::new(ErrorKind::TimedOut, "the server is silent");
        timeout(PATIENCE, step).await.map_err(|_| silent())?
    }

    /// A connection, and the task that drives it until it is dropped.
    struct Client {
        sender: Sender,
        _connection: Task<hyper::Result<()>>,
    }

    impl Client {
        async fn connect(socket: &str) -> io::Result<Client> {
            let stream = in_time(UnixStream::connect(socket)).await?;
            let mut builder = http1::Builder::new();
            builder.max_buf_size(HEAD);
            // hyper has traits of its own.
            let handshake = builder.handshake(FuturesIo::new(stream));
            let (sender, connection) = handshake.await.map_err(failed)?;
            Ok(Client {
                sender,
                _connection: coracle::spawn(connection),
            })
        }

        async fn get(&mut self, path: &Uri) -> io::Result<Response<Incoming>> {
            let request = Request::get(path).header("Host", "localhost");
            let request = request.header("Accept", "*/*").body(Empty::new());
            let request = request.map_err(io::Error::other)?;
            let answer = self.sender.send_request(request);
            in_time(async { answer.await.map_err(failed) }).await
        }
    }

    /// Prints what the server has at the paths, and tells whether every status says success.
    pub(crate) async fn get(socket: &str, paths: &[Uri], out: &mut impl Write) -> io::Result<bool> {
        let mut client = Client::connect(socket).await?;
        let mut success = true;
        for (number, path) in paths.iter().enumerate() {
            // Until the connection is free, unless the server has ended it.
            if client.sender.ready().await.is_err() {
                client = Client::connect(socket).await?;
            }
            let answer = client.get(path).await?;
            success &= answer.status().is_success();
            if number > 0 {
                writeln!(out)?;
            }
            writeln!(out, "{:?} {}", answer.version(), answer.status())?;
            let mut body = answer.into_body();
            loop {
                out.flush()?;
                let frame = in_time(async { body.frame().await.transpose().map_err(failed) });
                let Some(frame) = frame.await? else { break };
                if let Some(data) = frame.data_ref() {
                    out.write_all(data)?;
                }
            }
        }
        Ok(success)
    }

    /// One that begins with a slash.
    pub(crate) fn path(text: &str) -> Option<Uri> {
        text.starts_with('/').then(|| text.parse().ok())?
    }
}

#[cfg(unix)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let paths = args.iter().skip(1).map(|path| http::path(path));
    let paths: Option<Vec<_>> = paths.collect();
    let (Some(socket), Some(paths @ [_, ..])) = (args.first(), paths.as_deref()) else {
        eprintln!("usage: unix_http SOCKET PATH..., where PATH begins with a /");
        return ExitCode::from(2);
    };
    match coracle::block_on(http::get(socket, paths, &mut std::io::stdout())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("{socket}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("this platform has no Unix connections");
    ExitCode::FAILURE
}
