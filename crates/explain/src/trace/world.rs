//! What of the cluster a trace needs to know: who has which address.

use std::net::Ipv4Addr;

#[derive(Debug, Clone, Default)]
pub struct World {
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    /// Pods that have ended, which have no part in the network.
    pub ended: Vec<Ended>,
    /// Ranges of addresses that are the cluster's, given out or not.
    pub ranges: Vec<Range>,
    /// Who besides nodes has an address in the nodes' range, where the platform gave it.
    pub surroundings: Option<Surroundings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub namespace: String,
    pub name: String,
    /// `Succeeded` or `Failed`.
    pub phase: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Whose addresses these are: `pods`, `services` or `nodes`.
    pub of: &'static str,
    pub network: Ipv4Addr,
    pub prefix: u8,
}

/// A machine that runs all nodes, as they see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    pub router: Ipv4Addr,
    /// The machine's own address, which its connections to nodes and pods come from.
    pub machine: Ipv4Addr,
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
    /// Connections to its own address go to endpoints of the same node alone.
    pub internal_local: bool,
    /// Connections from outside to its node ports and outside addresses do.
    pub external_local: bool,
    /// Addresses besides its own at which every node opens its ports.
    pub outside: Vec<Outside>,
    /// The name outside of the cluster that it is no more than a DNS name for.
    pub external_name: Option<String>,
}

/// An address of a service that is for clients outside of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    pub ip: Ipv4Addr,
    /// `LoadBalancer` or `externalIP`.
    pub by: &'static str,
}

#[derive(Debug, Clone)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub node_port: Option<u16>,
    /// The ready ones.
    pub endpoints: Vec<Endpoint>,
    /// Those that are not.
    pub unready: Vec<Endpoint>,
    /// The container port that it leads to, as it is written: a number or a name.
    pub target: String,
    /// Ready pods behind the service that have no container port of that name.
    pub lacking: Vec<Ipv4Addr>,
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

    /// The service that has the address, inside or outside.
    pub fn service_of(&self, ip: Ipv4Addr) -> Option<&Service> {
        self.services.iter().find(|service| service.is_at(ip))
    }

    /// The service port at this address of the cluster or of a node.
    pub fn service_at(&self, ip: Ipv4Addr, port: u16, protocol: &str) -> Option<(&Service, &ServicePort)> {
        let node = self.node_at(ip).is_some();
        self.services.iter().find_map(|service| {
            let here = |of: &&ServicePort| {
                of.protocol == protocol && if node { of.node_port == Some(port) } else { of.port == port }
            };
            let at = node || service.is_at(ip);
            Some((service, service.ports.iter().filter(|_| at).find(here)?))
        })
    }

    /// The nodes that have a ready endpoint of the port.
    pub fn nodes_of(&self, port: &ServicePort) -> Vec<&str> {
        let node = |endpoint: &Endpoint| {
            let pod = self.pods.iter().find(|pod| pod.ip == Some(endpoint.ip))?;
            Some(pod.node.as_str())
        };
        let mut nodes: Vec<&str> = port.endpoints.iter().filter_map(node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether it is nobody's of the cluster.
    pub fn leads_outside(&self, ip: Ipv4Addr) -> bool {
        !ip.is_loopback() && self.range_of(ip).is_none() && self.who(ip) == ip.to_string()
    }

    /// Whose range it is in.
    pub fn range_of(&self, ip: Ipv4Addr) -> Option<&'static str> {
        let within = |range: &&Range| {
            let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix)).unwrap_or(0);
            ip.to_bits() & mask == range.network.to_bits() & mask
        };
        self.ranges.iter().find(within).map(|range| range.of)
    }

    /// Whose range it is in, if nobody has it: neither pod, nor service, nor node, nor the machine.
    pub fn vacant(&self, ip: Ipv4Addr) -> Option<&'static str> {
        self.range_of(ip).filter(|_| self.who(ip) == ip.to_string())
    }

    /// What has the address that is no part of the cluster, and yet no stranger.
    pub fn neighbour(&self, ip: Ipv4Addr) -> Option<&'static str> {
        let around = self.surroundings?;
        if ip == around.machine {
            return Some("the machine that the nodes run on");
        }
        (ip == around.router).then_some("the nodes' router")
    }

    /// An address in words.
    pub fn who(&self, ip: Ipv4Addr) -> String {
        if let Some(pod) = self.pod_at(ip) {
            return format!("pod {}/{}", pod.namespace, pod.name);
        }
        if let Some(node) = self.node_at(ip) {
            return format!("node {}", node.name);
        }
        match self.service_of(ip) {
            Some(service) => format!("service {}/{}", service.namespace, service.name),
            None => self.neighbour(ip).map_or_else(|| ip.to_string(), str::to_owned),
        }
    }
}

impl Service {
    fn is_at(&self, ip: Ipv4Addr) -> bool {
        self.cluster_ip == Some(ip) || self.outside_at(ip).is_some()
    }

    /// The ways to its pods that a node's address opens keep to nodes with a ready endpoint, if these are some.
    pub fn keeps_to<'w>(&self, port: &ServicePort, world: &'w World) -> Option<Vec<&'w str>> {
        self.external_local.then(|| world.nodes_of(port))
    }

    /// What is known of an address of it that is for clients outside of the cluster.
    pub fn outside_at(&self, ip: Ipv4Addr) -> Option<&Outside> {
        self.outside.iter().find(|outside| outside.ip == ip)
    }
}

#[cfg(test)]
mod tests;
