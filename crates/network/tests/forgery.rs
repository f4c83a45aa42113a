//! A sandbox that may write raw packets sends by its own addresses alone.

mod lab;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::{Lab, Netns};
use socket2::{Domain, Protocol, Socket, Type};

/// A datagram whose IP header says that it is of `source`.
fn send_as(netns: &Netns, source: Ipv4Addr, to: Ipv4Addr, port: u16) {
    // The kernel completes length and checksum (raw(7)); a UDP checksum of zero is none.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(4000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(9u16.to_be_bytes());
    packet.extend([0, 0, b'!']);
    netns.run(|| {
        const IPPROTO_RAW: i32 = 255;
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
        raw.send_to(&packet, &SocketAddrV4::new(to, 0).into()).unwrap();
    });
}

#[test]
fn what_bears_anothers_address_is_dropped() {
    let lab = Lab::new(2);
    let (a, a_ip) = lab.nodes[0].sandbox("a");
    let (_b, b_ip) = lab.nodes[0].sandbox("b");
    let (c, c_ip) = lab.nodes[1].sandbox("c");
    let places = [(&c, c_ip), (&lab.nodes[0].netns, lab.nodes[0].ip)];
    for (netns, ip) in places {
        let socket = netns.udp_socket();
        let port = socket.local_addr().unwrap().port();
        let sender = |wait: Duration| {
            socket.set_read_timeout(Some(wait)).unwrap();
            socket.recv_from(&mut [0; 16]).map(|(_, from)| from.ip()).ok()
        };
        send_as(&a, a_ip, ip, port);
        assert_eq!(sender(lab::PATIENCE), Some(a_ip.into()), "its own");
        // Another sandbox's, another node's, the gateway's, and one of the outside; then its own again,
        // which would be behind them.
        for forged in [b_ip, c_ip, lab.nodes[1].ip, lab::ip("10.244.1.1"), lab::ip("192.0.2.1")] {
            send_as(&a, forged, ip, port);
        }
        send_as(&a, a_ip, ip, port);
        assert_eq!(sender(lab::PATIENCE), Some(a_ip.into()), "nothing of the others before");
    }
    // With the other's hardware address as well, not even its own gets through any more.
    let [p, q, r, s] = b_ip.octets();
    a.command("ip", &["link", "set", "eth0", "address", &format!("0a:58:{p:02x}:{q:02x}:{r:02x}:{s:02x}")]);
    let socket = c.udp_socket();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for source in [b_ip, a_ip] {
        send_as(&a, source, c_ip, socket.local_addr().unwrap().port());
        assert!(socket.recv_from(&mut [0; 16]).is_err(), "{source}");
    }
}
