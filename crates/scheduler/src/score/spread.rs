//! Pods of one controller go to different nodes where they can.

use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let controller = pod.controller.as_deref()?;
    let count = |node: &NodeInfo| i64::from(node.controllers.get(controller).copied().unwrap_or(0));
    let counts: Vec<i64> = nodes.iter().map(|node| count(node)).collect();
    counts.iter().any(|count| *count > 0).then(|| super::normalize(counts, true))
}
