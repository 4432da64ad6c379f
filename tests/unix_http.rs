//! HTTP over Unix sockets with servers that others have written, nginx and Python: the `unix_http`
//! example as their client, and connections that are kept for many requests.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/http.rs"]
mod server;

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use coracle::net::UnixStream;
use coracle::time::timeout;
use coracle::{create_unix_connection, Protocol, Transport, UnixOptions};
use futures_lite::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use process::{example, run, tool, Done, LIMIT};
use server::{content, text, Server, SIZES};

/// What the example says to a path.
fn get(socket: &Path, path: &str) -> Done {
    run(example("unix_http").arg(socket).arg(path))
}

/// The status line and the body come, and the exit code is this.
fn assert_gets(done: &Done, code: i32, status_line: &str, body: &str) {
    assert_eq!(
        (done.status.code(), &done.stderr[..]),
        (Some(code), ""),
        "{status_line}"
    );
    let (first, rest) = done.stdout.split_once('\n').unwrap();
    assert_eq!(first, status_line);
    assert!(rest == body, "{} bytes, not {}", rest.len(), body.len());
}

/// No whole answer comes, and the reason is told.
fn assert_fails(done: &Done, said: &str) {
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains(said), "{done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn files_of_all_sizes_come_from_nginx() {
    let server = Server::nginx();
    for size in SIZES {
        let content = content(size);
        for folder in ["", "/closing", "/slow", "/zipped"] {
            let done = get(&server.socket, &format!("{folder}/{size}"));
            assert_gets(&done, 0, "HTTP/1.1 200 OK", &content);
        }
    }
}

#[test]
fn files_of_all_sizes_come_from_python() {
    let server = Server::python();
    for size in SIZES {
        let done = get(&server.socket, &format!("/{size}"));
        assert_gets(&done, 0, "HTTP/1.1 200 OK", &content(size));
    }
}

#[test]
fn chunks_come_from_nginx() {
    let server = Server::nginx();
    let body = format!("{}and{}", content(1_000), content(1_000_000));
    assert_gets(
        &get(&server.socket, "/page.shtml"),
        0,
        "HTTP/1.1 200 OK",
        &body,
    );
}

#[test]
fn what_is_no_success_is_printed_and_told_by_the_exit_code() {
    let server = Server::nginx();
    assert_gets(
        &get(&server.socket, "/gone"),
        3,
        "HTTP/1.1 410 Gone",
        "no more\n",
    );
    let missing = get(&server.socket, "/missing");
    assert_eq!(missing.status.code(), Some(3));
    assert!(
        missing.stdout.starts_with("HTTP/1.1 404 Not Found\n<html>"),
        "{missing:?}"
    );

    let server = Server::python();
    let failed = get(&server.socket, "/as/failed");
    assert_gets(&failed, 3, "HTTP/1.1 500 Internal Server Error", "sorry");
    assert_gets(
        &get(&server.socket, "/as/moved"),
        3,
        "HTTP/1.1 301 Moved Permanently",
        "",
    );
}

#[test]
fn a_connection_is_kept_for_many_paths_or_made_anew() {
    // The second folder's answers end their connections.
    for (server, folder) in [
        (Server::nginx(), ""),
        (Server::nginx(), "/closing"),
        (Server::python(), ""),
    ] {
        let paths = [1_000, 0, 65_536].map(|size| format!("{folder}/{size}"));
        let done = run(example("unix_http").arg(&server.socket).args(&paths));
        let (first, last) = (content(1_000), content(65_536));
        let ok = "HTTP/1.1 200 OK\n";
        let body = format!("{first}\n{ok}\n{ok}{last}");
        assert_gets(&done, 0, "HTTP/1.1 200 OK", &body);
    }
}

#[test]
fn one_answer_that_is_no_success_is_enough_for_the_exit_code() {
    let server = Server::nginx();
    let done = run(example("unix_http")
        .arg(&server.socket)
        .args(["/1", "/gone", "/0"]));
    let body = "l\nHTTP/1.1 410 Gone\nno more\n\nHTTP/1.1 200 OK\n";
    assert_gets(&done, 3, "HTTP/1.1 200 OK", body);
}

#[test]
fn many_ask_nginx_at_a_time() {
    let server = Server::nginx();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let done = get(&server.socket, "/65536");
                assert_gets(&done, 0, "HTTP/1.1 200 OK", &content(65_536));
            });
        }
    });
}

#[test]
fn bodies_end_as_their_form_says() {
    let server = Server::python();
    for path in "length length-and-more bare-lines interim chunks".split(' ') {
        let done = get(&server.socket, &format!("/as/{path}"));
        assert_gets(&done, 0, "HTTP/1.1 200 OK", "hello");
    }
    assert_gets(
        &get(&server.socket, "/as/no-reason"),
        0,
        "HTTP/1.1 200 OK",
        "hello",
    );
    assert_gets(&get(&server.socket, "/as/empty"), 0, "HTTP/1.1 200 OK", "");
    let nothing = get(&server.socket, "/as/no-content");
    assert_gets(&nothing, 0, "HTTP/1.1 204 No Content", "");
    let nothing = get(&server.socket, "/as/nothing-new");
    assert_gets(&nothing, 3, "HTTP/1.1 304 Not Modified", "");

    let lines: String = (0..2000).map(|number| format!("line {number}\n")).collect();
    let closed = get(&server.socket, "/as/until-closed");
    assert_gets(&closed, 0, "HTTP/1.0 200 OK", &lines);
    // One byte at a time, however the borders fall.
    assert_gets(
        &get(&server.socket, "/as/pieces"),
        0,
        "HTTP/1.1 200 OK",
        &lines,
    );
}

#[test]
fn the_request_is_one_that_servers_understand() {
    let server = Server::python();
    let done = get(&server.socket, "/as/request?a=b&c=%20d");
    let missing = "HTTP/1.1 404 Not Found";
    assert_eq!(done.stdout.lines().next(), Some(missing), "{done:?}");
    let done = get(&server.socket, "/as/request");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[1], "GET /as/request HTTP/1.1");
    assert!(lines.contains(&"host: localhost"), "{lines:?}");
}

#[test]
fn broken_answers_are_told_from_whole_ones() {
    let server = Server::python();
    for path in [
        "nothing half-a-head half-a-body half-a-chunk no-last-chunk",
        "chunk-of-nonsense chunk-of-no-size chunk-with-a-sign chunk-that-goes-on chunk-too-large",
        "length-of-nonsense length-with-a-sign length-too-large two-lengths",
        "no-header long-header many-headers another-protocol another-version bytes",
    ]
    .iter()
    .flat_map(|paths| paths.split(' '))
    {
        let said = format!("{}: ", text(&server.socket));
        assert_fails(&get(&server.socket, &format!("/as/{path}")), &said);
    }
}

#[test]
fn what_came_of_a_broken_body_is_printed() {
    let server = Server::python();
    for path in ["half-a-body", "half-a-chunk", "no-last-chunk"] {
        let done = get(&server.socket, &format!("/as/{path}"));
        assert_eq!(done.stdout, "HTTP/1.1 200 OK\nhello", "{path}");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("silent");
    // The system accepts for it.
    let _silent = UnixListener::bind(&path).unwrap();
    let server = Server::python();
    std::thread::scope(|scope| {
        for (socket, path) in [(&path, "/"), (&server.socket, "/as/silence")] {
            scope.spawn(move || assert_fails(&get(socket, path), "the server is silent"));
        }
    });
}

#[test]
fn a_socket_with_nobody_behind_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    assert_fails(&get(&missing, "/"), text(&missing));
    let left = folder.path().join("left");
    // Nobody listens there, and nobody ever did: a child that another test starts has for a moment
    // whatever is open here.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let addr = socket2::SockAddr::unix(&left).unwrap();
    socket.unwrap().bind(&addr).unwrap();
    assert_fails(&get(&left, "/"), text(&left));
}

#[test]
fn wrong_arguments_are_answered_with_the_usage() {
    for args in [
        &[][..],
        &["/tmp/x"],
        &["/tmp/x", "path"],
        &["/tmp/x", "/a b"],
        &["/tmp/x", "/a\r\nHost: b"],
        &["/tmp/x", "/", "more"],
        &["/tmp/x", "/", "/a b"],
    ] {
        let done = run(example("unix_http").args(args));
        assert_eq!(done.status.code(), Some(2), "{args:?}: {done:?}");
        assert!(done.stderr.starts_with("usage: "), "{done:?}");
    }
}

fn request(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

fn block_on<F: std::future::Future>(future: F) -> F::Output {
    coracle::block_on(timeout(LIMIT, future)).expect("the server or we hang")
}

/// The header lines of an answer, and its body, which has a length or is in chunks.
async fn read_answer(reader: &mut BufReader<&UnixStream>) -> io::Result<(Vec<String>, Vec<u8>)> {
    let (mut lines, mut body) = (Vec::new(), Vec::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        match line.strip_suffix("\r\n") {
            Some("") => break,
            Some(line) => lines.push(line.to_owned()),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let length = |line: &String| line.strip_prefix("Content-Length: ")?.parse().ok();
    if let Some(len) = lines.iter().find_map(length) {
        body.resize(len, 0);
        reader.read_exact(&mut body).await?;
        return Ok((lines, body));
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let len = usize::from_str_radix(line.trim(), 16).expect("a chunk");
        let begun = body.len();
        body.resize(begun + len + 2, 0);
        reader.read_exact(&mut body[begun..]).await?;
        body.truncate(begun + len);
        if len == 0 {
            return Ok((lines, body));
        }
    }
}

#[test]
fn one_connection_serves_many_requests() {
    for server in [Server::nginx(), Server::python()] {
        block_on(async {
            let stream = UnixStream::connect(&server.socket).await.unwrap();
            let mut reader = BufReader::new(&stream);
            for round in 0..10 {
                for size in &SIZES[..5] {
                    let request = request(&format!("/{size}"), "");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let (lines, body) = read_answer(&mut reader).await.unwrap();
                    assert_eq!(lines[0], "HTTP/1.1 200 OK", "{size} in round {round}");
                    assert!(body == content(*size).as_bytes());
                }
            }
        });
    }
}

#[test]
fn requests_may_go_ahead_of_the_answers() {
    let server = Server::nginx();
    block_on(async {
        let stream = UnixStream::connect(&server.socket).await.unwrap();
        let mut reader = BufReader::new(&stream);
        let write = async {
            for number in 0..500 {
                let request = request(&format!("/{}", SIZES[number % 4]), "");
                stream.write_all(request.as_bytes()).await?;
            }
            io::Result::Ok(())
        };
        let read = async {
            for number in 0..500 {
                let (_, body) = read_answer(&mut reader).await?;
                assert!(body == content(SIZES[number % 4]).as_bytes(), "{number}");
            }
            io::Result::Ok(())
        };
        futures_lite::future::try_zip(write, read).await.unwrap();
    });
}

#[test]
fn zipped_bodies_are_whole() {
    let server = Server::nginx();
    let zipped = block_on(async {
        let stream = UnixStream::connect(&server.socket).await.unwrap();
        let request = request("/zipped/1000000", "Accept-Encoding: gzip\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reader = BufReader::new(&stream);
        let (lines, body) = read_answer(&mut reader).await.unwrap();
        assert!(
            lines.contains(&"Content-Encoding: gzip".into()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"Transfer-Encoding: chunked".into()),
            "{lines:?}"
        );
        body
    });
    assert!(zipped.len() < 500_000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body.gz");
    fs::write(&file, zipped).unwrap();
    let unzipped = run(tool("gzip", "gzip").arg("-dc").arg(file));
    assert!(
        unzipped.stdout == content(1_000_000),
        "{:?}",
        unzipped.stderr
    );
}

/// Asks once, and collects all that comes until the end.
struct Client {
    request: String,
    answer: Vec<u8>,
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(self.request.as_bytes()).unwrap();
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> io::Result<()> {
        self.answer.extend(data);
        Ok(())
    }
}

#[test]
fn an_endpoint_receives_an_answer_that_ends_with_the_connection() {
    for server in [Server::nginx(), Server::python()] {
        let client = || Client {
            request: request("/8000000", "Connection: close\r\n"),
            answer: Vec::new(),
        };
        let (client, result) = block_on(async {
            let options = UnixOptions::new().path(&server.socket);
            let (_, handle) = create_unix_connection(client, options).await.unwrap();
            handle.lost().await
        });
        result.unwrap();
        let answer = String::from_utf8(client.answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(body == content(8_000_000), "{} bytes", body.len());
    }
}
