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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> ObjectKey {
        ObjectKey::new("default", &format!("p{number}"))
    }

    fn verdict(uid: &str) -> Verdict {
        Verdict { pod_uid: uid.into(), node: None, message: None, refused: Vec::new() }
    }

    #[test]
    fn the_last_verdicts_are_kept_until_there_are_too_many_or_the_pod_goes() {
        let verdicts = Verdicts::default();
        assert_eq!(verdicts.get(&key(0)), None);
        for number in 0..PODS_MAX {
            verdicts.put(&key(number), verdict("first"));
        }
        verdicts.put(&key(0), verdict("again"));
        assert_eq!(verdicts.get(&key(0)), Some(verdict("again")));
        assert_eq!(verdicts.get(&key(PODS_MAX - 1)), Some(verdict("first")));
        verdicts.put(&key(PODS_MAX), verdict("first"));
        assert_eq!((verdicts.get(&key(0)), verdicts.get(&key(1))), (None, Some(verdict("first"))));
        // Who is forgotten makes room.
        verdicts.forget(&key(2));
        assert_eq!(verdicts.get(&key(2)), None);
        verdicts.put(&key(PODS_MAX + 1), verdict("first"));
        assert_eq!(verdicts.get(&key(1)), Some(verdict("first")));
        verdicts.put(&key(PODS_MAX + 2), verdict("first"));
        assert_eq!(verdicts.get(&key(1)), None);
        assert_eq!(verdicts.get(&key(3)), Some(verdict("first")));
    }
}
