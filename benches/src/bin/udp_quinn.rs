//! An echo server on bare quinn-udp: datagrams coalesced by the kernel (GRO) are echoed in
//! one segmented send (GSO), which is as far as UDP on Linux goes without io_uring or XDP.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;

use coracle_benches::epoll::{wait_writable, Epoll};
use coracle_benches::{contract, BUFFER};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState, BATCH_SIZE};

fn main() -> io::Result<()> {
    let socket = contract::bind()?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    contract::announce(socket.local_addr()?)?;
    let fd = socket.as_raw_fd();
    let epoll = Epoll::readable(fd)?;

    let mut bytes = vec![0; BATCH_SIZE * BUFFER];
    let mut buffers: Vec<IoSliceMut<'_>> = bytes
        .chunks_exact_mut(BUFFER)
        .map(IoSliceMut::new)
        .collect();
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    loop {
        epoll.wait()?;
        // As in udp_mmsg: a batch that is not full has emptied the socket.
        loop {
            let received = match state.recv(UdpSockRef::from(&socket), &mut buffers, &mut meta) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for (meta, buffer) in meta[..received].iter().zip(&buffers) {
                // The kernel coalesces no more segments than it sends by default, but some
                // versions allow fewer to be sent.
                let stride = meta.stride.max(1);
                let chunk = stride.saturating_mul(state.max_gso_segments()).max(1);
                for contents in buffer[..meta.len].chunks(chunk) {
                    let transmit = Transmit {
                        destination: meta.addr,
                        ecn: None,
                        contents,
                        segment_size: Some(stride),
                        src_ip: None,
                    };
                    while let Err(error) = state.try_send(UdpSockRef::from(&socket), &transmit) {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            return Err(error);
                        }
                        wait_writable(fd)?;
                    }
                }
            }
            if received < BATCH_SIZE {
                break;
            }
        }
    }
}
