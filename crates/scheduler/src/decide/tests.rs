//! Decisions and their wording on small clusters.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::preempt::{Outcome, preempt};
use crate::testing::{info, node, three_nodes};

fn web(port: i32) -> Value {
    json!({"containers": [{"name": "web", "ports": [{"containerPort": port, "hostPort": port}]}]})
}

fn with(mut spec: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn place(snapshot: &mut Snapshot, name: &str, spec: Value, node: &str) {
    snapshot.place(Arc::new(info(name, spec)), node);
}

/// The whole message of a pod that fits nowhere.
fn message(snapshot: &Snapshot, spec: Value) -> String {
    let pod = info("p", spec);
    let error = schedule(snapshot, &pod, 0).expect_err("the pod fits nowhere");
    if error.nodes == 0 {
        return error.message(None);
    }
    match preempt(snapshot, &pod, &error) {
        Outcome::Useless { message, .. } => error.message(Some(&message)),
        Outcome::Evict { node, victims } => {
            let names: Vec<_> = victims.iter().map(|victim| victim.key.name.as_str()).collect();
            format!("{} -> {node} without {}", error.message(None), names.join(","))
        }
    }
}

#[test]
fn a_taken_host_port_beside_a_tainted_node() {
    let mut snapshot = three_nodes();
    place(&mut snapshot, "a", web(8080), "w1");
    place(&mut snapshot, "b", web(8080), "w2");
    assert_eq!(
        message(&snapshot, web(8080)),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't have free ports for the \
         requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is \
         not helpful for scheduling, 2 No preemption victims found for incoming pod."
    );
}

#[test]
fn a_fourth_replica_on_three_nodes() {
    let mut snapshot = three_nodes();
    let spec = with(web(9000), json!({"tolerations": [{"operator": "Exists"}]}));
    for (name, node) in [("a", "cp"), ("b", "w1"), ("c", "w2")] {
        place(&mut snapshot, name, spec.clone(), node);
    }
    assert_eq!(
        message(&snapshot, spec),
        "0/3 nodes are available: 3 node(s) didn't have free ports for the requested pod ports. no new claims \
         to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
    );
}

#[test]
fn other_wordings() {
    assert_eq!(message(&Snapshot::default(), json!({})), "no nodes available to schedule pods");
    let cpus = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    assert_eq!(
        message(&three_nodes(), cpus("64")),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to \
         deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    let never = with(cpus("64"), json!({"preemptionPolicy": "Never"}));
    assert_eq!(
        message(&three_nodes(), never),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to \
         deallocate, preemption: not eligible due to preemptionPolicy=Never."
    );
    assert_eq!(
        message(&three_nodes(), json!({"nodeSelector": {"disk": "none"}})),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's node \
         affinity/selector. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is \
         not helpful for scheduling."
    );
    let pinned = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["w1"]}]}]}}}});
    let mut snapshot = three_nodes();
    place(&mut snapshot, "a", web(80), "w1");
    assert_eq!(
        message(&snapshot, with(web(80), pinned)),
        "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 2 node(s) \
         didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are \
         available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn reasons_sort_as_text() {
    let mut snapshot = Snapshot::default();
    for index in 0..12 {
        let spec = if index < 10 { json!({"unschedulable": true}) } else { json!({}) };
        snapshot.set_node(node(&format!("n{index}"), spec, json!({})));
    }
    let text = message(&snapshot, json!({"nodeSelector": {"x": "y"}}));
    assert!(
        text.starts_with(
            "0/12 nodes are available: 10 node(s) were unschedulable, 2 node(s) didn't match Pod's node \
             affinity/selector. "
        ),
        "{text}"
    );
}

#[test]
fn preemption_takes_the_least_important_pods() {
    let cpus = |cpu: &str, priority: i32| {
        json!({"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    };
    let mut snapshot = three_nodes();
    place(&mut snapshot, "high", cpus("3", 50), "w1");
    place(&mut snapshot, "low", cpus("3", 10), "w2");
    place(&mut snapshot, "small", cpus("500m", 5), "w2");
    assert_eq!(
        message(&snapshot, cpus("2", 100)),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. -> w2 without low"
    );
    assert_eq!(
        message(&snapshot, cpus("4", 20)),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. -> w2 without low,small"
    );
    assert_eq!(
        message(&snapshot, cpus("2", 10)),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to \
         deallocate, preemption: 0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found \
         for incoming pod, 1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn scores_choose_among_nodes_that_fit() {
    let mut snapshot = three_nodes();
    let asks = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]});
    place(&mut snapshot, "big", asks("3"), "w1");
    let on =
        |snapshot: &Snapshot, spec: Value, start| schedule(snapshot, &info("p", spec), start).unwrap().node;
    for start in 0..4 {
        assert_eq!(on(&snapshot, asks("1"), start), "w2", "the emptier one, wherever the search starts");
    }
    let prefers = with(
        asks("1"),
        json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {
            "matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}),
    );
    assert_eq!(on(&snapshot, prefers, 0), "w1");
    assert_eq!(on(&snapshot, json!({"nodeSelector": {"disk": "ssd"}}), 0), "w1");

    let mut snapshot = three_nodes();
    let owned = |name: &str| {
        let mut pod = crate::testing::pod(name, json!({}));
        pod.metadata.owner_references = serde_json::from_value(json!([
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]))
        .unwrap();
        PodInfo::new(Arc::new(pod))
    };
    let mut used = std::collections::BTreeMap::<String, i32>::new();
    for index in 0..6 {
        let pod = owned(&format!("p{index}"));
        let choice = schedule(&snapshot, &pod, index).unwrap();
        *used.entry(choice.node.clone()).or_default() += 1;
        snapshot.place(Arc::new(pod), &choice.node);
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), [("w1".to_owned(), 3), ("w2".to_owned(), 3)]);

    let mut snapshot = three_nodes();
    let mut with_image = (*node("w3", json!({}), json!({}))).clone();
    with_image.status.as_mut().unwrap().images = serde_json::from_value(json!([
        {"names": ["docker.io/library/web:latest"], "sizeBytes": 900_000_000}]))
    .unwrap();
    snapshot.set_node(Arc::new(with_image));
    assert_eq!(on(&snapshot, json!({}), 0), "w3", "where the image is already");
}

#[test]
fn pods_without_requests_use_all_of_a_big_cluster() {
    let mut snapshot = Snapshot::default();
    for index in 0..300 {
        snapshot.set_node(node(&format!("n{index}"), json!({}), json!({})));
    }
    let mut start = 0;
    for index in 0..300 {
        let pod = info(&format!("p{index}"), json!({}));
        let choice = schedule(&snapshot, &pod, start).unwrap();
        start = choice.next_start;
        snapshot.place(Arc::new(pod), &choice.node);
    }
    let most = snapshot.nodes().iter().map(|node| node.pods.len()).max();
    assert!(most <= Some(2), "300 pods on 300 nodes are spread, not {most:?} on one");
}

#[test]
fn a_falling_share_of_a_big_clusters_nodes_is_enough() {
    for (nodes, enough) in [
        (0, 100),
        (99, 100),
        (100, 100),
        (208, 101),
        (300, 144),
        (1000, 420),
        (5000, 500),
        (5624, 337),
        (5625, 281),
        (10_000, 500),
    ] {
        assert_eq!(searched(nodes), enough, "{nodes} nodes");
    }
}

fn choice(snapshot: &Snapshot, spec: Value, start: usize) -> (String, usize, usize) {
    let choice = schedule(snapshot, &info("p", spec), start).expect("it fits");
    (choice.node, choice.feasible, choice.next_start)
}

fn pinned(names: &[&str]) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": names}]}]}}}})
}

#[test]
fn equal_nodes_get_their_turn() {
    let snapshot = three_nodes();
    for (start, node, next) in [(0, "w1", 1), (1, "w2", 2), (2, "w2", 0)] {
        assert_eq!(choice(&snapshot, json!({}), start), (node.to_owned(), 2, next), "from {start}");
    }
    // The search of a pod that fits one node only doesn't end anybody's turn, nor does one that is pinned.
    assert_eq!(choice(&snapshot, json!({"nodeSelector": {"disk": "ssd"}}), 1), ("w1".to_owned(), 1, 1));
    assert_eq!(choice(&snapshot, pinned(&["w2", "gone"]), 2), ("w2".to_owned(), 1, 2));
    assert_eq!(choice(&snapshot, pinned(&["w1", "w2"]), 1), ("w2".to_owned(), 2, 1));
}

#[test]
fn the_search_of_a_big_cluster_ends_when_enough_nodes_fit_and_goes_on_there() {
    let mut snapshot = Snapshot::default();
    for index in 0..300 {
        let spec = if index < 100 { json!({"unschedulable": true}) } else { json!({}) };
        snapshot.set_node(node(&format!("n{index}"), spec, json!({})));
    }
    assert_eq!(choice(&snapshot, json!({}), 0), ("n100".to_owned(), 144, 244));
    // The 200th turn is the 56th of 144, and 144 fit up to the 44th node after the last.
    assert_eq!(choice(&snapshot, json!({}), 110), ("n220".to_owned(), 144, 254));
    assert_eq!(choice(&snapshot, json!({}), 200), ("n256".to_owned(), 144, 144));
}

#[test]
fn a_nominated_pod_goes_to_its_node_if_it_fits_there() {
    let mut snapshot = three_nodes();
    let cpus = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    place(&mut snapshot, "other", cpus("2"), "w1");
    assert_eq!(choice(&snapshot, cpus("1"), 7).0, "w2", "which is emptier");
    snapshot.nominate(Arc::new(info("p", cpus("1"))), "w1");
    assert_eq!(choice(&snapshot, cpus("1"), 7), ("w1".to_owned(), 1, 7));
    assert_eq!(choice(&snapshot, cpus("3"), 0).0, "w2", "the only one where it fits");
    assert_eq!(choice(&snapshot, with(cpus("1"), pinned(&["w2"])), 0).0, "w2", "the only one it may go to");
    assert_eq!(choice(&snapshot, with(cpus("1"), pinned(&["w1", "w2"])), 0).0, "w1");
}

#[test]
fn a_pod_pinned_to_all_nodes_hears_of_each() {
    assert_eq!(
        message(&three_nodes(), with(json!({"nodeSelector": {"disk": "none"}}), pinned(&["cp", "w1", "w2"]))),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's node \
         affinity/selector. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is \
         not helpful for scheduling."
    );
    assert_eq!(
        message(&three_nodes(), pinned(&["gone"])),
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. no new claims to \
         deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn the_queue_hears_each_filter_that_refused_once() {
    let error = schedule(&three_nodes(), &info("p", json!({"nodeSelector": {"disk": "none"}})), 0)
        .expect_err("it fits nowhere");
    assert_eq!(error.plugins(), ["NodeAffinity", "TaintToleration"]);
}
