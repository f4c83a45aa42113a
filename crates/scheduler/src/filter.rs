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

/// One row a filter.
pub(crate) const FILTERS: &[Filter] = &[
    node_unschedulable::refuses,
    node_name::refuses,
    taints::refuses,
    node_affinity::refuses,
    node_ports::refuses,
    node_resources::refuses,
];

pub(crate) use node_affinity::{matches as matches_node_affinity, pinned_nodes};

/// The first refusal, with the node's nominated pods of the same or higher priority counted as if
/// they were there already.
pub(crate) fn refusal(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> Option<Refusal> {
    let mut expected = node
        .nominated
        .values()
        .filter(|other| other.priority >= pod.priority && other.key != pod.key && other.uid() != pod.uid())
        .peekable();
    if expected.peek().is_none() {
        return first_refusal(pod, node, neighbours);
    }
    let mut crowded = node.clone();
    for other in expected {
        crowded.add_pod(other.clone());
    }
    first_refusal(pod, &crowded, neighbours)
}

fn first_refusal(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> Option<Refusal> {
    FILTERS.iter().find_map(|refuses| refuses(pod, node)).or_else(|| neighbours.refusal(node))
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
