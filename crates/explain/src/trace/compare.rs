//! The ways to one pod: by its own address, its host ports, its services' addresses, inside and outside, and
//! node ports.

use super::target::{Protocol, Request, Target, TraceError};
use super::world::{Pod, Service, World};

/// One way to the pod that can be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// `pod`, `hostPort`, `ClusterIP`, `LoadBalancer`, `externalIP` or `NodePort`.
    pub by: &'static str,
    pub opens_on: String,
    pub request: Request,
}

/// All ways to the pod that the request is about.
pub fn compared(request: &Request, world: &World) -> Result<Vec<Compared>, TraceError> {
    let Target::Pod { namespace, name } = &request.to else {
        return Err(TraceError("--compare is about a pod: say pod/NAME".into()));
    };
    let pod = world.pod(namespace, name).expect("found when it was read");
    let mut rows = Vec::new();
    let mut add = |by, opens_on: String, to, port: u16, protocol| {
        let request = Request { from: request.from.clone(), to, port: Some(port.to_string()), protocol };
        rows.push(Compared { by, opens_on, request });
    };
    let wanted = |protocol: &str| protocol == request.protocol.name();
    for port in pod.ports.iter().filter(|port| wanted(&port.protocol)) {
        add("pod", "every node".into(), request.to.clone(), port.port, request.protocol);
        if let Some((address, host_port)) = port.host_port {
            let node = world.node(&pod.node);
            let address = if address.is_unspecified() { node.map(|node| node.ip) } else { Some(address) };
            if let Some(address) = address {
                add("hostPort", pod.node.clone(), Target::Address(address), host_port, request.protocol);
            }
        }
    }
    for (service, port) in services_of(pod, world, request.protocol) {
        if let Some(ip) = service.cluster_ip {
            let inside = "every node, inside".to_owned();
            add("ClusterIP", inside, Target::Address(ip), port.port, request.protocol);
        }
        for outside in &service.outside {
            // Whoever brings packets for it to a node is asked of nobody here: each node takes them.
            let to = Target::Address(outside.ip);
            add(outside.by, "every node".into(), to, port.port, request.protocol);
        }
        if let Some(node_port) = port.node_port {
            // By a node where the pod is not: there the difference shows.
            let other = world.nodes.iter().find(|node| node.name != pod.node);
            if let Some(node) = other.or_else(|| world.node(&pod.node)) {
                add("NodePort", "every node".into(), Target::Address(node.ip), node_port, request.protocol);
            }
        }
    }
    if rows.is_empty() {
        let (protocol, asked) = (request.protocol.name(), "nothing leads to it");
        return Err(TraceError(format!("pod {namespace}/{name} names no {protocol} port: {asked}")));
    }
    Ok(rows)
}

fn services_of<'a>(
    pod: &'a Pod,
    world: &'a World,
    protocol: Protocol,
) -> impl Iterator<Item = (&'a Service, &'a super::world::ServicePort)> {
    world.services.iter().flat_map(move |service| {
        let leads = move |port: &&super::world::ServicePort| {
            port.protocol == protocol.name()
                && port.endpoints.iter().any(|endpoint| Some(endpoint.ip) == pod.ip)
        };
        service.ports.iter().filter(leads).map(move |port| (service, port))
    })
}

#[cfg(test)]
mod tests;
