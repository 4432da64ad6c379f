//! What the integration tests share: patience, a protocol that records, processes of their own.
// Each test binary uses a part of it.
#![allow(dead_code)]

#[cfg(not(target_os = "wasi"))]
pub(crate) mod blocking;
#[cfg(all(feature = "async-io", not(target_os = "wasi")))]
pub(crate) mod foreign;
#[cfg(target_os = "wasi")]
pub(crate) mod guest;
#[cfg(target_os = "linux")]
pub(crate) mod network;
pub(crate) mod nosy;
pub(crate) mod pairs;
#[cfg(feature = "tls")]
pub(crate) mod secured;
pub(crate) mod server;
pub(crate) mod sockets;
pub(crate) mod stream;
pub(crate) mod tcp_connection;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(unix)]
pub(crate) mod unix_connection;

use std::future::{poll_fn, Future};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use coracle::{
    create_datagram_endpoint, on_datagram, Address, DatagramOptions, DatagramProtocol,
    DatagramTransport, ProtocolHandle,
};

// The harness waits, too.
coracle::wasi_main!();

/// How long anything may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The future's value; a panic instead of a hang.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    match coracle::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("nothing came of it within {PATIENCE:?}"),
    }
}

/// `block_on` with a panic instead of a hang.
pub(crate) fn block_on_within<F: Future>(future: F) -> F::Output {
    coracle::block_on(within(future))
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref()) {
        (Some(text), _) => text.to_string(),
        (None, Some(text)) => String::clone(text),
        (None, None) => "(no text)".into(),
    }
}

/// What `f` says when it panics, as it must.
#[track_caller]
pub(crate) fn panics<R>(f: impl FnOnce() -> R) -> String {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(_) => panic!("no panic"),
        Err(payload) => panic_message(&*payload),
    }
}

/// One callback of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Made,
    Received(Vec<u8>, Address),
    Error(io::ErrorKind, String),
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

    fn push(&self, event: Event) {
        let mut log = self.0.lock().unwrap();
        log.0.push(event);
        let wakers = std::mem::take(&mut log.1);
        drop(log);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().0.clone()
    }

    /// The datagrams so far.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let data = |event| match event {
            Event::Received(data, _) => Some(data),
            _ => None,
        };
        self.events().into_iter().filter_map(data).collect()
    }

    /// The errors so far.
    pub(crate) fn errors(&self) -> Vec<(io::ErrorKind, String)> {
        let error = |event| match event {
            Event::Error(kind, text) => Some((kind, text)),
            _ => None,
        };
        self.events().into_iter().filter_map(error).collect()
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

    /// Waits for so many datagrams.
    pub(crate) async fn until_received(&self, count: usize) {
        let is_datagram = |event: &&Event| matches!(event, Event::Received(..));
        self.until(|events| events.iter().filter(is_datagram).count() >= count)
            .await;
    }

    /// Waits for so many errors.
    pub(crate) async fn until_errors(&self, count: usize) {
        let is_error = |event: &&Event| matches!(event, Event::Error(..));
        self.until(|events| events.iter().filter(is_error).count() >= count)
            .await;
    }
}

type Reaction = Box<dyn FnMut(&DatagramTransport, &Event) + Send>;

/// A protocol that records its callbacks, and may react to them.
pub(crate) struct Recorder {
    log: Log,
    reaction: Reaction,
}

impl Recorder {
    pub(crate) fn new(log: &Log) -> Recorder {
        Recorder::reacting(log, |_, _| {})
    }

    pub(crate) fn reacting(
        log: &Log,
        reaction: impl FnMut(&DatagramTransport, &Event) + Send + 'static,
    ) -> Recorder {
        Recorder {
            log: log.clone(),
            reaction: Box::new(reaction),
        }
    }

    fn note(&mut self, transport: &DatagramTransport, event: Event) {
        // Recorded first: the reaction may panic.
        self.log.push(event.clone());
        (self.reaction)(transport, &event);
    }
}

impl DatagramProtocol for Recorder {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        self.note(transport, Event::Made);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        self.note(transport, Event::Received(data.to_vec(), *from));
    }

    fn error_received(&mut self, transport: &DatagramTransport, error: io::Error) {
        self.note(transport, Event::Error(error.kind(), error.to_string()));
    }

    fn pause_writing(&mut self, transport: &DatagramTransport) {
        self.note(transport, Event::Pause);
    }

    fn resume_writing(&mut self, transport: &DatagramTransport) {
        self.note(transport, Event::Resume);
    }

    fn connection_lost(&mut self, transport: &DatagramTransport, error: Option<&io::Error>) {
        self.note(transport, Event::Lost(error.map(io::Error::kind)));
    }
}

/// An endpoint that records.
pub(crate) async fn recording(
    log: &Log,
    options: DatagramOptions,
) -> (DatagramTransport, ProtocolHandle<Recorder>) {
    let made = create_datagram_endpoint(|| Recorder::new(log), options);
    within(made).await.unwrap()
}

/// An endpoint that records and reacts.
pub(crate) async fn reacting(
    log: &Log,
    options: DatagramOptions,
    reaction: impl FnMut(&DatagramTransport, &Event) + Send + 'static,
) -> (DatagramTransport, ProtocolHandle<Recorder>) {
    let made = create_datagram_endpoint(|| Recorder::reacting(log, reaction), options);
    within(made).await.unwrap()
}

/// An endpoint that sends everything back.
pub(crate) async fn echoing(options: DatagramOptions) -> DatagramTransport {
    let echo = || {
        on_datagram(|transport: &DatagramTransport, data, from| {
            transport.send_to(data, from).unwrap();
        })
    };
    within(create_datagram_endpoint(echo, options))
        .await
        .unwrap()
        .0
}

/// What `allow_broadcast` may be.
pub(crate) const BROADCAST: &[bool] = match cfg!(target_os = "wasi") {
    true => &[false],
    false => &[false, true],
};

/// Options for an IPv4 endpoint with a port of its own.
pub(crate) fn local_v4() -> DatagramOptions {
    DatagramOptions::new().local_addr("127.0.0.1:0")
}

/// What making an endpoint with these options is refused with.
pub(crate) async fn refusal(options: DatagramOptions) -> io::Error {
    let text = format!("{options:?}");
    match within(create_datagram_endpoint(
        || Recorder::new(&Log::new()),
        options,
    ))
    .await
    {
        Ok(_) => panic!("was accepted: {text}"),
        Err(error) => error,
    }
}

/// Closes an endpoint and waits for its end.
pub(crate) async fn close(transport: &DatagramTransport) {
    transport.close();
    within(transport.closed()).await.unwrap();
}

/// A std socket that fails instead of hanging.
pub(crate) fn std_udp() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // WASI has no such limit; there it is the runner who ends what hangs.
    #[cfg(not(target_os = "wasi"))]
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A loopback address that no other test binds to, in this process or another, where the system
/// has more than one: a port that is closed there stays free.
pub(crate) fn own_ip() -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    let ip = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
    match std::net::UdpSocket::bind((ip, 0)) {
        Ok(_) => ip,
        Err(_) => Ipv4Addr::LOCALHOST,
    }
}

/// The same as a name: only a resolver takes it for an address.
pub(crate) fn name_of(ip: Ipv4Addr) -> String {
    let [first, rest @ ..] = ip.octets();
    format!("{first}.{:#x}.{}.{}", rest[0], rest[1], rest[2])
}

/// Options for an endpoint at such an address.
pub(crate) fn own_v4() -> DatagramOptions {
    DatagramOptions::new().local_addr((own_ip(), 0))
}

/// An address where nobody listens, nor will.
pub(crate) fn dead_addr() -> SocketAddr {
    let socket = std::net::UdpSocket::bind((own_ip(), 0)).unwrap();
    socket.local_addr().unwrap()
}

/// The raw code of an error, or of the first of its sources that has one.
pub(crate) fn raw_code(error: &io::Error) -> Option<i32> {
    if let Some(code) = error.raw_os_error() {
        return Some(code);
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(code) = error.downcast_ref().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        source = error.source();
    }
    None
}

/// A socket file that was left behind: nobody listens there, and nobody ever did, since a child that
/// another test starts has for a moment whatever is open here.
#[cfg(unix)]
pub(crate) fn left_behind(path: impl AsRef<Path>) {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let addr = socket2::SockAddr::unix(path).unwrap();
    socket.unwrap().bind(&addr).unwrap();
}

/// The program again, in a folder, as a user without privileges where this one is root.
#[cfg(unix)]
pub(crate) fn as_nobody(program: &Path, folder: &Path) -> Command {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    // It may lie in a folder that only root can enter. Another process copies it: what this one has
    // open for writing may be so in a child of another test, and then cannot be run.
    let copy = folder.join("program");
    let copied = Command::new("cp").arg(program).arg(&copy).status();
    assert!(copied.unwrap().success());
    let everybodys = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, everybodys).unwrap();
    let mut command = Command::new(copy);
    if folder.metadata().unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    command.current_dir(folder);
    command
}

/// Runs the body of a test in a process of its own: `test` is the test's name, `command` makes the
/// process from the path of this program.
pub(crate) fn in_process(test: &str, command: impl FnOnce(&Path) -> Command, body: impl FnOnce()) {
    const HERE: &str = "CORACLE_TEST_PROCESS";
    // WASI has no processes; cargo-nextest gives each test an instance of its own.
    if cfg!(target_os = "wasi") || std::env::var_os(HERE).is_some_and(|here| here == test) {
        return body();
    }
    let program = std::env::current_exe().unwrap();
    let output = command(&program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(HERE, test)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stdout = text(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{}\n{stdout}\n{}",
        output.status,
        text(&output.stderr)
    );
}

/// An endpoint whose queue is not empty, and the receiver that it waits for.
#[cfg(target_os = "linux")]
pub(crate) struct Stuck {
    /// Reads only when the test does.
    pub(crate) receiver: coracle::net::UnixDatagram,
    pub(crate) transport: DatagramTransport,
    pub(crate) log: Log,
    /// How many datagrams were sent: the decimal numbers from 0.
    pub(crate) sent: usize,
    /// Removed at the end, with the receiver's file.
    _folder: tempfile::TempDir,
}

#[cfg(target_os = "linux")]
impl Stuck {
    /// A Unix endpoint that is connected to its receiver or, not connected, sends to it only, in
    /// which case the system does not tell when there is room again.
    pub(crate) async fn new(connected: bool) -> Stuck {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receiver");
        let receiver = coracle::net::UnixDatagram::bind(&path).unwrap();
        let log = Log::new();
        let options = DatagramOptions::new()
            .remote_addr(&path)
            .allow_broadcast(!connected);
        let (transport, _) = recording(&log, options).await;
        let mut stuck = Stuck {
            receiver,
            transport,
            log,
            sent: 0,
            _folder: folder,
        };
        while stuck.transport.write_buffer_size() == 0 {
            stuck.send();
        }
        stuck
    }

    /// Sends the next number.
    pub(crate) fn send(&mut self) {
        let data = self.sent.to_string();
        self.transport.send(data.as_bytes()).unwrap();
        self.sent += 1;
    }

    /// Reads the numbers in this range, in order.
    pub(crate) async fn read(&self, numbers: std::ops::Range<usize>) {
        let mut buf = [0; 32];
        for number in numbers {
            let len = within(self.receiver.recv(&mut buf)).await.unwrap();
            assert_eq!(buf[..len], *number.to_string().as_bytes());
        }
    }

    /// Reads what is there now, and tells how many that were.
    pub(crate) fn read_now(&self) -> usize {
        let mut buf = [0; 32];
        std::iter::from_fn(|| self.receiver.try_recv_from(&mut buf).ok()).count()
    }
}

/// The address of an IP endpoint.
pub(crate) fn ip(transport: &DatagramTransport) -> SocketAddr {
    transport.local_addr().unwrap().as_ip().unwrap()
}

/// Options for an endpoint with a fixed peer.
pub(crate) fn to(addr: SocketAddr) -> DatagramOptions {
    DatagramOptions::new().remote_addr(addr)
}

/// Sends the numbers in this range as datagrams of one byte.
pub(crate) fn send_numbers(
    transport: &DatagramTransport,
    numbers: std::ops::Range<u8>,
    to: SocketAddr,
) {
    for number in numbers {
        transport.send_to(&[number], &to.into()).unwrap();
    }
}

/// Those datagrams.
pub(crate) fn numbers(numbers: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    numbers.map(|number| vec![number]).collect()
}

/// Gives everything that is ready, sockets included, several turns.
pub(crate) async fn settle() {
    let echo = echoing(local_v4()).await;
    let log = Log::new();
    let (client, _) = recording(&log, to(ip(&echo))).await;
    for i in 1..=20 {
        client.send(b"round").unwrap();
        log.until_received(i).await;
    }
    close(&client).await;
    close(&echo).await;
}
