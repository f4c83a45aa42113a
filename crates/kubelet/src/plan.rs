//! What to do next for a pod: a plain function from what is wanted and what is to a plan.
//!
//! The function is asked again after every change, so a plan holds only steps that can be taken now, in
//! order, and says when to look again if nothing happens before. It does nothing itself;
//! [`crate::worker`] takes the steps.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodSpec};
use skiff_runtime::{Container, ContainerId, ContainerState, SandboxId};

use crate::observed::{ImageState, Observed, TokenState, exit_code, is_over};
use crate::restarts::restarts;
use crate::time::{go_duration, system_time};
use crate::unsupported::unsupported;
use crate::{labels, local_storage};

/// How long `ErrImagePull` is shown before `ImagePullBackOff` replaces it.
const IMAGE_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// A pod whose object was removed by force gets at least this.
const GRACE_MIN_SECONDS: u64 = 2;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Asks for the tokens of the pod's volumes, in the background.
    FetchTokens,
    MountVolumes,
    /// Puts the tokens, which are there, into their volumes.
    MountTokens,
    RunSandbox {
        attempt: u32,
    },
    /// Network and host ports of the current sandbox.
    Attach {
        sandbox: SandboxId,
    },
    /// Makes the container's image available as its policy says.
    EnsureImage {
        container: String,
    },
    /// Creates and starts a container in the current sandbox.
    Start {
        container: String,
        attempt: u32,
        crash: Option<SystemTime>,
    },
    Stop {
        id: ContainerId,
        container: String,
        grace: Duration,
        why: Why,
    },
    Remove {
        id: ContainerId,
    },
    /// The pod's sandbox died under it.
    SandboxChanged,
    StopSandboxes,
    RemoveSandbox {
        id: SandboxId,
    },
    /// Everything has ended: release what the pod held, and let its object go if that is being deleted.
    Finish,
}

impl Step {
    /// For logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::FetchTokens => "fetch tokens",
            Self::MountVolumes => "mount volumes",
            Self::MountTokens => "mount tokens",
            Self::RunSandbox { .. } => "run sandbox",
            Self::Attach { .. } => "attach",
            Self::EnsureImage { .. } => "ensure image",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove container",
            Self::SandboxChanged => "sandbox changed",
            Self::StopSandboxes => "stop sandboxes",
            Self::RemoveSandbox { .. } => "remove sandbox",
            Self::Finish => "finish",
        }
    }
}

/// Why a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    PodEnds,
    DefinitionChanged,
    /// A probe's verdict: `liveness` or `startup`.
    Unhealthy(String),
    SandboxGone,
}

/// What a container that doesn't run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
}

/// The steps, what waits meanwhile, and when to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// By container name.
    pub(crate) waiting: BTreeMap<String, Waiting>,
    pub(crate) wake_at: Option<SystemTime>,
    /// Whether the pod has come to its end and no container will start again.
    pub(crate) terminal: bool,
    /// Why the pod as a whole has failed, as its status says.
    pub(crate) verdict: Option<Waiting>,
}

impl Plan {
    fn wake(&mut self, at: SystemTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn wait(&mut self, container: &str, reason: &str, message: Option<String>) {
        self.waiting.insert(container.into(), Waiting { reason: reason.into(), message });
    }
}

/// What to do for `pod`, given what is `seen` of it.
pub(crate) fn actions(pod: &Pod, seen: &Observed, now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = pod.spec.as_ref() else { return plan };
    let api_terminal = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| phase == "Failed" || phase == "Succeeded");
    // A pod that has ended is not judged again.
    let deadline = deadline(pod).filter(|_| !api_terminal);
    if seen.rejected.is_some() {
        plan.verdict = seen.rejected.clone();
    } else if seen.evicted.is_some() && !api_terminal {
        plan.verdict = seen.evicted.clone();
    } else if deadline.is_some_and(|deadline| deadline <= now) {
        plan.verdict = Some(Waiting {
            reason: "DeadlineExceeded".into(),
            message: Some("Pod was active on the node longer than the specified deadline".into()),
        });
    } else if let Some(deadline) = deadline {
        plan.wake(deadline);
    }
    let deleted = seen.removed || pod.metadata.deletion_timestamp.is_some();
    if deleted || api_terminal || plan.verdict.is_some() {
        end(pod, seen, deleted, &mut plan);
        return plan;
    }
    run(pod, spec, seen, now, &mut plan);
    plan
}

fn deadline(pod: &Pod) -> Option<SystemTime> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Some(crate::time::later(system_time(start), Duration::from_secs(seconds)))
}

/// Stops what runs, then the sandbox, then lets go.
fn end(pod: &Pod, seen: &Observed, deleted: bool, plan: &mut Plan) {
    plan.terminal = true;
    let mut grace = Duration::from_secs(grace_seconds(pod, seen));
    if seen.evicted.is_some() {
        grace = grace.min(local_storage::GRACE);
    }
    let mut runs = false;
    for container in &seen.containers {
        if is_over(container) {
            continue;
        }
        runs = true;
        // Who gave it longer is outvoted.
        if seen.stopping.get(&container.id).is_some_and(|given| *given <= grace) {
            continue;
        }
        plan.steps.push(match container.state {
            ContainerState::Created => Step::Remove { id: container.id.clone() },
            _ => Step::Stop {
                id: container.id.clone(),
                container: labels::container_name(container).into(),
                grace,
                why: Why::PodEnds,
            },
        });
    }
    if runs {
        return;
    }
    if seen.sandboxes.iter().any(|sandbox| sandbox.ready) {
        plan.steps.push(Step::StopSandboxes);
    } else if deleted {
        plan.steps.push(Step::Finish);
    }
}

fn grace_seconds(pod: &Pod, seen: &Observed) -> u64 {
    let asked = pod.metadata.deletion_grace_period_seconds.map(|seconds| u64::try_from(seconds).unwrap_or(0));
    let grace = asked.unwrap_or_else(|| labels::grace_seconds(pod));
    if seen.removed { grace.max(GRACE_MIN_SECONDS) } else { grace }
}

/// Brings the pod up, or keeps it so.
fn run(pod: &Pod, spec: &PodSpec, seen: &Observed, now: SystemTime, plan: &mut Plan) {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let idle = if inits.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    for container in inits.iter().chain(&spec.containers) {
        if seen.latest(&container.name).is_none_or(|latest| latest.state == ContainerState::Created) {
            plan.wait(&container.name, idle, None);
        }
        if let Some(missing) = unsupported(spec, container) {
            plan.wait(&container.name, "CreateContainerConfigError", Some(missing));
        }
    }
    if finished(spec, seen) || has_failed_init(spec, seen) {
        plan.waiting.clear();
        plan.terminal = true;
        if seen.sandboxes.iter().any(|sandbox| sandbox.ready) {
            end(pod, seen, false, plan);
        }
        return;
    }
    if !sandbox(spec, seen, now, plan) {
        return;
    }
    remove_superseded(seen, plan);
    // Once an application container has run in this sandbox, initialization is behind it.
    let initialized = spec.containers.iter().any(|container| {
        seen.latest(&container.name)
            .is_some_and(|latest| seen.is_current(&latest.sandbox) && latest.state != ContainerState::Created)
    });
    if initialized {
        inits.iter().for_each(|container| drop(plan.waiting.remove(&container.name)));
    } else {
        for container in inits {
            let latest = seen.latest(&container.name).filter(|latest| seen.is_current(&latest.sandbox));
            match latest {
                Some(latest) if is_over(latest) && exit_code(latest) == 0 => continue,
                _ => return step_container(pod, spec, container, seen, now, plan),
            }
        }
    }
    for container in &spec.containers {
        step_container(pod, spec, container, seen, now, plan);
    }
}

/// Whether a container that has ended starts again: by the restart policy, or because it was stopped for the
/// sake of another definition, whatever the policy.
fn starts_again(spec: &PodSpec, container: &Spec, latest: &Container, seen: &Observed) -> bool {
    seen.redefined.contains(&latest.id) || restarts(spec, container, exit_code(latest))
}

/// Whether every container has ended for good.
fn finished(spec: &PodSpec, seen: &Observed) -> bool {
    let ended = |container: &Spec| {
        seen.latest(&container.name)
            .is_some_and(|latest| is_over(latest) && !starts_again(spec, container, latest, seen))
    };
    spec.containers.iter().all(ended)
}

/// Whether an init container has failed for good.
fn has_failed_init(spec: &PodSpec, seen: &Observed) -> bool {
    let failed = |container: &Spec| {
        seen.latest(&container.name)
            .filter(|latest| is_over(latest) && exit_code(latest) != 0)
            .is_some_and(|latest| !starts_again(spec, container, latest, seen))
    };
    spec.init_containers.iter().flatten().any(failed)
}

/// Volumes, sandbox and network; true once containers can start.
fn sandbox(spec: &PodSpec, seen: &Observed, now: SystemTime, plan: &mut Plan) -> bool {
    if let Some(failure) = &seen.pod_failure
        && failure.retry_at > now
    {
        plan.wake(failure.retry_at);
        return false;
    }
    let stale: Vec<&Container> = seen
        .containers
        .iter()
        .filter(|container| {
            container.state == ContainerState::Running
                && !seen.stopping.contains_key(&container.id)
                && !(seen.is_current(&container.sandbox) && seen.sandbox().is_some_and(|now| now.ready))
        })
        .collect();
    if !stale.is_empty() {
        plan.steps.extend(stale.into_iter().map(|container| Step::Stop {
            id: container.id.clone(),
            container: labels::container_name(container).into(),
            grace: Duration::from_secs(GRACE_MIN_SECONDS),
            why: Why::SandboxGone,
        }));
        return false;
    }
    if seen.tokens == TokenState::Wanted {
        plan.steps.push(Step::FetchTokens);
    }
    if !seen.volumes_ready {
        plan.steps.push(Step::MountVolumes);
        return false;
    }
    match seen.sandbox() {
        Some(sandbox) if sandbox.ready => {
            if seen.ip.is_none() && !spec.host_network.unwrap_or(false) {
                plan.steps.push(Step::Attach { sandbox: sandbox.id.clone() });
                return false;
            }
            if seen.tokens == TokenState::Fetched {
                plan.steps.push(Step::MountTokens);
            }
            seen.tokens == TokenState::Settled
        }
        before => {
            if before.is_some() {
                plan.steps.push(Step::SandboxChanged);
            }
            let attempt = before.map_or(0, |before| labels::attempt(&before.config.labels) + 1);
            plan.steps.push(Step::RunSandbox { attempt });
            false
        }
    }
}

/// Of each container the newest and the one before it stay; a former sandbox stays while it holds one.
fn remove_superseded(seen: &Observed, plan: &mut Plan) {
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    let mut removed = Vec::new();
    for container in &seen.containers {
        let kept = kept.entry(labels::container_name(container)).or_default();
        *kept += 1;
        if *kept > 2 && is_over(container) {
            removed.push(&container.id);
            plan.steps.push(Step::Remove { id: container.id.clone() });
        }
    }
    for sandbox in seen.sandboxes.iter().skip(1) {
        let holds = seen
            .containers
            .iter()
            .any(|container| container.sandbox == sandbox.id && !removed.contains(&&container.id));
        if !holds {
            plan.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

/// One container's next step, if it needs one.
fn step_container(
    pod: &Pod,
    spec: &PodSpec,
    container: &Spec,
    seen: &Observed,
    now: SystemTime,
    plan: &mut Plan,
) {
    let name = container.name.as_str();
    let latest = seen.latest(name);
    let is_init = spec.init_containers.iter().flatten().any(|init| init.name == name);
    let mut attempt = 0;
    let mut crash = None;
    match latest {
        Some(latest) if seen.stopping.contains_key(&latest.id) => return,
        Some(latest) if latest.state == ContainerState::Running => {
            let why = match seen.probes.get(&latest.id).and_then(|probed| probed.failed.clone()) {
                Some(which) => Some(Why::Unhealthy(which)),
                None => latest
                    .labels
                    .get(labels::SPEC_HASH)
                    .is_some_and(|hash| *hash != labels::spec_hash(container))
                    .then_some(Why::DefinitionChanged),
            };
            if let Some(why) = why {
                let own = seen.probes.get(&latest.id).and_then(|probed| probed.grace_seconds);
                plan.steps.push(Step::Stop {
                    id: latest.id.clone(),
                    container: name.into(),
                    grace: Duration::from_secs(own.unwrap_or_else(|| labels::grace_seconds(pod))),
                    why,
                });
            }
            return;
        }
        Some(latest) if latest.state == ContainerState::Created => {
            // Whoever made it died before starting it.
            plan.steps.push(Step::Remove { id: latest.id.clone() });
            attempt = labels::attempt(&latest.labels);
        }
        Some(latest) => {
            // In a new sandbox every init container runs again, however it ended in the one before.
            let anew = is_init && !seen.is_current(&latest.sandbox);
            if !anew && !starts_again(spec, container, latest, seen) {
                return;
            }
            attempt = labels::attempt(&latest.labels) + 1;
            let crashed = seen.is_current(&latest.sandbox) && !seen.redefined.contains(&latest.id);
            crash = crashed.then(|| latest.finished_at.unwrap_or(now));
        }
        None => {}
    }
    if plan.waiting.get(name).is_some_and(|waiting| waiting.reason == "CreateContainerConfigError") {
        return;
    }
    if let Some(failure) = seen.failures.get(name)
        && failure.retry_at > now
    {
        plan.wait(name, &failure.reason, Some(failure.message.clone()));
        plan.wake(failure.retry_at);
        return;
    }
    if let Some(at) = crash
        && let Some(backoff) = seen.crashes.get(name)
        && let Some(until) = backoff.until(at)
        && until > now
    {
        let message = format!(
            "back-off {} restarting failed container={name} pod={}",
            go_duration(backoff.delay),
            full_name(pod)
        );
        plan.wait(name, "CrashLoopBackOff", Some(message));
        plan.wake(until);
        return;
    }
    match seen.images.get(name) {
        None => plan.steps.push(Step::EnsureImage { container: name.into() }),
        Some(ImageState::Ready) => {
            plan.steps.push(Step::Start { container: name.into(), attempt, crash });
        }
        Some(ImageState::Pulling { previous: None }) => {}
        Some(ImageState::Pulling { previous: Some(before) }) => {
            let (reason, message) = image_backoff(container, &before.reason, &before.message);
            plan.wait(name, &reason, Some(message));
        }
        Some(ImageState::Failed(failure)) => {
            let shown_until = failure.at + IMAGE_ERROR_SHOWN;
            let until = failure.at + failure.backoff;
            if now >= until {
                plan.steps.push(Step::EnsureImage { container: name.into() });
            }
            if now < shown_until {
                plan.wait(name, &failure.reason, Some(failure.message.clone()));
                plan.wake(shown_until.min(until));
            } else {
                let (reason, message) = image_backoff(container, &failure.reason, &failure.message);
                plan.wait(name, &reason, Some(message));
                if now < until {
                    plan.wake(until);
                }
            }
        }
    }
}

/// What a failed pull turns into while it waits for the next one; other image errors stay themselves.
fn image_backoff(container: &Spec, reason: &str, message: &str) -> (String, String) {
    if reason != "ErrImagePull" {
        return (reason.into(), message.into());
    }
    let image = container.image.as_deref().unwrap_or_default();
    ("ImagePullBackOff".into(), format!("Back-off pulling image \"{image}\": ErrImagePull: {message}"))
}

/// `NAME_NAMESPACE(UID)`, as upstream's messages name a pod.
pub(crate) fn full_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}_{}({})",
        metadata.name.as_deref().unwrap_or_default(),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
pub(crate) mod tests;
