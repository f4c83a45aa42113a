//! Which packets are followed, and what their ends say.

use super::*;
use crate::facts::{Holder, Node, OtherNode, Process};
use crate::namespaces::Inodes;
use crate::pod::HostPort;

fn pod(net: u64) -> Pod {
    let own = Process { pid: 5, command: "x".into(), pod: Some("n/p".into()), container: None };
    let socket = |address: &str, port| Socket {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port,
        device: None,
        six_only: Some(false),
        process: Some(own.clone()),
        also: Vec::new(),
    };
    let mut pod = Pod {
        node: Node {
            name: "n1".into(),
            inodes: Inodes([1; 8]),
            others: vec![OtherNode { ip: [10, 100, 0, 3].into(), pods: ([10, 244, 2, 0].into(), 24) }],
            sandboxes: vec![[10, 244, 1, 5].into(), [10, 244, 1, 6].into()],
            ..Node::default()
        },
        node_ip: "10.100.0.2".into(),
        pod_ip: Some("10.244.1.5".into()),
        sandbox: Some(Holder { name: "pause".into(), pid: 9, inodes: Inodes([net, 1, 1, 1, 1, 1, 1, 1]) }),
        sockets: vec![socket("0.0.0.0", 8080), socket("127.0.0.1", 81)],
        host_ports: vec![HostPort {
            host_ip: "0.0.0.0".into(),
            host_port: 9000,
            protocol: "TCP".into(),
            container_port: 8080,
        }],
        ..Pod::default()
    };
    (pod.metadata.namespace, pod.metadata.name) = ("n".into(), "p".into());
    pod
}

fn asked(pod: &Pod) -> Vec<String> {
    let one = |own: &Approach| {
        let tuple = own.packets.tuple;
        format!(
            "{} {}: {} to {}:{}",
            own.from, own.who, tuple.source, tuple.destination, tuple.destination_port
        )
    };
    approaches(pod).iter().map(one).collect()
}

#[test]
fn every_place_is_asked_for_and_every_door() {
    assert_eq!(
        asked(&pod(7)),
        [
            "node the node: 0.0.0.0 to 10.244.1.5:8080",
            "pod network pods of this node: 10.244.1.6 to 10.244.1.5:8080",
            "pod network pods in 10.244.2.0/24: 10.244.2.2 to 10.244.1.5:8080",
            "other nodes 10.100.0.3: 10.100.0.3 to 10.244.1.5:8080",
            "outside outside: 0.0.0.0 to 10.244.1.5:8080",
            "outside outside: 0.0.0.0 to 10.100.0.2:9000",
        ]
    );
    // On the node's network there are no doors, and its loopback is the node's.
    let on_node = asked(&pod(1));
    assert_eq!(on_node.len(), 6, "{on_node:#?}");
    assert!(on_node.contains(&"node the node: 0.0.0.0 to 127.0.0.1:81".to_owned()), "{on_node:#?}");
    assert!(on_node.iter().all(|own| !own.ends_with(":9000")), "{on_node:#?}");
    let mut others = pod(1);
    others.sockets.iter_mut().for_each(|own| own.process = None);
    assert!(asked(&others).is_empty(), "sockets of others there are not the pod's");
}

fn outcome(end: End, to: ([u8; 4], u16)) -> Outcome {
    Outcome { end, to: (to.0.into(), to.1), doubts: Vec::new() }
}

fn here() -> Outcome {
    outcome(End::Delivered { place: "pod n/p".into(), process: String::new() }, ([10, 244, 1, 5], 8080))
}

fn dropped() -> Outcome {
    let by = "chain c of table f, rule `drop`".into();
    outcome(End::Dropped { place: "node n1".into(), by }, ([10, 244, 1, 5], 8080))
}

/// What is said where these ends came of the packets, in their order, and all others got there.
fn said(pod: &Pod, ends: &[(usize, Vec<Outcome>)]) -> Vec<String> {
    let asked = approaches(pod);
    let all: Vec<Result<Vec<Outcome>, String>> = (0..asked.len())
        .map(|index| {
            let own = ends.iter().find(|(at, _)| *at == index);
            Ok(own.map_or_else(|| vec![here()], |(_, ends)| ends.clone()))
        })
        .collect();
    let told = obstacles(pod, &asked, &all);
    told.iter().map(|own| format!("{} {} {}: {}", own.from, own.at, own.answer, own.why)).collect()
}

#[test]
fn who_gets_there_has_nothing_in_the_way() {
    assert_eq!(said(&pod(7), &[]), Vec::<String>::new());
}

#[test]
fn what_is_stopped_is_told_with_its_senders() {
    let at = "10.244.1.5:8080/TCP";
    let by = "is dropped on node n1 by chain c of table f, rule `drop`";
    assert_eq!(said(&pod(7), &[(3, vec![dropped()])]), [format!("other nodes {at} no: {by}")]);
    // One of two kinds of senders.
    assert_eq!(
        said(&pod(7), &[(2, vec![dropped()])]),
        [format!("pod network {at} some: from pods in 10.244.2.0/24 it {by}")]
    );
    assert_eq!(
        said(&pod(7), &[(1, vec![dropped()]), (2, vec![dropped()])]),
        [format!("pod network {at} no: {by}")]
    );
    // By chance.
    assert_eq!(
        said(&pod(7), &[(0, vec![here(), dropped()])]),
        [format!("node {at} some: from the node it {by}")]
    );
}

#[test]
fn a_door_may_lead_to_others_too_but_not_to_them_alone() {
    let elsewhere = |name: &str| {
        let place = format!("pod {name}");
        outcome(End::Delivered { place, process: String::new() }, ([10, 244, 1, 9], 8200))
    };
    assert_eq!(said(&pod(7), &[(5, vec![elsewhere("n/q"), here()])]), Vec::<String>::new());
    assert_eq!(
        said(&pod(7), &[(5, vec![elsewhere("n/q")])]),
        ["outside 10.100.0.2:9000/TCP no: is led to pod n/q at 10.244.1.9:8200"]
    );
    assert_eq!(
        said(&pod(7), &[(5, vec![elsewhere("other/q")])]),
        ["outside 10.100.0.2:9000/TCP no: is led to another pod"]
    );
}

#[test]
fn a_rule_that_is_not_judged_leaves_doubt() {
    let doubt = |mut own: Outcome| {
        own.doubts.push("chain c of table f, rule `limit rate 1/second drop`".into());
        own
    };
    let told = "whether it gets past this is not known here, `skiff trace` follows it: chain c of table f, rule \
                `limit rate 1/second drop`";
    for ends in [vec![doubt(here())], vec![doubt(dropped())]] {
        assert_eq!(said(&pod(7), &[(3, ends)]), [format!("other nodes 10.244.1.5:8080/TCP some: {told}")]);
    }
    // An agent that followed nothing.
    let asked = approaches(&pod(7));
    let none: Vec<Result<Vec<Outcome>, String>> = asked.iter().map(|_| Err("why".into())).collect();
    let told = obstacles(&pod(7), &asked, &none);
    assert!(told.iter().all(|own| own.answer == Answer::Some && own.why == "why"), "{told:?}");
}
