//! The node's table of neighbours, which the kernel has but one of for all its namespaces: a sandbox can't fill
//! it, and the other nodes stay in it.

mod lab;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use lab::{Lab, Netns};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use skiff_network::{Cidr, Network, Route};
use skiff_sys::netlink::route::ORIGIN;

/// What a node has of neighbours on a link, in `ip`'s words.
fn neighbours(netns: &Netns, link: &str) -> Vec<String> {
    let all = netns.command("ip", &["neigh", "show", "dev", link, "nud", "all"]);
    all.lines().map(|line| line.trim().to_owned()).collect()
}

/// `address` asks who has `wanted`, as any program may say that has raw sockets (RFC 826).
fn question(hardware: [u8; 6], address: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(hardware);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(hardware);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// Sends frames as they are by the sandbox's link.
fn send_frames(netns: &Netns, frames: impl Fn([u8; 6]) -> Vec<Vec<u8>> + Send + Sync) {
    netns.run(|| {
        let is_eth0 = |link: &LinkAddr| link.halen() == 6;
        let mut links = getifaddrs().unwrap().filter(|own| own.interface_name == "eth0");
        let link = links.find_map(|own| own.address?.as_link_addr().copied().filter(is_eth0)).unwrap();
        let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        for frame in frames(link.addr().unwrap()) {
            sendto(raw.as_raw_fd(), &frame, &link, MsgFlags::empty()).unwrap();
        }
    });
}

#[test]
fn a_sandbox_cannot_fill_its_nodes_table_of_neighbours() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (hostile, own) = node.sandbox("hostile");
    let _gateway = node.netns.serve_udp("10.244.1.1:9000", "node");
    let known = vec![format!("{own} lladdr 0a:58:0a:f4:01:02 PERMANENT")];
    // Who asks by its own address is answered; so all that it sends does get there.
    hostile.command("ip", &["neigh", "flush", "dev", "eth0"]);
    let is_answered = |when: &str| {
        assert_eq!(
            lab::try_udp(&hostile.udp_socket(), "10.244.1.1:9000").unwrap(),
            format!("node {own}"),
            "{when}"
        );
    };
    is_answered("at first");
    assert_eq!(neighbours(&node.netns, "cbr0"), known);
    // Addresses of the node's range, of other nodes', of services, of the nodes' own network and of the outside.
    let made_up = |index: u32| {
        let bases = ["10.244.1.3", "10.244.9.1", "10.96.0.1", "10.100.0.77", "192.0.2.1"];
        let base = u32::from(lab::ip(bases[index as usize % bases.len()]));
        Ipv4Addr::from(base + index / bases.len() as u32 % 250)
    };
    send_frames(&hostile, |hardware| {
        let asks = |index: u32| {
            // The gateway, a sandbox that is there, and ones that are not.
            let wanted = [lab::ip("10.244.1.1"), own, Ipv4Addr::from(u32::from(own) + 1 + index % 200)];
            question(hardware, made_up(index), wanted[index as usize % 3])
        };
        (0..2_000).map(asks).collect()
    });
    is_answered("after questions");
    assert_eq!(neighbours(&node.netns, "cbr0"), known);
    // Packets to whom nobody is, by its own address.
    let socket = hostile.udp_socket();
    for index in 0..2_000u32 {
        let target = Ipv4Addr::from(u32::from(own) + 1 + index % 250);
        // It may hear of earlier ones that nobody is there.
        let _ = socket.send_to(b"?", (target, 9));
    }
    is_answered("after packets");
    assert_eq!(neighbours(&node.netns, "cbr0"), known);
}

#[test]
fn who_sends_to_nobody_is_told_so_at_once() {
    let lab = Lab::new(2);
    let (here, _) = lab.nodes[0].sandbox("here");
    let (far, _) = lab.nodes[1].sandbox("far");
    for (name, netns) in [("here", &here), ("far", &far)] {
        let target: SocketAddr = "10.244.1.77:80".parse().unwrap();
        let error = netns.run(|| TcpStream::connect_timeout(&target, lab::PATIENCE)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{name}");
    }
    assert!(neighbours(&lab.nodes[0].netns, "cbr0").iter().all(|line| !line.contains("10.244.1.77")));
}

#[test]
fn the_rules_for_arp_are_put_back_and_go_with_the_network() {
    let mut lab = Lab::new(1);
    let (_a, a_ip) = lab.nodes[0].sandbox("a");
    let table = |lab: &Lab| lab.nodes[0].netns.nft().contains("table arp skiff");
    assert!(table(&lab) && lab.nodes[0].ruleset.is_intact());
    lab.nodes[0].netns.command("nft", &["delete", "table", "arp", "skiff"]);
    lab::eventually("restored", || table(&lab) && lab.nodes[0].ruleset.is_intact());
    let listed = |lab: &Lab| lab.nodes[0].netns.command("nft", &["list", "set", "arp", "skiff", "speakers"]);
    assert!(listed(&lab).contains(&a_ip.to_string()), "{}", listed(&lab));
    // An agent that is started again finds them, and takes out whoever is gone.
    lab.nodes[0].restart();
    assert!(listed(&lab).contains(&a_ip.to_string()), "{}", listed(&lab));
    let node = &lab.nodes[0];
    node.block_on(node.network.detach("a")).unwrap();
    assert!(!listed(&lab).contains(&a_ip.to_string()), "{}", listed(&lab));
    node.block_on(node.network.remove()).unwrap();
    assert_eq!(node.netns.nft(), "");
}

#[test]
fn the_other_nodes_are_neighbours_that_the_kernel_looks_for_and_keeps() {
    let lab = Lab::new(3);
    let node = &lab.nodes[0];
    let links = node.netns.links();
    let eth0 = links.link("eth0").unwrap().unwrap().index;
    let probed = || {
        let mut all = links.probed_neighbours(ORIGIN).unwrap();
        all.sort();
        all
    };
    let others = [(eth0, lab.nodes[1].ip), (eth0, lab.nodes[2].ip)];
    assert_eq!(probed(), others);
    // The kernel asks for them by itself: nothing was sent yet.
    for (_, ip) in others {
        lab::eventually("known", || {
            let all = neighbours(&node.netns, "eth0");
            all.iter().any(|line| line.starts_with(&format!("{ip} lladdr ")) && line.contains("extern_learn"))
        });
    }
    // And again where somebody has it forget them.
    node.netns.command("ip", &["neigh", "flush", "dev", "eth0"]);
    let routes = |nodes: &[usize]| -> Vec<Route> {
        let of = |index: &usize| &lab.nodes[*index];
        nodes.iter().map(of).map(|to| Route { destination: to.config.pod_cidr, via: to.ip }).collect()
    };
    node.block_on(node.network.set_routes(&routes(&[1, 2]))).unwrap();
    assert_eq!(probed(), others);
    // A node that left is a neighbour as any, and one that is behind a router was none.
    let beyond: Cidr = lab::cidr("10.244.9.0/24");
    node.netns.command("ip", &["route", "add", "10.200.0.0/24", "via", "10.100.0.1"]);
    let mut remaining = routes(&[2]);
    let _ = node.block_on(node.network.set_routes(
        &[&remaining[..], &[Route { destination: beyond, via: lab::ip("10.200.0.9") }]].concat(),
    ));
    assert_eq!(probed(), others[1..]);
    remaining.clear();
    node.block_on(node.network.remove()).unwrap();
    assert_eq!(probed(), []);
}

/// A node that says that it is where a sandbox is, or here, is not believed, and the others are reached.
#[test]
fn no_route_leads_to_a_node_that_says_it_is_a_sandbox() {
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let (_victim, victim) = node.sandbox("victim");
    let astray = lab::cidr("10.244.7.0/24");
    let good = Route { destination: lab.nodes[1].config.pod_cidr, via: lab.nodes[1].ip };
    for via in [victim, lab::ip("10.244.1.1"), lab.nodes[1].sandbox("x").1, node.ip, lab::ip("127.0.0.1")] {
        node.block_on(node.network.set_routes(&[good, Route { destination: astray, via }])).unwrap();
        let routes = node.netns.command("ip", &["route", "show", "proto", "88"]);
        assert!(routes.contains("10.244.2.0/24 via 10.100.0.3"), "{via}: {routes}");
        assert!(!routes.contains("10.244.7.0/24"), "{via}: {routes}");
        let nodes = node.netns.command("nft", &["list", "set", "ip", "skiff", "nodes"]);
        assert!(via == node.ip || !nodes.contains(&via.to_string()), "{nodes}");
        node.block_on(lab.nodes[1].network.detach("x")).unwrap();
    }
}
