//! From facts to the explanation of a pod: whose each namespace is, and what that exposes.

use crate::devices;
use crate::facts::{self, Holder, Pod, Process, Socket};
use crate::namespaces::{Kind, Word, word};
use crate::pod::{
    self, Container, Listener, Member, Namespace, OtherNetwork, PodExplanation, Reach, Security,
};
use crate::reach::reach;
use crate::{Missing, counted, listed};

/// How many of those that share a namespace a sentence names.
const NAMED_MAX: usize = 3;

/// Judges what was read.
pub fn pod(facts: &Pod) -> PodExplanation {
    let mut told = PodExplanation::empty(facts.metadata.clone());
    told.node.clone_from(&facts.node.name);
    told.node_ip.clone_from(&facts.node_ip);
    told.pod_ip.clone_from(&facts.pod_ip);
    told.namespaces = namespaces(facts);
    told.sandbox = facts.sandbox.as_ref().map(|holder| member(facts, holder));
    told.containers = facts
        .containers
        .iter()
        .map(|container| Container {
            name: container.name.clone(),
            state: container.state.clone(),
            process: container.holder.as_ref().map(|holder| member(facts, holder)),
            security: container
                .security
                .clone()
                .map(|own| Security { own_users: own_users(facts, container), ..own }),
            writable_host_paths: container.writable_paths.clone(),
            writable_devices: devices::summed(&container.devices),
        })
        .collect();
    told.interfaces.clone_from(&facts.interfaces);
    told.routes.clone_from(&facts.routes);
    let own = format!("{}/{}", facts.metadata.namespace, facts.metadata.name);
    for socket in &facts.sockets {
        let mut held = socket.process.iter().chain(&socket.also);
        let of_pod = held.any(|process| process.pod.as_ref() == Some(&own));
        let reachable = if of_pod || !on_node(facts) { reach(facts, socket) } else { Vec::new() };
        let listener = listener(socket, reachable);
        if of_pod || !on_node(facts) {
            told.listeners.push(listener);
        } else {
            told.other_listeners.push(listener);
        }
    }
    told.other_networks = facts.elsewhere.iter().map(elsewhere).collect();
    told.host_ports.clone_from(&facts.host_ports);
    told.services.clone_from(&facts.services);
    told.obstacles.clone_from(&facts.obstacles);
    told.nested = facts.node.nested && facts.sandbox.is_some();
    told.missing.clone_from(&facts.missing);
    let none_runs = facts.containers.iter().all(|own| own.holder.is_none());
    if facts.sandbox.is_some() && none_runs {
        let what = "namespaces pid, mnt and cgroup of the containers";
        told.missing.push(Missing::new(what, "no container of the pod runs now"));
    }
    told.past.clone_from(&facts.past);
    told
}

fn listener(socket: &Socket, reachable: Vec<Reach>) -> Listener {
    Listener {
        protocol: socket.protocol.name().into(),
        address: socket.address.to_string(),
        port: socket.port,
        device: socket.device.clone(),
        six_only: socket.six_only.filter(|_| socket.address.is_ipv6()),
        process: socket.process.as_ref().map(process),
        also_held_by: socket.also.iter().map(process).collect(),
        reachable,
    }
}

fn elsewhere(own: &facts::Elsewhere) -> OtherNetwork {
    OtherNetwork {
        word: own.word,
        inode: own.inode,
        others: own.others.iter().map(process).collect(),
        processes: own.processes.iter().map(process).collect(),
        listeners: own.sockets.iter().map(|socket| listener(socket, Vec::new())).collect(),
    }
}

/// Whether the container's users are not the node's.
fn own_users(facts: &Pod, container: &facts::Container) -> bool {
    let of_node = facts.node.inodes.of(Kind::User);
    let own = container.holder.as_ref().map_or(0, |holder| holder.inodes.of(Kind::User));
    of_node != 0 && own != 0 && own != of_node
}

/// Whether the pod uses its node's network.
fn on_node(facts: &Pod) -> bool {
    let held = facts.sandbox.iter().chain(facts.containers.iter().filter_map(|own| own.holder.as_ref()));
    held.map(|holder| holder.inodes.of(Kind::Net)).any(|net| net == facts.node.inodes.of(Kind::Net))
}

fn member(facts: &Pod, holder: &Holder) -> Member {
    let kinds = Kind::ALL.into_iter().filter(|kind| holder.inodes.of(*kind) != 0);
    let namespaces = kinds.map(|kind| judged(facts, kind, holder.inodes.of(kind))).collect();
    Member { name: holder.name.clone(), pid: holder.pid, namespaces }
}

/// What containers share with `pause` whatever they ask for: of the rest each has one of its own, or the
/// node's, which shows only once it runs.
const WITH_PAUSE: [Kind; 5] = [Kind::Net, Kind::Ipc, Kind::Uts, Kind::User, Kind::Time];

/// Each namespace that a container is in, once. Where none runs, those that the next one will be in.
fn namespaces(facts: &Pod) -> Vec<Namespace> {
    let running: Vec<&Holder> = facts.containers.iter().filter_map(|own| own.holder.as_ref()).collect();
    let (seen, kinds): (Vec<&Holder>, &[Kind]) = match running.is_empty() {
        true => (facts.sandbox.iter().collect(), &WITH_PAUSE),
        false => (running, &Kind::ALL),
    };
    let mut told: Vec<Namespace> = Vec::new();
    for kind in kinds.iter().copied() {
        for holder in &seen {
            let inode = holder.inodes.of(kind);
            if inode != 0 && !told.iter().any(|own| own.namespace == kind && own.inode == inode) {
                told.push(judged(facts, kind, inode));
            }
        }
    }
    told
}

fn judged(facts: &Pod, kind: Kind, inode: u64) -> Namespace {
    let containers: Vec<&facts::Container> = facts
        .containers
        .iter()
        .filter(|own| own.holder.as_ref().is_some_and(|holder| holder.inodes.of(kind) == inode))
        .collect();
    let names: Vec<String> = containers.iter().map(|own| own.name.clone()).collect();
    let pause = facts.sandbox.as_ref().filter(|holder| holder.inodes.of(kind) == inode);
    let none = Vec::new();
    let others = facts.outsiders.get(&(kind, inode)).unwrap_or(&none);
    let word = word(inode, facts.node.inodes.of(kind), others.len());
    let holder = match word {
        Word::Host => String::new(),
        _ => pause.map(|_| "pause".to_owned()).or_else(|| names.first().cloned()).unwrap_or_default(),
    };
    let sentence = match word {
        Word::Host => exposed(facts, kind, &containers),
        Word::Own => held(kind, pause.is_some(), &names),
        Word::Shared => format!("{}; {}", held(kind, pause.is_some(), &names), joined(kind, others)),
    };
    Namespace {
        namespace: kind,
        word,
        inode,
        sentence,
        holder,
        containers: names,
        others: others.iter().map(process).collect(),
    }
}

fn process(of: &Process) -> pod::Process {
    pod::Process {
        pid: Some(of.pid),
        command: of.command.clone(),
        pod: of.pod.clone(),
        container: of.container.clone(),
    }
}

/// Who holds a namespace that is not the node's.
fn held(kind: Kind, by_pause: bool, containers: &[String]) -> String {
    let them = match containers {
        [] => return format!("held by pause{}", if by_pause { "" } else { ", now gone" }),
        [only] => format!("container {only}"),
        several => format!("containers {}", listed(several)),
    };
    let several = containers.len() > 1;
    match (kind, by_pause, several) {
        (Kind::Pid, true, true) => format!("held by pause; {them} see and can signal each other"),
        (Kind::Pid, true, false) => format!("held by pause; {them} sees pause beside itself"),
        (Kind::Pid, false, _) => format!("held by {them}, which sees its own processes alone"),
        (Kind::Mnt, _, false) => format!("held by {them}: its root file system and mounts"),
        (Kind::Cgroup, _, false) => format!("held by {them}, which sees its own group as the root"),
        (_, true, true) => format!("held by pause, shared by {them}"),
        (_, true, false) => format!("held by pause, used by {them}"),
        (_, false, true) => format!("shared by {them}"),
        (_, false, false) => format!("held by {them}"),
    }
}

/// Who else is in it.
fn joined(kind: Kind, others: &[Process]) -> String {
    let mut named: Vec<String> = others.iter().map(outsider).collect();
    named.sort();
    named.dedup();
    let more = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    let what = match kind {
        Kind::Net => "uses its network too",
        Kind::Pid => "sees its processes too",
        Kind::Ipc => "uses its shared memory and queues too",
        Kind::Uts => "has its host name too",
        Kind::Mnt => "sees its files too",
        Kind::User => "has its user IDs too",
        Kind::Cgroup => "sees its control groups too",
        Kind::Time => "has its clocks too",
    };
    format!("{} {what}", listed(&named))
}

fn outsider(process: &Process) -> String {
    match &process.pod {
        Some(pod) => format!("pod {pod}"),
        None => format!("process {} ({})", process.pid, process.command),
    }
}

/// What is exposed by being in the node's own.
fn exposed(facts: &Pod, kind: Kind, containers: &[&facts::Container]) -> String {
    let node = &facts.node.name;
    if containers.is_empty() {
        return match WITH_PAUSE.contains(&kind) {
            true => format!("{node}'s: pause is in it, as containers of the pod are when they run"),
            false => format!("{node}'s: pause is in it, and does nothing there"),
        };
    }
    match kind {
        Kind::Net => {
            let links = counted(facts.node.links, "interface", "interfaces");
            format!("uses {node}'s {links}, its ports and what listens on its 127.0.0.1")
        }
        Kind::Pid => {
            let all = match facts.node.processes {
                1 => "the one process".to_owned(),
                many => format!("all {many} processes"),
            };
            match weakest(containers) {
                None => format!("sees and can signal {all} of {node}, the node agent among them"),
                Some(user) => {
                    format!("sees {all} of {node}, can signal those of UID {user} there")
                }
            }
        }
        Kind::Ipc => {
            let objects = match facts.node.ipc_objects {
                0 => "System V objects (none now)".to_owned(),
                some => counted(some, "System V object", "System V objects"),
            };
            format!("uses {node}'s {objects}, POSIX queues and /dev/shm")
        }
        Kind::Uts => format!("has {node}'s host name"),
        Kind::Mnt => format!("sees {node}'s files and mounts as they are"),
        Kind::User => format!("UID 0 inside is UID 0 of {node}"),
        Kind::Cgroup => format!("sees all control groups of {node}"),
        Kind::Time => format!("its clocks are {node}'s"),
    }
}

/// The user of containers none of which may signal others' processes; nothing where one may.
fn weakest(containers: &[&facts::Container]) -> Option<u32> {
    let mut users = Vec::new();
    for container in containers {
        let security = container.security.as_ref()?;
        if security.capabilities.iter().any(|name| name == "KILL") {
            return None;
        }
        users.push(security.effective_user);
    }
    users.first().copied()
}

#[cfg(test)]
mod tests;
