//! The two ends of a trace, as a person writes them: `pod/web`, `svc/web:http`, `node/n1:30080`,
//! `10.244.1.7:80/udp`, `external`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::world::{Endpoint, Pod, Service, ServicePort, World};
use crate::nearest::nearest;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As objects write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }

    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

/// What is wrong with a question, in one sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TraceError(pub String);

type Result<T> = std::result::Result<T, TraceError>;

fn wrong<T>(message: impl Into<String>) -> Result<T> {
    Err(TraceError(message.into()))
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Pod {
        namespace: String,
        name: String,
    },
    Service {
        namespace: String,
        name: String,
    },
    Node {
        name: String,
    },
    Address(Ipv4Addr),
    /// Somebody outside the cluster.
    External,
}

/// A whole question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub from: Target,
    pub to: Target,
    /// A number or a name.
    pub port: Option<String>,
    pub protocol: Protocol,
    /// No protocol was said, and TCP is meant where one must be.
    pub any_protocol: bool,
}

impl Request {
    /// Reads both ends; names without a kind are pods' or services' of the namespace.
    pub fn read(from: &str, to: &str, namespace: &str, world: &World) -> Result<Self> {
        const KINDS: [&str; 9] = ["pod", "pods", "po", "svc", "service", "services", "node", "nodes", "no"];
        let (to, protocol) = match to.rsplit_once('/') {
            Some((rest, "udp")) if !KINDS.contains(&rest) => (rest, Some(Protocol::Udp)),
            Some((rest, "tcp")) if !KINDS.contains(&rest) => (rest, Some(Protocol::Tcp)),
            _ => (to, None),
        };
        is_ipv4(from)?;
        is_ipv4(to)?;
        let (to, port) = match to.rsplit_once(':') {
            Some((_, "")) => return wrong(format!("{to}: no port after the colon")),
            Some((rest, port)) => (rest, Some(port.to_owned())),
            None => (to, None),
        };
        if let Some((_, other)) = port.as_ref().and_then(|port| port.split_once('/')) {
            return wrong(format!("no protocol {other:?} (tcp or udp)"));
        }
        let from_target = Target::read(from, namespace, world)?;
        let to = Target::read(to, namespace, world)?;
        if to == Target::External {
            return wrong("external can begin a connection, but not be its goal: name an address");
        }
        let any_protocol = protocol.is_none();
        let protocol = protocol.unwrap_or(Protocol::Tcp);
        Ok(Self { from: from_target, to, port, protocol, any_protocol })
    }

    /// The goal in words, with the port; one that was not named is one of several.
    pub fn goal(&self, world: &World) -> String {
        let words = self.to.words(world);
        if let Some(port) = &self.port {
            return format!("{words}, port {port}");
        }
        let protocol = self.protocol.name();
        let (short, ports): (String, Vec<String>) = match &self.to {
            Target::Pod { namespace, name } => {
                let ports = world.pod(namespace, name).map(|pod| pod.ports.as_slice()).unwrap_or_default();
                let ports = ports.iter().filter(|port| port.protocol == protocol);
                (format!("pod/{name}"), ports.map(|port| named(&port.name, port.port)).collect())
            }
            Target::Service { namespace, name } => {
                let service = world.service(namespace, name);
                let ports = service.map(|service| service.ports.as_slice()).unwrap_or_default();
                let ports = ports.iter().filter(|port| port.protocol == protocol);
                (format!("svc/{name}"), ports.map(|port| named(&port.name, port.port)).collect())
            }
            _ => return words,
        };
        match ports.split_first() {
            Some((first, others)) if !others.is_empty() => format!(
                "{words}, port {first}, the first of {} (say {short}:PORT for another: {})",
                ports.len(),
                others.join(", ")
            ),
            _ => words,
        }
    }
}

/// A port as it is listed: by its name, where it has one, and its number.
fn named(name: &str, port: u16) -> String {
    if name.is_empty() { port.to_string() } else { format!("{name} ({port})") }
}

/// The cluster has no other addresses; with or without a port.
fn is_ipv4(end: &str) -> Result<()> {
    let inner = match end.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, _)) => inner,
        None => end,
    };
    let without_port = inner.rsplit_once(':').map_or("", |(rest, _)| rest);
    if [inner, without_port].iter().any(|text| text.parse::<Ipv6Addr>().is_ok()) {
        return wrong(format!("{end} is an IPv6 address, and the cluster's network has IPv4 alone"));
    }
    Ok(())
}

impl Target {
    fn read(text: &str, namespace: &str, world: &World) -> Result<Self> {
        if text == "external" {
            return Ok(Self::External);
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(ip));
        }
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (Some(kind), name),
            None => (None, text),
        };
        if name.is_empty() {
            return wrong(format!("{text:?} names nothing"));
        }
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        match kind {
            Some("pod" | "pods" | "po") => {
                world
                    .pod(&namespace, &name)
                    .map(drop)
                    .ok_or_else(|| no_pod("pod", &name, &namespace, world, pods(world, &namespace)))?;
                Ok(Self::Pod { namespace, name })
            }
            Some("svc" | "service" | "services") => {
                world
                    .service(&namespace, &name)
                    .map(drop)
                    .ok_or_else(|| missing("service", &name, &namespace, services(world, &namespace)))?;
                Ok(Self::Service { namespace, name })
            }
            Some("node" | "nodes" | "no") => {
                let names = world.nodes.iter().map(|node| node.name.as_str());
                world.node(&name).map(drop).ok_or_else(|| missing("node", &name, "", names))?;
                Ok(Self::Node { name })
            }
            // What was typed may look like the name of something that the asker may not see.
            Some(other) => wrong(format!(
                "no kind {other:?} before a slash (pod/NAME, svc/NAME, node/NAME, an address or external)"
            )),
            None => match (world.pod(&namespace, &name), world.service(&namespace, &name)) {
                (Some(_), Some(_)) => wrong(format!(
                    "{name} is a pod and a service in namespace {namespace}: say pod/{name} or svc/{name}"
                )),
                (Some(_), None) => Ok(Self::Pod { namespace, name }),
                (None, Some(_)) => Ok(Self::Service { namespace, name }),
                (None, None) if looks_like_address(&name) => {
                    wrong(format!("{name} is no IPv4 address: four numbers from 0 to 255"))
                }
                (None, None) => {
                    let names = pods(world, &namespace).chain(services(world, &namespace));
                    Err(no_pod("pod or service", &name, &namespace, world, names))
                }
            },
        }
    }

    /// In words, with the address.
    pub fn words(&self, world: &World) -> String {
        match self {
            Self::Pod { namespace, name } => match world.pod(namespace, name) {
                Some(Pod { ip: Some(ip), node, host_network, .. }) => {
                    let network = if *host_network { ", in the node's network" } else { "" };
                    format!("pod {namespace}/{name} ({ip} on {node}{network})")
                }
                _ => format!("pod {namespace}/{name}"),
            },
            Self::Service { namespace, name } => {
                let service = world.service(namespace, name);
                let local = match service.is_some_and(|service| service.internal_local) {
                    true => "; internalTrafficPolicy Local: endpoints of the sender's node alone",
                    false => "",
                };
                if let Some(outside) = service.and_then(|service| service.external_name.as_ref()) {
                    return format!("service {namespace}/{name} (a DNS name for {outside})");
                }
                match service.and_then(|service| service.cluster_ip) {
                    Some(ip) => format!("service {namespace}/{name} ({ip}{local})"),
                    None => format!("service {namespace}/{name} (headless)"),
                }
            }
            Self::Node { name } => match world.node(name) {
                Some(node) => format!("node {name} ({})", node.ip),
                None => format!("node {name}"),
            },
            Self::Address(ip) => match world.who(*ip) {
                words if words == ip.to_string() => words,
                words => format!("{ip} ({words})"),
            },
            Self::External => "outside the cluster".into(),
        }
    }
}

/// Nothing but digits and dots, and more than one number.
fn looks_like_address(name: &str) -> bool {
    name.contains('.') && name.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn pods<'a>(world: &'a World, namespace: &'a str) -> impl Iterator<Item = &'a str> {
    world.pods.iter().filter(move |pod| pod.namespace == namespace).map(|pod| pod.name.as_str())
}

fn services<'a>(world: &'a World, namespace: &'a str) -> impl Iterator<Item = &'a str> {
    world.services.iter().filter(move |this| this.namespace == namespace).map(|this| this.name.as_str())
}

/// One that has ended is still an object, and somebody sees it listed.
fn no_pod<'a>(
    kind: &str,
    name: &str,
    namespace: &str,
    world: &World,
    names: impl Iterator<Item = &'a str>,
) -> TraceError {
    match world.ended.iter().find(|pod| pod.namespace == namespace && pod.name == name) {
        Some(pod) => TraceError(format!(
            "pod {namespace}/{name} has ended ({}): it has no address any more, and no part in the network",
            pod.phase
        )),
        None => missing(kind, name, namespace, names),
    }
}

fn missing<'a>(kind: &str, name: &str, namespace: &str, names: impl Iterator<Item = &'a str>) -> TraceError {
    let place = if namespace.is_empty() { String::new() } else { format!(" in namespace {namespace}") };
    let near = nearest(name, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    TraceError(format!("there is no {kind} {name}{place}{near}"))
}

/// Where a connection is really addressed to: one address, or several that the client chooses from.
pub(super) fn addresses(request: &Request, world: &World) -> Result<Vec<(Ipv4Addr, u16)>> {
    let protocol = request.protocol.name();
    let number = request.port.as_deref().map(str::parse::<u16>);
    match &request.to {
        Target::Pod { namespace, name } => {
            let pod = world.pod(namespace, name).expect("found when it was read");
            let ip =
                pod.ip.ok_or_else(|| TraceError(format!("pod {namespace}/{name} has no address yet")))?;
            let mut ports = pod.ports.iter().filter(|port| port.protocol == protocol);
            let port = match (&request.port, number) {
                (_, Some(Ok(port))) if port > 0 => port,
                (Some(wanted), _) => match ports.find(|port| port.name == *wanted) {
                    Some(port) => port.port,
                    None => {
                        let all = pod.ports.iter().map(|port| (&port.name, port.port, &port.protocol));
                        return no_port(&format!("pod {namespace}/{name}"), protocol, wanted, all);
                    }
                },
                (None, _) => match ports.next() {
                    Some(port) => port.port,
                    None => {
                        return wrong(format!(
                            "pod {namespace}/{name} names no {protocol} port: say pod/{name}:PORT"
                        ));
                    }
                },
            };
            Ok(vec![(ip, port)])
        }
        Target::Service { namespace, name } => {
            let service = world.service(namespace, name).expect("found when it was read");
            let words = format!("service {namespace}/{name}");
            if let Some(outside) = &service.external_name {
                return wrong(format!(
                    "{words} is a DNS name alone, for {outside}: connections go to whatever that name leads to, and \
                     ports of the service mean nothing"
                ));
            }
            let mut ports = service.ports.iter().filter(|port| port.protocol == protocol);
            let (port, number) = match (&request.port, number) {
                (None, _) => (ports.next(), None),
                // A port that it does not have is still one to try.
                (_, Some(Ok(number))) if number > 0 => (ports.find(|port| port.port == number), Some(number)),
                (Some(wanted), _) => (ports.find(|port| port.name == *wanted), None),
            };
            if port.is_none() && number.is_none() {
                return match &request.port {
                    Some(wanted) => {
                        let all = service.ports.iter().map(|port| (&port.name, port.port, &port.protocol));
                        no_port(&words, protocol, wanted, all)
                    }
                    None => wrong(format!("{words} has no {protocol} port")),
                };
            }
            if let Some(ip) = service.cluster_ip {
                return Ok(vec![(ip, number.or(port.map(|port| port.port)).unwrap_or_default())]);
            }
            // A headless one is the addresses of its pods, whose ports nobody translates. By a port's name DNS
            // tells the pods' own ports (SRV records), so that one is where they listen.
            let by_name = request.port.is_some() && number.is_none();
            let mut goals: Vec<(Ipv4Addr, u16)> = match port {
                Some(ServicePort { endpoints, port, .. }) => {
                    let goal = |end: &Endpoint| (end.ip, if by_name { end.port } else { *port });
                    endpoints.iter().map(goal).collect()
                }
                None => {
                    let ends = service.ports.iter().flat_map(|port| &port.endpoints);
                    ends.map(|end| (end.ip, number.unwrap_or_default())).collect()
                }
            };
            goals.sort_unstable();
            goals.dedup();
            if goals.is_empty() {
                return wrong(format!(
                    "{words} is headless and has no ready endpoint: its name has no address"
                ));
            }
            Ok(goals)
        }
        Target::Node { .. } | Target::Address(_) => {
            let ip = match &request.to {
                Target::Node { name } => world.node(name).expect("found when it was read").ip,
                Target::Address(ip) => *ip,
                _ => unreachable!("these two alone"),
            };
            if ip.is_multicast() || ip.is_broadcast() {
                let kind = if ip.is_multicast() { "multicast" } else { "broadcast" };
                return wrong(format!(
                    "{ip} is a {kind} address: a packet to it has no one receiver, and a trace follows it to one"
                ));
            }
            match (&request.port, number) {
                (_, Some(Ok(port))) if port > 0 => Ok(vec![(ip, port)]),
                (Some(port), _) => wrong(format!("{port:?} is no port (1 to 65535)")),
                (None, _) => wrong(format!("say which port: {ip}:PORT")),
            }
        }
        Target::External => wrong("external can begin a connection, but not be its goal"),
    }
}

/// The number of a pod's port that was asked for, if one was.
pub(super) fn port_of(request: &Request, pod: &Pod) -> Result<Option<u16>> {
    let Some(wanted) = &request.port else { return Ok(None) };
    if let Ok(number) = wanted.parse::<u16>()
        && number > 0
    {
        return Ok(Some(number));
    }
    let mut own =
        pod.ports.iter().filter(|port| request.any_protocol || port.protocol == request.protocol.name());
    match own.find(|port| port.name == *wanted) {
        Some(port) => Ok(Some(port.port)),
        None => {
            let all = pod.ports.iter().map(|port| (&port.name, port.port, &port.protocol));
            no_port(&format!("pod {}/{}", pod.namespace, pod.name), request.protocol.name(), wanted, all)
        }
    }
}

/// No port of that name; the nearest one, or those that there are.
fn no_port<'a, T>(
    whose: &str,
    protocol: &str,
    wanted: &str,
    all: impl Iterator<Item = (&'a String, u16, &'a String)>,
) -> Result<T> {
    let all: Vec<_> = all.collect();
    let own = || all.iter().filter(|(.., of)| *of == protocol);
    let near = nearest(wanted, own().map(|(name, ..)| name.as_str()).filter(|name| !name.is_empty()));
    let other = all
        .iter()
        .find(|(name, number, of)| *of != protocol && (*name == wanted || number.to_string() == wanted));
    let hint = match (near, other) {
        (Some(near), _) => format!("; did you mean {near}?"),
        (None, Some((.., of))) => format!("; it has one for {of}: add /{}", of.to_lowercase()),
        (None, None) => match own().map(|(name, port, _)| named(name, *port)).collect::<Vec<_>>() {
            ports if ports.is_empty() => String::new(),
            ports => format!("; it has {}", ports.join(", ")),
        },
    };
    wrong(format!("{whose} has no {protocol} port {wanted}{hint}"))
}

/// The one address that the request is about, where it is one.
pub fn address(request: &Request, world: &World) -> Option<Ipv4Addr> {
    match &request.to {
        Target::Pod { namespace, name } => world.pod(namespace, name)?.ip,
        Target::Service { namespace, name } => world.service(namespace, name)?.cluster_ip,
        Target::Node { name } => Some(world.node(name)?.ip),
        Target::Address(ip) => Some(*ip),
        Target::External => None,
    }
}

/// The pods that stand for one end: a service's are those behind it.
pub(super) fn senders<'a>(from: &'a Target, world: &'a World) -> Result<Vec<&'a Pod>> {
    match from {
        Target::Pod { namespace, name } => Ok(world.pod(namespace, name).into_iter().collect()),
        Target::Service { namespace, name } => {
            let service: &Service = world.service(namespace, name).expect("found when it was read");
            let mut ips: Vec<Ipv4Addr> = service
                .ports
                .iter()
                .flat_map(|port| port.endpoints.iter().map(|endpoint| endpoint.ip))
                .collect();
            ips.sort();
            ips.dedup();
            let pods: Vec<&Pod> = ips.into_iter().filter_map(|ip| world.pod_at(ip)).collect();
            if pods.is_empty() {
                return wrong(format!("service {namespace}/{name} has no pod that could begin a connection"));
            }
            Ok(pods)
        }
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests;
