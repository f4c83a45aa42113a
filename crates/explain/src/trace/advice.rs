//! What an end means, in one sentence, and what would let the connection pass.

use std::net::Ipv4Addr;

use super::Verdict;
use super::target::Request;
use super::walk::{End, Hop, Tuple};
use super::world::World;

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

pub(super) fn left(node: &str, link: &str, to: Ipv4Addr, uplink: Option<bool>) -> (Verdict, String) {
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

pub(super) fn stopped(end: &End, tuple: &Tuple, hops: &[Hop], request: &Request, world: &World) -> Told {
    let told = |verdict, summary: String, advice: Option<String>| Told { verdict, summary, advice };
    match end {
        End::Refused { place, why } => {
            let port = tuple.destination_port;
            let summary = format!("refused: {why}");
            told(Verdict::Refused, summary, Some(nobody(place, port, tuple, request, world)))
        }
        End::Rejected { by, place } => {
            let protocol = request.protocol.name();
            match world.service_at(tuple.destination, tuple.destination_port, protocol) {
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
                    Some("a port that the service has, or a service with this port".into()),
                ),
            }
        }
        End::Dropped { place, by } => {
            let isolated = hops
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
                None => {
                    let foreign = hops.last().filter(|hop| hop.table.as_deref() != Some("skiff"));
                    let advice = foreign.and_then(|hop| {
                        Some(format!(
                            "that rule is not Skiff's: remove it from table {} on {place}",
                            hop.table.as_ref()?
                        ))
                    });
                    told(Verdict::Dropped, format!("dropped on {place} by {by}"), advice)
                }
            }
        }
        End::Unroutable { why, .. } => told(Verdict::Unreachable, format!("gets nowhere: {why}"), None),
        End::Down { why, place, device } => told(
            Verdict::Unreachable,
            format!("gets nowhere: {why}"),
            Some(format!("bring {device} up on {place}")),
        ),
        End::Delivered { .. } | End::Leaves { .. } => {
            told(Verdict::Unknown, "ends where it should have gone on".into(), None)
        }
    }
}

/// What would make a port answer at which nothing listens.
fn nobody(place: &str, port: u16, tuple: &Tuple, request: &Request, world: &World) -> String {
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
