//! What the agent keeps for explanations: pods' starts, and what each pod waits for since when.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use parking_lot::Mutex;
use skiff_explain::start::{Phase, Starts};
use skiff_explain::waits::Wait;
use tokio::time::Instant;

use super::scan::Scan;
use crate::agent::Refusal;
use crate::node_context::Context;
use crate::time::timestamp;

/// Errors that are remembered until their wait is told; the rest is dropped.
const ERRORS_MAX: usize = 512;

/// Shared by workers, who write, and the agent's server, which reads.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) starts: Starts,
    waits: Mutex<HashMap<String, Vec<Wait>>>,
    /// The last failed probe of a container, by the pod's UID and the container's name.
    probes: Mutex<HashMap<(String, String), String>>,
    /// Who listens for a probe, by its token, and how to stop it.
    pub(super) listening: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    last_scan: tokio::sync::Mutex<Option<(Instant, Arc<Scan>)>>,
}

impl Memory {
    /// Marks a phase of a pod's start that ends now. Pods that were adopted are not starting.
    pub(crate) fn mark(&self, uid: &str, phase: Phase, began: SystemTime) {
        if self.starts.has(uid, Phase::Seen) {
            self.starts.mark(uid, phase, began, SystemTime::now());
        }
    }

    /// A phase of a pod's start begins that may take several tries.
    pub(crate) fn begin(&self, uid: &str, phase: Phase, at: SystemTime) {
        if self.starts.has(uid, Phase::Seen) {
            self.starts.begin(uid, phase, at);
        }
    }

    /// The pod's containers have started and it is ready.
    pub(crate) fn mark_ready(&self, uid: &str) {
        if self.starts.has(uid, Phase::Seen) && !self.starts.has(uid, Phase::Ready) {
            self.starts.mark_since(uid, Phase::Ready, Phase::Start, SystemTime::now());
        }
    }

    /// What a pod waits for now. What it waited for before keeps its beginning.
    pub(crate) fn publish(&self, uid: &str, mut now: Vec<Wait>, at: SystemTime) {
        let mut waits = self.waits.lock();
        if now.is_empty() {
            waits.remove(uid);
            return;
        }
        let before = waits.get(uid);
        for wait in &mut now {
            let same = before.into_iter().flatten().find(|old| {
                // A back-off is the same wait as the failure that it follows.
                old.what == wait.what && old.container == wait.container
            });
            wait.since = match same {
                Some(old) => old.since.clone(),
                None => Some(timestamp(at).to_string()),
            };
            if wait.what == "probe" && wait.last_error.is_none() {
                let key = (uid.to_owned(), wait.container.clone().unwrap_or_default());
                wait.last_error = self.probes.lock().get(&key).cloned();
            }
        }
        waits.insert(uid.to_owned(), now);
    }

    pub(crate) fn waits(&self, uid: &str) -> Vec<Wait> {
        let mut waits = self.waits.lock().get(uid).cloned().unwrap_or_default();
        // A probe may have failed again since the pod's worker looked.
        for wait in waits.iter_mut().filter(|wait| wait.what == "probe") {
            let key = (uid.to_owned(), wait.container.clone().unwrap_or_default());
            if let Some(error) = self.probes.lock().get(&key) {
                wait.last_error = Some(error.clone());
            }
        }
        waits
    }

    pub(crate) fn probe_failed(&self, uid: &str, container: &str, message: &str) {
        let mut probes = self.probes.lock();
        let key = (uid.to_owned(), container.to_owned());
        if probes.len() < ERRORS_MAX || probes.contains_key(&key) {
            probes.insert(key, message.to_owned());
        }
    }

    /// The pod is gone from the node.
    pub(crate) fn forget(&self, uid: &str) {
        self.waits.lock().remove(uid);
        self.probes.lock().retain(|(own, _), _| own != uid);
    }

    /// All processes and who they belong to, read after this was called. Of many who ask at once, most
    /// share one look.
    pub(super) async fn scan(&self, context: &Context) -> Result<Arc<Scan>, Refusal> {
        let asked = Instant::now();
        let mut last = self.last_scan.lock().await;
        if let Some((began, scan)) = &*last
            && *began >= asked
        {
            return Ok(scan.clone());
        }
        let began = Instant::now();
        let scan = Arc::new(Scan::take(context).await?);
        *last = Some((began, scan.clone()));
        drop(last);
        Ok(scan)
    }

    /// Lets go of the last look once nobody waits for it.
    pub(super) fn forget_scan(&self) {
        if let Ok(mut last) = self.last_scan.try_lock() {
            *last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn wait(what: &str, reason: &str) -> Wait {
        Wait {
            what: what.into(),
            container: Some("c".into()),
            reason: reason.into(),
            since: None,
            last_error: None,
            next_try: None,
        }
    }

    #[test]
    fn only_of_starting_pods_a_phase_begins() {
        let memory = Memory::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        memory.begin("adopted", Phase::Image, at(1));
        assert_eq!(memory.starts.get("adopted"), None);
        memory.starts.mark("new", Phase::Seen, at(1), at(1));
        memory.begin("new", Phase::Image, at(2));
        assert_eq!(memory.starts.get("new").unwrap()[Phase::Image as usize], (2_000_000, 0));
    }

    #[test]
    fn a_wait_keeps_its_beginning() {
        let memory = Memory::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        memory.publish("u", vec![wait("image", "ErrImagePull")], at(10));
        memory.publish("u", vec![wait("image", "ImagePullBackOff")], at(20));
        assert_eq!(memory.waits("u")[0].since.as_deref(), Some("1970-01-01T00:00:10Z"));
        memory.publish("u", vec![wait("probe", "readiness")], at(30));
        memory.probe_failed("u", "c", "refused");
        let told = memory.waits("u").remove(0);
        assert_eq!(told.since.as_deref(), Some("1970-01-01T00:00:30Z"));
        assert_eq!(told.last_error.as_deref(), Some("refused"));
        memory.publish("u", Vec::new(), at(40));
        assert!(memory.waits("u").is_empty());
    }
}
