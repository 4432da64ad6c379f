//! A minimal asynchronous runtime in the smol style, with asyncio's datagram endpoints and Unix
//! connections.
//!
//! coracle is a small executor and a reactor on the `polling` crate. It has two faces over one set
//! of sockets:
//!
//! - **Endpoints**, asyncio's face: callbacks on a protocol object, and a transport to send with.
//!   [`create_datagram_endpoint`] works over IPv4, IPv6 and Unix datagrams;
//!   `create_unix_connection` and `create_unix_server` (Unix), [`create_connection`] and
//!   [`create_server`] over streams. What is received is lent to the callback, datagrams in
//!   batches: nothing is allocated for it.
//! - **Sockets**, smol's face: [`net::UdpSocket`], [`net::TcpStream`], [`net::TcpListener`] and
//!   their Unix like, with async methods on `&self`; streams have `futures-io`'s traits, datagrams
//!   batches.
//!
//! ```
//! use coracle::{create_datagram_endpoint, on_datagram, DatagramOptions};
//!
//! fn main() -> std::io::Result<()> {
//!     coracle::block_on(async {
//!         let options = DatagramOptions::new().local_addr("127.0.0.1:0");
//!         let echo = on_datagram(|transport, data, from| {
//!             let _ = transport.send_to(data, from);
//!         });
//!         let (transport, _) = create_datagram_endpoint(|| echo, options).await?;
//!         println!("listening on {}", transport.local_addr()?);
//! #       transport.close();
//!         transport.closed().await
//!     })
//! }
//! ```
//!
//! # The runtime
//! [`block_on`] runs a future and the tasks it [`spawn`]s on the calling thread, and returns when
//! the future has ended; nothing is left behind. There is no hidden thread (but while host names are
//! looked up, see [`net::resolve`]) and no global state: two threads that call `block_on` have two
//! runtimes. To use several processors, run one on each thread, every one with a socket of its own
//! bound with [`reuse_port`](DatagramOptions::reuse_port).
//!
//! # Other executors
//! Sockets, timers and endpoints work on any executor: where no coracle runtime is running on the
//! thread, they are driven by `async-io` (feature `async-io`, on by default).
//! [`create_datagram_endpoint_with_driver`] and its like leave it to the caller to spawn the
//! endpoint's driver.
//!
//! # Features
//! - `async-io` (default): other executors, and conversions from and into `async_io::Async`.
//!   Without it, sockets and timers work inside [`block_on`] only.
//! - `tls`: the option `tls` of stream connections and servers, `Transport::start_tls`,
//!   `net::TlsStream`, and the module `tls`, by rustls. It has no cryptography of its own: the
//!   program brings a provider.
//! - `tls-webpki-roots`, `tls-native-certs`: root certificates, Mozilla's or the platform's.
//! - `wasi-p3`: on WASI, version 0.3 instead of 0.2. The component decides, not a library; see
//!   [`wasi_main`]. Without effect on other platforms.
//!
//! # Platforms
//! Linux is the home, where system calls are the budget: an echoed datagram or message costs three,
//! a batch of datagrams little more. macOS, the BSDs, Android and Windows go through
//! `polling`, one datagram a call. WASI 0.2 and 0.3 have backends of their own, on the bindings.
//! What a platform lacks gives `Unsupported`, and can be asked for with [`net::UdpSocket::caps`].
#![deny(unsafe_code)]

mod address;
mod batch;
mod budget;
mod endpoint;
#[macro_use]
mod entry;
mod error;
pub mod net;
mod panics;
mod runtime;
mod sys;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
mod wake;
#[cfg(target_os = "wasi")]
pub mod wasi;

pub use crate::address::{Address, UnixAddress};
pub use crate::endpoint::datagram::driver::DatagramDriver;
pub use crate::endpoint::datagram::options::DatagramOptions;
pub use crate::endpoint::datagram::protocol::{on_datagram, DatagramProtocol, OnDatagram};
pub use crate::endpoint::datagram::transport::DatagramTransport;
pub use crate::endpoint::datagram::{
    create_datagram_endpoint, create_datagram_endpoint_with_driver,
};
pub use crate::endpoint::handle::ProtocolHandle;
pub use crate::endpoint::stream::driver::ConnectionDriver;
pub use crate::endpoint::stream::protocol::{
    on_data, Buffered, BufferedProtocol, OnData, Plain, Protocol, StreamProtocol,
};
pub use crate::endpoint::stream::race::ConnectErrors;
pub use crate::endpoint::stream::server::{Server, ServerSocket};
#[cfg(feature = "tls")]
pub use crate::endpoint::stream::start_tls::{StartTls, StartTlsOptions};
pub use crate::endpoint::stream::tcp::{
    create_connection, create_connection_with_driver, create_server, create_server_with_driver,
    TcpOptions, TcpServerOptions,
};
pub use crate::endpoint::stream::transport::Transport;
#[cfg(unix)]
pub use crate::endpoint::stream::unix::{
    create_unix_connection, create_unix_connection_with_driver, create_unix_server,
    create_unix_server_with_driver, UnixOptions, UnixServerOptions,
};
pub use crate::endpoint::stream::{
    connect_accepted_socket, connect_accepted_socket_with_driver, AcceptedOptions,
};
pub use crate::net::Family;
pub use crate::runtime::task::{spawn, Task};
pub use crate::runtime::{block_on, try_block_on, yield_now, YieldNow};

// For the unit tests, and for the examples here, which tests/all compiles with the hook.
#[cfg(any(test, coracle_doc_tests))]
wasi_main!();
