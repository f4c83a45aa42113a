//! What is in the way of connections to a pod's sockets on the pod's node, network policies aside.
//!
//! [`approaches`] says which packets the node's agent is to follow to the door, by routes, links and everybody's
//! rules as the kernel has them; [`obstacles`] what their ends mean. What is not in the way is not told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::facts::{Pod, Protocol, Socket};
use crate::namespaces::Kind;
use crate::pod::{Answer, Obstacle};
use crate::reach::{NODE, OTHER_NODES, OUTSIDE, POD_NETWORK, is_any};
use crate::trace::walk::{End, Packets, Start, Tuple};

/// Sockets of one pod that are looked at.
pub const SOCKETS_MAX: usize = 32;
/// Nodes whose packets are followed.
pub(crate) const NODES_MAX: usize = 3;
/// How many senders a sentence names.
const NAMED_MAX: usize = 2;
/// Every new connection has some port.
const SOURCE_PORT: u16 = 40_000;

/// One packet to be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approach {
    pub start: Start,
    pub packets: Packets,
    from: &'static str,
    /// Who sends it.
    who: String,
    goal: Goal,
}

/// Where a packet has to come out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Goal {
    place: String,
    at: (Ipv4Addr, u16),
    /// A door may lead to others in turn: then it is enough that it leads here too.
    door: bool,
}

/// How a packet ended on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    /// Where it was addressed to in the end.
    pub to: (Ipv4Addr, u16),
    /// What on its way is not known.
    pub doubts: Vec<String>,
}

/// The packets to be followed for the sockets that others may reach.
pub fn approaches(pod: &Pod) -> Vec<Approach> {
    let Some(holder) = &pod.sandbox else { return Vec::new() };
    let net = holder.inodes.of(Kind::Net);
    let on_node = net != 0 && net == pod.node.inodes.of(Kind::Net);
    let own = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
    let of_pod = |socket: &&Socket| {
        let mut held = socket.process.iter().chain(&socket.also);
        !on_node || held.any(|process| process.pod.as_ref() == Some(&own))
    };
    let mut asked = Vec::new();
    let mut seen = BTreeSet::new();
    for socket in pod.sockets.iter().filter(of_pod) {
        let Some((ip, loopback)) = address(pod, socket, on_node) else { continue };
        if !seen.insert((socket.protocol, ip, socket.port)) || seen.len() > SOCKETS_MAX {
            continue;
        }
        let place = if on_node { format!("node {}", pod.node.name) } else { format!("pod {own}") };
        let goal = Goal { place, at: (ip, socket.port), door: false };
        direct(&mut asked, pod, socket.protocol, &goal, loopback);
        if !on_node {
            doors(&mut asked, pod, socket, &goal);
        }
    }
    asked
}

/// Where others find the socket, and whether that is the loopback; nothing where nobody does.
fn address(pod: &Pod, socket: &Socket, on_node: bool) -> Option<(Ipv4Addr, bool)> {
    let home = if on_node { Some(&pod.node_ip) } else { pod.pod_ip.as_ref() };
    let home: Ipv4Addr = home?.parse().ok()?;
    match socket.address.to_canonical() {
        address if address.is_unspecified() && socket.six_only != Some(true) => Some((home, false)),
        IpAddr::V4(own) if own.is_loopback() => on_node.then_some((own, true)),
        IpAddr::V4(own) => (on_node || own == home).then_some((own, false)),
        IpAddr::V6(_) => None,
    }
}

fn direct(asked: &mut Vec<Approach>, pod: &Pod, protocol: Protocol, goal: &Goal, loopback: bool) {
    let mut ask = |from, who: String, start, source| {
        asked.push(approach(protocol, goal.clone(), goal.at, from, who, start, source));
    };
    ask(NODE, "the node".into(), Start::Node, Ipv4Addr::UNSPECIFIED);
    if loopback {
        return;
    }
    let neighbour = pod.node.sandboxes.iter().copied().find(|own| *own != goal.at.0);
    if let Some(ip) = neighbour {
        ask(POD_NETWORK, "pods of this node".into(), Start::Sandbox { ip }, ip);
    }
    for other in pod.node.others.iter().take(NODES_MAX) {
        let start = || Start::Link { next_hop: other.ip };
        // Whoever it is, but not the network's own address and its bridge's.
        let some_pod = Ipv4Addr::from_bits(other.pods.0.to_bits().saturating_add(2));
        let pods = format!("pods in {}/{}", other.pods.0, other.pods.1);
        ask(POD_NETWORK, pods, start(), some_pod);
        ask(OTHER_NODES, other.ip.to_string(), start(), other.ip);
    }
    ask(OUTSIDE, "outside".into(), Start::Outside, Ipv4Addr::UNSPECIFIED);
}

/// Host ports and node ports that lead to the socket.
fn doors(asked: &mut Vec<Approach>, pod: &Pod, socket: &Socket, goal: &Goal) {
    let protocol = socket.protocol.name();
    let host = pod.host_ports.iter().filter(|own| own.container_port == socket.port);
    let host = host.filter(|own| own.protocol == protocol).map(|own| {
        let ip = if is_any(&own.host_ip) { &pod.node_ip } else { &own.host_ip };
        (ip.parse::<Ipv4Addr>(), own.host_port)
    });
    let services = pod.services.iter().filter(|own| own.target_port == socket.port);
    let services = services.filter(|own| own.protocol == protocol).filter_map(|own| own.node_port);
    let services = services.map(|port| (pod.node_ip.parse::<Ipv4Addr>(), port));
    for (ip, port) in host.chain(services) {
        let Ok(ip) = ip.map(|ip| (ip, port)) else { continue };
        if !ip.0.is_loopback() {
            let goal = Goal { door: true, ..goal.clone() };
            let (who, nobody) = ("outside".to_owned(), Ipv4Addr::UNSPECIFIED);
            asked.push(approach(socket.protocol, goal, ip, OUTSIDE, who, Start::Outside, nobody));
        }
    }
}

fn approach(
    protocol: Protocol,
    goal: Goal,
    to: (Ipv4Addr, u16),
    from: &'static str,
    who: String,
    start: Start,
    source: Ipv4Addr,
) -> Approach {
    let tuple = Tuple { source, source_port: SOURCE_PORT, destination: to.0, destination_port: to.1 };
    let protocol = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    Approach { start, packets: Packets { protocol, tuple, reply: false }, from, who, goal }
}

/// What an obstacle is found by: `10.244.1.5:80/TCP`.
pub(crate) fn at(ip: &str, port: u16, protocol: &str) -> String {
    format!("{ip}:{port}/{protocol}")
}

enum Found {
    Clear,
    Doubt(String),
    Sometimes(String),
    Stopped(String),
}

/// What the ends of packets say of where they were addressed to; one entry for each packet that was asked for.
pub fn obstacles(pod: &Pod, asked: &[Approach], ends: &[Result<Vec<Outcome>, String>]) -> Vec<Obstacle> {
    let mut order: Vec<(&str, String)> = Vec::new();
    let mut found: Vec<Vec<(&str, Found)>> = Vec::new();
    for (approach, ends) in asked.iter().zip(ends) {
        let tuple = approach.packets.tuple;
        let protocol = if approach.packets.protocol == 6 { "TCP" } else { "UDP" };
        let key = (approach.from, at(&tuple.destination.to_string(), tuple.destination_port, protocol));
        let index = order.iter().position(|known| *known == key).unwrap_or_else(|| {
            order.push(key);
            found.push(Vec::new());
            order.len() - 1
        });
        found[index].push((&approach.who, judged(pod, approach, ends)));
    }
    let all = order.into_iter().zip(found);
    all.filter_map(|((from, at), found)| {
        let (answer, why) = merged(&found)?;
        Some(Obstacle { from: from.into(), at, answer, why })
    })
    .collect()
}

fn judged(pod: &Pod, approach: &Approach, ends: &Result<Vec<Outcome>, String>) -> Found {
    let ends = match ends {
        Ok(ends) => ends,
        // Where nothing outside is known, nothing outside was followed.
        Err(why) => return Found::Doubt(why.clone()),
    };
    let goal = &approach.goal;
    let here = |own: &&Outcome| {
        own.to == goal.at && matches!(&own.end, End::Delivered { place, .. } if *place == goal.place)
    };
    let (reached, lost): (Vec<&Outcome>, Vec<&Outcome>) = ends.iter().partition(here);
    let doubt = ends.iter().flat_map(|own| &own.doubts).next();
    match (reached.is_empty(), lost.first(), doubt) {
        (true, None, _) => Found::Clear,
        (_, Some(_), Some(doubt)) => Found::Doubt(doubtful(doubt)),
        (true, Some(lost), None) => Found::Stopped(ended(pod, lost)),
        (false, Some(lost), None) if !goal.door => Found::Sometimes(ended(pod, lost)),
        (false, _, None) => Found::Clear,
        (false, None, Some(doubt)) => Found::Doubt(doubtful(doubt)),
    }
}

fn doubtful(what: &str) -> String {
    format!("whether it gets past this is not known here, `skiff trace` follows it: {what}")
}

/// After "what comes there".
fn ended(pod: &Pod, lost: &Outcome) -> String {
    let (ip, port) = lost.to;
    match &lost.end {
        End::Delivered { place, .. } => match place.strip_prefix("pod ") {
            // Of other namespaces the asker may not know.
            Some(name) if !name.starts_with(&format!("{}/", pod.metadata.namespace)) => {
                "is led to another pod".to_owned()
            }
            _ => format!("is led to {place} at {ip}:{port}"),
        },
        End::Refused { why, .. } => format!("is refused: {why}"),
        End::Rejected { place, by } => format!("is refused on {place} by {by}"),
        End::Dropped { place, by } => format!("is dropped on {place} by {by}"),
        End::Unroutable { why, .. } | End::Down { why, .. } => format!("gets nowhere: {why}"),
        End::Leaves { link, next_hop } => format!("is sent on to {next_hop} by {link}, for {ip}:{port}"),
    }
}

/// Of all senders there; nothing where all get through.
fn merged(found: &[(&str, Found)]) -> Option<(Answer, String)> {
    let stopped = |own: &(&str, Found)| match &own.1 {
        Found::Stopped(why) | Found::Sometimes(why) => Some((own.0.to_owned(), why.clone())),
        Found::Clear | Found::Doubt(_) => None,
    };
    let all = found.iter().all(|(_, own)| matches!(own, Found::Stopped(_)));
    let lost: Vec<(String, String)> = found.iter().filter_map(stopped).collect();
    if let (true, Some((_, why))) = (all, lost.first()) {
        return Some((Answer::No, why.clone()));
    }
    if !lost.is_empty() {
        let more = lost.len().saturating_sub(NAMED_MAX);
        let mut named: Vec<String> =
            lost.into_iter().take(NAMED_MAX).map(|(who, why)| format!("from {who} it {why}")).collect();
        if more > 0 {
            named.push(format!("from {more} more it does not get there either"));
        }
        return Some((Answer::Some, named.join("; ")));
    }
    found.iter().find_map(|(_, own)| match own {
        Found::Doubt(what) => Some((Answer::Some, what.clone())),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
