//! What a pod of this node waits for, from what its worker knows: a plain function.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use skiff_explain::waits::Wait;
use skiff_runtime::ContainerState;

use crate::observed::{ImageState, Observed, exit_code, is_over};
use crate::plan::Plan;
use crate::time::timestamp;
use crate::unsupported::unsupported;

/// Everything that is waited for; nothing of a pod that is ready or has come to its end.
pub(crate) fn waits(pod: &Pod, seen: &Observed, plan: &Plan) -> Vec<Wait> {
    let Some(spec) = pod.spec.as_ref().filter(|_| !plan.terminal) else { return Vec::new() };
    if let Some(failure) = &seen.pod_failure {
        let what = match failure.reason.as_str() {
            "FailedMount" => "volume",
            _ if failure.message.contains("network") => "network",
            _ => "sandbox",
        };
        let told = wait(what, None, &failure.reason);
        return vec![Wait {
            last_error: Some(failure.message.clone()),
            next_try: Some(time(failure.retry_at)),
            ..told
        }];
    }
    if !seen.volumes_ready {
        return vec![wait("volume", None, "volumes are being set up")];
    }
    if !seen.sandbox().is_some_and(|sandbox| sandbox.ready) {
        return vec![wait("sandbox", None, "the sandbox is being made")];
    }
    let init = spec.init_containers.iter().flatten();
    let unfinished = init.clone().find(|init| {
        let restarts = init.restart_policy.as_deref() == Some("Always");
        let latest = seen.latest(&init.name);
        !restarts && !latest.is_some_and(|latest| is_over(latest) && exit_code(latest) == 0)
    });
    match unfinished {
        Some(init) => {
            let own = of_container(pod, init, seen, plan);
            let runs =
                || wait("container", Some(&init.name), "the init container runs; the others wait for it");
            vec![own.unwrap_or_else(runs)]
        }
        None => {
            let own = spec.containers.iter().filter_map(|own| of_container(pod, own, seen, plan));
            own.collect()
        }
    }
}

fn of_container(pod: &Pod, container: &Spec, seen: &Observed, plan: &Plan) -> Option<Wait> {
    let name = container.name.as_str();
    if let Some(latest) = seen.latest(name).filter(|latest| latest.state == ContainerState::Running) {
        return unready(container, seen, latest);
    }
    let reason = plan.waiting.get(name);
    // A failure stays until a start succeeds; what holds the next start up by now may be another thing.
    let failed = seen.failures.get(name);
    if let Some(failure) = failed.filter(|failed| reason.is_some_and(|own| own.reason == failed.reason)) {
        return Some(Wait {
            last_error: Some(failure.message.clone()),
            next_try: Some(time(failure.retry_at)),
            ..wait("container", Some(name), &failure.reason)
        });
    }
    let spec = pod.spec.as_ref();
    if let Some(field) = spec.and_then(|spec| unsupported(spec, container)) {
        return Some(Wait {
            last_error: Some(field),
            next_try: Some("never: a pod without that field would be started".into()),
            ..wait("container", Some(name), reason.map_or("it is not created", |own| own.reason.as_str()))
        });
    }
    match seen.images.get(name) {
        Some(ImageState::Pulling { previous }) => {
            let image = container.image.as_deref().unwrap_or_default();
            let told = wait("image", Some(name), &format!("pulling {image}"));
            return Some(Wait { last_error: previous.as_ref().map(|before| before.message.clone()), ..told });
        }
        Some(ImageState::Failed(failure)) => {
            let reason = reason.map_or(failure.reason.as_str(), |waiting| waiting.reason.as_str());
            return Some(Wait {
                last_error: Some(failure.message.clone()),
                next_try: Some(time(failure.at + failure.backoff)),
                ..wait("image", Some(name), reason)
            });
        }
        Some(ImageState::Ready) | None => {}
    }
    let latest = seen.latest(name);
    if let Some(waiting) = reason {
        let until = latest
            .and_then(|latest| seen.crashes.get(name).and_then(|crash| crash.until(latest.finished_at?)));
        let ended = latest.filter(|latest| is_over(latest)).map(|latest| {
            let why = latest.reason.as_deref().unwrap_or("Error");
            let said = latest.message.as_deref().map(|said| format!(": {}", said.trim())).unwrap_or_default();
            format!("its last run ended with exit code {} ({why}){said}", exit_code(latest))
        });
        return Some(Wait {
            last_error: failed
                .map(|failed| failed.message.clone())
                .or(ended)
                .or_else(|| waiting.message.clone()),
            next_try: until.map(time),
            ..wait("container", Some(name), &waiting.reason)
        });
    }
    // One that has ended for good is not waited for.
    let created = || Wait {
        last_error: failed.map(|failed| failed.message.clone()),
        ..wait("container", Some(name), "it is being created")
    };
    (!latest.is_some_and(is_over)).then(created)
}

fn unready(container: &Spec, seen: &Observed, latest: &skiff_runtime::Container) -> Option<Wait> {
    let name = Some(container.name.as_str());
    let probed = seen.probes.get(&latest.id);
    if container.startup_probe.is_some() && !probed.is_some_and(|probed| probed.started) {
        let every = period(container.startup_probe.as_ref());
        return Some(wait("probe", name, &format!("its startup probe has not succeeded yet{every}")));
    }
    if container.readiness_probe.is_some() && !probed.is_some_and(|probed| probed.ready) {
        let every = period(container.readiness_probe.as_ref());
        return Some(wait("probe", name, &format!("its readiness probe does not succeed{every}")));
    }
    None
}

/// How often a probe is tried, which is all that is known of its next try.
fn period(probe: Option<&Probe>) -> String {
    let seconds = probe.and_then(|probe| probe.period_seconds).filter(|seconds| *seconds > 0);
    format!("; it is tried every {} s", seconds.unwrap_or(10))
}

fn wait(what: &str, container: Option<&str>, reason: &str) -> Wait {
    Wait {
        what: what.into(),
        container: container.map(str::to_owned),
        reason: reason.into(),
        since: None,
        last_error: None,
        next_try: None,
    }
}

fn time(at: SystemTime) -> String {
    timestamp(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::backoff::Backoff;
    use crate::observed::Failure;
    use crate::plan::Waiting;
    use crate::plan::tests::{NOW, at, container, pod, sandbox};

    /// A container whose start failed, and then counted as a crash.
    fn failing() -> Observed {
        let mut seen = Observed { volumes_ready: true, ..Observed::default() };
        seen.sandboxes.push(sandbox(0, true));
        seen.containers.push(container("c:1:128:9000"));
        let message = "exec: no such file".to_owned();
        let failure = Failure { reason: "RunContainerError".into(), message, retry_at: at(8_000) };
        seen.failures.insert("c".into(), failure);
        seen.crashes.insert("c".into(), Backoff::next(None, at(NOW - 9_000)));
        seen
    }

    #[test]
    fn a_crash_loop_is_told_as_the_status_has_it_after_a_start_that_failed() {
        let seen = failing();
        let mut plan = Plan::default();
        plan.waiting.insert("c".into(), Waiting { reason: "CrashLoopBackOff".into(), message: None });
        let told = waits(&pod(json!({})), &seen, &plan).remove(0);
        let until = at(NOW - 9_000) + Duration::from_secs(10);
        assert_eq!((told.reason.as_str(), told.next_try), ("CrashLoopBackOff", Some(time(until))));
        assert_eq!(told.last_error.as_deref(), Some("exec: no such file"));
        // While the failure itself is what is waited out, it speaks.
        let mut plan = Plan::default();
        plan.waiting.insert("c".into(), Waiting { reason: "RunContainerError".into(), message: None });
        let told = waits(&pod(json!({})), &seen, &plan).remove(0);
        assert_eq!((told.reason.as_str(), told.next_try), ("RunContainerError", Some(time(at(8_000)))));
    }

    #[test]
    fn a_field_that_is_not_supported_is_never_tried_again() {
        let mut seen = Observed { volumes_ready: true, ..Observed::default() };
        seen.sandboxes.push(sandbox(0, true));
        let pod = pod(json!({"runtimeClassName": "fast"}));
        let mut plan = Plan::default();
        let reason = "CreateContainerConfigError";
        plan.waiting.insert("c".into(), Waiting { reason: reason.into(), message: None });
        let told = waits(&pod, &seen, &plan).remove(0);
        assert_eq!((told.what.as_str(), told.reason.as_str()), ("container", reason));
        let error = "spec.runtimeClassName is not supported by this version of Skiff";
        assert_eq!(told.last_error.as_deref(), Some(error));
        assert_eq!(told.next_try.as_deref(), Some("never: a pod without that field would be started"));
    }

    #[test]
    fn how_often_a_probe_is_tried_is_told() {
        let mut seen = Observed { volumes_ready: true, ..Observed::default() };
        seen.sandboxes.push(sandbox(0, true));
        seen.containers.push(container("c:0:run"));
        let probed = |probe: serde_json::Value| {
            let pod = pod(json!({"containers": [{"name": "c", "image": "web:1", "readinessProbe": probe}]}));
            waits(&pod, &seen, &Plan::default()).remove(0).reason
        };
        let every = |seconds| format!("its readiness probe does not succeed; it is tried every {seconds} s");
        assert_eq!(probed(json!({"periodSeconds": 3})), every(3));
        assert_eq!(probed(json!({})), every(10));
    }
}
