//! Decides how many pods come or go, which ones go, and what the status says.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::owners::is_deleting;
use crate::pods::{has_ended, is_active, is_available, is_ready, node_name, phase, ready_since, restarts};

/// Pods that one look creates or deletes.
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Debug)]
pub(super) enum Scale {
    Keep,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

pub(super) fn scale(set: &ReplicaSet, own: &[Arc<Pod>]) -> Scale {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let active: Vec<_> = own.iter().filter(|pod| is_active(pod)).cloned().collect();
    match active.len() {
        count if count < wanted => Scale::Create((wanted - count).min(BURST)),
        count if count > wanted => {
            let mut ranked = rank(active);
            ranked.truncate((count - wanted).min(BURST));
            Scale::Delete(ranked)
        }
        _ => Scale::Keep,
    }
}

/// Pods in the order in which they go: the least useful first.
fn rank(mut pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let mut beside: HashMap<String, usize> = HashMap::new();
    for pod in &pods {
        *beside.entry(node_name(pod).to_owned()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| {
        let bound = !node_name(pod).is_empty();
        let order = match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost = pod.metadata.annotations.as_ref().and_then(|own| own.get(DELETION_COST));
        let cost = cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
        let neighbours = Reverse(beside.get(node_name(pod)).copied().unwrap_or(0));
        // A younger pod goes first, by how long it has been ready and then by its age.
        let ready = Reverse(ready_since(pod).map(|since| since.as_second()));
        let created = Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()));
        let key = (bound, order, is_ready(pod), cost, neighbours, ready, Reverse(restarts(pod)), created);
        (key, pod.metadata.name.clone())
    });
    pods
}

pub(super) fn status(
    set: &ReplicaSet,
    own: &[Arc<Pod>],
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template = spec.and_then(|spec| spec.template.as_ref());
    let template = template.and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|metadata| metadata.labels.as_ref());
    let active: Vec<_> = own.iter().filter(|pod| is_active(pod)).collect();
    let count = |pick: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| pick(pod)).count()).unwrap_or(i32::MAX)
    };
    let labeled = |pod: &Pod| {
        labels.into_iter().flatten().all(|(key, value)| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
        })
    };
    let terminating = own.iter().filter(|pod| is_deleting(&pod.metadata) && !has_ended(pod)).count();
    let before = set.status.clone().unwrap_or_default();
    // As the server shows them: zero is left out.
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&labeled)),
        ready_replicas: some(count(&is_ready)),
        available_replicas: some(count(&|pod| is_available(pod, min_ready, now))),
        terminating_replicas: i32::try_from(terminating)
            .ok()
            .and_then(|count| before.terminating_replicas.map_or_else(|| some(count), |_| Some(count))),
        observed_generation: set.metadata.generation,
        conditions: conditions(before.conditions, failure, now),
    }
}

fn conditions(
    before: Option<Vec<ReplicaSetCondition>>,
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, known) {
        (Some((reason, _)), Some(index)) if conditions[index].reason.as_deref() == Some(reason) => {}
        (Some((reason, message)), known) => {
            if let Some(index) = known {
                conditions.remove(index);
            }
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            });
        }
        (None, Some(index)) => drop(conditions.remove(index)),
        (None, None) => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

/// When the next ready pod becomes available.
pub(super) fn next_availability(set: &ReplicaSet, own: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = i64::from(set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0));
    if min_ready <= 0 {
        return None;
    }
    let waiting = own.iter().filter(|pod| is_active(pod)).filter_map(|pod| ready_since(pod));
    let left = waiting.map(|since| min_ready - (now.as_second() - since.as_second()));
    let least = left.filter(|left| *left > 0).min()?;
    u64::try_from(least).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "a", "uid": "s", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        }))
        .unwrap()
    }

    fn running(name: &str, ready: bool, more: Value) -> Arc<Pod> {
        let mut object = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready",
                "status": if ready { "True" } else { "False" }, "lastTransitionTime": "1970-01-01T00:00:10Z"}]},
        });
        json_merge(&mut object, &more);
        pod(name, object)
    }

    fn json_merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    json_merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    fn show(plan: Scale) -> String {
        match plan {
            Scale::Keep => "keep".to_owned(),
            Scale::Create(count) => format!("create {count}"),
            Scale::Delete(pods) => {
                let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
                format!("delete {}", names.join(" "))
            }
        }
    }

    #[test]
    fn only_active_pods_count() {
        let pods = [
            running("a", true, json!({})),
            running("b", true, json!({"status": {"phase": "Failed"}})),
            running("c", true, json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}})),
        ];
        assert_eq!(show(scale(&set(3), &pods)), "create 2");
        assert_eq!(show(scale(&set(1), &pods)), "keep");
        assert_eq!(show(scale(&set(0), &pods)), "delete a");
        assert_eq!(show(scale(&set(2000), &pods)), "create 500");
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let at = |since: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}});
        let pods = [
            running("old", true, at("1970-01-01T00:00:01Z")),
            running("young", true, at("1970-01-01T00:09:00Z")),
            running("cheap", true, json!({"metadata": {"annotations": {DELETION_COST: "-5"}}})),
            running("unready", false, json!({})),
            running("pending", false, json!({"status": {"phase": "Pending"}})),
            running("unbound", false, json!({"spec": {"nodeName": ""}, "status": {"phase": "Pending"}})),
            running("alone", true, json!({"spec": {"nodeName": "n2"}})),
        ];
        assert_eq!(show(scale(&set(0), &pods)), "delete unbound pending unready cheap young old alone");
    }

    #[test]
    fn status_counts_and_tells_failures() {
        let pods = [
            running("a", true, json!({})),
            running("b", false, json!({"metadata": {"labels": {"app": "web"}}})),
            running("c", true, json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}})),
        ];
        let now = Timestamp::from_second(15).unwrap();
        let mut set = set(2);
        let told = status(&set, &pods, None, now);
        assert_eq!(
            serde_json::to_value(&told).unwrap(),
            json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 1, "availableReplicas": 1,
                "terminatingReplicas": 1, "observedGeneration": 3})
        );
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        assert_eq!(status(&set, &pods, None, now).available_replicas, None);
        assert_eq!(next_availability(&set, &pods, now), Some(Duration::from_secs(25)));
        let failed = status(&set, &pods, Some(("FailedCreate", "no".into())), now);
        let conditions = failed.conditions.clone().unwrap();
        assert_eq!(conditions[0].reason.as_deref(), Some("FailedCreate"));
        set.status = Some(failed);
        let later = Timestamp::from_second(99).unwrap();
        let still = status(&set, &pods, Some(("FailedCreate", "still no".into())), later);
        assert_eq!(still.conditions, Some(conditions));
        assert_eq!(status(&set, &pods, None, later).conditions, None);
    }

    #[test]
    fn pods_go_by_phase_before_all_else_that_is_theirs() {
        let phase = |phase: &str| json!({"status": {"phase": phase}});
        let pods = [
            running("a", false, phase("Running")),
            running("b", false, phase("Unknown")),
            running("c", true, phase("Pending")),
        ];
        assert_eq!(show(scale(&set(0), &pods)), "delete c b a");
        assert_eq!(show(scale(&set(2), &pods)), "delete c");
        let many: Vec<_> = (0..510).map(|index| running(&format!("p{index}"), true, json!({}))).collect();
        let Scale::Delete(gone) = scale(&set(8), &many) else { panic!("there are too many") };
        assert_eq!(gone.len(), 500);
        assert_eq!(show(scale(&set(10), &pods)), "create 7");
    }

    #[test]
    fn another_reason_of_failure_takes_the_place_of_the_first() {
        let now = |second| Timestamp::from_second(second).unwrap();
        let told = |before, reason: &str, second| {
            conditions(before, Some((reason, format!("{reason}!"))), now(second)).unwrap()
        };
        let first = told(None, "FailedCreate", 1);
        let second = told(Some(first), "FailedDelete", 2);
        assert_eq!(second.len(), 1);
        assert_eq!(second[0].message.as_deref(), Some("FailedDelete!"));
        assert_eq!(second[0].last_transition_time.as_ref().unwrap().0, now(2));
    }

    #[test]
    fn who_has_been_ready_long_enough_is_not_waited_for() {
        let mut set = set(2);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let pods = [running("a", true, json!({}))];
        let at = |second| next_availability(&set, &pods, Timestamp::from_second(second).unwrap());
        assert_eq!(at(39), Some(Duration::from_secs(1)));
        assert_eq!(at(40), None);
        assert_eq!(at(41), None);
    }
}
