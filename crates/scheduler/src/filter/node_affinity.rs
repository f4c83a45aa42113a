//! A node must match the pod's `nodeSelector` and the terms it requires.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::NodeSelector;
use skiff_api::selector::node_selector_matches;

use super::Refusal;
use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn refuses(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    let spec = pod.pod.spec.as_ref()?;
    for (key, value) in spec.node_selector.iter().flatten() {
        let own = node.labels().and_then(|labels| labels.get(key));
        if own != Some(value) {
            let has = own.map_or("it has none".to_owned(), |own| format!("it has {own:?}"));
            return unmatched(format!("label {key} must be {value:?}, {has}"));
        }
    }
    let selector = required(pod)?;
    if node_selector_matches(selector, node.labels(), &node.name) {
        return None;
    }
    unmatched("no term of the required node affinity matches".to_owned())
}

/// Whether the node is one that the pod's selector and required terms mean.
pub(crate) fn matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    refuses(pod, node).is_none()
}

fn unmatched(detail: String) -> Option<Refusal> {
    Refusal::of("NodeAffinity", "node(s) didn't match Pod's node affinity/selector", false, detail)
}

fn required(pod: &PodInfo) -> Option<&NodeSelector> {
    let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// The node names that the pod's terms pin it to, as a DaemonSet's pods are; `None` where any term leaves
/// the name open.
pub(crate) fn pinned_nodes(pod: &PodInfo) -> Option<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    for term in &required(pod)?.node_selector_terms {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let mut pinned = fields
            .iter()
            .filter(|field| field.key == "metadata.name" && field.operator == "In")
            .map(|field| field.values.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>());
        let first = pinned.next()?;
        names.extend(pinned.fold(first, |common, other| common.intersection(&other).copied().collect()));
    }
    Some(names)
}
