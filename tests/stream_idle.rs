//! Connections and servers that have nothing to do, or cannot do it, leave the processor alone.
#![cfg(target_os = "linux")]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as StdUnixAddr, UnixStream as StdUnixStream};
use std::time::Duration;

use coracle::net::{Socket, UnixStream};
use coracle::time::{sleep, timeout};
use coracle::{
    connect_accepted_socket, create_unix_server, on_data, yield_now, AcceptedOptions, Protocol,
    Transport, UnixServerOptions,
};
use trace::{assert_rests, calls_for, own_role};

/// What the other tests run: no test in itself.
#[test]
fn as_a_child() {
    let Some((role, amount)) = own_role() else {
        return;
    };
    let time = Duration::from_millis(amount);
    coracle::block_on(async {
        match &role[..] {
            "unread" => unread(time, false).await,
            "unread_and_gone" => unread(time, true).await,
            "gone_unseen" => gone_unseen(time, false).await,
            "reset_unseen" => gone_unseen(time, true).await,
            "unread_socket" => unread_socket(time, false).await,
            "unread_socket_and_gone" => unread_socket(time, true).await,
            "kept_open" => kept_open(time, false).await,
            "ended_both_ways" => kept_open(time, true).await,
            "urgent" => urgent(time).await,
            "full" => full(time).await,
            "full_socket" => full_socket(time).await,
            "starving" => starving(time).await,
            other => panic!("there is no role {other}"),
        }
    })
    .unwrap();
}

/// The other end of a connection.
trait Peer: Read + Write {}
impl<T: Read + Write> Peer for T {}

/// A connection of a protocol, and its peer.
async fn connected<P: Peer + 'static>(
    protocol: impl Protocol + 'static,
    (ours, theirs): (impl Into<Socket>, P),
) -> io::Result<(Transport, Box<dyn Peer>)> {
    let made = connect_accepted_socket(|| protocol, ours, AcceptedOptions::new()).await?;
    Ok((made.0, Box::new(theirs)))
}

fn tcp_pair() -> io::Result<(StdTcpStream, StdTcpStream)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = StdTcpStream::connect(listener.local_addr()?)?;
    Ok((listener.accept()?.0, client))
}

/// Data that a paused protocol does not read; the peer may have hung up behind it.
async fn unread(time: Duration, gone: bool) -> io::Result<()> {
    let nobody = || on_data(|_, _| panic!("reading is paused"));
    let unix = connected(nobody(), StdUnixStream::pair()?).await?;
    let mut both = vec![unix, connected(nobody(), tcp_pair()?).await?];
    // They wait for data already.
    yield_now().await;
    for (transport, peer) in &mut both {
        transport.pause_reading();
        peer.write_all(b"unread")?;
    }
    let (transports, peers): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    let _peers = (!gone).then_some(peers);
    sleep(time).await;
    let is_unaware = |transport: &Transport| !transport.is_closing();
    assert!(transports.iter().all(is_unaware), "nobody has looked");
    Ok(())
}

/// A peer that has ended the connection, or reset it, of which a paused protocol does not hear.
async fn gone_unseen(time: Duration, reset: bool) -> io::Result<()> {
    let nobody = || on_data(|_, _| panic!("there is no data"));
    let (tcp, theirs) = tcp_pair()?;
    if reset {
        socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO))?;
    }
    let unix = connected(nobody(), StdUnixStream::pair()?).await?;
    let both = [unix, connected(nobody(), (tcp, theirs)).await?];
    yield_now().await;
    let mut transports = Vec::new();
    for (transport, mut peer) in both {
        transport.pause_reading();
        // Gone with unread data, a Unix peer resets the connection, too.
        transport.write(b"unread")?;
        if !reset {
            peer.read_exact(&mut [0; 6])?;
        }
        drop(peer);
        transports.push(transport);
    }
    sleep(time).await;
    let is_unaware = |transport: &Transport| !transport.is_closing();
    assert!(transports.iter().all(is_unaware), "nobody has looked");
    Ok(())
}

/// The same of a socket, which somebody has waited for in vain.
async fn unread_socket(time: Duration, gone: bool) -> io::Result<()> {
    let (ours, mut peer) = StdUnixStream::pair()?;
    let ours = UnixStream::try_from(ours)?;
    let nothing = timeout(Duration::from_millis(1), ours.read(&mut [0; 16])).await;
    assert!(nothing.is_err(), "there is nothing to read yet");
    peer.write_all(b"unread")?;
    let _peer = (!gone).then_some(peer);
    sleep(time).await;
    assert_eq!(ours.read(&mut [0; 16]).await?, 6);
    Ok(())
}

/// Stays open after the peer's end, and the peer hangs up.
struct KeepOpen;

impl Protocol for KeepOpen {
    fn eof_received(&mut self, _: &Transport) -> io::Result<bool> {
        Ok(true)
    }
}

async fn kept_open(time: Duration, own_end: bool) -> io::Result<()> {
    let (unix, peer) = connected(KeepOpen, StdUnixStream::pair()?).await?;
    let (tcp, tcp_peer) = connected(KeepOpen, tcp_pair()?).await?;
    for transport in [&unix, &tcp] {
        if own_end {
            transport.write_eof()?;
        }
    }
    drop((peer, tcp_peer));
    sleep(time).await;
    assert!(!unix.is_closing() && !tcp.is_closing());
    Ok(())
}

/// Urgent data, which no reading takes: any peer may send some.
async fn urgent(time: Duration) -> io::Result<()> {
    let until = on_data(|transport, data| {
        assert_eq!(data, b"done");
        transport.close();
        Ok(())
    });
    let (ours, theirs) = tcp_pair()?;
    let (transport, mut peer) = connected(until, (ours, theirs.try_clone()?)).await?;
    yield_now().await;
    socket2::SockRef::from(&theirs).send_out_of_band(b"!")?;
    sleep(time).await;
    peer.write_all(b"done")?;
    transport.closed().await
}

/// More is queued than the peer takes.
async fn full(time: Duration) -> io::Result<()> {
    let (transport, _peer) = connected(KeepOpen, StdUnixStream::pair()?).await?;
    transport.write(&vec![7; 1 << 20])?;
    sleep(time).await;
    assert!(transport.write_buffer_size() > 0);
    Ok(())
}

async fn full_socket(time: Duration) -> io::Result<()> {
    let (ours, _theirs) = UnixStream::pair()?;
    while ours.try_write(&[7; 1 << 16]).is_ok() {}
    let written = timeout(time, ours.write(b"too much")).await;
    assert!(written.is_err(), "there is no room");
    Ok(())
}

/// A server that has no descriptor for the one who waits.
async fn starving(time: Duration) -> io::Result<()> {
    let name = format!("@coracle-test-{}", std::process::id());
    let options = UnixServerOptions::new().path(&name);
    let server = create_unix_server(|| on_data(|_, _| Ok(())), options).await?;
    let addr = StdUnixAddr::from_abstract_name(&name[1..])?;
    let first = StdUnixStream::connect_addr(&addr)?;
    while server.connections() == 0 {
        yield_now().await;
    }
    let limit = libc::rlimit {
        rlim_cur: 64,
        rlim_max: 64,
    };
    // SAFETY: the pointer is to a limit that outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    let _second = StdUnixStream::connect_addr(&addr)?;
    while server.accept_errors() == 0 {
        yield_now().await;
    }
    sleep(time).await;
    assert_eq!(server.connections(), 1);
    drop(first);
    Ok(())
}

#[test]
fn nobody_is_woken_for_what_is_left_unread() {
    for name in [
        "unread",
        "unread_and_gone",
        "unread_socket",
        "unread_socket_and_gone",
        "gone_unseen",
        "reset_unseen",
    ] {
        assert_rests(name);
    }
}

#[test]
fn nobody_is_woken_for_a_peer_that_is_known_to_be_gone() {
    for name in ["kept_open", "ended_both_ways"] {
        assert_rests(name);
    }
}

#[test]
fn a_peer_that_reads_nothing_is_not_pestered() {
    for name in ["full", "full_socket"] {
        assert_rests(name);
    }
}

#[test]
fn urgent_data_wakes_nobody() {
    let calls = calls_for("urgent", 300).total();
    let most = if cfg!(polling_test_poll_backend) {
        150
    } else {
        50
    };
    assert!(calls < most, "{calls}");
}

#[test]
fn a_server_without_descriptors_rests() {
    assert_rests("starving");
}
