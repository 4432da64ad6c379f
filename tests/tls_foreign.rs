//! TLS connections and servers over Unix sockets, and on executors that are not ours.
#![cfg(all(feature = "tls", feature = "async-io", unix))]

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::tls::{client, server, NAME};
use common::unix_connection::place;
use common::{block_on_within, within};
use coracle::{
    connect_accepted_socket, create_unix_connection, create_unix_connection_with_driver,
    create_unix_server, create_unix_server_with_driver, AcceptedOptions, UnixOptions,
    UnixServerOptions,
};

#[test]
fn a_unix_connection_speaks_tls_both_ways() {
    block_on_within(async {
        let (_folder, path) = place();
        let there = Log::new();
        let noted = there.clone();
        let options = UnixServerOptions::new().path(&path).tls(server());
        let made = create_unix_server(move || Recorder::echoing(&noted), options);
        let server = within(made).await.unwrap();

        let log = Log::new();
        let options = UnixOptions::new().path(&path).tls(client());
        let options = options.server_hostname(NAME);
        let made = create_unix_connection(|| Recorder::new(&log), options);
        let (transport, _) = within(made).await.unwrap();
        assert_eq!(
            transport.peer_addr().unwrap().to_string(),
            path.to_str().unwrap()
        );
        let sent = common::pairs::pattern(3_000_000);
        transport.write(&sent).unwrap();
        log.until_len(sent.len()).await;
        assert!(log.data() == sent);
        assert!(!String::from_utf8_lossy(&sent).is_empty() && transport.unix_socket().is_ok());

        server.close();
        server.close_clients();
        within(server.wait_closed()).await;
        within(transport.closed()).await.unwrap();
        let events = log.events();
        assert_eq!(events[events.len() - 2..], [Event::Eof, Event::Lost(None)]);
        there.until_lost().await;
    });
}

#[test]
fn drivers_make_handshakes_on_any_executor() {
    smol::block_on(within(async {
        let (_folder, path) = place();
        let there = Log::new();
        let noted = there.clone();
        let options = UnixServerOptions::new()
            .path(&path)
            .tls(server())
            .tls_handshake_timeout(Duration::from_millis(300));
        let spawn = |driver| smol::spawn(driver).detach();
        let factory = move || Recorder::echoing(&noted);
        let made = create_unix_server_with_driver(factory, options, spawn).await;
        let (server, accepting) = made.unwrap();
        smol::spawn(accepting).detach();

        // Somebody who says nothing is left in time, here too.
        let silent = smol::net::unix::UnixStream::connect(&path).await.unwrap();
        let log = Log::new();
        let options = UnixOptions::new().path(&path).tls(client());
        let options = options.server_hostname(NAME);
        let made = create_unix_connection_with_driver(|| Recorder::new(&log), options).await;
        let (transport, _, driver) = made.unwrap();
        assert_eq!(log.events(), [], "the driver has not run");
        let driver = smol::spawn(driver);
        transport.write(b"hello").unwrap();
        log.until_len(5).await;
        transport.close();
        driver.await;
        transport.closed().await.unwrap();
        while server.accept_errors() == 0 {
            smol::future::yield_now().await;
        }
        let told = server.last_accept_error().unwrap();
        assert_eq!(told.kind(), ErrorKind::ConnectionAborted, "{told}");
        drop(silent);

        // A client's own time.
        let silent = std::os::unix::net::UnixListener::bind(path.with_extension("silent"));
        let options = UnixOptions::new()
            .path(path.with_extension("silent"))
            .tls(client())
            .server_hostname(NAME)
            .tls_handshake_timeout(Duration::from_millis(50));
        let made = create_unix_connection_with_driver(|| Recorder::new(&log), options).await;
        assert_eq!(
            made.map(drop).unwrap_err().kind(),
            ErrorKind::ConnectionAborted
        );
        drop(silent);
    }));
}

#[test]
fn accepted_sockets_are_servers() {
    block_on_within(async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (log, there) = (Log::new(), Log::new());
        let accepting = connect_accepted_socket(
            || Recorder::echoing(&there),
            ours,
            AcceptedOptions::new().tls(server()),
        );
        let options = UnixOptions::new().sock(theirs).tls(client());
        let options = options.server_hostname("localhost");
        let connecting = create_unix_connection(|| Recorder::new(&log), options);
        let both = futures_lite::future::zip(accepting, connecting);
        let (accepted, connected) = within(both).await;
        let ((accepted, _), (transport, _)) = (accepted.unwrap(), connected.unwrap());
        let info = accepted.tls_info().unwrap();
        assert_eq!(info.server_name(), Some("localhost"));
        transport.write(b"hello").unwrap();
        log.until_len(5).await;
        accepted.close();
        within(accepted.closed()).await.unwrap();
        within(transport.closed()).await.unwrap();
    });
}

#[test]
fn a_client_that_says_goodbye_and_goes_has_ended_its_connection_in_order() {
    block_on_within(async {
        use coracle::net::{TlsStream, UnixStream};
        use futures_lite::{AsyncReadExt, AsyncWriteExt};

        let (_folder, path) = place();
        for words in [&b""[..], b"words"] {
            let log = Log::new();
            let noted = log.clone();
            let options = UnixServerOptions::new().path(&path).tls(server());
            let made = create_unix_server(move || Recorder::new(&noted), options);
            let server = within(made).await.unwrap();
            let stream = within(UnixStream::connect(&path)).await.unwrap();
            let mut peer = within(TlsStream::connect(stream, client(), NAME))
                .await
                .unwrap();
            log.until_event(Event::Made).await;
            // The server does not run before the peer has gone.
            peer.write_all(words).await.unwrap();
            peer.close().await.unwrap();
            let _ = futures_lite::future::poll_once(peer.read(&mut [0; 1])).await;
            drop(peer);
            log.until_lost().await;
            let said = match words.is_empty() {
                true => vec![Event::Made, Event::Eof, Event::Lost(None)],
                false => {
                    let said = Event::Data(words.to_vec());
                    vec![Event::Made, said, Event::Eof, Event::Lost(None)]
                }
            };
            assert_eq!(log.events(), said);
            server.close();
        }
    });
}
