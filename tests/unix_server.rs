//! Unix servers and their socket files: whose they take, and which they remove.
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::stream::{Log, Recorder};
use common::{as_nobody, block_on_within, in_process, left_behind, panics, within};
use coracle::net::Target;
use coracle::time::sleep;
use coracle::{create_unix_connection, create_unix_server, Address, UnixAddress};
use coracle::{Server, ServerSocket, Transport, UnixOptions, UnixServerOptions};
use tempfile::TempDir;

fn at(path: impl Into<Target>) -> UnixServerOptions {
    UnixServerOptions::new().path(path)
}

/// A folder, and a path in it where nothing is.
fn free_path() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    (folder, path)
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// A server that sends everything back.
async fn echoing(options: UnixServerOptions) -> Server {
    let made = create_unix_server(|| Recorder::echoing(&Log::new()), options);
    within(made).await.unwrap()
}

/// What making a server with these options is refused with.
async fn refusal(options: UnixServerOptions) -> io::Error {
    let text = format!("{options:?}");
    let made = create_unix_server(|| Recorder::echoing(&Log::new()), options);
    match within(made).await {
        Ok(_) => panic!("was accepted: {text}"),
        Err(error) => error,
    }
}

async fn connect(to: impl Into<Target>) -> io::Result<(Transport, Log)> {
    let log = Log::new();
    let options = UnixOptions::new().path(to);
    let made = create_unix_connection(|| Recorder::new(&log), options);
    let (transport, _) = within(made).await?;
    Ok((transport, log))
}

/// Nobody listens any more, soon: until it runs its own program, a child that another test starts
/// has whatever was open here.
async fn refused(to: impl Into<Target>) {
    let to = to.into();
    loop {
        match connect(to.clone()).await {
            Ok((transport, _)) => transport.abort(),
            Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The bytes go there and come back.
async fn works((client, log): &(Transport, Log)) {
    let before = log.data().len();
    client.write(b"there and back").unwrap();
    log.until_len(before + 14).await;
}

async fn serves(to: impl Into<Target>) {
    works(&connect(to).await.unwrap()).await;
}

#[test]
fn a_socket_file_is_made_with_the_usual_permissions_and_removed_in_the_end() {
    block_on_within(async {
        let (folder, path) = free_path();
        let server = echoing(at(&path)).await;
        let addr = Address::from(UnixAddress::from_path(&path).unwrap());
        assert_eq!(server.local_addrs(), [addr]);
        assert!(matches!(server.sockets()[..], [ServerSocket::Unix(_)]));
        let usual = folder.path().join("usual");
        let _usual = StdUnixListener::bind(&usual).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode();
        assert_eq!(mode(&path), mode(&usual));
        let client = connect(&path).await.unwrap();
        works(&client).await;
        server.close();
        assert!(!path.exists());
        works(&client).await;
        let error = connect(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(server.accept_errors(), 0);

        let server = echoing(at(&path).start_serving(false)).await;
        assert!(is_socket(&path));
        server.close();
        assert!(!path.exists());
    });
}

#[test]
fn a_path_is_given_in_many_ways() {
    block_on_within(async {
        let (folder, path) = free_path();
        // No text in any encoding.
        let bytes = [folder.path().as_os_str().as_bytes(), b"/\xFF\xFE"].concat();
        let text = path.to_str().unwrap();
        let addr = UnixAddress::from_path(&path).unwrap();
        for (target, path) in [
            (Target::from(text), &path),
            (Target::from(path.as_path()), &path),
            (
                Target::from(&bytes[..]),
                &folder.path().join(OsStr::from_bytes(b"\xFF\xFE")),
            ),
            (Target::from(addr), &path),
        ] {
            let server = echoing(at(target.clone())).await;
            assert!(is_socket(path), "{target}");
            serves(target).await;
            serves(path).await;
            server.close();
            assert!(!path.exists());
        }
    });
}

#[test]
fn a_socket_file_that_was_left_behind_is_replaced() {
    block_on_within(async {
        let (_folder, path) = free_path();
        left_behind(&path);
        assert!(is_socket(&path));
        let server = echoing(at(&path)).await;
        serves(&path).await;
        server.close();
        assert!(!path.exists());
    });
}

#[test]
fn the_path_of_a_living_server_is_taken_over() {
    block_on_within(async {
        let (_folder, path) = free_path();
        let first = echoing(at(&path)).await;
        let of_first = connect(&path).await.unwrap();
        works(&of_first).await;
        let second = echoing(at(&path)).await;
        let of_second = connect(&path).await.unwrap();
        works(&of_second).await;
        assert_eq!((first.connections(), second.connections()), (1, 1));
        works(&of_first).await;
        assert!(first.is_serving());
        first.close();
        assert!(is_socket(&path), "it is the second's");
        serves(&path).await;
        second.close();
        assert!(!path.exists());
        assert_eq!((first.accept_errors(), second.accept_errors()), (0, 0));
    });
}

#[test]
fn anything_but_a_socket_is_left_alone_and_named() {
    block_on_within(async {
        let (folder, path) = free_path();
        let target = folder.path().join("target");
        let _listener = StdUnixListener::bind(&target).unwrap();
        type Make<'a> = &'a dyn Fn(&Path) -> io::Result<()>;
        let file: Make = &|path| fs::write(path, "precious");
        let link: Make = &|path| std::os::unix::fs::symlink("nowhere", path);
        let link_to_socket: Make = &|path| std::os::unix::fs::symlink(&target, path);
        let empty: Make = &|path| fs::create_dir(path);
        for make in [file, link, link_to_socket, empty] {
            make(&path).unwrap();
            let before = fs::symlink_metadata(&path).unwrap();
            let error = refusal(at(&path)).await;
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
            let after = fs::symlink_metadata(&path).unwrap();
            assert_eq!(
                (after.ino(), after.file_type()),
                (before.ino(), before.file_type())
            );
            assert!(is_socket(&target));
            match after.is_dir() {
                true => fs::remove_dir(&path).unwrap(),
                false => fs::remove_file(&path).unwrap(),
            }
        }
        fs::write(&path, "precious").unwrap();
        refusal(at(&path)).await;
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    });
}

#[test]
fn only_its_own_file_is_removed() {
    block_on_within(async {
        let (_folder, path) = free_path();
        let replace: [&dyn Fn(); 3] = [
            &|| {},
            &|| fs::write(&path, "another's").unwrap(),
            // Nobody listens there any more, but it is not the server's.
            &|| left_behind(&path),
        ];
        for replace in replace {
            let server = echoing(at(&path)).await;
            let client = connect(&path).await.unwrap();
            fs::remove_file(&path).unwrap();
            replace();
            let before = fs::symlink_metadata(&path).ok().map(|meta| meta.ino());
            server.close();
            let after = fs::symlink_metadata(&path).ok().map(|meta| meta.ino());
            assert_eq!(before, after);
            assert!(server.last_accept_error().is_none());
            client.0.close();
            within(server.wait_closed()).await;
            let _ = fs::remove_file(&path);
        }
    });
}

#[test]
fn a_file_that_is_to_stay_stays() {
    block_on_within(async {
        let (folder, path) = free_path();
        let server = echoing(at(&path).cleanup_socket(false)).await;
        serves(&path).await;
        server.close();
        assert!(is_socket(&path));
        refused(&path).await;
        let given = folder.path().join("given");
        let sock = StdUnixListener::bind(&given).unwrap();
        let options = UnixServerOptions::new().sock(sock).cleanup_socket(false);
        echoing(options).await.close();
        assert!(is_socket(&given));
    });
}

#[test]
fn the_end_of_the_runtime_removes_the_file() {
    let (_folder, path) = free_path();
    let server = block_on_within(async {
        let server = echoing(at(&path)).await;
        serves(&path).await;
        server
    });
    assert!(!path.exists());
    assert!(!server.is_serving());
    let message = panics(|| {
        block_on_within(async {
            let _server = echoing(at(&path)).await;
            serves(&path).await;
            panic!("the program ends like this");
        })
    });
    assert_eq!(message, "the program ends like this");
    assert!(!path.exists());
}

#[test]
fn a_socket_of_the_users_is_served_and_its_file_removed() {
    block_on_within(async {
        let (_folder, path) = free_path();
        let bound = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let bound = bound.unwrap();
        bound
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        let server = echoing(UnixServerOptions::new().sock(bound)).await;
        serves(&path).await;
        server.close();
        assert!(!path.exists());

        let listening = StdUnixListener::bind(&path).unwrap();
        let early = connect(&path).await.unwrap();
        let server = echoing(UnixServerOptions::new().sock(listening)).await;
        works(&early).await;
        server.close();
        assert!(!path.exists());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_names_are_spelled_in_two_ways_and_leave_no_file() {
    block_on_within(async {
        let name = format!("coracle-test-{}", std::process::id());
        let text = format!("@{name}");
        let bytes = [b"\0", name.as_bytes()].concat();
        for (server, client) in [
            (Target::from(&text), Target::from(&bytes[..])),
            (Target::from(&bytes[..]), Target::from(&text)),
        ] {
            let first = echoing(at(server.clone())).await;
            assert_eq!(first.local_addrs()[0].to_string(), text);
            serves(client.clone()).await;
            let error = refusal(at(client.clone())).await;
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "it is not taken over");
            assert!(error.to_string().contains(&text), "{error}");
            first.close();
            refused(client).await;
        }
        assert!(!Path::new(&text).exists());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn as_many_may_wait_as_the_backlog_says() {
    use socket2::{Domain, SockAddr, Socket, Type};
    block_on_within(async {
        for (backlog, start) in [(1, true), (17, true), (5, false)] {
            let (_folder, path) = free_path();
            let options = at(&path).backlog(backlog).start_serving(start);
            let server = echoing(options).await;
            server.start_serving().await.unwrap();
            let addr = SockAddr::unix(&path).unwrap();
            // Nothing is accepted before this task waits.
            let mut waiting = Vec::new();
            let error = loop {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                match socket.connect(&addr) {
                    Ok(()) => waiting.push(socket),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert_eq!(waiting.len(), backlog as usize + 1, "the system adds one");
            // There is room again as soon as they are accepted.
            serves(&path).await;
            assert_eq!(server.connections(), waiting.len() + 1);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_may_be_as_long_as_the_system_allows() {
    const LONGEST: usize = 107;
    block_on_within(async {
        let (folder, path) = free_path();
        let padding = LONGEST - folder.path().as_os_str().len() - 1;
        let path = path.with_file_name("x".repeat(padding));
        let server = echoing(at(&path)).await;
        assert_eq!(server.local_addrs()[0].to_string(), path.to_str().unwrap());
        serves(&path).await;
        server.close();
        assert!(!path.exists());
        let error = refusal(at(path.with_file_name("x".repeat(padding + 1)))).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn folders_that_are_missing_or_none_are_named() {
    block_on_within(async {
        let (folder, path) = free_path();
        fs::write(&path, "no folder").unwrap();
        for (path, kind) in [
            (folder.path().join("missing/server"), ErrorKind::NotFound),
            (path.join("server"), ErrorKind::NotADirectory),
        ] {
            let error = refusal(at(&path)).await;
            assert_eq!(error.kind(), kind);
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    });
}

#[test]
fn a_folder_without_permission_is_named_and_what_cannot_be_removed_is_told() {
    const TEST: &str = "a_folder_without_permission_is_named_and_what_cannot_be_removed_is_told";
    let folder = tempfile::tempdir().unwrap();
    let unprivileged = |program: &Path| as_nobody(program, folder.path());
    in_process(TEST, unprivileged, || {
        block_on_within(async {
            let (folder, path) = free_path();
            let allow = |mode| {
                let permissions = fs::Permissions::from_mode(mode);
                fs::set_permissions(folder.path(), permissions).unwrap();
            };
            let server = echoing(at(&path)).await;
            allow(0o500);
            let error = refusal(at(folder.path().join("other"))).await;
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("/other"), "{error}");
            // It is in the way, and cannot be removed.
            let error = refusal(at(&path)).await;
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            serves(&path).await;
            server.close();
            let error = server.last_accept_error().unwrap();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
            let refused = connect(&path).await.unwrap_err();
            assert_eq!(
                refused.kind(),
                ErrorKind::ConnectionRefused,
                "closed all the same"
            );
            allow(0o700);
        });
    });
}

#[test]
fn contradictory_options_and_paths_that_are_none_are_refused_by_name() {
    let (folder, path) = free_path();
    let long = folder.path().join("x".repeat(200));
    let second = Duration::from_secs(1);
    let sock = || {
        let (_folder, path) = free_path();
        UnixServerOptions::new().sock(StdUnixListener::bind(path).unwrap())
    };
    let tcp = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    block_on_within(async {
        for (options, names) in [
            (UnixServerOptions::new(), "sock path"),
            (sock().path(&path), "sock path"),
            (
                at(&path).tls_handshake_timeout(second),
                "tls_handshake_timeout",
            ),
            (
                at(&path).tls_shutdown_timeout(second),
                "tls_shutdown_timeout",
            ),
            (at(""), "empty"),
            (at(&long), "xxx most"),
            (at(("127.0.0.1", 80)), "127.0.0.1:80"),
            (UnixServerOptions::new().sock(tcp()), "TCP"),
        ] {
            let text = format!("{options:?}");
            let error = refusal(options).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}: {error}");
            for name in names.split(' ') {
                assert!(error.to_string().contains(name), "{text}: {error}");
            }
        }
        let datagrams = socket2::Socket::from(std::os::unix::net::UnixDatagram::unbound().unwrap());
        let error = refusal(UnixServerOptions::new().sock(datagrams)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("datagram"), "{error}");
        // The system will not listen where nobody could ever find it.
        let unbound = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        refusal(UnixServerOptions::new().sock(unbound.unwrap())).await;

        left_behind(&path);
        refusal(at(&path).tls_handshake_timeout(second)).await;
        assert!(is_socket(&path), "a refused call has touched nothing");
        assert!(StdUnixStream::connect(&path).is_err());
    });
}
