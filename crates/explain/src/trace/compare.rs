//! The ways to one pod: by its own address, its host ports, its services' addresses, inside and outside, and
//! node ports.

use std::net::{IpAddr, Ipv4Addr};

use super::target::{Protocol, Request, Target, TraceError, port_of};
use super::world::{Endpoint, Pod, Service, ServicePort, World};
use crate::pod::Listener;

/// One way to the pod that can be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// `pod`, `hostPort`, `ClusterIP`, `LoadBalancer`, `externalIP` or `NodePort`.
    pub by: &'static str,
    pub opens_on: String,
    pub request: Request,
}

/// A pod may listen at very many ports, and each is a way of its own.
const LISTENING_MAX: usize = 32;

/// Where a pod listens for what comes to its own address.
pub fn listening(listeners: &[Listener], own: Option<Ipv4Addr>) -> Vec<(Protocol, u16)> {
    let takes = |listener: &&Listener| {
        let by_any = listener.device.as_deref() != Some("lo");
        by_any
            && match listener.address.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
                Ok(IpAddr::V4(ip)) => ip.is_unspecified() || Some(ip) == own,
                Ok(IpAddr::V6(ip)) => ip.is_unspecified() && listener.six_only != Some(true),
                Err(_) => false,
            }
    };
    let protocol = |listener: &Listener| match listener.protocol.as_str() {
        "TCP" => Some((Protocol::Tcp, listener.port)),
        "UDP" => Some((Protocol::Udp, listener.port)),
        _ => None,
    };
    listeners.iter().filter(takes).filter_map(protocol).take(LISTENING_MAX).collect()
}

/// All ways to the pod that the request is about: to its port, where one is named, by the protocol, where one is.
/// `listening` is where it really listens, as far as that is known.
pub fn compared(
    request: &Request,
    world: &World,
    listening: &[(Protocol, u16)],
) -> Result<Vec<Compared>, TraceError> {
    let Target::Pod { namespace, name } = &request.to else {
        return Err(TraceError("--compare is about a pod: say pod/NAME".into()));
    };
    let pod = world.pod(namespace, name).expect("found when it was read");
    let typed = port_of(request, pod)?;
    let mut rows = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        if protocol == request.protocol || request.any_protocol {
            let listening = listening.iter().filter(|(of, _)| *of == protocol).map(|(_, port)| *port);
            by_protocol(request, protocol, pod, typed, (world, &listening.collect::<Vec<_>>()), &mut rows);
        }
    }
    if rows.is_empty() {
        let protocol = if request.any_protocol { "" } else { request.protocol.name() };
        let what = format!("{protocol} port").trim_start().to_owned();
        return Err(TraceError(format!(
            "pod {namespace}/{name} names no {what}, no service leads to one, and it is not known to listen at one: \
             say pod/{name}:PORT"
        )));
    }
    Ok(rows)
}

fn by_protocol(
    request: &Request,
    protocol: Protocol,
    pod: &Pod,
    typed: Option<u16>,
    (world, listening): (&World, &[u16]),
    rows: &mut Vec<Compared>,
) {
    let wanted = |port: u16| typed.is_none_or(|typed| typed == port);
    let mut add = |by, opens_on: String, to, port: u16| {
        let port = Some(port.to_string());
        let request = Request { from: request.from.clone(), to, port, protocol, any_protocol: false };
        let row = Compared { by, opens_on, request };
        // Several ports of a pod may be one, and so may ports of a service.
        if !rows.contains(&row) {
            rows.push(row);
        }
    };
    let declared = || pod.ports.iter().filter(|own| own.protocol == protocol.name() && wanted(own.port));
    let services: Vec<(&Service, &ServicePort)> = services_of(pod, world, protocol, typed);
    let own = |end: &&Endpoint| Some(end.ip) == pod.ip && wanted(end.port);
    let behind = services.iter().flat_map(|(_, port)| ends(port).filter(own)).map(|end| end.port);
    // Whether anything listens at a port that was typed is what is asked.
    let asked = typed.filter(|_| protocol == request.protocol);
    let listening = listening.iter().copied().filter(|port| wanted(*port));
    for port in declared().map(|own| own.port).chain(behind).chain(asked).chain(listening) {
        add("pod", "every node".into(), request.to.clone(), port);
    }
    for (host_ip, host_port) in declared().filter_map(|own| own.host_port) {
        let node = world.node(&pod.node);
        let address = if host_ip.is_unspecified() { node.map(|node| node.ip) } else { Some(host_ip) };
        if let Some(address) = address {
            add("hostPort", pod.node.clone(), Target::Address(address), host_port);
        }
    }
    for (service, port) in services {
        if let Some(ip) = service.cluster_ip {
            add("ClusterIP", "every node, inside".to_owned(), Target::Address(ip), port.port);
        }
        let on = match service.keeps_to(port, world) {
            Some(nodes) if nodes.is_empty() => "no node: no ready endpoint".to_owned(),
            Some(nodes) => nodes.join(", "),
            None => "every node".to_owned(),
        };
        for outside in &service.outside {
            // Whoever brings packets for it to a node is asked of nobody here.
            add(outside.by, on.clone(), Target::Address(outside.ip), port.port);
        }
        if let Some(node_port) = port.node_port {
            // By a node where the pod is not, as there the difference shows; unless it is open on the pod's alone.
            let other = world.nodes.iter().find(|node| node.name != pod.node && !service.external_local);
            if let Some(node) = other.or_else(|| world.node(&pod.node)) {
                add("NodePort", on, Target::Address(node.ip), node_port);
            }
        }
    }
}

/// Those that lead to the pod or would, were it ready.
fn services_of<'a>(
    pod: &Pod,
    world: &'a World,
    protocol: Protocol,
    typed: Option<u16>,
) -> Vec<(&'a Service, &'a ServicePort)> {
    let leads = |port: &&ServicePort| {
        let mine = |end: &Endpoint| Some(end.ip) == pod.ip && typed.is_none_or(|typed| typed == end.port);
        port.protocol == protocol.name() && ends(port).any(mine)
    };
    let ports = |service: &'a Service| service.ports.iter().filter(leads).map(move |port| (service, port));
    world.services.iter().flat_map(ports).collect()
}

fn ends(port: &ServicePort) -> impl Iterator<Item = &Endpoint> {
    port.endpoints.iter().chain(&port.unready)
}

#[cfg(test)]
mod tests;
