//! `explain pod` as text.

use std::fmt::Write as _;

use super::{Paint, heading, missing, warned, wrapped};
use crate::devices::NodeDevices;
use crate::namespaces::Word;
use crate::pod::{
    Container, Endpoint, Listener, Namespace, OtherNetwork, PodExplanation, Process, Security, ServicePort,
};
use crate::{counted, listed};

/// The whole explanation. One line a namespace, `net   own   4026532201   …`, and no other line begins with
/// a namespace's name.
pub fn pod(told: &PodExplanation, paint: Paint) -> String {
    let mut out = String::new();
    head(&mut out, told, paint);
    for namespace in &told.namespaces {
        line(&mut out, namespace, paint);
    }
    sandbox(&mut out, told);
    network(&mut out, told, paint);
    listeners(&mut out, told, paint);
    for container in &told.containers {
        self::container(&mut out, container, paint);
    }
    security(&mut out, told, paint);
    missing(&mut out, paint, &told.missing);
    out
}

fn head(out: &mut String, told: &PodExplanation, paint: Paint) {
    let place = match (&*told.node, &told.pod_ip) {
        ("", _) => ", on no node yet".to_owned(),
        (node, None) => format!(" on {node}"),
        (node, Some(ip)) => format!(" on {node}, address {ip}"),
    };
    let name = format!("{}/{}", told.metadata.namespace, told.metadata.name);
    wrapped(out, "", &format!("Pod {}{place}", paint.bold(&name)));
    if let Some(past) = &told.past {
        wrapped(out, "  ", &format!("PAST: {past}; this is how it was"));
    }
    if !told.namespaces.is_empty() {
        out.push('\n');
        out.push_str("NAMESPACE WORD    INODE        WHO HOLDS IT, AND WHAT A SHARED ONE EXPOSES\n");
    }
}

pub(super) fn line(out: &mut String, own: &Namespace, paint: Paint) {
    let mark = match own.word {
        Word::Own => ' ',
        Word::Host | Word::Shared => '!',
    };
    let head = format!("{:<9} {:<7} {:<10} {mark} ", own.namespace, own.word, own.inode);
    match own.word {
        Word::Own => wrapped(out, &head, &own.sentence),
        Word::Host | Word::Shared => warned(out, paint, &head, &own.sentence),
    }
}

/// What `pause` has for itself alone.
fn sandbox(out: &mut String, told: &PodExplanation) {
    let Some(pause) = &told.sandbox else { return };
    let seen = |own: &&Namespace| !told.namespaces.iter().any(|other| other.inode == own.inode);
    let (mut own, mut host) = (Vec::new(), Vec::new());
    for namespace in pause.namespaces.iter().filter(seen) {
        let name = format!("{} {}", namespace.namespace, namespace.inode);
        if namespace.word == Word::Host { host.push(name) } else { own.push(name) }
    }
    let mut text = format!("PID {} on the node", pause.pid);
    if !own.is_empty() {
        let _ = write!(text, "; it alone is in {}", listed(&own));
    }
    if !host.is_empty() {
        let _ = write!(text, "; of the node's it is in {}", listed(&host));
    }
    wrapped(out, "(pause)   ", &text);
    if told.nested {
        let text =
            format!("whether its processes around {} are in any of these is not seen from there", told.node);
        wrapped(out, "(machine) ", &text);
    }
}

fn network(out: &mut String, told: &PodExplanation, paint: Paint) {
    if told.interfaces.is_empty() {
        return;
    }
    heading(out, paint, "Interfaces and routes");
    for link in &told.interfaces {
        let addresses = match link.addresses.as_slice() {
            [] => "no address".to_owned(),
            some => some.join(" "),
        };
        let kind = if link.kind.is_empty() { String::new() } else { format!("{}, ", link.kind) };
        let state = if link.up { "up" } else { "down" };
        let head = format!("  dev {:<15} ", link.name);
        wrapped(out, &head, &format!("{addresses} ({kind}{state}, MTU {})", link.mtu));
    }
    for route in &told.routes {
        let via = route.via.as_ref().map(|via| format!(" via {via}")).unwrap_or_default();
        wrapped(out, "  ", &format!("route to {}{via} by {}", route.destination, route.device));
    }
}

fn listeners(out: &mut String, told: &PodExplanation, paint: Paint) {
    heading(out, paint, "Listening sockets, and from where each is reachable");
    if told.listeners.is_empty() {
        // Every network that was looked at has an interface, its loopback.
        let nothing_runs = !told.containers.is_empty()
            && told.sandbox.is_none()
            && told.containers.iter().all(|own| own.process.is_none());
        out.push_str(match (told.interfaces.is_empty(), told.node.is_empty()) {
            (false, _) => "  none of this pod's\n",
            (true, true) => "  none: the pod is on no node\n",
            (true, false) if nothing_runs => "  none: nothing of the pod runs\n",
            (true, false) => "  not known\n",
        });
    }
    for listener in &told.listeners {
        let head = format!("  {:<22} ", socket(listener));
        wrapped(out, &head, &owners(listener));
        for reach in &listener.reachable {
            let head = format!("    from {:<12} {:<5} ", reach.from, reach.answer);
            wrapped(out, &head, &reach.reason);
        }
    }
    if !told.policies.is_empty() {
        wrapped(out, "  policies for what comes in: ", &told.policies.join(" "));
    }
    if !told.other_listeners.is_empty() {
        let ports: Vec<String> = told.other_listeners.iter().map(socket).collect();
        wrapped(out, "  and of others there: ", &ports.join(" "));
    }
    for network in &told.other_networks {
        wrapped(out, "  in another network: ", &elsewhere(network));
    }
    for port in &told.host_ports {
        let listens = told.listeners.iter().any(|own| {
            own.port == port.container_port && own.protocol == port.protocol && !own.reachable.is_empty()
        });
        let note = if listens { "" } else { "; nothing listens there" };
        let from = format!("{}:{}/{}", port.host_ip, port.host_port, port.protocol);
        let text = format!("{from} leads to port {} of the pod{note}", port.container_port);
        wrapped(out, "  host port ", &text);
    }
    for port in &told.services {
        wrapped(out, "  service ", &service(port, &told.node));
    }
}

/// How many processes that hold one socket, or went to one network, are named.
const NAMED_MAX: usize = 4;

fn owners(listener: &Listener) -> String {
    match listener.also_held_by.as_slice() {
        [] => owner(listener.process.as_ref()),
        also => {
            let all: Vec<&Process> = listener.process.iter().chain(also).collect();
            format!("{}, each of which may take what comes", named(&all))
        }
    }
}

/// The first of them by name, the rest by number.
fn named(all: &[&Process]) -> String {
    let mut names: Vec<String> = all.iter().take(NAMED_MAX).map(|own| owner(Some(own))).collect();
    if all.len() > NAMED_MAX {
        names.push(format!("{} more", all.len() - NAMED_MAX));
    }
    names.join("; ")
}

fn elsewhere(network: &OtherNetwork) -> String {
    let who = named(&network.processes.iter().collect::<Vec<_>>());
    let (is, they) = if network.processes.len() == 1 { ("is", "it") } else { ("are", "they") };
    let others: Vec<&Process> = network.others.iter().collect();
    let whose = match (network.word, others.is_empty()) {
        (Word::Own, _) => "one that nobody else is in".to_owned(),
        (Word::Host, _) => "the node's own".to_owned(),
        (Word::Shared, true) => "one that others are in too".to_owned(),
        (Word::Shared, false) => format!("one that others are in too: {}", named(&others)),
    };
    let listens = match network.listeners.as_slice() {
        [] => format!("{they} {} not listen there", if they == "it" { "does" } else { "do" }),
        some => {
            let sockets: Vec<String> = some.iter().map(socket).collect();
            let listen = if they == "it" { "listens" } else { "listen" };
            format!("{they} {listen} there at {}, from where that is reached is not judged", listed(&sockets))
        }
    };
    format!("{who} {is} in number {}, {whose}; {listens}", network.inode)
}

fn service(port: &ServicePort, node: &str) -> String {
    let door = port.node_port.map(|door| format!(", NodePort {door}")).unwrap_or_default();
    let name = match port.cluster_ip.as_str() {
        "" | "None" if port.port != port.target_port => {
            // Its name stands for the pod itself, where nobody translates a port.
            format!("{}, which has no address of its own and translates no port,", port.service)
        }
        "" | "None" => format!("{}, which has no address of its own,", port.service),
        ip => format!("{} at {ip}:{}/{}{door}", port.service, port.port, port.protocol),
    };
    let target = format!("port {} of the pod", port.target_port);
    let leads = match port.endpoint {
        Some(Endpoint::Ready) => format!("{name} leads to {target}"),
        Some(Endpoint::Ending) => {
            format!("{name} leads to {target}, which ends, while no other endpoint is ready")
        }
        Some(Endpoint::NotReady) => {
            format!("{name} would lead to {target}; its endpoint is not ready")
        }
        Some(Endpoint::Absent) => format!("{name} would lead to {target}; the pod is no endpoint of it"),
        None => format!("{name} leads to {target} while the pod is a ready endpoint, which is not known"),
    };
    let mut only = Vec::new();
    if port.internal_traffic_policy == "Local" && !matches!(port.cluster_ip.as_str(), "" | "None") {
        only.push(format!("at its own address for {node} and its pods alone (internalTrafficPolicy Local)"));
    }
    if let Some(door) = port.node_port.filter(|_| port.external_traffic_policy == "Local") {
        only.push(format!("at {door} from outside on {node} alone (externalTrafficPolicy Local)"));
    }
    if only.is_empty() { leads } else { format!("{leads}: {}", only.join(", and ")) }
}

fn socket(listener: &Listener) -> String {
    let address = match listener.address.contains(':') {
        true => format!("[{}]", listener.address),
        false => listener.address.clone(),
    };
    let device = listener.device.as_ref().map(|device| format!("%{device}")).unwrap_or_default();
    format!("{address}{device}:{}/{}", listener.port, listener.protocol)
}

fn owner(process: Option<&Process>) -> String {
    let Some(process) = process else { return "no process could be found".into() };
    let pid = process.pid.map(|pid| format!(" (PID {pid} on the node)")).unwrap_or_default();
    let of = match (&process.pod, &process.container) {
        (_, Some(container)) => format!(", container {container}"),
        (Some(pod), None) => format!(", pod {pod}"),
        (None, None) => String::new(),
    };
    format!("{}{pid}{of}", process.command)
}

fn container(out: &mut String, container: &Container, paint: Paint) {
    let pid = container.process.as_ref().map(|own| format!(", PID {} on the node", own.pid));
    heading(
        out,
        paint,
        &format!("Container {} ({}{})", container.name, container.state, pid.unwrap_or_default()),
    );
    if let Some(security) = &container.security {
        privileges(out, security, paint);
    }
    for path in &container.writable_host_paths {
        let text = format!("{} of the node, at {}", path.path, path.mount);
        warned(out, paint, MAY_WRITE, &text);
    }
    if let Some(devices) = &container.writable_devices {
        warned(out, paint, MAY_WRITE, &self::devices(devices));
    }
    let nothing = container.writable_host_paths.is_empty() && container.writable_devices.is_none();
    if nothing && container.security.is_some() {
        out.push_str("  may write            no path of the node\n");
    }
}

const MAY_WRITE: &str = "  may write          ! ";

fn devices(told: &NodeDevices) -> String {
    let count = counted(told.count, "device of the node", "devices of the node");
    let mut named = Vec::new();
    if !told.disks.is_empty() {
        let disks = if told.disks.len() == 1 { "disk" } else { "disks" };
        named.push(format!("the {disks} {}", told.disks.join(" ")));
    }
    if !told.telling.is_empty() {
        named.push(told.telling.join(" "));
    }
    if named.is_empty() { count } else { format!("{count}, among them {}", listed(&named)) }
}

fn privileges(out: &mut String, security: &Security, paint: Paint) {
    let Security { effective_user, effective_group, .. } = security;
    let further = security.supplementary_groups.iter().filter(|group| **group != *effective_group);
    let further: Vec<String> = further.map(u32::to_string).collect();
    let also = match further.len() {
        0 => String::new(),
        1 => format!(", also group {}", further[0]),
        _ => format!(", also groups {}", further.join(" ")),
    };
    let inside = match (security.inside_user, security.inside_group) {
        (None, None) => String::new(),
        (user, group) => {
            let (user, group) = (user.unwrap_or(*effective_user), group.unwrap_or(*effective_group));
            format!("; inside UID {user}, GID {group}")
        }
    };
    let text = format!("UID {effective_user}, GID {effective_group}{also}{inside}");
    wrapped(out, "  runs as              ", &text);
    let usual: Vec<&str> = security
        .capabilities
        .iter()
        .filter(|name| !security.beyond_default.contains(name))
        .map(String::as_str)
        .collect();
    let usual = if usual.is_empty() { "none".to_owned() } else { usual.join(" ") };
    wrapped(out, "  capabilities         ", &usual);
    if !security.beyond_default.is_empty() {
        warned(out, paint, "    beyond the default ! ", &security.beyond_default.join(" "));
    }
    if !security.gainable.is_empty() {
        let text = format!("{}, by a program with the set-user-ID bit", security.gainable.join(" "));
        warned(out, paint, "    may gain           ! ", &text);
    }
    if security.own_users {
        let text = "in the pod's own user namespace alone, for what belongs to it";
        wrapped(out, "    they hold          ", text);
    }
    let gain = if security.no_new_privileges { "set" } else { "not set" };
    let _ = writeln!(out, "  system call filter   {}; no-new-privileges {gain}", security.seccomp);
}

fn security(out: &mut String, told: &PodExplanation, paint: Paint) {
    heading(out, paint, "Pod Security");
    let level = &told.pod_security;
    match &*level.level {
        "unknown" => out.push_str("  the strictest level that it meets is not known\n"),
        level => {
            let _ = writeln!(out, "  {level} is the strictest level that it meets");
        }
    }
    for why in &level.kept_from_it_by {
        wrapped(out, "  ", &format!("not {}: {why}", level.next));
    }
}

#[cfg(test)]
mod tests;
