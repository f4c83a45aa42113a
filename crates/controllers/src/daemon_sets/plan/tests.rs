//! A DaemonSet's decisions on values: nodes, pods, and who comes and goes.

use serde_json::{Value, json};

use super::super::revisions;
use super::*;
use crate::testing;

fn set(spec: Value, strategy: Value) -> DaemonSet {
    let mut pod_spec = json!({"containers": [{"name": "c", "image": "one"}]});
    for (key, value) in spec.as_object().unwrap() {
        pod_spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "a", "uid": "d", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": pod_spec}},
    }))
    .unwrap()
}

fn node(name: &str, spec: Value, labels: Value) -> Arc<Node> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).unwrap(),
    )
}

fn pod(name: &str, on: &str, hash: &str, state: &str) -> Arc<Pod> {
    let ready = if state == "ready" { "True" } else { "False" };
    let mut object = json!({
        "metadata": {"labels": {"app": "d", HASH: hash}},
        "spec": {"nodeName": on},
        "status": {"phase": if state == "failed" { "Failed" } else { "Running" },
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:01Z"}]},
    });
    if state == "leaving" {
        object["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
    }
    testing::pod(name, object)
}

fn at() -> Timestamp {
    Timestamp::from_second(100).unwrap()
}

fn show(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> String {
    let plan = plan(set, "new", nodes, pods, |_| Duration::ZERO, at());
    let gone: Vec<_> = plan.delete.iter().map(|pod| name(&pod.metadata)).collect();
    format!("+[{}] -[{}]", plan.create.join(" "), gone.join(" "))
}

fn nodes(count: usize) -> Vec<Arc<Node>> {
    (1..=count).map(|index| node(&format!("n{index}"), json!({}), json!({}))).collect()
}

#[test]
fn every_node_that_may_run_it_gets_one() {
    let tainted = |effect: &str| json!({"taints": [{"key": "k", "effect": effect}]});
    let nodes = [
        node("n1", json!({}), json!({"disk": "ssd"})),
        node("n2", tainted("NoSchedule"), json!({})),
        node("n3", tainted("NoExecute"), json!({})),
        node(
            "n4",
            json!({"unschedulable": true, "taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
            json!({}),
        ),
    ];
    let plain = set(json!({}), json!({}));
    assert_eq!(show(&plain, &nodes, &[]), "+[n1 n4] -[]");
    let all = set(json!({"tolerations": [{"operator": "Exists"}]}), json!({}));
    assert_eq!(show(&all, &nodes, &[]), "+[n1 n2 n3 n4] -[]");
    let ssd = set(json!({"nodeSelector": {"disk": "ssd"}}), json!({}));
    assert_eq!(show(&ssd, &nodes, &[]), "+[n1] -[]");
    let pods: Vec<_> = ["n1", "n2", "n3", "n4"].map(|on| pod(&format!("on-{on}"), on, "new", "ready")).into();
    assert_eq!(show(&plain, &nodes, &pods), "+[] -[on-n3]", "NoSchedule lets the present one stay");
    let mut status = status(&plain, Some("new"), &nodes, &pods, at()).0;
    assert_eq!((status.desired_number_scheduled, status.number_misscheduled), (2, 2));
    status.conditions = None;
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({"currentNumberScheduled": 2, "desiredNumberScheduled": 2, "numberMisscheduled": 2,
            "numberReady": 2, "numberAvailable": 2, "updatedNumberScheduled": 2, "observedGeneration": 1})
    );
}

#[test]
fn failed_pods_and_twins_are_replaced() {
    let set = set(json!({}), json!({}));
    let nodes = nodes(2);
    let pods =
        [pod("a", "n1", "new", "failed"), pod("b", "n2", "new", "ready"), pod("c", "n2", "new", "ready")];
    assert_eq!(show(&set, &nodes, &pods), "+[] -[a c]");
    let pods = [pod("a", "n1", "new", "leaving"), pod("b", "n2", "new", "ready")];
    assert_eq!(show(&set, &nodes, &pods), "+[] -[]", "its end is waited for");
}

#[test]
fn a_rolling_update_keeps_enough_pods() {
    let nodes = nodes(4);
    let rolling = |more: Value| set(json!({}), json!({"type": "RollingUpdate", "rollingUpdate": more}));
    let one = rolling(json!({"maxUnavailable": 1}));
    let old = |state: &str| -> Vec<_> {
        (1..=4).map(|index| pod(&format!("p{index}"), &format!("n{index}"), "old", state)).collect()
    };
    assert_eq!(show(&one, &nodes, &old("ready")), "+[] -[p1]");
    assert_eq!(show(&rolling(json!({"maxUnavailable": "50%"})), &nodes, &old("ready")), "+[] -[p1 p2]");
    let mut pods = old("ready");
    pods[0] = pod("q1", "n1", "new", "starting");
    assert_eq!(show(&one, &nodes, &pods), "+[] -[]", "the new one must be available first");
    pods[0] = pod("q1", "n1", "new", "ready");
    assert_eq!(show(&one, &nodes, &pods), "+[] -[p2]");
    pods[2] = pod("p3", "n3", "old", "starting");
    assert_eq!(show(&one, &nodes, &pods), "+[] -[p3]", "broken ones first, and they use up the bound");
    let surge = rolling(json!({"maxSurge": 1, "maxUnavailable": 0}));
    assert_eq!(show(&surge, &nodes, &old("ready")), "+[n1] -[]");
    let mut pods = old("ready");
    pods.push(pod("q1", "n1", "new", "starting"));
    assert_eq!(show(&surge, &nodes, &pods), "+[] -[]");
    pods[4] = pod("q1", "n1", "new", "ready");
    assert_eq!(show(&surge, &nodes, &pods), "+[] -[p1]");
    let on_delete = set(json!({}), json!({"type": "OnDelete"}));
    assert_eq!(show(&on_delete, &nodes, &old("ready")), "+[] -[]");
}

#[test]
fn a_pod_is_pinned_to_its_node_and_found_by_that() {
    let set = set(json!({"hostNetwork": true}), json!({}));
    let pod = pod_for(&set, "n7", "h");
    assert_eq!(target(&pod), "n7");
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("d-"));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()[HASH], "h");
    let keys: Vec<_> = pod
        .spec
        .unwrap()
        .tolerations
        .unwrap()
        .into_iter()
        .map(|toleration| toleration.key.unwrap())
        .collect();
    assert_eq!(keys.len(), 7);
    assert!(keys.contains(&NETWORK_UNAVAILABLE.to_owned()));
}

#[test]
fn revisions_follow_the_template() {
    let mut set = set(json!({}), json!({}));
    set.metadata.annotations = Some(BTreeMap::from([("note".to_owned(), "x".to_owned())]));
    let revisions::Plan::Create(first) = revisions::plan(&set, &[]) else { panic!("there is none yet") };
    let first = Arc::new(*first);
    let hash = revisions::hash_of(&first);
    assert_eq!(
        serde_json::to_value(&first.metadata).unwrap(),
        json!({"name": format!("d-{hash}"), "namespace": "a", "labels": {"app": "d", HASH: hash},
            "annotations": {"note": "x"}, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet",
                "name": "d", "uid": "d", "controller": true, "blockOwnerDeletion": true}]})
    );
    assert!(matches!(revisions::plan(&set, std::slice::from_ref(&first)), revisions::Plan::Keep(_)));
    set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("two".into());
    let revisions::Plan::Create(second) = revisions::plan(&set, std::slice::from_ref(&first)) else {
        panic!("the template is new")
    };
    assert_eq!((first.revision, second.revision), (1, 2));
    assert_ne!(revisions::hash_of(&first), revisions::hash_of(&second));
    let all = [first.clone(), Arc::new(*second)];
    set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("one".into());
    let revisions::Plan::Renumber(again) = revisions::plan(&set, &all) else { panic!("it was there before") };
    assert_eq!((again.revision, again.metadata.name.clone()), (3, first.metadata.name.clone()));
    set.spec.as_mut().unwrap().revision_history_limit = Some(0);
    let hash = revisions::hash_of(&first).to_owned();
    let names = |pods: &[Arc<Pod>]| revisions::superfluous(&set, &hash, &all, pods).len();
    assert_eq!(names(&[]), 1);
    assert_eq!(
        names(&[testing::pod("p", json!({"metadata": {"labels": {HASH: revisions::hash_of(&all[1])}}}))]),
        0
    );
}

#[test]
fn a_failed_pod_stays_while_its_node_is_backed_off_from() {
    let (set, nodes) = (set(json!({}), json!({})), nodes(2));
    let pods = [pod("p1", "n1", "new", "failed"), pod("p2", "n2", "new", "failed")];
    let waits = |node: &str| Duration::from_secs(if node == "n1" { 8 } else { 0 });
    let plan = plan(&set, "new", &nodes, &pods, waits, at());
    let gone = |pods: &[Arc<Pod>]| pods.iter().map(|pod| name(&pod.metadata).to_owned()).collect::<Vec<_>>();
    assert_eq!((plan.create.len(), gone(&plan.delete)), (0, vec!["p2".to_owned()]));
    assert_eq!(plan.ended.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["n2"]);
    assert_eq!(plan.look_again, Some(Duration::from_secs(8)));
}

/// A pod on a node, ready since that second, with more of its parts.
fn ready_since(name: &str, on: &str, second: u8, more: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"labels": {"app": "d", HASH: "new"}},
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": format!("1970-01-01T00:01:{second:02}Z")}]},
    });
    for part in ["metadata", "status"] {
        for (key, value) in more[part].as_object().into_iter().flatten() {
            object[part][key] = value.clone();
        }
    }
    testing::pod(name, object)
}

#[test]
fn a_pod_is_for_the_node_that_its_name_term_says() {
    let pinned = |key: &str, operator: &str| {
        let term = json!({"matchFields": [{"key": key, "operator": operator, "values": ["n1"]}]});
        let required = json!({"nodeSelectorTerms": [term]});
        testing::pod(
            "p",
            json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": required}}}}),
        )
    };
    assert_eq!(target(&pinned("metadata.name", "In")), "n1");
    assert_eq!(target(&pinned("metadata.name", "NotIn")), "");
    assert_eq!(target(&pinned("metadata.uid", "In")), "");
}

#[test]
fn a_toleration_is_held_against_effect_key_and_value() {
    let taint: Taint =
        serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
    for (own, tolerated) in [
        (json!({"operator": "Exists"}), true),
        (json!({"key": "", "operator": "Exists", "effect": ""}), true),
        (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "operator": "Equal", "value": "v"}), true),
        (json!({"key": "k", "value": "w", "effect": "NoSchedule"}), false),
        (json!({"key": "k", "effect": "NoSchedule"}), false),
        (json!({"key": "l", "operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
    ] {
        let own: Toleration = serde_json::from_value(own).unwrap();
        assert_eq!(tolerates(std::slice::from_ref(&own), &taint), tolerated, "{own:?}");
    }
    let of_all = Toleration {
        key: Some("node.kubernetes.io/not-ready".into()),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    let told = tolerations(&set(json!({}), json!({})));
    assert_eq!((told.len(), &told[0]), (6, &of_all));
    // What the template says itself is not said twice.
    assert_eq!(tolerations(&set(json!({"tolerations": [of_all]}), json!({}))).len(), 6);
}

#[test]
fn a_template_may_name_its_node() {
    let named = |name: &str| show(&set(json!({"nodeName": name}), json!({})), &nodes(3), &[]);
    assert_eq!(named("n2"), "+[n2] -[]");
    assert_eq!(named(""), "+[n1 n2 n3] -[]");
}

#[test]
fn of_twins_the_oldest_stays_and_with_a_surge_one_of_each_template() {
    let surge = set(json!({}), json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
    let plain = set(json!({}), json!({}));
    let twins = |first: (&str, &str), second: (&str, &str)| {
        [pod("a", "n1", first.0, first.1), pod("b", "n1", second.0, second.1)]
    };
    let nodes = nodes(1);
    let both = twins(("old", "ready"), ("new", "starting"));
    assert_eq!(show(&plain, &nodes, &both), "+[] -[b]");
    assert_eq!(show(&surge, &nodes, &both), "+[] -[]");
    let both = twins(("old", "ready"), ("new", "ready"));
    assert_eq!(show(&surge, &nodes, &both), "+[] -[a]");
    for hash in ["old", "new"] {
        let alike = twins((hash, "ready"), (hash, "ready"));
        assert_eq!(show(&surge, &nodes, &alike), "+[] -[b]", "{hash}");
    }
    // One that was ready too short a time is not there yet.
    let mut patient = surge;
    patient.spec.as_mut().unwrap().min_ready_seconds = Some(100);
    assert_eq!(show(&patient, &nodes, &both), "+[] -[]");
    patient.spec.as_mut().unwrap().min_ready_seconds = Some(99);
    assert_eq!(show(&patient, &nodes, &both), "+[] -[a]");
}

#[test]
fn a_surge_counts_nodes_with_an_old_and_a_new_pod() {
    let surge =
        |count: i32| set(json!({}), json!({"rollingUpdate": {"maxSurge": count, "maxUnavailable": 0}}));
    let nodes = nodes(4);
    let old = |name: &str, on: &str| pod(name, on, "old", "ready");
    // The first node is done, so that the next one's turn has come.
    let pods = [pod("q1", "n1", "new", "ready"), old("p2", "n2"), old("p3", "n3"), old("p4", "n4")];
    assert_eq!(show(&surge(1), &nodes, &pods), "+[n2] -[]");
    // Another one beside the first: not a third pod for the node that has both.
    let pods = [
        old("p1", "n1"),
        pod("q1", "n1", "new", "starting"),
        old("p2", "n2"),
        old("p3", "n3"),
        old("p4", "n4"),
    ];
    assert_eq!(show(&surge(2), &nodes, &pods), "+[n2] -[]");
    // One that leaves is neither.
    let pods = [pod("p1", "n1", "old", "leaving"), pod("q1", "n1", "new", "ready"), old("p2", "n2")];
    assert_eq!(show(&surge(1), &nodes[..2], &pods), "+[n2] -[]");
    assert_eq!(bounds(&surge(1), 4), (1, 0));
    assert_eq!(bounds(&surge(0), 4), (0, 1), "both zero would stop every rollout");
}

#[test]
fn a_status_counts_what_runs_what_is_missing_and_what_comes() {
    let mut set = set(json!({}), json!({}));
    set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    set.status = serde_json::from_value(json!({"currentNumberScheduled": 9, "desiredNumberScheduled": 9,
        "numberMisscheduled": 9, "numberReady": 9, "collisionCount": 3,
        "conditions": [{"type": "Mine", "status": "True"}]}))
    .unwrap();
    let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let mut nodes = nodes(6);
    nodes.push(node("n7", tainted.clone(), json!({})));
    nodes.push(node("n8", tainted, json!({})));
    let leaving = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
    let failed = json!({"status": {"phase": "Failed"}});
    let pods = [
        ready_since("p1", "n1", 0, json!({})),
        ready_since("p2", "n2", 20, json!({})),
        ready_since("p3", "n3", 25, json!({})),
        ready_since("p4", "n4", 0, leaving),
        ready_since("p5", "n5", 0, failed),
        ready_since("p8", "n8", 0, json!({})),
    ];
    let now = Timestamp::from_second(100).unwrap();
    let (told, next) = status(&set, Some("new"), &nodes, &pods, now);
    assert_eq!(
        serde_json::to_value(&told).unwrap(),
        json!({"desiredNumberScheduled": 6, "currentNumberScheduled": 5, "numberMisscheduled": 1,
            "numberReady": 3, "numberAvailable": 1, "numberUnavailable": 5, "updatedNumberScheduled": 5,
            "observedGeneration": 1, "collisionCount": 3, "conditions": [{"type": "Mine", "status": "True"}]})
    );
    assert_eq!(next, Some(Duration::from_secs(10)), "the one that has waited longest");
    // Ready for just as long as it has to be.
    let just = [ready_since("p1", "n1", 10, json!({}))];
    let (told, next) = status(&set, None, &nodes[..1], &just, now);
    assert_eq!((told.number_available, next), (Some(1), None));
    let (told, next) = status(&set, None, &nodes, &pods[..1], now);
    assert_eq!((told.updated_number_scheduled, told.number_available, next), (None, Some(1), None));
}
