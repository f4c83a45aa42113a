//! Probing one container for as long as it runs.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use skiff_runtime::{ContainerId, Runtime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, Recorder};
use crate::explain::Memory;
use crate::observed::Probed;
use crate::probes::{Failure, Success, probe, seconds};

/// What a container's probes found, for its pod's worker.
pub(crate) type Verdict = (ContainerId, Probed);

/// One container and its probes.
pub(crate) struct Prober {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) events: Recorder,
    pub(crate) memory: Arc<Memory>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: Container,
    pub(crate) id: ContainerId,
    pub(crate) ip: IpAddr,
    pub(crate) started_at: SystemTime,
    pub(crate) initial: Probed,
    pub(crate) tell: mpsc::Sender<Verdict>,
    /// Cancelled when the container is being ended for good.
    pub(crate) ends: CancellationToken,
}

/// A prober at work.
pub(crate) struct Probing {
    task: AbortHandle,
    ends: CancellationToken,
}

impl Probing {
    pub(crate) fn begin(prober: Prober) -> Self {
        let ends = prober.ends.clone();
        Self { task: tokio::spawn(prober.run()).abort_handle(), ends }
    }

    pub(crate) fn end_pod(&self) {
        self.ends.cancel();
    }

    pub(crate) fn abort(&self) {
        self.task.abort();
    }
}

/// Whether a container has anything to ask.
pub(crate) fn is_probed(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.liveness_probe.is_some()
        || container.readiness_probe.is_some()
}

/// Upstream's number: what could not be asked is asked again at once, so often in all.
const TRIES_MAX: usize = 3;

/// A probe's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// `None`: nobody knows, and nothing counts.
    ok: Option<bool>,
    /// Why it is not well, in words.
    why: Option<String>,
}

/// A result that changed, after as many equal answers as its threshold asks for.
struct Threshold {
    last: Option<bool>,
    run: i32,
    success: i32,
    failure: i32,
}

impl Threshold {
    fn of(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default| value.unwrap_or(default).max(1);
        let success = at_least_one(probe.success_threshold, 1);
        Self { last: None, run: 0, success, failure: at_least_one(probe.failure_threshold, 3) }
    }

    fn add(&mut self, ok: Option<bool>) -> Option<bool> {
        let ok = ok?;
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        (self.run >= if ok { self.success } else { self.failure }).then_some(ok)
    }
}

impl Prober {
    /// Probes until it is aborted or the container has failed. Readiness and liveness are asked for side by
    /// side, so that an answer that takes long holds up no other.
    pub(crate) async fn run(self) {
        let mut state = self.initial.clone();
        if let Some(startup) = &self.container.startup_probe
            && !state.started
        {
            // All futures of this file may be dropped at any time: a probe then goes unanswered.
            let started = tokio::select! {
                started = self.starts(startup) => started,
                () = self.pod_ends() => return,
            };
            if !started {
                return self.fail(state, "startup", startup).await;
            }
        }
        state.started = true;
        self.waits_no_more();
        self.report(&state).await;
        let failed = tokio::select! {
            failed = self.dies() => failed,
            never = self.follow_readiness(state.clone()) => match never {},
        };
        self.fail(state, "liveness", failed).await;
    }

    /// Resolves when its container is not to be restarted any more: how ready it is matters to its end, since
    /// that is what a service goes by that has nobody else.
    async fn pod_ends(&self) {
        self.ends.cancelled().await;
    }

    async fn starts(&self, probe: &Probe) -> bool {
        let mut threshold = Threshold::of(probe);
        let mut at = self.first(probe);
        self.waits_until(at, None);
        loop {
            sleep_until(at).await;
            at = Instant::now() + seconds(probe.period_seconds, 10);
            let found = self.ask(probe, "Startup").await;
            self.waits_until(at, found.why.as_ref());
            if let Some(started) = threshold.add(found.ok) {
                return started;
            }
        }
    }

    /// Resolves with the liveness probe once that has failed. While the pod ends nothing is asked.
    async fn dies(&self) -> &Probe {
        let Some(probe) = &self.container.liveness_probe else { return std::future::pending().await };
        let mut threshold = Threshold::of(probe);
        let mut at = self.first(probe);
        let failed = async {
            loop {
                sleep_until(at).await;
                at = Instant::now() + seconds(probe.period_seconds, 10);
                if threshold.add(self.ask(probe, "Liveness").await.ok) == Some(false) {
                    return probe;
                }
            }
        };
        tokio::select! {
            probe = failed => probe,
            () = self.pod_ends() => std::future::pending().await,
        }
    }

    /// Reports each change of readiness, for ever.
    async fn follow_readiness(&self, mut state: Probed) -> Infallible {
        let Some(probe) = &self.container.readiness_probe else { return std::future::pending().await };
        let mut threshold = Threshold::of(probe);
        let mut at = self.first(probe);
        if !state.ready {
            self.waits_until(at, None);
        }
        loop {
            sleep_until(at).await;
            at = Instant::now() + seconds(probe.period_seconds, 10);
            let found = self.ask(probe, "Readiness").await;
            if found.ok == Some(false) || !state.ready {
                self.waits_until(at, found.why.as_ref());
            }
            let verdict = threshold.add(found.ok);
            if verdict.is_some_and(|verdict| verdict != state.ready) {
                state.ready = !state.ready;
                if state.ready {
                    self.waits_no_more();
                }
                self.report(&state).await;
            }
        }
    }

    fn first(&self, probe: &Probe) -> Instant {
        let delay = Duration::from_secs(
            probe.initial_delay_seconds.and_then(|delay| u64::try_from(delay).ok()).unwrap_or(0),
        );
        let age = crate::time::now().duration_since(self.started_at).unwrap_or_default();
        Instant::now() + delay.saturating_sub(age)
    }

    /// Asks, and tells people of what is not well.
    async fn ask(&self, of: &Probe, kind: &str) -> Found {
        let tell = |reason, message| {
            self.events.pod(&self.pod, Some(&self.container.name), Kind::Warning, reason, message);
        };
        let once = || probe(&self.runtime, &self.id, &self.container, of, self.ip);
        let mut answer = once().await;
        for _ in 1..TRIES_MAX {
            if !matches!(answer, Err(Failure::Unknown(_))) {
                break;
            }
            answer = once().await;
        }
        let (ok, message) = match answer {
            Ok(Success::Plain) => return Found { ok: Some(true), why: None },
            Ok(Success::Warned(what)) => {
                tell("ProbeWarning", format!("{kind} probe warning: {what}"));
                return Found { ok: Some(true), why: None };
            }
            Err(Failure::Failed(why)) => {
                (Some(false), format!("{kind} probe failed: {}", why.trim_end_matches('\0')))
            }
            Err(Failure::Unknown(why)) => {
                (None, format!("{kind} probe errored and resulted in unknown state: {why}"))
            }
        };
        tell("Unhealthy", message.clone());
        Found { ok, why: Some(message) }
    }

    /// Takes note of when the probe that the container waits for is tried again, and why.
    fn waits_until(&self, at: Instant, error: Option<&String>) {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let at = crate::time::now() + at.saturating_duration_since(Instant::now());
        self.memory.probes_again(uid, &self.container.name, error.map(String::as_str), at);
    }

    fn waits_no_more(&self) {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        self.memory.waits.probe_succeeded(uid, &self.container.name);
    }

    async fn fail(&self, mut state: Probed, which: &str, probe: &Probe) {
        state.failed = Some(which.into());
        state.ready = false;
        state.grace_seconds =
            probe.termination_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok());
        self.report(&state).await;
    }

    async fn report(&self, state: &Probed) {
        // The worker is gone: so is the interest in this.
        let _ = self.tell.send((self.id.clone(), state.clone())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_take_as_many_answers_as_asked() {
        let probe = Probe { failure_threshold: Some(3), success_threshold: Some(2), ..Probe::default() };
        let mut threshold = Threshold::of(&probe);
        let answers = [false, false, true, false, false, false, true, true];
        let verdicts: Vec<_> = answers.into_iter().map(|answer| threshold.add(Some(answer))).collect();
        assert_eq!(verdicts, [None, None, None, None, None, Some(false), None, Some(true)]);
        let of = |success, failure| {
            let probe = Probe { failure_threshold: failure, success_threshold: success, ..Probe::default() };
            let threshold = Threshold::of(&probe);
            (threshold.success, threshold.failure)
        };
        assert_eq!((of(None, None), of(Some(0), Some(-1)), of(Some(2), Some(5))), ((1, 3), (1, 1), (2, 5)));
        // What is not known is no verdict, and breaks no run of equal answers.
        let answers = [Some(false), Some(false), None, None, Some(false)];
        let verdicts: Vec<_> = answers.into_iter().map(|answer| threshold.add(answer)).collect();
        assert_eq!(verdicts, [None, None, None, None, Some(false)]);
    }
}
