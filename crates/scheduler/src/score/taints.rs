//! Fewer untolerated `PreferNoSchedule` taints are better.

use crate::filter::taints::{tolerates, tolerations};
use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let tolerations = tolerations(pod);
    let untolerated = |node: &NodeInfo| {
        let taints = node.taints().iter();
        taints.filter(|taint| taint.effect == "PreferNoSchedule" && !tolerates(tolerations, taint)).count()
    };
    let counts: Vec<i64> =
        nodes.iter().map(|node| i64::try_from(untolerated(node)).unwrap_or(i64::MAX)).collect();
    counts.iter().any(|count| *count > 0).then(|| super::normalize(counts, true))
}
