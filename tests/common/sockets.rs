//! What the tests of streams with async methods share.
// Each test binary uses a part of it.
#![allow(dead_code, unused_imports, unused_macros)]

use std::fmt::Debug;
use std::io::{self, ErrorKind};

use coracle::net::{TcpListener, TcpStream};

pub(crate) use super::pairs::pattern;

pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await;
    (client.unwrap(), listener.accept().await.unwrap().0)
}

/// The same with the two ends of a connection of either kind.
macro_rules! on_both {
    (|$a:ident, $b:ident| $body:block) => {
        $crate::common::block_on_within(async {
            let ($a, $b) = $crate::common::sockets::tcp_pair().await;
            $body
        });
        #[cfg(unix)]
        $crate::common::block_on_within(async {
            let ($a, $b) = coracle::net::UnixStream::pair().unwrap();
            $body
        });
    };
}
pub(crate) use on_both;

pub(crate) fn kind<T: Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}
