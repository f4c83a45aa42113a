//! What `explain pending` answers: node by node, what keeps a pod out and what would let it in.

use serde::{Deserialize, Serialize};

use crate::waits::Wait;
use crate::{API_VERSION, Metadata, Missing};

/// Why a pod does not run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingExplanation {
    /// The kind of this answer.
    pub kind: String,
    /// The group and version of this answer.
    pub api_version: String,
    /// Name, namespace and UID of the pod.
    pub metadata: Metadata,
    /// `scheduled`, `waiting for a node`, `waiting on its node`, `running`, …
    pub state: String,
    /// In one sentence.
    pub summary: String,
    /// Where it is, if it is anywhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The scheduler's message, as the pod's events have it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What each filter says of each node, for a pod that is on none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeVerdict>,
    /// The smallest single change that would let the pod onto a node, checked with the scheduler's filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_change: Option<Change>,
    /// Whether other pods would be removed for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemption: Option<Preemption>,
    /// Of a pod that has a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
    /// When the node was last heard of, RFC 3339, where it is silent: what it waits for is what the pod's status
    /// says since, and may be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_told: Option<String>,
    /// What is left out of the answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl PendingExplanation {
    pub fn new(metadata: Metadata, state: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            kind: "PendingExplanation".into(),
            api_version: API_VERSION.into(),
            metadata,
            state: state.into(),
            summary: summary.into(),
            node: String::new(),
            message: String::new(),
            nodes: Vec::new(),
            smallest_change: None,
            preemption: None,
            waits: Vec::new(),
            last_told: None,
            missing: Vec::new(),
        }
    }
}

/// What every filter says of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeVerdict {
    /// The node's name.
    pub node: String,
    /// Whether every filter lets the pod onto the node.
    pub fits: bool,
    /// What each filter says.
    pub filters: Vec<FilterVerdict>,
    /// What would let the pod in here; checked by the filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Processes of the node, not of pods, that listen on a port that the pod asks for. They keep no pod
    /// from the node, but its own server may find the port taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_holders: Vec<PortHolder>,
}

/// One filter's verdict, with what it compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterVerdict {
    /// The filter's name.
    pub filter: String,
    /// Whether the filter lets the pod onto the node.
    pub passes: bool,
    /// In upstream's words; empty where it passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// The values compared.
    pub compared: String,
    /// Who takes what the pod lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<Use>,
}

/// What one pod takes of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// How much it takes.
    pub amount: String,
}

/// A single change that would let the pod in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `pod` (its manifest), `node` or `cluster` (other pods).
    pub of: String,
    /// The node that takes it then.
    pub node: String,
    /// In words.
    pub text: String,
    /// The command or the fragment of the manifest that makes the change.
    pub how: String,
    /// The real filters were run on the changed values, and let the pod in.
    pub checked: bool,
}

/// A process that listens on a port of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortHolder {
    /// The address that the port is bound to.
    pub address: String,
    /// The port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The process, by the node's numbers.
    pub pid: u32,
    /// The process's command line, shortened.
    pub command: String,
    /// The pod whose process it is, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// Whether other pods would go for this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preemption {
    /// Whether it was looked into.
    pub considered: bool,
    /// Why, or why not.
    pub why: String,
    /// The pods that would make room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<String>,
}
