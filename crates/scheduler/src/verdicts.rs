//! The last verdict on each pod, kept for whoever asks why a pod is where it is, or nowhere.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use skiff_client::ObjectKey;

use crate::decide::NodeVerdict;

/// Pods whose verdict is kept; the oldest goes first.
const PODS_MAX: usize = 1024;
/// Nodes kept of each verdict.
const NODES_MAX: usize = 256;

/// How a pod's last attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub pod_uid: String,
    /// The node it was assigned to, if any.
    pub node: Option<String>,
    /// The message of its `FailedScheduling` event.
    pub message: Option<String>,
    /// What each node that refused said, up to 256 nodes.
    pub refused: Vec<NodeVerdict>,
}

/// The verdicts, shared between the scheduler and who explains them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    verdicts: HashMap<ObjectKey, Verdict>,
    order: VecDeque<ObjectKey>,
}

impl Verdicts {
    /// The last verdict on a pod.
    pub fn get(&self, pod: &ObjectKey) -> Option<Verdict> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).verdicts.get(pod).cloned()
    }

    pub(crate) fn put(&self, pod: &ObjectKey, mut verdict: Verdict) {
        verdict.refused.truncate(NODES_MAX);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.verdicts.insert(pod.clone(), verdict).is_none() {
            kept.order.push_back(pod.clone());
        }
        while kept.order.len() > PODS_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.verdicts.remove(&oldest);
            }
        }
    }

    pub(crate) fn forget(&self, pod: &ObjectKey) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.verdicts.remove(pod).is_some() {
            kept.order.retain(|other| other != pod);
        }
    }
}
