//! The status as a table: phase, Ready, and each container's state in a word.

use serde_json::{Value, json};

use super::*;
use crate::observed::Probed;
use crate::plan::actions;
use crate::plan::tests::{NOW, at, pod, sandbox, up};

fn of(pod: &Pod, seen: &Observed) -> PodStatus {
    let plan = actions(pod, seen, at(NOW));
    status(pod, seen, &plan, Ipv4Addr::new(10, 100, 0, 2), at(NOW))
}

fn told(status: &PodStatus) -> String {
    let word = |state: &Option<State>| match state {
        Some(State { running: Some(_), .. }) => "running".to_owned(),
        Some(State { terminated: Some(end), .. }) => {
            format!("{}({})", end.reason.as_deref().unwrap_or_default(), end.exit_code)
        }
        Some(State { waiting: Some(waits), .. }) => waits.reason.clone().unwrap_or_default(),
        _ => "-".into(),
    };
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let words: Vec<String> = all
        .map(|each| {
            format!("{}={}<{}x{}", each.name, word(&each.state), word(&each.last_state), each.restart_count)
        })
        .collect();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let ready = ready.map(|ready| format!("{} {}", ready.status, ready.reason.as_deref().unwrap_or("-")));
    format!(
        "{} {} {}",
        status.phase.as_deref().unwrap_or_default(),
        ready.unwrap_or_default(),
        words.join(" ")
    )
}

fn check(spec: Value, seen: &Observed, expected: &str) {
    assert_eq!(told(&of(&pod(spec.clone()), seen)), expected, "{spec}");
}

/// The same once the sandbox has been stopped.
fn down(containers: &[&str]) -> Observed {
    Observed { sandboxes: vec![sandbox(0, false)], ..up(containers) }
}

#[test]
fn phases_follow_containers() {
    for (policy, containers, expected) in [
        ("Always", &[][..], "Pending False ContainersNotReady c=ContainerCreating<-x0"),
        ("Always", &["c:0:run"], "Running True - c=running<-x0"),
        ("Always", &["c:2:run", "c:1:1:9"], "Running True - c=running<Error(1)x2"),
        ("Always", &["c:0:0:1"], "Running False ContainersNotReady c=Completed(0)<-x0"),
        ("OnFailure", &["c:0:1:1"], "Running False ContainersNotReady c=Error(1)<-x0"),
    ] {
        check(json!({"restartPolicy": policy}), &up(containers), expected);
    }
    for (policy, container, ended) in [
        ("OnFailure", "c:0:0:1", "Succeeded False PodCompleted c=Completed(0)<-x0"),
        ("Never", "c:0:0:1", "Succeeded False PodCompleted c=Completed(0)<-x0"),
        ("Never", "c:0:3:1", "Failed False PodFailed c=Error(3)<-x0"),
        ("Never", "c:0:lost", "Failed False PodFailed c=ContainerStatusUnknown(137)<-x0"),
    ] {
        let spec = json!({"restartPolicy": policy});
        check(spec.clone(), &down(&[container]), ended);
        let (_, word) = ended.split_once('=').expect("a container");
        check(spec, &up(&[container]), &format!("Running False ContainersNotReady c={word}"));
    }
}

/// Somebody else takes a host port as soon as its holder's phase says that it has ended.
#[test]
fn no_phase_is_final_while_something_of_the_pod_still_runs() {
    let of_words = |pod: &Pod, seen: &Observed| {
        let status = of(pod, seen);
        format!("{} {}", told(&status), status.reason.as_deref().unwrap_or("-"))
    };
    let mut late = pod(json!({"activeDeadlineSeconds": 2_800}));
    late.status.get_or_insert_default().phase = Some("Running".into());
    assert_eq!(of_words(&late, &up(&["c:0:run"])), "Running True - c=running<-x0 -");
    assert_eq!(
        of_words(&late, &up(&["c:0:made"])),
        "Pending False ContainersNotReady c=ContainerCreating<-x0 -"
    );
    assert_eq!(of_words(&late, &up(&["c:0:143:0"])), "Running False ContainersNotReady c=Error(143)<-x0 -");
    assert_eq!(
        of_words(&late, &down(&["c:0:143:0"])),
        "Failed False PodFailed c=Error(143)<-x0 DeadlineExceeded"
    );
    assert_eq!(
        of_words(&late, &down(&["c:0:0:0"])),
        "Failed False PodFailed c=Completed(0)<-x0 DeadlineExceeded"
    );
    // One of two is stubborn.
    let two = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "web:1"}, {"name": "d", "image": "web:1"}]});
    let mut deleted = pod(two);
    deleted.metadata.deletion_timestamp = Some(api_time(at(NOW)));
    let seen = up(&["d:0:run", "c:0:1:0"]);
    assert_eq!(told(&of(&deleted, &seen)), "Running False ContainersNotReady c=Error(1)<-x0 d=running<-x0");
    // What somebody else said of its end stays.
    late.status.get_or_insert_default().phase = Some("Succeeded".into());
    late.status.get_or_insert_default().reason = Some("Theirs".into());
    assert_eq!(
        of_words(&late, &down(&["c:0:143:0"])),
        "Succeeded False PodCompleted c=Error(143)<-x0 Theirs"
    );
}

#[test]
fn a_container_that_was_stopped_for_a_new_definition_has_not_ended() {
    for policy in ["Never", "OnFailure", "Always"] {
        let mut seen = up(&["c:0:0:1"]);
        seen.redefined.insert(skiff_runtime::ContainerId("c0".into()));
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "web:2"}]});
        check(spec, &seen, "Running False ContainersNotReady c=ContainerCreating<Completed(0)x0");
    }
}

#[test]
fn a_container_that_the_runtime_lost_does_not_run_for_ever() {
    let mut pod = pod(json!({}));
    pod.status = Some(of(&pod, &up(&["c:0:run"])));
    pod.metadata.deletion_timestamp = Some(api_time(at(NOW)));
    assert_eq!(told(&of(&pod, &down(&[]))), "Failed False PodFailed c=ContainerStatusUnknown(137)<-x0");
}

#[test]
fn what_nobody_saw_is_given_no_time() {
    let ended = |seen: &str| {
        let status = of(&pod(json!({"restartPolicy": "Never"})), &down(&[seen]));
        let state = status.container_statuses.unwrap_or_default().remove(0).state;
        state.and_then(|state| state.terminated).expect("it has ended").finished_at
    };
    assert_eq!(ended("c:0:lost"), None);
    assert_eq!(ended("c:0:255:9"), Some(api_time(at(NOW - 9))));
}

#[test]
fn waiting_keeps_the_last_end() {
    let mut seen = up(&["c:1:1:4", "c:0:2:9"]);
    seen.crashes.insert("c".into(), crate::backoff::Backoff::next(None, at(NOW - 20)));
    check(json!({}), &seen, "Running False ContainersNotReady c=CrashLoopBackOff<Error(1)x1");
    seen.crashes.clear();
    check(json!({}), &seen, "Running False ContainersNotReady c=Error(1)<Error(2)x1");
}

#[test]
fn init_containers_hold_the_pod_back() {
    let spec =
        |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i", "image": "web:1"}]});
    check(
        spec("Always"),
        &up(&["i:0:run"]),
        "Pending False ContainersNotReady i=running<-x0 c=PodInitializing<-x0",
    );
    check(spec("Never"), &down(&["i:0:1:1"]), "Failed False PodFailed i=Error(1)<-x0 c=PodInitializing<-x0");
    let status = of(&pod(spec("Always")), &up(&["i:0:run"]));
    let initialized = status.conditions.as_ref().expect("has some")[1].clone();
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    check(spec("Always"), &up(&["c:0:run", "i:0:0:1"]), "Running True - i=Completed(0)<-x0 c=running<-x0");
}

#[test]
fn readiness_is_what_probes_say() {
    let probed = json!({"containers": [{"name": "c", "image": "web:1",
        "readinessProbe": {"tcpSocket": {"port": 1}}, "startupProbe": {"tcpSocket": {"port": 1}}}]});
    let mut seen = up(&["c:0:run"]);
    check(probed.clone(), &seen, "Running False ContainersNotReady c=running<-x0");
    let id = seen.containers[0].id.clone();
    seen.probes.insert(id.clone(), Probed { ready: true, started: false, ..Probed::default() });
    check(probed.clone(), &seen, "Running False ContainersNotReady c=running<-x0");
    seen.probes.insert(id, Probed { ready: true, started: true, ..Probed::default() });
    check(probed, &seen, "Running True - c=running<-x0");
}

#[test]
fn deleted_pods_end_as_their_containers_did() {
    let mut pod = pod(json!({}));
    pod.metadata.deletion_timestamp = Some(api_time(at(NOW)));
    assert_eq!(told(&of(&pod, &up(&["c:0:run"]))), "Running True - c=running<-x0");
    assert_eq!(told(&of(&pod, &down(&["c:0:143:0"]))), "Failed False PodFailed c=Error(143)<-x0");
    assert_eq!(told(&of(&pod, &down(&["c:0:0:0"]))), "Succeeded False PodCompleted c=Completed(0)<-x0");
}

#[test]
fn transition_times_and_foreign_conditions_stay() {
    let mut pod = pod(json!({}));
    let before = of(&pod, &up(&["c:0:run"]));
    let foreign =
        PodCondition { type_: "DisruptionTarget".into(), status: "True".into(), ..PodCondition::default() };
    let mut told = before.clone();
    told.conditions.get_or_insert_default().push(foreign.clone());
    pod.status = Some(told);
    let plan = actions(&pod, &up(&["c:0:run"]), at(NOW + 60));
    let later = status(&pod, &up(&["c:0:run"]), &plan, Ipv4Addr::new(10, 100, 0, 2), at(NOW + 60));
    let mut expected = before.conditions.expect("has some");
    expected.push(foreign);
    assert_eq!(later.conditions, Some(expected));
    assert_eq!(later.start_time, before.start_time);
}

#[test]
fn a_status_says_since_when_and_where_the_pod_is() {
    let mut fresh = pod(json!({"hostNetwork": false}));
    fresh.metadata.generation = Some(3);
    fresh.status = serde_json::from_value(json!({"nominatedNodeName": "n1"})).unwrap();
    let mut seen = Observed { seen_since: Some(at(NOW - 7)), ..up(&[]) };
    let first = of(&fresh, &seen);
    let node = "10.100.0.2".to_owned();
    assert_eq!(first.start_time, Some(api_time(at(NOW - 7))));
    assert_eq!(first.observed_generation, Some(3));
    assert_eq!(
        (first.host_ip.as_ref(), first.host_ips),
        (Some(&node), Some(vec![HostIP { ip: node.clone() }]))
    );
    assert_eq!(first.nominated_node_name.as_deref(), Some("n1"));
    assert_eq!(first.pod_ip.as_deref(), Some("10.244.0.2"));
    assert_eq!(first.qos_class.as_deref(), Some("BestEffort"));
    assert!(first.conditions.iter().flatten().all(|condition| condition.observed_generation == Some(3)));
    seen.seen_since = None;
    assert_eq!(of(&fresh, &seen).start_time, Some(api_time(at(NOW))));
    assert_eq!(of(&pod(json!({"hostNetwork": true})), &seen).pod_ip, Some(node));
}

#[test]
fn containers_may_start_where_sandbox_and_network_are_up() {
    let ready = |host_network: bool, sandboxes: &[bool], has_ip: bool| {
        let seen = Observed {
            sandboxes: sandboxes.iter().map(|ready| sandbox(0, *ready)).collect(),
            ip: has_ip.then_some(Ipv4Addr::new(10, 244, 0, 2)),
            ..up(&[])
        };
        let status = of(&pod(json!({ "hostNetwork": host_network })), &seen);
        status.conditions.unwrap_or_default()[0].clone().status == "True"
    };
    for (host_network, sandboxes, has_ip, expected) in [
        (false, &[true][..], true, true),
        (false, &[true], false, false),
        (true, &[true], false, true),
        (false, &[false], true, false),
        (true, &[false], true, false),
        (true, &[], true, false),
    ] {
        assert_eq!(ready(host_network, sandboxes, has_ip), expected, "{host_network} {sandboxes:?} {has_ip}");
    }
}

/// A container's status: `run`, `wait`, `wait<CODE` after an end, `end:CODE`, or nothing.
fn told_of(text: &str) -> ContainerStatus {
    let ended = |code: &str| {
        let end = ContainerStateTerminated {
            exit_code: code.parse().expect("a code"),
            ..ContainerStateTerminated::default()
        };
        State { terminated: Some(end), ..State::default() }
    };
    let waiting = || State { waiting: Some(ContainerStateWaiting::default()), ..State::default() };
    let (state, last_state) = match text.split_once(['<', ':']) {
        Some(("wait", code)) => (Some(waiting()), Some(ended(code))),
        Some((_, code)) => (Some(ended(code)), None),
        None if text == "run" => {
            (Some(State { running: Some(ContainerStateRunning::default()), ..State::default() }), None)
        }
        None if text == "wait" => (Some(waiting()), None),
        None => (None, None),
    };
    ContainerStatus { name: text.into(), state, last_state, ..ContainerStatus::default() }
}

#[test]
fn a_phase_is_what_the_containers_come_to() {
    let all = |words: &[&str]| words.iter().map(|word| told_of(word)).collect::<Vec<_>>();
    for (inits, statuses, going_on, ended) in [
        (&[][..], &["run"][..], "Running", "Succeeded"),
        (&[], &["wait"], "Pending", "Failed"),
        (&[], &["run", "wait"], "Pending", "Failed"),
        (&[], &["run", "wait<1"], "Running", "Failed"),
        (&[], &["wait<0"], "Running", "Succeeded"),
        (&[], &["end:0"], "Running", "Succeeded"),
        (&[], &["end:0", "end:1"], "Running", "Failed"),
        (&["end:0"], &["wait"], "Pending", "Failed"),
        (&["end:0"], &["run"], "Running", "Succeeded"),
        (&["end:1"], &["wait"], "Pending", "Failed"),
        (&["run"], &["wait"], "Pending", "Failed"),
        // Its init containers' records are gone, but not what they made possible.
        (&["wait"], &["run"], "Running", "Succeeded"),
        (&["wait"], &["end:0"], "Running", "Succeeded"),
        (&["wait"], &["end:3"], "Running", "Failed"),
        // A pod of init containers that have not succeeded has not run.
        (&["end:1"], &[], "Pending", "Failed"),
        (&["end:0"], &[], "Running", "Succeeded"),
        (&["end:0", "run"], &[], "Pending", "Failed"),
    ] {
        let (inits, statuses) = (all(inits), all(statuses));
        let names = |list: &[ContainerStatus]| list.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        let what = (names(&inits), names(&statuses));
        assert_eq!(phase(&inits, &statuses, false), going_on, "{what:?} goes on");
        assert_eq!(phase(&inits, &statuses, true), ended, "{what:?} has ended");
    }
}

#[test]
fn a_pod_is_initialized_by_its_inits_or_by_what_came_after_them() {
    let spec: PodSpec =
        serde_json::from_value(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}))
            .unwrap();
    let holds = |spec: &PodSpec, ready: bool, state: &str, started: bool| {
        let inits = [ContainerStatus { name: "i".into(), ready, ..ContainerStatus::default() }];
        let status = ContainerStatus { started: Some(started), ..told_of(state) };
        initialized(spec, &inits, &[status], "Running").status == "True"
    };
    assert!(holds(&spec, true, "wait", false));
    assert!(!holds(&spec, false, "wait", false));
    assert!(holds(&spec, false, "run", true));
    assert!(!holds(&spec, false, "run", false));
    assert!(holds(&spec, false, "end:0", false));
    assert!(holds(&PodSpec { init_containers: None, ..spec.clone() }, false, "wait", false));
    let done = initialized(&spec, &[], &[], "Succeeded");
    assert_eq!((done.status.as_str(), done.reason.as_deref()), ("True", Some("PodCompleted")));
}

#[test]
fn a_container_is_told_from_before_its_start_until_after_its_end() {
    let mounted = json!({"containers": [{"name": "c", "image": "web:1", "volumeMounts": [
        {"name": "v", "mountPath": "/v"}, {"name": "r", "mountPath": "/r", "readOnly": true}]}]});
    let pod = pod(mounted);
    let one = |status: PodStatus| status.container_statuses.unwrap_or_default().remove(0);
    let before = one(of(&pod, &up(&[])));
    assert_eq!((before.image.as_str(), before.started, before.ready), ("web:1", Some(false), false));
    let mounts = before.volume_mounts.unwrap_or_default();
    let told = |index: usize| {
        let mount: &VolumeMountStatus = &mounts[index];
        (mount.name.as_str(), mount.mount_path.as_str(), mount.read_only, mount.recursive_read_only.is_some())
    };
    assert_eq!((told(0), told(1)), (("v", "/v", None, false), ("r", "/r", Some(true), true)));
    // A plan that says nothing of it: it is on its way.
    let plain = status(&pod, &up(&[]), &Plan::default(), Ipv4Addr::new(10, 100, 0, 2), at(NOW));
    let waiting = one(plain).state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
    assert_eq!(waiting.as_deref(), Some("ContainerCreating"));
    let ended = one(of(&pod, &down(&["c:0:0:1"])));
    assert_eq!((ended.ready, ended.started), (false, Some(false)));
}

#[test]
fn an_init_container_is_ready_once_it_has_succeeded() {
    let pod = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "web:1"}]}));
    let ready = |seen: &Observed| of(&pod, seen).init_container_statuses.unwrap_or_default().remove(0).ready;
    assert!(ready(&up(&["i:0:0:1"])));
    assert!(!ready(&up(&["i:0:1:1"])));
    assert!(!ready(&up(&["i:0:run"])));
}

#[test]
fn what_the_runtime_lost_is_told_as_it_was_told_last() {
    let mut deleted = pod(json!({"initContainers": [{"name": "i", "image": "web:1"}]}));
    deleted.metadata.deletion_timestamp = Some(api_time(at(NOW)));
    deleted.status = serde_json::from_value(json!({
        "phase": "Running", "startTime": "1970-01-01T02:00:00Z",
        "initContainerStatuses": [{"name": "i", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {"startedAt": "1970-01-01T02:00:05Z"}}}],
    }))
    .unwrap();
    let told = of(&deleted, &down(&[]));
    let init = told.init_container_statuses.unwrap_or_default().remove(0);
    assert!(init.ready && is_terminated(&init));
    let lost = told.container_statuses.unwrap_or_default().remove(0);
    assert!(!lost.ready);
    let end = lost.state.and_then(|state| state.terminated).expect("it does not run for ever");
    assert_eq!(end.message.as_deref(), Some(NOT_LOCATED));
    assert_eq!(end.started_at, Some(api_time(at(7_205))));
    assert_eq!((end.exit_code, end.finished_at), (EXIT_CODE_UNKNOWN, None));
}

#[test]
fn the_end_before_stays_as_long_as_the_attempt_is_the_same() {
    let last_code = |attempt: i32, name: &str, containers: &[&str]| {
        let mut pod = pod(json!({}));
        pod.status =
            serde_json::from_value(json!({"startTime": "1970-01-01T02:00:00Z", "containerStatuses": [
            {"name": name, "ready": true, "restartCount": attempt, "image": "", "imageID": "",
                "lastState": {"terminated": {"exitCode": 42}}}]}))
            .unwrap();
        let mut seen = up(containers);
        if containers == ["c:2:1:1"] {
            seen.crashes.insert("c".into(), crate::backoff::Backoff::next(None, at(NOW - 1)));
        }
        let status = of(&pod, &seen).container_statuses.unwrap_or_default().remove(0);
        status.last_state.and_then(|state| state.terminated).map(|end| end.exit_code)
    };
    assert_eq!(last_code(2, "c", &["c:2:run"]), Some(42));
    assert_eq!(last_code(1, "c", &["c:2:run"]), None, "of the attempt before");
    assert_eq!(last_code(2, "other", &["c:2:run"]), None);
    assert_eq!(last_code(2, "c", &["c:2:run", "c:1:3:9"]), Some(3), "what the runtime knows goes before");
    // While it waits, its last end is the one that was seen.
    assert_eq!(last_code(2, "c", &["c:2:1:1"]), Some(1));
}

#[test]
fn each_condition_keeps_its_own_time() {
    let mut pod = pod(json!({}));
    let mut told = of(&pod, &up(&["c:0:run"]));
    for (index, condition) in told.conditions.iter_mut().flatten().enumerate() {
        condition.last_transition_time = Some(api_time(at(100 + index as u64)));
    }
    let before = told.conditions.clone();
    pod.status = Some(told);
    assert_eq!(of(&pod, &up(&["c:0:run"])).conditions, before);
}
