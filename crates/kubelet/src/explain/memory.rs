//! What the agent keeps for explanations: pods' starts, and what each pod waits for since when.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use parking_lot::Mutex;
use skiff_explain::start::{Phase, Starts};
use skiff_explain::waits::{Wait, Waits};
use tokio::time::Instant;

use super::scan::Scan;
use crate::agent::Refusal;
use crate::node_context::Context;
use crate::time::timestamp;

const BACK_OFF: &str = "CrashLoopBackOff";

/// Shared by workers, who write, and the agent's server, which reads.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) starts: Starts,
    pub(crate) waits: Waits,
    /// Who listens for a probe, by its token, and how to stop it.
    pub(super) listening: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    /// Held by each probe that is made.
    pub(super) probing: Arc<()>,
    /// Since when pods that are not ready yet wait until a container that failed is started again.
    backing_off: Mutex<HashMap<String, SystemTime>>,
    last_scan: tokio::sync::Mutex<Option<(Instant, Arc<Scan>)>>,
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
    pub(crate) fn publish(&self, uid: &str, now: Vec<Wait>, at: SystemTime) {
        self.mark_back_off(uid, now.iter().any(|wait| wait.reason == BACK_OFF), at);
        self.waits.publish(uid, now, &timestamp(at).to_string());
    }

    /// Nothing is kept of what the pod waits for.
    pub(crate) fn forget(&self, uid: &str) {
        self.waits.forget(uid);
        self.backing_off.lock().remove(uid);
    }

    /// A container that failed is not started again at once, which is no work of anybody.
    fn mark_back_off(&self, uid: &str, waits: bool, at: SystemTime) {
        if self.starts.has(uid, Phase::Ready) {
            self.backing_off.lock().remove(uid);
            return;
        }
        if waits {
            self.begin(uid, Phase::BackOff, at);
            self.backing_off.lock().entry(uid.to_owned()).or_insert(at);
            return;
        }
        let since = self.backing_off.lock().remove(uid);
        if let Some(since) = since.filter(|_| self.starts.has(uid, Phase::Seen)) {
            self.starts.mark(uid, Phase::BackOff, since, at);
        }
    }

    /// A startup or readiness probe that a container waits for is tried then; before that it failed, if
    /// there is an error.
    pub(crate) fn probes_again(&self, uid: &str, container: &str, error: Option<&str>, at: SystemTime) {
        self.waits.probes_again(uid, container, error, timestamp(at).to_string());
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
    fn what_passes_until_the_next_try_is_a_phase_of_its_own() {
        let memory = Memory::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let wait = |reason: &str| Wait {
            what: "container".into(),
            container: Some("c".into()),
            reason: reason.into(),
            since: None,
            last_error: None,
            next_try: None,
        };
        let told = || memory.starts.get("u").map(|marks| marks[Phase::BackOff as usize]);
        memory.starts.mark("u", Phase::Seen, at(1), at(1));
        memory.publish("u", vec![wait("ContainerCreating")], at(2));
        assert_eq!(told(), Some((0, 0)));
        memory.publish("u", vec![wait("CrashLoopBackOff")], at(10));
        memory.publish("u", vec![wait("CrashLoopBackOff")], at(15));
        assert_eq!(told(), Some((10_000_000, 0)), "it is not over");
        memory.publish("u", vec![wait("ContainerCreating")], at(20));
        assert_eq!(told(), Some((10_000_000, 20_000_000)));
        // The next one is longer; what ran between is no part of it.
        memory.publish("u", vec![wait("CrashLoopBackOff")], at(30));
        memory.publish("u", Vec::new(), at(50));
        assert_eq!(told(), Some((10_000_000, 40_000_000)));
        // Once the pod was ready its start is over.
        memory.starts.mark("u", Phase::Ready, at(50), at(51));
        memory.publish("u", vec![wait("CrashLoopBackOff")], at(60));
        memory.publish("u", Vec::new(), at(90));
        assert_eq!(told(), Some((10_000_000, 40_000_000)));
        assert!(memory.backing_off.lock().is_empty());
    }

    #[test]
    fn times_are_told_as_the_api_tells_them() {
        let memory = Memory::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let probe = Wait {
            what: "probe".into(),
            container: Some("c".into()),
            reason: "readiness".into(),
            since: None,
            last_error: None,
            next_try: None,
        };
        memory.publish("u", vec![probe], at(10));
        memory.probes_again("u", "c", Some("refused"), at(31));
        let told = memory.waits.of("u").remove(0);
        assert_eq!(told.since.as_deref(), Some("1970-01-01T00:00:10Z"));
        assert_eq!(told.next_try.as_deref(), Some("1970-01-01T00:00:31Z"));
    }
}
