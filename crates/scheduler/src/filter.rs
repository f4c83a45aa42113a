//! Filters: each says whether a node can take a pod, in a file of its own; [`FILTERS`] is their table.
//!
//! They run in upstream's order and the first refusal counts, since `FailedScheduling` names one reason
//! set a node.

mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
pub(crate) mod taints;

use std::borrow::Cow;

use crate::neighbours::Neighbours;
use crate::snapshot::{NodeInfo, PodInfo};

/// Why a node can't take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The filter's name, as upstream's plugin is called.
    pub plugin: &'static str,
    /// In upstream's words; several where several resources lack.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods from the node could help.
    pub resolvable: bool,
    /// What upstream doesn't say: who holds the port, which taint, how much is lacking.
    pub detail: String,
}

type Filter = fn(&PodInfo, &NodeInfo) -> Option<Refusal>;

/// One row a filter, under the name that its refusals bear.
pub(crate) const FILTERS: &[(&str, Filter)] = &[
    ("NodeUnschedulable", node_unschedulable::refuses),
    ("NodeName", node_name::refuses),
    ("TaintToleration", taints::refuses),
    ("NodeAffinity", node_affinity::refuses),
    ("NodePorts", node_ports::refuses),
    ("NodeResourcesFit", node_resources::refuses),
];

pub(crate) use node_affinity::{matches as matches_node_affinity, pinned_nodes};

/// The first refusal, on the node as [`crowded`] has it.
pub(crate) fn refusal(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> Option<Refusal> {
    first_refusal(pod, &crowded(pod, node), neighbours)
}

/// The node with its nominated pods of the same or higher priority counted as if they were there already.
pub(crate) fn crowded<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Cow<'a, NodeInfo> {
    let mut expected = node
        .nominated
        .values()
        .filter(|other| other.priority >= pod.priority && other.key != pod.key && other.uid() != pod.uid())
        .peekable();
    if expected.peek().is_none() {
        return Cow::Borrowed(node);
    }
    let mut crowded = node.clone();
    for other in expected {
        crowded.add_pod(other.clone());
    }
    Cow::Owned(crowded)
}

fn first_refusal(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> Option<Refusal> {
    FILTERS.iter().find_map(|(_, refuses)| refuses(pod, node)).or_else(|| neighbours.refusal(node))
}

impl Refusal {
    pub(crate) fn of(
        plugin: &'static str,
        reason: &'static str,
        resolvable: bool,
        detail: String,
    ) -> Option<Self> {
        Some(Self { plugin, reasons: vec![Cow::Borrowed(reason)], resolvable, detail })
    }
}

#[cfg(test)]
mod tests;
