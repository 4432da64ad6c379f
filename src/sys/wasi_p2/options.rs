//! Options of sockets.

use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::udp::UdpSocket;

use super::convert::error;

crate::sys::wasi::options::socket_options! {
    tcp: hop_limit, receive_buffer_size, send_buffer_size, keep_alive_enabled;
    udp: unicast_hop_limit, receive_buffer_size, send_buffer_size;
}
