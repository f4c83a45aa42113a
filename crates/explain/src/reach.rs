//! From where a listening socket can be reached, and why.

use std::net::IpAddr;

use crate::approach::{self, NODES_MAX};
use crate::facts::{Pod, Protocol, Socket};
use crate::listed;
use crate::namespaces::{Kind, Word};
use crate::pod::{Answer, Endpoint, HostPort, Obstacle, PodExplanation, Reach, ServicePort};
use crate::policies::{Admits, Policy, Surroundings, admits};

pub(crate) const POD_NETWORK: &str = "pod network";
pub(crate) const NODE: &str = "node";
pub(crate) const OTHER_NODES: &str = "other nodes";
pub(crate) const OUTSIDE: &str = "outside";

/// The four places, in this order: the pod network, the pod's node, other nodes, outside of the cluster.
pub fn reach(pod: &Pod, socket: &Socket) -> Vec<Reach> {
    let on_node = pod.sandbox.as_ref().is_some_and(|holder| {
        holder.inodes.of(Kind::Net) == pod.node.inodes.of(Kind::Net) && holder.inodes.of(Kind::Net) != 0
    });
    let address = socket.address.to_canonical();
    let shut = shut(socket, on_node);
    let answers = match (address.is_loopback(), on_node) {
        _ if shut.is_some() => [Answer::No; 4].map(|answer| (answer, shut.clone().unwrap_or_default())),
        (true, true) => loopback_of_node(pod, socket),
        (true, false) => {
            let why = format!("it is bound to {}, which is inside the pod alone", socket.address);
            [Answer::No; 4].map(|answer| (answer, why.clone()))
        }
        (false, true) => of_node(pod, socket),
        (false, false) => of_pod(pod, socket),
    };
    let places = [POD_NETWORK, NODE, OTHER_NODES, OUTSIDE];
    let places = places.into_iter().zip(answers);
    let mut all: Vec<Reach> =
        places.map(|(from, (answer, reason))| Reach { from: from.into(), answer, reason }).collect();
    if socket.six_only == Some(true) && address.is_unspecified() && on_node {
        all[1].answer = Answer::Some;
        all[1].reason = format!("by IPv6 alone, as at [::1]:{}", socket.port);
    }
    if socket.six_only.is_none() && address.is_ipv6() && address.is_unspecified() {
        for reach in all.iter_mut().filter(|reach| reach.answer == Answer::Yes) {
            reach.answer = Answer::Some;
            reach.reason = format!("{}, if it takes IPv4 too, which is not known", reach.reason);
        }
    }
    all
}

type Answers = [(Answer, String); 4];

/// Why nobody reaches the socket, wherever he is.
fn shut(socket: &Socket, on_node: bool) -> Option<String> {
    if socket.address.is_unspecified() && socket.six_only == Some(true) {
        return Some("it takes IPv6 alone, and the addresses of nodes and pods are IPv4".into());
    }
    // The node has many links; a pod's own are the loopback, and `eth0` for all others.
    let device = socket.device.as_ref().filter(|device| !on_node && device.as_str() != "eth0")?;
    let other = !socket.address.to_canonical().is_loopback();
    other.then(|| format!("it is bound to the link {device}, and others come in by eth0"))
}

fn loopback_of_node(pod: &Pod, socket: &Socket) -> Answers {
    let node = &pod.node.name;
    let address = socket.address;
    let no = |who: &str| (Answer::No, format!("it is bound to {address}, which {who} cannot reach"));
    let own = (Answer::Yes, format!("{address} is {node}'s own loopback, and every hostNetwork pod's there"));
    let at = approach::at(&address.to_canonical().to_string(), socket.port, socket.protocol.name());
    [
        no("pods with a network of their own"),
        past(&pod.obstacles, NODE, &at, own),
        no("other machines"),
        no("other machines"),
    ]
}

/// On the node's own network: what stands between is what the node's rules put there.
fn of_node(pod: &Pod, socket: &Socket) -> Answers {
    let address = socket.address.to_canonical();
    let ip = if address.is_unspecified() { pod.node_ip.clone() } else { address.to_string() };
    let at = match address.is_unspecified() {
        true => format!("{}:{}", pod.node_ip, socket.port),
        false => host_port(address, socket.port),
    };
    let looked_up = approach::at(&ip, socket.port, socket.protocol.name());
    let own = |from, reason: String| {
        let open = match &socket.device {
            None => (Answer::Yes, reason),
            Some(device) if from == NODE && device != "lo" => {
                (Answer::No, format!("it is bound to the link {device}, and the node's own come by lo"))
            }
            Some(_) if from == NODE => (Answer::Yes, reason),
            Some(device) if device == "lo" => {
                (Answer::No, "it is bound to the link lo, by which the node's own come alone".into())
            }
            Some(device) => (Answer::Some, format!("{reason}; what comes in by the link {device} alone")),
        };
        past(&pod.obstacles, from, &looked_up, open)
    };
    let why = format!("at {at}: the socket is the node's own, with no translation before it");
    let outside = format!("at {at}, from wherever {}'s address can be reached", pod.node.name);
    let elsewhere = format!("{why}{}", one_sided(pod));
    [own(POD_NETWORK, elsewhere.clone()), own(NODE, why), own(OTHER_NODES, elsewhere), own(OUTSIDE, outside)]
}

/// What other nodes do to what they send is theirs to know; and of many, what some send is followed here.
fn one_sided(pod: &Pod) -> String {
    let others = pod.node.others.len();
    match others > NODES_MAX {
        false => as_far_as(&pod.node.name, others > 0),
        true => {
            let name = &pod.node.name;
            format!(" (as far as {name}'s own rules go, for what {NODES_MAX} of {others} other nodes send)")
        }
    }
}

/// By whose rules alone it is judged, where there are others.
fn as_far_as(node: &str, others: bool) -> String {
    if others { format!(" (as far as {node}'s own rules go)") } else { String::new() }
}

fn of_pod(pod: &Pod, socket: &Socket) -> Answers {
    let Some(ip) = &pod.pod_ip else {
        return [Answer::No; 4].map(|answer| (answer, "the pod has no address".to_owned()));
    };
    let address = socket.address.to_canonical();
    if !address.is_unspecified() && address.to_string() != *ip {
        let why = format!("it is bound to {}, which is not the pod's address {ip}", socket.address);
        return [Answer::No; 4].map(|answer| (answer, why.clone()));
    }
    let at = format!("at {ip}:{}", socket.port);
    let one_sided = one_sided(pod);
    let others = format!("{at}, by the route to the pods of {}{one_sided}", pod.node.name);
    let doors = Doors {
        node: &pod.node.name,
        node_ip: &pod.node_ip,
        pod_ip: ip,
        host_ports: &pod.host_ports,
        services: &pod.services,
        obstacles: &pod.obstacles,
        others: !pod.node.others.is_empty(),
    };
    let protocol = socket.protocol.name();
    let outside = doors.outside(protocol, socket.port, Through::All);
    let over_bridge = format!("{at}, over the bridge");
    let looked_up = approach::at(ip, socket.port, protocol);
    let past = |from, reason| past(&pod.obstacles, from, &looked_up, (Answer::Yes, reason));
    [
        past(POD_NETWORK, format!("{at}{one_sided}")),
        past(NODE, over_bridge),
        past(OTHER_NODES, others),
        outside,
    ]
}

/// What an answer becomes by what is in the way of those who come from there.
fn past(obstacles: &[Obstacle], from: &str, at: &str, open: (Answer, String)) -> (Answer, String) {
    let Some(found) = obstacle(obstacles, from, at) else { return open };
    match (open.0, found.answer) {
        (Answer::No, _) => open,
        (_, Answer::No) => (Answer::No, format!("what comes to {} {}", address_of(at), found.why)),
        _ => (Answer::Some, format!("{}; {}", open.1, found.why)),
    }
}

fn obstacle<'a>(obstacles: &'a [Obstacle], from: &str, at: &str) -> Option<&'a Obstacle> {
    obstacles.iter().find(|own| own.from == from && own.at == at)
}

/// Without the protocol, which the socket has already.
fn address_of(at: &str) -> &str {
    at.split_once('/').map_or(at, |(address, _)| address)
}

/// Judges the doors to the pod anew, once it is known whether its services lead to it, and whether there are
/// `others` beside its node.
pub fn through_services(told: &mut PodExplanation, others: bool) {
    outside_anew(told, others, |doors, protocol, port| doors.outside(protocol, port, Through::All));
}

/// What comes from outside to sockets that are open.
fn outside_anew(
    told: &mut PodExplanation,
    others: bool,
    judge: impl Fn(&Doors<'_>, &str, u16) -> (Answer, String),
) {
    let Some(pod_ip) = told.pod_ip.clone().filter(|_| has_own_network(told)) else { return };
    let doors = Doors {
        node: &told.node,
        node_ip: &told.node_ip,
        pod_ip: &pod_ip,
        host_ports: &told.host_ports,
        services: &told.services,
        obstacles: &told.obstacles,
        others,
    };
    for listener in &mut told.listeners {
        // What is bound to where nothing leads is open to nobody, whatever doors there are.
        let bound: Option<std::net::IpAddr> = listener.address.parse().ok();
        let bound = bound.map(|ip| ip.to_canonical());
        let here = bound.is_some_and(|ip| ip.is_unspecified() || ip.to_string() == pod_ip);
        let by = listener.device.as_deref().is_none_or(|device| device == "eth0");
        let open = here && by && listener.six_only != Some(true);
        if let Some(outside) = listener.reachable.iter_mut().find(|own| own.from == OUTSIDE && open) {
            (outside.answer, outside.reason) = judge(&doors, &listener.protocol, listener.port);
        }
    }
}

/// Takes into account the policies that select the pod for what comes in: it then comes as their rules for
/// that port allow. What comes from the pod's own node is let in always, since its agent probes the pod.
pub fn limit(told: &mut PodExplanation, policies: &[Policy], around: &Surroundings) {
    if policies.is_empty() || !has_own_network(told) {
        return;
    }
    told.policies = policies.iter().map(|policy| policy.name.clone()).collect();
    let names = told.policies.clone();
    let (pods, nodes, outside) = (around.pod_network(), around.other_nodes(), around.outside());
    outside_anew(told, !around.other_nodes.is_empty(), |doors, protocol, port| {
        let here = admits(policies, protocol, port, &outside);
        // Other nodes lead on what comes to their ports under their own address.
        let there = admits(policies, protocol, port, &nodes);
        let both = match (&here, &there) {
            _ if around.other_nodes.is_empty() || !doors.everywhere(protocol, port) => (Through::All, here),
            (Admits::Nobody, Admits::Nobody) => (Through::All, here),
            (Admits::Nobody, Admits::Some(by) | Admits::Everybody(by)) => {
                (Through::OtherNodes, Admits::Some(by.clone()))
            }
            (_, Admits::Nobody) => (Through::OwnNode, here),
            (Admits::Everybody(_), Admits::Everybody(_)) => (Through::All, here),
            (Admits::Some(own) | Admits::Everybody(own), Admits::Some(by) | Admits::Everybody(by)) => {
                let more = by.iter().filter(|name| !own.contains(name));
                (Through::All, Admits::Some(own.iter().chain(more).cloned().collect()))
            }
        };
        let (through, admits) = both;
        limited(doors.outside(protocol, port, through), &admits, &names, protocol, port)
    });
    for listener in &mut told.listeners {
        let (protocol, port) = (listener.protocol.as_str(), listener.port);
        for reach in &mut listener.reachable {
            let place = match reach.from.as_str() {
                POD_NETWORK => &pods,
                OTHER_NODES => &nodes,
                _ => continue,
            };
            let open = (reach.answer, std::mem::take(&mut reach.reason));
            let admits = admits(policies, protocol, port, place);
            (reach.answer, reach.reason) = limited(open, &admits, &names, protocol, port);
        }
    }
}

/// What an answer becomes by whom the policies let in.
fn limited(
    open: (Answer, String),
    admits: &Admits,
    policies: &[String],
    protocol: &str,
    port: u16,
) -> (Answer, String) {
    let (answer, reason) = open;
    match admits {
        _ if answer == Answer::No => (answer, reason),
        Admits::Nobody => (Answer::No, kept_out(policies, protocol, port)),
        Admits::Some(names) => {
            let policies = several("policy", "policies", names);
            let allow = if names.len() == 1 { "allows" } else { "allow" };
            (Answer::Some, format!("{reason}, as {policies} {allow}"))
        }
        Admits::Everybody(names) => {
            let policies = several("policy", "policies", names);
            let lets = if names.len() == 1 { "lets" } else { "let" };
            (answer, format!("{reason}; {policies} {lets} everybody in"))
        }
    }
}

/// Why nobody from there comes in.
fn kept_out(policies: &[String], protocol: &str, port: u16) -> String {
    let all = several("policy", "policies", policies);
    match policies.len() {
        1 => format!("{all} selects the pod and lets nobody from there in at {port}/{protocol}"),
        _ => format!("{all} select the pod, and none lets anybody from there in at {port}/{protocol}"),
    }
}

fn several(one: &str, many: &str, names: &[String]) -> String {
    format!("{} {}", if names.len() == 1 { one } else { many }, listed(names))
}

fn has_own_network(told: &PodExplanation) -> bool {
    told.namespaces.iter().any(|own| own.namespace == Kind::Net && own.word != Word::Host)
}

/// By which nodes what comes to the port of any of them gets to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    All,
    OwnNode,
    OtherNodes,
}

/// The ports of nodes that lead to a pod.
struct Doors<'a> {
    node: &'a str,
    node_ip: &'a str,
    pod_ip: &'a str,
    host_ports: &'a [HostPort],
    services: &'a [ServicePort],
    obstacles: &'a [Obstacle],
    /// There are other nodes.
    others: bool,
}

/// Doors to one socket.
#[derive(Default)]
struct Found {
    /// Each with what leaves doubt about it.
    open: Vec<(String, Option<String>)>,
    /// Those that lead nowhere now, and why.
    shut: Vec<String>,
    /// There is a host port, or a port of a node, that leads here or would.
    any_host_port: bool,
    any_node_port: bool,
}

impl Doors<'_> {
    /// Whether a socket that the pod network reaches is reached from outside too.
    fn outside(&self, protocol: &str, port: u16, through: Through) -> (Answer, String) {
        let Found { open, shut, any_host_port, any_node_port } = self.of(protocol, port, through);
        let shut = shut.iter().map(|door| format!("; {door}")).collect::<String>();
        if open.is_empty() {
            let none = match (any_host_port, any_node_port) {
                (false, false) => ": no host port and no NodePort leads here",
                (false, true) => ": no host port leads here",
                (true, _) => "",
            };
            // The machine that `skiff up` ran on has such a route; who else has is not ours to know.
            let routed = format!("at {}:{port} only from machines with a route to it", self.pod_ip);
            let at = approach::at(self.pod_ip, port, protocol);
            return past(self.obstacles, OUTSIDE, &at, (Answer::Some, format!("{routed}{none}{shut}")));
        }
        let doubt = open.iter().find_map(|(_, doubt)| doubt.as_ref());
        let named: Vec<String> = open.iter().map(|(door, _)| door.clone()).collect();
        match doubt {
            Some(doubt) => (Answer::Some, format!("{}{shut}; {doubt}", listed(&named))),
            None => (Answer::Yes, format!("{}{shut}", listed(&named))),
        }
    }

    /// Whether a port of every node leads to the socket.
    fn everywhere(&self, protocol: &str, port: u16) -> bool {
        self.services.iter().any(|own| {
            let leads = own.target_port == port && own.protocol == protocol && own.node_port.is_some();
            leads && own.external_traffic_policy != "Local" && own.leads() != Some(false)
        })
    }

    /// Those that lead to the socket, and those that don't now.
    fn of(&self, protocol: &str, port: u16, through: Through) -> Found {
        let leads = |own: u16, other: &str| own == port && other == protocol;
        let mut found = Found::default();
        let host = self.host_ports.iter().filter(|own| leads(own.container_port, &own.protocol));
        let host = host.filter(|own| own.host_ip.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback()));
        for own in host.filter(|_| through != Through::OtherNodes) {
            let ip = if is_any(&own.host_ip) { self.node_ip } else { &own.host_ip };
            let door = format!("host port {ip}:{} of {}", own.host_port, self.node);
            found.any_host_port = true;
            self.open(&mut found, &door, "", &approach::at(ip, own.host_port, protocol));
        }
        for own in self.services.iter().filter(|own| leads(own.target_port, &own.protocol)) {
            let Some(number) = own.node_port else { continue };
            found.any_node_port = true;
            let door = format!("NodePort {number} of service {}", own.service);
            let local = own.external_traffic_policy == "Local";
            let place = match (local, through) {
                (true, Through::OtherNodes) => continue,
                (true, _) => format!("on {} alone (externalTrafficPolicy Local)", self.node),
                (false, Through::All) => format!("on every node{}", as_far_as(self.node, self.others)),
                (false, Through::OwnNode) => {
                    format!("on {} alone, as others lead it on under their own address", self.node)
                }
                (false, Through::OtherNodes) => {
                    let far = as_far_as(self.node, self.others);
                    format!("on other nodes alone, which lead it on under their own address{far}")
                }
            };
            let place = match own.endpoint {
                Some(Endpoint::Ready) => format!(" {place}"),
                Some(Endpoint::Ending) => format!(" {place} while no other endpoint is ready"),
                None => format!(" {place}, if the pod is ready"),
                Some(Endpoint::NotReady | Endpoint::Absent) => {
                    found.shut.push(format!(
                        "{door} leads here only when the pod is a ready endpoint, and it is not"
                    ));
                    continue;
                }
            };
            self.open(&mut found, &door, &place, &approach::at(self.node_ip, number, protocol));
        }
        found
    }

    /// A door that leads here, unless something is in the way there.
    fn open(&self, found: &mut Found, door: &str, place: &str, at: &str) {
        match obstacle(self.obstacles, OUTSIDE, at) {
            Some(own) if own.answer == Answer::No => {
                found.shut.push(format!(
                    "{door} does not lead here: what comes to {} {}",
                    address_of(at),
                    own.why
                ));
            }
            other => found.open.push((format!("by {door}{place}"), other.map(|own| own.why.clone()))),
        }
    }
}

pub(crate) fn is_any(ip: &str) -> bool {
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
mod tests;
