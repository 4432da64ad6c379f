//! A session with Redis over its Unix socket, with the messages of the `redis-protocol` crate:
//! sends all commands, and prints the replies as they come.
//!
//! `unix_redis SOCKET COMMAND...`, for example `/run/redis/redis.sock 'SET greeting hello' 'GET
//! greeting'`; a command's words are separated by spaces.
//!
//! Exits with 0 if Redis accepts every command, 3 if it refuses one, 1 if not every reply came, 2
//! if the arguments are wrong.

use std::process::ExitCode;

#[cfg(unix)]
mod redis {
    use std::future::Future;
    use std::io::{self, ErrorKind, Write};
    use std::time::Duration;

    use coracle::net::UnixStream;
    use coracle::time::timeout;
    use futures_lite::{future, stream, StreamExt};
    use futures_util::SinkExt;
    use redis_protocol::codec::{resp2_encode_command, Resp2};
    use redis_protocol::resp2::types::BytesFrame;
    use tokio_util::codec::{FramedRead, FramedWrite};
    use tokio_util::compat::{FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt};

    /// How long the server may be silent.
    const PATIENCE: Duration = Duration::from_secs(5);

    async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let silent = || io::Error::new(ErrorKind::TimedOut, "Redis is silent");
        timeout(PATIENCE, step).await.map_err(|_| silent())?
    }

    /// Prints a reply, and tells whether it is no error.
    fn print(reply: &BytesFrame, depth: usize, out: &mut impl Write) -> io::Result<bool> {
        if depth > 0 {
            write!(out, "{:1$}", "", 2 * depth - 2)?;
        }
        match reply {
            BytesFrame::SimpleString(data) | BytesFrame::BulkString(data) => {
                writeln!(out, "{}", String::from_utf8_lossy(data))?;
            }
            BytesFrame::Integer(number) => writeln!(out, "{number}")?,
            BytesFrame::Null => writeln!(out, "(nil)")?,
            BytesFrame::Error(text) => {
                writeln!(out, "(error) {text}")?;
                return Ok(false);
            }
            BytesFrame::Array(replies) => {
                writeln!(out, "({} replies)", replies.len())?;
                let mut success = true;
                for reply in replies {
                    success &= print(reply, depth + 1, out)?;
                }
                return Ok(success);
            }
        }
        Ok(true)
    }

    /// Prints the replies to the commands, and tells whether none is an error.
    pub(crate) async fn session(
        socket: &str,
        commands: &[String],
        out: &mut impl Write,
    ) -> io::Result<bool> {
        let socket = in_time(UnixStream::connect(socket)).await?;
        let (read, write) = socket.into_split();
        // tokio-util's codecs want tokio's traits, but none of its runtime.
        let mut requests = FramedWrite::new(write.compat_write(), Resp2::default());
        let mut replies = FramedRead::new(read.compat(), Resp2::default());
        let encoded = commands.iter().map(|command| resp2_encode_command(command));
        let mut encoded = stream::iter(encoded.map(Ok));
        let send = async {
            let sent = requests.send_all(&mut encoded).await;
            sent.map_err(io::Error::other)
        };
        let receive = async {
            let mut success = true;
            for _ in commands {
                let reply = in_time(async {
                    let reply = replies.next().await.ok_or(ErrorKind::UnexpectedEof)?;
                    reply.map_err(io::Error::other)
                });
                success &= print(&reply.await?, 0, out)?;
            }
            Ok(success)
        };
        // Together: a server may read no more until its replies are read.
        let ((), success) = future::try_zip(send, receive).await?;
        out.flush()?;
        Ok(success)
    }
}

#[cfg(unix)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (socket, commands) = match &args[..] {
        [socket, commands @ ..] if !commands.is_empty() => (socket, commands),
        _ => {
            eprintln!("usage: unix_redis SOCKET COMMAND...");
            return ExitCode::from(2);
        }
    };
    match coracle::block_on(redis::session(socket, commands, &mut std::io::stdout())) {
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
