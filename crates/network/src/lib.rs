//! Links, addresses, routes and host ports of a sandbox. Knows no Kubernetes.
//!
//! One bridge a node owns the node's sandbox range and is the default gateway of its sandboxes; each
//! hangs on it by a veth pair. [`Network`] is the interface.

mod cidr;
pub mod facts;
mod listeners;
mod local;
pub mod probe;
mod schema;
mod state;
pub mod walk;

use std::net::Ipv4Addr;
use std::path::Path;

use async_trait::async_trait;

pub use cidr::ParseCidrError;
pub use local::{Config, LocalNetwork, SETTINGS, host_links, remove};
pub use schema::PART;

/// An IPv4 range, in canonical form: host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// How a sandbox hangs on the network.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    pub sandbox: String,
    pub ip: Ipv4Addr,
    /// The node's end of the veth pair.
    pub host_link: String,
}

/// A port of the node that leads to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// `0.0.0.0` is every address of the node.
    pub host_ip: Ipv4Addr,
    pub host_port: u16,
    pub protocol: Protocol,
    pub container_port: u16,
}

/// A process of the node listens on a host port already: its own connections win or lose by the kernel's
/// rules, so somebody has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPortConflict {
    pub port: HostPort,
    pub pid: u32,
    pub command: String,
}

/// Traffic for `destination` goes to the node `via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub destination: Cidr,
    pub via: Ipv4Addr,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no address is free in {0}")]
    Exhausted(Cidr),
    #[error("sandbox {0} is not attached")]
    NotAttached(String),
    #[error("{0}")]
    Invalid(String),
    #[error("cannot {action}")]
    Kernel {
        action: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The network of one node. Idempotent: repeating a call with the same arguments changes nothing.
/// Addresses are kept across restarts of the calling process.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Brings the loopback up and gives the sandbox its `eth0`, address and default route.
    async fn attach(&self, sandbox: &str, netns: &Path) -> Result<Attachment, Error>;
    /// Removes link, host ports and address. Succeeds where nothing is left.
    async fn detach(&self, sandbox: &str) -> Result<(), Error>;
    /// Replaces the sandbox's host ports as a whole. The ports are set up also where a process of the
    /// node holds one; the answer names those.
    async fn set_host_ports(&self, sandbox: &str, ports: &[HostPort])
    -> Result<Vec<HostPortConflict>, Error>;
    async fn attachments(&self) -> Result<Vec<Attachment>, Error>;
    /// Replaces the routes to the other nodes' ranges as a whole.
    async fn set_routes(&self, routes: &[Route]) -> Result<(), Error>;
    /// Which process listens on a port of the node, if any: for pods that use the node's network.
    async fn listener(&self, port: &HostPort) -> Result<Option<HostPortConflict>, Error>;
    /// Follows a packet through this node without sending one.
    async fn walk(&self, asked: walk::Asked) -> Result<Vec<walk::Way>, Error>;
    /// Follows many packets to the door, whatever our own rules let pass: what becomes of each.
    async fn approaches(&self, asked: walk::Approaches) -> Result<Vec<Result<Vec<walk::Way>, Error>>, Error>;
}
