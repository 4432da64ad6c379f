//! `create_unix_connection`: options that are refused, and errors of the system.
#![cfg(unix)]

mod common;

use std::io::ErrorKind;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

use common::stream::Log;
use common::unix_connection::{
    accept, echoing, exchange, listening, options, pair, place, refusal, refused_for,
};
use common::{as_nobody, block_on_within, in_process, left_behind, raw_code};
use coracle::net::Socket;
use coracle::Address;

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
        left_behind(&path);
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
