//! Connecting to one of several addresses: in order, or with attempts that overlap (RFC 8305,
//! "happy eyeballs").

use std::fmt;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::address::Address;
use crate::sys::caps::Family;
use crate::time::{sleep, Sleep};

/// Why each of several attempts to connect has failed: inside the error of a call with
/// [`all_errors`](crate::TcpOptions::all_errors).
///
/// # Examples
/// ```
/// use coracle::{create_connection, on_data, ConnectErrors, TcpOptions};
///
/// coracle::block_on(async {
///     let options = TcpOptions::new().remote_addr("127.0.0.1:9").all_errors(true);
///     let echo = || on_data(|transport, data| transport.write(data));
///     if let Err(error) = create_connection(echo, options).await {
///         let errors = error.get_ref().and_then(|error| error.downcast_ref::<ConnectErrors>());
///         for error in errors.map(ConnectErrors::errors).unwrap_or_default() {
///             println!("{error}");
///         }
///     }
/// });
/// ```
#[derive(Debug)]
pub struct ConnectErrors {
    errors: Vec<io::Error>,
}

impl ConnectErrors {
    /// In the order in which they came.
    pub fn errors(&self) -> &[io::Error] {
        &self.errors
    }
}

impl fmt::Display for ConnectErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectErrors {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.errors.first().map(|error| error as _)
    }
}

/// One error that stands for several; there is at least one.
pub(super) fn combine(mut errors: Vec<io::Error>, all: bool) -> io::Error {
    let first = match errors.first() {
        Some(first) => (first.kind(), first.to_string()),
        None => (io::ErrorKind::TimedOut, String::new()),
    };
    if !all && errors.iter().all(|error| error.to_string() == first.1) {
        return match errors.is_empty() {
            true => first.0.into(),
            false => errors.swap_remove(0),
        };
    }
    let kind = match errors.iter().all(|error| error.kind() == first.0) {
        true => first.0,
        false => io::ErrorKind::Other,
    };
    io::Error::new(kind, ConnectErrors { errors })
}

/// Has the families take turns: the first `count` addresses are of the first family, then each
/// family gives one.
pub(super) fn interleave(addrs: Vec<Address>, count: usize) -> Vec<Address> {
    let mut families: Vec<(Family, std::collections::VecDeque<Address>)> = Vec::new();
    for addr in addrs {
        let family = Family::of(&addr);
        match families.iter_mut().find(|(of, _)| *of == family) {
            Some((_, addrs)) => addrs.push_back(addr),
            None => families.push((family, [addr].into())),
        }
    }
    let mut order = Vec::new();
    if let Some((_, first)) = families.first_mut() {
        // One of these comes with the first turn.
        let ahead = count.saturating_sub(1).min(first.len());
        order.extend(first.drain(..ahead));
    }
    loop {
        let before = order.len();
        for (_, addrs) in &mut families {
            order.extend(addrs.pop_front());
        }
        if order.len() == before {
            return order;
        }
    }
}

/// The first attempt that succeeds, or all their errors. An attempt is made when the one before
/// has failed or, with a `delay`, has taken that long; whichever succeeds ends the others.
pub(super) async fn first_success<T, F>(
    addrs: Vec<Address>,
    delay: Option<Duration>,
    attempt: impl Fn(Address) -> F,
) -> Result<T, Vec<io::Error>>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addrs.into_iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut errors = Vec::new();
    let mut next: Option<Sleep> = None;
    let mut is_due = true;
    poll_fn(|cx| loop {
        if is_due {
            is_due = false;
            next = None;
            match waiting.next() {
                Some(addr) => {
                    running.push(Box::pin(attempt(addr)));
                    next = delay.map(sleep);
                }
                None if running.is_empty() => {
                    return Poll::Ready(Err(std::mem::take(&mut errors)));
                }
                None => {}
            }
        }
        let mut i = 0;
        while i < running.len() {
            match running[i].as_mut().poll(cx) {
                Poll::Ready(Ok(value)) => return Poll::Ready(Ok(value)),
                Poll::Ready(Err(error)) => {
                    errors.push(error);
                    drop(running.remove(i));
                    is_due = true;
                }
                Poll::Pending => i += 1,
            }
        }
        if let Some(sleep) = &mut next {
            is_due |= Pin::new(sleep).poll(cx).is_ready();
        }
        if !is_due {
            return Poll::Pending;
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn order(texts: &[&str], count: usize) -> Vec<String> {
        let addrs = texts.iter().map(|text| text.parse().unwrap()).collect();
        let order = interleave(addrs, count);
        order.iter().map(Address::to_string).collect()
    }

    #[test]
    fn families_take_turns() {
        let addrs = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"];
        assert_eq!(
            order(&addrs, 1),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]
        );
        assert_eq!(
            order(&addrs, 2),
            ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1"]
        );
        assert_eq!(
            order(&addrs, 9),
            ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]
        );
        assert_eq!(order(&[], 1), [""; 0]);
    }

    #[test]
    fn one_error_is_itself_and_several_are_joined() {
        let error = |kind, text: &str| io::Error::new(kind, text.to_owned());
        let refused = io::ErrorKind::ConnectionRefused;
        let one = combine(vec![error(refused, "a")], false);
        assert_eq!((one.kind(), one.to_string()), (refused, "a".into()));
        let same = combine(vec![error(refused, "a"), error(refused, "a")], false);
        assert_eq!(same.to_string(), "a");
        let joined = combine(vec![error(refused, "a"), error(refused, "b")], false);
        assert_eq!(
            (joined.kind(), joined.to_string()),
            (refused, "a; b".into())
        );
        let mixed = combine(
            vec![error(refused, "a"), error(io::ErrorKind::NotFound, "b")],
            true,
        );
        assert_eq!(mixed.kind(), io::ErrorKind::Other);
        let all = mixed.get_ref().unwrap().downcast_ref::<ConnectErrors>();
        assert_eq!(all.unwrap().errors().len(), 2);
    }

    /// Attempts by the port of their address: even ones fail at once, 1 never ends, others
    /// succeed.
    async fn attempt(addr: Address, log: &RefCell<Vec<u16>>) -> io::Result<u16> {
        let port = addr.as_ip().unwrap().port();
        log.borrow_mut().push(port);
        match port {
            1 => std::future::pending().await,
            port if port % 2 == 0 => Err(io::Error::other(port.to_string())),
            port => Ok(port),
        }
    }

    fn run(ports: &[u16], delay: Option<Duration>) -> (Result<u16, usize>, Vec<u16>) {
        let log = RefCell::default();
        let addrs = ports.iter().map(|port| ([127, 0, 0, 1], *port).into());
        let result = crate::block_on(first_success(addrs.collect(), delay, |addr| {
            attempt(addr, &log)
        }));
        (result.map_err(|errors| errors.len()), log.into_inner())
    }

    #[test]
    fn a_failed_attempt_is_followed_by_the_next_at_once() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(run(&[2, 4, 3, 5], minute), (Ok(3), vec![2, 4, 3]));
        assert_eq!(run(&[2, 4], None), (Err(2), vec![2, 4]));
        assert_eq!(run(&[], None), (Err(0), vec![]));
    }

    #[test]
    fn a_slow_attempt_is_overtaken() {
        let soon = Some(Duration::from_millis(1));
        assert_eq!(run(&[1, 1, 3], soon), (Ok(3), vec![1, 1, 3]));
    }
}
