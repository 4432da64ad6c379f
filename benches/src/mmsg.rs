//! recvmmsg(2) and sendmmsg(2) with buffers and headers laid out once.

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use crate::check;

/// A fixed number of buffers with their headers. The headers point into the other boxes,
/// whose contents stay where they are when the `Batch` itself moves.
pub struct Batch {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    _addresses: Box<[libc::sockaddr_storage]>,
    _bytes: Vec<u8>,
    buffer_len: usize,
    filled: usize,
}

impl Batch {
    /// Room for `count` datagrams of `buffer_len` bytes, each with its sender's address.
    pub fn new(count: usize, buffer_len: usize) -> Self {
        let mut addresses: Box<[libc::sockaddr_storage]> = (0..count)
            // SAFETY: zeros are a valid value of this C structure.
            .map(|_| unsafe { mem::zeroed() })
            .collect();
        let mut headers: Box<[libc::mmsghdr]> = (0..count)
            // SAFETY: as above.
            .map(|_| unsafe { mem::zeroed() })
            .collect();
        // Zeroed by the allocator, hence not resident before it is used.
        let mut bytes = vec![0; count * buffer_len];
        let mut vectors: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(buffer_len)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: buffer_len,
            })
            .collect();
        for ((header, vector), address) in headers.iter_mut().zip(&mut vectors).zip(&mut addresses)
        {
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as u32;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        Self {
            headers,
            vectors,
            _addresses: addresses,
            _bytes: bytes,
            buffer_len,
            filled: 0,
        }
    }

    /// `count` times the same datagram, for a connected socket.
    pub fn repeat(count: usize, payload: &[u8]) -> Self {
        let mut batch = Self::new(count, payload.len().max(1));
        for (header, vector) in batch.headers.iter_mut().zip(&mut batch.vectors) {
            // SAFETY: the buffer behind the vector is as long as the payload.
            unsafe {
                ptr::copy_nonoverlapping(payload.as_ptr(), vector.iov_base.cast(), payload.len());
            }
            vector.iov_len = payload.len();
            header.msg_hdr.msg_name = ptr::null_mut();
            header.msg_hdr.msg_namelen = 0;
        }
        batch
    }

    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Receives what is there, at most the capacity, without waiting.
    pub fn receive(&mut self, fd: RawFd) -> io::Result<usize> {
        // What the last round wrote over is restored, and no more than that.
        for (header, vector) in self.headers[..self.filled]
            .iter_mut()
            .zip(&mut self.vectors)
        {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as u32;
            vector.iov_len = self.buffer_len;
        }
        self.filled = 0;
        // SAFETY: the headers point to boxes that live as long as `self` does.
        let received = check(unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                self.capacity() as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        })?;
        self.filled = received as usize;
        Ok(self.filled)
    }

    /// The lengths of the datagrams received last.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.headers[..self.filled]
            .iter()
            .map(|header| header.msg_len as usize)
    }

    /// Makes the headers of the datagrams received last those of their echoes.
    pub fn turn_round(&mut self) {
        for (header, vector) in self.headers[..self.filled].iter().zip(&mut self.vectors) {
            vector.iov_len = header.msg_len as usize;
        }
    }

    /// Sends the datagrams from `from` to `to`; returns how many the kernel took.
    pub fn send(&mut self, fd: RawFd, from: usize, to: usize) -> io::Result<usize> {
        let headers = &mut self.headers[from..to];
        // SAFETY: as for `receive`.
        let sent = check(unsafe {
            libc::sendmmsg(
                fd,
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT,
            )
        })?;
        Ok(sent as usize)
    }
}
