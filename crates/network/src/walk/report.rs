//! What a walk starts from, and what it tells: plain values that travel as JSON.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skiff_sys::nft::passage::Packet;

/// Where the packet is first seen on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Start {
    /// A process of the node sends it.
    Node,
    /// A process of the sandbox with this address sends it.
    Sandbox { ip: Ipv4Addr },
    /// It comes in by the link over which this neighbour is reached.
    Link { next_hop: Ipv4Addr },
    /// It comes in by the link of the default route, from the router there or from beyond it.
    Outside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tuple {
    /// `0.0.0.0` lets the route choose.
    pub source: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
}

/// The packet to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packets {
    pub protocol: u8,
    pub tuple: Tuple,
    /// It answers a packet that passed before.
    pub reply: bool,
}

/// What [`Network::walk`](crate::Network::walk) is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What the node is called.
    pub node: String,
    pub start: Start,
    pub packets: Packets,
    /// Translations made by an earlier packet.
    pub conversations: Vec<Conversation>,
    /// Name and network namespace of each sandbox.
    pub sandboxes: BTreeMap<String, (String, PathBuf)>,
}

/// What connection tracking keeps of a connection: its translation and its mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    pub place: String,
    pub protocol: u8,
    pub original: Tuple,
    pub translated: Tuple,
    #[serde(default)]
    pub mark: u32,
}

/// One thing that happens to the packet, with its addresses afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The node, or the sandbox's name.
    pub place: String,
    /// `device`, `veth`, `bridge`, `route`, `neighbour`, `filter`, `conntrack` or `socket`.
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub source: String,
    pub destination: String,
    /// It asks what this program can't know, or is not carried out here.
    #[serde(default)]
    pub doubtful: bool,
}

/// How the packet ends on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum End {
    Delivered {
        place: String,
        process: String,
    },
    /// No socket takes it.
    Refused {
        place: String,
        why: String,
    },
    /// A rule answers it.
    Rejected {
        place: String,
        by: String,
    },
    Dropped {
        place: String,
        by: String,
    },
    Unroutable {
        place: String,
        why: String,
    },
    Down {
        place: String,
        device: String,
        why: String,
    },
    /// For another machine.
    Leaves {
        link: String,
        next_hop: Ipv4Addr,
    },
}

/// One of the ways that the packet may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// From 0 to 1.
    pub chance: f64,
    pub hops: Vec<Hop>,
    pub end: End,
    /// The packet at its end here.
    pub tuple: Tuple,
    pub conversations: Vec<Conversation>,
}

impl Tuple {
    pub(super) fn of(packet: &Packet) -> Tuple {
        Tuple {
            source: packet.source,
            source_port: packet.source_port,
            destination: packet.destination,
            destination_port: packet.destination_port,
        }
    }

    /// As the answer has it.
    #[must_use]
    pub fn turned(self) -> Tuple {
        Tuple {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }
}
