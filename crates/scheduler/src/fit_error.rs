//! Why no node can take a pod, in upstream's words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::decide::NodeVerdict;

/// No node fits. [`FitError::message`] is what events and conditions say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// The nodes that were asked, each with its refusal.
    pub refused: Vec<NodeVerdict>,
    /// The pod's affinity names its nodes, so that the others were not asked.
    pub pinned: bool,
}

impl FitError {
    /// The whole line, with what preemption found.
    pub fn message(&self, preemption: Option<&str>) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for verdict in &self.refused {
            for reason in &verdict.refusal.reasons {
                *counts.entry(reason).or_default() += 1;
            }
        }
        let unasked = self.nodes - self.refused.len();
        if self.pinned && self.refused.is_empty() {
            // The nodes it names don't exist.
            counts.insert("node(s) didn't match Pod's node affinity/selector", self.nodes);
        } else if self.pinned && unasked > 0 {
            counts.insert("node(s) didn't satisfy plugin(s) [NodeAffinity]", unasked);
        }
        let mut message = histogram(self.nodes, &counts);
        if let Some(preemption) = preemption {
            // The first part is what upstream's dynamic resources plugin says of every such pod.
            let _ = write!(message, " no new claims to deallocate, preemption: {preemption}");
        }
        message
    }

    /// The filters that refused, each once, for the queue.
    pub fn plugins(&self) -> Vec<&'static str> {
        let mut plugins: Vec<_> = self.refused.iter().map(|verdict| verdict.refusal.plugin).collect();
        plugins.sort_unstable();
        plugins.dedup();
        plugins
    }
}

/// `0/3 nodes are available: 1 this, 2 that.`, sorted as text, counts included.
pub(crate) fn histogram(nodes: usize, counts: &BTreeMap<&str, usize>) -> String {
    let mut reasons: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let mut message = format!("0/{nodes} nodes are available:");
    if !reasons.is_empty() {
        let _ = write!(message, " {}.", reasons.join(", "));
    }
    message
}
