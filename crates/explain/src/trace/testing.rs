//! A cluster of two nodes for tests: `client` on the first, `web` on the second, a service before it.

use std::net::Ipv4Addr;

use super::world::*;

pub(super) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(super) fn world() -> World {
    let pod = |name: &str, address: &str, node: &str| Pod {
        namespace: "default".into(),
        name: name.into(),
        ip: Some(ip(address)),
        node: node.into(),
        host_network: false,
        ports: vec![PodPort {
            name: "http".into(),
            protocol: "TCP".into(),
            port: 8080,
            host_port: (name == "web").then_some((Ipv4Addr::UNSPECIFIED, 9000)),
        }],
    };
    let node = |name: &str, address: &str| Node { name: name.into(), ip: ip(address), uplink: Some(false) };
    World {
        nodes: vec![node("n1", "10.100.0.2"), node("n2", "10.100.0.3")],
        pods: vec![pod("client", "10.244.1.2", "n1"), pod("web", "10.244.2.2", "n2")],
        services: vec![Service {
            namespace: "default".into(),
            name: "svc".into(),
            cluster_ip: Some(ip("10.96.0.9")),
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: "TCP".into(),
                port: 80,
                node_port: Some(30080),
                endpoints: vec![Endpoint { ip: ip("10.244.2.2"), port: 8080 }],
                unready: Vec::new(),
                target: "8080".into(),
                lacking: Vec::new(),
            }],
            internal_local: false,
            external_local: true,
            outside: Vec::new(),
            external_name: None,
        }],
        ended: vec![Ended { namespace: "default".into(), name: "gone".into(), phase: "Succeeded".into() }],
        ranges: vec![
            Range { of: "pods", network: ip("10.244.0.0"), prefix: 16 },
            Range { of: "services", network: ip("10.96.0.0"), prefix: 16 },
            Range { of: "nodes", network: ip("10.100.0.0"), prefix: 24 },
        ],
        surroundings: Some(Surroundings { router: ip("10.100.0.1"), machine: ip("10.100.0.254") }),
    }
}
