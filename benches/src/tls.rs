//! The measurements of the TLS binaries: a server of each runtime, over a Unix socket, and one
//! client for all, which is blocking and on a thread of its own. They are written once, against a
//! module `rt` that each binary defines for its runtime, with `serve(listener, config)`.
//!
//! A client sends commands of nine bytes, each in one record: what is to be done, and a length. `u`:
//! that many bytes follow, and are answered with one. `d`: that many bytes are sent.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use crate::rt;

/// What is written at once.
pub const BLOCK: usize = 64 * 1024;

/// The length of a command.
pub const COMMAND: usize = 9;

/// What a command says.
pub fn parse(command: &[u8; COMMAND]) -> (u8, u64) {
    let [what, len @ ..] = *command;
    (what, u64::from_le_bytes(len))
}

type Client = StreamOwned<ClientConnection, UnixStream>;

/// Runs every measurement for about as many seconds as the command line says.
pub fn run() -> io::Result<()> {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .unwrap_or(1.0);
    let target = Duration::from_secs_f64(seconds);
    let path = std::env::temp_dir().join(format!("coracle-tls-{}", std::process::id()));
    // What a process of this number has left behind, if it was killed.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let server = server_config();
    thread::spawn(move || rt::serve(listener, server));
    let client = Arc::new(client_config());
    let connect = || -> io::Result<Client> {
        let name = "localhost".try_into().map_err(io::Error::other)?;
        let connection = ClientConnection::new(client.clone(), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, UnixStream::connect(&path)?))
    };

    let mut stream = connect()?;
    transfer(&mut stream, b'u', 32 << 20)?;
    transfer(&mut stream, b'd', 32 << 20)?;
    for (what, name) in [(b'u', "receive"), (b'd', "send")] {
        let piece = 64 << 20;
        let (count, wall, cpu) = measure(target, || transfer(&mut stream, what, piece))?;
        let mebibytes = count as f64 * (piece >> 20) as f64;
        println!("{name}_MiB_per_s {:.1}", mebibytes / wall);
        println!("{name}_MiB_per_server_CPU_s {:.1}", mebibytes / cpu);
    }
    let (count, wall, cpu) = measure(target, || transfer(&mut stream, b'd', 100))?;
    println!("round_trips_per_s {:.1}", count as f64 / wall);
    println!("round_trips_per_server_CPU_s {:.1}", count as f64 / cpu);
    let (count, wall, cpu) = measure(target, || transfer(&mut connect()?, b'd', 1))?;
    println!("handshakes_per_s {:.1}", count as f64 / wall);
    println!("handshakes_per_server_CPU_s {:.1}", count as f64 / cpu);
    std::fs::remove_file(&path)
}

fn transfer(stream: &mut Client, what: u8, len: u64) -> io::Result<()> {
    let block = [7; BLOCK];
    let mut command = [what; COMMAND];
    command[1..].copy_from_slice(&len.to_le_bytes());
    // At once: on one processor, whether the scheduler lets the server run between two writes would
    // decide how fast it is.
    stream.write_all(&command)?;
    if what == b'u' {
        for _ in 0..len / BLOCK as u64 {
            stream.write_all(&block)?;
        }
        return stream.read_exact(&mut [0]);
    }
    let mut block = block;
    let mut left = len as usize;
    while left > 0 {
        let some = left.min(BLOCK);
        stream.read_exact(&mut block[..some])?;
        left -= some;
    }
    Ok(())
}

/// How often it was done, in how many seconds, and how many the processor spent on the server.
fn measure(
    target: Duration,
    mut work: impl FnMut() -> io::Result<()>,
) -> io::Result<(u64, f64, f64)> {
    let (start, before) = (Instant::now(), server_cpu());
    let mut count = 0;
    while start.elapsed() < target {
        work()?;
        count += 1;
    }
    let cpu = (server_cpu() - before).max(1e-9);
    Ok((count, start.elapsed().as_secs_f64(), cpu))
}

/// That of the process but this thread's, which is the client.
fn server_cpu() -> f64 {
    let clock = |id| {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is a valid place for the result.
        unsafe { libc::clock_gettime(id, &mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    clock(libc::CLOCK_PROCESS_CPUTIME_ID) - clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

const CA: &[u8] = include_bytes!("../../tests/tls/ca.pem");
const CERT: &[u8] = include_bytes!("../../tests/tls/server.pem");
const KEY: &[u8] = include_bytes!("../../tests/tls/server.key");

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config() -> Arc<ServerConfig> {
    let cert = CertificateDer::from_pem_slice(CERT).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key);
    Arc::new(config.expect("a key that fits"))
}

fn client_config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(CA).expect("a certificate");
    roots.add(ca).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // All handshakes are full ones.
    config.resumption = Resumption::disabled();
    config
}
