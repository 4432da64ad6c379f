//! Standard input and output as async streams.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use wasip2::cli::{stderr::get_stderr, stdin::get_stdin, stdout::get_stdout};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use super::pollable::Interest;
use crate::wake::Waiter;

/// Standard input, without blocking the runtime.
///
/// # Platforms
/// WASI 0.2.
///
/// # Examples
/// ```no_run
/// use futures_lite::io::{AsyncBufReadExt, BufReader};
/// use futures_lite::StreamExt;
///
/// coracle::block_on(async {
///     let mut lines = BufReader::new(coracle::wasi::stdin()).lines();
///     while let Some(line) = lines.next().await {
///         println!("{}", line?.to_uppercase());
///     }
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn stdin() -> Input {
    Input {
        interest: Interest::new(),
        stream: get_stdin(),
    }
}

/// Standard output, without blocking the runtime. What std prints goes its own way.
///
/// # Platforms
/// WASI 0.2.
pub fn stdout() -> Output {
    Output::new(get_stdout())
}

/// Standard error, without blocking the runtime.
///
/// # Platforms
/// WASI 0.2.
pub fn stderr() -> Output {
    Output::new(get_stderr())
}

/// What [`stdin`] gives.
pub struct Input {
    // In this order: the host wants the pollable gone before the stream.
    interest: Interest,
    stream: InputStream,
}

/// What [`stdout`] and [`stderr`] give.
pub struct Output {
    // In this order: the host wants the pollable gone before the stream.
    interest: Interest,
    stream: OutputStream,
    flushing: bool,
}

impl Output {
    fn new(stream: OutputStream) -> Output {
        Output {
            interest: Interest::new(),
            stream,
            flushing: false,
        }
    }
}

fn to_io(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(failure) => io::Error::other(failure.to_debug_string()),
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &self.stream;
        let read = || match stream.read(buf.len() as u64) {
            Ok(data) if data.is_empty() && !buf.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            Ok(data) => {
                buf[..data.len()].copy_from_slice(&data);
                Ok(data.len())
            }
            Err(StreamError::Closed) => Ok(0),
            Err(error) => Err(to_io(error)),
        };
        self.interest
            .poll_io(&mut Waiter::polled(cx), || Ok(stream.subscribe()), read)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flushing = false;
        let stream = &self.stream;
        let write = || {
            let permit = stream.check_write().map_err(to_io)? as usize;
            if permit == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let len = data.len().min(permit);
            stream.write(&data[..len]).map_err(to_io)?;
            Ok(len)
        };
        self.interest
            .poll_io(&mut Waiter::polled(cx), || Ok(stream.subscribe()), write)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.flushing {
            self.stream.flush().map_err(to_io)?;
            self.flushing = true;
        }
        let stream = &self.stream;
        // While it is being flushed, nothing more is taken.
        let flushed = || match stream.check_write().map_err(to_io)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        };
        let poll =
            self.interest
                .poll_io(&mut Waiter::polled(cx), || Ok(stream.subscribe()), flushed);
        if poll.is_ready() {
            self.flushing = false;
        }
        poll
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}
