//! The library on WASI 0.3: each call runs a future with a runtime of its own, and they share what
//! the component holds.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use coracle::net::UdpSocket;

use self::exports::example::exchange::service::Guest;

wit_bindgen::generate!({ world: "library", path: "wit" });

struct Library;

export!(Library);

thread_local! {
    /// Where the server is, and who waits for one.
    static SERVER: RefCell<(Option<String>, Vec<Waker>)> = const { RefCell::new((None, Vec::new())) };
}

fn set_address(addr: Option<String>) {
    let waiting = SERVER.with_borrow_mut(|server| {
        server.0 = addr;
        std::mem::take(&mut server.1)
    });
    // Tasks of other calls.
    waiting.into_iter().for_each(Waker::wake);
}

/// The server is there until this is dropped: at its end, or when whoever called it gives up.
struct Serving;

impl Drop for Serving {
    fn drop(&mut self) {
        set_address(None);
    }
}

impl Guest for Library {
    async fn serve(count: u32) -> Result<u32, String> {
        let served = coracle::wasi::run(async {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            set_address(Some(socket.local_addr()?.to_string()));
            let _serving = Serving;
            let mut buf = [0; 2048];
            let mut served = 0;
            while served < count {
                let (len, from) = socket.recv_from(&mut buf).await?;
                socket
                    .send_to(&buf[..len].to_ascii_uppercase(), &from)
                    .await?;
                served += 1;
            }
            std::io::Result::Ok(served)
        });
        served.await.map_err(|error| error.to_string())
    }

    async fn address() -> String {
        coracle::wasi::run(poll_fn(|cx| {
            SERVER.with_borrow_mut(|(addr, waiting)| match addr {
                Some(addr) => Poll::Ready(addr.clone()),
                None => {
                    waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            })
        }))
        .await
    }

    async fn ask(addr: String, question: String, patience: u32) -> Result<String, String> {
        coracle::wasi::run(super::ask(addr, question, patience)).await
    }
}
