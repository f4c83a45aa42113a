//! The decision about one pod: which node, or why none.

use crate::filter::{self, Refusal};
use crate::fit_error::FitError;
use crate::neighbours::Neighbours;
use crate::score;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// So many feasible nodes are always looked for: clusters up to this size are searched wholly.
const NODES_SEARCHED_MIN: usize = 100;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub node: String,
    /// How many nodes could take the pod, of those looked at.
    pub feasible: usize,
    /// Where the next pod's search starts, so that all nodes of a big cluster get their turn.
    pub next_start: usize,
}

/// What one node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVerdict {
    pub node: String,
    pub refusal: Refusal,
}

/// Chooses a node. `start` turns the order of the search and decides between equal nodes.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo, start: usize) -> Result<Choice, FitError> {
    let nodes = snapshot.nodes();
    let pinned = filter::pinned_nodes(pod);
    let neighbours = Neighbours::of(pod, snapshot, None);
    // Who waits for victims on a node goes there as soon as it fits.
    if let Some(node) = snapshot.nomination(&pod.key).and_then(|name| snapshot.node(name))
        && pinned.as_ref().is_none_or(|pinned| pinned.contains(node.name.as_str()))
        && filter::refusal(pod, node, &neighbours).is_none()
    {
        return Ok(Choice { node: node.name.clone(), feasible: 1, next_start: start });
    }
    let wanted = searched(nodes.len());
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut refused = Vec::new();
    let mut looked_at = 0;
    match &pinned {
        Some(pinned) => {
            for node in pinned.iter().filter_map(|name| snapshot.node(name)) {
                match filter::refusal(pod, node, &neighbours) {
                    None => feasible.push(node),
                    Some(refusal) => refused.push(NodeVerdict { node: node.name.clone(), refusal }),
                }
            }
        }
        None => {
            let (before, after) = nodes.split_at(start % nodes.len().max(1));
            for node in after.iter().chain(before) {
                looked_at += 1;
                match filter::refusal(pod, node, &neighbours) {
                    None => feasible.push(node),
                    Some(refusal) => refused.push(NodeVerdict { node: node.name.clone(), refusal }),
                }
                if feasible.len() >= wanted {
                    break;
                }
            }
        }
    }
    let next_start = (start + looked_at) % nodes.len().max(1);
    let choice = |node: &NodeInfo| Choice { node: node.name.clone(), feasible: feasible.len(), next_start };
    match feasible.as_slice() {
        [] => Err(FitError { nodes: nodes.len(), refused, pinned: pinned.is_some() }),
        [only] => Ok(choice(only)),
        several => {
            let totals = score::totals(pod, several);
            let best = totals.iter().copied().max().unwrap_or(0);
            let mut equal = totals.iter().zip(several).filter(|(total, _)| **total == best);
            let count = equal.clone().count();
            let (_, node) =
                equal.nth(start % count.max(1)).expect("one of several nodes has the greatest total");
            // Where all nodes are searched each time, the turn still has to move on.
            let mut choice = choice(node);
            if looked_at == nodes.len() {
                choice.next_start = (start + 1) % nodes.len();
            }
            Ok(choice)
        }
    }
}

/// How many feasible nodes are enough: a falling share (at least 5 %) of a big cluster.
fn searched(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(NODES_SEARCHED_MIN)
}

#[cfg(test)]
mod tests;
