//! `create_unix_connection`: what it connects to, and what its ends are told of each other.
#![cfg(unix)]

mod common;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::stream::{Event, Log, Recorder};
#[cfg(target_os = "linux")]
use common::unix_connection::refusal;
use common::unix_connection::{accept, echoing, exchange, listening, options, pair, place};
use common::{block_on_within, in_process, panic_message, settle, within};
use coracle::net::Target;
use coracle::{
    connect_accepted_socket, create_unix_connection, create_unix_connection_with_driver, spawn,
    AcceptedOptions, Address, Transport, UnixAddress,
};

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
        let error = refusal(options().path(format!("@{name}/nobody"))).await;
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
