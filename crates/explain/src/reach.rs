//! From where a listening socket can be reached, and why.

use std::net::IpAddr;

use crate::facts::{Pod, Protocol, Socket};
use crate::listed;
use crate::namespaces::{Kind, Word};
use crate::pod::{Answer, PodExplanation, Reach};

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
    let places = ["pod network", "node", "other nodes", "outside"];
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
    let doors = doors(pod, socket);
    let outside = match doors.as_slice() {
        [] => (
            Answer::No,
            "no host port and no NodePort leads here; pod addresses are the cluster's".to_owned(),
        ),
        doors => (Answer::Yes, listed(doors)),
    };
    let over_bridge = format!("{at}, over the bridge");
    [(Answer::Yes, at), (Answer::Yes, over_bridge), (Answer::Yes, others), outside]
}

/// Takes into account the policies that select the pod for what comes in: it then comes as they allow. What
/// comes from the pod's own node is let in always, since its agent probes the pod.
pub fn limit(told: &mut PodExplanation, policies: Vec<String>) {
    let own_network = told.namespaces.iter().any(|own| own.namespace == Kind::Net && own.word != Word::Host);
    if policies.is_empty() || !own_network {
        return;
    }
    let reaches = told.listeners.iter_mut().flat_map(|listener| listener.reachable.iter_mut());
    for reach in reaches.filter(|reach| reach.answer == Answer::Yes && reach.from != "node") {
        reach.answer = Answer::Some;
        reach.reason = format!("{}, as policy {} allows", reach.reason, listed(&policies));
    }
    told.policies = policies;
}

/// The ports of nodes that lead to this socket.
fn doors(pod: &Pod, socket: &Socket) -> Vec<String> {
    let protocol = socket.protocol.name();
    let leads = |port: u16, other: &str| port == socket.port && other == protocol;
    let host = pod.host_ports.iter().filter(|port| leads(port.container_port, &port.protocol));
    let host = host.filter(|port| port.host_ip.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback()));
    let host = host.map(|port| {
        let ip = if is_any(&port.host_ip) { &pod.node_ip } else { &port.host_ip };
        format!("by host port {ip}:{} of {}", port.host_port, pod.node.name)
    });
    let services = pod.services.iter().filter(|port| leads(port.target_port, &port.protocol));
    let services = services.filter_map(|port| {
        let number = port.node_port?;
        Some(format!("by NodePort {number} of service {} on every node", port.service))
    });
    host.chain(services).collect()
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
    use crate::pod::{HostPort, ServicePort};

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
    fn a_pods_own_network_ends_at_the_cluster() {
        use Answer::{No, Yes};
        assert_eq!(answers(&pod(7), "0.0.0.0"), [Yes, Yes, Yes, No]);
        assert_eq!(answers(&pod(7), "::"), [Yes, Yes, Yes, No]);
        assert_eq!(answers(&pod(7), "10.244.1.5"), [Yes, Yes, Yes, No]);
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
        assert_eq!(answers(&pod, "0.0.0.0")[3], Answer::No, "a loopback's host port is no door");
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
        });
        assert!(!reach(&pod, &socket("0.0.0.0"))[3].reason.contains("30080"), "another protocol");
        pod.sockets.push(socket("0.0.0.0"));
        let mut told = crate::judge::pod(&pod);
        limit(&mut told, vec!["default/deny".into()]);
        let answers: Vec<Answer> = told.listeners[0].reachable.iter().map(|reach| reach.answer).collect();
        assert_eq!(answers, [Answer::Some, Answer::Yes, Answer::Some, Answer::Some]);
        assert!(told.listeners[0].reachable[0].reason.ends_with("as policy default/deny allows"));
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
                "no host port and no NodePort leads here; pod addresses are the cluster's",
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
        assert_eq!(answers(&unknown, "0.0.0.0"), [Answer::Yes, Answer::Yes, Answer::Yes, Answer::No]);
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
        let limited = |net: u64, policies: &[&str]| {
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
            limit(&mut told, policies.iter().map(|name| (*name).to_owned()).collect());
            let answers = |index: usize| -> Vec<Answer> {
                told.listeners[index].reachable.iter().map(|reach| reach.answer).collect()
            };
            (answers(0), answers(1), told.policies.len())
        };
        use Answer::{No, Some as Limited, Yes};
        assert_eq!(limited(7, &["n/a", "n/b"]), (vec![Limited, Yes, Limited, No], vec![No; 4], 2));
        assert_eq!(limited(7, &[]).0, [Yes, Yes, Yes, No]);
        // Pods on their node's network are none that a policy isolates.
        assert_eq!(limited(1, &["n/a"]), (vec![Yes; 4], vec![No, Yes, No, No], 0));
    }

    #[test]
    fn sockets_are_named_by_address_port_and_protocol() {
        assert_eq!(socket_name(Protocol::Tcp, "0.0.0.0".parse().unwrap(), 80), "0.0.0.0:80/TCP");
        assert_eq!(socket_name(Protocol::Udp, "::".parse().unwrap(), 53), "[::]:53/UDP");
    }
}
