//! Streams of bytes, either way, with a read or a write under way that nobody's giving up takes
//! anything from.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};

use super::inflight::InFlight;
use super::leaving::leave;
use crate::budget;
use crate::wake::{Ticket, Waiter};

/// Bytes that a read has room for: few while little comes, since every connection that is waited
/// for holds them; more while it is filled. So many at most are written at once, too: smaller pieces
/// cost more calls, and larger ones can cost the host a fifth of its speed.
const READ: usize = 2 * 1024;
const MOST: usize = 64 * 1024;

/// How a stream of the host's ends, as it says.
type Ending<E> = FutureReader<Result<(), E>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes from the host.
pub(super) struct Incoming<E: Send + 'static> {
    read: InFlight<(Source<E>, Vec<u8>), Read<E>>,
    inner: Mutex<In<E>>,
    to_io: fn(E) -> io::Error,
}

struct In<E: 'static> {
    /// While no read is under way.
    source: Option<Source<E>>,
    /// Read and not yet taken, from `at` on.
    data: Vec<u8>,
    at: usize,
    /// What is told once after the data; the end afterwards.
    failure: Option<io::Error>,
}

struct Source<E: 'static> {
    stream: StreamReader<u8>,
    ending: Ending<E>,
}

enum Read<E: 'static> {
    Data(Source<E>, Vec<u8>),
    End(Result<(), E>),
}

impl<E: Send + 'static> Incoming<E> {
    pub(super) fn new(
        (stream, ending): (StreamReader<u8>, Ending<E>),
        to_io: fn(E) -> io::Error,
    ) -> Incoming<E> {
        Incoming {
            read: InFlight::new(read),
            inner: Mutex::new(In {
                source: Some(Source { stream, ending }),
                data: Vec::new(),
                at: 0,
                failure: None,
            }),
            to_io,
        }
    }

    /// Has data there, or the end; or leaves a read under way and says `WouldBlock`.
    fn fill(&self, inner: &mut In<E>) -> io::Result<()> {
        if inner.at < inner.data.len() {
            return Ok(());
        }
        let done = match self.read.take() {
            Some(done) => Some(done),
            None => match inner.source.take() {
                Some(source) => {
                    let buf = inner.empty_buffer();
                    self.read.start((source, buf))
                }
                None if self.read.is_under_way() => None,
                // It has ended before.
                None => return inner.failure.take().map_or(Ok(()), Err),
            },
        };
        match done {
            None => return Err(io::ErrorKind::WouldBlock.into()),
            Some(Read::Data(source, data)) => {
                inner.source = Some(source);
                inner.data = data;
                inner.at = 0;
            }
            Some(Read::End(result)) => result.map_err(self.to_io)?,
        }
        Ok(())
    }

    pub(super) fn try_read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.read.look();
        self.take(bufs)
    }

    /// As `try_read`, without asking the host for news.
    pub(super) fn take(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut inner = lock(&self.inner);
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        self.fill(&mut inner)?;
        let mut taken = 0;
        for buf in bufs {
            let data = &inner.data[inner.at + taken..];
            let len = buf.len().min(data.len());
            buf[..len].copy_from_slice(&data[..len]);
            taken += len;
        }
        inner.at += taken;
        Ok(taken)
    }

    pub(super) fn poll_read(
        &self,
        waiter: &mut Waiter<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(waiter, || self.take(bufs))
    }

    /// All that has come, in the memory that it came in.
    pub(super) fn poll_take(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<Vec<u8>>> {
        self.poll(waiter, || {
            let mut inner = lock(&self.inner);
            self.fill(&mut inner)?;
            let mut data = std::mem::take(&mut inner.data);
            data.drain(..std::mem::take(&mut inner.at));
            Ok(data)
        })
    }

    /// For the next read.
    pub(super) fn give_back(&self, buf: Vec<u8>) {
        let mut inner = lock(&self.inner);
        if inner.data.is_empty() {
            inner.at = buf.len();
            inner.data = buf;
        }
    }

    pub(super) fn poll_peek(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(waiter, || {
            let mut inner = lock(&self.inner);
            self.fill(&mut inner)?;
            let data = &inner.data[inner.at..];
            let len = buf.len().min(data.len());
            buf[..len].copy_from_slice(&data[..len]);
            Ok(len)
        })
    }

    /// Data is there, or the end.
    pub(super) fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.poll(waiter, || {
            let mut inner = lock(&self.inner);
            if let Err(error) = self.fill(&mut inner) {
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Err(error);
                }
                // For the read that follows.
                inner.failure = Some(error);
            }
            Ok(())
        })
    }

    fn poll<T>(
        &self,
        waiter: &mut Waiter<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        poll_io(&self.read, waiter, operation)
    }

    /// Whatever still comes is not for us.
    pub(super) fn close(&self) {
        // Before the source is looked for: a read under way has it.
        self.read.clear();
        let mut inner = lock(&self.inner);
        inner.source = None;
        inner.data.clear();
        inner.at = 0;
        inner.failure = None;
    }

    pub(super) fn forget(&self, ticket: Pin<&Ticket>) {
        self.read.forget(ticket);
    }
}

impl<E> In<E> {
    /// The buffer of before, larger if it was filled, smaller if hardly used.
    fn empty_buffer(&mut self) -> Vec<u8> {
        let mut buf = std::mem::take(&mut self.data);
        self.at = 0;
        let (len, room) = (buf.len(), buf.capacity());
        buf.clear();
        if room == 0 {
            buf.reserve_exact(READ);
        } else if len == room && room < MOST {
            buf = Vec::with_capacity(room * 2);
        } else if len < room / 4 && room > READ {
            buf = Vec::with_capacity(room / 2);
        }
        buf
    }
}

async fn read<E: 'static>((mut source, buf): (Source<E>, Vec<u8>)) -> Read<E> {
    match source.stream.read(buf).await {
        (StreamResult::Complete(_), data) => Read::Data(source, data),
        (StreamResult::Dropped | StreamResult::Cancelled, _) => Read::End(source.ending.await),
    }
}

/// Does `operation` as soon as it does not say `WouldBlock`. At `Interrupted` others have their turn
/// first.
pub(super) fn poll_io<A, V: Send, T>(
    in_flight: &InFlight<A, V>,
    waiter: &mut Waiter<'_>,
    operation: impl FnOnce() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    if budget::spend() {
        waiter.waker().wake_by_ref();
        return Poll::Pending;
    }
    match operation() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => match in_flight.wait(waiter) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        },
        Err(error) if is_later(&error) => {
            waiter.waker().wake_by_ref();
            Poll::Pending
        }
        result => Poll::Ready(result),
    }
}

/// Whether an operation is to be done again, and has not failed.
pub(super) fn is_later(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::WouldBlock | Kind::Interrupted)
}

/// The error of an operation for those who do not wait.
pub(super) fn tried(error: io::Error) -> io::Error {
    match is_later(&error) {
        true => io::ErrorKind::WouldBlock.into(),
        false => error,
    }
}

/// Bytes to the host.
///
/// A write is taken over and goes on by itself, as a system's buffer would have it; there is one
/// at a time.
pub(super) struct Outgoing<E: Send + 'static> {
    /// `None` once it is leaving.
    write: Option<Writing<E>>,
    inner: Mutex<Out<E>>,
    /// The stream is to be dropped after the write that is under way.
    closing: Arc<AtomicBool>,
    /// Nothing is to go on once it is dropped.
    abandoned: AtomicBool,
    to_io: fn(E) -> io::Error,
}

type Writing<E> = InFlight<(Sink<E>, Vec<u8>), Written<E>>;

struct Out<E: 'static> {
    /// While no write is under way.
    sink: Option<Sink<E>>,
    failure: Option<io::Error>,
}

struct Sink<E: 'static> {
    stream: StreamWriter<u8>,
    ending: Ending<E>,
}

enum Written<E: 'static> {
    All(Sink<E>),
    Closed,
    Failed(Result<(), E>),
}

impl<E: Send + 'static> Outgoing<E> {
    pub(super) fn new(
        stream: StreamWriter<u8>,
        ending: Ending<E>,
        to_io: fn(E) -> io::Error,
    ) -> Outgoing<E> {
        let closing = Arc::new(AtomicBool::new(false));
        let is_closing = closing.clone();
        Outgoing {
            write: Some(InFlight::driven(move |(sink, data)| {
                write_all(sink, data, is_closing.clone())
            })),
            inner: Mutex::new(Out {
                sink: Some(Sink { stream, ending }),
                failure: None,
            }),
            closing,
            abandoned: AtomicBool::new(false),
            to_io,
        }
    }

    /// Takes what a write has left.
    fn settle(&self, inner: &mut Out<E>, written: Written<E>) {
        match written {
            Written::All(sink) if !self.closing.load(Ordering::Relaxed) => inner.sink = Some(sink),
            Written::All(_) | Written::Closed => {}
            Written::Failed(result) => {
                let error = result.map_err(self.to_io).err();
                inner.failure = error.or_else(|| Some(io::ErrorKind::BrokenPipe.into()));
            }
        }
    }

    /// The write that was under way has ended well, or there was none.
    fn ready(&self, inner: &mut Out<E>) -> io::Result<()> {
        let Some(write) = &self.write else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if let Some(written) = write.take() {
            self.settle(inner, written);
        }
        if let Some(error) = inner.failure.take() {
            return Err(error);
        }
        if self.closing.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match (&inner.sink, write.is_under_way()) {
            (Some(_), _) => Ok(()),
            (None, true) => Err(io::ErrorKind::WouldBlock.into()),
            (None, false) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    pub(super) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut inner = lock(&self.inner);
        self.ready(&mut inner)?;
        // Small writes go together: nothing else keeps the system from waiting for more.
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        let len = offered.min(MOST);
        if len == 0 {
            return Ok(0);
        }
        let mut data = Vec::with_capacity(len);
        for buf in bufs {
            let room = len - data.len();
            data.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        if let (Some(sink), Some(write)) = (inner.sink.take(), &self.write) {
            if let Some(written) = write.start((sink, data)) {
                self.settle(&mut inner, written);
                if let Some(error) = inner.failure.take() {
                    return Err(error);
                }
            }
        }
        Ok(len)
    }

    pub(super) fn poll_write(
        &self,
        waiter: &mut Waiter<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(waiter, || self.try_write(bufs))
    }

    pub(super) fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.poll(waiter, || {
            let mut inner = lock(&self.inner);
            match self.ready(&mut inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                Err(error) => {
                    // For the write that follows.
                    inner.failure = Some(error);
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })
    }

    /// Everything has been given to the host.
    pub(super) fn poll_flush(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.poll(waiter, || {
            let mut inner = lock(&self.inner);
            self.ready(&mut inner)
        })
    }

    fn poll<T>(
        &self,
        waiter: &mut Waiter<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &self.write {
            Some(write) => poll_io(write, waiter, operation),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Once it is dropped, the end comes at once.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// The end comes after what was written.
    pub(super) fn close(&self) {
        let mut inner = lock(&self.inner);
        self.closing.store(true, Ordering::Relaxed);
        inner.sink = None;
        if let Some(write) = &self.write {
            if let Some(written) = write.take() {
                self.settle(&mut inner, written);
            }
            drop(inner);
            write.wake();
        }
    }

    pub(super) fn forget(&self, ticket: Pin<&Ticket>) {
        if let Some(write) = &self.write {
            write.forget(ticket);
        }
    }
}

impl<E: Send + 'static> Drop for Outgoing<E> {
    fn drop(&mut self) {
        self.close();
        let write = self.write.take().filter(InFlight::is_under_way);
        if let (Some(write), false) = (write, self.abandoned.load(Ordering::Relaxed)) {
            leave(write);
        }
    }
}

async fn write_all<E: 'static>(
    mut sink: Sink<E>,
    data: Vec<u8>,
    closing: Arc<AtomicBool>,
) -> Written<E> {
    let rest = sink.stream.write_all(data).await;
    if !rest.is_empty() {
        return Written::Failed(sink.ending.await);
    }
    match closing.load(Ordering::Relaxed) {
        true => Written::Closed,
        false => Written::All(sink),
    }
}
