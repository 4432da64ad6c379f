//! What datagrams say in their headers, looked at from below, in a network of the test's own.
#![cfg(target_os = "linux")]

mod common;

use std::io::{self, ErrorKind};
use std::mem::zeroed;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use common::block_on_within;
use common::network::in_network;
use coracle::net::{Ecn, Meta, RecvBatch, SendBatch, SendMeta, UdpSocket};
use coracle::Address;
use socket2::SockRef;

/// The byte with DSCP and congestion mark of the datagram that comes next.
async fn traffic_class(socket: &UdpSocket) -> u8 {
    #[repr(C, align(8))]
    struct Control([u8; 256]);
    let receive = |socket: SockRef<'_>| {
        let mut control = Control([0; 256]);
        // SAFETY: all zeros is a valid msghdr.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        // SAFETY: the header tells of a control buffer that is alive, and of nothing else.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, 0) };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has left well-formed messages there; both kinds begin with the byte,
        // or with an int of it.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(&header);
            while !message.is_null() {
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_TOS) => {
                        return Ok(*libc::CMSG_DATA(message));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        let int = libc::CMSG_DATA(message).cast::<libc::c_int>();
                        return Ok(int.read_unaligned() as u8);
                    }
                    _ => message = libc::CMSG_NXTHDR(&header, message),
                }
            }
        }
        Err(io::Error::other("it has no such byte"))
    };
    socket.read_with(receive).await.unwrap()
}

#[test]
fn a_congestion_mark_leaves_the_class_of_service_alone() {
    let name = "a_congestion_mark_leaves_the_class_of_service_alone";
    in_network(name, "", || {
        block_on_within(async {
            let to = UdpSocket::bind("[::]:0").await.unwrap();
            if !to.caps().ecn {
                return;
            }
            to.set_receive_ecn(true).unwrap();
            let port = to.local_addr().unwrap().as_ip().unwrap().port();
            for (local, dest) in [
                ("127.0.0.1:0", "127.0.0.1"),
                ("[::]:0", "::ffff:127.0.0.1"),
                ("[::]:0", "::1"),
            ] {
                let dest = SocketAddr::new(dest.parse().unwrap(), port);
                for is_connected in [false, true] {
                    let from = UdpSocket::bind(local).await.unwrap();
                    if is_connected {
                        from.connect(dest).await.unwrap();
                    }
                    // Expedited forwarding, a lower effort, and none again: what counts is what
                    // the socket has now.
                    for class in [0xb8, 0x04, 0] {
                        let set = |socket: SockRef<'_>| {
                            if local.starts_with('[') {
                                socket.set_tclass_v6(class)?;
                            }
                            socket.set_tos_v4(class)
                        };
                        from.try_io(set).unwrap();
                        for mark in [None, Some(Ecn::Capable0), Some(Ecn::NotCapable)] {
                            let mut meta = SendMeta::default();
                            meta.ecn = mark;
                            let mut batch = SendBatch::new();
                            let dest = Address::from(dest);
                            let dest = Some(&dest).filter(|_| !is_connected);
                            // Two, which go as one.
                            batch.push_with(b"x", dest, meta);
                            batch.push_with(b"x", dest, meta);
                            assert_eq!(from.send_batch(&mut batch).await.unwrap(), 2);
                            let expected = class as u8 | mark.map_or(0, |mark| mark as u8);
                            for _ in 0..2 {
                                let byte = traffic_class(&to).await;
                                assert_eq!(byte, expected, "{local} to {dest:?}");
                            }
                        }
                    }
                }
            }
        });
    });
}

/// Sends one datagram as `meta` says, and gives what is known of it at the other end.
async fn goes(
    from: &UdpSocket,
    dest: &Address,
    meta: SendMeta,
    to: &UdpSocket,
) -> io::Result<Meta> {
    let mut batch = SendBatch::new();
    batch.push_with(b"x", Some(dest), meta);
    from.send_batch(&mut batch).await?;
    Ok(to.recv_meta(&mut [0; 8]).await?.1)
}

#[test]
fn a_link_local_address_can_be_replied_from() {
    let name = "a_link_local_address_can_be_replied_from";
    let setup = "ip addr add fe80::7/64 dev lo nodad; ip addr add fe80::8/64 dev lo nodad; \
                 ip addr add 2001:db8::1 dev lo nodad";
    in_network(name, setup, || {
        block_on_within(async {
            let server = UdpSocket::bind("[::]:0").await.unwrap();
            if !server.caps().destination {
                return;
            }
            server.set_receive_destination(true).unwrap();
            let port = server.local_addr().unwrap().as_ip().unwrap().port();
            let link_local = |last: u16, port| {
                let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
                Address::from(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 1)))
            };
            for client in [link_local(8, 0), "[2001:db8::1]:0".parse().unwrap()] {
                let client = UdpSocket::bind(client).await.unwrap();
                let asked = link_local(7, port);
                client.send_to(b"?", &asked).await.unwrap();
                let (_, meta) = server.recv_meta(&mut [0; 8]).await.unwrap();
                assert_eq!(meta.destination, Some(asked.as_ip().unwrap().ip()));
                assert_eq!(meta.interface, Some(1));
                let ip = |addr: &Address| addr.as_ip().unwrap().ip();

                let reply = SendMeta::reply_to(&meta);
                let came = goes(&server, &meta.from, reply, &client).await.unwrap();
                assert_eq!(ip(&came.from), ip(&asked));
                let source = SendMeta::default().with_source(meta.destination.unwrap());
                let by_index = source.with_interface(1);
                let came = goes(&server, &meta.from, by_index, &client).await.unwrap();
                assert_eq!(ip(&came.from), ip(&asked));

                let alone = goes(&server, &meta.from, source, &client).await;
                if ip(&meta.from) == IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 8]) {
                    // The destination says by which interface.
                    assert_eq!(ip(&alone.unwrap().from), ip(&asked));
                } else {
                    let error = alone.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    assert!(error.to_string().contains("fe80::7"), "{error}");
                }
                for nowhere in [99, u32::MAX] {
                    let wrong = source.with_interface(nowhere);
                    goes(&server, &meta.from, wrong, &client).await.unwrap_err();
                }
            }
        });
    });
}

#[test]
fn what_else_was_asked_for_leaves_room_for_ours() {
    let name = "what_else_was_asked_for_leaves_room_for_ours";
    in_network(name, "", || {
        block_on_within(async {
            let to = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if !to.caps().receive_offload {
                return;
            }
            to.set_receive_offload(true).unwrap();
            to.set_receive_ecn(true).unwrap();
            to.set_receive_destination(true).unwrap();
            let options = [
                (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 0x7f),
                (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
                (libc::IPPROTO_IP, libc::IP_RECVTTL, 1),
                (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1),
            ];
            let ask = |socket: SockRef<'_>| {
                for (level, option, value) in options {
                    let value: libc::c_int = value;
                    // SAFETY: the value is an int, and its size is told.
                    let result = unsafe {
                        libc::setsockopt(
                            socket.as_raw_fd(),
                            level,
                            option,
                            std::ptr::from_ref(&value).cast(),
                            size_of::<libc::c_int>() as _,
                        )
                    };
                    assert_eq!(result, 0);
                }
                Ok(())
            };
            to.try_io(ask).unwrap();
            let from = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let dest = to.local_addr().unwrap();
            let mut batch = SendBatch::new();
            (0..5).for_each(|i| {
                let meta = SendMeta::default().with_ecn(Ecn::Capable1);
                batch.push_with(&[i; 1000], Some(&dest), meta);
            });
            from.send_batch(&mut batch).await.unwrap();
            let mut into = RecvBatch::new();
            assert_eq!(to.recv_batch(&mut into).await.unwrap(), 5);
            for (data, meta) in into.iter() {
                assert_eq!(data.len(), 1000);
                assert_eq!(meta.ecn, Some(Ecn::Capable1));
                assert_eq!(meta.destination, Some([127, 0, 0, 1].into()));
            }
        });
    });
}
