//! HTTP over a Unix socket, as local services speak it: asks for something, and prints the status
//! and the body.
//!
//! `unix_http SOCKET PATH`, for example `/run/docker.sock /version`; `@name` is an abstract name
//! (Linux).
//!
//! Exits with 0 if the status says success, 3 if it says something else, 1 if no whole answer
//! came, 2 if the arguments are wrong.

use std::process::ExitCode;

#[cfg(unix)]
mod http {
    use std::future::Future;
    use std::io::{self, ErrorKind, Write};
    use std::time::Duration;

    use coracle::net::UnixStream;
    use coracle::time::timeout;
    use futures_lite::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

    /// How long the server may be silent.
    const PATIENCE: Duration = Duration::from_secs(5);
    /// The most bytes of a line, and lines of a head, that are read.
    const LINE: u64 = 8 * 1024;
    const LINES: usize = 100;

    type Reader = BufReader<UnixStream>;

    /// Where a body ends.
    enum Body {
        Empty,
        Length(u64),
        Chunked,
        /// With the connection.
        Close,
    }

    struct Head {
        status_line: String,
        status: u16,
        body: Body,
    }

    fn malformed(what: &str, text: &str) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, format!("{what}: {text:?}"))
    }

    async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let silent = || io::Error::new(ErrorKind::TimedOut, "the server is silent");
        timeout(PATIENCE, step).await.map_err(|_| silent())?
    }

    async fn read_line(reader: &mut Reader) -> io::Result<String> {
        let mut line = Vec::new();
        let mut limited = reader.take(LINE);
        in_time(limited.read_until(b'\n', &mut line)).await?;
        let text = String::from_utf8_lossy(&line);
        match text.strip_suffix('\n') {
            Some(text) => Ok(text.strip_suffix('\r').unwrap_or(text).into()),
            None if limited.limit() == 0 => {
                let beginning: String = text.chars().take(40).collect();
                Err(malformed("too long a line", &beginning))
            }
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The lines up to the empty one, which are the head or what follows the last chunk.
    async fn read_fields(reader: &mut Reader) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = read_line(reader).await?;
            match line.split_once(':') {
                _ if line.is_empty() => return Ok(fields),
                _ if fields.len() == LINES => return Err(malformed("too many lines", &line)),
                Some((name, value)) => {
                    fields.push((name.to_ascii_lowercase(), value.trim().into()));
                }
                None => return Err(malformed("not a header", &line)),
            }
        }
    }

    async fn read_head(reader: &mut Reader) -> io::Result<Head> {
        loop {
            let status_line = read_line(reader).await?;
            let mut words = status_line.split(' ');
            let version = words
                .next()
                .filter(|version| version.starts_with("HTTP/1."));
            let status = words.next().filter(|status| status.len() == 3);
            let status = status.and_then(|status| status.parse::<u16>().ok());
            let (Some(_), Some(status)) = (version, status) else {
                return Err(malformed("not an answer in HTTP/1", &status_line));
            };
            let fields = read_fields(reader).await?;
            if (100..200).contains(&status) {
                continue; // the answer is still to come
            }
            let body = match status {
                204 | 304 => Body::Empty,
                _ => body(&fields)?,
            };
            return Ok(Head {
                status_line,
                status,
                body,
            });
        }
    }

    fn body(fields: &[(String, String)]) -> io::Result<Body> {
        let mut body = Body::Close;
        for (name, value) in fields {
            match (&name[..], &body) {
                ("transfer-encoding", _) if value.eq_ignore_ascii_case("chunked") => {
                    return Ok(Body::Chunked);
                }
                ("transfer-encoding", _) => return Err(malformed("unknown coding", value)),
                ("content-length", earlier) => {
                    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                    match (value.parse(), earlier) {
                        (Ok(len), Body::Close) if is_number => body = Body::Length(len),
                        (Ok(len), Body::Length(earlier)) if is_number && len == *earlier => {}
                        _ => return Err(malformed("no length", value)),
                    }
                }
                _ => {}
            }
        }
        Ok(body)
    }

    /// So many bytes, or all until the connection ends.
    async fn copy(reader: &mut Reader, len: Option<u64>, out: &mut impl Write) -> io::Result<()> {
        let mut left = len.unwrap_or(u64::MAX);
        while left > 0 {
            let data = in_time(reader.fill_buf()).await?;
            if data.is_empty() {
                return match len {
                    Some(_) => Err(ErrorKind::UnexpectedEof.into()),
                    None => Ok(()),
                };
            }
            let taken = data.len().min(left.try_into().unwrap_or(usize::MAX));
            out.write_all(&data[..taken])?;
            reader.consume(taken);
            left -= taken as u64;
        }
        Ok(())
    }

    async fn copy_chunks(reader: &mut Reader, out: &mut impl Write) -> io::Result<()> {
        loop {
            let line = read_line(reader).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let is_number = size.bytes().all(|byte| byte.is_ascii_hexdigit());
            let len = match u64::from_str_radix(size, 16) {
                Ok(len) if is_number => len,
                _ => return Err(malformed("not the size of a chunk", &line)),
            };
            if len == 0 {
                read_fields(reader).await?;
                return Ok(());
            }
            copy(reader, Some(len), out).await?;
            let end = read_line(reader).await?;
            if !end.is_empty() {
                return Err(malformed("a chunk goes on", &end));
            }
        }
    }

    /// Prints what the server has at `path`, and gives the status.
    pub(crate) async fn get(socket: &str, path: &str, out: &mut impl Write) -> io::Result<u16> {
        let stream = in_time(UnixStream::connect(socket)).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        in_time(stream.write_all(request.as_bytes())).await?;

        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader).await?;
        writeln!(out, "{}", head.status_line)?;
        match head.body {
            Body::Empty => {}
            Body::Length(len) => copy(&mut reader, Some(len), out).await?,
            Body::Chunked => copy_chunks(&mut reader, out).await?,
            Body::Close => copy(&mut reader, None, out).await?,
        }
        out.flush()?;
        Ok(head.status)
    }
}

#[cfg(unix)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_path = |path: &str| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
    let (socket, path) = match &args[..] {
        [socket, path] if is_path(path) => (socket, path),
        _ => {
            eprintln!("usage: unix_http SOCKET PATH, where PATH begins with a /");
            return ExitCode::from(2);
        }
    };
    match coracle::block_on(http::get(socket, path, &mut std::io::stdout())) {
        Ok(200..=299) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
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
