//! What the options of TLS are refused for.
#![cfg(feature = "tls")]

mod common;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::time::Duration;

use common::stream::Recorder;
use common::tls::{client, server};
use common::{block_on_within, within};
use coracle::tls::rustls::ServerConfig;
use coracle::{create_connection, create_server, TcpOptions, TcpServerOptions};

fn never() -> Recorder {
    panic!("the factory was called")
}

#[track_caller]
fn assert_names<T>(result: io::Result<T>, names: &str, given: impl Debug) {
    let Err(error) = result else {
        panic!("was accepted: {given:?}");
    };
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{given:?}: {error}");
    for name in names.split(' ') {
        assert!(error.to_string().contains(name), "{given:?}: {error}");
    }
}

const ZERO: Duration = Duration::ZERO;

/// An address that nothing is to be sent to.
fn nowhere() -> TcpOptions {
    TcpOptions::new().remote_addr("127.0.0.1:9")
}

#[test]
fn clients_are_refused_before_they_connect() {
    block_on_within(async {
        let tls = || nowhere().tls(client());
        for (options, names) in [
            (
                nowhere().server_hostname("localhost"),
                "server_hostname localhost tls",
            ),
            (nowhere().server_hostname(""), "server_hostname tls"),
            (
                nowhere().tls_handshake_timeout(Duration::MAX),
                "tls_handshake_timeout",
            ),
            (nowhere().tls_shutdown_timeout(ZERO), "tls_shutdown_timeout"),
            (
                tls().tls_handshake_timeout(ZERO),
                "tls_handshake_timeout zero",
            ),
            (
                tls().tls_shutdown_timeout(ZERO),
                "tls_shutdown_timeout zero",
            ),
            (tls().server_hostname(""), "server_hostname ''"),
            (
                tls().server_hostname("no name"),
                "server_hostname 'no name'",
            ),
            (tls().interleave(0), "interleave"),
            // Nothing that a name could come from.
            (TcpOptions::new().tls(client()), "server_hostname"),
            (
                TcpOptions::new().tls(client()).server_hostname("x.y"),
                "remote_addr",
            ),
        ] {
            let given = format!("{options:?}");
            let made = within(create_connection(never, options)).await;
            assert_names(made, names, given);
        }
    });
}

#[test]
fn servers_are_refused_before_they_listen() {
    block_on_within(async {
        let plain = || TcpServerOptions::new().local_addr("127.0.0.1:0");
        let tls = || plain().tls(server());
        for (options, names) in [
            (
                plain().tls_handshake_timeout(Duration::MAX),
                "tls_handshake_timeout tls",
            ),
            (
                plain().tls_shutdown_timeout(ZERO),
                "tls_shutdown_timeout tls",
            ),
            (
                tls().tls_handshake_timeout(ZERO),
                "tls_handshake_timeout zero",
            ),
            (
                tls().tls_shutdown_timeout(ZERO),
                "tls_shutdown_timeout zero",
            ),
            (TcpServerOptions::new().tls(server()), "local_addr"),
            (tls().tls(with_early_data()), "max_early_data_size"),
        ] {
            let given = format!("{options:?}");
            let made = within(create_server(never, options)).await;
            assert_names(made, names, given);
        }
    });
}

fn with_early_data() -> ServerConfig {
    let mut config = ServerConfig::clone(&server());
    config.max_early_data_size = 1000;
    config
}

#[test]
fn options_do_not_show_what_a_configuration_holds() {
    let text = format!("{:?}", TcpServerOptions::new().tls(server()));
    assert!(text.contains("tls: true"), "{text}");
    assert!(text.len() < 1000, "{text}");
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn accepted_sockets_are_closed_when_the_options_are_refused() {
    use coracle::{connect_accepted_socket, AcceptedOptions};
    use std::io::Read;

    block_on_within(async {
        let tls = || AcceptedOptions::new().tls(server());
        for (options, names) in [
            (
                AcceptedOptions::new().tls_shutdown_timeout(ZERO),
                "tls_shutdown_timeout tls",
            ),
            (
                tls().tls_handshake_timeout(ZERO),
                "tls_handshake_timeout zero",
            ),
            (
                AcceptedOptions::new().tls(with_early_data()),
                "max_early_data_size",
            ),
        ] {
            let given = format!("{options:?}");
            let (ours, mut peer) = common::tcp_connection::std_pair();
            let made = within(connect_accepted_socket(never, ours, options)).await;
            assert_names(made, names, given);
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "it is closed");
        }
    });
}

#[cfg(unix)]
mod unix {
    use super::*;
    use common::unix_connection::place;
    use coracle::{create_unix_connection, create_unix_server, UnixOptions, UnixServerOptions};

    #[test]
    fn unix_clients_need_a_name() {
        block_on_within(async {
            let (_folder, path) = place();
            let at = || UnixOptions::new().path(&path);
            let tls = || at().tls(client());
            for (options, names) in [
                (tls(), "tls server_hostname"),
                (at().server_hostname("localhost"), "server_hostname tls"),
                (tls().server_hostname(""), "server_hostname ''"),
                (at().tls_handshake_timeout(ZERO), "tls_handshake_timeout"),
                (
                    tls()
                        .server_hostname("localhost")
                        .tls_shutdown_timeout(ZERO),
                    "tls_shutdown_timeout zero",
                ),
            ] {
                let given = format!("{options:?}");
                let made = within(create_unix_connection(never, options)).await;
                assert_names(made, names, given);
            }
        });
    }

    #[test]
    fn unix_servers_take_no_path_that_they_cannot_serve() {
        block_on_within(async {
            let (_folder, path) = place();
            let tls = || UnixServerOptions::new().path(&path).tls(server());
            for (options, names) in [
                (
                    tls().tls_handshake_timeout(ZERO),
                    "tls_handshake_timeout zero",
                ),
                (tls().tls(with_early_data()), "max_early_data_size"),
            ] {
                let given = format!("{options:?}");
                let made = within(create_unix_server(never, options)).await;
                assert_names(made, names, given);
                assert!(!path.exists());
            }
        });
    }
}
