//! What an end means, in one sentence, and what would let the connection pass.

use std::net::Ipv4Addr;

use super::Verdict;
use super::target::{Request, Target};
use super::walk::{End, Hop, Tuple};
use super::world::{Outside, Service, World};

pub(super) struct Told {
    pub(super) verdict: Verdict,
    pub(super) summary: String,
    pub(super) advice: Option<String>,
}

pub(super) fn delivered(place: &str, process: &str, sender: Option<Ipv4Addr>, world: &World) -> String {
    let Some(ip) = sender else {
        return format!("reaches {place}: {process} takes it and sees the sender's own address");
    };
    let sender = match world.who(ip) {
        words if words == ip.to_string() => String::new(),
        words => format!(" ({words})"),
    };
    format!("reaches {place}: {process} takes it and sees {ip}{sender} as the sender")
}

/// Whether a NetworkPolicy's rule or its default is this hop: the comments that its rules have.
pub(super) fn is_of_policy(hop: &Hop) -> bool {
    hop.comment.as_ref().is_some_and(|comment| comment.contains(" isolated by ") || rule(comment))
}

/// `NAMESPACE/NAME DIRECTION[INDEX]`.
fn rule(comment: &str) -> bool {
    comment.ends_with(']') && (comment.contains(" ingress[") || comment.contains(" egress["))
}

/// The rules of policies that let it through.
pub(super) fn allowing(hops: &[Hop]) -> Option<String> {
    let rules: Vec<&str> =
        hops.iter().filter_map(|hop| hop.comment.as_deref()).filter(|comment| rule(comment)).collect();
    (!rules.is_empty()).then(|| rules.join(" and "))
}

pub(super) fn left(
    node: &str,
    link: &str,
    to: Ipv4Addr,
    uplink: Option<bool>,
    world: &World,
) -> (Verdict, String) {
    if let Some(neighbour) = world.neighbour(to) {
        let there = format!("leaves node {node} by {link} for {to}, {neighbour}");
        return (Verdict::Left, format!("{there}; what happens there is not known"));
    }
    if let Some(of) = world.vacant(to) {
        let nobody = format!("{to} is in the range of {of}, and nobody there has it");
        return (Verdict::Unreachable, format!("{nobody}: it ends behind {link} of {node}"));
    }
    match uplink {
        Some(false) => {
            let why = "the cluster has no uplink (`skiff up --uplink` gives one)";
            (Verdict::Unreachable, format!("{to} is outside and {why}: it ends behind {link} of {node}"))
        }
        _ => {
            (Verdict::Left, format!("leaves node {node} by {link} for {to}; what happens there is not known"))
        }
    }
}

/// Whether the rule that decided last is somebody else's.
fn is_foreign(hops: &[Hop]) -> bool {
    hops.last().and_then(|hop| hop.table.as_deref()).is_some_and(|table| table != "skiff")
}

/// What to do about somebody else's rule.
fn without(hops: &[Hop], place: &str) -> Option<String> {
    let table = hops.last().filter(|_| is_foreign(hops))?.table.as_ref()?;
    Some(format!("that rule is not Skiff's: remove it from table {table} on {place}"))
}

/// What to do about a device that lets nothing pass: it is down, or a port that its bridge keeps closed.
fn passable(hops: &[Hop], place: &str, device: &str) -> String {
    match hops.last().is_some_and(|hop| hop.kind == "bridge") {
        true => format!("let the port {device} forward on {place} (bridge link set dev {device} state 3)"),
        false => format!("bring {device} up on {place}"),
    }
}

/// An answer that never arrives: how it is lost, and what would let it pass.
pub(super) fn answer_lost(end: &End, to: Ipv4Addr, hops: &[Hop], world: &World) -> (String, Option<String>) {
    match end {
        End::Dropped { place, by } => {
            (format!("the answer is dropped on {place} by {by}"), without(hops, place))
        }
        End::Rejected { place, by } => {
            (format!("the answer is rejected on {place} by {by}"), without(hops, place))
        }
        End::Unroutable { place, why } => {
            let routed = hops.last().is_some_and(|hop| hop.kind == "route");
            let who = match world.who(to) {
                words if words == to.to_string() => words,
                words => format!("{to} ({words})"),
            };
            let advice = routed.then(|| format!("a route on {place} that leads to {who}"));
            (format!("the answer gets lost on {place}: {why}"), advice)
        }
        End::Down { place, device, why } => {
            (format!("the answer gets lost: {why}"), Some(passable(hops, place, device)))
        }
        End::Refused { why, .. } => (format!("the answer gets lost: {why}"), None),
        End::Delivered { .. } | End::Leaves { .. } => {
            ("the answer ends where it should have gone on".into(), None)
        }
    }
}

/// A packet that nodes hand on to each other for ever: `passed` is to whom, and from where.
pub(super) fn circles(
    hops: &[Hop],
    passed: &[(String, Ipv4Addr, Tuple)],
    to: Ipv4Addr,
    world: &World,
) -> (String, Option<String>) {
    let mut between: Vec<String> = Vec::new();
    for (node, from, _) in passed {
        let from = world
            .node_at(*from)
            .map_or_else(|| format!("router {from}"), |from| format!("node {}", from.name));
        for place in [from, format!("node {node}")] {
            if !between.contains(&place) {
                between.push(place);
            }
        }
    }
    let circle = format!("it goes in circles between {}", between.join(" and "));
    let missing = hops.iter().rev().find(|hop| hop.kind == "bridge" && hop.device.is_some());
    match missing {
        Some(Hop { place, text, device: Some(device), .. }) => {
            let up = text.ends_with(" is down");
            let advice = if up {
                format!("bring {device} up on {place}")
            } else {
                format!("a route over {device} on {place}")
            };
            (format!("{circle}: {text}"), Some(advice))
        }
        _ => (circle, Some(format!("a route that leads to {} where it is", world.who(to)))),
    }
}

pub(super) fn stopped(end: &End, tuple: &Tuple, hops: &[Hop], request: &Request, world: &World) -> Told {
    let told = |verdict, summary: String, advice: Option<String>| Told { verdict, summary, advice };
    match end {
        End::Refused { place, why } => {
            let port = tuple.destination_port;
            let summary = format!("refused: {why}");
            told(Verdict::Refused, summary, Some(nobody(place, port, tuple, request, world)))
        }
        End::Rejected { by, place } if is_foreign(hops) => {
            told(Verdict::Refused, format!("refused on {place} by {by}"), without(hops, place))
        }
        End::Rejected { by, place } => {
            let protocol = request.protocol.name();
            match world.service_at(tuple.destination, tuple.destination_port, protocol) {
                Some((service, port)) if port.endpoints.is_empty() && !port.lacking.is_empty() => {
                    let name = format!("{}/{}", service.namespace, service.name);
                    let pods: Vec<String> = port.lacking.iter().map(|ip| world.who(*ip)).collect();
                    let target = &port.target;
                    told(
                        Verdict::Refused,
                        format!(
                            "refused on {place}: port {} of service {name} leads to the container port named {target}, \
                             and no ready pod behind it has one",
                            port.port
                        ),
                        Some(format!("a container port named {target} in {}", pods.join(" or "))),
                    )
                }
                Some((service, port)) if port.endpoints.is_empty() => {
                    let name = format!("{}/{}", service.namespace, service.name);
                    told(
                        Verdict::Refused,
                        format!(
                            "refused on {place}: service {name} has no ready endpoint for port {}",
                            port.port
                        ),
                        Some(format!("a ready pod that the selector of service {name} matches")),
                    )
                }
                Some(_) => told(Verdict::Refused, format!("refused on {place} by {by}"), None),
                None => told(
                    Verdict::Refused,
                    format!(
                        "refused on {place} by {by}: no service has port {} at {}",
                        tuple.destination_port, tuple.destination
                    ),
                    Some(other_port(tuple.destination, protocol, world)),
                ),
            }
        }
        End::Dropped { place, by } => {
            if let Some((summary, advice)) = not_local(place, tuple, hops, request, world) {
                return told(Verdict::Dropped, summary, Some(advice));
            }
            let ours = if is_foreign(hops) { &[] } else { hops };
            let isolated = ours
                .iter()
                .rev()
                .find_map(|hop| hop.comment.as_ref().filter(|comment| comment.contains(" isolated by ")));
            match isolated.and_then(|comment| comment.split_once(" isolated by ")) {
                Some((direction, policies)) => {
                    let allowed = match direction {
                        "ingress" => format!(
                            "a NetworkPolicy for {} that allows ingress from {} at port {}",
                            world.who(tuple.destination),
                            world.who(tuple.source),
                            tuple.destination_port
                        ),
                        _ => format!(
                            "a NetworkPolicy for {} that allows egress to {} at port {}",
                            world.who(tuple.source),
                            world.who(tuple.destination),
                            tuple.destination_port
                        ),
                    };
                    told(
                        Verdict::Dropped,
                        format!(
                            "dropped on {place} by NetworkPolicy {policies}: none of its {direction} rules allows it"
                        ),
                        Some(allowed),
                    )
                }
                None => told(Verdict::Dropped, format!("dropped on {place} by {by}"), without(hops, place)),
            }
        }
        End::Unroutable { why, .. } => told(Verdict::Unreachable, format!("gets nowhere: {why}"), None),
        End::Down { why, place, device } => {
            told(Verdict::Unreachable, format!("gets nowhere: {why}"), Some(passable(hops, place, device)))
        }
        End::Delivered { .. } | End::Leaves { .. } => {
            told(Verdict::Unknown, "ends where it should have gone on".into(), None)
        }
    }
}

/// A service whose traffic policy is `Local` drops what comes to a node without a ready endpoint of its own.
fn not_local(
    place: &str,
    tuple: &Tuple,
    hops: &[Hop],
    request: &Request,
    world: &World,
) -> Option<(String, String)> {
    // The platform's own rule drops it, before any translation.
    hops.last().filter(|hop| hop.table.as_deref() == Some("skiff") && hop.comment.is_none())?;
    let (service, port) =
        world.service_at(tuple.destination, tuple.destination_port, request.protocol.name())?;
    let outside = service.outside_at(tuple.destination);
    if let Some(told) = outside.and_then(|outside| not_from_there(place, tuple, hops, service, outside)) {
        return Some(told);
    }
    let node_port = world.node_at(tuple.destination).is_some() || outside.is_some();
    let (local, field) = match node_port {
        true => (service.external_local, "externalTrafficPolicy"),
        false => (service.internal_local, "internalTrafficPolicy"),
    };
    let node = place.strip_prefix("node ")?;
    let nodes = world.nodes_of(port);
    if !local || nodes.contains(&node) {
        return None;
    }
    let name = format!("{}/{}", service.namespace, service.name);
    let summary = format!(
        "dropped on {place}: service {name} has {field} Local, and no ready endpoint for port {} is on {node}",
        port.port
    );
    let advice = match (nodes.as_slice(), node_port) {
        ([], _) => {
            format!("a ready pod of service {name} on {node}, or {field} Cluster and a ready pod anywhere")
        }
        (some, true) => format!(
            "a ready pod of service {name} on {node}, {field} Cluster, or the address of a node that has one: {}",
            some.join(", ")
        ),
        (some, false) => format!(
            "a ready pod of service {name} on {node} (it has some on {}), or {field} Cluster",
            some.join(", ")
        ),
    };
    Some((summary, advice))
}

/// A load balancer's address whose service names from where connections to it are taken. Its rule drops the
/// others before any that leads them on.
fn not_from_there(
    place: &str,
    tuple: &Tuple,
    hops: &[Hop],
    service: &Service,
    outside: &Outside,
) -> Option<(String, String)> {
    hops.last().filter(|hop| hop.chain.as_deref().is_some_and(|chain| chain.starts_with("pick-from-")))?;
    let name = format!("{}/{}", service.namespace, service.name);
    let (to, from) = (outside.ip, tuple.source);
    // Which ranges these are is whose business the service is.
    let summary = format!(
        "dropped on {place}: service {name} takes connections to {to} from its loadBalancerSourceRanges alone, \
         and {from} is in none of them"
    );
    Some((summary, format!("a range with {from} among the loadBalancerSourceRanges of service {name}")))
}

/// What to ask for instead of a port that an address does not have.
fn other_port(ip: Ipv4Addr, protocol: &str, world: &World) -> String {
    let service = world.services.iter().find(|service| service.cluster_ip == Some(ip));
    let ports: Vec<String> = service
        .into_iter()
        .flat_map(|service| &service.ports)
        .map(|port| match port.protocol == protocol {
            true => port.port.to_string(),
            false => format!("{}/{}", port.port, port.protocol.to_lowercase()),
        })
        .collect();
    match ports.is_empty() {
        true => "a service with this port".into(),
        false => format!("a port that the service has ({}), or this one in it", ports.join(", ")),
    }
}

/// Of a headless service, whose pods listen at another port than it names.
fn untranslated(tuple: &Tuple, request: &Request, world: &World) -> Option<String> {
    let Target::Service { namespace, name } = &request.to else { return None };
    let service = world.service(namespace, name).filter(|service| service.cluster_ip.is_none())?;
    let protocol = request.protocol.name();
    let port =
        service.ports.iter().find(|own| own.protocol == protocol && own.port == tuple.destination_port)?;
    let end = port.endpoints.iter().find(|end| end.ip == tuple.destination && end.port != port.port)?;
    Some(format!(
        "port {}, where its pods listen: service {namespace}/{name} is headless, and nobody translates its port {}",
        end.port, port.port
    ))
}

/// What would make a port answer at which nothing listens.
fn nobody(place: &str, port: u16, tuple: &Tuple, request: &Request, world: &World) -> String {
    if let Some(advice) = untranslated(tuple, request, world) {
        return advice;
    }
    let protocol = request.protocol.name();
    let Some(node) = world.node_at(tuple.destination) else {
        return format!("a process in {place} that listens on 0.0.0.0:{port}");
    };
    // The same host port may be open on another node.
    let elsewhere = world.pods.iter().find_map(|pod| {
        let port = pod.ports.iter().find(|own| {
            own.protocol == protocol && own.host_port.is_some_and(|(_, host_port)| host_port == port)
        });
        port.filter(|_| !pod.node.is_empty() && pod.node != node.name).map(|_| pod)
    });
    match elsewhere {
        Some(pod) => format!(
            "hostPort {port} of pod {}/{} is open on node {} alone, where the pod is",
            pod.namespace, pod.name, pod.node
        ),
        None => format!("a pod on {} with hostPort {port}, or a service with that node port", node.name),
    }
}

#[cfg(test)]
mod tests;
