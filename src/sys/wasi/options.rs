//! Options of sockets: what hosts lack is refused by name, for the rest the bindings are asked.

use std::io;

use crate::error::unsupported;
use crate::sys::caps::{DatagramConfig, Family, ListenerConfig, StreamConfig};

const TCP: i32 = 6;
const UDP: i32 = 17;

pub(in crate::sys) fn check_datagram(config: &DatagramConfig) -> io::Result<()> {
    if config.reuse_port {
        return Err(unsupported("reuse_port"));
    }
    if config.broadcast {
        return Err(unsupported("allow_broadcast"));
    }
    check_protocol(config.protocol, UDP)
}

pub(in crate::sys) fn check_stream(config: &StreamConfig) -> io::Result<()> {
    check_protocol(config.protocol, TCP)
}

pub(in crate::sys) fn check_listener(config: &ListenerConfig) -> io::Result<()> {
    if config.reuse_port {
        return Err(unsupported("reuse_port"));
    }
    // The host has it on.
    if config.reuse_address == Some(false) {
        return Err(unsupported("reuse_address = false"));
    }
    // The host has it on, too.
    if config.only_v6 == Some(false) && Family::of(&config.bind) == Family::Inet6 {
        return Err(unsupported("only_v6 = false"));
    }
    Ok(())
}

fn check_protocol(asked: i32, only: i32) -> io::Result<()> {
    match asked {
        0 => Ok(()),
        asked if asked == only => Ok(()),
        other => Err(unsupported(format_args!("proto {other}"))),
    }
}

/// Functions that get and set options, for the bindings' `TcpSocket` and `UdpSocket` and the
/// backend's `error`. What getters are called is all that differs between the bindings.
macro_rules! socket_options {
    (
        tcp: $hop_limit:ident, $receive_size:ident, $send_size:ident, $keep_alive:ident;
        udp: $unicast_hop_limit:ident, $receive_buffer_size:ident, $send_buffer_size:ident;
    ) => {
        use std::io;

        use $crate::error::{context, unsupported};
        use $crate::sys::caps::{Family, Keepalive, SocketOption};
        use $crate::sys::wasi::{nanoseconds, saturate};

        pub(super) fn get_tcp(socket: &TcpSocket, option: SocketOption) -> io::Result<u32> {
            let value = match option {
                SocketOption::Ttl => socket.$hop_limit().map(u32::from),
                SocketOption::RecvBufferSize => socket.$receive_size().map(saturate),
                SocketOption::SendBufferSize => socket.$send_size().map(saturate),
                SocketOption::KeepAlive => socket.$keep_alive().map(u32::from),
                other => return Err(unsupported(other)),
            };
            value.map_err(|code| context(error(code), option))
        }

        pub(super) fn set_tcp(
            socket: &TcpSocket,
            option: SocketOption,
            value: u32,
        ) -> io::Result<()> {
            let result = match option {
                // More than fits is refused by the host in the same way as 0.
                SocketOption::Ttl => socket.set_hop_limit(u8::try_from(value).unwrap_or(0)),
                SocketOption::RecvBufferSize => socket.set_receive_buffer_size(value.into()),
                SocketOption::SendBufferSize => socket.set_send_buffer_size(value.into()),
                SocketOption::KeepAlive => socket.set_keep_alive_enabled(value != 0),
                other => return Err(unsupported(other)),
            };
            result.map_err(|code| context(error(code), format_args!("{option} = {value}")))
        }

        pub(super) fn set_keepalive(socket: &TcpSocket, keepalive: Keepalive) -> io::Result<()> {
            let apply = || {
                if let Some(time) = keepalive.time {
                    socket.set_keep_alive_idle_time(nanoseconds(time))?;
                }
                if let Some(interval) = keepalive.interval {
                    socket.set_keep_alive_interval(nanoseconds(interval))?;
                }
                if let Some(retries) = keepalive.retries {
                    socket.set_keep_alive_count(retries)?;
                }
                socket.set_keep_alive_enabled(true)
            };
            apply().map_err(|code| context(error(code), format_args!("{keepalive:?}")))
        }

        pub(super) fn get_udp(
            socket: &UdpSocket,
            family: Family,
            option: SocketOption,
        ) -> io::Result<u32> {
            let value = match option {
                SocketOption::Ttl => socket.$unicast_hop_limit().map(u32::from),
                SocketOption::RecvBufferSize => socket.$receive_buffer_size().map(saturate),
                SocketOption::SendBufferSize => socket.$send_buffer_size().map(saturate),
                // Always so.
                SocketOption::OnlyV6 if family == Family::Inet6 => Ok(1),
                SocketOption::Broadcast | SocketOption::ReusePort => Ok(0),
                other => return Err(unsupported(other)),
            };
            value.map_err(|code| context(error(code), option))
        }

        pub(super) fn set_udp(
            socket: &UdpSocket,
            family: Family,
            option: SocketOption,
            value: u32,
        ) -> io::Result<()> {
            let result = match option {
                // More than fits is refused by the host in the same way as 0.
                SocketOption::Ttl => socket.set_unicast_hop_limit(u8::try_from(value).unwrap_or(0)),
                SocketOption::RecvBufferSize => socket.set_receive_buffer_size(value.into()),
                SocketOption::SendBufferSize => socket.set_send_buffer_size(value.into()),
                SocketOption::OnlyV6 if family == Family::Inet6 && value != 0 => Ok(()),
                other => return Err(unsupported(other)),
            };
            result.map_err(|code| context(error(code), format_args!("{option} = {value}")))
        }
    };
}
pub(in crate::sys) use socket_options;
