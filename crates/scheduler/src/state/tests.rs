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

fn asks(cpu: &str, priority: i32) -> Value {
    json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

/// As the watch tells of a pod that is on its node.
fn on(node: &str, name: &str, mut spec: Value) -> Pod {
    spec["nodeName"] = node.into();
    pod(name, spec)
}

impl Cluster {
    fn node(&mut self, name: &str, spec: Value) {
        self.state.node_applied(&node(name, spec, json!({})));
    }

    fn put(&mut self, node: &str, name: &str, spec: Value) {
        self.state.pod_applied(&Arc::new(on(node, name, spec)));
    }
}

#[test]
fn a_node_that_opens_lets_in_who_has_to_preempt_there() {
    let shut = [
        json!({"unschedulable": true}),
        json!({"taints": [{"key": "m", "value": "x", "effect": "NoSchedule"}]}),
        json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}),
    ];
    for shut in shut {
        let mut cluster = Cluster::new(&["n1"]);
        cluster.put("n1", "low", asks("3", 0));
        cluster.node("n1", shut.clone());
        cluster.apply("high", asks("3", 1000));
        assert_eq!(cluster.settle(), ["high waits Clear []"]);
        cluster.node("n1", json!({}));
        assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["low"]"#], "{shut}");
    }
    let mut cluster = Cluster::new(&["n1"]);
    let port = |priority: i32| {
        let mut spec = web();
        spec["priority"] = priority.into();
        spec
    };
    cluster.put("n1", "low", port(0));
    cluster.node("n1", json!({"unschedulable": true}));
    cluster.apply("high", port(1000));
    cluster.settle();
    cluster.node("n1", json!({}));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["low"]"#], "a host port as well");
}

#[test]
fn a_node_that_opens_tells_those_anew_whom_it_still_cannot_take() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.put("n1", "full", asks("3", 0));
    cluster.node("n1", json!({"unschedulable": true}));
    cluster.apply("equal", asks("3", 0));
    cluster.apply("pinned", json!({"nodeName": "", "nodeSelector": {"disk": "ssd"}}));
    cluster.settle();
    cluster.node("n1", json!({}));
    assert_eq!(
        cluster.settle(),
        ["equal waits Clear []"],
        "it lacks CPU now; the other's reason is as it was"
    );
    cluster.node("n1", json!({"unschedulable": true}));
    assert!(cluster.settle().is_empty(), "a node that shuts lets nobody in");
}

#[test]
fn the_end_of_a_more_important_pod_lets_in_who_has_to_preempt_another() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.put("n1", "top", asks("2", 5000));
    cluster.put("n1", "low", asks("2", 0));
    let mut never = asks("3", 1000);
    never["preemptionPolicy"] = "Never".into();
    cluster.apply("middle", asks("3", 1000));
    cluster.apply("never", never);
    assert_eq!(cluster.settle(), ["middle waits Clear []", "never waits Keep []"]);
    cluster.gone("top");
    assert_eq!(cluster.settle(), [r#"middle waits Set("n1") ["low"]"#]);
}

#[test]
fn who_waits_for_victims_is_not_tried_before_they_are_gone() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    for (on, name) in [("n1", "a"), ("n1", "b"), ("n2", "c"), ("n2", "d")] {
        cluster.put(on, name, asks("2", if on == "n1" { 0 } else { 1 }));
    }
    cluster.apply("high", asks("4", 1000));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["a", "b"]"#]);
    // Its victims have not been told yet, or end one by one; elsewhere others would end for it.
    cluster.gone("c");
    cluster.node("n2", json!({"unschedulable": true}));
    cluster.node("n2", json!({}));
    let again = cluster.settle();
    assert!(again.iter().all(|line| line == "high waits Keep []"), "{again:?}");
    cluster.gone("a");
    assert!(cluster.settle().is_empty());
    cluster.gone("b");
    assert_eq!(cluster.settle(), ["high on n1"]);
}

#[test]
fn a_preemptor_whose_room_is_taken_preempts_elsewhere() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.put("n1", "a", asks("3", 0));
    cluster.put("n1", "slow", asks("1", 0));
    cluster.put("n2", "b", asks("3", 1));
    cluster.apply("high", asks("3", 1000));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["a"]"#]);
    // Somebody deletes another pod there, which takes its time.
    let mut slow = on("n1", "slow", asks("1", 0));
    slow.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    cluster.state.pod_applied(&Arc::new(slow));
    let mut higher = asks("3", 2000);
    higher["preemptionPolicy"] = "Never".into();
    cluster.apply("higher", higher);
    assert_eq!(cluster.settle(), ["higher waits Keep []"]);
    cluster.gone("a");
    assert_eq!(cluster.settle(), ["higher on n1", r#"high waits Set("n2") ["b"]"#]);
    cluster.gone("b");
    assert_eq!(cluster.settle(), ["high on n2"]);
}

#[test]
fn a_preemptor_whose_room_is_taken_before_it_is_free_preempts_elsewhere() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.put("n1", "a", asks("3", 0));
    cluster.put("n2", "b", asks("3", 1));
    cluster.apply("high", asks("3", 1000));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["a"]"#]);
    // It names its node itself, and nobody asks whether there is room.
    cluster.put("n1", "pinned", asks("3", 2000));
    assert!(cluster.settle().is_empty());
    cluster.gone("a");
    assert_eq!(cluster.settle(), [r#"high waits Set("n2") ["b"]"#]);
}

#[test]
fn room_that_is_not_kept_any_more_is_anothers() {
    // Who was to take it is held back.
    let mut cluster = Cluster::new(&["n1"]);
    cluster.put("n1", "a", asks("1500m", 0));
    cluster.apply("high", asks("3", 1000));
    cluster.apply("low", asks("2", 0));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["a"]"#, "low waits Clear []"]);
    let mut gated = asks("3", 1000);
    gated["schedulingGates"] = json!([{"name": "x.io/gate"}]);
    cluster.apply("high", gated);
    assert_eq!(cluster.settle(), ["low on n1"]);
    // Who has it asks for less.
    cluster.apply("next", asks("2", 0));
    assert_eq!(cluster.settle(), ["next waits Clear []"]);
    cluster.put("n1", "a", asks("1", 0));
    assert!(cluster.settle().is_empty());
    cluster.put("n1", "a", asks("0", 0));
    assert_eq!(cluster.settle(), ["next on n1"]);
}

#[test]
fn an_eviction_that_fails_is_tried_again() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.put("n1", "low", asks("3", 0));
    cluster.apply("high", asks("3", 1000));
    let Some(Action::Fail { pod, victims, .. }) = cluster.state.next(cluster.now) else {
        panic!("it does not fit")
    };
    cluster.state.eviction_failed(&pod, &victims, cluster.now);
    assert!(cluster.settle().is_empty());
    cluster.now += Duration::from_secs(1);
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["low"]"#]);
}

#[test]
fn whom_everybody_forgot_is_tried_again_after_five_minutes() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.apply("a", json!({"nodeSelector": {"disk": "ssd"}}));
    assert_eq!(cluster.settle(), ["a waits Clear []"]);
    cluster.now += Duration::from_secs(299);
    assert!(cluster.settle().is_empty());
    cluster.now += Duration::from_secs(1);
    assert_eq!(cluster.settle(), ["a waits Clear []"]);
    assert_eq!(cluster.state.queue.next_wake(), Some(cluster.now + Duration::from_secs(300)));
}

#[test]
fn with_a_node_its_part_of_the_topology_is_gone() {
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "sp"}}}]});
    let mut cluster = Cluster::new(&[]);
    cluster.state.node_applied(&node("n1", json!({}), json!({"zone": "a"})));
    cluster.state.node_applied(&node("n2", json!({"unschedulable": true}), json!({"zone": "b"})));
    let labelled = |name: &str| {
        let mut pod = pod(name, spread.clone());
        pod.metadata.labels = serde_json::from_value(json!({"app": "sp"})).unwrap();
        Arc::new(pod)
    };
    cluster.state.pod_applied(&labelled("sp1"));
    cluster.state.pod_applied(&labelled("sp2"));
    assert_eq!(cluster.settle(), ["sp1 on n1", "sp2 waits Clear []"]);
    cluster.state.node_gone("n2");
    assert_eq!(cluster.settle(), ["sp2 on n1"]);
}

#[test]
fn with_a_node_its_pods_and_nominations_are_gone() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.put("n1", "a", asks("3", 0));
    cluster.put("n2", "b", asks("3", 1));
    cluster.apply("high", asks("3", 1000));
    assert_eq!(cluster.settle(), [r#"high waits Set("n1") ["a"]"#]);
    cluster.state.node_gone("n1");
    assert_eq!(cluster.settle(), [r#"high waits Set("n2") ["b"]"#]);
}

#[test]
fn who_was_kept_away_from_a_zone_follows_when_the_loner_goes() {
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let loner = || Arc::new(on("n1", "loner", apart.clone()));
    let mut web = pod("web", asks("2", 0));
    web.metadata.labels = serde_json::from_value(json!({"app": "web"})).unwrap();
    // On the loner's node itself there is no room for it.
    let waiting = || {
        let mut cluster = Cluster::new(&[]);
        for name in ["n1", "n2"] {
            cluster.state.node_applied(&node(name, json!({}), json!({"zone": "a"})));
        }
        cluster.state.pod_applied(&loner());
        cluster.put("n1", "full", asks("3", 0));
        cluster.state.pod_applied(&Arc::new(web.clone()));
        assert_eq!(cluster.settle(), ["web waits Clear []"]);
        cluster
    };
    let mut cluster = waiting();
    cluster.gone("loner");
    assert_eq!(cluster.settle(), ["web on n2"]);
    let mut cluster = waiting();
    cluster.state.node_gone("n1");
    assert_eq!(cluster.settle(), ["web on n2"]);
    let mut cluster = waiting();
    cluster.state.node_applied(&node("n1", json!({}), json!({"zone": "b"})));
    assert_eq!(cluster.settle(), ["web on n2"]);
}
