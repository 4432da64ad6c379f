//! A TCP echo server directly on the host's interface: one connection after the other, so that
//! nothing is polled but what the one has. It reads as much at a time as `--read=N` says, by
//! default what fits into the buffers of the others: asking for more costs the host more. With
//! `--accepting` it polls the listener too while it serves one, as those that serve many have to.

use std::io;

use coracle_guests::bare::{broken, finish, listen};
use coracle_guests::{address, announce, flag, number};
use wasip2::io::poll::{poll, Pollable};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::tcp::ShutdownType;

fn main() -> io::Result<()> {
    let most = number("--read")?.unwrap_or(1024);
    let (listener, address) = listen(&address())?;
    announce(address)?;
    // Lives as long as the listener, which is longer than any connection.
    let acceptable = listener.subscribe();
    let beside = flag("--accepting").then_some(&acceptable);
    loop {
        // Parts of a tuple go in the order in which they stand, but the host wants the streams
        // gone before their socket.
        let (socket, input, output) = finish(|| listener.accept(), || listener.subscribe())?;
        // An error ends the connection, which is all that is to be done about it.
        let _ = echo(input, output, most, beside);
        let _ = socket.shutdown(ShutdownType::Send);
    }
}

fn echo(
    input: InputStream,
    output: OutputStream,
    most: u64,
    beside: Option<&Pollable>,
) -> io::Result<()> {
    let readable = input.subscribe();
    let writable = output.subscribe();
    loop {
        match beside {
            Some(beside) => drop(poll(&[&readable, beside])),
            None => readable.block(),
        }
        let data = match input.read(most) {
            // None, if it was the listener that was ready.
            Ok(data) => data,
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(broken(error)),
        };
        let mut rest = &data[..];
        while !rest.is_empty() {
            let permit = output.check_write().map_err(broken)? as usize;
            if permit == 0 {
                writable.block();
                continue;
            }
            let (now, later) = rest.split_at(permit.min(rest.len()));
            output.write(now).map_err(broken)?;
            rest = later;
        }
    }
}
