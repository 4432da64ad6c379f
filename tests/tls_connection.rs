//! TLS connections and servers: what they exchange, how they end, what they refuse.
#![cfg(feature = "tls")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use common::stream::{Event, Log, Recorder};
use common::tls::{self, NAME};
use common::{block_on_within, within};
use coracle::tls::rustls::{ClientConfig, ProtocolVersion, ServerConfig};
use coracle::{create_connection, create_server, Server, TcpOptions, TcpServerOptions, Transport};

/// A server that records and echoes.
async fn serving(config: Arc<ServerConfig>, log: &Log) -> Server {
    let log = log.clone();
    let options = TcpServerOptions::new()
        .local_addr("127.0.0.1:0")
        .tls(config);
    within(create_server(move || Recorder::echoing(&log), options))
        .await
        .unwrap()
}

fn to(server: &Server, config: Arc<ClientConfig>) -> TcpOptions {
    TcpOptions::new()
        .remote_addr(server.local_addrs()[0])
        .tls(config)
        .server_hostname(NAME)
}

async fn connect(options: TcpOptions) -> (Transport, Log) {
    let log = Log::new();
    let made = within(create_connection(|| Recorder::new(&log), options)).await;
    (made.unwrap().0, log)
}

#[test]
fn bytes_go_there_and_come_back_over_every_version() {
    for (versions, version) in [
        (tls::ONLY_13, ProtocolVersion::TLSv1_3),
        (tls::ONLY_12, ProtocolVersion::TLSv1_2),
    ] {
        block_on_within(async {
            let there = Log::new();
            let server = serving(tls::server(), &there).await;
            let config = Arc::new(tls::client_of(versions, "ca", None));
            let (transport, log) = connect(to(&server, config)).await;
            assert_eq!(
                transport.tls_info().unwrap().protocol_version(),
                Some(version)
            );
            for size in [1, 100, 16 * 1024, 16 * 1024 + 1, 1_000_000] {
                let data: Vec<u8> = (0..size).map(|n| n as u8).collect();
                let before = log.data().len();
                transport.write(&data).unwrap();
                log.until_len(before + size).await;
                assert!(
                    log.data()[before..] == data,
                    "{size} bytes came back different"
                );
            }
            transport.close();
            within(transport.closed()).await.unwrap();
            assert_eq!(log.events().last(), Some(&Event::Lost(None)));
            there.until_lost().await;
            let ends = there.events();
            assert_eq!(ends[ends.len() - 2..], [Event::Eof, Event::Lost(None)]);
        });
    }
}

#[test]
fn a_wrong_name_is_refused_by_the_client_and_told_to_the_server() {
    block_on_within(async {
        let there = Log::new();
        let server = serving(tls::server(), &there).await;
        let options = to(&server, tls::client()).server_hostname("other.example");
        let factory = || -> Recorder { panic!("there is no connection") };
        let error = within(create_connection(factory, options))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains("other.example"), "{error}");
        within(async {
            while server.accept_errors() == 0 {
                coracle::yield_now().await;
            }
        })
        .await;
        let told = server.last_accept_error().unwrap().to_string();
        assert!(told.contains("alert"), "{told}");
        assert_eq!(there.events(), [], "the protocol hears nothing");
    });
}
