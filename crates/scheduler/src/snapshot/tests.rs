//! What is kept of nodes and pods, as they come and go.

use serde_json::{Value, json};

use super::*;
use crate::testing::{info, node, pod};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

/// Nodes `n1` to `n3`.
fn three() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in ["n1", "n2", "n3"] {
        snapshot.set_node(node(name, json!({}), json!({})));
    }
    snapshot
}

fn controlled(name: &str, by: &str) -> Arc<PodInfo> {
    let resources = json!({"requests": {"cpu": "500m", "memory": "1Gi"}});
    let mut object = pod(name, json!({"containers": [{"name": "c", "resources": resources}]}));
    object.metadata.owner_references = serde_json::from_value(json!([
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": by, "uid": by, "controller": true}]))
    .unwrap();
    Arc::new(PodInfo::new(Arc::new(object)))
}

#[test]
fn an_empty_nomination_is_none() {
    let nominated = |status: Value| {
        let mut object = pod("p", json!({}));
        object.status = serde_json::from_value(status).unwrap();
        PodInfo::new(Arc::new(object)).nominated_node().map(str::to_owned)
    };
    assert_eq!(nominated(json!({"nominatedNodeName": "n1"})).as_deref(), Some("n1"));
    assert_eq!(nominated(json!({"nominatedNodeName": ""})), None);
    assert_eq!(nominated(json!({})), None);
}

#[test]
fn a_host_port_of_zero_is_none() {
    let ports = json!([{"containerPort": 80, "hostPort": 0}, {"containerPort": 81, "hostPort": 1}]);
    let pod = info("p", json!({"containers": [{"name": "c", "ports": ports}]}));
    assert_eq!(pod.host_ports.iter().map(|port| port.port).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_a_pod_took_it_gives_back() {
    let mut on = NodeInfo::new(node("n1", json!({}), json!({})));
    on.add_pod(controlled("a", "set"));
    on.add_pod(controlled("b", "set"));
    on.add_pod(controlled("c", "other"));
    let of = |on: &NodeInfo| {
        let count = |name: &str| on.controllers.get(name).copied();
        (on.requested.milli_cpu, on.scoring_requested, count("set"), count("other"))
    };
    let gi = 1 << 30;
    assert_eq!(of(&on), (1500, (1500, 3 * gi), Some(2), Some(1)));
    // Seen again it is counted once.
    on.add_pod(controlled("b", "set"));
    assert_eq!(of(&on), (1500, (1500, 3 * gi), Some(2), Some(1)));
    on.remove_pod(&key("a"));
    assert_eq!(of(&on), (1000, (1000, 2 * gi), Some(1), Some(1)));
    on.remove_pod(&key("b"));
    on.remove_pod(&key("c"));
    assert_eq!(of(&on), (0, (0, 0), None, None));
}

#[test]
fn only_what_decides_about_pods_changes_a_node() {
    let mut snapshot = Snapshot::default();
    let spec = || json!({"unschedulable": true});
    assert_eq!(snapshot.set_node(node("n1", json!({}), json!({}))), NodeChange::Added);
    let mut heartbeat = Node::clone(&node("n1", json!({}), json!({})));
    heartbeat.metadata.resource_version = Some("7".into());
    assert_eq!(snapshot.set_node(Arc::new(heartbeat)), NodeChange::Same);
    assert_eq!(snapshot.set_node(node("n1", spec(), json!({}))), NodeChange::Changed);
    assert_eq!(snapshot.set_node(node("n1", spec(), json!({"disk": "ssd"}))), NodeChange::Changed);
    let mut bigger = Node::clone(&node("n1", spec(), json!({"disk": "ssd"})));
    let allocatable = bigger.status.as_mut().unwrap().allocatable.as_mut().unwrap();
    allocatable.insert("cpu".into(), serde_json::from_value(json!("8")).unwrap());
    assert_eq!(snapshot.set_node(Arc::new(bigger)), NodeChange::Changed);
    assert_eq!(snapshot.node("n1").unwrap().allocatable.milli_cpu, 8_000);
}

#[test]
fn a_node_that_goes_leaves_the_others_and_its_pods_wait_for_it() {
    let mut snapshot = three();
    for (name, on) in [("a", "n1"), ("b", "n2"), ("c", "n3")] {
        snapshot.place(Arc::new(info(name, json!({}))), on);
    }
    snapshot.nominate(Arc::new(info("x", json!({}))), "n2");
    snapshot.nominate(Arc::new(info("y", json!({}))), "n3");
    snapshot.remove_node("n2");
    snapshot.remove_node("unknown");
    assert_eq!(snapshot.node_names(), ["n1", "n3"]);
    for name in ["n1", "n3"] {
        assert_eq!(snapshot.node(name).unwrap().name, name);
    }
    assert!(snapshot.node("n2").is_none());
    assert_eq!((snapshot.nomination(&key("x")), snapshot.nomination(&key("y"))), (None, Some("n3")));
    // One whose node is not known yet waits for that node alone.
    snapshot.place(Arc::new(info("d", json!({}))), "n9");
    assert_eq!(snapshot.placed_keys().len(), 4);
    assert_eq!(snapshot.set_node(node("n2", json!({}), json!({}))), NodeChange::Added);
    let on = |name: &str| {
        let mut keys: Vec<_> = snapshot.node(name).unwrap().pods.keys().map(ToString::to_string).collect();
        keys.sort();
        keys
    };
    assert_eq!(
        (on("n1"), on("n2"), on("n3")),
        (vec!["default/a".to_owned()], vec!["default/b".to_owned()], vec!["default/c".to_owned()],)
    );
    snapshot.remove_node("n1");
    assert_eq!(snapshot.node("n2").map(|node| node.name.as_str()), Some("n2"));
}

#[test]
fn a_nomination_ends_when_the_pod_is_placed_forgotten_or_nominated_elsewhere() {
    let mut snapshot = three();
    let pod = || Arc::new(info("p", json!({})));
    let room = |snapshot: &Snapshot| {
        let kept = |node: &&NodeInfo| node.nominated.contains_key(&key("p"));
        let on = snapshot.nodes().iter().filter(kept).map(|node| node.name.clone());
        (on.collect::<Vec<_>>(), snapshot.nomination(&key("p")).map(str::to_owned))
    };
    snapshot.nominate(pod(), "n1");
    assert_eq!(room(&snapshot), (vec!["n1".to_owned()], Some("n1".to_owned())));
    snapshot.nominate(pod(), "n2");
    assert_eq!(room(&snapshot), (vec!["n2".to_owned()], Some("n2".to_owned())));
    snapshot.forget_nomination(&key("p"));
    assert_eq!(room(&snapshot), (vec![], None));
    snapshot.nominate(pod(), "n2");
    snapshot.place(pod(), "n3");
    assert_eq!(room(&snapshot), (vec![], None));
}
