//! Options of sockets.

use wasip3::sockets::types::{TcpSocket, UdpSocket};

use super::convert::error;

crate::sys::wasi::options::socket_options! {
    tcp: get_hop_limit, get_receive_buffer_size, get_send_buffer_size, get_keep_alive_enabled;
    udp: get_unicast_hop_limit, get_receive_buffer_size, get_send_buffer_size;
}
