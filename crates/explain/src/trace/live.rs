//! What was told beside what was seen: one real connection against the ways of the model.
//!
//! Agents listen on devices, in packet filters and in connection tracking while one of them makes the
//! connection. Here each hop that can be observed is marked as seen or not, and where the kernel did something
//! else than was told, that is a difference.

mod judge;

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::Protocol;
use super::walk::Start;

pub use judge::judge;

/// What agents listen for. They write and read these values as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    pub protocol: WireProtocol,
    /// What a datagram carries. The lower half is a TCP connection's first sequence number, and not zero.
    pub token: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireProtocol {
    Tcp,
    Udp,
}

impl From<Protocol> for WireProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

/// Asks a node to listen, in itself and in these of its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    pub sandboxes: Vec<Ipv4Addr>,
    pub heard: Heard,
    pub millis: u64,
}

/// Asks a node to make the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub sandbox: Option<Ipv4Addr>,
    pub to: SocketAddrV4,
    pub heard: Heard,
    pub millis: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub outcome: String,
    pub source: Option<SocketAddrV4>,
}

/// What a node heard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    pub sights: Vec<Sight>,
    pub rules: Vec<MetRule>,
    pub tracked: Vec<Tracked>,
    /// Where rules could not be observed, and why.
    pub blind: Vec<Blind>,
    /// Where rules were observed too that packets meet before they are routed.
    #[serde(default)]
    pub frames: Vec<Frames>,
}

impl Observed {
    pub fn extend(&mut self, other: Self) {
        self.sights.extend(other.sights);
        self.rules.extend(other.rules);
        self.tracked.extend(other.tracked);
        self.blind.extend(other.blind);
        self.frames.extend(other.frames);
    }
}

/// A packet of the connection on a device: the first one, or what answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    pub place: String,
    pub device: String,
    pub answer: bool,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// A rule that a packet of the connection met, or a chain's policy, whose handle is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetRule {
    pub place: String,
    pub table: String,
    pub chain: String,
    pub handle: u64,
    /// As `nft` says it.
    pub verdict: String,
    pub answer: bool,
    /// It was sent again, or follows.
    pub again: bool,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// The entry of connection tracking: what began the connection and what answers it, as each comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracked {
    pub place: String,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub answer_source: SocketAddrV4,
    pub answer_destination: SocketAddrV4,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blind {
    pub place: String,
    pub why: String,
}

/// One family of rules, `bridge` or `netdev`, of one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    pub place: String,
    pub family: String,
    /// Also what answers the first packet was observed there.
    pub answers: bool,
}

/// The pod that a start is in; `None` for a node. Nobody sends from outside.
pub fn sender(start: &Start) -> Option<Option<Ipv4Addr>> {
    match start {
        Start::Node => Some(None),
        Start::Sandbox { ip } => Some(Some(*ip)),
        Start::Link { .. } | Start::Outside => None,
    }
}
