//! The plan as a table: what is seen in a few words, and the plan as text.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use skiff_runtime::{Sandbox, SandboxConfig};

use super::*;
use crate::backoff::Backoff;
use crate::observed::{Failure, ImageFailure, Probed};

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) const NOW: u64 = 10_000;

pub(crate) fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "web:1"}]);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": spec,
        "status": {"startTime": "1970-01-01T02:00:00Z"},
    }))
    .expect("a pod")
}

pub(crate) fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: SandboxId(format!("s{attempt}")),
        config: SandboxConfig {
            labels: labels::of_pod(&pod(json!({})), attempt),
            ..SandboxConfig::default()
        },
        ready,
        created_at: at(u64::from(attempt)),
        pid: 1,
        netns: None,
    }
}

/// `name:attempt:state` in sandbox `s0`: `run`, `made`, `lost`, or an exit code and when that was.
pub(crate) fn container(text: &str) -> Container {
    let parts: Vec<&str> = text.split(':').collect();
    let (name, attempt, state) = (parts[0], parts[1].parse().expect("a number"), parts[2]);
    let mut labels = labels::of_pod(&pod(json!({})), attempt);
    labels.insert(labels::CONTAINER_NAME.into(), name.into());
    let spec = Spec { name: name.into(), image: Some("web:1".into()), ..Spec::default() };
    labels.insert(labels::SPEC_HASH.into(), labels::spec_hash(&spec));
    let code: Option<i32> = state.parse().ok();
    Container {
        id: ContainerId(format!("{name}{attempt}")),
        sandbox: SandboxId(parts.get(4).unwrap_or(&"s0").to_string()),
        name: name.into(),
        labels,
        state: match state {
            "run" => ContainerState::Running,
            "made" => ContainerState::Created,
            "lost" => ContainerState::Unknown,
            _ => ContainerState::Exited,
        },
        image: "web:1".into(),
        image_id: String::new(),
        created_at: at(u64::from(attempt)),
        started_at: None,
        finished_at: parts.get(3).and_then(|ago| ago.parse().ok()).map(|ago: u64| at(NOW - ago)),
        exit_code: code,
        reason: None,
        message: None,
        pid: 0,
        log_path: None,
    }
}

/// A pod that is up to its sandbox, with those containers, the newest first.
pub(crate) fn up(containers: &[&str]) -> Observed {
    Observed {
        sandboxes: vec![sandbox(0, true)],
        containers: containers.iter().map(|text| container(text)).collect(),
        ip: Some([10, 244, 0, 2].into()),
        volumes_ready: true,
        images: [("c".to_owned(), ImageState::Ready), ("i".to_owned(), ImageState::Ready)].into(),
        ..Observed::default()
    }
}

/// The plan in words, one line a thing.
fn told(pod: &Pod, seen: &Observed) -> Vec<String> {
    let plan = actions(pod, seen, at(NOW));
    let mut lines: Vec<String> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::FetchTokens => "fetch tokens".into(),
            Step::MountVolumes => "mount".into(),
            Step::MountTokens => "mount tokens".into(),
            Step::RunSandbox { attempt } => format!("sandbox {attempt}"),
            Step::Attach { sandbox } => format!("attach {}", sandbox.0),
            Step::EnsureImage { container } => format!("image {container}"),
            Step::Start { container, attempt, .. } => format!("start {container} {attempt}"),
            Step::Stop { id, grace, why, .. } => format!("stop {} {} {why:?}", id.0, grace.as_secs()),
            Step::Remove { id } => format!("remove {}", id.0),
            Step::SandboxChanged => "sandbox changed".into(),
            Step::StopSandboxes => "stop sandboxes".into(),
            Step::RemoveSandbox { id } => format!("remove sandbox {}", id.0),
            Step::Finish => "finish".into(),
        })
        .collect();
    lines.extend(plan.waiting.iter().map(|(name, waiting)| format!("{name} waits: {}", waiting.reason)));
    lines.extend(
        plan.wake_at
            .map(|wake| format!("wake in {}", wake.duration_since(at(NOW)).unwrap_or_default().as_secs())),
    );
    if plan.terminal {
        lines.push("terminal".into());
    }
    lines
}

fn check(spec: Value, seen: &Observed, expected: &[&str]) {
    assert_eq!(told(&pod(spec.clone()), seen), expected, "{spec}");
}

#[test]
fn tokens_are_fetched_while_the_sandbox_is_made() {
    let wait = "c waits: ContainerCreating";
    let mut seen = Observed { tokens: TokenState::Wanted, ..Observed::default() };
    check(json!({}), &seen, &["fetch tokens", "mount", wait]);
    seen.tokens = TokenState::Fetching;
    seen.volumes_ready = true;
    check(json!({}), &seen, &["sandbox 0", wait]);
    let mut seen = Observed { tokens: TokenState::Fetching, ..up(&[]) };
    check(json!({}), &seen, &[wait]);
    seen.tokens = TokenState::Fetched;
    check(json!({}), &seen, &["mount tokens", wait]);
    seen.tokens = TokenState::Settled;
    check(json!({}), &seen, &["start c 0", wait]);
}

#[test]
fn a_pod_comes_up_step_by_step() {
    let mut seen = Observed::default();
    check(json!({}), &seen, &["mount", "c waits: ContainerCreating"]);
    seen.volumes_ready = true;
    check(json!({}), &seen, &["sandbox 0", "c waits: ContainerCreating"]);
    seen.sandboxes = vec![sandbox(0, true)];
    check(json!({}), &seen, &["attach s0", "c waits: ContainerCreating"]);
    check(json!({"hostNetwork": true}), &seen, &["image c", "c waits: ContainerCreating"]);
    seen.ip = Some([10, 244, 0, 2].into());
    check(json!({}), &seen, &["image c", "c waits: ContainerCreating"]);
    check(json!({}), &up(&[]), &["start c 0", "c waits: ContainerCreating"]);
    check(json!({}), &up(&["c:0:run"]), &[]);
    // Its maker died between creating and starting it.
    check(json!({}), &up(&["c:0:made"]), &["remove c0", "start c 0", "c waits: ContainerCreating"]);
}

#[test]
fn init_containers_go_first_one_by_one() {
    let spec = |policy: &str| {
        json!({"restartPolicy": policy,
            "initContainers": [{"name": "i", "image": "web:1"}, {"name": "j", "image": "web:1"}]})
    };
    let waits = ["c waits: PodInitializing", "i waits: PodInitializing", "j waits: PodInitializing"];
    check(spec("Always"), &up(&[]), &["start i 0", waits[0], waits[1], waits[2]]);
    check(spec("Always"), &up(&["i:0:run"]), &[waits[0], waits[2]]);
    check(spec("Always"), &up(&["i:0:0:1"]), &["image j", waits[0], waits[2]]);
    check(spec("Always"), &up(&["i:0:1:1"]), &["start i 1", waits[0], waits[2]]);
    check(spec("OnFailure"), &up(&["i:0:1:1"]), &["start i 1", waits[0], waits[2]]);
    check(spec("Never"), &up(&["i:0:1:1"]), &["stop sandboxes", "terminal"]);
    check(spec("Always"), &up(&["j:0:0:1", "i:0:0:1"]), &["start c 0", waits[0]]);
    // Long done: a lost listing of them changes nothing.
    check(spec("Always"), &up(&["c:0:run"]), &[]);
}

#[test]
fn restarts_by_policy() {
    for (policy, state, expected) in [
        ("Always", "c:0:0:1", &["start c 1"][..]),
        ("Always", "c:4:1:1", &["start c 5"]),
        ("OnFailure", "c:0:1:1", &["start c 1"]),
        ("OnFailure", "c:0:0:1", &["stop sandboxes", "terminal"]),
        ("Never", "c:0:1:1", &["stop sandboxes", "terminal"]),
        ("Never", "c:0:lost", &["stop sandboxes", "terminal"]),
        ("OnFailure", "c:0:lost", &["start c 1"]),
    ] {
        check(json!({"restartPolicy": policy}), &up(&[state]), expected);
    }
}

#[test]
fn containers_restart_by_policies_and_rules_of_their_own() {
    let two = |pod: &str, c: Value, d: Value| {
        let mut containers = json!([{"name": "c", "image": "web:1"}, {"name": "d", "image": "web:1"}]);
        for (container, own) in containers.as_array_mut().expect("two").iter_mut().zip([c, d]) {
            container.as_object_mut().expect("one").extend(own.as_object().expect("fields").clone());
        }
        json!({"restartPolicy": pod, "containers": containers})
    };
    let plain = || json!({});
    let own = |policy: &str| json!({"restartPolicy": policy});
    let rule = json!({"restartPolicy": "Never", "restartPolicyRules": [
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
    ]});
    for (spec, containers, expected) in [
        (two("Always", own("Never"), plain()), ["d:0:run", "c:0:1:1"], &[][..]),
        (two("Never", own("Always"), plain()), ["d:0:run", "c:0:0:1"], &["start c 1"]),
        (two("Never", own("OnFailure"), plain()), ["d:0:0:1", "c:0:1:1"], &["start c 1"]),
        (two("Always", own("Never"), own("Never")), ["d:0:1:1", "c:0:1:1"], &["stop sandboxes", "terminal"]),
        (two("Always", own("Never"), plain()), ["d:0:1:1", "c:0:1:1"], &["start d 1"]),
        (two("Always", rule.clone(), rule.clone()), ["d:0:42:1", "c:0:1:1"], &["start d 1"]),
        (two("Always", rule.clone(), rule), ["d:0:0:1", "c:0:1:1"], &["stop sandboxes", "terminal"]),
    ] {
        let mut seen = up(&containers);
        seen.images.insert("d".into(), ImageState::Ready);
        check(spec, &seen, expected);
    }
    // An init container too: how the pod fares is its own policy's to say.
    let init = |pod: &str, own: &str| json!({"restartPolicy": pod, "initContainers": [{"name": "i", "image": "web:1", "restartPolicy": own}]});
    check(init("Always", "Never"), &up(&["i:0:1:1"]), &["stop sandboxes", "terminal"]);
    check(init("Never", "OnFailure"), &up(&["i:0:1:1"]), &["start i 1", "c waits: PodInitializing"]);
}

#[test]
fn who_is_evicted_gets_a_second() {
    let why = Waiting { reason: "Evicted".into(), message: Some("m".into()) };
    let seen = Observed { evicted: Some(why.clone()), ..up(&["c:0:run"]) };
    check(json!({}), &seen, &["stop c0 1 PodEnds", "terminal"]);
    assert_eq!(actions(&pod(json!({})), &seen, at(NOW)).verdict, Some(why));
    check(json!({"terminationGracePeriodSeconds": 0}), &seen, &["stop c0 0 PodEnds", "terminal"]);
}

#[test]
fn what_has_ended_is_not_judged_by_its_deadline() {
    let mut late = pod(json!({"activeDeadlineSeconds": 2_800, "restartPolicy": "Never"}));
    late.status.as_mut().expect("it has one").phase = Some("Succeeded".into());
    let ended = Observed { sandboxes: vec![sandbox(0, false)], ..up(&["c:0:0:1"]) };
    assert_eq!(actions(&late, &ended, at(NOW)), Plan { terminal: true, ..Plan::default() });
}

#[test]
fn crashes_back_off() {
    let mut seen = up(&["c:1:1:4"]);
    seen.crashes.insert("c".into(), Backoff::next(None, at(NOW - 20)));
    check(json!({}), &seen, &["c waits: CrashLoopBackOff", "wake in 6"]);
    let plan = actions(&pod(json!({})), &seen, at(NOW));
    assert_eq!(
        plan.waiting["c"].message.as_deref(),
        Some("back-off 10s restarting failed container=c pod=p_n(u)")
    );
    seen.containers = vec![container("c:1:1:11")];
    check(json!({}), &seen, &["start c 2"]);
}

#[test]
fn what_failed_is_shown_until_it_is_tried_again() {
    let mut seen = up(&[]);
    let failure = |reason: &str, at| Failure { reason: reason.into(), message: "m".into(), retry_at: at };
    seen.failures.insert("c".into(), failure("CreateContainerError", at(NOW + 7)));
    check(json!({}), &seen, &["c waits: CreateContainerError", "wake in 7"]);
    seen.failures.insert("c".into(), failure("CreateContainerError", at(NOW)));
    check(json!({}), &seen, &["start c 0", "c waits: ContainerCreating"]);
    seen.sandboxes.clear();
    seen.pod_failure = Some(failure("FailedCreatePodSandBox", at(NOW + 3)));
    check(json!({}), &seen, &["c waits: ContainerCreating", "wake in 3"]);
}

#[test]
fn images_fail_in_two_ways() {
    let failed = |ago: u64, reason: &str| {
        let mut seen = up(&[]);
        let failure = ImageFailure {
            reason: reason.into(),
            message: "m".into(),
            at: at(NOW - ago),
            backoff: Duration::from_secs(10),
        };
        seen.images.insert("c".into(), ImageState::Failed(failure));
        seen
    };
    check(json!({}), &failed(1, "ErrImagePull"), &["c waits: ErrImagePull", "wake in 1"]);
    check(json!({}), &failed(4, "ErrImagePull"), &["c waits: ImagePullBackOff", "wake in 6"]);
    check(json!({}), &failed(10, "ErrImagePull"), &["image c", "c waits: ImagePullBackOff"]);
    check(json!({}), &failed(4, "InvalidImageName"), &["c waits: InvalidImageName", "wake in 6"]);
}

#[test]
fn a_dead_sandbox_takes_its_containers_with_it() {
    let mut seen = up(&["c:0:run"]);
    seen.sandboxes = vec![sandbox(0, false)];
    check(json!({}), &seen, &["stop c0 2 SandboxGone"]);
    seen.containers = vec![container("c:0:137:1")];
    check(json!({}), &seen, &["sandbox changed", "sandbox 1"]);
    seen.sandboxes = vec![sandbox(1, true), sandbox(0, false)];
    // No back-off: it was not the container's fault. The old sandbox stays for its log.
    check(json!({}), &seen, &["start c 1"]);
    seen.containers = vec![container("c:1:run::s1")];
    check(json!({}), &seen, &["remove sandbox s0"]);
    check(json!({"restartPolicy": "Never"}), &up(&["c:0:137:1"]), &["stop sandboxes", "terminal"]);
}

#[test]
fn two_of_each_are_kept() {
    let seen = up(&["c:3:run", "c:2:1:1", "c:1:1:2", "c:0:1:3"]);
    check(json!({}), &seen, &["remove c1", "remove c0"]);
}

#[test]
fn probes_and_definitions_stop_containers() {
    let mut seen = up(&["c:0:run"]);
    let mut failed = Probed { failed: Some("liveness".into()), ..Probed::default() };
    seen.probes.insert(ContainerId("c0".into()), failed.clone());
    check(json!({}), &seen, &["stop c0 30 Unhealthy(\"liveness\")"]);
    failed.grace_seconds = Some(4);
    seen.probes.insert(ContainerId("c0".into()), failed);
    check(json!({}), &seen, &["stop c0 4 Unhealthy(\"liveness\")"]);
    seen.stopping.insert(ContainerId("c0".into()), Duration::from_secs(5));
    check(json!({}), &seen, &[]);
    let changed = json!({"containers": [{"name": "c", "image": "web:2"}]});
    check(changed, &up(&["c:0:run"]), &["stop c0 30 DefinitionChanged"]);
}

#[test]
fn who_was_stopped_for_a_new_definition_runs_anew_whatever_the_restart_policy() {
    for (policy, ended) in [("Never", "c:0:143:1"), ("OnFailure", "c:0:0:1"), ("Always", "c:0:143:1")] {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "web:2"}]});
        let mut seen = up(&[ended]);
        seen.redefined.insert(ContainerId("c0".into()));
        check(spec.clone(), &seen, &["start c 1"]);
        // Whoever ended by itself is not run anew by a new definition alone.
        seen.redefined.clear();
        if policy != "Always" {
            check(spec, &seen, &["stop sandboxes", "terminal"]);
        }
    }
}

#[test]
fn deletion_ends_containers_then_sandbox_then_pod() {
    let mut pod = pod(json!({"terminationGracePeriodSeconds": 9}));
    pod.metadata.deletion_timestamp = Some(crate::time::api_time(at(NOW)));
    pod.metadata.deletion_grace_period_seconds = Some(5);
    let mut seen = up(&["c:0:run"]);
    assert_eq!(told(&pod, &seen), ["stop c0 5 PodEnds", "terminal"]);
    seen.stopping.insert(ContainerId("c0".into()), Duration::from_secs(5));
    assert_eq!(told(&pod, &seen), ["terminal"]);
    pod.metadata.deletion_grace_period_seconds = Some(3);
    assert_eq!(told(&pod, &seen), ["stop c0 3 PodEnds", "terminal"], "it is given less than before");
    seen.containers = vec![container("c:0:143:0")];
    assert_eq!(told(&pod, &seen), ["stop sandboxes", "terminal"]);
    seen.sandboxes = vec![sandbox(0, false)];
    assert_eq!(told(&pod, &seen), ["finish", "terminal"]);

    pod.metadata.deletion_timestamp = None;
    pod.metadata.deletion_grace_period_seconds = Some(0);
    let gone = Observed { removed: true, ..up(&["c:0:run"]) };
    assert_eq!(told(&pod, &gone), ["stop c0 2 PodEnds", "terminal"], "by force, but with a moment's grace");
}

#[test]
fn deadlines_end_pods() {
    // It started 2,800 s ago.
    check(json!({"activeDeadlineSeconds": 2_900}), &up(&["c:0:run"]), &["wake in 100"]);
    // One that never comes, as an earlier version's API took it.
    let plan = actions(&pod(json!({"activeDeadlineSeconds": i64::MAX})), &up(&["c:0:run"]), at(NOW));
    assert_eq!((plan.verdict, plan.terminal), (None, false));
    assert!(plan.wake_at > Some(at(1 << 33)));
    let late = pod(json!({"activeDeadlineSeconds": 2_800}));
    let plan = actions(&late, &up(&["c:0:run"]), at(NOW));
    assert_eq!(plan.verdict.map(|verdict| verdict.reason).as_deref(), Some("DeadlineExceeded"));
    assert!(plan.terminal);
}

#[test]
fn what_is_not_supported_waits_for_ever() {
    let spec = json!({"runtimeClassName": "x"});
    check(spec, &up(&[]), &["c waits: CreateContainerConfigError"]);
}

#[test]
fn a_pod_whose_status_is_final_is_ended_and_stays_so() {
    for phase in ["Failed", "Succeeded"] {
        let mut pod = pod(json!({"terminationGracePeriodSeconds": 9}));
        pod.status.as_mut().expect("it has one").phase = Some(phase.into());
        assert_eq!(told(&pod, &up(&["c:0:run"])), ["stop c0 9 PodEnds", "terminal"], "{phase}");
        assert_eq!(told(&pod, &up(&["c:0:made"])), ["remove c0", "terminal"], "{phase}");
        assert_eq!(told(&pod, &up(&["c:0:1:1"])), ["stop sandboxes", "terminal"], "{phase}");
        // Its object stays until somebody deletes it.
        let ended = Observed { sandboxes: vec![sandbox(0, false)], ..up(&["c:0:1:1"]) };
        assert_eq!(told(&pod, &ended), ["terminal"], "{phase}");
    }
    let mut running = pod(json!({}));
    running.status.as_mut().expect("it has one").phase = Some("Running".into());
    assert_eq!(told(&running, &up(&["c:0:run"])), [""; 0]);
}

#[test]
fn what_the_node_did_not_take_never_starts() {
    let why = Waiting { reason: "OutOfcpu".into(), message: Some("m".into()) };
    let seen = Observed { rejected: Some(why.clone()), ..Observed::default() };
    let plan = actions(&pod(json!({})), &seen, at(NOW));
    assert_eq!(plan, Plan { terminal: true, verdict: Some(why), ..Plan::default() });
}

#[test]
fn a_pod_of_containers_that_end_for_good_is_terminal_once_all_have() {
    let two = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "web:1"}, {"name": "d", "image": "web:1"}]});
    check(json!({"restartPolicy": "Never"}), &up(&["c:0:run"]), &[]);
    check(json!({"restartPolicy": "OnFailure"}), &up(&["c:0:run"]), &[]);
    check(two.clone(), &up(&["d:0:run", "c:0:0:1"]), &[]);
    check(two.clone(), &up(&["d:0:1:1", "c:0:0:1"]), &["stop sandboxes", "terminal"]);
    let ended = Observed { sandboxes: vec![sandbox(0, false)], ..up(&["d:0:1:1", "c:0:0:1"]) };
    check(two, &ended, &["terminal"]);
}

#[test]
fn a_new_sandbox_is_initialized_anew() {
    let spec =
        |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i", "image": "web:1"}]});
    let mut seen = up(&["c:0:137:1", "i:0:0:1"]);
    seen.sandboxes = vec![sandbox(1, true), sandbox(0, false)];
    for policy in ["Always", "OnFailure"] {
        check(spec(policy), &seen, &["start i 1"]);
    }
    // Made, but never started: it waits for its turn still.
    check(
        spec("Always"),
        &up(&["c:0:made"]),
        &["start i 0", "c waits: PodInitializing", "i waits: PodInitializing"],
    );
    check(
        spec("Always"),
        &up(&["c:3:made", "i:0:0:1"]),
        &["remove c3", "start c 3", "c waits: PodInitializing"],
    );
}

#[test]
fn a_former_sandbox_goes_with_the_last_container_that_is_kept_of_it() {
    let mut seen = up(&["c:2:run::s1", "c:1:1:2:s1", "c:0:1:3:s0"]);
    seen.sandboxes = vec![sandbox(1, true), sandbox(0, false)];
    check(json!({}), &seen, &["remove c0", "remove sandbox s0"]);
    seen.containers.pop();
    check(json!({}), &seen, &["remove sandbox s0"]);
    // What is being stopped in a sandbox that is gone is not stopped twice.
    let mut seen = up(&["c:0:run"]);
    seen.sandboxes = vec![sandbox(0, false)];
    seen.stopping.insert(ContainerId("c0".into()), Duration::from_secs(5));
    check(json!({}), &seen, &["sandbox changed", "sandbox 1"]);
}

#[test]
fn waits_end_at_their_moment() {
    let failure = |at| Failure { reason: "FailedCreatePodSandBox".into(), message: "m".into(), retry_at: at };
    let mut seen =
        Observed { volumes_ready: true, pod_failure: Some(failure(at(NOW))), ..Observed::default() };
    check(json!({}), &seen, &["sandbox 0", "c waits: ContainerCreating"]);
    // Of several moments the next one counts.
    seen.pod_failure = Some(failure(at(NOW + 50)));
    for (deadline, wake) in [(2_840, "wake in 40"), (2_860, "wake in 50")] {
        check(json!({"activeDeadlineSeconds": deadline}), &seen, &["c waits: ContainerCreating", wake]);
    }
    let mut crashed = up(&["c:1:1:10"]);
    crashed.crashes.insert("c".into(), Backoff::next(None, at(NOW - 20)));
    check(json!({}), &crashed, &["start c 2"]);
    // When it ended is lost: the wait begins now.
    crashed.containers = vec![container("c:1:lost")];
    check(json!({}), &crashed, &["c waits: CrashLoopBackOff", "wake in 10"]);
}

#[test]
fn a_pull_shows_what_the_one_before_it_failed_of() {
    let failure = |ago: u64, backoff: u64| ImageFailure {
        reason: "ErrImagePull".into(),
        message: "m".into(),
        at: at(NOW - ago),
        backoff: Duration::from_secs(backoff),
    };
    let mut seen = up(&[]);
    seen.images.insert("c".into(), ImageState::Pulling { previous: None });
    check(json!({}), &seen, &["c waits: ContainerCreating"]);
    seen.images.insert("c".into(), ImageState::Pulling { previous: Some(Box::new(failure(20, 10))) });
    check(json!({}), &seen, &["c waits: ImagePullBackOff"]);
    assert_eq!(
        actions(&pod(json!({})), &seen, at(NOW)).waiting["c"].message.as_deref(),
        Some("Back-off pulling image \"web:1\": ErrImagePull: m")
    );
    // The error itself is shown for 2 s.
    seen.images.insert("c".into(), ImageState::Failed(failure(2, 10)));
    check(json!({}), &seen, &["c waits: ImagePullBackOff", "wake in 8"]);
    seen.images.insert("c".into(), ImageState::Failed(failure(0, 1)));
    check(json!({}), &seen, &["c waits: ErrImagePull", "wake in 1"]);
}
