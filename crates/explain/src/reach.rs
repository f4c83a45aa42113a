//! From where a listening socket can be reached, and why.

use std::net::IpAddr;

use crate::facts::{Pod, Protocol, Socket};
use crate::listed;
use crate::namespaces::{Kind, Word};
use crate::pod::{Answer, Endpoint, HostPort, PodExplanation, Reach, ServicePort};
use crate::policies::{Admits, Policy, admits};

const POD_NETWORK: &str = "pod network";
const NODE: &str = "node";
const OUTSIDE: &str = "outside";

/// The four places, in this order: the pod network, the pod's node, other nodes, outside of the cluster.
pub fn reach(pod: &Pod, socket: &Socket) -> Vec<Reach> {
    let on_node = pod.sandbox.as_ref().is_some_and(|holder| {
        holder.inodes.of(Kind::Net) == pod.node.inodes.of(Kind::Net) && holder.inodes.of(Kind::Net) != 0
    });
    let answers = match (socket.address.is_loopback(), on_node) {
        (true, true) => loopback_of_node(pod, socket),
        (true, false) => {
            let why = format!("it is bound to {}, which is inside the pod alone", socket.address);
            [Answer::No; 4].map(|answer| (answer, why.clone()))
        }
        (false, true) => of_node(pod, socket),
        (false, false) => of_pod(pod, socket),
    };
    let places = [POD_NETWORK, NODE, "other nodes", OUTSIDE];
    let places = places.into_iter().zip(answers);
    places.map(|(from, (answer, reason))| Reach { from: from.into(), answer, reason }).collect()
}

type Answers = [(Answer, String); 4];

fn loopback_of_node(pod: &Pod, socket: &Socket) -> Answers {
    let node = &pod.node.name;
    let address = socket.address;
    let no = |who: &str| (Answer::No, format!("it is bound to {address}, which {who} cannot reach"));
    [
        no("pods with a network of their own"),
        (Answer::Yes, format!("{address} is {node}'s own loopback, and every hostNetwork pod's there")),
        no("other machines"),
        no("other machines"),
    ]
}

/// On the node's own network: nothing stands between.
fn of_node(pod: &Pod, socket: &Socket) -> Answers {
    let at = match socket.address.is_unspecified() {
        true => format!("{}:{}", pod.node_ip, socket.port),
        false => host_port(socket.address, socket.port),
    };
    let why = format!("at {at}: the socket is the node's own, with no translation before it");
    let outside = format!("at {at}, from wherever {}'s address can be reached", pod.node.name);
    [(Answer::Yes, why.clone()), (Answer::Yes, why.clone()), (Answer::Yes, why), (Answer::Yes, outside)]
}

fn of_pod(pod: &Pod, socket: &Socket) -> Answers {
    let Some(ip) = &pod.pod_ip else {
        return [Answer::No; 4].map(|answer| (answer, "the pod has no address".to_owned()));
    };
    let bound_elsewhere = !socket.address.is_unspecified() && socket.address.to_string() != *ip;
    if bound_elsewhere {
        let why = format!("it is bound to {}, which is not the pod's address {ip}", socket.address);
        return [Answer::No; 4].map(|answer| (answer, why.clone()));
    }
    let at = format!("at {ip}:{}", socket.port);
    let others = format!("{at}, by the route to the pods of {}", pod.node.name);
    let doors = Doors {
        node: &pod.node.name,
        node_ip: &pod.node_ip,
        pod_ip: ip,
        host_ports: &pod.host_ports,
        services: &pod.services,
    };
    let outside = doors.outside(socket.protocol.name(), socket.port);
    let over_bridge = format!("{at}, over the bridge");
    [(Answer::Yes, at), (Answer::Yes, over_bridge), (Answer::Yes, others), outside]
}

/// Judges the doors to the pod anew, once it is known whether its services lead to it.
pub fn through_services(told: &mut PodExplanation) {
    let Some(pod_ip) = told.pod_ip.clone().filter(|_| has_own_network(told)) else { return };
    let doors = Doors {
        node: &told.node,
        node_ip: &told.node_ip,
        pod_ip: &pod_ip,
        host_ports: &told.host_ports,
        services: &told.services,
    };
    for listener in &mut told.listeners {
        // What no pod reaches is bound to where nothing leads.
        let open = listener.reachable.first().is_some_and(|pods| pods.answer != Answer::No);
        if let Some(outside) = listener.reachable.iter_mut().find(|own| own.from == OUTSIDE && open) {
            (outside.answer, outside.reason) = doors.outside(&listener.protocol, listener.port);
        }
    }
}

/// Takes into account the policies that select the pod for what comes in: it then comes as their rules for
/// that port allow. What comes from the pod's own node is let in always, since its agent probes the pod.
pub fn limit(told: &mut PodExplanation, policies: &[Policy]) {
    if policies.is_empty() || !has_own_network(told) {
        return;
    }
    told.policies = policies.iter().map(|policy| policy.name.clone()).collect();
    for listener in &mut told.listeners {
        let (protocol, port) = (listener.protocol.as_str(), listener.port);
        let open = listener.reachable.iter_mut().filter(|reach| reach.answer != Answer::No);
        for reach in open.filter(|reach| reach.from != NODE) {
            match admits(policies, protocol, port, reach.from == POD_NETWORK) {
                Admits::Nobody => {
                    reach.answer = Answer::No;
                    reach.reason = kept_out(&told.policies, protocol, port);
                }
                Admits::Some(names) => {
                    reach.answer = Answer::Some;
                    let policies = several("policy", "policies", &names);
                    let allow = if names.len() == 1 { "allows" } else { "allow" };
                    reach.reason = format!("{}, as {policies} {allow}", reach.reason);
                }
                Admits::Everybody(names) => {
                    let policies = several("policy", "policies", &names);
                    let lets = if names.len() == 1 { "lets" } else { "let" };
                    reach.reason = format!("{}; {policies} {lets} everybody in", reach.reason);
                }
            }
        }
    }
}

/// Why nobody from there comes in.
fn kept_out(policies: &[String], protocol: &str, port: u16) -> String {
    let all = several("policy", "policies", policies);
    match policies.len() {
        1 => format!("{all} selects the pod and lets nobody from there in at {port}/{protocol}"),
        _ => format!("{all} select the pod, and none lets anybody from there in at {port}/{protocol}"),
    }
}

fn several(one: &str, many: &str, names: &[String]) -> String {
    format!("{} {}", if names.len() == 1 { one } else { many }, listed(names))
}

fn has_own_network(told: &PodExplanation) -> bool {
    told.namespaces.iter().any(|own| own.namespace == Kind::Net && own.word != Word::Host)
}

/// The ports of nodes that lead to a pod.
struct Doors<'a> {
    node: &'a str,
    node_ip: &'a str,
    pod_ip: &'a str,
    host_ports: &'a [HostPort],
    services: &'a [ServicePort],
}

impl Doors<'_> {
    /// Whether a socket that the pod network reaches is reached from outside too.
    fn outside(&self, protocol: &str, port: u16) -> (Answer, String) {
        let (open, shut) = self.of(protocol, port);
        let shut = shut.iter().map(|door| format!("; {door}")).collect::<String>();
        if open.is_empty() {
            let none = match shut.is_empty() {
                true => "no host port and no NodePort leads here",
                false => "no host port leads here",
            };
            // The machine that `skiff up` ran on has such a route; who else has is not ours to know.
            let routed = format!("at {}:{port} only from machines with a route to it", self.pod_ip);
            return (Answer::Some, format!("{routed}: {none}{shut}"));
        }
        (Answer::Yes, format!("{}{shut}", listed(&open)))
    }

    /// Those that lead to the socket, and those that would if the pod were ready.
    fn of(&self, protocol: &str, port: u16) -> (Vec<String>, Vec<String>) {
        let leads = |own: u16, other: &str| own == port && other == protocol;
        let host = self.host_ports.iter().filter(|own| leads(own.container_port, &own.protocol));
        let host = host.filter(|own| own.host_ip.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback()));
        let host = host.map(|own| {
            let ip = if is_any(&own.host_ip) { self.node_ip } else { &own.host_ip };
            format!("by host port {ip}:{} of {}", own.host_port, self.node)
        });
        let mut open: Vec<String> = host.collect();
        let mut shut = Vec::new();
        for own in self.services.iter().filter(|own| leads(own.target_port, &own.protocol)) {
            let Some(number) = own.node_port else { continue };
            let door = format!("NodePort {number} of service {}", own.service);
            let place = match own.external_traffic_policy.as_str() {
                "Local" => format!("on {} alone (externalTrafficPolicy Local)", self.node),
                _ => "on every node".to_owned(),
            };
            match own.endpoint {
                Some(Endpoint::Ready) => open.push(format!("by {door} {place}")),
                Some(Endpoint::Ending) => {
                    open.push(format!("by {door} {place} while no other endpoint is ready"));
                }
                None => open.push(format!("by {door} {place}, if the pod is ready")),
                Some(Endpoint::NotReady | Endpoint::Absent) => {
                    shut.push(format!(
                        "{door} leads here only when the pod is a ready endpoint, and it is not"
                    ));
                }
            }
        }
        (open, shut)
    }
}

fn is_any(ip: &str) -> bool {
    ip.is_empty() || ip == "0.0.0.0" || ip == "::"
}

fn host_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// `0.0.0.0:80/TCP`, `[::]:80/TCP`.
pub fn socket_name(protocol: Protocol, address: IpAddr, port: u16) -> String {
    format!("{}/{}", host_port(address, port), protocol.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Holder, Node};
    use crate::namespaces::Inodes;
    use crate::policies::{Peers, Ports, Rule};

    fn pod(net: u64) -> Pod {
        Pod {
            node: Node { name: "n1".into(), inodes: Inodes([1; 8]), ..Node::default() },
            node_ip: "10.100.0.2".into(),
            pod_ip: Some("10.244.1.5".into()),
            sandbox: Some(Holder {
                name: "pause".into(),
                pid: 9,
                inodes: Inodes([net, 1, 1, 1, 1, 1, 1, 1]),
            }),
            ..Pod::default()
        }
    }

    fn socket(address: &str) -> Socket {
        Socket { protocol: Protocol::Tcp, address: address.parse().unwrap(), port: 8080, process: None }
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
        pod.host_ports.push(HostPort {
            host_ip: "127.0.0.1".into(),
            host_port: 9000,
            protocol: "TCP".into(),
            container_port: 8080,
        });
        assert_eq!(answers(&pod, "0.0.0.0")[3], Answer::Some, "a loopback's host port is no door");
        pod.host_ports[0].host_ip = "0.0.0.0".into();
        let outside = reach(&pod, &socket("0.0.0.0")).remove(3);
        assert_eq!((outside.answer, &*outside.reason), (Answer::Yes, "by host port 10.100.0.2:9000 of n1"));
        pod.services.push(ServicePort {
            service: "default/web".into(),
            cluster_ip: "10.96.0.9".into(),
            port: 80,
            protocol: "UDP".into(),
            target_port: 8080,
            node_port: Some(30080),
            external_traffic_policy: String::new(),
            internal_traffic_policy: String::new(),
            endpoint: Some(Endpoint::Ready),
        });
        assert!(!reach(&pod, &socket("0.0.0.0"))[3].reason.contains("30080"), "another protocol");
    }

    #[test]
    fn a_service_leads_to_a_ready_endpoint_alone_and_a_local_one_on_its_node() {
        let outside = |policy: &str, endpoint: Option<Endpoint>| {
            let port = ServicePort {
                service: "default/web".into(),
                cluster_ip: "10.96.0.9".into(),
                port: 80,
                protocol: "TCP".into(),
                target_port: 8080,
                node_port: Some(30080),
                external_traffic_policy: policy.into(),
                internal_traffic_policy: String::new(),
                endpoint: None,
            };
            let mut facts = pod(7);
            facts.services.push(port);
            facts.sockets.push(socket("0.0.0.0"));
            let mut told = crate::judge::pod(&facts);
            told.services[0].endpoint = endpoint;
            through_services(&mut told);
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
        assert_eq!(
            reasons(&pod(7), "127.0.0.1")[0],
            "it is bound to 127.0.0.1, which is inside the pod alone"
        );
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
            host_ip: host_ip.into(),
            host_port: 9000,
            protocol: protocol.into(),
            container_port,
        };
        let service = |target_port, node_port| ServicePort {
            service: "default/web".into(),
            cluster_ip: "10.96.0.9".into(),
            port: 80,
            protocol: "TCP".into(),
            target_port,
            node_port,
            external_traffic_policy: String::new(),
            internal_traffic_policy: String::new(),
            endpoint: Some(Endpoint::Ready),
        };
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
            limit(&mut told, policies);
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
        let pods = policy("n/pods", vec![rule(Peers::Named { pods: true, ranges: false }, 8080)]);
        assert_eq!(limited(7, &[deny.clone(), pods]), (vec![Limited, Yes, No, No], vec![No; 4], 2));
        let block = policy("n/block", vec![rule(Peers::Named { pods: false, ranges: true }, 8080)]);
        assert_eq!(limited(7, &[block]).0, [Limited, Yes, Limited, Limited]);
        let open = policy("n/open", vec![rule(Peers::Everybody, 8080)]);
        assert_eq!(limited(7, &[deny.clone(), open]).0, [Yes, Yes, Yes, Limited]);
        // Pods on their node's network are none that a policy isolates.
        assert_eq!(limited(1, &[deny]), (vec![Yes; 4], vec![No, Yes, No, No], 0));
    }

    #[test]
    fn the_policy_that_decides_is_named() {
        let mut facts = pod(7);
        facts.sockets.push(socket("0.0.0.0"));
        let reasons = |policies: &[Policy]| {
            let mut told = crate::judge::pod(&facts);
            limit(&mut told, policies);
            told.listeners[0].reachable.iter().map(|own| own.reason.clone()).collect::<Vec<_>>()
        };
        let deny = Policy { name: "n/deny".into(), rules: Vec::new() };
        assert_eq!(
            reasons(std::slice::from_ref(&deny))[0],
            "policy n/deny selects the pod and lets nobody from there in at 8080/TCP"
        );
        let peers = Peers::Named { pods: true, ranges: false };
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
}
