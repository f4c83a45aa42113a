//! Scores: each ranks the nodes that can take a pod from 0 to 100, in a file of its own; [`SCORES`] is
//! their table, with upstream's weights.

mod balanced;
mod image_locality;
mod least_allocated;
mod node_affinity;
mod spread;
mod taints;

use crate::snapshot::{NodeInfo, PodInfo};

pub(crate) const MAX: i64 = 100;

/// One row of the table: from the pod and the nodes that can take it to a score for each.
pub(crate) struct Score {
    pub(crate) weight: i64,
    pub(crate) of: fn(&PodInfo, &[&NodeInfo]) -> Option<Vec<i64>>,
}

pub(crate) const SCORES: &[Score] = &[
    Score { weight: 3, of: taints::score },
    Score { weight: 2, of: node_affinity::score },
    Score { weight: 2, of: spread::score },
    Score { weight: 1, of: least_allocated::score },
    Score { weight: 1, of: balanced::score },
    Score { weight: 1, of: image_locality::score },
];

/// The weighted sum for each node. A score that has nothing to say about the pod is left out.
pub(crate) fn totals(pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for score in SCORES {
        if let Some(scores) = (score.of)(pod, nodes) {
            totals.iter_mut().zip(scores).for_each(|(total, own)| *total += own * score.weight);
        }
    }
    totals
}

/// Scales so that the greatest becomes [`MAX`]; with `reverse`, the greatest becomes 0.
fn normalize(mut raw: Vec<i64>, reverse: bool) -> Vec<i64> {
    let greatest = raw.iter().copied().max().unwrap_or(0);
    for value in &mut raw {
        let scaled = if greatest == 0 { 0 } else { *value * MAX / greatest };
        *value = if reverse { MAX - scaled } else { scaled };
    }
    raw
}

#[cfg(test)]
mod tests;
