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

/// A constraint of spreading over `key`, with more of its fields.
fn spread_over(key: &str, more: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    for (key, value) in more.as_object().unwrap() {
        constraint[key] = value.clone();
    }
    constraint
}

/// Whether the node takes a pod `web` with this specification.
fn takes(snapshot: &Snapshot, node: &str, spec: Value) -> bool {
    let pod = labeled("web", json!({"app": "web"}), spec);
    let neighbours = Neighbours::of(&pod, snapshot, None);
    crate::filter::refusal(&pod, snapshot.node(node).unwrap(), &neighbours).is_none()
}

#[test]
fn what_a_pod_requires_is_counted() {
    let term = json!({"topologyKey": "zone", "labelSelector": {}});
    let affinity = |terms: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
    let of = |spec| {
        let requires = Requires::of(&pod("p", spec));
        (requires.spreads(), requires.affinities(), requires.keeps_others_away(), requires.is_nothing())
    };
    assert_eq!(of(json!({})), (0, 0, false, true));
    let spreads = json!([
        spread_over("zone", json!({})),
        spread_over("host", json!({})),
        spread_over("rack", json!({"whenUnsatisfiable": "ScheduleAnyway"})),
    ]);
    assert_eq!(of(json!({"topologySpreadConstraints": spreads})), (2, 0, false, false));
    let together = json!({"affinity": {"podAffinity": affinity(json!([term]))}});
    assert_eq!(of(together), (0, 1, false, false));
    let both = json!({"affinity": {"podAffinity": affinity(json!([term])),
        "podAntiAffinity": affinity(json!([term, term]))}});
    assert_eq!(of(both), (0, 3, true, false));
    assert!(!cluster(&[("a1", json!({}), json!({}))]).keeps_others_away());
}

#[test]
fn a_term_that_names_namespaces_does_not_mean_its_own() {
    let mut snapshot = cluster(&[("a1", json!({"app": "db"}), json!({}))]);
    snapshot.set_namespace("default", serde_json::from_value(json!({"team": "y"})).unwrap());
    let fits = |more: Value| {
        let mut spec = term("podAffinity", "db");
        let term = &mut spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        for (key, value) in more.as_object().unwrap() {
            term[key] = value.clone();
        }
        takes(&snapshot, "a1", spec)
    };
    assert!(fits(json!({})));
    assert!(!fits(json!({"namespaces": ["data"]})));
    assert!(!fits(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
    assert!(fits(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}})));
}

#[test]
fn a_node_that_is_tried_without_its_pods_stands_for_itself_alone() {
    let web = |on| (on, json!({"app": "web"}), json!({}));
    let snapshot = cluster(&[web("a1"), web("b1")]);
    let pod = labeled("web", json!({"app": "web"}), term("podAntiAffinity", "web"));
    let mut instead = snapshot.node("a1").unwrap().clone();
    instead.remove_pod(&skiff_client::ObjectKey::new("default", "p0"));
    let neighbours = Neighbours::of(&pod, &snapshot, Some(&instead));
    assert!(neighbours.refusal(&instead).is_none());
    assert!(neighbours.refusal(snapshot.node("b1").unwrap()).is_some());
}

#[test]
fn only_nodes_that_the_pod_may_go_to_are_topologies_of_its_spreading() {
    let mut snapshot = cluster(&[("a1", json!({"app": "web"}), json!({}))]);
    for (name, zone) in [("a1", "a"), ("a2", "a")] {
        snapshot.set_node(node(name, json!({}), json!({"zone": zone, "disk": "ssd"})));
    }
    let on_ssd = |policy: Value| json!({"nodeSelector": {"disk": "ssd"}, "topologySpreadConstraints": [spread_over("zone", policy)]});
    // Zone b is none that it could go to, so that zone a is not ahead of it.
    assert!(takes(&snapshot, "a1", on_ssd(json!({}))));
    assert!(takes(&snapshot, "a1", on_ssd(json!({"nodeAffinityPolicy": "Honor"}))));
    assert!(!takes(&snapshot, "a1", on_ssd(json!({"nodeAffinityPolicy": "Ignore"}))));

    let taint = json!({"taints": [{"key": "for", "value": "db", "effect": "NoSchedule"}]});
    snapshot.set_node(node("b1", taint, json!({"zone": "b"})));
    let policy = |policy: Value| json!({"topologySpreadConstraints": [spread_over("zone", policy)]});
    assert!(!takes(&snapshot, "a1", policy(json!({}))));
    assert!(!takes(&snapshot, "a1", policy(json!({"nodeTaintsPolicy": "Ignore"}))));
    assert!(takes(&snapshot, "a1", policy(json!({"nodeTaintsPolicy": "Honor"}))));
    let mut tolerating = policy(json!({"nodeTaintsPolicy": "Honor"}));
    tolerating["tolerations"] = json!([{"key": "for", "operator": "Exists"}]);
    assert!(!takes(&snapshot, "a1", tolerating));
}

#[test]
fn a_node_without_one_of_the_labels_counts_for_no_constraint() {
    let mut snapshot = cluster(&[("a1", json!({"app": "web"}), json!({}))]);
    for name in ["a1", "a2"] {
        snapshot.set_node(node(name, json!({}), json!({"zone": "a", "host": name})));
    }
    let zone = || spread_over("zone", json!({}));
    let both = json!({"topologySpreadConstraints": [zone(), spread_over("host", json!({}))]});
    // Zone b's node has no host, so that only zone a counts, and in it the other host.
    assert!(takes(&snapshot, "a2", both));
    assert!(!takes(&snapshot, "a2", json!({"topologySpreadConstraints": [zone()]})));
}

#[test]
fn spreading_counts_pods_of_the_same_namespace_that_match_and_stay() {
    let counted = |other: Pod| {
        let mut snapshot = cluster(&[("a1", json!({"app": "web"}), json!({}))]);
        snapshot.place(Arc::new(PodInfo::new(Arc::new(other))), "b1");
        // One in each zone is even.
        takes(&snapshot, "a1", json!({"topologySpreadConstraints": [spread_over("zone", json!({}))]}))
    };
    let mut web = pod("other", json!({}));
    web.metadata.labels = serde_json::from_value(json!({"app": "web"})).unwrap();
    assert!(counted(web.clone()));
    let mut elsewhere = web.clone();
    elsewhere.metadata.namespace = Some("data".into());
    assert!(!counted(elsewhere));
    let mut leaving = web.clone();
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(!counted(leaving));
    web.metadata.labels = serde_json::from_value(json!({"app": "db"})).unwrap();
    assert!(!counted(web));
}
