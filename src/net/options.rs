//! What several kinds of socket offer, written once.

/// Getters, setters and facts for a type with a field `inner: sys::Datagram`.
macro_rules! common_methods {
    () => {
        /// The address the socket is bound to.
        ///
        /// # Errors
        /// As getsockname(2) gives them.
        pub fn local_addr(&self) -> io::Result<Address> {
            self.inner.local_addr()
        }

        /// The address the socket is connected to.
        ///
        /// # Errors
        /// - `NotConnected`: it is not.
        pub fn peer_addr(&self) -> io::Result<Address> {
            self.inner.peer_addr()
        }

        /// What the system offers for this socket.
        pub fn caps(&self) -> Caps {
            self.inner.caps()
        }

        crate::net::options::socket_methods!();
    };
}

/// Options of every kind of socket, for a type with a field `inner`.
macro_rules! socket_methods {
    () => {
        /// Takes the error that the system keeps for the socket, and clears it (`SO_ERROR`).
        ///
        /// # Errors
        /// Only if asking fails.
        pub fn take_error(&self) -> io::Result<Option<io::Error>> {
            self.inner.take_error()
        }

        /// The size of the kernel's receive buffer in bytes (`SO_RCVBUF`); Linux gives twice what
        /// was set, to account for its own overhead.
        ///
        /// # Errors
        /// As getsockopt(2) gives them.
        pub fn recv_buffer_size(&self) -> io::Result<usize> {
            self.get(SocketOption::RecvBufferSize)
                .map(|size| size as usize)
        }

        /// Sets the size of the kernel's receive buffer in bytes. The system raises a size below its
        /// least and lowers one above its greatest (`net.core.rmem_max` on Linux), or refuses it;
        /// [`recv_buffer_size`](Self::recv_buffer_size) tells what has become of it.
        ///
        /// # Errors
        /// As setsockopt(2) gives them; `InvalidInput` for 0 on WASI.
        pub fn set_recv_buffer_size(&self, size: usize) -> io::Result<()> {
            self.set(
                SocketOption::RecvBufferSize,
                crate::net::options::clamp(size),
            )
        }

        /// The size of the kernel's send buffer in bytes (`SO_SNDBUF`).
        ///
        /// # Errors
        /// As getsockopt(2) gives them.
        pub fn send_buffer_size(&self) -> io::Result<usize> {
            self.get(SocketOption::SendBufferSize)
                .map(|size| size as usize)
        }

        /// Sets the size of the kernel's send buffer in bytes, with limits as for the
        /// [receive buffer](Self::set_recv_buffer_size) (`net.core.wmem_max` on Linux).
        ///
        /// # Errors
        /// As setsockopt(2) gives them; `InvalidInput` for 0 on WASI.
        pub fn set_send_buffer_size(&self, size: usize) -> io::Result<()> {
            self.set(
                SocketOption::SendBufferSize,
                crate::net::options::clamp(size),
            )
        }

        fn get(&self, option: SocketOption) -> io::Result<u32> {
            self.inner.get(option)
        }

        fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
            option.check(value)?;
            self.inner.set(option, value)
        }
    };
}

/// Receiving, batches, readiness and the escape hatch, the same for both kinds of socket.
macro_rules! common_io {
    () => {
        /// Receives a datagram into `buf`, and tells its length and its sender.
        ///
        /// A datagram that is longer than `buf` is cut off, as with std's sockets; see
        /// [`recv_meta`](Self::recv_meta) to learn of it. A length of 0 is an empty datagram.
        ///
        /// # Errors
        /// - `InvalidInput`: datagrams may come merged (`receive_offload`), use batches.
        /// - what the network reported since, such as `ConnectionRefused` on a connected socket;
        ///   the socket goes on working.
        ///
        /// # Cancel safety
        /// No datagram is lost.
        pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, Address)> {
            let (len, meta) = self.recv_meta(buf).await?;
            Ok((len, meta.from))
        }

        /// As [`recv_from`](Self::recv_from), without the sender.
        ///
        /// # Cancel safety
        /// No datagram is lost.
        pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
            self.recv_meta(buf).await.map(|(len, _)| len)
        }

        /// As [`recv_from`](Self::recv_from), with all that is known of the datagram, truncation
        /// included.
        ///
        /// # Cancel safety
        /// No datagram is lost.
        pub async fn recv_meta(&self, buf: &mut [u8]) -> io::Result<(usize, Meta)> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_recv(waiter, buf, false)
            })
            .await
        }

        /// As [`recv_meta`](Self::recv_meta), but the datagram stays to be received again.
        ///
        /// # Cancel safety
        /// No datagram is lost.
        pub async fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, Meta)> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_recv(waiter, buf, true)
            })
            .await
        }

        /// As [`recv_from`](Self::recv_from), in the form of a poll function.
        ///
        /// # Errors
        /// As `recv_from`.
        pub fn poll_recv_from(
            &self,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<(usize, Address)>> {
            self.inner
                .poll_recv(&mut Waiter::polled(cx), buf, false)
                .map_ok(|(len, meta)| (len, meta.from))
        }

        /// As [`recv_from`](Self::recv_from), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: no datagram is there.
        /// - others as `recv_from`.
        pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, Address)> {
            self.inner
                .try_recv(buf, false)
                .map(|(len, meta)| (len, meta.from))
        }

        /// Receives as many datagrams as are there and fit into `batch`, at least one, and tells
        /// how many. What the batch held before is forgotten. Where they have come alone for a while,
        /// a few more are taken alone, which is faster.
        ///
        /// # Errors
        /// - What the network reported since; the datagrams behind it come with the next call.
        /// - `InvalidInput`: datagrams may come merged (`receive_offload`), and the buffers are
        ///   smaller than 65,535 bytes.
        ///
        /// # Cancel safety
        /// No datagram is lost.
        pub async fn recv_batch(&self, batch: &mut RecvBatch) -> io::Result<usize> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_recv_batch(waiter, batch)
            })
            .await?;
            Ok(batch.len())
        }

        /// As [`recv_batch`](Self::recv_batch), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: no datagram is there.
        /// - others as `recv_batch`.
        pub fn try_recv_batch(&self, batch: &mut RecvBatch) -> io::Result<usize> {
            self.inner.try_recv_batch(batch)?;
            Ok(batch.len())
        }

        /// Waits until a datagram, or an error, is there to be received, which the system has
        /// reported and nobody has taken since: on a new socket, too, so that with a
        /// [`timeout`](crate::time::timeout) it is an idle check. It may turn out to be gone.
        ///
        /// What stays when it has been looked for in vain, such as messages in the error queue,
        /// is not reported again and again.
        ///
        /// # Errors
        /// Only if waiting is impossible.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn readable(&self) -> io::Result<()> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_readable(waiter)
            })
            .await
        }

        /// Waits until a datagram can be sent, as the system has reported, or as is to be expected
        /// after the last send. It may turn out that it cannot.
        ///
        /// # Errors
        /// Only if waiting is impossible.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn writable(&self) -> io::Result<()> {
            wait(&self.inner, Direction::Write, |waiter| {
                self.inner.poll_writable(waiter)
            })
            .await
        }
    };
}

/// What may be done with the socket beyond coracle's own methods.
#[cfg(any(unix, windows))]
macro_rules! escape_hatch {
    () => {
        /// Does something of the user's own with the socket, for what coracle has no method for:
        /// tries `operation` and, as long as it says `WouldBlock`, waits until the socket is
        /// readable and tries again.
        ///
        /// # Errors
        /// What `operation` gives, but for `WouldBlock`.
        ///
        /// # Cancel safety
        /// That of `operation`.
        pub async fn read_with<T>(
            &self,
            mut operation: impl FnMut(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> io::Result<T> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner
                    .poll_with(Direction::Read, waiter, &mut operation)
            })
            .await
        }

        /// As [`read_with`](Self::read_with), waiting until the socket is writable.
        ///
        /// # Errors
        /// What `operation` gives, but for `WouldBlock`.
        ///
        /// # Cancel safety
        /// That of `operation`.
        pub async fn write_with<T>(
            &self,
            mut operation: impl FnMut(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> io::Result<T> {
            wait(&self.inner, Direction::Write, |waiter| {
                self.inner
                    .poll_with(Direction::Write, waiter, &mut operation)
            })
            .await
        }

        /// Does something with the socket without waiting. After `WouldBlock`,
        /// [`readable`](Self::readable) and the like wait.
        ///
        /// # Errors
        /// What `operation` gives, `WouldBlock` included.
        pub fn try_io<T>(
            &self,
            operation: impl FnOnce(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> io::Result<T> {
            self.inner.try_with(operation)
        }
    };
}

/// Conversions from and into the platform's sockets.
macro_rules! conversions {
    ($type:ident, $inner:ident, $($(#[$cfg:meta])* $other:ty),* $(,)?) => {
        impl TryFrom<Socket> for $type {
            type Error = io::Error;

            /// Takes an open socket as it is, and makes it non-blocking.
            fn try_from(socket: Socket) -> io::Result<$type> {
                $type::from_inner($inner::from_socket(socket)?)
            }
        }

        impl TryFrom<$type> for Socket {
            type Error = io::Error;

            /// Gives the socket back, off its reactor; it stays non-blocking.
            fn try_from(socket: $type) -> io::Result<Socket> {
                socket.inner.into_socket()
            }
        }

        $(
            $(#[$cfg])*
            impl TryFrom<$other> for $type {
                type Error = io::Error;

                /// Takes an open socket as it is, and makes it non-blocking.
                fn try_from(socket: $other) -> io::Result<$type> {
                    Socket::from(socket).try_into()
                }
            }

            $(#[$cfg])*
            impl TryFrom<$type> for $other {
                type Error = io::Error;

                /// Gives the socket back, off its reactor; it stays non-blocking.
                fn try_from(socket: $type) -> io::Result<$other> {
                    Socket::try_from(socket).map(Into::into)
                }
            }
        )*
    };
}

/// Conversions from and into async-io's socket.
#[cfg(all(feature = "async-io", any(unix, windows)))]
macro_rules! async_io_conversions {
    ($type:ident, $std:ty) => {
        impl TryFrom<async_io::Async<$std>> for $type {
            type Error = io::Error;

            /// Takes the socket off async-io's reactor; it goes to coracle's where one is running.
            fn try_from(socket: async_io::Async<$std>) -> io::Result<$type> {
                socket.into_inner()?.try_into()
            }
        }

        impl TryFrom<$type> for async_io::Async<$std> {
            type Error = io::Error;

            /// Gives the socket to async-io's reactor.
            fn try_from(socket: $type) -> io::Result<async_io::Async<$std>> {
                async_io::Async::new(socket.try_into()?)
            }
        }
    };
}

#[cfg(all(feature = "async-io", any(unix, windows)))]
pub(crate) use async_io_conversions;
#[cfg(any(unix, windows))]
pub(crate) use escape_hatch;
pub(crate) use {common_io, common_methods, conversions, socket_methods};

/// Sizes larger than any buffer are the largest.
pub(crate) fn clamp(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX).min(i32::MAX as u32)
}
