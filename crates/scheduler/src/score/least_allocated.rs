//! Nodes with more CPU and memory left are better.

use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let (cpu, memory) = pod.scoring_request;
    let one = |node: &NodeInfo| {
        let (used_cpu, used_memory) = node.scoring_requested;
        let shares = [
            share_left(node.allocatable.milli_cpu, used_cpu + cpu),
            share_left(node.allocatable.memory, used_memory + memory),
        ];
        let counting = shares.iter().flatten().count().max(1);
        shares.iter().flatten().sum::<i64>() / counting as i64
    };
    Some(nodes.iter().map(|node| one(node)).collect())
}

/// What is left, of [`super::MAX`]; `None` on a node that has none of the resource.
fn share_left(all: i64, used: i64) -> Option<i64> {
    (all > 0).then(|| (i128::from((all - used).max(0)) * i128::from(super::MAX) / i128::from(all)) as i64)
}
