//! From where sockets are reached: by how they are bound, by doors, by policies, and by what is in the way.

use super::*;
use crate::facts::{Holder, Node};
use crate::namespaces::Inodes;
use crate::policies::{Peers, Ports, Rule, span, without};

fn pod(net: u64) -> Pod {
    Pod {
        node: Node { name: "n1".into(), inodes: Inodes([1; 8]), ..Node::default() },
        node_ip: "10.100.0.2".into(),
        pod_ip: Some("10.244.1.5".into()),
        sandbox: Some(Holder { name: "pause".into(), pid: 9, inodes: Inodes([net, 1, 1, 1, 1, 1, 1, 1]) }),
        ..Pod::default()
    }
}

fn socket(address: &str) -> Socket {
    Socket {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        port: 8080,
        device: None,
        six_only: Some(false),
        process: None,
        also: Vec::new(),
    }
}

/// A host port that leads to the socket.
fn host_port(host_ip: &str) -> HostPort {
    HostPort { host_ip: host_ip.into(), host_port: 9000, protocol: "TCP".into(), container_port: 8080 }
}

/// A service whose port of the nodes leads to the socket.
fn service() -> ServicePort {
    ServicePort {
        service: "default/web".into(),
        cluster_ip: "10.96.0.9".into(),
        port: 80,
        protocol: "TCP".into(),
        target_port: 8080,
        node_port: Some(30080),
        external_traffic_policy: String::new(),
        internal_traffic_policy: String::new(),
        endpoint: Some(Endpoint::Ready),
    }
}

/// Judged, with a socket on every address.
fn told(mut facts: Pod) -> PodExplanation {
    facts.sockets.push(socket("0.0.0.0"));
    crate::judge::pod(&facts)
}

/// Beside `n1`, at 10.100.0.2, there are two nodes.
fn around() -> Surroundings {
    Surroundings {
        pods: vec![span([10, 244, 0, 0].into(), 16)],
        services: vec![span([10, 96, 0, 0].into(), 16)],
        nodes: vec![span([10, 100, 0, 2].into(), 32)],
        other_nodes: vec![[10, 100, 0, 3].into(), [10, 100, 0, 4].into()],
    }
}

fn answers(pod: &Pod, address: &str) -> [Answer; 4] {
    let reach = reach(pod, &socket(address));
    [0, 1, 2, 3].map(|index| reach[index].answer)
}

#[test]
fn a_pods_address_is_reached_from_outside_by_those_with_a_route() {
    use Answer::{No, Some, Yes};
    assert_eq!(answers(&pod(7), "0.0.0.0"), [Yes, Yes, Yes, Some]);
    assert_eq!(answers(&pod(7), "::"), [Yes, Yes, Yes, Some]);
    assert_eq!(answers(&pod(7), "10.244.1.5"), [Yes, Yes, Yes, Some]);
    assert_eq!(answers(&pod(7), "127.0.0.1"), [No; 4]);
    assert_eq!(answers(&pod(7), "10.9.9.9"), [No; 4]);
}

#[test]
fn the_nodes_network_has_nothing_before_it() {
    use Answer::{No, Yes};
    assert_eq!(answers(&pod(1), "0.0.0.0"), [Yes; 4]);
    assert_eq!(answers(&pod(1), "127.0.0.1"), [No, Yes, No, No]);
}

#[test]
fn doors_let_the_outside_in() {
    let mut pod = pod(7);
    pod.host_ports.push(host_port("127.0.0.1"));
    assert_eq!(answers(&pod, "0.0.0.0")[3], Answer::Some, "a loopback's host port is no door");
    pod.host_ports[0].host_ip = "0.0.0.0".into();
    let outside = reach(&pod, &socket("0.0.0.0")).remove(3);
    assert_eq!((outside.answer, &*outside.reason), (Answer::Yes, "by host port 10.100.0.2:9000 of n1"));
    pod.services.push(ServicePort { protocol: "UDP".into(), ..service() });
    assert!(!reach(&pod, &socket("0.0.0.0"))[3].reason.contains("30080"), "another protocol");
}

#[test]
fn a_service_leads_to_a_ready_endpoint_alone_and_a_local_one_on_its_node() {
    let outside = |policy: &str, endpoint: Option<Endpoint>| {
        let port = ServicePort { external_traffic_policy: policy.into(), endpoint: None, ..service() };
        let mut told = told(Pod { services: vec![port], ..pod(7) });
        told.services[0].endpoint = endpoint;
        through_services(&mut told, false);
        let outside = told.listeners[0].reachable.remove(3);
        (outside.answer, outside.reason)
    };
    let door = "by NodePort 30080 of service default/web on";
    assert_eq!(outside("", Some(Endpoint::Ready)), (Answer::Yes, format!("{door} every node")));
    assert_eq!(
        outside("Local", Some(Endpoint::Ready)),
        (Answer::Yes, format!("{door} n1 alone (externalTrafficPolicy Local)"))
    );
    assert_eq!(outside("", None), (Answer::Yes, format!("{door} every node, if the pod is ready")));
    for endpoint in [Endpoint::NotReady, Endpoint::Absent] {
        let (answer, reason) = outside("", Some(endpoint));
        assert_eq!(answer, Answer::Some, "{endpoint:?}");
        assert!(reason.ends_with("; NodePort 30080 of service default/web leads here only when the pod is a ready endpoint, and it is not"), "{reason}");
    }
}

fn reasons(pod: &Pod, address: &str) -> [String; 4] {
    let reach = reach(pod, &socket(address));
    assert_eq!(
        reach.iter().map(|reach| reach.from.as_str()).collect::<Vec<_>>(),
        ["pod network", "node", "other nodes", "outside"]
    );
    [0, 1, 2, 3].map(|index| reach[index].reason.clone())
}

#[test]
fn every_answer_has_its_reason() {
    assert_eq!(
        reasons(&pod(7), "0.0.0.0"),
        [
            "at 10.244.1.5:8080",
            "at 10.244.1.5:8080, over the bridge",
            "at 10.244.1.5:8080, by the route to the pods of n1",
            "at 10.244.1.5:8080 only from machines with a route to it: no host port and no NodePort leads here",
        ]
    );
    assert_eq!(reasons(&pod(7), "127.0.0.1")[0], "it is bound to 127.0.0.1, which is inside the pod alone");
    assert_eq!(
        reasons(&pod(7), "10.9.9.9")[3],
        "it is bound to 10.9.9.9, which is not the pod's address 10.244.1.5"
    );
    let none = Pod { pod_ip: None, ..pod(7) };
    assert_eq!(answers(&none, "0.0.0.0"), [Answer::No; 4]);
    assert_eq!(reasons(&none, "0.0.0.0")[0], "the pod has no address");
    let own = "at 10.100.0.2:8080: the socket is the node's own, with no translation before it";
    let outside = "at 10.100.0.2:8080, from wherever n1's address can be reached";
    assert_eq!(reasons(&pod(1), "0.0.0.0"), [own, own, own, outside]);
    assert!(reasons(&pod(1), "::1")[1].starts_with("::1 is n1's own loopback"));
    assert!(reasons(&pod(1), "2001:db8::1")[0].starts_with("at [2001:db8::1]:8080: "));
    // Of a sandbox whose namespace is not known nobody says that it is the node's.
    let mut unknown = pod(0);
    unknown.node.inodes = Inodes([0; 8]);
    assert_eq!(answers(&unknown, "0.0.0.0"), [Answer::Yes, Answer::Yes, Answer::Yes, Answer::Some]);
}

#[test]
fn doors_are_those_of_the_sockets_port_and_protocol() {
    let door = |host_ip: &str, protocol: &str, container_port| HostPort {
        protocol: protocol.into(),
        container_port,
        ..host_port(host_ip)
    };
    let service = |target_port, node_port| ServicePort { target_port, node_port, ..service() };
    let outside = |ports: Vec<HostPort>, services: Vec<ServicePort>| {
        let pod = Pod { host_ports: ports, services, ..pod(7) };
        let [.., outside] = <[Reach; 4]>::try_from(reach(&pod, &socket("0.0.0.0"))).unwrap();
        if outside.answer == Answer::Yes { outside.reason } else { String::new() }
    };
    assert_eq!(
        outside(vec![door("192.0.2.7", "TCP", 8080)], vec![service(8080, Some(30080))]),
        "by host port 192.0.2.7:9000 of n1 and by NodePort 30080 of service default/web on every node"
    );
    assert_eq!(outside(vec![door("::", "TCP", 8080)], vec![]), "by host port 10.100.0.2:9000 of n1");
    for (ports, services) in [
        (vec![door("0.0.0.0", "UDP", 8080)], vec![]),
        (vec![door("0.0.0.0", "TCP", 8081)], vec![]),
        (vec![door("::1", "TCP", 8080)], vec![]),
        (vec![], vec![service(8080, None)]),
        (vec![], vec![service(80, Some(30080))]),
    ] {
        assert_eq!(outside(ports, services), "");
    }
}

#[test]
fn policies_limit_only_what_is_isolated() {
    let limited = |net: u64, policies: &[Policy]| {
        let mut facts = pod(net);
        facts.sockets.push(socket("0.0.0.0"));
        facts.sockets.push(socket("127.0.0.1"));
        facts.metadata.name = "p".into();
        facts.metadata.namespace = "n".into();
        for socket in &mut facts.sockets {
            let process = crate::facts::Process {
                pid: 5,
                command: "x".into(),
                pod: Some("n/p".into()),
                container: None,
            };
            socket.process = Some(process);
        }
        let mut told = crate::judge::pod(&facts);
        limit(&mut told, policies, &around());
        let answers = |index: usize| -> Vec<Answer> {
            told.listeners[index].reachable.iter().map(|reach| reach.answer).collect()
        };
        (answers(0), answers(1), told.policies.len())
    };
    use Answer::{No, Some as Limited, Yes};
    let policy = |name: &str, rules| Policy { name: name.into(), rules };
    let rule = |peers, port: u16| Rule {
        ports: Some(vec![Ports { protocol: "TCP".into(), numbers: port..=port }]),
        peers,
    };
    let deny = policy("n/deny", vec![]);
    assert_eq!(limited(7, &[]).0, [Yes, Yes, Yes, Limited]);
    // Without a rule nobody comes in, but the node.
    assert_eq!(limited(7, std::slice::from_ref(&deny)), (vec![No, Yes, No, No], vec![No; 4], 1));
    let other = policy("n/81", vec![rule(Peers::Everybody, 81)]);
    assert_eq!(limited(7, &[other]).0, [No, Yes, No, No]);
    let pods = policy("n/pods", vec![rule(Peers::Named { pods: true, ranges: Vec::new() }, 8080)]);
    assert_eq!(limited(7, &[deny.clone(), pods]), (vec![Limited, Yes, No, No], vec![No; 4], 2));
    let block = |ip: [u8; 4], prefix| {
        let ranges = vec![span(ip.into(), prefix)];
        [policy("n/block", vec![rule(Peers::Named { pods: false, ranges }, 8080)])]
    };
    assert_eq!(limited(7, &block([0, 0, 0, 0], 0)).0, [Yes, Yes, Yes, Limited]);
    assert_eq!(limited(7, &block([10, 244, 2, 0], 24)).0, [Limited, Yes, No, No]);
    assert_eq!(limited(7, &block([10, 100, 0, 3], 32)).0, [No, Yes, Limited, No]);
    assert_eq!(limited(7, &block([192, 0, 2, 1], 32)).0, [No, Yes, No, Limited]);
    let open = policy("n/open", vec![rule(Peers::Everybody, 8080)]);
    assert_eq!(limited(7, &[deny.clone(), open]).0, [Yes, Yes, Yes, Limited]);
    // Pods on their node's network are none that a policy isolates.
    assert_eq!(limited(1, &[deny]), (vec![Yes; 4], vec![No, Yes, No, No], 0));
}

#[test]
fn the_policy_that_decides_is_named() {
    let reasons = |policies: &[Policy]| {
        let mut told = told(pod(7));
        limit(&mut told, policies, &around());
        told.listeners[0].reachable.iter().map(|own| own.reason.clone()).collect::<Vec<_>>()
    };
    let deny = Policy { name: "n/deny".into(), rules: Vec::new() };
    assert_eq!(
        reasons(std::slice::from_ref(&deny))[0],
        "policy n/deny selects the pod and lets nobody from there in at 8080/TCP"
    );
    let peers = Peers::Named { pods: true, ranges: Vec::new() };
    let some = Policy { name: "n/some".into(), rules: vec![Rule { ports: None, peers }] };
    let told = reasons(&[deny, some]);
    assert_eq!(told[0], "at 10.244.1.5:8080, as policy n/some allows");
    assert!(told[3].starts_with("policies n/deny and n/some select the pod, and none lets"), "{told:?}");
}

#[test]
fn sockets_are_named_by_address_port_and_protocol() {
    assert_eq!(socket_name(Protocol::Tcp, "0.0.0.0".parse().unwrap(), 80), "0.0.0.0:80/TCP");
    assert_eq!(socket_name(Protocol::Udp, "::".parse().unwrap(), 53), "[::]:53/UDP");
}

#[test]
fn how_a_socket_is_bound_decides_who_comes_by_ipv4() {
    let told = |net, address: &str, device: Option<&str>, six_only| {
        let device = device.map(str::to_owned);
        let reach = reach(&pod(net), &Socket { device, six_only, ..socket(address) });
        ([0, 1, 2, 3].map(|index| reach[index].answer), reach[0].reason.clone())
    };
    use Answer::{No, Some as Limited, Yes};
    // In the pod: of IPv6 alone, of an address in IPv6's writing, of one link.
    let (answers, why) = told(7, "::", None, Some(true));
    assert_eq!(
        (answers, &*why),
        ([No; 4], "it takes IPv6 alone, and the addresses of nodes and pods are IPv4")
    );
    let (answers, why) = told(7, "::", None, None);
    assert_eq!(answers, [Limited; 4]);
    assert!(why.ends_with(", if it takes IPv4 too, which is not known"), "{why}");
    assert_eq!(told(7, "::ffff:10.244.1.5", None, Some(false)).0, [Yes, Yes, Yes, Limited]);
    assert_eq!(told(7, "::ffff:10.244.1.6", None, Some(false)).0, [No; 4]);
    assert_eq!(told(7, "::ffff:127.0.0.1", None, Some(false)).0, [No; 4]);
    let (answers, why) = told(7, "0.0.0.0", Some("lo"), Some(false));
    assert_eq!((answers, &*why), ([No; 4], "it is bound to the link lo, and others come in by eth0"));
    assert_eq!(told(7, "0.0.0.0", Some("eth0"), Some(false)).0, [Yes, Yes, Yes, Limited]);
    // On the node, which reaches itself by its loopback.
    assert_eq!(told(1, "::", None, Some(true)).0, [No, Limited, No, No]);
    assert_eq!(told(1, "0.0.0.0", Some("lo"), Some(false)).0, [No, Yes, No, No]);
    assert_eq!(told(1, "0.0.0.0", Some("eth0"), Some(false)).0, [Limited, No, Limited, Limited]);
    // Nor is a door one to such a socket, whatever services and policies say.
    let mut facts = pod(7);
    facts.host_ports.push(host_port("0.0.0.0"));
    facts.sockets.push(Socket { six_only: Some(true), ..socket("::") });
    let mut told = crate::judge::pod(&facts);
    through_services(&mut told, true);
    limit(&mut told, &[Policy::default()], &around());
    assert_eq!(told.listeners[0].reachable[3].answer, No);
}

fn obstacle(from: &str, at: &str, answer: Answer, why: &str) -> Obstacle {
    Obstacle { from: from.into(), at: at.into(), answer, why: why.into() }
}

#[test]
fn what_is_in_the_way_keeps_out_whom_it_stops() {
    let drop = "is dropped on node n1 by chain c of table f, rule `tcp dport 8080 drop`";
    let mut facts = pod(7);
    let at = "10.244.1.5:8080/TCP";
    let doubt = "whether it gets past this is not known here, `skiff trace` follows it: x";
    facts.obstacles = vec![
        obstacle("pod network", at, Answer::Some, "from pods in 10.244.2.0/24 it is dropped"),
        obstacle("node", at, Answer::Some, doubt),
        obstacle("other nodes", at, Answer::No, drop),
        obstacle("outside", at, Answer::No, drop),
        obstacle("outside", "10.100.0.2:9000/TCP", Answer::No, drop),
        // Those of another port are none of it.
        obstacle("node", "10.244.1.5:8081/TCP", Answer::No, "x"),
    ];
    let stopped = format!("what comes to 10.244.1.5:8080 {drop}");
    let told = reach(&facts, &socket("0.0.0.0"));
    let of = |index: usize| (told[index].answer, told[index].reason.clone());
    let some = |reason: &str| (Answer::Some, reason.to_owned());
    assert_eq!(of(0), some("at 10.244.1.5:8080; from pods in 10.244.2.0/24 it is dropped"));
    assert_eq!(of(1), some(&format!("at 10.244.1.5:8080, over the bridge; {doubt}")));
    assert_eq!(of(2), (Answer::No, stopped.clone()));
    assert_eq!(of(3), (Answer::No, stopped));
    // A door that is shut so, and one that is not.
    facts.host_ports.push(host_port("0.0.0.0"));
    facts.obstacles.remove(3);
    let shut =
        format!("host port 10.100.0.2:9000 of n1 does not lead here: what comes to 10.100.0.2:9000 {drop}");
    let told = reach(&facts, &socket("0.0.0.0")).remove(3);
    let routed = "at 10.244.1.5:8080 only from machines with a route to it";
    assert_eq!((told.answer, told.reason), some(&format!("{routed}; {shut}")));
    facts.host_ports.push(HostPort { host_port: 9001, ..facts.host_ports[0].clone() });
    let told = reach(&facts, &socket("0.0.0.0")).remove(3);
    assert_eq!(
        (told.answer, told.reason),
        (Answer::Yes, format!("by host port 10.100.0.2:9001 of n1; {shut}"))
    );
    // And on the node's own network.
    let mut facts = pod(1);
    let led = "is led to pod default/hp at 10.244.1.9:8200";
    facts.obstacles = vec![obstacle("node", "10.100.0.2:8080/TCP", Answer::No, led)];
    let told = reach(&facts, &socket("0.0.0.0"));
    assert_eq!(
        (told[1].answer, &*told[1].reason),
        (Answer::No, &*format!("what comes to 10.100.0.2:8080 {led}"))
    );
    assert_eq!(told[0].answer, Answer::Yes);
}

#[test]
fn other_nodes_lead_on_under_their_own_address_so_that_policies_see_that() {
    let outside = |blocks: &[([u8; 4], u8)], external: &str| {
        let port = ServicePort { external_traffic_policy: external.into(), ..service() };
        let ranges = blocks.iter().map(|(ip, prefix)| span((*ip).into(), *prefix)).collect();
        let ranges = without(ranges, []);
        let rules = vec![Rule { ports: None, peers: Peers::Named { pods: false, ranges } }];
        let mut told = told(Pod { services: vec![port], ..pod(7) });
        limit(&mut told, &[Policy { name: "n/p".into(), rules }], &around());
        let own = told.listeners[0].reachable.remove(3);
        (own.answer, own.reason)
    };
    let (door, far) = ("by NodePort 30080 of service default/web on", " (as far as n1's own rules go)");
    let machine = ([192, 0, 2, 254], 32);
    let node = ([10, 100, 0, 3], 32);
    assert_eq!(
        outside(&[machine], ""),
        (
            Answer::Some,
            format!("{door} n1 alone, as others lead it on under their own address, as policy n/p allows")
        )
    );
    assert_eq!(
        outside(&[node], ""),
        (
            Answer::Some,
            format!(
                "{door} other nodes alone, which lead it on under their own address{far}, as policy n/p allows"
            )
        )
    );
    assert_eq!(
        outside(&[machine, node], ""),
        (Answer::Some, format!("{door} every node{far}, as policy n/p allows"))
    );
    assert_eq!(outside(&[([10, 244, 0, 0], 16)], "").0, Answer::No);
    assert_eq!(outside(&[node], "Local").0, Answer::No);
    assert_eq!(
        outside(&[([0, 0, 0, 0], 0)], ""),
        (Answer::Yes, format!("{door} every node{far}; policy n/p lets everybody in"))
    );
}

#[test]
fn what_is_judged_by_the_rules_of_one_node_alone_says_so() {
    let reasons_of = |net: u64, others: u8| {
        let mut facts = pod(net);
        let other = |ip: u8| crate::facts::OtherNode {
            ip: [10, 100, 0, ip].into(),
            pods: ([10, 244, ip, 0].into(), 24),
        };
        facts.node.others = (3..3 + others).map(other).collect();
        facts.services.push(service());
        reasons(&facts, "0.0.0.0")
    };
    let far = " (as far as n1's own rules go)";
    assert_eq!(
        reasons_of(7, 2),
        [
            format!("at 10.244.1.5:8080{far}"),
            "at 10.244.1.5:8080, over the bridge".to_owned(),
            format!("at 10.244.1.5:8080, by the route to the pods of n1{far}"),
            format!("by NodePort 30080 of service default/web on every node{far}"),
        ]
    );
    let own = "at 10.100.0.2:8080: the socket is the node's own, with no translation before it";
    let of_node = reasons_of(1, 2);
    assert_eq!(of_node[..3], [format!("{own}{far}"), own.to_owned(), format!("{own}{far}")]);
    // Of more nodes than are followed, how many are is said.
    let far = " (as far as n1's own rules go, for what 3 of 5 other nodes send)";
    assert_eq!(reasons_of(7, 5)[2], format!("at 10.244.1.5:8080, by the route to the pods of n1{far}"));
    // Where there is no other node, nothing is left out.
    assert!(reasons_of(7, 0).iter().chain(&reasons_of(1, 0)).all(|reason| !reason.contains("as far as")));
}
