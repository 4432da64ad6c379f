//! What the tests of stream connections share: a protocol that records and reacts.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use coracle::{Protocol, Transport};

use super::PATIENCE;

/// One callback of a stream protocol. Data that comes in pieces is one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Made,
    Data(Vec<u8>),
    Eof,
    Pause,
    Resume,
    Lost(Option<io::ErrorKind>),
}

/// The callbacks so far, and those who wait for more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<(Vec<Event>, Vec<Waker>)>>);

impl Log {
    pub(crate) fn new() -> Log {
        Log::default()
    }

    pub(crate) fn push(&self, event: Event) {
        let mut log = self.0.lock().unwrap();
        match (log.0.last_mut(), event) {
            (Some(Event::Data(before)), Event::Data(more)) => before.extend(more),
            (_, event) => log.0.push(event),
        }
        let wakers = std::mem::take(&mut log.1);
        drop(log);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().0.clone()
    }

    /// All bytes so far.
    pub(crate) fn data(&self) -> Vec<u8> {
        let data = |event| match event {
            Event::Data(data) => data,
            _ => Vec::new(),
        };
        self.events().into_iter().flat_map(data).collect()
    }

    /// Waits until the callbacks are as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&[Event]) -> bool) {
        let waiting = poll_fn(|cx| {
            let mut log = self.0.lock().unwrap();
            if wanted(&log.0) {
                return Poll::Ready(());
            }
            log.1.push(cx.waker().clone());
            Poll::Pending
        });
        if coracle::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("waited in vain, there was: {:?}", self.events());
        }
    }

    /// Waits for this callback.
    pub(crate) async fn until_event(&self, event: Event) {
        self.until(|events| events.contains(&event)).await;
    }

    /// Waits until so many bytes have come.
    pub(crate) async fn until_len(&self, len: usize) {
        let data_len = |event: &Event| match event {
            Event::Data(data) => data.len(),
            _ => 0,
        };
        self.until(|events| events.iter().map(data_len).sum::<usize>() >= len)
            .await;
    }

    /// Waits for the last callback.
    pub(crate) async fn until_lost(&self) {
        self.until(|events| matches!(events.last(), Some(Event::Lost(_))))
            .await;
    }
}

type Reaction = Box<dyn FnMut(&Transport, &Event) -> io::Result<()> + Send>;

/// A protocol that records its callbacks, and may react to them. After `Event::Eof`, the
/// connection stays open if `keep_open` is set.
pub(crate) struct Recorder {
    log: Log,
    reaction: Reaction,
    pub(crate) keep_open: bool,
}

impl Recorder {
    pub(crate) fn new(log: &Log) -> Recorder {
        Recorder::reacting(log, |_, _| Ok(()))
    }

    pub(crate) fn reacting(
        log: &Log,
        reaction: impl FnMut(&Transport, &Event) -> io::Result<()> + Send + 'static,
    ) -> Recorder {
        Recorder {
            log: log.clone(),
            reaction: Box::new(reaction),
            keep_open: false,
        }
    }

    /// One that sends everything back.
    pub(crate) fn echoing(log: &Log) -> Recorder {
        Recorder::reacting(log, |transport, event| match event {
            Event::Data(data) => transport.write(data),
            _ => Ok(()),
        })
    }

    pub(crate) fn keeping_open(mut self) -> Recorder {
        self.keep_open = true;
        self
    }

    fn note(&mut self, transport: &Transport, event: Event) -> io::Result<()> {
        // Recorded first: the reaction may panic.
        self.log.push(event.clone());
        (self.reaction)(transport, &event)
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) {
        let _ = self.note(transport, Event::Made);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        self.note(transport, Event::Data(data.to_vec()))
    }

    fn eof_received(&mut self, transport: &Transport) -> io::Result<bool> {
        self.note(transport, Event::Eof)?;
        Ok(self.keep_open)
    }

    fn pause_writing(&mut self, transport: &Transport) {
        let _ = self.note(transport, Event::Pause);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        let _ = self.note(transport, Event::Resume);
    }

    fn connection_lost(&mut self, transport: &Transport, error: Option<&io::Error>) {
        let _ = self.note(transport, Event::Lost(error.map(io::Error::kind)));
    }
}

/// Sends back what comes, as fast as the peer takes it.
pub(crate) struct Mirror;

impl Protocol for Mirror {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        transport.write(data)
    }

    fn pause_writing(&mut self, transport: &Transport) {
        transport.pause_reading();
    }

    fn resume_writing(&mut self, transport: &Transport) {
        transport.resume_reading();
    }
}
