//! The ways to a pod that are not its own address, under every policy of the grid: its service's address, the
//! service's port on each node, and the pod's port of its node. Real connections from every pod and from outside,
//! against the plain model of the specification, with what `docs/network-policy.md` says of translations: who
//! begins is judged by what its own node knows of the goal, and who is meant by the sender that it sees.

#[path = "grid/cases.rs"]
mod cases;
mod grid;
#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use cases::cases;
use grid::model::End;
use grid::probe::{Listeners, Probe, probe};
use grid::{Grid, Placed, address};
use lab::Netns;
use skiff_network::Network;
use world::Service;

const PORT: u16 = 80;
const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];
/// Pods of both nodes and of two namespaces: each has a service and ports of its own.
const GOALS: [(&str, &str); 3] = [("a", "x"), ("a", "y"), ("b", "y")];

/// A way to a pod.
#[derive(Debug, Clone, Copy)]
enum Way {
    ClusterIp,
    /// By this node.
    NodePort(usize),
    HostPort,
}

impl Way {
    /// Where one connects to, for the goal of that number.
    fn target(self, grid: &Grid, number: usize, goal: &Placed) -> (Ipv4Addr, u16) {
        let number = u16::try_from(number).unwrap();
        match self {
            Way::ClusterIp => (cluster_ip(number), PORT),
            Way::NodePort(node) => (grid.world.lab.nodes[node].ip, 30_080 + number),
            Way::HostPort => (grid.world.lab.nodes[goal.node].ip, 9_080 + number),
        }
    }
}

fn cluster_ip(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 1, u8::try_from(number).unwrap() + 1)
}

/// Whether a connection comes about by this way. `from` is no pod where somebody outside begins.
fn comes_about(
    grid: &Grid,
    from: Option<&Placed>,
    goal: &Placed,
    way: Way,
    number: usize,
    protocol: &str,
) -> bool {
    let (cluster, to) = (&grid.cluster, End::Pod(&goal.pod));
    let begins = from.map_or(address(lab::ip("10.100.0.1")), |from| End::Pod(&from.pod));
    // Nobody is kept from itself; by way of a node it is not known any more that it is itself.
    let itself = from.is_some_and(|from| from.pod.ip == goal.pod.ip);
    let (at, port) = way.target(grid, number, goal);
    // A node translates what its own pods send to itself, and knows then who really answers.
    let entry = match way {
        Way::ClusterIp => None,
        Way::NodePort(node) => Some(node),
        Way::HostPort => Some(goal.node),
    };
    let knows = entry.is_none_or(|entry| from.is_none_or(|from| from.node == entry));
    if itself && knows {
        return true;
    }
    let out = match knows {
        true => cluster.lets_out(begins, to, protocol, PORT),
        false => cluster.lets_out(begins, address(at), protocol, port),
    };
    // Who enters by a node that has no endpoint is seen as that node.
    let own_range = entry.is_some_and(|entry| from.is_some_and(|from| from.node == entry));
    let sender = match entry {
        Some(entry) if entry != goal.node && !own_range => address(grid.world.lab.nodes[entry].ip),
        _ => begins,
    };
    out && cluster.lets_in(sender, to, protocol, PORT)
}

#[test]
fn all_ways_to_a_pod_are_as_the_specification_says() {
    let mut grid = Grid::new(true);
    for (number, (namespace, name)) in GOALS.into_iter().enumerate() {
        let goal = grid.pod(namespace, name);
        let (_, node_port) = Way::NodePort(0).target(&grid, number, goal);
        let (_, host_port) = Way::HostPort.target(&grid, number, goal);
        let at = cluster_ip(u16::try_from(number).unwrap()).to_string();
        let service = Service::new(&format!("{namespace}-{name}"), &at);
        let service = service.port(PORT).node_port(node_port).udp(PORT).node_port(node_port);
        grid.world.set(&service, &[(goal.node, goal.pod.ip, true)], PORT);
        let ports = [skiff_network::Protocol::Tcp, skiff_network::Protocol::Udp].map(|protocol| {
            let host_ip = lab::ip("0.0.0.0");
            skiff_network::HostPort { host_ip, host_port, protocol, container_port: PORT }
        });
        let node = &grid.world.lab.nodes[goal.node];
        node.block_on(node.network.set_host_ports(&format!("{namespace}-{name}"), &ports)).unwrap();
    }
    for (name, policies) in cases() {
        grid.set(&policies);
        check(&grid, name);
    }
}

fn check(grid: &Grid, name: &str) {
    let lab = &grid.world.lab;
    let goals = GOALS.map(|(namespace, name)| grid.pod(namespace, name));
    let listeners = goals.map(|goal| Listeners::open(&goal.netns, goal.pod.ip, &[PORT], &[PORT]));
    let answering: Vec<_> = goals.iter().zip(&listeners).map(|(goal, own)| (goal.pod.ip, own)).collect();
    let mut places: Vec<&Netns> = grid.pods.iter().map(|pod| &pod.netns).collect();
    places.push(&lab.router);

    let mut ways = vec![Way::ClusterIp, Way::HostPort];
    ways.extend((0..lab.nodes.len()).map(Way::NodePort));
    let (mut probes, mut wanted) = (Vec::new(), BTreeSet::new());
    for from in 0..places.len() {
        let begins = grid.pods.get(from);
        for (number, goal) in goals.into_iter().enumerate() {
            for way in &ways {
                // A service's address is known inside alone.
                if begins.is_none() && matches!(way, Way::ClusterIp) {
                    continue;
                }
                for protocol in PROTOCOLS {
                    let (to, port) = way.target(grid, number, goal);
                    let probe = Probe { from, protocol, to, port };
                    probes.push(probe);
                    if comes_about(grid, begins, goal, *way, number, protocol) {
                        wanted.insert(probe);
                    }
                }
            }
        }
    }
    let reached = probe(&places, &answering, &probes, |probe| wanted.contains(probe));
    let show = |probe: &Probe| {
        let from = grid.pods.get(probe.from);
        let from = from.map_or("outside".to_owned(), |pod| {
            format!("{}/{} on node {}", pod.pod.namespace, pod.pod.name, pod.node)
        });
        format!("{from} -> {}:{}/{}", probe.to, probe.port, probe.protocol)
    };
    let wrong: Vec<String> = wanted
        .difference(&reached)
        .map(|probe| format!("not through: {}", show(probe)))
        .chain(reached.difference(&wanted).map(|probe| format!("through: {}", show(probe))))
        .collect();
    assert!(wrong.is_empty(), "{name}: {} of {} are wrong:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
    assert!(!wanted.is_empty(), "{name}");
}
