//! Nodes whose CPU and memory would be requested to like shares are better, so that neither runs out alone.

use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let request = &pod.request;
    // A pod that requests nothing changes no balance: it would draw all its like to the node that has the best.
    if request.milli_cpu == 0 && request.memory == 0 {
        return None;
    }
    // A node that has none of a resource has no balance to lose.
    let share = |used: i64, all: i64| (all > 0).then(|| (used as f64 / all as f64).min(1.0));
    let one = |node: &NodeInfo| {
        let cpu = share(node.requested.milli_cpu + request.milli_cpu, node.allocatable.milli_cpu);
        let memory = share(node.requested.memory + request.memory, node.allocatable.memory);
        // Half the distance is the standard deviation of two values.
        let deviation = cpu.zip(memory).map_or(0.0, |(cpu, memory)| (cpu - memory).abs() / 2.0);
        ((1.0 - deviation) * super::MAX as f64) as i64
    };
    Some(nodes.iter().map(|node| one(node)).collect())
}
