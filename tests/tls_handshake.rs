//! TLS handshakes: what they agree on, what they refuse, how they are given up.
#![cfg(feature = "tls")]

mod common;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use common::secured::{accept, listening, rest};
use common::server::until_left;
use common::stream::{Event, Log, Recorder};
use common::tls::{client_of, server, server_of, BOTH, NAME, ONLY_12, ONLY_13};
use common::{block_on_within, settle, within};
use coracle::net::{TcpListener, TcpStream, TlsStream};
use coracle::tls::rustls::{self, ClientConfig, HandshakeKind, ServerConfig};
use coracle::{
    create_connection, create_server, on_data, spawn, yield_now, Server, TcpOptions,
    TcpServerOptions, Transport,
};
use futures_lite::{future, AsyncReadExt, AsyncWriteExt};

fn never() -> Recorder {
    panic!("the factory was called")
}

/// What a call has failed with.
async fn failure(options: TcpOptions) -> io::Error {
    match within(create_connection(never, options)).await {
        Ok(_) => unreachable!(),
        Err(error) => error,
    }
}

/// What rustls has objected to.
fn objection(error: &io::Error) -> &rustls::Error {
    let mut source: &(dyn std::error::Error + 'static) = error;
    loop {
        let inner = match source.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|error| error as _),
            None => source.source(),
        };
        source = inner.unwrap_or_else(|| panic!("rustls has no part in it: {error:?}"));
        if let Some(objection) = source.downcast_ref() {
            return objection;
        }
    }
}

/// A server that records and echoes.
async fn serving(config: impl Into<Arc<ServerConfig>>, log: &Log) -> Server {
    let log = log.clone();
    let options = TcpServerOptions::new()
        .local_addr("127.0.0.1:0")
        .tls(config);
    within(create_server(move || Recorder::echoing(&log), options))
        .await
        .unwrap()
}

fn to(server: &Server, config: impl Into<Arc<ClientConfig>>) -> TcpOptions {
    TcpOptions::new()
        .remote_addr(server.local_addrs()[0])
        .tls(config)
        .server_hostname(NAME)
}

async fn until_errors(server: &Server, count: u64) {
    within(async {
        while server.accept_errors() < count {
            yield_now().await;
        }
    })
    .await;
}

async fn echoes(options: TcpOptions) -> Transport {
    let log = Log::new();
    let made = within(create_connection(|| Recorder::new(&log), options)).await;
    let (transport, _) = made.unwrap();
    transport.write(b"there and back").unwrap();
    log.until_len(14).await;
    transport
}

#[test]
fn certificates_that_are_not_good_are_refused_and_the_server_is_told() {
    for versions in [ONLY_13, ONLY_12] {
        for (identity, authority, name, why) in [
            ("expired", "ca", NAME, "expired"),
            ("server", "stranger", NAME, "UnknownIssuer"),
            ("server", "ca", "other.example", "other.example"),
            ("server", "ca", "127.0.0.2", "127.0.0.2"),
        ] {
            block_on_within(async {
                let log = Log::new();
                let server = serving(server_of(BOTH, identity, false), &log).await;
                let config = client_of(versions, authority, None);
                let error = failure(to(&server, config).server_hostname(name)).await;
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                assert!(error.to_string().contains(why), "{error}");
                let objection = objection(&error);
                assert!(
                    matches!(objection, rustls::Error::InvalidCertificate(_)),
                    "{objection:?}"
                );
                until_errors(&server, 1).await;
                let told = server.last_accept_error().unwrap();
                assert_eq!(told.kind(), ErrorKind::InvalidData);
                assert!(told.to_string().contains("alert"), "{told}");
                until_left(&server, 0).await;
                assert_eq!(log.events(), [], "the protocol has not heard of it");
            });
        }
    }
}

#[test]
fn names_may_be_addresses_and_default_to_the_host() {
    block_on_within(async {
        let server = serving(server(), &Log::new()).await;
        let addr = server.local_addrs()[0];
        let port = addr.as_ip().unwrap().port();
        let tls = || TcpOptions::new().tls(common::tls::client());
        echoes(tls().remote_addr(addr)).await;
        echoes(tls().remote_addr(("127.0.0.1", port))).await;
        let numeric = tls().remote_addr(addr).server_hostname("::1");
        echoes(numeric).await;
        // A scope is this machine's business.
        for scope in ["lo", "1"] {
            let scoped = format!("::1%{scope}");
            echoes(tls().remote_addr(addr).server_hostname(scoped)).await;
        }
        if !cfg!(target_os = "wasi") {
            let by_name = tls().remote_addr(("localhost", port));
            let transport = echoes(by_name.family(coracle::Family::Inet)).await;
            transport.close();
        }
        let wrong = tls().remote_addr(addr).server_hostname("127.0.0.3");
        assert_eq!(failure(wrong).await.kind(), ErrorKind::InvalidData);
    });
}

/// In a process with a network of its own, which has a link-local address.
#[cfg(target_os = "linux")]
#[test]
fn the_scope_of_an_address_is_not_part_of_the_servers_name() {
    let test = "the_scope_of_an_address_is_not_part_of_the_servers_name";
    let with_network = |program: &std::path::Path| {
        let mut command = std::process::Command::new("unshare");
        let script =
            r#"ip link set lo up && ip addr add fe80::1/64 dev lo nodad && exec "$0" "$@""#;
        command.args(["--map-root-user", "--net", "sh", "-c", script]);
        command.arg(program);
        command
    };
    common::in_process(test, with_network, || {
        block_on_within(async {
            let options = TcpServerOptions::new().local_addr("[fe80::1%lo]:0");
            let server = create_server(|| Recorder::echoing(&Log::new()), options.tls(server()));
            let server = server.await.unwrap();
            let addr = server.local_addrs()[0];
            let port = addr.as_ip().unwrap().port();
            let tls = || TcpOptions::new().tls(common::tls::client());
            let named = tls()
                .remote_addr(("fe80::1%lo", port))
                .server_hostname(NAME);
            echoes(named).await;
            for remote in [format!("[fe80::1%lo]:{port}"), addr.to_string()] {
                let error = failure(tls().remote_addr(remote)).await;
                // It was asked for by the address, which its certificate does not have.
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                assert!(error.to_string().contains("fe80::1"), "{error}");
                assert!(!error.to_string().contains('%'), "{error}");
            }
        });
    });
}

#[test]
fn clients_show_their_certificates_to_servers_that_ask() {
    for versions in [ONLY_13, ONLY_12] {
        block_on_within(async {
            let (infos, log) = (Log::new(), Log::new());
            let options = TcpServerOptions::new()
                .local_addr("127.0.0.1:0")
                .tls(server_of(BOTH, "server", true));
            let noted = infos.clone();
            let factory = move || {
                let noted = noted.clone();
                on_data(move |transport: &Transport, data: &[u8]| {
                    let info = transport.tls_info().unwrap();
                    let shown = info.peer_certificates().first().map(|cert| cert.to_vec());
                    noted.push(Event::Data(shown.unwrap_or_default()));
                    assert_eq!(info.server_name(), Some(NAME));
                    transport.write(data)
                })
            };
            let server = within(create_server(factory, options)).await.unwrap();
            echoes(to(&server, client_of(versions, "ca", Some("client")))).await;
            assert_eq!(infos.data(), common::tls::cert("client").to_vec());

            // With TLS 1.3, a client learns only later that the server does not take it.
            let config = client_of(versions, "ca", None);
            let made = create_connection(|| Recorder::new(&log), to(&server, config));
            let error = match within(made).await {
                Err(error) => error,
                Ok((transport, _)) => within(transport.closed()).await.unwrap_err(),
            };
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains("alert"), "{error}");
            until_errors(&server, 1).await;
            let told = server.last_accept_error().unwrap().to_string();
            assert!(told.contains("certificate"), "{told}");
            assert_eq!(infos.events().len(), 1);
        });
    }
}

#[test]
fn both_ends_know_what_was_agreed_on() {
    block_on_within(async {
        let (listener, addr) = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            (listener, addr)
        };
        let mut ours = client_of(ONLY_13, "ca", None);
        ours.alpn_protocols = vec![b"chat".to_vec(), b"echo".to_vec()];
        let ours = Arc::new(ours);
        let mut theirs = server_of(BOTH, "server", false);
        theirs.alpn_protocols = vec![b"echo".to_vec()];
        let theirs = Arc::new(theirs);
        for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let options = TcpOptions::new().remote_addr(addr).tls(ours.clone());
            let log = Log::new();
            let connecting =
                create_connection(|| Recorder::new(&log), options.server_hostname(NAME));
            let accepting = async {
                let (tcp, _) = listener.accept().await.unwrap();
                TlsStream::accept(tcp, theirs.clone()).await.unwrap()
            };
            let (made, mut peer) = within(future::zip(connecting, accepting)).await;
            let (transport, _) = made.unwrap();
            // Tickets for the next time come with the first bytes.
            peer.write_all(b"x").await.unwrap();
            log.until_len(1).await;
            let info = transport.tls_info().unwrap();
            assert_eq!(info.handshake_kind(), Some(handshake));
            assert_eq!(info.alpn_protocol(), Some(&b"echo"[..]));
            assert_eq!(info.peer_certificates(), [common::tls::cert("server")]);
            assert_eq!(info.server_name(), None, "which the client knows");
            let there = peer.info();
            assert_eq!(there.cipher_suite(), info.cipher_suite());
            assert!(info.cipher_suite().is_some());
            assert_eq!(there.protocol_version(), info.protocol_version());
            assert_eq!(there.alpn_protocol(), info.alpn_protocol());
            assert_eq!(there.server_name(), Some(NAME));
            assert_eq!(there.peer_certificates(), []);
        }
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    block_on_within(async {
        let (listener, to) = listening().await;
        let soon = Duration::from_millis(50);
        let calling = failure(to.tls_handshake_timeout(soon));
        let (error, silent) = future::zip(calling, listener.accept()).await;
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert!(
            error.to_string().contains("tls_handshake_timeout"),
            "{error}"
        );
        assert!(error.to_string().contains("50ms"), "{error}");
        let mut hello = Vec::new();
        let (mut silent, _) = silent.unwrap();
        within(silent.read_to_end(&mut hello)).await.unwrap();
        assert_eq!(hello[0], 22, "a handshake record, and then the end");
    });
}

#[test]
fn a_server_that_hangs_up_and_one_that_speaks_something_else_are_errors() {
    block_on_within(async {
        for answer in [
            &b""[..],
            &b"220 mail.example.org ESMTP\r\n"[..],
            &[22, 3, 3, 0, 9],
        ] {
            let (listener, to) = listening().await;
            let answering = async {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut hello = [0; 5];
                tcp.read_exact(&mut hello).await.unwrap();
                let mut rest = vec![0; usize::from(hello[3]) << 8 | usize::from(hello[4])];
                tcp.read_exact(&mut rest).await.unwrap();
                tcp.write_all(answer).await.unwrap();
                tcp.shutdown(std::net::Shutdown::Write).unwrap();
                let mut alert = Vec::new();
                tcp.read_to_end(&mut alert).await.unwrap();
                alert
            };
            let (error, alert) = within(future::zip(failure(to), answering)).await;
            if answer.first() == Some(&b'2') {
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                assert_eq!(alert[..5], [21, 3, 3, 0, 2], "an alert");
            } else {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                assert_eq!(alert, b"");
            }
        }
    });
}

#[test]
fn clients_that_speak_something_else_hold_nobody_up() {
    block_on_within(async {
        let log = Log::new();
        let server = serving(server(), &log).await;
        let addr = server.local_addrs()[0];
        let connecting = TcpStream::connect(addr);
        let _silent = within(connecting).await.unwrap();
        let mut http = within(TcpStream::connect(addr)).await.unwrap();
        http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut alert = Vec::new();
        within(http.read_to_end(&mut alert)).await.unwrap();
        assert_eq!(alert[..5], [21, 3, 3, 0, 2], "an alert");
        let hung_up = within(TcpStream::connect(addr)).await.unwrap();
        drop(hung_up);
        until_errors(&server, 2).await;
        assert_eq!(log.events(), [], "no protocol has heard of them");
        echoes(to(&server, common::tls::client())).await;
        assert_eq!(server.connections(), 2, "the silent one is still there");
    });
}

#[test]
fn clients_that_say_nothing_are_left_in_time() {
    block_on_within(async {
        let options = TcpServerOptions::new()
            .local_addr("127.0.0.1:0")
            .tls(server())
            .tls_handshake_timeout(Duration::from_millis(50));
        let log = Log::new();
        let noted = log.clone();
        let made = create_server(move || Recorder::new(&noted), options);
        let server = within(made).await.unwrap();
        let mut silent = within(TcpStream::connect(server.local_addrs()[0]))
            .await
            .unwrap();
        let mut nothing = Vec::new();
        within(silent.read_to_end(&mut nothing)).await.unwrap();
        assert_eq!(nothing, b"");
        until_errors(&server, 1).await;
        let told = server.last_accept_error().unwrap();
        assert_eq!(told.kind(), ErrorKind::ConnectionAborted);
        assert!(told.to_string().contains("50ms"), "{told}");
        until_left(&server, 0).await;
        assert_eq!(log.events(), []);
    });
}

#[test]
fn a_server_that_closes_its_connections_does_not_wait_for_handshakes() {
    block_on_within(async {
        let log = Log::new();
        let server = serving(server(), &log).await;
        let silent = within(TcpStream::connect(server.local_addrs()[0])).await;
        let mut silent = silent.unwrap();
        within(async {
            while server.connections() == 0 {
                yield_now().await;
            }
        })
        .await;
        server.close();
        server.close_clients();
        within(server.wait_closed()).await;
        let mut nothing = Vec::new();
        within(silent.read_to_end(&mut nothing)).await.unwrap();
        assert_eq!(log.events(), []);
    });
}

#[test]
fn bytes_that_come_with_the_end_of_the_handshake_are_delivered_after_connection_made() {
    block_on_within(async {
        let (listener, to) = listening().await;
        let log = Log::new();
        let serving = async {
            let mut peer = accept(&listener).await.unwrap();
            peer.write_all(b"first words").await.unwrap();
            peer.close().await.unwrap();
            peer
        };
        let connecting = create_connection(|| Recorder::new(&log), to);
        let (made, mut peer) = within(future::zip(connecting, serving)).await;
        let (transport, _) = made.unwrap();
        let said = Event::Data(b"first words".to_vec());
        common::pairs::ends(&log, &transport, &[said, Event::Eof], None).await;
        assert_eq!(rest(&mut peer).await.unwrap(), b"");
    });
}

#[test]
fn a_call_that_is_given_up_closes_its_connection_at_any_point() {
    coracle::block_on(async {
        let mut given_up = 0;
        for polls in 0..12 {
            let (listener, options) = listening().await;
            let log = Log::new();
            let mut calling = Box::pin(create_connection(|| Recorder::new(&log), options));
            let mut made = None;
            // By hand, so that each step of the handshake is one at which it may be given up.
            let mut accepting = None;
            for _ in 0..polls {
                if made.is_none() {
                    made = future::poll_once(&mut calling).await;
                }
                if accepting.is_none() {
                    if let Some(accepted) = future::poll_once(listener.accept()).await {
                        let (tcp, _) = accepted.unwrap();
                        accepting = Some(spawn(TlsStream::accept(tcp, server())));
                    }
                }
                settle().await;
            }
            drop(calling);
            let is_made = made.is_some();
            if let Some(made) = made {
                made.unwrap().0.abort();
            } else {
                given_up += 1;
            }
            // Unless it is given up before it connects.
            let accepted = match accepting {
                Some(accepting) => Some(within(accepting).await),
                None => match future::poll_once(listener.accept()).await {
                    Some(accepted) => {
                        Some(within(TlsStream::accept(accepted.unwrap().0, server())).await)
                    }
                    None => None,
                },
            };
            if let Some(Ok(mut peer)) = accepted {
                let end = rest(&mut peer).await;
                assert!(end.is_ok() || is_made || log.events().is_empty());
            }
            // The driver may have been a step ahead of the call.
            if !log.events().is_empty() {
                log.until_lost().await;
            }
        }
        assert!((2..12).contains(&given_up), "{given_up}");
    });
}
