//! A real Redis server over a Unix socket: pipelines of thousands of commands, through an endpoint
//! with a protocol that parses, and through a socket.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/redis.rs"]
mod server;

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use coracle::net::UnixStream;
use coracle::time::timeout;
use coracle::{create_unix_connection, Protocol, ProtocolHandle, Transport, UnixOptions};
use futures_lite::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use process::LIMIT;
use server::Redis;

const KEYS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

impl Reply {
    fn ok() -> Reply {
        Reply::Simple("OK".into())
    }

    fn bulk(data: &[u8]) -> Reply {
        Reply::Bulk(Some(data.into()))
    }
}

/// The reply that the bytes begin with and how long it is; `None` if it is not whole.
fn parse(data: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let Some(end) = data.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "this is not Redis");
    let line = std::str::from_utf8(&data[..end]).map_err(|_| malformed())?;
    let mut at = end + 2;
    let text = line.get(1..).ok_or_else(malformed)?;
    let number = || text.parse::<i64>().map_err(|_| malformed());
    let reply = match line.as_bytes()[0] {
        b'+' => Reply::Simple(text.into()),
        b'-' => Reply::Error(text.into()),
        b':' => Reply::Integer(number()?),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Reply::Bulk(None),
            Ok(len) => {
                let Some(body) = data.get(at..at + len + 2) else {
                    return Ok(None);
                };
                at += len + 2;
                Reply::bulk(body.strip_suffix(b"\r\n").ok_or_else(malformed)?)
            }
        },
        b'*' => {
            let mut replies = Vec::new();
            for _ in 0..number()? {
                let Some((reply, len)) = parse(&data[at..])? else {
                    return Ok(None);
                };
                replies.push(reply);
                at += len;
            }
            Reply::Array(replies)
        }
        _ => return Err(malformed()),
    };
    Ok(Some((reply, at)))
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut data = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        data.extend(format!("${}\r\n", word.len()).bytes());
        data.extend(*word);
        data.extend(b"\r\n");
    }
    data
}

fn key(number: usize) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

/// Of many sizes and any bytes, those that end lines among them; 10 MB are all of them.
fn value(number: usize) -> Vec<u8> {
    (0..number % 2_000)
        .map(|at| (at * 31 + number) as u8)
        .collect()
}

fn set(number: usize) -> Vec<u8> {
    command(&[b"SET", &key(number), &value(number)])
}

fn get(number: usize) -> Vec<u8> {
    command(&[b"GET", &key(number)])
}

/// Checks replies in their order as they come.
#[derive(Default)]
struct Client {
    input: Vec<u8>,
    expected: VecDeque<Reply>,
    replies: usize,
    /// `pause_writing` and `resume_writing` so far.
    pauses: usize,
    resumes: usize,
}

impl Protocol for Client {
    fn data_received(&mut self, _: &Transport, data: &[u8]) -> io::Result<()> {
        self.input.extend(data);
        let mut at = 0;
        while let Some((reply, len)) = parse(&self.input[at..])? {
            at += len;
            if self.expected.pop_front() != Some(reply) {
                return Err(io::Error::other(format!("reply {} is wrong", self.replies)));
            }
            self.replies += 1;
        }
        self.input.drain(..at);
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) {
        assert_eq!(self.pauses, self.resumes);
        self.pauses += 1;
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.resumes += 1;
        assert_eq!(self.pauses, self.resumes);
    }
}

async fn connect(redis: &Redis) -> (Transport, ProtocolHandle<Client>) {
    let options = UnixOptions::new().path(&redis.socket);
    create_unix_connection(Client::default, options)
        .await
        .unwrap()
}

/// Sends a command once the queue has room, and has its reply checked.
async fn ask(
    transport: &Transport,
    client: &ProtocolHandle<Client>,
    command: &[u8],
    reply: Reply,
) -> io::Result<()> {
    client.with(|client| client.expected.push_back(reply));
    transport.write(command)?;
    let (_, high) = transport.write_buffer_limits();
    assert!(transport.write_buffer_size() <= high + command.len());
    transport.drain().await
}

/// Has Redis close the connection after its last reply, and gives what came of it.
async fn quit(transport: &Transport, client: ProtocolHandle<Client>) -> Client {
    ask(transport, &client, &command(&[b"QUIT"]), Reply::ok())
        .await
        .unwrap();
    let (client, result) = client.lost().await;
    result.unwrap();
    assert_eq!((client.expected.len(), client.input.len()), (0, 0));
    assert_eq!(client.pauses, client.resumes);
    assert_eq!(transport.dropped(), 0);
    client
}

fn block_on<F: std::future::Future>(future: F) -> F::Output {
    coracle::block_on(timeout(LIMIT, future)).expect("Redis or we hang")
}

#[test]
fn an_endpoint_understands_replies_of_all_kinds() {
    let redis = Redis::start();
    block_on(async {
        let (transport, client) = connect(&redis).await;
        let bulk = Reply::bulk;
        let wrong = "ERR value is not an integer or out of range";
        let array = Reply::Array(vec![bulk(b"\r\n$3\r\n"), Reply::Bulk(None)]);
        let words: &[(&[&[u8]], Reply)] = &[
            (&[b"PING"], Reply::Simple("PONG".into())),
            (&[b"ECHO", b""], bulk(b"")),
            (&[b"GET", b"missing"], Reply::Bulk(None)),
            (&[b"SET", b"key", b"\r\n$3\r\n"], Reply::ok()),
            (&[b"GET", b"key"], bulk(b"\r\n$3\r\n")),
            (&[b"INCR", b"key"], Reply::Error(wrong.into())),
            (&[b"DECRBY", b"number", b"7"], Reply::Integer(-7)),
            (&[b"MGET", b"key", b"missing"], array),
            (&[b"DBSIZE"], Reply::Integer(2)),
        ];
        for (words, reply) in words {
            ask(&transport, &client, &command(words), reply.clone())
                .await
                .unwrap();
        }
        assert_eq!(quit(&transport, client).await.replies, words.len() + 1);
    });
}

#[test]
fn an_endpoint_writes_and_reads_thousands_of_keys_in_one_pipeline() {
    let redis = Redis::start();
    block_on(async {
        let (transport, client) = connect(&redis).await;
        for number in 0..KEYS {
            let reply = Reply::ok();
            ask(&transport, &client, &set(number), reply).await.unwrap();
        }
        for number in 0..KEYS {
            let reply = Reply::bulk(&value(number));
            ask(&transport, &client, &get(number), reply).await.unwrap();
        }
        assert_eq!(quit(&transport, client).await.replies, 2 * KEYS + 1);
    });
    assert_eq!(size(&redis.socket), KEYS);
}

/// Writes commands from its callbacks: as many as there is room for, and on when there is room again.
struct Writer {
    next: usize,
    client: Client,
}

impl Writer {
    fn fill(&mut self, transport: &Transport) {
        let (_, high) = transport.write_buffer_limits();
        while self.next < KEYS && transport.write_buffer_size() <= high {
            self.client.expected.push_back(Reply::ok());
            transport.write(&set(self.next)).unwrap();
            self.next += 1;
        }
    }
}

impl Protocol for Writer {
    fn connection_made(&mut self, transport: &Transport) {
        self.fill(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        self.client.data_received(transport, data)?;
        if self.client.replies == KEYS {
            transport.close();
        }
        Ok(())
    }

    fn resume_writing(&mut self, transport: &Transport) {
        self.fill(transport);
    }
}

#[test]
fn a_protocol_that_fills_the_queue_is_called_when_there_is_room_again() {
    let redis = Redis::start();
    let writer = || Writer {
        next: 0,
        client: Client::default(),
    };
    let (writer, result) = block_on(async {
        let options = UnixOptions::new().path(&redis.socket);
        let (_, writer) = create_unix_connection(writer, options).await.unwrap();
        writer.lost().await
    });
    result.unwrap();
    assert_eq!(writer.client.replies, KEYS);
    assert_eq!(size(&redis.socket), KEYS);
}

#[test]
fn a_server_that_stands_still_holds_up_the_writer_and_loses_nothing() {
    let redis = Redis::start();
    block_on(async {
        let (transport, client) = connect(&redis).await;
        redis.process.signal("STOP");
        let mut number = 0;
        // As much as the system takes, and the queue.
        while client.with(|client| client.pauses) == 0 {
            client.with(|client| client.expected.push_back(Reply::ok()));
            transport.write(&set(number)).unwrap();
            coracle::yield_now().await;
            number += 1;
            assert!(number < KEYS, "nothing pauses the writer");
        }
        let (_, high) = transport.write_buffer_limits();
        assert!(transport.write_buffer_size() > high);
        let mut waiting = Box::pin(transport.drain());
        assert!(futures_lite::future::poll_once(&mut waiting)
            .await
            .is_none());
        assert_eq!(client.with(|client| client.replies), 0);

        redis.process.signal("CONT");
        waiting.await.unwrap();
        for number in number..KEYS {
            let reply = Reply::ok();
            ask(&transport, &client, &set(number), reply).await.unwrap();
        }
        for number in 0..KEYS {
            let reply = Reply::bulk(&value(number));
            ask(&transport, &client, &get(number), reply).await.unwrap();
        }
        assert_eq!(quit(&transport, client).await.replies, 2 * KEYS + 1);
    });
}

#[test]
fn a_server_that_is_shut_down_ends_the_connection() {
    let redis = Redis::start();
    block_on(async {
        let (transport, client) = connect(&redis).await;
        client.with(|client| client.expected.push_back(Reply::ok()));
        transport
            .write(&command(&[b"SHUTDOWN", b"NOSAVE"]))
            .unwrap();
        let (client, result) = client.lost().await;
        result.unwrap();
        assert_eq!(client.replies, 0);
        assert!(transport.is_closing());
    });
    let options = UnixOptions::new().path(&redis.socket);
    let again = block_on(create_unix_connection(Client::default, options));
    assert!(again.is_err());
}

/// Reads replies from a socket.
struct Replies<'a> {
    from: BufReader<&'a UnixStream>,
}

impl Replies<'_> {
    async fn next(&mut self) -> io::Result<Reply> {
        let mut data = Vec::new();
        self.from.read_until(b'\n', &mut data).await?;
        if data.first() == Some(&b'$') && data != b"$-1\r\n" {
            let len = std::str::from_utf8(&data[1..data.len() - 2]).unwrap();
            let begun = data.len();
            data.resize(begun + len.parse::<usize>().unwrap() + 2, 0);
            self.from.read_exact(&mut data[begun..]).await?;
        }
        match parse(&data)? {
            Some((reply, len)) if len == data.len() => Ok(reply),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// How many keys there are.
fn size(socket: &Path) -> usize {
    block_on(async {
        let stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&command(&[b"DBSIZE"])).await.unwrap();
        let from = BufReader::new(&stream);
        match (Replies { from }).next().await.unwrap() {
            Reply::Integer(count) => count as usize,
            reply => panic!("{reply:?}"),
        }
    })
}

#[test]
fn a_socket_writes_and_reads_thousands_of_keys_in_one_pipeline() {
    let redis = Redis::start();
    block_on(async {
        let stream = UnixStream::connect(&redis.socket).await.unwrap();
        let write = async {
            stream.write_all(&command(&[b"PING"])).await?;
            for number in 0..KEYS {
                stream.write_all(&set(number)).await?;
            }
            for number in 0..KEYS {
                stream.write_all(&get(number)).await?;
            }
            io::Result::Ok(())
        };
        let read = async {
            let from = BufReader::new(&stream);
            let mut replies = Replies { from };
            assert_eq!(replies.next().await?, Reply::Simple("PONG".into()));
            for _ in 0..KEYS {
                assert_eq!(replies.next().await?, Reply::ok());
            }
            for number in 0..KEYS {
                assert_eq!(replies.next().await?, Reply::bulk(&value(number)));
            }
            io::Result::Ok(())
        };
        futures_lite::future::try_zip(write, read).await.unwrap();
    });
    assert_eq!(size(&redis.socket), KEYS);
}

#[test]
fn the_halves_of_a_socket_work_in_tasks_of_their_own() {
    let redis = Redis::start();
    block_on(async {
        let stream = UnixStream::connect(&redis.socket).await.unwrap();
        let (read, write) = stream.into_split();
        let writer = coracle::spawn(async move {
            for number in 0..KEYS {
                let pair = [set(number), get(number)].concat();
                write.write_all(&pair).await.unwrap();
            }
            write
        });
        let from = BufReader::new(&*read);
        let mut replies = Replies { from };
        for number in 0..KEYS {
            assert_eq!(replies.next().await.unwrap(), Reply::ok());
            assert_eq!(replies.next().await.unwrap(), Reply::bulk(&value(number)));
        }
        // Not before: Redis takes the end of one direction for that of the connection.
        drop(writer.await);
        let end = replies.next().await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    });
}
