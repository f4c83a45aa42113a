//! What one node says of a packet. The node's agent writes these values as JSON.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Where the packet is first seen on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Start {
    Node,
    Sandbox { ip: Ipv4Addr },
    Link { next_hop: Ipv4Addr },
    Outside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tuple {
    pub source: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
}

impl Tuple {
    #[must_use]
    pub fn turned(self) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packets {
    pub protocol: u8,
    pub tuple: Tuple,
    pub reply: bool,
}

/// What a node keeps of the connection: its translation and its mark.
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

/// The question to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    pub start: Start,
    pub packets: Packets,
    pub conversations: Vec<Conversation>,
}

/// One thing that happens to the packet, with its addresses afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// `node NAME` or `pod NAMESPACE/NAME`.
    pub place: String,
    /// `device`, `veth`, `bridge`, `route`, `neighbour`, `filter`, `conntrack` or `socket`.
    pub kind: String,
    /// The device, where the hop is at one or a route leads over one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What happens here, in a sentence.
    pub text: String,
    /// The table of the packet filter that the rule is in, with its family where that is not IPv4's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The chain that the rule is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The rule's number in its table; zero for the policy of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// Of a policy's rules: the policy, the direction and the rule's index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The rule as `nft` would print it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The packet's source address afterwards.
    pub source: String,
    /// The packet's destination address and port afterwards.
    pub destination: String,
    /// The rule asks for something that is not known here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubtful: bool,
    /// Whether a real connection was seen here; nothing where that can't be observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<bool>,
}

/// How the packet ends on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum End {
    Delivered { place: String, process: String },
    Refused { place: String, why: String },
    Rejected { place: String, by: String },
    Dropped { place: String, by: String },
    Unroutable { place: String, why: String },
    Down { place: String, device: String, why: String },
    Leaves { link: String, next_hop: Ipv4Addr },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeWay {
    pub chance: f64,
    pub hops: Vec<Hop>,
    pub end: End,
    pub tuple: Tuple,
    pub conversations: Vec<Conversation>,
}
