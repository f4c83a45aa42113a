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
