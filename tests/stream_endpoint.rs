//! What a connection does: callbacks and their order, writing, half-closing, protocols that change
//! places, the end. The other end is a blocking socket of the system.

mod common;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, panic_message, panics, settle, within, PATIENCE};
use coracle::{
    connect_accepted_socket, connect_accepted_socket_with_driver, on_data, spawn, yield_now,
    AcceptedOptions, BufferedProtocol, ProtocolHandle, StreamProtocol, Transport,
};
use futures_lite::future::poll_once;
use socket2::Socket;

/// More than the system takes without a reader.
const LARGE: usize = 10 << 20;

/// The other end, which fails instead of hanging.
#[derive(Clone)]
struct Peer(Arc<Socket>);

impl Peer {
    fn new(socket: Socket) -> Peer {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Peer(Arc::new(socket))
    }

    /// Writes what the system takes without a reader.
    fn write(&self, data: &[u8]) {
        (&*self.0).write_all(data).unwrap();
    }

    fn end(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    async fn read(&self, len: usize) -> Vec<u8> {
        let socket = self.0.clone();
        let reading = smol::unblock(move || {
            let mut data = vec![0; len];
            (&*socket).read_exact(&mut data).map(|()| data)
        });
        within(reading).await.unwrap()
    }

    async fn read_to_end(&self) -> Vec<u8> {
        let socket = self.0.clone();
        let reading = smol::unblock(move || {
            let mut data = Vec::new();
            (&*socket).read_to_end(&mut data).map(|_| data)
        });
        within(reading).await.unwrap()
    }

    /// Goes away so that the other end has an error of it. A Unix socket does if it leaves
    /// something unread.
    fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).unwrap();
        Arc::try_unwrap(self.0).unwrap();
    }
}

fn tcp_pair() -> (Socket, Peer) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (ours.into(), Peer::new(theirs.into()))
}

#[cfg(unix)]
fn unix_pair() -> (Socket, Peer) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    (ours.into(), Peer::new(theirs.into()))
}

type Pair = fn() -> (Socket, Peer);

/// Each kind of connection that there is.
const PAIRS: &[Pair] = &[
    tcp_pair,
    #[cfg(unix)]
    unix_pair,
];

/// Runs a test over each kind of connection.
fn over_each(test: impl AsyncFn(Socket, Peer)) {
    over(PAIRS, test);
}

fn over(pairs: &[Pair], test: impl AsyncFn(Socket, Peer)) {
    for pair in pairs {
        let (ours, peer) = pair();
        block_on_within(test(ours, peer));
    }
}

async fn connected<P, K>(ours: Socket, protocol: P) -> (Transport, ProtocolHandle<P>)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let made = connect_accepted_socket(|| protocol, ours, AcceptedOptions::new());
    within(made).await.unwrap()
}

/// Bytes of which no piece is like another nearby.
fn pattern(len: usize) -> Vec<u8> {
    let byte = |i: usize| (i ^ (i >> 8) ^ (i >> 15)) as u8;
    let mut pattern = (0..300_007).map(byte).collect::<Vec<_>>();
    pattern = pattern.repeat(len / pattern.len() + 1);
    pattern.truncate(len);
    pattern
}

fn data(text: &str) -> Event {
    Event::Data(text.into())
}

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
fn callbacks_come_in_order_and_connection_lost_last() {
    over_each(async |ours, peer| {
        // There before the connection is.
        peer.write(b"early");
        let log = Log::new();
        let mut calls = 0;
        let factory = || {
            calls += 1;
            Recorder::new(&log)
        };
        let made = connect_accepted_socket(factory, ours, AcceptedOptions::new());
        let (transport, handle) = made.await.unwrap();
        assert_eq!(calls, 1);
        assert_eq!(log.events()[0], Event::Made, "before creation returns");
        log.until_len(5).await;
        transport.write(b"answer").unwrap();
        assert_eq!(peer.read(6).await, b"answer");
        peer.write(b", late");
        peer.end();
        let (_, result) = within(handle.lost()).await;
        result.unwrap();
        let expected = [
            Event::Made,
            data("early, late"),
            Event::Eof,
            Event::Lost(None),
        ];
        assert_eq!(log.events(), expected);
        assert_eq!(peer.read_to_end().await, b"");
    });
}

/// The callbacks so far, but those of flow control.
fn told(log: &Log) -> Vec<Event> {
    let mut events = log.events();
    events.retain(|event| !matches!(event, Event::Pause | Event::Resume));
    events
}

/// Waits for the end, and checks what the protocol was told: `between` after `connection_made`,
/// then the end with the kind of its error.
async fn ends(log: &Log, transport: &Transport, between: &[Event], kind: Option<ErrorKind>) {
    let result = within(transport.closed()).await;
    assert_eq!(result.as_ref().err().map(io::Error::kind), kind);
    let expected = [&[Event::Made], between, &[Event::Lost(kind)]].concat();
    assert_eq!(told(log), expected);
    transport.close();
    transport.abort();
    transport.resume_reading();
    settle().await;
    assert_eq!(told(log), expected, "nothing follows");
    assert!(transport.is_closing() && !transport.is_reading());
}

#[test]
fn close_abort_and_the_peers_end_are_no_errors() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        peer.end();
        ends(&log, &transport, &[Event::Eof], None).await;
    });
    for end in [Transport::close, Transport::abort] {
        over_each(async |ours, peer| {
            let log = Log::new();
            let (transport, _) = connected(ours, Recorder::new(&log)).await;
            end(&transport);
            assert_eq!(log.events(), [Event::Made], "not told inside the call");
            ends(&log, &transport, &[], None).await;
            assert_eq!(peer.read_to_end().await, b"");
        });
    }
}

#[test]
fn a_reset_is_told_as_one() {
    let resetting: &[Pair] = &[
        tcp_pair,
        // On other systems a Unix socket ends in peace.
        #[cfg(target_os = "linux")]
        unix_pair,
    ];
    over(resetting, async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        transport.write(b"unread").unwrap();
        peer.reset();
        ends(&log, &transport, &[], Some(ErrorKind::ConnectionReset)).await;
    });
}

#[test]
fn an_error_of_a_callback_ends_the_connection_with_it() {
    for wrong in [data("wrong"), Event::Eof] {
        over_each(async |ours, peer| {
            let log = Log::new();
            let event = wrong.clone();
            let reaction = move |transport: &Transport, happened: &Event| {
                if *happened != event {
                    return Ok(());
                }
                transport.write(&vec![0; LARGE])?;
                Err(io::Error::new(ErrorKind::InvalidData, "not as agreed"))
            };
            let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
            match &wrong {
                Event::Data(data) => peer.write(data),
                _ => peer.end(),
            }
            let between = [wrong.clone()];
            ends(&log, &transport, &between, Some(ErrorKind::InvalidData)).await;
            let error = transport.closed().await.unwrap_err();
            assert_eq!(error.to_string(), "not as agreed");
            let arrived = peer.read_to_end().await.len() as u64;
            assert!(arrived < LARGE as u64, "the queue is dropped");
            assert_eq!(transport.dropped(), LARGE as u64 - arrived);
        });
    }
}

#[test]
fn nothing_is_delivered_after_the_protocol_has_closed() {
    for end in [Transport::close, Transport::abort] {
        over_each(async |ours, peer| {
            // More than is received at once.
            ours.set_recv_buffer_size(1 << 20).unwrap();
            peer.0.set_send_buffer_size(1 << 20).unwrap();
            let sent = pattern(150_000);
            peer.0.set_nonblocking(true).unwrap();
            let written = (&*peer.0).write(&sent).unwrap();
            assert!(written > 64 * 1024, "{written}");
            let log = Log::new();
            let first = Arc::new(Mutex::new(None));
            let slot = first.clone();
            let reaction = move |transport: &Transport, event: &Event| {
                if let Event::Data(data) = event {
                    slot.lock().unwrap().get_or_insert(data.len());
                    end(transport);
                }
                Ok(())
            };
            let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
            let _ = within(transport.closed()).await;
            let len = first.lock().unwrap().take().unwrap();
            let received = Event::Data(sent[..len].to_vec());
            assert!(log.events() == [Event::Made, received, Event::Lost(None)]);

            let (ours, peer) = tcp_pair();
            peer.write(b"unseen");
            let log = Log::new();
            let closing = move |transport: &Transport, _: &Event| {
                end(transport);
                Ok(())
            };
            let (transport, _) = connected(ours, Recorder::reacting(&log, closing)).await;
            assert!(transport.is_closing());
            ends(&log, &transport, &[], None).await;
        });
    }
}

#[test]
fn after_the_peers_end_what_is_queued_is_sent_before_the_close() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        let sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        peer.end();
        log.until_event(Event::Eof).await;
        assert!(transport.is_closing());
        assert!(peer.read_to_end().await == sent);
        within(transport.closed()).await.unwrap();
        assert_eq!(log.events().last(), Some(&Event::Lost(None)));
        assert_eq!(transport.dropped(), 0);
    });
}

#[test]
fn a_connection_kept_open_after_the_peers_end_can_be_written_to() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log).keeping_open()).await;
        peer.write(b"request");
        peer.end();
        log.until_event(Event::Eof).await;
        settle().await;
        assert!(!transport.is_closing());
        transport.write(b"reply").unwrap();
        assert_eq!(peer.read(5).await, b"reply");
        transport.write_eof().unwrap();
        assert_eq!(peer.read_to_end().await, b"");
        settle().await;
        assert!(!transport.is_closing(), "not by itself");
        transport.close();
        ends(&log, &transport, &[data("request"), Event::Eof], None).await;
    });
}

#[test]
fn ending_the_writing_direction_leaves_the_other_one() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        assert!(transport.can_write_eof());
        let sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        transport.write_eof().unwrap();
        transport.write_eof().unwrap();
        for refused in [
            transport.write(b"x"),
            transport.writelines(&[IoSlice::new(b"x")]),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(peer.read_to_end().await == sent, "all, then the end");
        transport.write_eof().unwrap();
        assert!(!transport.is_closing() && transport.is_reading());
        peer.write(b"reply");
        log.until_len(5).await;
        peer.end();
        ends(&log, &transport, &[data("reply"), Event::Eof], None).await;
        transport.write_eof().unwrap();
        let refused = transport.write(b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "still");
        assert_eq!(transport.dropped(), 0);
    });
}

#[test]
fn ending_the_writing_direction_works_with_nothing_queued_and_in_a_callback() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let reaction = |transport: &Transport, event: &Event| match event {
            Event::Data(_) => {
                transport.write(b"the last")?;
                transport.write_eof()
            }
            _ => Ok(()),
        };
        let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
        peer.write(b"x");
        assert_eq!(peer.read_to_end().await, b"the last");
        assert!(!transport.is_closing());

        let (ours, peer) = tcp_pair();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        transport.write_eof().unwrap();
        assert_eq!(peer.read_to_end().await, b"");
        transport.close();
        transport.write_eof().unwrap();
        within(transport.closed()).await.unwrap();
    });
}

#[test]
fn what_is_written_in_any_way_arrives_in_order() {
    over_each(async |ours, peer| {
        let log = Log::new();
        // Small and large ones, which the system may get in different ways.
        let all = pattern(400_000);
        let lens = [1, 0, 70_000, 3, 20_000, 100, 16 * 1024, 60_000, 1];
        let written = all.clone();
        let write = move |transport: &Transport| {
            let mut rest = &written[..];
            for len in lens {
                let (now, later) = rest.split_at(len);
                transport.write(now).unwrap();
                rest = later;
            }
            transport.write(b"").unwrap();
            transport.writelines(&[]).unwrap();
            // More slices than a system call takes, some of them empty.
            let mut slices: Vec<_> = rest.chunks(90).map(IoSlice::new).collect();
            slices.insert(1, IoSlice::new(b""));
            transport.writelines(&slices).unwrap();
        };
        let in_callback = write.clone();
        let reaction = move |transport: &Transport, event: &Event| {
            if let Event::Data(_) = event {
                in_callback(transport);
            }
            Ok(())
        };
        let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
        write(&transport);
        assert!(peer.read(all.len()).await == all);
        peer.write(b"x");
        assert!(peer.read(all.len()).await == all);
        for chunk in all.chunks(1_000) {
            let (a, b) = chunk.split_at(10);
            let slices = [a, b"", b].map(IoSlice::new);
            transport.writelines(&slices).unwrap();
        }
        assert!(peer.read(all.len()).await == all);
        assert_eq!(transport.write_buffer_size(), 0);
    });
}

#[test]
fn much_comes_back_from_an_echo_as_it_was() {
    over_each(async |ours, peer| {
        let echo = || on_data(|transport, data| transport.write(data));
        let (transport, _) = connect_accepted_socket(echo, ours, AcceptedOptions::new())
            .await
            .unwrap();
        let sent = Arc::new(pattern(LARGE));
        let writer = smol::unblock({
            let (peer, sent) = (peer.clone(), sent.clone());
            move || {
                peer.write(&sent);
                peer.end();
            }
        });
        assert!(peer.read_to_end().await == *sent);
        within(writer).await;
        within(transport.closed()).await.unwrap();
        assert_eq!(transport.dropped(), 0);
    });
}

#[test]
fn close_sends_what_is_queued_and_refuses_more() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let slot = Arc::new(Mutex::new(None));
        let in_lost = slot.clone();
        let reaction = move |transport: &Transport, event: &Event| {
            if let Event::Lost(_) = event {
                *in_lost.lock().unwrap() = Some(transport.write(b"1"));
            }
            Ok(())
        };
        let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
        let sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        let waiting = transport.write_buffer_size();
        assert!(0 < waiting && waiting < LARGE);
        transport.close();
        transport.close();
        assert!(transport.is_closing() && !transport.is_reading());
        let refused = transport.write(b"22").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotConnected);
        settle().await;
        assert_eq!(told(&log), [Event::Made], "it waits");
        assert!(peer.read_to_end().await == sent);
        within(transport.closed()).await.unwrap();
        let slices = [&b"333"[..], b"4444"].map(IoSlice::new);
        let after = transport.writelines(&slices).unwrap_err();
        let in_lost = slot.lock().unwrap().take().unwrap().unwrap_err();
        let drain = transport.drain().await.unwrap_err();
        for error in [after, in_lost, drain] {
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
        assert_eq!(transport.dropped(), 1 + 2 + 3 + 4);
        assert_eq!(told(&log), [Event::Made, Event::Lost(None)]);
    });
}

#[test]
fn abort_drops_what_is_queued_and_counts_it() {
    for close_first in [false, true] {
        over_each(async |ours, peer| {
            let log = Log::new();
            let (transport, _) = connected(ours, Recorder::new(&log)).await;
            let sent = pattern(LARGE);
            transport.write(&sent).unwrap();
            if close_first {
                transport.close();
                yield_now().await;
            }
            transport.abort();
            within(transport.closed()).await.unwrap();
            assert_eq!(told(&log), [Event::Made, Event::Lost(None)]);
            assert_eq!(transport.write_buffer_size(), 0);
            let arrived = peer.read_to_end().await;
            assert!(arrived.len() < LARGE && sent.starts_with(&arrived));
            assert_eq!(transport.dropped(), (LARGE - arrived.len()) as u64);
        });
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
        let writer = smol::unblock({
            let (peer, sent) = (peer.clone(), sent.clone());
            move || {
                peer.write(&sent);
                peer.end();
            }
        });
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
            let made = connect_accepted_socket(|| recorder, ours, AcceptedOptions::new());
            let result = match within(made).await {
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

#[test]
fn a_panic_in_the_factory_closes_the_socket() {
    over_each(async |ours, peer| {
        let made = spawn(async {
            let factory = || -> Recorder { panic!("no protocol") };
            let options = AcceptedOptions::new();
            connect_accepted_socket(factory, ours, options)
                .await
                .map(drop)
        });
        let made = futures_lite::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(made));
        assert_eq!(panic_message(&*made.await.unwrap_err()), "no protocol");
        assert_eq!(peer.read_to_end().await, b"");
    });
}

#[test]
fn a_connection_lives_without_its_transports_and_ends_with_its_runtime() {
    let log = Log::new();
    let (ours, peer) = tcp_pair();
    block_on_within(async {
        drop(connected(ours, Recorder::echoing(&log)).await);
        peer.write(b"x");
        assert_eq!(peer.read(1).await, b"x");
    });
    block_on_within(async { assert_eq!(peer.read_to_end().await, b"") });
    assert_eq!(log.events(), [Event::Made, data("x")]);

    let (ours, _peer) = tcp_pair();
    let (transport, _) = coracle::block_on(connected(ours, Recorder::new(&log)));
    let error = block_on_within(transport.closed()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn a_driver_calls_when_it_runs_and_a_dropped_one_is_an_abortion_without_callbacks() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let factory = || Recorder::echoing(&log);
        let made = connect_accepted_socket_with_driver(factory, ours, AcceptedOptions::new());
        let (transport, handle, driver) = made.await.unwrap();
        peer.write(b"early");
        settle().await;
        assert_eq!(log.events(), [], "the driver does not run");
        let driver = spawn(driver);
        assert_eq!(peer.read(5).await, b"early");
        let waiting: Vec<_> = (0..40)
            .map(|_| {
                let transport = transport.clone();
                spawn(async move { transport.closed().await.unwrap_err().kind() })
            })
            .collect();
        yield_now().await;
        assert!(poll_once(transport.closed()).await.is_none());
        driver.cancel().await;
        for waiting in waiting {
            assert_eq!(within(waiting).await, ErrorKind::ConnectionAborted);
        }
        let (_, result) = handle.lost().await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(log.events(), [Event::Made, data("early")]);
        let refused = transport.write(b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotConnected);
        assert_eq!(peer.read_to_end().await, b"");
    });
}

#[test]
fn other_tasks_and_threads_may_write_and_close() {
    const EACH: usize = 1_000;
    over_each(async |ours, peer| {
        let (transport, _) = connected(ours, Recorder::new(&Log::new())).await;
        let write = |name: u8| {
            let transport = transport.clone();
            move || (0..EACH).for_each(|_| transport.write(&[name; 40]).unwrap())
        };
        let writers: Vec<_> = (0..4).map(|name| smol::unblock(write(name))).collect();
        let here = write(4);
        spawn(async move { here() }).await;
        for writer in writers {
            within(writer).await;
        }
        let closer = transport.clone();
        smol::unblock(move || closer.close()).await;
        let arrived = peer.read_to_end().await;
        assert_eq!(arrived.len(), 5 * EACH * 40);
        for written in arrived.chunks(40) {
            assert_eq!(written, [written[0]; 40], "no write is torn");
        }
        within(transport.closed()).await.unwrap();
    });
}
