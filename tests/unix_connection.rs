//! `create_unix_connection`: what it connects to, what it refuses, a full backlog, giving up.
#![cfg(unix)]

mod common;
#[cfg(target_os = "linux")]
#[path = "common/giving_up.rs"]
mod giving_up;

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, in_process, panic_message, raw_code, settle, within, PATIENCE};
use coracle::net::{Socket, Target};
use coracle::{
    connect_accepted_socket, create_unix_connection, create_unix_connection_with_driver, spawn,
    AcceptedOptions, Address, ProtocolHandle, Transport, UnixAddress, UnixOptions,
};
use tempfile::TempDir;

fn options() -> UnixOptions {
    UnixOptions::new()
}

/// A folder of its own, and the path of a socket in it.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    (folder, path)
}

/// Something that listens, and where.
fn listening() -> (TempDir, PathBuf, UnixListener) {
    let (folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, listener)
}

/// The peer of the next connection, which fails instead of hanging.
fn accept(listener: &UnixListener) -> UnixStream {
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

async fn echoing(log: &Log, options: UnixOptions) -> (Transport, ProtocolHandle<Recorder>) {
    within(create_unix_connection(|| Recorder::echoing(log), options))
        .await
        .unwrap()
}

/// A pair of sockets, and the first of them as options.
fn pair() -> (UnixOptions, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (options().sock(ours), peer)
}

/// Something there and back again; then the peer's end ends the connection.
async fn exchange(transport: &Transport, mut peer: UnixStream) {
    peer.write_all(b"hello").unwrap();
    let exchanged = smol::unblock(move || {
        let mut buf = [0; 5];
        peer.read_exact(&mut buf).unwrap();
        assert_eq!(buf, *b"hello");
    });
    within(exchanged).await;
    within(transport.closed()).await.unwrap();
}

/// What a connection with these options is refused with; its protocol is never made.
async fn refusal(options: UnixOptions) -> io::Error {
    let text = format!("{options:?}");
    let factory = || -> Recorder { panic!("the factory was called: {text}") };
    match within(create_unix_connection(factory, options)).await {
        Ok(_) => unreachable!(),
        Err(error) => error,
    }
}

/// Checks that the options are refused for what this names.
async fn refused_for(name: &str, options: UnixOptions) {
    let text = format!("{options:?}");
    let error = refusal(options).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}: {text}");
    assert!(error.to_string().contains(name), "{error}: {text}");
}

/// Checks that the system's error is told with the path and its own code.
async fn fails_with(kind: Option<ErrorKind>, code: i32, path: &Path) {
    let error = refusal(options().path(path)).await;
    if let Some(kind) = kind {
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(raw_code(&error), Some(code), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_path_is_given_in_any_form() {
    block_on_within(async {
        let (_folder, path, listener) = listening();
        let addr = UnixAddress::from_path(&path).unwrap();
        let forms: [Target; 7] = [
            path.to_str().unwrap().into(),
            path.as_path().into(),
            (&path).into(),
            path.to_str().unwrap().as_bytes().into(),
            addr.into(),
            Address::from(addr).into(),
            format!("{}", path.display()).into(),
        ];
        for form in forms {
            let log = Log::new();
            let (transport, _) = echoing(&log, options().path(form)).await;
            assert_eq!(log.events(), [Event::Made], "before creation returns");
            assert_eq!(transport.peer_addr(), Some(addr.into()));
            assert_eq!(transport.local_addr().unwrap(), Address::UNNAMED);
            exchange(&transport, accept(&listener)).await;
            assert_eq!(transport.peer_addr(), Some(addr.into()), "remembered");
            assert_eq!(transport.local_addr().unwrap(), Address::UNNAMED);
            let expected = [
                Event::Made,
                Event::Data(b"hello".into()),
                Event::Eof,
                Event::Lost(None),
            ];
            assert_eq!(log.events(), expected);
        }
    });
}

#[test]
fn a_string_is_a_path_whatever_it_looks_like() {
    let (folder, _) = place();
    let here = |program: &Path| {
        let mut command = std::process::Command::new(program);
        command.current_dir(folder.path());
        command
    };
    in_process("a_string_is_a_path_whatever_it_looks_like", here, || {
        block_on_within(async {
            for name in ["localhost:1", "127.0.0.1:1", "socket", " "] {
                let listener = UnixListener::bind(name).unwrap();
                let (transport, _) = echoing(&Log::new(), options().path(name)).await;
                exchange(&transport, accept(&listener)).await;
            }
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_given_with_an_at_sign_or_a_nul() {
    use std::os::linux::net::SocketAddrExt;
    block_on_within(async {
        let (_folder, path) = place();
        let name = path.to_str().unwrap();
        let addr = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&addr).unwrap();
        let forms: [Target; 3] = [
            format!("@{name}").into(),
            format!("\0{name}").as_bytes().into(),
            UnixAddress::from_abstract_name(name).unwrap().into(),
        ];
        for form in forms {
            let (transport, _) = echoing(&Log::new(), options().path(form)).await;
            let peer = transport.peer_addr().unwrap();
            let unix = peer.as_unix().unwrap();
            assert_eq!(unix.as_abstract_name(), Some(name.as_bytes()));
            exchange(&transport, accept(&listener)).await;
        }
        drop(listener);
        let error = refusal(options().path(format!("@{name}"))).await;
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    });
}

#[test]
fn a_socket_that_is_brought_is_used_and_closed() {
    block_on_within(async {
        let (given, peer) = pair();
        let (transport, _) = echoing(&Log::new(), given).await;
        assert_eq!(transport.peer_addr(), Some(Address::UNNAMED));
        exchange(&transport, peer).await;

        // Connected to a listener, and with a name of its own.
        let (_folder, path, listener) = listening();
        let (_other, own) = place();
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket
            .bind(&socket2::SockAddr::unix(&own).unwrap())
            .unwrap();
        socket
            .connect(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        let (transport, _) = echoing(&Log::new(), options().sock(socket)).await;
        let path_of = |addr: Address| addr.as_unix().unwrap().as_path().map(PathBuf::from);
        for _ in 0..2 {
            assert_eq!(path_of(transport.local_addr().unwrap()), Some(own.clone()));
            assert_eq!(path_of(transport.peer_addr().unwrap()), Some(path.clone()));
            if !transport.is_closing() {
                exchange(&transport, accept(&listener)).await;
            }
        }
    });
}

#[test]
fn the_names_of_both_ends_are_told_as_long_as_anybody_asks() {
    block_on_within(async {
        let (_folder, path, listener) = listening();
        let (_other, own) = place();
        for named in [true, false] {
            let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
            let client = client.unwrap();
            if named {
                client
                    .bind(&socket2::SockAddr::unix(&own).unwrap())
                    .unwrap();
            }
            client
                .connect(&socket2::SockAddr::unix(&path).unwrap())
                .unwrap();
            let names = (
                Address::from(UnixAddress::from_path(&path).unwrap()),
                match named {
                    true => UnixAddress::from_path(&own).unwrap().into(),
                    false => Address::UNNAMED,
                },
            );
            let seen = Arc::new(Mutex::new(Vec::new()));
            let sees = seen.clone();
            let look = move |transport: &Transport| {
                let names = (
                    transport.local_addr().unwrap(),
                    transport.peer_addr().unwrap(),
                );
                sees.lock().unwrap().push(names);
            };
            let in_callbacks = look.clone();
            let protocol = Recorder::reacting(&Log::new(), move |transport, _| {
                in_callbacks(transport);
                Ok(())
            });
            let accepted = accept(&listener);
            let made = connect_accepted_socket(|| protocol, accepted, AcceptedOptions::new());
            let (transport, _) = within(made).await.unwrap();
            drop(client);
            within(transport.closed()).await.unwrap();
            look(&transport);
            // When it was made, at the peer's end, when it was lost, and afterwards.
            assert_eq!(*seen.lock().unwrap(), [names; 4]);
        }
    });
}

#[test]
fn the_socket_of_a_connection_can_be_reached_while_it_is_open() {
    block_on_within(async {
        let (given, mut peer) = pair();
        let (transport, _) = echoing(&Log::new(), given).await;
        let uid = transport.unix_socket().unwrap().peer_cred().unwrap().uid;
        let me =
            std::os::unix::fs::MetadataExt::uid(&tempfile::tempfile().unwrap().metadata().unwrap());
        assert_eq!(uid, me);
        let no_tcp = transport.tcp_socket().unwrap_err();
        assert_eq!(no_tcp.kind(), ErrorKind::InvalidInput);
        let held = transport.unix_socket().unwrap();
        transport.close();
        within(transport.closed()).await.unwrap();
        for gone in [
            transport.unix_socket().map(drop),
            transport.tcp_socket().map(drop),
        ] {
            assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotConnected);
        }
        // It is closed when nobody holds it.
        held.try_write(b"x").unwrap();
        drop(held);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"x");
    });
}

#[test]
fn contradictory_options_are_refused_by_name() {
    block_on_within(async {
        let (_folder, path, _listener) = listening();
        let at = || options().path(&path);
        let second = Duration::from_secs(1);
        refused_for("path", options()).await;
        refused_for("sock", options()).await;
        refused_for("path", pair().0.path(&path)).await;
        refused_for("sock", pair().0.path(&path)).await;
        for name in ["", "localhost"] {
            refused_for("server_hostname", at().server_hostname(name)).await;
            refused_for("server_hostname", pair().0.server_hostname(name)).await;
        }
        for time in [second, Duration::ZERO] {
            refused_for("tls_handshake_timeout", at().tls_handshake_timeout(time)).await;
            refused_for("tls_shutdown_timeout", at().tls_shutdown_timeout(time)).await;
        }
        // With TLS.
        refused_for("server_hostname", at().tls(true)).await;
        refused_for("server_hostname", pair().0.tls(true)).await;
        let tls = || options().tls(true).server_hostname("");
        refused_for("path", tls()).await;
        refused_for("sock", pair().0.path(&path).tls(true).server_hostname("x")).await;
        let zero = tls().path(&path).tls_handshake_timeout(Duration::ZERO);
        refused_for("tls_handshake_timeout", zero).await;
        let zero = tls().path(&path).tls_shutdown_timeout(Duration::ZERO);
        refused_for("tls_shutdown_timeout", zero).await;
        refused_for("path", tls().path("")).await;
    });
}

#[test]
fn tls_is_unsupported_when_all_else_is_right() {
    block_on_within(async {
        let (_folder, path, _listener) = listening();
        let second = Duration::from_secs(1);
        for given in [options().path(&path), pair().0] {
            let given = given.tls(true).server_hostname("localhost");
            let given = given
                .tls_handshake_timeout(second)
                .tls_shutdown_timeout(second);
            let error = refusal(given).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("tls"), "{error}");
        }
        let (transport, _) = echoing(&Log::new(), pair().0.tls(false)).await;
        transport.close();
    });
}

/// Sockets that a Unix connection cannot have.
fn wrong_sockets() -> Vec<Socket> {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    vec![
        std::net::TcpStream::connect(tcp.local_addr().unwrap())
            .unwrap()
            .into(),
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        UnixDatagram::pair().unwrap().0.into(),
        #[cfg(target_os = "linux")]
        {
            let kind = socket2::Type::SEQPACKET;
            let pair = socket2::Socket::pair(socket2::Domain::UNIX, kind, None);
            pair.unwrap().0.into()
        },
    ]
}

#[test]
fn sockets_of_another_type_or_family_are_refused() {
    block_on_within(async {
        for wrong in wrong_sockets() {
            refused_for("sock", options().sock(wrong)).await;
        }
    });
}

#[test]
fn sockets_of_another_type_or_family_are_refused_before_tls_is() {
    block_on_within(async {
        for wrong in wrong_sockets() {
            let tls = options().sock(wrong).tls(true).server_hostname("");
            refused_for("sock", tls).await;
        }
    });
}

#[test]
fn where_nobody_can_be_reached_the_system_says_why() {
    block_on_within(async {
        let (folder, path) = place();
        let refused = Some(ErrorKind::ConnectionRefused);
        fails_with(Some(ErrorKind::NotFound), libc::ENOENT, &path).await;
        fails_with(
            Some(ErrorKind::NotFound),
            libc::ENOENT,
            &path.join("deeper"),
        )
        .await;
        drop(UnixListener::bind(&path).unwrap());
        fails_with(refused, libc::ECONNREFUSED, &path).await;
        let through_a_file = path.join("socket");
        fails_with(
            Some(ErrorKind::NotADirectory),
            libc::ENOTDIR,
            &through_a_file,
        )
        .await;
        let round = folder.path().join("round");
        std::os::unix::fs::symlink(&round, &round).unwrap();
        fails_with(None, libc::ELOOP, &round).await;
        let datagrams = folder.path().join("datagrams");
        let _socket = UnixDatagram::bind(&datagrams).unwrap();
        fails_with(None, libc::EPROTOTYPE, &datagrams).await;
        if cfg!(target_os = "linux") {
            let file = folder.path().join("file");
            std::fs::write(&file, "no socket").unwrap();
            fails_with(refused, libc::ECONNREFUSED, &file).await;
            fails_with(refused, libc::ECONNREFUSED, folder.path()).await;
        }
        let bound = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let silent = folder.path().join("silent");
        bound
            .unwrap()
            .bind(&socket2::SockAddr::unix(&silent).unwrap())
            .unwrap();
        fails_with(refused, libc::ECONNREFUSED, &silent).await;
    });
}

#[test]
fn what_is_no_path_is_refused() {
    block_on_within(async {
        refused_for("path", options().path("")).await;
        refused_for("path", options().path(Path::new(""))).await;
        refused_for("name", options().path(b"")).await;
        refused_for("name", options().path(Address::UNNAMED)).await;
        refused_for("NUL", options().path("a\0b")).await;
        refused_for("NUL", options().path(Path::new("a\0"))).await;
        refused_for("NUL", options().path(b"a\0b")).await;
        refused_for("path", options().path("x".repeat(200))).await;
        refused_for(
            "127.0.0.1:1",
            options().path(Address::from(([127, 0, 0, 1], 1))),
        )
        .await;
        if cfg!(target_os = "linux") {
            let (folder, _) = place();
            let room = 107 - folder.path().to_str().unwrap().len() - 1;
            let path = |len: usize| folder.path().join("x".repeat(len));
            refused_for("108", options().path(path(room + 1))).await;
            let listener = UnixListener::bind(path(room)).unwrap();
            let (transport, _) = echoing(&Log::new(), options().path(path(room))).await;
            exchange(&transport, accept(&listener)).await;
        }
    });
}

/// The program again, as a user without privileges where this one is root.
fn as_nobody(program: &Path, folder: &Path) -> std::process::Command {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    // It may lie in a folder that only root can enter.
    let copy = folder.join("program");
    std::fs::copy(program, &copy).unwrap();
    let everyone = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, everyone).unwrap();
    let mut command = std::process::Command::new(copy);
    if folder.metadata().unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    command.current_dir(folder);
    command
}

#[test]
fn what_is_not_permitted_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = place();
    let closed = folder.path().join("closed");
    let _in_closed =
        std::fs::create_dir(&closed).map(|()| UnixListener::bind(closed.join("socket")));
    let _forbidden = UnixListener::bind(&path).unwrap();
    for path in [&closed, &path] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let command = |program: &Path| as_nobody(program, folder.path());
    in_process("what_is_not_permitted_is_named", command, || {
        block_on_within(async {
            let folder = std::env::current_dir().unwrap();
            let denied = Some(ErrorKind::PermissionDenied);
            fails_with(denied, libc::EACCES, &folder.join("closed/socket")).await;
            fails_with(denied, libc::EACCES, &folder.join("socket")).await;
        });
    });
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn the_factory_is_called_when_the_connection_is_there() {
    block_on_within(async {
        let (_folder, path, listener) = listening();
        let connected = Arc::new(Mutex::new(None));
        let (slot, log) = (connected.clone(), Log::new());
        let factory = || {
            // Without waiting: it is in the backlog.
            listener.set_nonblocking(true).unwrap();
            *slot.lock().unwrap() = Some(listener.accept().unwrap());
            assert_eq!(log.events(), []);
            Recorder::new(&log)
        };
        let made = create_unix_connection(factory, options().path(&path));
        let (transport, _) = within(made).await.unwrap();
        assert!(connected.lock().unwrap().take().is_some());
        within(transport.closed()).await.unwrap();

        listener.set_nonblocking(false).unwrap();
        let made = spawn(async move {
            let factory = || -> Recorder { panic!("no protocol") };
            create_unix_connection(factory, options().path(&path))
                .await
                .map(drop)
        });
        let made = futures_lite::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(made));
        assert_eq!(panic_message(&*made.await.unwrap_err()), "no protocol");
        assert_eq!(accept(&listener).read(&mut [0]).unwrap(), 0, "it is closed");
    });
}

#[test]
fn without_a_runtime_there_is_the_form_with_a_driver() {
    let (given, _peer) = pair();
    let made = create_unix_connection(|| Recorder::new(&Log::new()), given);
    let error = smol::block_on(made).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("_with_driver"), "{error}");

    block_on_within(async {
        let (_folder, path, listener) = listening();
        let log = Log::new();
        let factory = || Recorder::echoing(&log);
        let made = create_unix_connection_with_driver(factory, options().path(&path));
        let (transport, _, driver) = within(made).await.unwrap();
        let peer = accept(&listener);
        settle().await;
        assert_eq!(log.events(), [], "the driver does not run");
        let driver = spawn(driver);
        exchange(&transport, peer).await;
        within(driver).await;
    });
}

/// Other systems refuse where Linux lets wait, and do not list the descriptors of a process.
#[cfg(target_os = "linux")]
mod waiting {
    use std::future::{poll_fn, Future};
    use std::process::Command;

    use coracle::time::{sleep, timeout};
    use coracle::yield_now;
    use futures_lite::future::poll_once;

    use super::giving_up::{
        descriptors, descriptors_come_down_to, give_up_when_woken, ways_to_give_up,
    };
    use super::*;

    /// A listener at which no connection more may wait.
    struct Full {
        path: PathBuf,
        listener: UnixListener,
        waiting: Vec<socket2::Socket>,
        _folder: TempDir,
    }

    impl Full {
        fn new() -> Full {
            let (folder, path) = place();
            let addr = socket2::SockAddr::unix(&path).unwrap();
            let socket =
                || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
            let listener = socket().unwrap();
            listener.bind(&addr).unwrap();
            listener.listen(0).unwrap();
            let mut waiting = Vec::new();
            let error = loop {
                let next = socket().unwrap();
                next.set_nonblocking(true).unwrap();
                match next.connect(&addr) {
                    Ok(()) => waiting.push(next),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            Full {
                path,
                listener: listener.into(),
                waiting,
                _folder: folder,
            }
        }
    }

    #[test]
    fn a_full_backlog_is_waited_for() {
        block_on_within(async {
            let full = Full::new();
            let log = Log::new();
            let mut connecting = Box::pin(echoing(&log, options().path(&full.path)));
            for _ in 0..20 {
                assert!(poll_once(&mut connecting).await.is_none());
                yield_now().await;
            }
            assert_eq!(log.events(), [], "nobody is told before it is connected");
            for _ in &full.waiting {
                drop(full.listener.accept().unwrap());
            }
            let (transport, _) = connecting.await;
            exchange(&transport, accept(&full.listener)).await;
        });
    }

    #[test]
    fn waiting_for_a_full_backlog_ends_with_its_timeout_or_its_listener() {
        block_on_within(async {
            let full = Full::new();
            let factory = || -> Recorder { panic!("the factory was called") };
            let given = options().path(&full.path);
            let connecting = create_unix_connection(factory, given);
            let waited = timeout(Duration::from_millis(50), connecting).await;
            assert!(waited.is_err());
            for _ in &full.waiting {
                drop(full.listener.accept().unwrap());
            }
            full.listener.set_nonblocking(true).unwrap();
            let given_up = full.listener.accept().unwrap_err();
            assert_eq!(given_up.kind(), ErrorKind::WouldBlock, "nobody came");

            let full = Full::new();
            let given = options().path(&full.path);
            let connecting = spawn(async { refusal(given).await.kind() });
            sleep(Duration::from_millis(5)).await;
            assert!(!connecting.is_finished());
            drop(full.listener);
            assert_eq!(within(connecting).await, ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn waiting_for_a_full_backlog_does_not_spin() {
        block_on_within(async {
            let full = Full::new();
            let given = options().path(&full.path);
            let log = Log::new();
            let mut connecting = Box::pin(create_unix_connection(|| Recorder::new(&log), given));
            let mut polls = 0;
            let counted = poll_fn(|cx| {
                polls += 1;
                connecting.as_mut().poll(cx)
            });
            assert!(timeout(Duration::from_millis(100), counted).await.is_err());
            assert!(polls < 50, "polled {polls} times");
        });
    }

    /// Checks that nothing is left of a connection that was given up, or is given up now; tells
    /// whether it was made in time.
    async fn leaves_nothing(
        made: Option<io::Result<(Transport, ProtocolHandle<Recorder>)>>,
        log: &Log,
        open_before: usize,
    ) -> bool {
        let is_made = made.is_some();
        if let Some(made) = made {
            made.unwrap().0.close();
        }
        let whole = [Event::Made, Event::Lost(None)];
        log.until(|events| events.is_empty() || events == whole)
            .await;
        descriptors_come_down_to(open_before, log.events()).await;
        is_made
    }

    // In a process of its own, where no other test opens descriptors.
    #[test]
    fn a_connection_that_is_given_up_anywhere_leaves_nothing_open() {
        let name = "waiting::a_connection_that_is_given_up_anywhere_leaves_nothing_open";
        let own = |program: &Path| Command::new(program);
        in_process(name, own, || {
            block_on_within(async {
                let full = Full::new();
                let (_folder, path, listener) = listening();
                settle().await;
                let before = descriptors();
                let mut made = [0; 2];
                for way in ways_to_give_up() {
                    let (given, peer) = pair();
                    for (given, made) in [given, options().path(&path)].into_iter().zip(&mut made) {
                        let log = Log::new();
                        let connecting = create_unix_connection(|| Recorder::new(&log), given);
                        let result = give_up_when_woken(way, connecting).await;
                        // The peer's is open.
                        *made += usize::from(leaves_nothing(result, &log, before + 1).await);
                    }
                    drop(peer);
                    if way.0 > 0 {
                        assert_eq!(accept(&listener).read(&mut [0]).unwrap(), 0, "it is closed");
                    }
                    let log = Log::new();
                    let to_full = options().path(&full.path);
                    let connecting = create_unix_connection(|| Recorder::new(&log), to_full);
                    let result = give_up_when_woken(way, connecting).await;
                    assert!(!leaves_nothing(result, &log, before).await);
                }
                assert!(made.iter().all(|&made| made > 0), "{made:?}");
            });
        });
    }
}
