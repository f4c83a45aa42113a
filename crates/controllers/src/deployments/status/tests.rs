//! What is told of a deployment, by what its sets tell and what was told before.

use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn set(name: &str, status: Value) -> Arc<ReplicaSet> {
    let metadata = json!({"name": name, "namespace": "a", "uid": name});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
}

/// Four pods wanted, of which one may be missing; a minute to make progress.
fn deployment(before: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 2},
        "spec": {"replicas": 4, "progressDeadlineSeconds": 60, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}},
        "status": before,
    }))
    .unwrap()
}

/// The sets of `all` pods, of which `updated` are the current one's.
fn sets(all: i32, updated: i32, ready: i32, available: i32) -> [Arc<ReplicaSet>; 2] {
    [
        set("old", json!({"replicas": all - updated})),
        set("new", json!({"replicas": updated, "readyReplicas": ready, "availableReplicas": available})),
    ]
}

fn condition<'a>(told: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    told.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn in_short(told: &DeploymentStatus, type_: &str) -> String {
    condition(told, type_).map_or("-".to_owned(), |condition| {
        format!("{} {}", condition.status, condition.reason.as_deref().unwrap_or_default())
    })
}

#[test]
fn counts_are_sums_over_all_sets() {
    let status = |all: i32| json!({"replicas": all, "readyReplicas": all - 1, "availableReplicas": all - 2, "terminatingReplicas": 1});
    let sets = [set("a", status(4)), set("b", status(3)), set("c", json!({"replicas": 0}))];
    let told = counts(&sets, Some(&sets[1]));
    assert_eq!(told, Counts { all: 7, updated: 3, ready: 5, available: 3, terminating: 2 });
    assert_eq!(counts(&sets, None).updated, 0);
    let complete = |all, updated, available| {
        is_complete(&deployment(json!({})), &Counts { all, updated, available, ready: 4, terminating: 0 })
    };
    assert!(complete(4, 4, 4));
    for (all, updated, available) in [(5, 4, 4), (4, 3, 4), (4, 4, 3), (4, 4, 5)] {
        assert!(!complete(all, updated, available), "{all} {updated} {available}");
    }
}

#[test]
fn available_is_what_may_be_missing_less_than_wanted() {
    let told = |available: i32| {
        let sets = sets(5, 5, 5, available);
        status(&deployment(json!({})), &sets, Some(&sets[1]), at(0)).0
    };
    assert_eq!(in_short(&told(3), "Available"), "True MinimumReplicasAvailable");
    assert_eq!(in_short(&told(2), "Available"), "False MinimumReplicasUnavailable");
    assert_eq!(told(3).unavailable_replicas, Some(2));
    assert_eq!(told(5).unavailable_replicas, None);
    assert_eq!(told(6).unavailable_replicas, None);
}

#[test]
fn a_sets_failure_is_the_deployments_until_it_is_over() {
    let failing = |type_: &str| {
        let condition = json!({"type": type_, "status": "True", "reason": "FailedCreate", "message": "no"});
        [set("a", json!({"replicas": 0, "conditions": [condition]}))]
    };
    let told = |type_: &str, before: Value| {
        let sets = failing(type_);
        status(&deployment(before), &sets, Some(&sets[0]), at(0)).0
    };
    let failed = told("ReplicaFailure", json!({}));
    assert_eq!(in_short(&failed, "ReplicaFailure"), "True FailedCreate");
    assert_eq!(in_short(&told("Other", serde_json::to_value(&failed).unwrap()), "ReplicaFailure"), "-");
}

fn progressing(reason: &str, status: &str) -> Value {
    json!({"type": "Progressing", "status": status, "reason": reason, "message": "as it was",
        "lastUpdateTime": "1970-01-01T00:00:00Z", "lastTransitionTime": "1970-01-01T00:00:00Z"})
}

/// After four pods, one of them new, and three of them ready and available.
fn before(reason: &str, generation: i64) -> Value {
    json!({"observedGeneration": generation, "replicas": 4, "updatedReplicas": 1, "readyReplicas": 3,
        "availableReplicas": 3, "conditions": [progressing(reason, "True")]})
}

#[test]
fn each_count_that_moves_is_progress_and_nothing_else_is() {
    // When it is looked at again: a second after the deadline, which progress puts off.
    let again = |generation: i64, reason: &str, sets: [Arc<ReplicaSet>; 2]| {
        let deployment = deployment(before(reason, generation));
        status(&deployment, &sets, Some(&sets[1]), at(30)).1.map(|after| after.as_secs())
    };
    for (moved, all, updated, ready, available) in [
        (false, 4, 1, 3, 3),
        (false, 4, 1, 2, 2),
        (false, 4, 0, 3, 3),
        (false, 5, 1, 3, 3),
        (true, 5, 2, 3, 3),
        (true, 3, 1, 3, 3),
        (true, 4, 1, 4, 3),
        (true, 4, 1, 3, 4),
    ] {
        assert_eq!(
            again(2, "ReplicaSetUpdated", sets(all, updated, ready, available)),
            Some(if moved { 61 } else { 31 }),
            "{all} {updated} {ready} {available}"
        );
    }
    assert_eq!(again(1, "ReplicaSetUpdated", sets(4, 1, 3, 3)), Some(61), "another generation");
    // Also where the same words were said before.
    let mut same = before("ReplicaSetUpdated", 2);
    same["conditions"][0]["message"] = "ReplicaSet \"new\" is progressing.".into();
    same["conditions"].as_array_mut().unwrap().insert(0, json!({"type": "Mine", "status": "True"}));
    let moved = sets(5, 2, 3, 3);
    let (told, after) = status(&deployment(same), &moved, Some(&moved[1]), at(30));
    assert_eq!(after.map(|after| after.as_secs()), Some(61));
    assert_eq!(condition(&told, "Mine").unwrap().last_update_time, None);
    assert_eq!(again(2, "DeploymentPaused", sets(4, 1, 3, 3)), Some(61), "it goes on after a pause");
}

#[test]
fn without_progress_the_deadline_passes() {
    let told = |second: i64| {
        let sets = sets(4, 1, 3, 3);
        let (told, again) =
            status(&deployment(before("ReplicaSetUpdated", 2)), &sets, Some(&sets[1]), at(second));
        (in_short(&told, "Progressing"), again.map(|after| after.as_secs()))
    };
    assert_eq!(told(59), ("True ReplicaSetUpdated".into(), Some(2)));
    assert_eq!(told(60), ("False ProgressDeadlineExceeded".into(), None));
    let mut patient = deployment(before("ReplicaSetUpdated", 2));
    patient.spec.as_mut().unwrap().progress_deadline_seconds = Some(i32::MAX);
    let sets = sets(4, 1, 3, 3);
    assert_eq!(status(&patient, &sets, Some(&sets[1]), at(1_000)).1, None);
    patient.spec.as_mut().unwrap().progress_deadline_seconds = Some(60);
    patient.spec.as_mut().unwrap().paused = Some(true);
    let (told, again) = status(&patient, &sets, Some(&sets[1]), at(1_000));
    assert_eq!((in_short(&told, "Progressing").as_str(), again), ("Unknown DeploymentPaused", None));
}

#[test]
fn what_is_complete_is_said_once_of_each_generation() {
    let told = |reason: &str, generation: i64, all: [Arc<ReplicaSet>; 2]| {
        let (told, again) = status(&deployment(before(reason, generation)), &all, Some(&all[1]), at(30));
        assert_eq!(again, None);
        let condition = condition(&told, "Progressing").unwrap();
        (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default())
    };
    let done = "ReplicaSet \"new\" has successfully progressed.";
    let both = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    let complete = || sets(4, 4, 4, 4);
    assert_eq!(told("ReplicaSetUpdated", 2, complete()), both(NEW_SET_AVAILABLE, done));
    assert_eq!(told(NEW_SET_AVAILABLE, 2, complete()), both(NEW_SET_AVAILABLE, "as it was"));
    assert_eq!(told(NEW_SET_AVAILABLE, 1, complete()), both(NEW_SET_AVAILABLE, done));
    // Losing a pod later is no rollout.
    assert_eq!(told(NEW_SET_AVAILABLE, 2, sets(3, 3, 3, 3)), both(NEW_SET_AVAILABLE, "as it was"));
}

#[test]
fn a_condition_keeps_its_time_as_long_as_its_status() {
    let mut deployment = deployment(json!({"conditions": [progressing("ReplicaSetUpdated", "False")]}));
    note_create_failure(&mut deployment, "no room", at(9));
    let told = deployment.status.clone().unwrap();
    assert_eq!(in_short(&told, "Progressing"), "False ReplicaSetCreateError");
    let times = |told: &DeploymentStatus| {
        let condition = condition(told, "Progressing").unwrap();
        let second = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second());
        (second(&condition.last_transition_time), second(&condition.last_update_time))
    };
    assert_eq!(times(&told), (Some(0), Some(9)));
    // The same once more is nothing new.
    note_create_failure(&mut deployment, "no room", at(10));
    assert_eq!(deployment.status.as_ref().unwrap(), &told);
    let sets = sets(4, 4, 4, 4);
    let (told, _) = status(&deployment, &sets, Some(&sets[1]), at(11));
    assert_eq!(times(&told), (Some(11), Some(11)), "another status");
}
