//! Whom news of a node concerns, of the pods that no node could take: those that it may let in now, be it only
//! after pods of lower priority have ended there.

use crate::filter::{self, Refusal};
use crate::neighbours::Neighbours;
use crate::preempt;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// What happened to a node.
pub(crate) enum News<'a> {
    /// A pod is gone from it, or will not come.
    Room,
    /// It is itself another than before.
    Node { before: &'a NodeInfo },
}

/// Whether the pod is to be tried again. What depends on other pods is tried at all nodes: a change on one can
/// open another of its topology.
pub(crate) fn concerns(snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo, news: &News<'_>) -> bool {
    if filter::pinned_nodes(pod).is_some_and(|names| !names.contains(node.name.as_str())) {
        return false;
    }
    if !pod.requires.is_nothing() {
        return true;
    }
    let neighbours = Neighbours::of(pod, snapshot, None);
    let refusal = filter::refusal(pod, node, &neighbours);
    let Some(refusal) = refusal else { return true };
    if let News::Node { before } = news
        && opened(filter::refusal(pod, before, &neighbours).as_ref(), &refusal)
    {
        return true;
    }
    // Who waits for pods to end goes where they do; until then, only to where it fits at once.
    if preempt::waits_at(snapshot, pod).is_some() {
        return false;
    }
    // Those for whom it waited are gone, and it doesn't fit all the same: it has to look elsewhere.
    snapshot.nomination(&pod.key) == Some(&node.name) || preempt::could_enter(pod, node, snapshot)
}

/// Whether a node that could not take the pod whatever happened on it only lacks room now: its message is out of
/// date.
fn opened(before: Option<&Refusal>, now: &Refusal) -> bool {
    now.resolvable && before.is_some_and(|before| !before.resolvable)
}
