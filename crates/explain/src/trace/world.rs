//! What of the cluster a trace needs to know: who has which address.

use std::net::Ipv4Addr;

#[derive(Debug, Clone, Default)]
pub struct World {
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    /// Ranges of addresses that are the cluster's, given out or not: address and prefix.
    pub ranges: Vec<(Ipv4Addr, u8)>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub ip: Ipv4Addr,
    /// Whether what leaves the cluster gets anywhere; `None` where that is not known.
    pub uplink: Option<bool>,
}

#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub ip: Option<Ipv4Addr>,
    pub node: String,
    pub host_network: bool,
    /// Name, protocol, port, and host port with its address.
    pub ports: Vec<PodPort>,
}

#[derive(Debug, Clone)]
pub struct PodPort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub host_port: Option<(Ipv4Addr, u16)>,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// None for a headless one.
    pub cluster_ip: Option<Ipv4Addr>,
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub node_port: Option<u16>,
    /// The ready ones.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
}

impl World {
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    pub fn node_at(&self, ip: Ipv4Addr) -> Option<&Node> {
        self.nodes.iter().find(|node| node.ip == ip)
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The pod whose own address it is.
    pub fn pod_at(&self, ip: Ipv4Addr) -> Option<&Pod> {
        self.pods.iter().find(|pod| !pod.host_network && pod.ip == Some(ip))
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.namespace == namespace && service.name == name)
    }

    /// The service port at this address of the cluster or of a node.
    pub fn service_at(&self, ip: Ipv4Addr, port: u16, protocol: &str) -> Option<(&Service, &ServicePort)> {
        let node = self.node_at(ip).is_some();
        self.services.iter().find_map(|service| {
            let here = |of: &&ServicePort| {
                of.protocol == protocol && if node { of.node_port == Some(port) } else { of.port == port }
            };
            let at = node || service.cluster_ip == Some(ip);
            Some((service, service.ports.iter().filter(|_| at).find(here)?))
        })
    }

    /// Whether it is nobody's of the cluster.
    pub fn leads_outside(&self, ip: Ipv4Addr) -> bool {
        let within = |(base, prefix): &(Ipv4Addr, u8)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
            ip.to_bits() & mask == base.to_bits() & mask
        };
        !ip.is_loopback() && !self.ranges.iter().any(within) && self.who(ip) == ip.to_string()
    }

    /// An address in words.
    pub fn who(&self, ip: Ipv4Addr) -> String {
        if let Some(pod) = self.pod_at(ip) {
            return format!("pod {}/{}", pod.namespace, pod.name);
        }
        if let Some(node) = self.node_at(ip) {
            return format!("node {}", node.name);
        }
        match self.services.iter().find(|service| service.cluster_ip == Some(ip)) {
            Some(service) => format!("service {}/{}", service.namespace, service.name),
            None => ip.to_string(),
        }
    }
}
