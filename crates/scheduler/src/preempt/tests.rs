//! Who has to go for whom, by values.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::decide::schedule;
use crate::testing::{info, node, pod, three_nodes};

fn cpus(cpu: &str, priority: i32) -> Value {
    json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

/// A pod that started in that second.
fn started_at(name: &str, spec: Value, second: u8) -> Arc<PodInfo> {
    let mut object = pod(name, spec);
    object.status =
        serde_json::from_value(json!({"startTime": format!("2026-01-01T00:00:{second:02}Z")})).unwrap();
    Arc::new(PodInfo::new(Arc::new(object)))
}

fn terminating(name: &str, spec: Value) -> Arc<PodInfo> {
    let mut object = pod(name, spec);
    object.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    Arc::new(PodInfo::new(Arc::new(object)))
}

/// Terminating for the sake of a pod, or for what else `reason` says.
fn disrupted(name: &str, spec: Value, reason: &str) -> Arc<PodInfo> {
    let mut object = (*terminating(name, spec).pod).clone();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason});
    object.status = serde_json::from_value(json!({"conditions": [condition]})).unwrap();
    Arc::new(PodInfo::new(Arc::new(object)))
}

fn preempted(name: &str, spec: Value) -> Arc<PodInfo> {
    disrupted(name, spec, "PreemptionByScheduler")
}

/// `NODE without VICTIMS`, or why not.
fn said(snapshot: &Snapshot, spec: Value) -> String {
    let pod = info("p", spec);
    let error = schedule(snapshot, &pod, 0).expect_err("it fits nowhere");
    match preempt(snapshot, &pod, &error) {
        Outcome::Useless { message, keep_nomination } => {
            format!("{message}{}", if keep_nomination { " (waits)" } else { "" })
        }
        Outcome::Evict { node, victims } => {
            let names: Vec<_> = victims.iter().map(|victim| victim.key.name.as_str()).collect();
            format!("{node} without {}", names.join(","))
        }
    }
}

/// On each of the workers these pods.
fn on_workers(first: &[Arc<PodInfo>], second: &[Arc<PodInfo>]) -> Snapshot {
    let mut snapshot = three_nodes();
    first.iter().for_each(|pod| snapshot.place(pod.clone(), "w1"));
    second.iter().for_each(|pod| snapshot.place(pod.clone(), "w2"));
    snapshot
}

fn placed(name: &str, spec: Value) -> Arc<PodInfo> {
    Arc::new(info(name, spec))
}

#[test]
fn the_node_is_chosen_that_loses_least() {
    let wants = || cpus("4", 100);
    // The highest priority that is lost counts before how many are.
    let snapshot =
        on_workers(&[placed("a", cpus("4", 10))], &[placed("b", cpus("2", 9)), placed("c", cpus("2", 9))]);
    assert_eq!(said(&snapshot, wants()), "w2 without b,c");
    // Then the sum of priorities, in which every pod counts, even one of negative priority.
    let snapshot =
        on_workers(&[placed("a", cpus("2", 10)), placed("b", cpus("2", -5))], &[placed("c", cpus("4", 10))]);
    assert_eq!(said(&snapshot, wants()), "w2 without c");
    let snapshot = on_workers(
        &[placed("a", cpus("2", 10)), placed("b", cpus("2", 5))],
        &[placed("c", cpus("2", 10)), placed("d", cpus("2", 4))],
    );
    assert_eq!(said(&snapshot, wants()), "w2 without c,d");
    // Then the one whose most important pod has run the shortest.
    let snapshot = on_workers(&[started_at("a", cpus("4", 10), 5)], &[started_at("b", cpus("4", 10), 6)]);
    assert_eq!(said(&snapshot, wants()), "w2 without b");
    let snapshot = on_workers(
        &[started_at("a", cpus("2", 10), 7), started_at("b", cpus("2", 5), 1)],
        &[started_at("c", cpus("2", 10), 6), started_at("d", cpus("2", 5), 9)],
    );
    assert_eq!(
        said(&snapshot, wants()),
        "w1 without a,b",
        "only of the most important ones the start counts"
    );
    // Of several such the one that has run longest.
    let snapshot = on_workers(
        &[started_at("a", cpus("2", 10), 9), started_at("b", cpus("2", 10), 3)],
        &[started_at("c", cpus("2", 10), 5), started_at("d", cpus("2", 10), 4)],
    );
    assert_eq!(said(&snapshot, wants()), "w2 without d,c");
    // What has not started counts as latest.
    let snapshot = on_workers(&[started_at("a", cpus("4", 10), 9)], &[placed("b", cpus("4", 10))]);
    assert_eq!(said(&snapshot, wants()), "w2 without b");
}

#[test]
fn of_a_nodes_pods_the_more_important_and_the_longer_running_are_spared() {
    let on = |pods: &[Arc<PodInfo>], wants: Value| {
        said(&on_workers(pods, &[placed("full", cpus("4", 200))]), wants)
    };
    let pods = [placed("high", cpus("2", 20)), placed("low", cpus("2", 10))];
    assert_eq!(on(&pods, cpus("2", 100)), "w1 without low");
    let pods = [started_at("old", cpus("2", 10), 1), started_at("young", cpus("2", 10), 2)];
    assert_eq!(on(&pods, cpus("2", 100)), "w1 without young");
    // A small one beside it need not go, though it is less important.
    let pods = [placed("big", cpus("3", 20)), placed("small", cpus("1", 10))];
    assert_eq!(on(&pods, cpus("3", 100)), "w1 without big");
    // Nobody goes for who is no more important.
    let pods = [placed("like", cpus("4", 100))];
    assert!(on(&pods, cpus("2", 100)).ends_with("2 No preemption victims found for incoming pod."));
}

#[test]
fn who_may_not_preempt_or_waits_already_does_not() {
    let mut never = cpus("4", 100);
    never["preemptionPolicy"] = "Never".into();
    let full = || on_workers(&[placed("a", cpus("4", 1))], &[placed("b", cpus("4", 1))]);
    assert_eq!(said(&full(), never), "not eligible due to preemptionPolicy=Never. (waits)");

    let waits = "not eligible due to a terminating pod on the nominated node. (waits)";
    let nominated = |leaving: Arc<PodInfo>| {
        let mut snapshot = on_workers(&[leaving], &[placed("b", cpus("4", 1))]);
        snapshot.nominate(Arc::new(info("p", cpus("4", 100))), "w1");
        snapshot
    };
    assert_eq!(said(&nominated(preempted("a", cpus("4", 1))), cpus("4", 100)), waits);
    // Who was chosen to leave counts before it does.
    let mut chosen = nominated(placed("a", cpus("4", 1)));
    chosen.mark_victim(&info("a", cpus("4", 1)));
    assert_eq!(said(&chosen, cpus("4", 100)), waits);
    chosen.forget_victim(&info("a", cpus("4", 1)).key);
    assert_eq!(said(&chosen, cpus("4", 100)), "w1 without a");
    // Nobody leaves there, or only somebody who does not leave for it.
    assert_eq!(said(&nominated(preempted("a", cpus("4", 100))), cpus("4", 100)), "w2 without b");
    assert_eq!(said(&nominated(terminating("a", cpus("4", 1))), cpus("4", 100)), "w1 without a");
    let evicted = disrupted("a", cpus("4", 1), "EvictionByEvictionAPI");
    assert_eq!(said(&nominated(evicted), cpus("4", 100)), "w1 without a");
    // It can't go there any more, whoever leaves.
    let mut hopeless = nominated(preempted("a", cpus("4", 1)));
    hopeless.set_node(node("w1", json!({"unschedulable": true}), json!({"disk": "ssd"})));
    assert_eq!(said(&hopeless, cpus("4", 100)), "w2 without b");
    // That another node can't take it changes nothing.
    let mut elsewhere = nominated(preempted("a", cpus("4", 1)));
    elsewhere.set_node(node("w2", json!({"unschedulable": true}), json!({})));
    assert_eq!(said(&elsewhere, cpus("4", 100)), waits);
}

#[test]
fn what_would_still_lack_is_told() {
    let mut big = cpus("4", 1);
    big["containers"][0]["resources"]["requests"]["memory"] = "8Gi".into();
    let mut wants = cpus("4", 100);
    wants["containers"][0]["resources"]["requests"]["memory"] = "1Gi".into();
    let mut high = cpus("1", 200);
    high["containers"][0]["resources"]["requests"]["memory"] = "8Gi".into();
    let snapshot = on_workers(
        &[placed("a", cpus("3", 1)), placed("h", high)],
        &[placed("b", cpus("1", 1)), placed("i", cpus("1", 200))],
    );
    assert_eq!(
        said(&snapshot, wants),
        "0/3 nodes are available: 1 Insufficient memory, 1 Preemption is not helpful for scheduling, 2 Insufficient cpu."
    );
}
