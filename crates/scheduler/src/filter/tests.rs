//! Every filter, by values: a pod, a node, and the answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::testing::{info, node};

fn answer(pod: Value, spec: Value, labels: Value, others: &[Value]) -> String {
    let mut on = NodeInfo::new(node("n1", spec, labels));
    for (index, other) in others.iter().enumerate() {
        on.add_pod(Arc::new(info(&format!("other{index}"), other.clone())));
    }
    match refusal(&info("p", pod), &on, &Neighbours::default()) {
        None => "fits".to_owned(),
        Some(refusal) => {
            let help = if refusal.resolvable { "preemptable" } else { "final" };
            format!("{}: {} ({help}; {})", refusal.plugin, refusal.reasons.join(", "), refusal.detail)
        }
    }
}

#[test]
fn taints_and_cordons() {
    let tainted = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
    for (tolerations, spec, expected) in [
        (
            json!([]),
            tainted("NoSchedule"),
            "TaintToleration: node(s) had untolerated taint(s) (final; taint k=v:NoSchedule)",
        ),
        (
            json!([]),
            tainted("NoExecute"),
            "TaintToleration: node(s) had untolerated taint(s) (final; taint k=v:NoExecute)",
        ),
        (json!([]), tainted("PreferNoSchedule"), "fits"),
        (json!([{"operator": "Exists"}]), tainted("NoSchedule"), "fits"),
        (json!([{"key": "k", "operator": "Exists"}]), tainted("NoExecute"), "fits"),
        (json!([{"key": "k", "value": "v"}]), tainted("NoSchedule"), "fits"),
        (
            json!([{"key": "k", "value": "w"}]),
            tainted("NoSchedule"),
            "TaintToleration: node(s) had untolerated taint(s) (final; taint k=v:NoSchedule)",
        ),
        (
            json!([{"key": "k", "value": "v", "effect": "NoExecute"}]),
            tainted("NoSchedule"),
            "TaintToleration: node(s) had untolerated taint(s) (final; taint k=v:NoSchedule)",
        ),
        (
            json!([]),
            json!({"unschedulable": true}),
            "NodeUnschedulable: node(s) were unschedulable (final; the node is cordoned)",
        ),
        (
            json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]),
            json!({"unschedulable": true}),
            "fits",
        ),
    ] {
        let pod = json!({"tolerations": tolerations});
        assert_eq!(answer(pod, spec.clone(), json!({}), &[]), expected, "{tolerations} {spec}");
    }
}

#[test]
fn host_ports_clash_by_address_protocol_and_number() {
    let ports = |ip: &str, protocol: &str, port: i32| {
        json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]})
    };
    let taken = "NodePorts: node(s) didn't have free ports for the requested pod ports";
    for (own, other, clash) in [
        (ports("", "TCP", 80), ports("", "TCP", 80), true),
        (ports("", "TCP", 80), ports("", "TCP", 81), false),
        (ports("", "TCP", 80), ports("", "UDP", 80), false),
        (ports("10.0.0.1", "TCP", 80), ports("10.0.0.2", "TCP", 80), false),
        (ports("10.0.0.1", "TCP", 80), ports("10.0.0.1", "TCP", 80), true),
        (ports("10.0.0.1", "TCP", 80), ports("0.0.0.0", "TCP", 80), true),
        (ports("", "UDP", 53), ports("127.0.0.1", "UDP", 53), true),
    ] {
        let got = answer(own.clone(), json!({}), json!({}), std::slice::from_ref(&other));
        assert_eq!(got.starts_with(taken), clash, "{own} beside {other}: {got}");
    }
    assert_eq!(
        answer(ports("", "TCP", 80), json!({}), json!({}), &[ports("", "TCP", 80)]),
        format!("{taken} (preemptable; 0.0.0.0:80/TCP is held by pod default/other0)")
    );
}

#[test]
fn node_selectors_and_affinity() {
    let unmatched = "NodeAffinity: node(s) didn't match Pod's node affinity/selector";
    let required = |term: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}}})
    };
    for (pod, fits) in [
        (json!({"nodeSelector": {"disk": "ssd"}}), true),
        (json!({"nodeSelector": {"disk": "hdd"}}), false),
        (json!({"nodeSelector": {"zone": ""}}), false),
        (required(json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]})), true),
        (required(json!({"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]})), false),
        (
            required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})),
            true,
        ),
        (
            required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})),
            false,
        ),
        (required(json!({})), false),
    ] {
        let got = answer(pod.clone(), json!({}), json!({"disk": "ssd"}), &[]);
        assert_eq!(got == "fits", fits, "{pod}: {got}");
        assert!(fits || got.starts_with(unmatched), "{got}");
    }
    assert_eq!(
        answer(json!({"nodeName": "n2"}), json!({}), json!({}), &[]),
        "NodeName: node(s) didn't match the requested node name (final; the pod asks for node n2)"
    );
}

#[test]
fn resources_fit() {
    let asks = |requests: Value| json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
    for (requests, others, expected) in [
        (json!({"cpu": "4"}), vec![], "fits"),
        (
            json!({"cpu": "4001m"}),
            vec![],
            "NodeResourcesFit: Insufficient cpu (final; cpu: 4001 wanted, 4000 of 4000 left)",
        ),
        (
            json!({"cpu": "2"}),
            vec![asks(json!({"cpu": "3"}))],
            "NodeResourcesFit: Insufficient cpu (preemptable; cpu: 2000 wanted, 1000 of 4000 left)",
        ),
        (
            json!({"cpu": "5", "memory": "9Gi"}),
            vec![],
            "NodeResourcesFit: Insufficient cpu, Insufficient memory (final; cpu: 5000 wanted, 4000 of 4000 left; memory: 9663676416 wanted, 8589934592 of 8589934592 left)",
        ),
        (
            json!({"x.io/gpu": "1"}),
            vec![],
            "NodeResourcesFit: Insufficient x.io/gpu (final; x.io/gpu: 1 wanted, 0 of 0 left)",
        ),
        (json!({}), vec![asks(json!({"cpu": "4"}))], "fits"),
    ] {
        assert_eq!(answer(asks(requests.clone()), json!({}), json!({}), &others), expected, "{requests}");
    }
    let many = vec![json!({}); 110];
    assert_eq!(
        answer(json!({}), json!({}), json!({}), &many),
        "NodeResourcesFit: Too many pods (preemptable; 110 of 110 pods)"
    );
}

#[test]
fn nominated_pods_of_like_priority_hold_their_room() {
    let mut on = NodeInfo::new(node("n1", json!({}), json!({})));
    let big = |name: &str, priority: i32| {
        info(
            name,
            json!({"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "3"}}}]}),
        )
    };
    on.nominated.insert(big("waiting", 10).key.clone(), Arc::new(big("waiting", 10)));
    assert!(refusal(&big("low", 5), &on, &Neighbours::default()).is_some());
    assert!(refusal(&big("like", 10), &on, &Neighbours::default()).is_some());
    assert!(refusal(&big("high", 11), &on, &Neighbours::default()).is_none());
    assert!(refusal(&big("waiting", 10), &on, &Neighbours::default()).is_none());
}

#[test]
fn tolerations_compare_values_by_their_operator() {
    let tainted =
        |value: Option<&str>| json!({"taints": [{"key": "k", "value": value, "effect": "NoSchedule"}]});
    let tolerates = |operator: &str, value: &str, of: Option<&str>| {
        let toleration = json!({"key": "k", "operator": operator, "value": value});
        answer(json!({"tolerations": [toleration]}), tainted(of), json!({}), &[]) == "fits"
    };
    for (operator, value, of, expected) in [
        ("Equal", "v", Some("v"), true),
        ("Equal", "v", Some("w"), false),
        ("Equal", "", None, true),
        ("Exists", "", Some("v"), true),
        // The taint's value is greater, or less, than the toleration's.
        ("Gt", "5", Some("6"), true),
        ("Gt", "5", Some("5"), false),
        ("Gt", "5", Some("4"), false),
        ("Gt", "5", Some("x"), false),
        ("Lt", "5", Some("4"), true),
        ("Lt", "5", Some("5"), false),
        ("Lt", "5", Some("6"), false),
        ("Lt", "x", Some("6"), false),
        ("Like", "v", Some("v"), false),
    ] {
        assert_eq!(tolerates(operator, value, of), expected, "{operator} {value:?} {of:?}");
    }
    let other_key = json!({"tolerations": [{"key": "l", "operator": "Exists"}]});
    assert_eq!(
        answer(other_key, tainted(None), json!({}), &[]),
        "TaintToleration: node(s) had untolerated taint(s) (final; taint k:NoSchedule)"
    );
}

#[test]
fn what_is_wholly_taken_can_be_freed_and_what_is_not_there_cannot() {
    let asks = |requests: Value| json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
    let on = |requests: Value, others: &[Value]| answer(asks(requests), json!({}), json!({}), others);
    // All of the node: it fits once the other is gone.
    assert_eq!(
        on(json!({"cpu": "4"}), &[asks(json!({"cpu": "1m"}))]),
        "NodeResourcesFit: Insufficient cpu (preemptable; cpu: 4000 wanted, 3999 of 4000 left)"
    );
    // One of two that can't be had is enough.
    assert_eq!(
        on(json!({"cpu": "5", "memory": "8Gi"}), &[asks(json!({"memory": "1Gi"}))]),
        "NodeResourcesFit: Insufficient cpu, Insufficient memory (final; cpu: 5000 wanted, 4000 of 4000 left; \
         memory: 8589934592 wanted, 7516192768 of 8589934592 left)"
    );
    assert_eq!(
        on(json!({"ephemeral-storage": "11Gi"}), &[]),
        "NodeResourcesFit: Insufficient ephemeral-storage (final; ephemeral-storage: 11811160064 wanted, \
         10737418240 of 10737418240 left)"
    );
    assert_eq!(on(json!({"ephemeral-storage": "10Gi"}), &[]), "fits");
    // Who asks for nothing fits beside those that have more than there is.
    assert_eq!(on(json!({}), &[asks(json!({"cpu": "5", "memory": "9Gi"}))]), "fits");
    assert_eq!(on(json!({"x.io/gpu": "0"}), &[]), "fits");
    assert_eq!(answer(json!({}), json!({}), json!({}), &vec![json!({}); 109]), "fits", "the 110th of 110");
}

#[test]
fn extended_resources_are_counted_by_name() {
    let mut object = (*node("n1", json!({}), json!({}))).clone();
    object.status.as_mut().unwrap().allocatable =
        serde_json::from_value(json!({"pods": "9", "x.io/a": "1", "x.io/b": "2"})).unwrap();
    let mut on = NodeInfo::new(Arc::new(object));
    let asks = |name: &str, requests: Value| {
        info(name, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    };
    let said = |on: &NodeInfo, requests: Value| {
        refusal(&asks("p", requests), on, &Neighbours::default()).map_or_else(String::new, |no| no.detail)
    };
    on.add_pod(Arc::new(asks("other", json!({"x.io/b": "1"}))));
    assert_eq!(said(&on, json!({"x.io/a": "1", "x.io/b": "1"})), "");
    assert_eq!(said(&on, json!({"x.io/a": "1", "x.io/b": "2"})), "x.io/b: 2 wanted, 1 of 2 left");
    on.remove_pod(&asks("other", json!({})).key);
    assert_eq!(said(&on, json!({"x.io/b": "2"})), "");
}

#[test]
fn a_pod_is_pinned_to_the_nodes_that_all_fields_of_a_term_name() {
    let pins = |terms: Value| {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        let pod = info("p", json!({"affinity": affinity}));
        pinned_nodes(&pod).map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>().join(","))
    };
    let field = |operator: &str, names: &[&str]| json!({"key": "metadata.name", "operator": operator, "values": names});
    let named = |names: &[&str]| json!({"matchFields": [field("In", names)]});
    assert_eq!(pins(json!([named(&["a", "b"])])).as_deref(), Some("a,b"));
    assert_eq!(pins(json!([named(&["b"]), named(&["a"])])).as_deref(), Some("a,b"), "either term");
    let both = json!({"matchFields": [field("In", &["a", "b"]), field("In", &["b", "c"])]});
    assert_eq!(pins(json!([both])).as_deref(), Some("b"));
    // A term that leaves the name open leaves all of it open.
    let open = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
    assert_eq!(pins(json!([named(&["a"]), open])), None);
    assert_eq!(pins(json!([{"matchFields": [field("NotIn", &["a"])]}])), None);
    assert_eq!(
        pins(json!([{"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["a"]}]}])),
        None
    );
    assert_eq!(pinned_nodes(&info("p", json!({}))), None);
}

#[test]
fn a_held_port_is_told_with_its_address() {
    let ports = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]});
    let taken = "NodePorts: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(
        answer(ports(""), json!({}), json!({}), &[ports("10.0.0.1")]),
        format!("{taken} (preemptable; 10.0.0.1:8080/TCP is held by pod default/other0)")
    );
    // The ports of init containers are free again, but for those of sidecars.
    let init = |policy: Option<&str>| {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        json!({"initContainers": [{"name": "i", "restartPolicy": policy, "ports": ports}]})
    };
    assert_eq!(answer(ports(""), json!({}), json!({}), &[init(None)]), "fits");
    assert!(answer(ports(""), json!({}), json!({}), &[init(Some("Always"))]).starts_with(taken));
}

#[test]
fn who_tolerates_the_taint_of_a_cordon_goes_to_a_cordoned_node() {
    let on_cordoned = |effect: &str| {
        let toleration =
            json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": effect});
        answer(json!({"tolerations": [toleration]}), json!({"unschedulable": true}), json!({}), &[])
    };
    assert_eq!(on_cordoned("NoSchedule"), "fits");
    assert_eq!(on_cordoned(""), "fits");
    assert!(on_cordoned("NoExecute").starts_with("NodeUnschedulable"));
}
