//! Standard input and output as async streams.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use wasip3::cli::types::ErrorCode;
use wasip3::wit_stream;

use super::bytes::{Incoming, Outgoing};
use crate::wake::Waiter;

/// Standard input, without blocking the runtime.
///
/// What was read from the host and not from this is lost when it is dropped.
///
/// # Platforms
/// WASI 0.3.
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
    Input(Incoming::new(wasip3::cli::stdin::read_via_stream(), to_io))
}

/// Standard output, without blocking the runtime. What std prints goes its own way.
///
/// # Platforms
/// WASI 0.3.
pub fn stdout() -> Output {
    let (writer, reader) = wit_stream::new();
    let ending = wasip3::cli::stdout::write_via_stream(reader);
    Output(Outgoing::new(writer, ending, to_io))
}

/// Standard error, without blocking the runtime.
///
/// # Platforms
/// WASI 0.3.
pub fn stderr() -> Output {
    let (writer, reader) = wit_stream::new();
    let ending = wasip3::cli::stderr::write_via_stream(reader);
    Output(Outgoing::new(writer, ending, to_io))
}

/// What [`stdin`] gives.
pub struct Input(Incoming<ErrorCode>);

/// What [`stdout`] and [`stderr`] give.
pub struct Output(Outgoing<ErrorCode>);

fn to_io(code: ErrorCode) -> io::Error {
    match code {
        ErrorCode::Pipe => io::ErrorKind::BrokenPipe.into(),
        ErrorCode::IllegalByteSequence => io::ErrorKind::InvalidData.into(),
        ErrorCode::Io => io::Error::other("io"),
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.0
            .poll_read(&mut Waiter::polled(cx), &mut [IoSliceMut::new(buf)])
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0
            .poll_write(&mut Waiter::polled(cx), &[IoSlice::new(data)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(&mut Waiter::polled(cx))
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
