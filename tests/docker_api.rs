//! hyper as the client of a local service over its Unix socket, in the shapes of Docker's API:
//! what the `unix_http` example does not need of it.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use coracle::net::UnixStream;
use coracle::time::timeout;
use coracle::Task;
use futures_lite::io::AsyncReadExt;
use futures_lite::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use process::{python, Process, LIMIT};
use smol_hyper::rt::FuturesIo;

type Body = BoxBody<Bytes, Infallible>;
type Sender = SendRequest<Body>;

struct Docker {
    process: Process,
    socket: PathBuf,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Docker {
    fn start() -> Docker {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let (process, _) = Process::server(python("docker_api.py").arg(&socket));
        Docker {
            process,
            socket,
            _folder: folder,
        }
    }

    async fn stream(&self) -> FuturesIo<UnixStream> {
        FuturesIo::new(UnixStream::connect(&self.socket).await.unwrap())
    }

    /// A connection, and the task that drives it.
    async fn connect(&self) -> (Sender, Task<hyper::Result<()>>) {
        let (sender, connection) = http1::handshake(self.stream().await).await.unwrap();
        (sender, coracle::spawn(connection.with_upgrades()))
    }
}

fn full(data: &str) -> Body {
    Full::new(Bytes::copy_from_slice(data.as_bytes())).boxed()
}

async fn send(sender: &mut Sender, method: Method, path: &str, body: Body) -> Response<Incoming> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("Host", "docker").body(body).unwrap();
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap()
}

async fn get(sender: &mut Sender, path: &str) -> Response<Incoming> {
    send(sender, Method::GET, path, full("")).await
}

async fn post(sender: &mut Sender, path: &str, body: Body) -> Response<Incoming> {
    send(sender, Method::POST, path, body).await
}

async fn whole(answer: Response<Incoming>) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

/// Which of the server's connections an answer came over.
fn connection<T>(answer: &Response<T>) -> u32 {
    let number = answer.headers()["connection-number"].to_str().unwrap();
    number.parse().unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    coracle::block_on(timeout(LIMIT, future)).expect("the server or we hang")
}

fn log() -> Vec<u8> {
    let lines = (0..1_000_000).map(|number| format!("line {number}\n"));
    lines.collect::<String>().into_bytes()
}

const VERSION: &str = r#"{"Version": "24.0", "ApiVersion": "1.43"}"#;

#[test]
fn answers_of_all_kinds_come_over_one_connection() {
    let docker = Docker::start();
    block_on(async {
        let (mut sender, task) = docker.connect().await;
        let sender_ref = &mut sender;
        for _ in 0..20 {
            let version = get(sender_ref, "/version").await;
            assert_eq!(
                (version.status(), connection(&version)),
                (StatusCode::OK, 0)
            );
            assert_eq!(whole(version).await, VERSION);

            let list = whole(get(sender_ref, "/containers/json").await).await;
            let list = std::str::from_utf8(&list).unwrap();
            assert_eq!(list.matches("\"Id\"").count(), 10_000);
            assert!(list.ends_with(r#""Names": ["/name9999"]}]"#));

            let missing = send(sender_ref, Method::DELETE, "/nothing", full("")).await;
            assert_eq!(missing.status(), StatusCode::NOT_FOUND);
            let said = whole(missing).await;
            assert_eq!(said, r#"{"message": "page not found: /nothing"}"#);

            let conflict = post(sender_ref, "/containers/create", full("{}")).await;
            assert_eq!(
                (conflict.status(), connection(&conflict)),
                (StatusCode::CONFLICT, 0)
            );
            assert_eq!(whole(conflict).await, r#"{"message": "conflict"}"#);
        }
        // The next connection is the second.
        let (mut another, _task) = docker.connect().await;
        assert_eq!(connection(&get(&mut another, "/version").await), 1);
        drop(sender);
        task.await.unwrap();
    });
}

#[test]
fn events_come_when_they_happen() {
    let docker = Docker::start();
    block_on(async {
        let (mut sender, _task) = docker.connect().await;
        let (mut listener, _listening) = docker.connect().await;
        let mut events = get(&mut listener, "/events").await.into_body();
        for number in 0..200 {
            // The server says nothing more until this has come.
            let event = format!("{{\"start\": {number}}}");
            let answer = post(&mut sender, "/events", full(&event)).await;
            assert_eq!(answer.status(), StatusCode::NO_CONTENT);
            let frame = events.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
        post(&mut sender, "/events", full("")).await;
        assert!(events.frame().await.is_none());
        // Both connections go on.
        for sender in [&mut sender, &mut listener] {
            assert_eq!(whole(get(sender, "/version").await).await, VERSION);
        }
    });
}

#[test]
fn a_log_of_many_chunks_is_whole() {
    let docker = Docker::start();
    block_on(async {
        let (mut sender, _task) = docker.connect().await;
        let came = whole(get(&mut sender, "/containers/name1/logs").await).await;
        assert!(came == log(), "{} bytes", came.len());
        assert_eq!(whole(get(&mut sender, "/version").await).await, VERSION);
    });
}

#[test]
fn what_is_built_is_sent_in_chunks_and_comes_back() {
    let docker = Docker::start();
    let log = log();
    let pieces = log.chunks(54_321).map(Bytes::copy_from_slice);
    let pieces: Vec<_> = pieces.map(|piece| Ok(Frame::data(piece))).collect();
    block_on(async {
        let (mut sender, _task) = docker.connect().await;
        let body = BodyExt::boxed(StreamBody::new(stream::iter(pieces)));
        let came = whole(post(&mut sender, "/build", body).await).await;
        assert!(came == log, "{} bytes", came.len());
    });
}

#[test]
fn an_attached_container_takes_over_the_connection() {
    let docker = Docker::start();
    block_on(async {
        let (mut sender, _task) = docker.connect().await;
        let request = Request::post("/containers/name1/attach")
            .header("Host", "docker")
            .header("Connection", "Upgrade")
            .header("Upgrade", "tcp")
            .body(full(""))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(answer).await.unwrap();
        let parts = upgraded.downcast::<FuturesIo<UnixStream>>().unwrap();
        assert!(parts.read_buf.is_empty());
        // It is the stream that it was.
        let mut stream = parts.io.into_inner();
        let mut buf = [0; 5];
        for _ in 0..100 {
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut buf).await.unwrap();
            assert_eq!(&buf, b"HELLO");
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "<exit>");
    });
}

#[test]
fn a_reader_that_has_enough_of_an_endless_log_ends_its_connection() {
    let docker = Docker::start();
    block_on(async {
        let (mut listener, _listening) = docker.connect().await;
        let mut events = get(&mut listener, "/events").await.into_body();
        let (mut sender, task) = docker.connect().await;
        let mut log = get(&mut sender, "/containers/name2/logs").await.into_body();
        let mut came = 0;
        while came < 10_000_000 {
            came += log
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .len();
        }
        drop((log, task));
        let frame = events.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "reader gone");
    });
}

#[test]
fn a_server_that_dies_in_the_middle_of_an_answer_is_told_from_its_end() {
    let docker = Docker::start();
    block_on(async {
        let (mut idle, idle_task) = docker.connect().await;
        assert_eq!(whole(get(&mut idle, "/version").await).await, VERSION);
        let (mut sender, task) = docker.connect().await;
        let mut log = get(&mut sender, "/containers/name2/logs").await.into_body();
        log.frame().await.unwrap().unwrap();
        let Docker {
            process,
            socket,
            _folder,
        } = docker;
        drop(process);
        // What had come is read, and then it is an error.
        let error = loop {
            match log.frame().await.expect("it does not seem whole") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        let reason = error.source().and_then(|reason| reason.downcast_ref());
        assert_eq!(
            reason.map(io::Error::kind),
            Some(ErrorKind::UnexpectedEof),
            "{error:?}"
        );
        drop(log);
        // One that asked for nothing has lost nothing.
        idle_task.await.unwrap();
        assert!(idle.ready().await.unwrap_err().is_closed());
        drop(sender);
        let _ = task.await;
        let gone = UnixStream::connect(&socket).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_hundred_connections_ask_at_a_time() {
    let docker = Docker::start();
    block_on(async {
        let mut tasks = Vec::new();
        for number in 0..100 {
            let (mut sender, connection) = docker.connect().await;
            tasks.push(coracle::spawn(async move {
                for round in 0..10 {
                    let body = format!("{number} in round {round};").repeat(1_000);
                    let answer = post(&mut sender, "/build", full(&body)).await;
                    assert!(whole(answer).await == body, "{number} in round {round}");
                }
                drop(sender);
                connection.await.unwrap();
            }));
        }
        for task in tasks {
            task.await;
        }
    });
}

#[cfg(feature = "async-io")]
#[test]
fn any_executor_drives_the_connection() {
    let docker = Docker::start();
    let asking = async {
        let handshake = http1::handshake::<_, Body>(docker.stream().await);
        let (mut sender, connection) = handshake.await.unwrap();
        let task = smol::spawn(connection);
        let came = whole(get(&mut sender, "/containers/name1/logs").await).await;
        assert!(came == log(), "{} bytes", came.len());
        drop(sender);
        task.await.unwrap();
    };
    smol::block_on(timeout(LIMIT, asking)).expect("the server or we hang");
}
