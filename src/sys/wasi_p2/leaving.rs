//! Connections that were dropped while the host was still sending what it took from them: dropped
//! for the host too, it would stop the whole program until all is sent, so they are when it is. A
//! peer that does not read could have it take for ever, and there could be any number of such
//! peers: there are limits to both.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{poll, Pollable};

use super::stream::Handles;
use crate::sys::clock;
use crate::sys::wasi::{nanoseconds, LEAVING_AT_MOST, LEAVING_FOR};

/// How long the end of a runtime waits for them: without that, a program that ends takes what is
/// not sent yet with it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A buffer of the system's that takes what the host has not got rid of.
const ROOM: u64 = 16 << 20;

/// So many are polled with every turn; if there are more, with one turn of so many.
const FEW: usize = 16;

thread_local! {
    /// The oldest first.
    // Never dropped by the end of the program, which would wait for ever if the peer does not read.
    static LEAVING: RefCell<VecDeque<ManuallyDrop<Leaving>>> = const { RefCell::new(VecDeque::new()) };
}

pub(super) struct Leaving {
    // In this order: the host wants the pollable gone before the stream.
    pollable: Pollable,
    handles: Arc<Handles>,
    /// `None` once it was hurried.
    until: Option<Instant>,
}

impl Leaving {
    pub(super) fn pollable(&self) -> &Pollable {
        &self.pollable
    }

    /// Makes the host be done with it: the rest goes to the system, from which it is sent or not
    /// as with any connection that is closed.
    fn hurry(&mut self) {
        if self.until.take().is_some() {
            self.handles.make_room(ROOM);
        }
    }
}

/// When a connection goes that has to wait.
#[derive(Clone, Copy)]
pub(super) enum Haste {
    /// As soon as all is sent, or it has taken too long.
    Patient,
    /// At once, if the host lets it.
    Hurried,
}

/// Keeps a connection, whose direction to the peer was shut down, until all is sent.
pub(super) fn leave(handles: Arc<Handles>, haste: Haste) {
    let pollable = handles.output.subscribe();
    let mut leaving = Leaving {
        pollable,
        handles,
        until: Some(clock::now() + LEAVING_FOR),
    };
    if let Haste::Hurried = haste {
        leaving.hurry();
    }
    LEAVING.with_borrow_mut(|all| {
        all.push_back(ManuallyDrop::new(leaving));
        hurry_all(all, None);
    });
}

/// Hurries those for which there is no more time, or no more room.
fn hurry_all(all: &mut VecDeque<ManuallyDrop<Leaving>>, now: Option<Instant>) {
    let too_many = all.len().saturating_sub(LEAVING_AT_MOST);
    let is_over = |until| now.is_some_and(|now| until <= now);
    for (index, leaving) in all.iter_mut().enumerate() {
        if index < too_many || leaving.until.is_some_and(is_over) {
            leaving.hurry();
        }
    }
}

pub(super) fn is_nobody_leaving() -> bool {
    LEAVING.with_borrow(VecDeque::is_empty)
}

/// When the first of them has to be hurried.
pub(super) fn deadline() -> Option<Instant> {
    LEAVING.with_borrow(|all| all.iter().find_map(|leaving| leaving.until))
}

/// Refuses another connection while there are too many that cannot be hurried: their peers have
/// the system's buffers full, and the host has handles for only so many.
pub(super) fn check_room() -> io::Result<()> {
    let count = LEAVING.with_borrow(VecDeque::len);
    if count < 2 * LEAVING_AT_MOST {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::OutOfMemory,
        format!("{count} connections that were closed wait for peers that do not read"),
    ))
}

/// All of them, to be polled and given back. If they are many, mostly none: each has its price,
/// which the others' traffic must not pay with every turn.
pub(super) fn take_leaving() -> VecDeque<ManuallyDrop<Leaving>> {
    thread_local! {
        static TURNS: Cell<usize> = const { Cell::new(0) };
    }
    TURNS.set(TURNS.get().wrapping_add(1));
    let is_their_turn = |count| count <= FEW || TURNS.get() % FEW == 0;
    match LEAVING.with_borrow(|all| is_their_turn(all.len())) {
        true => LEAVING.take(),
        false => VecDeque::new(),
    }
}

/// After a poll that has found these to be ready: drops those of which all is sent.
pub(super) fn put_back(mut leaving: VecDeque<ManuallyDrop<Leaving>>, ready: &[usize]) {
    if leaving.is_empty() {
        return;
    }
    // From the back, so that the others keep their numbers.
    for index in ready.iter().rev() {
        if leaving
            .get(*index)
            .is_some_and(|leaving| !leaving.handles.is_sending())
        {
            leaving.remove(*index).map(ManuallyDrop::into_inner);
        }
    }
    hurry_all(&mut leaving, Some(clock::now()));
    LEAVING.with_borrow_mut(|all| {
        // What has come meanwhile is younger.
        leaving.append(all);
        *all = leaving;
    });
}

/// Waits for all of them, but not for ever.
pub(super) fn wait_for_all() {
    let mut limit = None;
    loop {
        let leaving = LEAVING.take();
        if leaving.is_empty() {
            return;
        }
        let limit = limit.get_or_insert_with(|| subscribe_duration(nanoseconds(PATIENCE)));
        let mut list: Vec<&Pollable> = vec![limit];
        list.extend(leaving.iter().map(|leaving| leaving.pollable()));
        let mut ready: Vec<usize> = poll(&list).iter().map(|index| *index as usize).collect();
        let is_over = ready.contains(&0);
        ready.retain(|index| *index > 0);
        ready.iter_mut().for_each(|index| *index -= 1);
        put_back(leaving, &ready);
        if is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{TcpListener, TcpStream};
    use crate::time::{sleep, timeout};
    use futures_lite::future::zip;

    fn count() -> usize {
        LEAVING.with_borrow(VecDeque::len)
    }

    /// Connections with as much written as the host takes, whose peers do not read.
    async fn silent(count: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (one, two) = zip(TcpStream::connect(addr), listener.accept()).await;
            let (one, two) = (one.unwrap(), two.unwrap().0);
            one.set_send_buffer_size(4_096).unwrap();
            two.set_recv_buffer_size(4_096).unwrap();
            one.writable().await.unwrap();
            while one.try_write(&[7; 50_000]).is_ok() {}
            ours.push(one);
            peers.push(two);
        }
        (ours, peers)
    }

    async fn until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(30), waiting).await.unwrap();
    }

    #[test]
    fn only_so_many_leave_and_no_more_are_taken_until_they_have() {
        crate::block_on(async {
            let (ours, peers) = silent(2 * LEAVING_AT_MOST + 2).await;
            // So many at once that the host has had no turn.
            drop(ours);
            assert!(count() > 2 * LEAVING_AT_MOST);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let refused = TcpStream::connect(listener.local_addr().unwrap()).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
            let refused = listener.try_accept();
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
            until(|| count() <= LEAVING_AT_MOST).await;
            check_room().unwrap();
            drop(peers);
            until(is_nobody_leaving).await;
        });
    }

    #[test]
    fn none_leaves_for_ever() {
        crate::block_on(async {
            let (ours, _peers) = silent(3).await;
            let before = clock::now();
            drop(ours);
            sleep(Duration::from_millis(5)).await;
            assert_eq!(count(), 3);
            let first = deadline().unwrap();
            assert!(first >= before + LEAVING_FOR && first <= clock::now() + LEAVING_FOR);
            LEAVING.with_borrow_mut(|all| hurry_all(all, Some(clock::now() + LEAVING_FOR)));
            until(is_nobody_leaving).await;
        });
    }
}
