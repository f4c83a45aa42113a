//! Affinity between pods and topology spreading, on three zones' nodes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::decide::schedule;
use crate::testing::{node, pod};

fn labeled(name: &str, labels: Value, spec: Value) -> PodInfo {
    let mut pod = pod(name, spec);
    pod.metadata.labels = serde_json::from_value(labels).unwrap();
    PodInfo::new(Arc::new(pod))
}

/// `a1` and `a2` in zone a, `b1` in zone b, `c1` without a zone.
fn cluster(pods: &[(&str, Value, Value)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, labels) in [
        ("a1", json!({"zone": "a"})),
        ("a2", json!({"zone": "a"})),
        ("b1", json!({"zone": "b"})),
        ("c1", json!({})),
    ] {
        snapshot.set_node(node(name, json!({}), labels));
    }
    for (index, (on, labels, spec)) in pods.iter().enumerate() {
        let pod = labeled(&format!("p{index}"), labels.clone(), spec.clone());
        snapshot.place(Arc::new(pod), on);
    }
    snapshot
}

fn term(kind: &str, app: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]}}})
}

/// Every node with its answer.
fn answers(snapshot: &Snapshot, pod: &PodInfo) -> String {
    let neighbours = Neighbours::of(pod, snapshot, None);
    let one = |node: &NodeInfo| match crate::filter::refusal(pod, node, &neighbours) {
        None => format!("{}+", node.name),
        Some(refusal) => format!("{}: {}", node.name, refusal.reasons.join(", ")),
    };
    snapshot.nodes().iter().map(one).collect::<Vec<_>>().join("; ")
}

#[test]
fn affinity_goes_where_the_company_is() {
    let db = [("a2", json!({"app": "db"}), json!({}))];
    let web = labeled("web", json!({"app": "web"}), term("podAffinity", "db"));
    assert_eq!(
        answers(&cluster(&db), &web),
        "a1+; a2+; b1: node(s) didn't match pod affinity rules; c1: node(s) didn't match pod affinity rules"
    );
    let nowhere = schedule(&cluster(&[]), &web, 0).unwrap_err().message(None);
    assert_eq!(nowhere, "0/4 nodes are available: 4 node(s) didn't match pod affinity rules.");
    let first = labeled("db", json!({"app": "db"}), term("podAffinity", "db"));
    assert_eq!(answers(&cluster(&[]), &first), "a1+; a2+; b1+; c1: node(s) didn't match pod affinity rules");
}

#[test]
fn anti_affinity_holds_for_both_sides() {
    let apart = term("podAntiAffinity", "web");
    let web = labeled("web", json!({"app": "web"}), apart.clone());
    let plain = [("a1", json!({"app": "web"}), json!({}))];
    let rule = "node(s) didn't match pod anti-affinity rules";
    assert_eq!(answers(&cluster(&plain), &web), format!("a1: {rule}; a2: {rule}; b1+; c1+"));
    let lonely = [("a1", json!({"app": "other"}), apart)];
    let rule = "node(s) didn't satisfy existing pods anti-affinity rules";
    let new = labeled("new", json!({"app": "web"}), json!({}));
    assert_eq!(answers(&cluster(&lonely), &new), format!("a1: {rule}; a2: {rule}; b1+; c1+"));
    let stranger = labeled("new", json!({"app": "x"}), json!({}));
    assert_eq!(answers(&cluster(&lonely), &stranger), "a1+; a2+; b1+; c1+");
    let mut snapshot = cluster(&lonely);
    snapshot.remove(&skiff_client::ObjectKey::new("default", "p0"));
    assert_eq!(answers(&snapshot, &new), "a1+; a2+; b1+; c1+");
}

#[test]
fn terms_reach_other_namespaces_only_if_they_say_so() {
    let mut other = pod("db", json!({}));
    other.metadata.namespace = Some("data".into());
    other.metadata.labels = serde_json::from_value(json!({"app": "db"})).unwrap();
    let mut snapshot = cluster(&[]);
    snapshot.place(Arc::new(PodInfo::new(Arc::new(other))), "b1");
    snapshot.set_namespace("data", serde_json::from_value(json!({"team": "x"})).unwrap());
    let fits_on_b1 = |more: Value| {
        let mut spec = term("podAffinity", "db");
        let term = &mut spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        for (key, value) in more.as_object().unwrap() {
            term[key] = value.clone();
        }
        answers(&snapshot, &labeled("web", json!({}), spec)).contains("b1+")
    };
    assert!(!fits_on_b1(json!({})));
    assert!(fits_on_b1(json!({"namespaces": ["data"]})));
    assert!(fits_on_b1(json!({"namespaceSelector": {}})));
    assert!(fits_on_b1(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
    assert!(!fits_on_b1(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}})));
}

#[test]
fn spreading_bounds_the_skew() {
    let spread = |more: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        for (key, value) in more.as_object().unwrap() {
            constraint[key] = value.clone();
        }
        labeled("web", json!({"app": "web"}), json!({"topologySpreadConstraints": [constraint]}))
    };
    let web = |on| (on, json!({"app": "web"}), json!({}));
    let skewed = "node(s) didn't match pod topology spread constraints";
    let no_label = format!("c1: {skewed} (missing required label)");
    assert_eq!(
        answers(&cluster(&[web("a1"), web("c1")]), &spread(json!({}))),
        format!("a1: {skewed}; a2: {skewed}; b1+; {no_label}")
    );
    assert_eq!(
        answers(&cluster(&[web("a1"), web("b1")]), &spread(json!({}))),
        format!("a1+; a2+; b1+; {no_label}")
    );
    assert_eq!(
        answers(&cluster(&[web("a1")]), &spread(json!({"maxSkew": 2}))),
        format!("a1+; a2+; b1+; {no_label}")
    );
    assert_eq!(
        answers(&cluster(&[web("a1"), web("b1")]), &spread(json!({"minDomains": 3}))),
        format!("a1: {skewed}; a2: {skewed}; b1: {skewed}; {no_label}")
    );
    assert_eq!(
        answers(&cluster(&[web("a1")]), &spread(json!({"whenUnsatisfiable": "ScheduleAnyway"}))),
        "a1+; a2+; b1+; c1+"
    );
}
