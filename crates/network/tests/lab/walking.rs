//! Following a packet through a node of the lab.

use std::net::Ipv4Addr;

use skiff_network::Network;
use skiff_network::walk::{Approaches, Namespace, Packets, SandboxAt, Start, Tuple, Walk, Way};

use super::{Netns, Node, ip};

pub const TCP: u8 = 6;

pub fn to(destination: &str, reply: bool) -> Packets {
    let (address, port) = destination.split_once(':').unwrap();
    let tuple = Tuple {
        source: Ipv4Addr::UNSPECIFIED,
        source_port: 40_000,
        destination: ip(address),
        destination_port: port.parse().unwrap(),
    };
    Packets { protocol: TCP, tuple, reply }
}

pub fn walk(node: &Node, sandboxes: &[SandboxAt], start: &Start, packets: &Packets) -> Vec<Way> {
    node.netns.run(|| {
        let walk = Walk {
            node: Namespace::open().unwrap(),
            name: "node",
            bridge: "cbr0",
            sandboxes,
            conversations: Vec::new(),
            to_the_door: false,
        };
        walk.follow(start, packets).unwrap()
    })
}

/// To the door alone, whatever our own rules let pass.
pub fn approach(node: &Node, sandboxes: &[(&str, &Netns)], start: Start, packets: Packets) -> Way {
    let sandboxes =
        sandboxes.iter().map(|(id, netns)| ((*id).to_owned(), (format!("pod {id}"), netns.path())));
    let asked =
        Approaches { node: "node".into(), sandboxes: sandboxes.collect(), packets: vec![(start, packets)] };
    one(node.block_on(node.network.approaches(asked)).unwrap().remove(0).unwrap())
}

#[track_caller]
pub fn one(ways: Vec<Way>) -> Way {
    assert_eq!(ways.len(), 1, "{ways:#?}");
    ways.into_iter().next().unwrap()
}

pub fn sandbox(node: &Node, name: &str) -> (Netns, SandboxAt) {
    let (netns, ip) = node.sandbox(name);
    let host_link = node.host_link(ip);
    let at = SandboxAt { name: format!("pod {name}"), ip, host_link, netns: netns.path() };
    (netns, at)
}

pub fn kinds(way: &Way) -> Vec<&str> {
    way.hops.iter().map(|hop| hop.kind.as_str()).collect()
}
