//! Redis over its Unix socket with the messages of the `redis-protocol` crate, over `UnixStream` as
//! tokio-util's codecs take it: the `unix_redis` example, and what it does not need.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/redis.rs"]
mod server;

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::path::Path;

use coracle::net::UnixStream;
use coracle::time::timeout;
use futures_lite::{future, stream, StreamExt};
use futures_util::SinkExt;
use process::{example, run, Done, LIMIT};
use redis_protocol::codec::{resp2_encode_command, Resp2, Resp3};
use redis_protocol::error::RedisProtocolErrorKind;
use redis_protocol::resp2::types::BytesFrame as Frame;
use redis_protocol::resp3::types::{BytesFrame as Frame3, RespVersion};
use server::Redis;
use tokio_util::codec::{Framed, FramedRead, FramedWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt};

const KEYS: usize = 10_000;

fn block_on<F: Future>(future: F) -> F::Output {
    coracle::block_on(timeout(LIMIT, future)).expect("Redis or we hang")
}

type Session<C> = Framed<Compat<UnixStream>, C>;

async fn connect<C: Default>(socket: &Path) -> Session<C> {
    let stream = UnixStream::connect(socket).await.unwrap();
    Framed::new(stream.compat(), C::default())
}

/// Sends a command, and gives the reply.
async fn ask(session: &mut Session<Resp2>, command: &str) -> Frame {
    session.send(resp2_encode_command(command)).await.unwrap();
    session.next().await.unwrap().unwrap()
}

fn command(words: &[&[u8]]) -> Frame {
    let words = words
        .iter()
        .map(|word| Frame::BulkString(word.to_vec().into()));
    Frame::Array(words.collect())
}

fn simple(text: &'static str) -> Frame {
    Frame::SimpleString(text.into())
}

fn bulk(data: &[u8]) -> Frame {
    Frame::BulkString(data.to_vec().into())
}

/// Of many sizes and any bytes, those that end lines among them.
fn value(number: usize) -> Vec<u8> {
    (0..number % 2_000)
        .map(|at| (at * 31 + number) as u8)
        .collect()
}

/// What the example says to commands.
fn session(socket: &Path, commands: &[&str]) -> Done {
    run(example("unix_redis").arg(socket).args(commands))
}

fn assert_says(done: &Done, code: i32, stdout: &str) {
    let said = (done.status.code(), &done.stdout[..], &done.stderr[..]);
    assert_eq!(said, (Some(code), stdout, ""));
}

fn assert_fails(done: &Done, said: &str) {
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains(said), "{done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn the_example_prints_replies_of_all_kinds_in_their_order() {
    let redis = Redis::start();
    let commands = [
        "PING",
        "SET greeting hello",
        "GET greeting",
        "APPEND greeting !",
        "GET missing",
        "RPUSH list a b",
        "MGET greeting missing",
        "EVAL return{1,{2,'x'}} 0",
    ];
    let said = "PONG\nOK\nhello\n6\n(nil)\n2\n(2 replies)\nhello!\n(nil)\n\
                (2 replies)\n1\n(2 replies)\n  2\n  x\n";
    assert_says(&session(&redis.socket, &commands), 0, said);
}

#[test]
fn the_example_tells_an_error_and_goes_on() {
    let redis = Redis::start();
    let done = session(&redis.socket, &["SET a b", "INCR a", "LPOP a", "GET a"]);
    let said = "OK\n(error) ERR value is not an integer or out of range\n\
                (error) WRONGTYPE Operation against a key holding the wrong kind of value\nb\n";
    assert_says(&done, 3, said);
}

#[test]
fn the_example_sends_many_commands_at_once() {
    let redis = Redis::start();
    let mut said = String::new();
    for number in 1..=2_000 {
        said += &format!("{number}\n");
    }
    let done = session(&redis.socket, &["INCR number"; 2_000]);
    assert_says(&done, 0, &said);
}

#[test]
fn the_example_tells_what_fails() {
    let mut redis = Redis::start();
    let path = redis.socket.to_str().unwrap();
    // Redis ends the connection in the middle.
    let done = session(&redis.socket, &["PING", "QUIT", "PING"]);
    assert_fails(&done, &format!("{path}: unexpected end of file"));
    assert_eq!(done.stdout, "PONG\nOK\n");

    redis.process.signal("KILL");
    redis.process.wait();
    assert_fails(&session(&redis.socket, &["PING"]), path);

    let folder = tempfile::tempdir().unwrap();
    let silent = folder.path().join("silent");
    // The system accepts for it.
    let _silent = UnixListener::bind(&silent).unwrap();
    assert_fails(&session(&silent, &["PING"]), "Redis is silent");

    for args in [&[][..], &["/tmp/x"]] {
        let done = run(example("unix_redis").args(args));
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        assert_eq!(done.stderr, "usage: unix_redis SOCKET COMMAND...\n");
    }
}

#[test]
fn both_halves_of_a_pipeline_are_codecs() {
    let redis = Redis::start();
    block_on(async {
        let stream = UnixStream::connect(&redis.socket).await.unwrap();
        let (read, write) = stream.into_split();
        let mut requests = FramedWrite::new(write.compat_write(), Resp2::default());
        let mut replies = FramedRead::new(read.compat(), Resp2::default());
        let set = |n: usize| command(&[b"SET", n.to_string().as_bytes(), &value(n)]);
        let get = |n: usize| command(&[b"GET", n.to_string().as_bytes()]);
        let commands = (0..KEYS).map(set).chain((0..KEYS).map(get));
        let mut commands = stream::iter(commands.map(Ok));
        let send = async {
            requests.send_all(&mut commands).await.unwrap();
        };
        let receive = async {
            for _ in 0..KEYS {
                assert_eq!(replies.next().await.unwrap().unwrap(), simple("OK"));
            }
            for number in 0..KEYS {
                let reply = replies.next().await.unwrap().unwrap();
                assert!(reply == bulk(&value(number)), "{number}");
            }
        };
        future::zip(send, receive).await;
    });
}

#[test]
fn a_value_of_8_mib_comes_back() {
    let redis = Redis::start();
    let large: Vec<u8> = (0..8 << 20).map(|at: u32| (at / 7) as u8).collect();
    block_on(async {
        let mut redis = connect::<Resp2>(&redis.socket).await;
        redis
            .send(command(&[b"SET", b"large", &large]))
            .await
            .unwrap();
        assert_eq!(redis.next().await.unwrap().unwrap(), simple("OK"));
        assert!(ask(&mut redis, "GET large").await == Frame::BulkString(large.into()));
    });
}

#[test]
fn version_three_of_the_protocol_is_spoken() {
    let redis = Redis::start();
    block_on(async {
        let mut redis = connect::<Resp3>(&redis.socket).await;
        let hello = Frame3::Hello {
            version: RespVersion::RESP3,
            auth: None,
            setname: None,
        };
        redis.send(hello).await.unwrap();
        let hello = redis.next().await.unwrap().unwrap();
        let Frame3::Map { data, .. } = hello else {
            panic!("{hello:?}");
        };
        let text = |text: &'static str| Frame3::BlobString {
            data: text.into(),
            attributes: None,
        };
        assert_eq!(data[&text("server")], text("redis"));
        let number = Frame3::Number {
            data: 3,
            attributes: None,
        };
        assert_eq!(data[&text("proto")], number);
    });
}

#[test]
fn what_is_published_comes_to_all_subscribers() {
    let redis = Redis::start();
    block_on(async {
        let mut subscribers = Vec::new();
        for _ in 0..50 {
            let mut subscriber = connect::<Resp2>(&redis.socket).await;
            let reply = ask(&mut subscriber, "SUBSCRIBE news").await;
            let subscribed = [bulk(b"subscribe"), bulk(b"news"), Frame::Integer(1)];
            assert_eq!(reply, Frame::Array(subscribed.into()));
            subscribers.push(coracle::spawn(async move {
                for number in 0..200 {
                    let message = subscriber.next().await.unwrap().unwrap();
                    let text = number.to_string();
                    let expected = [bulk(b"message"), bulk(b"news"), bulk(text.as_bytes())];
                    assert_eq!(message, Frame::Array(expected.into()));
                }
            }));
        }
        let mut publisher = connect::<Resp2>(&redis.socket).await;
        for number in 0..200 {
            let reply = ask(&mut publisher, &format!("PUBLISH news {number}")).await;
            assert_eq!(reply, Frame::Integer(50));
        }
        for subscriber in subscribers {
            subscriber.await;
        }
    });
}

#[test]
fn one_who_waits_for_an_item_holds_up_nobody() {
    let redis = Redis::start();
    block_on(async {
        let mut waiting = connect::<Resp2>(&redis.socket).await;
        waiting
            .send(resp2_encode_command("BLPOP list 0"))
            .await
            .unwrap();
        let mut other = connect::<Resp2>(&redis.socket).await;
        // A wait that is given up loses nothing.
        assert!(future::poll_once(waiting.next()).await.is_none());
        assert_eq!(ask(&mut other, "PING").await, simple("PONG"));
        assert_eq!(ask(&mut other, "RPUSH list item").await, Frame::Integer(1));
        let item = Frame::Array(vec![bulk(b"list"), bulk(b"item")]);
        assert_eq!(waiting.next().await.unwrap().unwrap(), item);
    });
}

#[test]
fn a_server_that_is_killed_ends_every_session() {
    let mut redis = Redis::start();
    block_on(async {
        let mut sessions = Vec::new();
        for _ in 0..20 {
            let mut session = connect::<Resp2>(&redis.socket).await;
            assert_eq!(ask(&mut session, "PING").await, simple("PONG"));
            sessions.push(session);
        }
        redis.process.signal("KILL");
        redis.process.wait();
        for session in &mut sessions {
            assert!(session.next().await.is_none());
            // It is not taken for sent either.
            let error = session.send(command(&[b"PING"])).await.unwrap_err();
            let RedisProtocolErrorKind::IO(error) = error.kind() else {
                panic!("{error}");
            };
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn bytes_that_are_no_redis_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    block_on(async {
        for (said, kind) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "Decode"),
            // The connection ends in the middle.
            (b"$10\r\nhel", "IO"),
        ] {
            let mut session = connect::<Resp2>(&path).await;
            let (mut peer, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut peer, said).unwrap();
            drop(peer);
            let error = session.next().await.unwrap().unwrap_err();
            assert!(error.kind().to_str().starts_with(kind), "{error}");
        }
    });
}
