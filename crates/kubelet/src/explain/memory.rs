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
    /// Probes that containers wait for, by the pod's UID and the container's name.
    probes: Mutex<HashMap<(String, String), Probing>>,
    /// Who listens for a probe, by its token, and how to stop it.
    pub(super) listening: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    last_scan: tokio::sync::Mutex<Option<(Instant, Arc<Scan>)>>,
}

/// What is known of a probe that has not succeeded.
#[derive(Debug, Clone, Default)]
struct Probing {
    last_error: Option<String>,
    next_try: Option<String>,
}

impl Memory {
    /// Marks a phase of a pod's start that ends now. Pods that were adopted are not starting.
    pub(crate) fn mark(&self, uid: &str, phase: Phase, began: SystemTime) {
        if self.starts.has(uid, Phase::Seen) {
            self.starts.mark(uid, phase, began, SystemTime::now());
        }
    }

    /// Marks a pull that ends now, and the unpacking that was its last part. Of another pod's pull that this one
    /// waited for, only what was waited for counts.
    pub(crate) fn mark_pull(
        &self,
        uid: &str,
        began: SystemTime,
        unpacking: Option<(SystemTime, SystemTime)>,
    ) {
        if !self.starts.has(uid, Phase::Seen) {
            return;
        }
        let fetched = unpacking.map_or_else(SystemTime::now, |(unpack_began, _)| unpack_began.max(began));
        self.starts.mark(uid, Phase::Pull, began, fetched);
        if let Some((_, ended)) = unpacking {
            self.starts.mark(uid, Phase::Unpack, fetched, ended.max(fetched));
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
        }
        waits.insert(uid.to_owned(), now);
    }

    pub(crate) fn waits(&self, uid: &str) -> Vec<Wait> {
        let mut waits = self.waits.lock().get(uid).cloned().unwrap_or_default();
        // Probes go on while the pod's worker has nothing to look at.
        for wait in waits.iter_mut().filter(|wait| wait.what == "probe") {
            let key = (uid.to_owned(), wait.container.clone().unwrap_or_default());
            let probing = self.probes.lock().get(&key).cloned().unwrap_or_default();
            (wait.last_error, wait.next_try) = (probing.last_error, probing.next_try);
        }
        waits
    }

    /// A startup or readiness probe that a container waits for is tried then; before that it failed, if
    /// there is an error.
    pub(crate) fn probes_again(&self, uid: &str, container: &str, error: Option<&str>, at: SystemTime) {
        let mut probes = self.probes.lock();
        let key = (uid.to_owned(), container.to_owned());
        if probes.len() < ERRORS_MAX || probes.contains_key(&key) {
            let probing = probes.entry(key).or_default();
            probing.next_try = Some(timestamp(at).to_string());
            if let Some(error) = error {
                probing.last_error = Some(error.to_owned());
            }
        }
    }

    /// The container waits for no probe.
    pub(crate) fn probe_succeeded(&self, uid: &str, container: &str) {
        self.probes.lock().remove(&(uid.to_owned(), container.to_owned()));
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
    fn a_pull_is_told_apart_from_its_unpacking() {
        let memory = Memory::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let marks = |uid: &str| {
            let marks = memory.starts.get(uid).unwrap();
            [Phase::Pull, Phase::Unpack].map(|phase| marks[phase as usize])
        };
        memory.mark_pull("adopted", at(2), Some((at(5), at(6))));
        assert_eq!(memory.starts.get("adopted"), None);
        for uid in ["own", "joined", "late", "loaded"] {
            memory.starts.mark(uid, Phase::Seen, at(1), at(1));
        }
        memory.mark_pull("own", at(2), Some((at(5), at(6))));
        assert_eq!(marks("own"), [(2_000_000, 5_000_000), (5_000_000, 6_000_000)]);
        // Another pod's pull that was unpacking already, and one that had just ended.
        memory.mark_pull("joined", at(2), Some((at(1), at(6))));
        assert_eq!(marks("joined"), [(2_000_000, 2_000_000), (2_000_000, 6_000_000)]);
        memory.mark_pull("late", at(7), Some((at(5), at(6))));
        assert_eq!(marks("late"), [(7_000_000, 7_000_000), (7_000_000, 7_000_000)]);
        memory.mark_pull("loaded", at(2), None);
        assert_eq!((marks("loaded")[0].0, marks("loaded")[1]), (2_000_000, (0, 0)));
    }

    #[test]
    fn a_wait_keeps_its_beginning() {
        let memory = Memory::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        memory.publish("u", vec![wait("image", "ErrImagePull")], at(10));
        memory.publish("u", vec![wait("image", "ImagePullBackOff")], at(20));
        assert_eq!(memory.waits("u")[0].since.as_deref(), Some("1970-01-01T00:00:10Z"));
        memory.publish("u", vec![wait("probe", "readiness")], at(30));
        memory.probes_again("u", "c", None, at(31));
        let told = memory.waits("u").remove(0);
        assert_eq!((told.last_error, told.next_try.as_deref()), (None, Some("1970-01-01T00:00:31Z")));
        memory.probes_again("u", "c", Some("refused"), at(33));
        memory.probes_again("u", "c", None, at(35));
        let told = memory.waits("u").remove(0);
        assert_eq!(told.since.as_deref(), Some("1970-01-01T00:00:30Z"));
        assert_eq!(told.last_error.as_deref(), Some("refused"), "the last failure, until it succeeds");
        assert_eq!(told.next_try.as_deref(), Some("1970-01-01T00:00:35Z"));
        memory.probe_succeeded("u", "c");
        assert_eq!(memory.waits("u").remove(0).last_error, None);
        memory.publish("u", Vec::new(), at(40));
        assert!(memory.waits("u").is_empty());
    }
}
