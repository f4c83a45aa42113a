//! A sandbox that may write raw packets sends by its own addresses alone, and gets what is meant for it alone.

mod lab;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::{Lab, Netns};
use skiff_network::Network;
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

/// Has the sandbox claim the address as its own towards the node: it asks who has the gateway, as the other.
fn claim(netns: &Netns, address: Ipv4Addr) {
    let claimed = format!("{address}/32");
    netns.command("ip", &["address", "replace", &claimed, "dev", "eth0"]);
    netns.command("ip", &["neigh", "flush", "dev", "eth0"]);
    let asks = netns.run(|| std::net::UdpSocket::bind((address, 0)).unwrap());
    asks.send_to(b"?", "10.244.1.1:9").unwrap();
    // Its question was answered: so it has reached the node.
    lab::eventually("the gateway is known", || {
        netns.command("ip", &["neigh", "show", "10.244.1.1", "dev", "eth0"]).contains("lladdr")
    });
}

#[test]
fn nobody_is_given_what_is_sent_to_another_by_claiming_its_address() {
    let mut lab = Lab::new(2);
    let (hostile, _) = lab.nodes[0].sandbox("hostile");
    let (victim, victim_ip) = lab.nodes[0].sandbox("victim");
    let (peer, _) = lab.nodes[0].sandbox("peer");
    let (far, _) = lab.nodes[1].sandbox("far");
    let _server = victim.serve_udp(&format!("{victim_ip}:9000"), "victim");
    claim(&hostile, victim_ip);
    let stolen = hostile.run(|| std::net::UdpSocket::bind((victim_ip, 9000)).unwrap());
    stolen.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    let target = format!("{victim_ip}:9000");
    let reach = |lab: &Lab, when: &str| {
        for (name, netns) in [("node", &lab.nodes[0].netns), ("peer", &peer), ("far", &far)] {
            let answer = lab::try_udp(&netns.udp_socket(), &target);
            assert!(answer.unwrap().starts_with("victim "), "{name} {when}");
        }
    };
    reach(&lab, "after it was claimed");
    // It holds while the node's agent is started again, and when the bridge lost what it knew.
    lab.nodes[0].netns.command("ip", &["neigh", "flush", "dev", "cbr0", "nud", "permanent"]);
    lab.nodes[0].restart();
    claim(&hostile, victim_ip);
    reach(&lab, "after a restart");
    // It is what was written down that kept it, and not a mistake in the attack.
    lab.nodes[0].netns.command("ip", &["neigh", "del", &victim_ip.to_string(), "dev", "cbr0"]);
    claim(&hostile, victim_ip);
    let socket = peer.udp_socket();
    socket.send_to(b"for the victim", &target).unwrap();
    let mut buffer = [0; 32];
    let length = stolen.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"for the victim");
}

#[test]
fn what_is_written_down_of_a_sandbox_goes_with_it() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let known = || {
        let all = node.netns.links().fixed_neighbours().unwrap();
        all.into_iter().map(|one| (one.ip, one.hardware)).collect::<Vec<_>>()
    };
    assert_eq!(known(), []);
    let (_a, a_ip) = node.sandbox("a");
    assert_eq!(known(), [(a_ip, [0x0a, 0x58, 10, 244, 1, 2])]);
    node.block_on(node.network.detach("a")).unwrap();
    assert_eq!(known(), []);
    let (_b, _) = node.sandbox("b");
    node.block_on(node.network.remove()).unwrap();
    assert_eq!(known(), []);
}
