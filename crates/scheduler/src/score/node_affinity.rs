//! Nodes that match more of the pod's preferred terms are better.

use skiff_api::selector::node_term_matches;

use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_deref()?;
    let weight = |node: &NodeInfo| {
        let matching =
            preferred.iter().filter(|term| node_term_matches(&term.preference, node.labels(), &node.name));
        matching.map(|term| i64::from(term.weight)).sum()
    };
    Some(super::normalize(nodes.iter().map(|node| weight(node)).collect(), false))
}
