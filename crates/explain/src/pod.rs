//! What `explain pod` answers.

use serde::{Deserialize, Serialize};

use crate::devices::NodeDevices;
use crate::namespaces::{Kind, Word};
use crate::{API_VERSION, Metadata, Missing};

/// The explanation of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodExplanation {
    /// The kind of this answer.
    pub kind: String,
    /// The group and version of this answer.
    pub api_version: String,
    /// Name, namespace and UID of the pod.
    pub metadata: Metadata,
    /// The node that the pod is on; empty where it is on none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The node's address.
    #[serde(rename = "nodeIP", default, skip_serializing_if = "String::is_empty")]
    pub node_ip: String,
    /// The pod's address, once it has one.
    #[serde(rename = "podIP", default, skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// The pod as its containers see it: one entry for each namespace that one of them is in.
    pub namespaces: Vec<Namespace>,
    /// The process that holds the sandbox's namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Member>,
    /// The pod's containers.
    pub containers: Vec<Container>,
    /// The interfaces of the pod's network namespace.
    pub interfaces: Vec<Interface>,
    /// The IPv4 routes of the pod's network namespace.
    pub routes: Vec<Route>,
    /// Sockets of the pod that wait for peers.
    pub listeners: Vec<Listener>,
    /// Listening sockets of others in the same network namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_listeners: Vec<Listener>,
    /// Networks that processes of the pod are in beside the pod's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_networks: Vec<OtherNetwork>,
    /// Ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Ports of Services whose selectors match the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServicePort>,
    /// Network policies that select the pod for what comes in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// What is in the way of connections to the sockets on the pod's node, network policies aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obstacles: Vec<Obstacle>,
    /// The node is a part of a machine whose other processes it does not see: whether one of those is in a
    /// namespace of the pod is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
    /// The strictest Pod Security level that the pod meets.
    pub pod_security: PodSecurity,
    /// What is shown is how it was: the pod ended while it was being looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<String>,
    /// What is left out of the answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl PodExplanation {
    /// One in which nothing is known yet.
    pub fn empty(metadata: Metadata) -> Self {
        Self {
            kind: "PodExplanation".into(),
            api_version: API_VERSION.into(),
            metadata,
            node: String::new(),
            node_ip: String::new(),
            pod_ip: None,
            namespaces: Vec::new(),
            sandbox: None,
            containers: Vec::new(),
            interfaces: Vec::new(),
            routes: Vec::new(),
            listeners: Vec::new(),
            other_listeners: Vec::new(),
            other_networks: Vec::new(),
            host_ports: Vec::new(),
            services: Vec::new(),
            policies: Vec::new(),
            obstacles: Vec::new(),
            nested: false,
            pod_security: PodSecurity::default(),
            past: None,
            missing: Vec::new(),
        }
    }
}

/// Several explanations at once, such as all of a namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodExplanationList {
    /// The kind of this answer.
    pub kind: String,
    /// The group and version of this answer.
    pub api_version: String,
    /// Nothing yet: lists are told whole.
    pub metadata: crate::node::ListMetadata,
    /// One explanation for each pod.
    pub items: Vec<PodExplanation>,
    /// What is left out of the answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// One namespace, and the verdict on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// The kind of namespace, as in /proc/PID/ns.
    pub namespace: Kind,
    /// Whose it is, in one word.
    pub word: Word,
    /// The kernel's number for it.
    pub inode: u64,
    /// Who holds it, who shares it, and what a shared one exposes.
    pub sentence: String,
    /// `pause` or a container; empty where the node does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub holder: String,
    /// The pod's containers that are in it.
    pub containers: Vec<String>,
    /// Who else is in it, where it is shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Process>,
}

/// A process by name. Who may not see the node's processes gets neither PID nor command of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The process, by the node's numbers; absent where it may not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its command line, shortened.
    pub command: String,
    /// `NAMESPACE/NAME`; absent for a process of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// `pause`, or the first process of a container, with all its namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// `pause`, or the container's name.
    pub name: String,
    /// In the node's PID namespace.
    pub pid: u32,
    /// The namespaces that it is in.
    pub namespaces: Vec<Namespace>,
}

/// A container of the pod, and what its first process may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The container's name.
    pub name: String,
    /// `running`, or why it isn't.
    pub state: String,
    /// Absent where it doesn't run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Member>,
    /// What the first process runs as and may do; absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// Paths of the node that the container may write.
    pub writable_host_paths: Vec<WritablePath>,
    /// Absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_devices: Option<NodeDevices>,
}

/// What a process may do, as its `/proc/PID/status` says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// The effective user ID.
    pub effective_user: u32,
    /// The effective group ID.
    pub effective_group: u32,
    /// Its further groups, as the kernel has them; the effective one may be among them.
    #[serde(default)]
    pub supplementary_groups: Vec<u32>,
    /// Effective ones, without `CAP_`.
    pub capabilities: Vec<String>,
    /// Those among them that a container which asks for nothing does not have.
    pub beyond_default: Vec<String>,
    /// `disabled`, `strict` or `filter`.
    pub seccomp: String,
    /// Whether no program that it executes can gain privileges.
    pub no_new_privileges: bool,
    /// Capabilities beyond the default that it has not, and that a program which is another user's by its file
    /// gives it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gainable: Vec<String>,
    /// Users and capabilities are those of a user namespace of the pod's own, and hold there alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_users: bool,
    /// The effective user ID as the container has it, where that is another number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside_user: Option<u32>,
    /// The effective group ID as the container has it, where that is another number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside_group: Option<u32>,
}

/// A path of the node that the container may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WritablePath {
    /// Inside.
    pub mount: String,
    /// On the node.
    pub path: String,
}

/// A network interface of the pod's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// The largest packet that it sends, in bytes.
    pub mtu: u32,
    /// `veth`, `bridge`, `loopback`, …; empty for a device of the machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// With prefix, `10.244.1.2/24`.
    pub addresses: Vec<String>,
}

/// An IPv4 route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// `default` or a range.
    pub destination: String,
    /// The router; absent where the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The interface that it leads over.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
}

/// A port of the node that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The address that it is opened on; 0.0.0.0 is every address.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// The port of the node.
    pub host_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The pod's port that it leads to.
    pub container_port: u16,
}

/// A port of a Service whose selector matches the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// The service's own address; `None` for a headless one.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// The service's port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The pod's port.
    pub target_port: u16,
    /// On every node; where the traffic policy is `Local`, this pod is reached by it on its own node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `Local`, where the service says so; else every node leads to every endpoint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_traffic_policy: String,
    /// `Local`, where what comes to the service's own address from a node, or from pods there, is led to
    /// endpoints of that node alone; else every node leads to every endpoint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub internal_traffic_policy: String,
    /// What the service's endpoint slices say of the pod; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
}

impl ServicePort {
    /// Whether the service leads to the pod now; nothing where that is not known.
    pub fn leads(&self) -> Option<bool> {
        self.endpoint.map(|endpoint| matches!(endpoint, Endpoint::Ready | Endpoint::Ending))
    }
}

/// A pod among the endpoints of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Endpoint {
    Ready,
    NotReady,
    /// The pod ends and still serves: it is led to while no endpoint is ready.
    Ending,
    /// No slice has it.
    Absent,
}

/// A socket that waits for peers, and who can reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The address that it is bound to.
    pub address: String,
    /// The port that it is bound to.
    pub port: u16,
    /// The link that it is bound to; absent where it takes what comes by any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether what is for an IPv4 address never gets to it; absent where that is not known.
    #[serde(rename = "ipv6Only", default, skip_serializing_if = "Option::is_none")]
    pub six_only: Option<bool>,
    /// Who holds the socket; absent where no process could be looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Others that hold the same socket, so that each of them may take what comes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_held_by: Vec<Process>,
    /// From where it can be reached, and why: the pod network, the node, other nodes, outside.
    pub reachable: Vec<Reach>,
}

/// A network that processes of the pod went to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherNetwork {
    /// Whose it is, in one word: `own` where nobody else is in it.
    pub word: Word,
    /// The kernel's number for the network namespace.
    pub inode: u64,
    /// Who else is in it, where it is shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Process>,
    /// The processes of the pod that are in it.
    pub processes: Vec<Process>,
    /// Their sockets that wait for peers there; from where those are reached is not judged.
    pub listeners: Vec<Listener>,
}

/// What the pod's node does to connections that are addressed to somewhere, so that not all get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Obstacle {
    /// `pod network`, `node`, `other nodes` or `outside`.
    pub from: String,
    /// Address, port and protocol that they are addressed to.
    pub at: String,
    /// `no` where none gets there, `some` where some do, or where that is not known.
    pub answer: Answer,
    /// What becomes of them.
    pub why: String,
}

/// Whether something is reachable from somewhere, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// `pod network`, `node`, `other nodes` or `outside`.
    pub from: String,
    /// Whether it is reached from there: all, none, or some of those there.
    pub answer: Answer,
    /// Why, in a sentence.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Yes,
    No,
    /// For some peers: as policies allow, as they have a route, or as rules decide that can't be judged.
    Some,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Some => "some",
        })
    }
}

/// The strictest Pod Security level that the pod meets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSecurity {
    /// `restricted`, `baseline`, `privileged`, or `unknown`.
    pub level: String,
    /// The next stricter level, and the fields that keep the pod from it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// The fields that keep the pod from the next level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_from_it_by: Vec<String>,
}

impl Default for PodSecurity {
    fn default() -> Self {
        Self { level: "unknown".into(), next: String::new(), kept_from_it_by: Vec::new() }
    }
}
