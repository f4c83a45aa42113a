//! The scheduler's course over time: what wakes a waiting pod, and what a failed write undoes.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::testing::{node, pod};

struct Cluster {
    state: State,
    now: Instant,
}

impl Cluster {
    fn new(nodes: &[&str]) -> Self {
        let mut state = State::new("default-scheduler");
        for name in nodes {
            state.node_applied(&node(name, json!({}), json!({})));
        }
        Self { state, now: Instant::now() }
    }

    fn apply(&mut self, name: &str, spec: Value) -> Arc<Pod> {
        let pod = Arc::new(pod(name, spec));
        self.state.pod_applied(&pod);
        pod
    }

    /// What the scheduler does until nothing is due, with every binding seen in the watch.
    fn settle(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(action) = self.state.next(self.now) {
            match action {
                Action::Bind { pod, node } => {
                    log.push(format!("{} on {node}", pod.key.name));
                    let mut bound = (*pod.pod).clone();
                    bound.spec.as_mut().unwrap().node_name = Some(node);
                    self.state.bound(&pod);
                    self.state.pod_applied(&Arc::new(bound));
                }
                Action::Fail { pod, victims, nomination, .. } => {
                    let victims: Vec<_> = victims.iter().map(|victim| victim.key.name.as_str()).collect();
                    log.push(format!("{} waits {nomination:?} {victims:?}", pod.key.name));
                }
            }
        }
        log
    }

    fn gone(&mut self, name: &str) {
        self.state.pod_gone(&ObjectKey::new("default", name));
    }
}

fn web() -> Value {
    json!({"containers": [{"name": "web", "ports": [{"containerPort": 80, "hostPort": 80}]}]})
}

#[test]
fn a_freed_host_port_schedules_the_waiting_pod() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.apply("a", web());
    cluster.apply("b", web());
    assert_eq!(cluster.settle(), ["a on n1", "b waits Clear []"]);
    cluster.apply("c", json!({}));
    assert_eq!(cluster.settle(), ["c on n1"]);
    cluster.gone("c");
    assert!(cluster.settle().is_empty(), "another pod's end says nothing about the port");
    cluster.gone("a");
    assert_eq!(cluster.settle(), ["b on n1"]);
}

#[test]
fn a_pod_that_has_ended_frees_its_port() {
    let mut cluster = Cluster::new(&["n1"]);
    let first = cluster.apply("a", web());
    cluster.apply("b", web());
    cluster.settle();
    let mut ended = (*first).clone();
    ended.spec.as_mut().unwrap().node_name = Some("n1".into());
    ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    cluster.state.pod_applied(&Arc::new(ended));
    assert_eq!(cluster.settle(), ["b on n1"]);
}

#[test]
fn node_changes_wake_whom_they_let_in() {
    let mut cluster = Cluster::new(&[]);
    cluster.apply("a", json!({"nodeSelector": {"disk": "ssd"}}));
    assert_eq!(cluster.settle(), ["a waits Clear []"]);
    cluster.state.node_applied(&node("n1", json!({}), json!({})));
    assert_eq!(cluster.settle(), ["a waits Clear []"], "its message counts the new node");
    cluster.state.node_applied(&node("n1", json!({}), json!({})));
    assert!(cluster.settle().is_empty(), "a heartbeat changes nothing");
    cluster.state.node_applied(&node("n1", json!({}), json!({"disk": "ssd"})));
    assert_eq!(cluster.settle(), ["a on n1"]);
}

#[test]
fn others_pods_and_gated_pods_are_left_alone() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.apply("theirs", json!({"schedulerName": "other"}));
    cluster.apply("gated", json!({"schedulingGates": [{"name": "x.io/gate"}]}));
    assert!(cluster.settle().is_empty());
    cluster.apply("gated", json!({}));
    assert_eq!(cluster.settle(), ["gated on n1"]);
}

#[test]
fn a_failed_binding_frees_the_room_and_is_tried_again() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.apply("a", web());
    let Some(Action::Bind { pod, .. }) = cluster.state.next(cluster.now) else { panic!("it fits") };
    cluster.apply("b", web());
    assert_eq!(cluster.settle(), ["b waits Clear []"], "the assumed pod holds the port");
    cluster.state.bind_failed(&pod, cluster.now);
    assert_eq!(cluster.settle(), ["b on n1"]);
    cluster.now += Duration::from_secs(1);
    assert_eq!(cluster.settle(), ["a waits Clear []"]);
}

#[test]
fn an_update_while_assumed_does_not_schedule_twice() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    let pod = cluster.apply("a", json!({}));
    assert!(matches!(cluster.state.next(cluster.now), Some(Action::Bind { .. })));
    cluster.state.pod_applied(&pod);
    assert!(cluster.state.next(cluster.now).is_none());
    let mut recreated = (*pod).clone();
    recreated.metadata.uid = Some("another".into());
    cluster.state.pod_applied(&Arc::new(recreated));
    assert!(matches!(cluster.state.next(cluster.now), Some(Action::Bind { .. })));
}

#[test]
fn a_preemptor_waits_for_its_victim_and_keeps_its_place() {
    let mut cluster = Cluster::new(&["n1"]);
    let asks = |priority: i32| {
        json!({"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "3"}}}]})
    };
    cluster.apply("low", asks(0));
    cluster.settle();
    cluster.apply("high", asks(100));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["low"]"#]);
    cluster.apply("middle", asks(50));
    assert_eq!(cluster.settle(), ["middle waits Clear []"]);
    cluster.gone("low");
    assert_eq!(cluster.settle(), ["high on n1"]);
}

#[test]
fn a_resync_forgets_what_is_gone() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.apply("a", web());
    let waiting = cluster.apply("b", web());
    cluster.settle();
    cluster.state.resync_pods(&[waiting]);
    assert_eq!(cluster.settle(), ["b on n1"]);
    cluster.state.resync_nodes(&[]);
    cluster.apply("c", json!({}));
    assert_eq!(cluster.settle(), ["c waits Clear []"]);
}

#[test]
fn many_pods_on_many_nodes_are_spread_evenly() {
    let names: Vec<String> = (0..1000).map(|index| format!("n{index}")).collect();
    let mut cluster = Cluster::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for index in 0..3000 {
        let asks = json!({"requests": {"cpu": "100m", "memory": "128Mi"}});
        cluster.apply(&format!("p{index}"), json!({"containers": [{"name": "c", "resources": asks}]}));
    }
    let begin = std::time::Instant::now();
    assert_eq!(cluster.settle().len(), 3000);
    println!("{:.0} pods/s", 3000.0 / begin.elapsed().as_secs_f64());
    let counts: Vec<_> = cluster.state.snapshot.nodes().iter().map(|node| node.pods.len()).collect();
    assert!(counts.iter().all(|count| (2..=5).contains(count)), "{counts:?}");
}

#[test]
fn company_wakes_who_waits_for_it() {
    let mut cluster = Cluster::new(&[]);
    cluster.state.node_applied(&node("n1", json!({}), json!({"zone": "a"})));
    cluster.apply(
        "web",
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}),
    );
    assert_eq!(cluster.settle(), ["web waits Clear []"]);
    let mut db = pod("db", json!({"nodeName": "n1"}));
    db.metadata.labels = serde_json::from_value(json!({"app": "db"})).unwrap();
    cluster.state.pod_applied(&Arc::new(db));
    assert_eq!(cluster.settle(), ["web on n1"]);
}
