//! What the API says of a pod: a plain function from what is wanted, planned and seen.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    VolumeMountStatus,
};
use skiff_runtime::{Container, ContainerState};

use crate::labels;
use crate::observed::{EXIT_CODE_UNKNOWN, Observed, exit_code, is_over};
use crate::plan::Plan;
use crate::resources::qos_class;
use crate::time::api_time;
use crate::volumes;

/// Conditions that the node agent owns; others are left as they are.
pub(crate) const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Upstream's words for a container whose end nobody saw.
const NOT_LOCATED: &str = "The container could not be located when the pod was terminated";

/// The status of `pod`, whose former one decides start time, transition times and foreign conditions.
pub(crate) fn status(
    pod: &Pod,
    seen: &Observed,
    plan: &Plan,
    node_ip: Ipv4Addr,
    now: SystemTime,
) -> PodStatus {
    let Some(spec) = pod.spec.as_ref() else { return PodStatus::default() };
    let before = pod.status.clone().unwrap_or_default();
    let generation = pod.metadata.generation;
    let init_statuses: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| container_status(spec, container, seen, plan, &before, true))
        .collect();
    let statuses: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|container| container_status(spec, container, seen, plan, &before, false))
        .collect();
    let mut status = PodStatus {
        observed_generation: generation,
        qos_class: before.qos_class.clone().or_else(|| Some(qos_class(spec).to_string())),
        start_time: before.start_time.clone().or_else(|| Some(api_time(seen.seen_since.unwrap_or(now)))),
        host_ip: Some(node_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: node_ip.to_string() }]),
        nominated_node_name: before.nominated_node_name.clone(),
        ..PodStatus::default()
    };
    let former_phase = before.phase.as_deref();
    (status.reason, status.message) = (before.reason.clone(), before.message.clone());
    // Others take what an ended pod held (ports, devices, its place on the node) as soon as its phase says
    // so: it says so once nothing of the pod runs any more, whatever the reason of its end.
    let ended = plan.terminal && !seen.holds_anything();
    let phase = match (former_phase, &plan.verdict) {
        // An end is an end.
        (Some(end @ ("Failed" | "Succeeded")), _) => end,
        (_, Some(verdict)) if ended => {
            status.reason = Some(verdict.reason.clone());
            status.message = verdict.message.clone();
            "Failed"
        }
        _ => phase(&init_statuses, &statuses, ended),
    };
    status.phase = Some(phase.into());
    let ip = if spec.host_network.unwrap_or(false) { Some(node_ip) } else { seen.ip };
    // A finished pod keeps the address it had.
    let ip = ip.map(|ip| ip.to_string()).or_else(|| plan.terminal.then(|| before.pod_ip.clone()).flatten());
    if let Some(ip) = ip {
        status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
        status.pod_ip = Some(ip);
    }
    let phase = status.phase.clone().unwrap_or_default();
    let mut conditions = vec![
        condition("PodReadyToStartContainers", ready_to_start(spec, seen), None),
        initialized(spec, &init_statuses, &statuses, &phase),
        ready("Ready", &statuses, &phase),
        ready("ContainersReady", &statuses, &phase),
        condition("PodScheduled", true, None),
    ];
    for condition in &mut conditions {
        condition.observed_generation = generation;
        let former = before.conditions.iter().flatten().find(|former| former.type_ == condition.type_);
        condition.last_transition_time = former
            .filter(|former| former.status == condition.status)
            .and_then(|former| former.last_transition_time.clone())
            .or_else(|| Some(api_time(now)));
    }
    let foreign = before
        .conditions
        .iter()
        .flatten()
        .filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str()));
    conditions.extend(foreign.cloned());
    status.conditions = Some(conditions);
    // Of a pod that the node never took there is nothing to tell but why.
    let never_taken =
        seen.rejected.is_some() || former_phase == Some("Failed") && before.container_statuses.is_none();
    if !never_taken {
        status.init_container_statuses = (!init_statuses.is_empty()).then_some(init_statuses);
        status.container_statuses = Some(statuses);
    }
    status
}

fn condition(kind: &str, holds: bool, why: Option<(&str, Option<String>)>) -> PodCondition {
    PodCondition {
        type_: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: why.as_ref().map(|(reason, _)| (*reason).to_owned()),
        message: why.and_then(|(_, message)| message),
        ..PodCondition::default()
    }
}

fn ready_to_start(spec: &PodSpec, seen: &Observed) -> bool {
    let network = spec.host_network.unwrap_or(false) || seen.ip.is_some();
    network && seen.sandbox().is_some_and(|sandbox| sandbox.ready)
}

fn initialized(
    spec: &PodSpec,
    inits: &[ContainerStatus],
    statuses: &[ContainerStatus],
    phase: &str,
) -> PodCondition {
    if phase == "Succeeded" {
        return condition("Initialized", true, Some(("PodCompleted", None)));
    }
    let started = statuses.iter().any(|status| status.started == Some(true) || is_terminated(status));
    let incomplete: Vec<&str> =
        inits.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    if incomplete.is_empty() || started || spec.init_containers.is_none() {
        return condition("Initialized", true, None);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    condition("Initialized", false, Some(("ContainersNotInitialized", Some(message))))
}

fn ready(kind: &str, statuses: &[ContainerStatus], phase: &str) -> PodCondition {
    match phase {
        "Succeeded" => return condition(kind, false, Some(("PodCompleted", None))),
        "Failed" => return condition(kind, false, Some(("PodFailed", None))),
        _ => {}
    }
    let unready: Vec<&str> =
        statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    if unready.is_empty() {
        return condition(kind, true, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    condition(kind, false, Some(("ContainersNotReady", Some(message))))
}

fn is_terminated(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.terminated.is_some())
}

/// `Pending`, `Running`, `Succeeded` or `Failed`, by the rules of the Pod lifecycle page. A pod has `ended`
/// if nothing of it runs nor ever will.
fn phase(inits: &[ContainerStatus], statuses: &[ContainerStatus], ended: bool) -> &'static str {
    let exit = |status: &ContainerStatus| {
        let state = |state: &Option<State>| {
            state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
        };
        state(&status.state).or_else(|| {
            let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
            if waits { state(&status.last_state) } else { None }
        })
    };
    let runs = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    let any_ran = statuses.iter().any(|status| runs(status) || exit(status).is_some());
    let unstarted = if ended { "Failed" } else { "Pending" };
    if !any_ran && !inits.iter().all(|status| exit(status) == Some(0)) {
        return unstarted;
    }
    let codes: Vec<Option<i32>> = statuses.iter().filter(|status| !runs(status)).map(exit).collect();
    if codes.iter().any(Option::is_none) {
        // Stopped before all of its containers had run: what never ran did not succeed.
        return unstarted;
    }
    match (ended, codes.iter().all(|code| *code == Some(0))) {
        (false, _) => "Running",
        (true, true) => "Succeeded",
        (true, false) => "Failed",
    }
}

fn container_status(
    spec: &PodSpec,
    container: &Spec,
    seen: &Observed,
    plan: &Plan,
    before: &PodStatus,
    is_init: bool,
) -> ContainerStatus {
    let name = container.name.as_str();
    let history: Vec<&Container> =
        seen.history(name).filter(|each| each.state != ContainerState::Created).collect();
    let latest = history.first().copied();
    let former = if is_init { &before.init_container_statuses } else { &before.container_statuses };
    let former = former.iter().flatten().find(|status| status.name == name);
    let mut status = ContainerStatus {
        name: name.into(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: latest.map_or(0, |latest| labels::attempt(&latest.labels) as i32),
        started: Some(false),
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    };
    let mut older = 1;
    let running = latest.filter(|latest| latest.state == ContainerState::Running);
    if let Some(running) = running {
        status.state = Some(State {
            running: Some(ContainerStateRunning { started_at: running.started_at.map(api_time) }),
            ..State::default()
        });
        let probed = seen.probes.get(&running.id);
        status.started = Some(match (&container.startup_probe, probed) {
            (Some(_), probed) => probed.is_some_and(|probed| probed.started),
            (None, _) => true,
        });
        status.ready = !is_init
            && status.started == Some(true)
            && (container.readiness_probe.is_none() || probed.is_some_and(|probed| probed.ready));
        status.allocated_resources =
            container.resources.as_ref().and_then(|resources| resources.requests.clone());
        status.resources = Some(container.resources.clone().unwrap_or_default());
    } else if let Some(waiting) = plan.waiting.get(name) {
        status.state = Some(State {
            waiting: Some(ContainerStateWaiting {
                reason: Some(waiting.reason.clone()),
                message: waiting.message.clone(),
            }),
            ..State::default()
        });
        older = 0;
    } else if !plan.terminal && latest.is_some_and(|latest| seen.redefined.contains(&latest.id)) {
        // What was stopped to run anew has not ended, whatever the restart policy: an end would be final.
        status.state = Some(State {
            waiting: Some(ContainerStateWaiting { reason: Some("ContainerCreating".into()), message: None }),
            ..State::default()
        });
        older = 0;
    } else if let Some(latest) = latest {
        status.state = Some(terminated(latest));
        status.ready = is_init && exit_code(latest) == 0;
    } else if plan.terminal || is_init {
        // It never ran and never will, or its record is gone: what was told before stands, but that it runs.
        status.state = former.and_then(|former| former.state.clone()).map(lost).or_else(|| {
            let reason = if spec.init_containers.is_some() { "PodInitializing" } else { "ContainerCreating" };
            Some(State {
                waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message: None }),
                ..State::default()
            })
        });
        status.ready = is_init && former.is_some_and(|former| former.ready);
    } else {
        status.state = Some(State {
            waiting: Some(ContainerStateWaiting { reason: Some("ContainerCreating".into()), message: None }),
            ..State::default()
        });
    }
    if let Some(latest) = latest {
        status.container_id = Some(container_id(latest));
        status.image = latest.labels.get(labels::IMAGE).unwrap_or(&latest.image).clone();
        status.image_id = latest.labels.get(labels::IMAGE_ID).unwrap_or(&latest.image_id).clone();
    }
    let last = history.get(older).filter(|last| is_over(last)).map(|last| terminated(last));
    // The runtime's history is short; what the status told last still holds for the same attempt.
    status.last_state = last.or_else(|| {
        former
            .filter(|former| former.restart_count == status.restart_count && older == 1)
            .and_then(|former| former.last_state.clone())
    });
    status.last_state.get_or_insert_default();
    status
}

pub(crate) fn container_id(container: &Container) -> String {
    format!("{}://{}", labels::SCHEME, container.id.0)
}

fn terminated(container: &Container) -> State {
    let code = exit_code(container);
    let reason = container.reason.clone().unwrap_or_else(|| {
        match (container.state, code) {
            (ContainerState::Unknown, _) => "ContainerStatusUnknown",
            (_, 0) => "Completed",
            _ => "Error",
        }
        .into()
    });
    let message = container
        .message
        .clone()
        .or_else(|| (container.state == ContainerState::Unknown).then(|| NOT_LOCATED.to_owned()));
    State {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(container)),
            exit_code: code,
            reason: Some(reason),
            message,
            started_at: Some(api_time(container.started_at.unwrap_or(UNIX_EPOCH))),
            // Nobody knows it where nobody saw it, and a guess would pass for knowledge.
            finished_at: container.finished_at.map(api_time),
            signal: None,
        }),
        ..State::default()
    }
}

/// The state of a container that was told of and that the runtime knows no more.
fn lost(before: State) -> State {
    let Some(running) = before.running else { return before };
    State {
        terminated: Some(ContainerStateTerminated {
            exit_code: EXIT_CODE_UNKNOWN,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(NOT_LOCATED.into()),
            started_at: running.started_at,
            ..ContainerStateTerminated::default()
        }),
        ..State::default()
    }
}

pub(crate) fn mounts(container: &Spec) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let mounts = mounts.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: (mount.read_only == Some(true))
            .then(|| if volumes::is_recursively_read_only(mount) { "Enabled" } else { "Disabled" }.into()),
        ..VolumeMountStatus::default()
    });
    Some(mounts.collect())
}

#[cfg(test)]
mod tests;
