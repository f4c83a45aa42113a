//! Which way a connection goes: every hop, rule, translation and verdict on it, and the answer's way back.
//!
//! Each node's agent tells what its kernel would do with a packet ([`walk`]); [`Follow`] asks one node
//! after the other and joins what they say. It decides whom to ask next and does no asking itself.

mod advice;
mod compare;
mod follow;
pub mod hide;
pub mod live;
mod target;
pub mod walk;
mod world;

use serde::{Deserialize, Serialize};

use crate::{API_VERSION, Missing};

pub use compare::{Compared, compared, listening};
pub use follow::{Ask, Follow, Origin};
pub use target::{Protocol, Request, Target, TraceError, address};
pub use walk::Hop;
pub use world::{
    Ended, Endpoint, Node, Outside, Pod, PodPort, Range, Service, ServicePort, Surroundings, World,
};

/// What a receiver sees as the sender when somebody outside arrives untranslated.
pub const OWN_ADDRESS: &str = "the sender's own address";

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceExplanation {
    /// The group and version of this answer.
    pub api_version: String,
    /// The kind of this answer.
    pub kind: String,
    /// Who begins the connection, in words.
    pub from: String,
    /// Where it is meant to go, in words.
    pub to: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The ways that the connection may go, the likeliest first.
    pub ways: Vec<Way>,
    /// What is left out of the answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// What became of a real connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

/// What decides a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// A process takes it.
    Delivered,
    /// It is answered that nobody is there.
    Refused,
    /// It vanishes: the sender waits in vain.
    Dropped,
    /// No route, or a link that is down.
    Unreachable,
    /// It leaves the cluster, where nothing is known.
    Left,
    /// A node could not be asked.
    Unknown,
}

/// One way that a connection may go, to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// From 0 to 1.
    pub chance: f64,
    /// What becomes of it.
    pub verdict: Verdict,
    /// One sentence.
    pub summary: String,
    /// What would let it pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Who takes it: `pod NAMESPACE/NAME` or `node NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<String>,
    /// The address and port that it was led to in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The address that the receiver sees as the sender's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_seen: Option<String>,
    /// What happens on it, in order.
    pub hops: Vec<Hop>,
    /// The way of the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer: Vec<Hop>,
    /// How the answer ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_verdict: Option<String>,
    /// What becomes of the answer: `Delivered`, `Left`, `Dropped` wherever it is lost, or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ends: Option<Verdict>,
}

/// One real connection, beside what was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// `answered`, `refused`, `silent` or an error's text.
    pub outcome: String,
    /// The way that it went, by its place in the list from 0 on.
    pub way: usize,
    /// Each device, rule and translation of that way and of the answer's, and whether it was seen there.
    pub seen: Vec<Sighting>,
    /// Where what was said and what was seen are not the same: a fault of this program.
    pub differences: Vec<String>,
    /// What the connection does not show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
}

/// Something that a real connection passed, or should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// `node NAME` or `pod NAMESPACE/NAME`.
    pub place: String,
    /// `device`, `rule` or `translation`.
    pub kind: String,
    /// Of a device: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Of a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// On the answer's way.
    pub answer: bool,
    /// Whether it was seen there.
    pub seen: bool,
    /// Source and destination, as seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
    /// What a rule said, or who answers a connection that is translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

/// The ways to one pod side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceComparison {
    /// The group and version of this answer.
    pub api_version: String,
    /// The kind of this answer.
    pub kind: String,
    /// The pod, in words.
    pub pod: String,
    /// Who begins the connections, in words.
    pub from: String,
    /// The ways to the pod.
    pub rows: Vec<ComparedWay>,
}

/// One way to the pod, traced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparedWay {
    /// `pod`, `hostPort`, `ClusterIP` or `NodePort`.
    pub by: String,
    /// Address and port that the client uses.
    pub address: String,
    /// On which nodes that address leads to the pod.
    pub opens_on: String,
    /// What becomes of a connection that goes this way.
    pub trace: TraceExplanation,
}

impl Way {
    /// Nothing was followed: there is no way at all.
    pub fn unreachable(summary: String) -> Self {
        Self {
            chance: 1.0,
            verdict: Verdict::Unreachable,
            summary,
            advice: None,
            receiver: None,
            destination: None,
            source_seen: None,
            hops: Vec::new(),
            answer: Vec::new(),
            answer_verdict: None,
            answer_ends: None,
        }
    }
}

impl TraceExplanation {
    pub fn new(from: String, to: String, protocol: Protocol, ways: Vec<Way>, missing: Vec<Missing>) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "TraceExplanation".into(),
            from,
            to,
            protocol: protocol.name().into(),
            ways,
            missing,
            live: None,
        }
    }
}

#[cfg(test)]
mod testing;
