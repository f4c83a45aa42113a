//! Nodes with more CPU and memory left are better.

use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let share_left = |all: i64, used: i64| {
        if all <= 0 || used > all { 0 } else { (i128::from(all - used) * 100 / i128::from(all)) as i64 }
    };
    let (cpu, memory) = pod.scoring_request;
    let one = |node: &NodeInfo| {
        let cpu = share_left(node.allocatable.milli_cpu, node.scoring_requested.0 + cpu);
        let memory = share_left(node.allocatable.memory, node.scoring_requested.1 + memory);
        (cpu + memory) / 2
    };
    Some(nodes.iter().map(|node| one(node)).collect())
}
