//! Nodes whose CPU and memory would be used to like shares are better, so that neither runs out alone.

use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let share = |used: i64, all: i64| if all <= 0 { 1.0 } else { (used as f64 / all as f64).min(1.0) };
    let (cpu, memory) = pod.scoring_request;
    let one = |node: &NodeInfo| {
        let cpu = share(node.scoring_requested.0 + cpu, node.allocatable.milli_cpu);
        let memory = share(node.scoring_requested.1 + memory, node.allocatable.memory);
        // Half the distance is the standard deviation of two values.
        ((1.0 - (cpu - memory).abs() / 2.0) * super::MAX as f64) as i64
    };
    Some(nodes.iter().map(|node| one(node)).collect())
}
