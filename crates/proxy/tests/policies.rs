//! Network policies on the real kernel: real packets between all pairs of pods, against the plain model of
//! the specification.

mod grid;
#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::collections::BTreeSet;

use grid::probe::{Listeners, Probe, probe};
use grid::{Grid, address};
use lab::Netns;
use serde_json::{Value, json};

const TCP: [u16; 3] = [80, 81, 90];
const UDP: [u16; 2] = [80, 81];
const SCTP: [u16; 1] = [80];

type Case = (&'static str, Vec<(&'static str, &'static str, Value)>);

/// One policy a case, or some that add up.
#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let x = || json!({"matchLabels": {"pod": "x"}});
    let one = |spec: Value| vec![("a", "policy", spec)];
    let ingress = |rule: Value| one(json!({"podSelector": {}, "ingress": [rule]}));
    let egress = |rule: Value| one(json!({"podSelector": {}, "egress": [rule], "policyTypes": ["Egress"]}));
    vec![
        ("default deny of ingress", one(json!({"podSelector": {}}))),
        ("default deny of egress", one(json!({"podSelector": {}, "policyTypes": ["Egress"]}))),
        ("default deny of both", one(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))),
        ("allow all ingress", ingress(json!({}))),
        ("allow all egress", egress(json!({}))),
        ("of some pods alone", one(json!({"podSelector": x()}))),
        (
            "pods selected by an expression",
            one(
                json!({"podSelector": {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["x"]}]}}),
            ),
        ),
        ("from pods of the own namespace", ingress(json!({"from": [{"podSelector": {}}]}))),
        ("from pods with a label", ingress(json!({"from": [{"podSelector": x()}]}))),
        ("from all namespaces", ingress(json!({"from": [{"namespaceSelector": {}}]}))),
        ("from a namespace", ingress(json!({"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}))),
        (
            "from some pods of some namespaces",
            ingress(
                json!({"from": [{"namespaceSelector": {"matchLabels": {"team": "one"}}, "podSelector": x()}]}),
            ),
        ),
        (
            "from either of two peers",
            ingress(
                json!({"from": [{"namespaceSelector": {"matchLabels": {"ns": "c"}}}, {"podSelector": x()}]}),
            ),
        ),
        (
            "from namespaces by an expression",
            ingress(
                json!({"from": [{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["two"]}]}}]}),
            ),
        ),
        ("to a port", ingress(json!({"ports": [{"port": 80, "protocol": "TCP"}]}))),
        ("to a range of ports", ingress(json!({"ports": [{"port": 80, "endPort": 89}]}))),
        ("to a named port", ingress(json!({"ports": [{"port": "web"}]}))),
        (
            "to a named port of another protocol",
            ingress(json!({"ports": [{"port": "names", "protocol": "UDP"}, {"port": "names"}]})),
        ),
        ("to a protocol", ingress(json!({"ports": [{"protocol": "UDP"}]}))),
        ("to another protocol", ingress(json!({"ports": [{"protocol": "SCTP", "port": 80}]}))),
        (
            "to many ports from many peers",
            ingress(json!({
                "from": [
                    {"podSelector": x()},
                    {"namespaceSelector": {"matchLabels": {"ns": "b"}}, "podSelector": {"matchLabels": {"tier": "back"}}},
                    {"ipBlock": {"cidr": "10.100.0.0/24"}},
                ],
                "ports": [{"port": 80}, {"port": "web"}, {"port": 81, "protocol": "UDP"}, {"port": 90, "endPort": 99}],
            })),
        ),
        ("from a block", ingress(json!({"from": [{"ipBlock": {"cidr": "10.244.1.0/24"}}]}))),
        (
            "from a block but for parts",
            ingress(
                json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.2.0/24", "10.244.1.2/32"]}}]}),
            ),
        ),
        ("to pods of the own namespace", egress(json!({"to": [{"podSelector": {}}]}))),
        (
            "to pods of another namespace",
            egress(
                json!({"to": [{"namespaceSelector": {"matchLabels": {"ns": "c"}}, "podSelector": {"matchLabels": {"tier": "back"}}}]}),
            ),
        ),
        ("to a port of everyone", egress(json!({"ports": [{"port": 81, "protocol": "UDP"}, {"port": 90}]}))),
        ("to what others call so", egress(json!({"ports": [{"port": "web"}]}))),
        (
            "to a block but for a part",
            egress(
                json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.2.0/25"]}}], "ports": [{"port": 80}]}),
            ),
        ),
        ("to outside", egress(json!({"to": [{"ipBlock": {"cidr": "10.100.0.1/32"}}]}))),
        (
            "policies that add up",
            vec![
                ("a", "deny", json!({"podSelector": {}})),
                (
                    "a",
                    "x",
                    json!({"podSelector": x(), "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}]}),
                ),
                ("a", "web", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})),
                (
                    "b",
                    "out",
                    json!({"podSelector": {}, "egress": [{"ports": [{"port": 80, "endPort": 81}]}], "policyTypes": ["Egress"]}),
                ),
            ],
        ),
        (
            "both sides have their say",
            vec![
                (
                    "a",
                    "out",
                    json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}]}),
                ),
                (
                    "b",
                    "in",
                    json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": x()}]}]}),
                ),
                ("c", "in", json!({"podSelector": x(), "policyTypes": ["Ingress", "Egress"]})),
            ],
        ),
        ("no policy", vec![]),
    ]
}

#[test]
fn all_pairs_of_pods_are_as_the_specification_says() {
    let mut grid = Grid::new(true);
    for (name, policies) in cases() {
        grid.set(&policies);
        check_pods(&grid, name);
    }
}

/// Probes every pair of pods and all nodes, on every port; the model has the answers.
fn check_pods(grid: &Grid, name: &str) {
    let lab = &grid.world.lab;
    let listeners: Vec<Listeners> =
        grid.pods.iter().map(|this| Listeners::open(&this.netns, this.pod.ip, &TCP, &UDP)).collect();
    let outside = Listeners::open(&lab.router, lab::ip("10.100.0.1"), &TCP, &UDP);
    let node_listeners: Vec<Listeners> =
        lab.nodes.iter().map(|node| Listeners::open(&node.netns, node.ip, &TCP, &UDP)).collect();
    let mut places: Vec<&Netns> = grid.pods.iter().map(|this| &this.netns).collect();
    places.extend(lab.nodes.iter().map(|node| &node.netns));
    places.push(&lab.router);
    let router_ip = lab::ip("10.100.0.1");
    let mut ends: Vec<_> = grid.pods.iter().map(|this| grid::model::End::Pod(&this.pod)).collect();
    ends.extend(lab.nodes.iter().map(|node| address(node.ip)));
    ends.push(address(router_ip));
    let mut all: Vec<_> = grid.pods.iter().zip(&listeners).map(|(this, own)| (this.pod.ip, own)).collect();
    all.extend(lab.nodes.iter().zip(&node_listeners).map(|(node, own)| (node.ip, own)));
    all.push((router_ip, &outside));

    let pods = grid.pods.len();
    let mut probes = Vec::new();
    for (from, _) in ends.iter().enumerate() {
        for (to, end) in ends.iter().enumerate() {
            // Between two that are no pods nothing is anybody's concern.
            if from == to || (from >= pods && to >= pods) {
                continue;
            }
            let protocols = [("TCP", &TCP[..]), ("UDP", &UDP), ("SCTP", &SCTP)];
            for (protocol, ports) in protocols {
                // What leaves the cluster by another address is told from what does not by its answer alone.
                if protocol == "SCTP" && (from >= pods || to >= pods) {
                    continue;
                }
                probes.extend(ports.iter().map(|port| Probe { from, protocol, to: end.ip(), port: *port }));
            }
        }
    }
    let expected = |probe: &Probe| {
        let to = ends.iter().position(|end| end.ip() == probe.to).unwrap();
        // A node always reaches its own pods, for their probes.
        let is_own_node = probe.from >= pods
            && probe.from < pods + lab.nodes.len()
            && grid.pods.get(to).is_some_and(|this| this.node == probe.from - pods);
        is_own_node || grid.cluster.allows(ends[probe.from], ends[to], probe.protocol, probe.port)
    };
    let reached = probe(&places, &all, &probes, expected);
    let wanted: BTreeSet<Probe> = probes.iter().filter(|probe| expected(probe)).copied().collect();
    let label = |index: usize| match grid.pods.get(index) {
        Some(this) => format!("{}/{}", this.pod.namespace, this.pod.name),
        None if index == pods + lab.nodes.len() => "outside".to_owned(),
        None => format!("node-{}", index - pods),
    };
    let show = |probe: &Probe| {
        let to = ends.iter().position(|end| end.ip() == probe.to).unwrap();
        format!("{} -> {} {}/{}", label(probe.from), label(to), probe.port, probe.protocol)
    };
    let wrong: Vec<String> = wanted
        .difference(&reached)
        .map(|probe| format!("not through: {}", show(probe)))
        .chain(reached.difference(&wanted).map(|probe| format!("through: {}", show(probe))))
        .collect();
    assert!(
        wrong.is_empty(),
        "{name}: {} of {} are wrong:\n{}\n{}",
        wrong.len(),
        probes.len(),
        wrong[..wrong.len().min(20)].join("\n"),
        grid.world.lab.nodes[0].netns.nft()
    );
    assert!(!wanted.is_empty());
}
