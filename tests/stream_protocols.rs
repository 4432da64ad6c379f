//! Protocols of a connection: those that change places, buffered ones, their handles, their panics,
//! which cannot be caught on WASI.

mod common;

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use common::pairs::{connected, data, ends, over_each, pattern, tcp_pair};
#[cfg(panic = "unwind")]
use common::pairs::{make, LARGE};
use common::stream::{Event, Log, Recorder};
#[cfg(panic = "unwind")]
use common::{panic_message, panics};
use common::{settle, within};
#[cfg(panic = "unwind")]
use coracle::{spawn, ProtocolHandle};
use coracle::{BufferedProtocol, Transport};

/// A buffered protocol that records, and may react to what it receives.
struct Pieces {
    log: Log,
    buf: Vec<u8>,
    largest: usize,
    reaction: Reaction,
}

type Reaction = Box<dyn FnMut(&Transport) -> io::Result<()> + Send>;

impl Pieces {
    fn reacting(
        log: &Log,
        capacity: usize,
        reaction: impl FnMut(&Transport) -> io::Result<()> + Send + 'static,
    ) -> Pieces {
        Pieces {
            log: log.clone(),
            buf: vec![0; capacity],
            largest: 0,
            reaction: Box::new(reaction),
        }
    }

    fn new(log: &Log, capacity: usize) -> Pieces {
        Pieces::reacting(log, capacity, |_| Ok(()))
    }
}

impl BufferedProtocol for Pieces {
    fn connection_made(&mut self, _: &Transport) {
        self.log.push(Event::Made);
    }

    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.buf
    }

    fn buffer_updated(&mut self, transport: &Transport, count: usize) -> io::Result<()> {
        self.largest = self.largest.max(count);
        self.log.push(Event::Data(self.buf[..count].to_vec()));
        (self.reaction)(transport)
    }

    fn eof_received(&mut self, _: &Transport) -> io::Result<bool> {
        self.log.push(Event::Eof);
        Ok(false)
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<&io::Error>) {
        self.log.push(Event::Lost(error.map(io::Error::kind)));
    }
}

#[test]
fn another_protocol_takes_over_between_two_callbacks() {
    over_each(async |ours, peer| {
        let logs = [(); 3].map(|()| Log::new());
        let [first, second, third] = logs.clone();
        let handles = Arc::new(Mutex::new((None, None)));
        let slots = handles.clone();
        let back_to_plain = move |transport: &Transport| {
            let handle = transport.set_protocol(Recorder::new(&third).keeping_open());
            slots.lock().unwrap().1 = Some(handle);
            transport.write(b"2")
        };
        let slots = handles.clone();
        let to_buffered = move |transport: &Transport, event: &Event| match event {
            Event::Data(_) => {
                let buffered = Pieces::reacting(&second, 8, back_to_plain.clone());
                slots.lock().unwrap().0 = Some(transport.set_protocol(buffered));
                transport.write(b"1")
            }
            _ => Ok(()),
        };
        let (transport, plain) = connected(ours, Recorder::reacting(&first, to_buffered)).await;
        peer.write(b"one");
        assert_eq!(peer.read(1).await, b"1");
        peer.write(b"two");
        assert_eq!(peer.read(1).await, b"2");
        peer.write(b"three");
        peer.end();
        logs[2].until_event(Event::Eof).await;
        transport.close();
        let events = logs.map(|log| log.events());
        assert_eq!(events[0], [Event::Made, data("one")]);
        assert_eq!(
            events[1],
            [data("two")],
            "connection_made is not called again"
        );
        assert_eq!(events[2][..2], [data("three"), Event::Eof]);

        let (buffered, last) = std::mem::take(&mut *handles.lock().unwrap());
        let (_, result) = within(plain.lost()).await;
        result.unwrap();
        let (buffered, result) = within(buffered.unwrap().lost()).await;
        result.unwrap();
        assert_eq!(buffered.largest, 3);
        let (last, result) = within(last.unwrap().lost()).await;
        result.unwrap();
        assert!(last.keep_open);
    });
}

#[test]
fn only_the_last_protocol_is_told_of_the_end() {
    over_each(async |ours, peer| {
        let logs = [(); 4].map(|()| Log::new());
        let in_made = logs[1].clone();
        let first = Recorder::reacting(&logs[0], move |transport, _| {
            transport.set_protocol(Recorder::new(&in_made));
            Ok(())
        });
        let (transport, _) = connected(ours, first).await;
        peer.write(b"a");
        logs[1].until_len(1).await;
        // The first of the two never has its turn.
        transport.set_protocol(Recorder::new(&logs[2]));
        let handle = transport.set_protocol(Pieces::new(&logs[3], 10));
        peer.write(b"b");
        peer.end();
        let (last, result) = within(handle.lost()).await;
        result.unwrap();
        assert_eq!(last.largest, 1);
        let after = transport.set_protocol(Recorder::new(&logs[2]));
        within(after.lost()).await.1.unwrap();
        let events = logs.map(|log| log.events());
        assert_eq!(events[0], [Event::Made]);
        assert_eq!(events[1], [data("a")]);
        assert_eq!(events[2], []);
        assert_eq!(events[3], [data("b"), Event::Eof, Event::Lost(None)]);
    });
}

#[test]
fn what_a_protocol_does_not_get_its_successor_gets() {
    over_each(async |ours, peer| {
        let sent = pattern(2_000_000);
        let logs = [Log::new(), Log::new()];
        let next = logs[1].clone();
        let changing = Recorder::reacting(&logs[0], move |transport, event| {
            if let Event::Data(_) = event {
                transport.set_protocol(Pieces::new(&next, 100_000));
            }
            Ok(())
        });
        let writer = peer.sending(sent.clone());
        let (transport, _) = connected(ours, changing).await;
        within(transport.closed()).await.unwrap();
        within(writer).await;
        let [first, second] = logs.map(|log| log.data());
        assert!(!first.is_empty() && first.len() < sent.len() / 2);
        assert!([first, second].concat() == sent);
    });
}

#[test]
fn a_buffered_protocol_receives_into_its_own_buffer() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, handle) = connected(ours, Pieces::new(&log, 3)).await;
        let sent = pattern(10_000);
        peer.write(&sent);
        log.until_len(sent.len()).await;
        transport.write(b"reply").unwrap();
        assert_eq!(peer.read(5).await, b"reply");
        peer.end();
        let (protocol, result) = within(handle.lost()).await;
        result.unwrap();
        assert_eq!(protocol.largest, 3);
        let expected = [
            Event::Made,
            Event::Data(sent),
            Event::Eof,
            Event::Lost(None),
        ];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn errors_of_a_buffered_protocol_end_the_connection() {
    over_each(async |ours, peer| {
        let log = Log::new();
        // Asked for or not, when nothing is there yet.
        peer.write(b"x");
        let (transport, _) = connected(ours, Pieces::new(&log, 0)).await;
        ends(&log, &transport, &[], Some(ErrorKind::InvalidInput)).await;
        let error = transport.closed().await.unwrap_err();
        assert!(error.to_string().contains("get_buffer"), "{error}");

        let (ours, peer) = tcp_pair();
        let log = Log::new();
        let refusing = |_: &Transport| Err(ErrorKind::InvalidData.into());
        let (transport, _) = connected(ours, Pieces::reacting(&log, 10, refusing)).await;
        peer.write(b"x");
        let kind = Some(ErrorKind::InvalidData);
        ends(&log, &transport, &[data("x")], kind).await;
    });
}

#[test]
fn a_buffered_protocol_can_pause_and_close() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let mut count = 0;
        let reaction = move |transport: &Transport| {
            count += 1;
            match count {
                1 => transport.pause_reading(),
                _ => transport.close(),
            }
            Ok(())
        };
        let (transport, _) = connected(ours, Pieces::reacting(&log, 2, reaction)).await;
        peer.write(b"aabbcc");
        log.until_len(2).await;
        settle().await;
        assert_eq!(log.data(), b"aa");
        transport.resume_reading();
        ends(&log, &transport, &[data("aabb")], None).await;
    });
}

#[test]
fn a_handle_reaches_its_protocol_and_gives_it_back() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, handle) = connected(ours, Recorder::new(&log)).await;
        assert!(!handle.with(|protocol| protocol.keep_open));
        handle.with(|protocol| protocol.keep_open = true);
        peer.end();
        log.until_event(Event::Eof).await;
        settle().await;
        assert!(!transport.is_closing());
        transport.close();
        let (protocol, result) = within(handle.lost()).await;
        result.unwrap();
        assert!(protocol.keep_open);
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_handle_refuses_to_be_used_inside_its_own_protocol() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let slot = Arc::new(Mutex::new(None::<ProtocolHandle<Recorder>>));
        let said = Arc::new(Mutex::new(String::new()));
        let (inside, says) = (slot.clone(), said.clone());
        let reaction = move |_: &Transport, event: &Event| {
            if let Event::Data(_) = event {
                let handle = inside.lock().unwrap().take().unwrap();
                *says.lock().unwrap() = panics(|| handle.with(|_| ()));
            }
            Ok(())
        };
        let (transport, handle) = connected(ours, Recorder::reacting(&log, reaction)).await;
        *slot.lock().unwrap() = Some(handle);
        peer.write(b"x");
        peer.end();
        within(transport.closed()).await.unwrap();
        assert!(said.lock().unwrap().contains("ProtocolHandle::with"));
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_in_a_callback_ends_its_connection_and_no_other() {
    for panicking in [
        Event::Made,
        data("x"),
        Event::Pause,
        Event::Resume,
        Event::Eof,
        Event::Lost(None),
    ] {
        over_each(async |ours, peer| {
            let (other, bystander) = tcp_pair();
            let (_other, _) = connected(other, Recorder::echoing(&Log::new())).await;
            let log = Log::new();
            let event = panicking.clone();
            let reaction = move |_: &Transport, happened: &Event| {
                assert!(*happened != event, "as wanted");
                Ok(())
            };
            let recorder = Recorder::reacting(&log, reaction);
            let result = match within(make(|| recorder, ours)).await {
                Err(error) => {
                    assert_eq!(panicking, Event::Made, "{error}");
                    Err(error)
                }
                Ok((transport, handle)) => {
                    let has = |event: Event| {
                        let panicking = panicking.clone();
                        log.until(move |events| {
                            events.contains(&event) || events.contains(&panicking)
                        })
                    };
                    peer.write(b"x");
                    log.until_len(1).await;
                    let _ = transport.write(&vec![0; LARGE]);
                    has(Event::Pause).await;
                    let reading = spawn({
                        let peer = peer.clone();
                        async move { peer.read_to_end().await }
                    });
                    has(Event::Resume).await;
                    peer.end();
                    reading.await;
                    within(handle.lost()).await.1
                }
            };
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Other);
            assert!(error.to_string().contains("panic"), "{error}");
            settle().await;
            assert_eq!(log.events().last(), Some(&panicking), "nothing follows");
            assert_eq!(peer.read_to_end().await, b"");
            bystander.write(b"still there");
            assert_eq!(bystander.read(11).await, b"still there");
        });
    }
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_in_a_buffered_protocol_ends_its_connection() {
    struct Panicking(Option<[u8; 4]>);

    impl BufferedProtocol for Panicking {
        fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
            self.0.as_mut().expect("as wanted")
        }

        fn buffer_updated(&mut self, _: &Transport, _: usize) -> io::Result<()> {
            panic!("as wanted");
        }
    }

    for buffer in [None, Some([0; 4])] {
        over_each(async |ours, peer| {
            peer.write(b"1234");
            let (transport, handle) = connected(ours, Panicking(buffer)).await;
            let (_, result) = within(handle.lost()).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Other);
            let error = transport.closed().await.unwrap_err();
            assert!(error.to_string().contains("panic"), "{error}");
            let refused = transport.write(b"x").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotConnected);
        });
    }
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_in_the_factory_closes_the_socket() {
    over_each(async |ours, peer| {
        let made = spawn(async {
            let factory = || -> Recorder { panic!("no protocol") };
            make(factory, ours).await.map(drop)
        });
        let made = futures_lite::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(made));
        assert_eq!(panic_message(&*made.await.unwrap_err()), "no protocol");
        assert_eq!(peer.read_to_end().await, b"");
    });
}
