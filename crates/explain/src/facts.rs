//! What is read off a node about one pod, before it is judged.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::Metadata;
use crate::devices::Device;
use crate::namespaces::{Inodes, Kind, Word};
use crate::pod::{HostPort, Interface, Obstacle, Route, Security, ServicePort, WritablePath};

/// The node that the pod is on.
#[derive(Debug, Clone, Default)]
pub struct Node {
    pub name: String,
    /// The namespaces that the node's agent is in: those are the node's own.
    pub inodes: Inodes,
    /// All processes that the node's PID namespace shows.
    pub processes: usize,
    /// Links of the node's network namespace.
    pub links: usize,
    /// System V objects in the node's IPC namespace.
    pub ipc_objects: usize,
    /// The other nodes that its routes know.
    pub others: Vec<OtherNode>,
    /// Addresses of sandboxes on its bridge.
    pub sandboxes: Vec<Ipv4Addr>,
    /// It is in a PID namespace of its own, so that processes around it are not seen.
    pub nested: bool,
}

/// Another node, as the routes here have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherNode {
    pub ip: Ipv4Addr,
    /// The range of its pods.
    pub pods: (Ipv4Addr, u8),
}

/// A process, as others may know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    /// Its command line, shortened.
    pub command: String,
    /// The pod that it belongs to, `NAMESPACE/NAME`; nothing for a process of the node.
    pub pod: Option<String>,
    /// The container of that pod.
    pub container: Option<String>,
}

/// `pause` or the first process of a container.
#[derive(Debug, Clone)]
pub struct Holder {
    /// `pause`, or the container's name.
    pub name: String,
    /// In the node's PID namespace.
    pub pid: u32,
    pub inodes: Inodes,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub name: String,
    /// `running`, or why it isn't.
    pub state: String,
    /// `None` where it doesn't run, or has ended while one looked.
    pub holder: Option<Holder>,
    pub security: Option<Security>,
    pub writable_paths: Vec<WritablePath>,
    /// Devices of the machine that it may write.
    pub devices: Vec<Device>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

/// A socket that waits for peers.
#[derive(Debug, Clone)]
pub struct Socket {
    pub protocol: Protocol,
    /// As the kernel has it: `0.0.0.0`, `::`, `127.0.0.1`, …
    pub address: std::net::IpAddr,
    pub port: u16,
    /// The link that it is bound to, by name; nothing where it takes what comes by any.
    pub device: Option<String>,
    /// What is for an IPv4 address never gets to it; nothing where that is not known.
    pub six_only: Option<bool>,
    /// Nobody where no process holds it open that could be looked into.
    pub process: Option<Process>,
    /// Others that hold the same socket.
    pub also: Vec<Process>,
}

/// A network that processes of the pod are in beside the pod's own.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    pub inode: u64,
    pub word: Word,
    /// Pods and processes that are in it too, where it is neither theirs alone nor the node's.
    pub others: Vec<Process>,
    /// Those of the pod.
    pub processes: Vec<Process>,
    /// Those that they hold.
    pub sockets: Vec<Socket>,
}

/// Everything about one pod.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    pub metadata: Metadata,
    pub node: Node,
    pub node_ip: String,
    pub pod_ip: Option<String>,
    pub sandbox: Option<Holder>,
    pub containers: Vec<Container>,
    /// By kind and inode: who is in it and not of the pod. The node's own namespaces are left out.
    pub outsiders: BTreeMap<(Kind, u64), Vec<Process>>,
    pub interfaces: Vec<Interface>,
    pub routes: Vec<Route>,
    /// All of the pod's network namespace.
    pub sockets: Vec<Socket>,
    /// Networks that processes of it went to.
    pub elsewhere: Vec<Elsewhere>,
    pub host_ports: Vec<HostPort>,
    pub services: Vec<ServicePort>,
    /// What the node's rules, routes and links do to what comes to those sockets.
    pub obstacles: Vec<Obstacle>,
    /// What could not be read, and why.
    pub missing: Vec<crate::Missing>,
    /// It ended while it was being looked at.
    pub past: Option<String>,
}
