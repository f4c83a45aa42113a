//! What may be said in a status.

use serde_json::{Value, json};

use super::{pod, texts};

/// The faults of a status, after another one.
#[track_caller]
fn said(of: (&str, &str), spec: Value, old: Value, new: Value) -> Vec<String> {
    let with = |status: Value| json!({"metadata": {"name": "o"}, "spec": spec, "status": status});
    let (group, kind) = of;
    texts(&super::update(group, kind, "status", &with(new), &with(old)))
}

const NEGATIVE: &str = "must be greater than or equal to 0";

#[test]
fn counts_are_no_less_than_nothing() {
    for (kind, fields) in [
        (
            "Deployment",
            &["observedGeneration", "replicas", "unavailableReplicas", "terminatingReplicas"] as &[&str],
        ),
        ("ReplicaSet", &["replicas", "observedGeneration", "terminatingReplicas"]),
        (
            "DaemonSet",
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
            ],
        ),
    ] {
        for field in fields {
            let mut status = json!({"replicas": 0});
            status[field] = (-2).into();
            let expected = format!("status.{field}: Invalid value: -2: {NEGATIVE}");
            let said = said(("apps", kind), json!({}), json!({}), status);
            assert!(said.contains(&expected), "{kind}: {said:?}");
        }
    }
}

#[test]
fn parts_are_no_more_than_the_whole() {
    let deployment = |status: Value| said(("apps", "Deployment"), json!({}), json!({}), status);
    let set = |status: Value| said(("apps", "ReplicaSet"), json!({}), json!({}), status);
    let good = json!({"replicas": 3, "updatedReplicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 3,
        "availableReplicas": 3});
    assert_eq!(deployment(good.clone()), [""; 0]);
    assert_eq!(set(good), [""; 0]);
    assert_eq!(
        deployment(json!({"replicas": -2, "readyReplicas": -7})),
        [
            format!("status.replicas: Invalid value: -2: {NEGATIVE}"),
            format!("status.readyReplicas: Invalid value: -7: {NEGATIVE}"),
            "status.updatedReplicas: Invalid value: 0: cannot be greater than status.replicas".to_owned(),
            "status.availableReplicas: Invalid value: 0: cannot be greater than status.replicas".to_owned(),
            "status.availableReplicas: Invalid value: 0: cannot be greater than readyReplicas".to_owned(),
        ]
    );
    let whole = "cannot be greater than status.replicas";
    for field in ["updatedReplicas", "readyReplicas"] {
        assert_eq!(
            deployment(json!({"replicas": 1, field: 2})),
            [format!("status.{field}: Invalid value: 2: {whole}")]
        );
    }
    for field in ["fullyLabeledReplicas", "readyReplicas"] {
        assert_eq!(
            set(json!({"replicas": 1, field: 2})),
            [format!("status.{field}: Invalid value: 2: {whole}")]
        );
    }
    for said in [deployment, set] {
        assert_eq!(
            said(json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2})),
            ["status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"]
        );
    }
}

#[test]
fn collisions_are_counted_upwards() {
    for kind in ["Deployment", "DaemonSet"] {
        let count = |old: Value, new: Value| said(("apps", kind), json!({}), old, new);
        let at = |count: i64| json!({ "collisionCount": count });
        assert_eq!(count(at(1), at(2)), [""; 0]);
        let fault =
            |count: i64| format!("status.collisionCount: Invalid value: {count}: cannot be decremented");
        assert_eq!(count(at(2), at(1)), [fault(1)]);
        assert_eq!(count(at(2), json!({})), [fault(0)]);
    }
}

#[test]
fn a_namespace_is_active_until_it_is_deleted() {
    let with = |deleted: Value, phase: &str| {
        let object =
            json!({"metadata": {"name": "n", "deletionTimestamp": deleted}, "status": {"phase": phase}});
        texts(&super::update("", "Namespace", "status", &object, &object))
    };
    let deleted = || json!("2026-01-01T00:00:00Z");
    assert_eq!(with(Value::Null, "Active"), [""; 0]);
    assert_eq!(with(deleted(), "Terminating"), [""; 0]);
    assert_eq!(
        with(Value::Null, "Terminating"),
        [
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        ]
    );
    assert_eq!(
        with(deleted(), "Active"),
        [
            "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"
        ]
    );
}

#[test]
fn a_load_balancers_ways_in_are_addresses_or_names() {
    let ways = |kind: &str, ways: Value| {
        said(("", "Service"), json!({"type": kind}), json!({}), json!({"loadBalancer": {"ingress": ways}}))
    };
    let at = "status.loadBalancer.ingress[0]";
    assert_eq!(
        ways("LoadBalancer", json!([{"ip": "10.0.0.1", "ipMode": "VIP"}, {"hostname": "a.example"}])),
        [""; 0]
    );
    assert_eq!(ways("ClusterIP", json!([])), [""; 0]);
    assert_eq!(
        ways("ClusterIP", json!([{"ip": "10.0.0.1", "ipMode": "VIP"}])),
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \"LoadBalancer\""]
    );
    for (way, expected) in [
        (
            json!({"ip": "x", "ipMode": "VIP"}),
            format!(
                "{at}.ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ),
        ),
        (
            json!({"ip": "10.0.0.1"}),
            format!("{at}.ipMode: Required value: must be specified when `ip` is set"),
        ),
        (
            json!({"hostname": "a", "ipMode": "VIP"}),
            format!("{at}.ipMode: Forbidden: may not be specified when `ip` is not set"),
        ),
        (
            json!({"ip": "10.0.0.1", "ipMode": "X"}),
            format!("{at}.ipMode: Unsupported value: \"X\": supported values: \"Proxy\", \"VIP\""),
        ),
        (
            json!({"hostname": "A_"}),
            format!("{at}.hostname: Invalid value: \"A_\": {}", super::names::SUBDOMAIN),
        ),
        (
            json!({"hostname": "10.0.0.1"}),
            format!("{at}.hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"),
        ),
    ] {
        assert_eq!(ways("LoadBalancer", json!([way])), [expected]);
    }
    // What was said so before the rule may be said again.
    let old = || json!({"loadBalancer": {"ingress": [{"ip": "010.0.0.1", "ipMode": "VIP"}]}});
    assert_eq!(said(("", "Service"), json!({"type": "LoadBalancer"}), old(), old()), [""; 0]);
}

#[test]
fn a_node_has_no_less_than_nothing_and_each_address_once() {
    let node = |status: Value| said(("", "Node"), json!({}), json!({}), status);
    let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
    let amounts = json!({"cpu": "1500m", "pods": "110", "x.io/a": "2"});
    assert_eq!(node(json!({"capacity": amounts, "allocatable": amounts, "addresses": [address]})), [""; 0]);
    assert_eq!(
        node(json!({
            "capacity": {"cpu": "-1"}, "allocatable": {"pods": "1500m", "x.io/a": "500m"},
            "addresses": [address, address],
        })),
        [
            format!("status.capacity.cpu: Invalid value: \"-1\": {NEGATIVE}"),
            "status.allocatable.pods: Invalid value: \"1500m\": must be an integer".to_owned(),
            "status.allocatable.x.io/a: Invalid value: \"500m\": must be an integer".to_owned(),
            format!("status.addresses[1]: Duplicate value: {address}"),
        ]
    );
}

/// A pod whose containers have these policies.
fn of_pod(spec: Value, old: Value, new: Value) -> Vec<String> {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    let with = |status: Value| {
        let mut object = pod(spec.clone());
        object["status"] = status;
        object
    };
    texts(&super::update("", "Pod", "status", &with(new), &with(old)))
}

#[test]
fn a_container_that_is_not_started_again_does_not_come_back() {
    let status = |list: &str, state: Value| json!({ list: [{"name": "a", "state": state}] });
    let ended = |code: i64| json!({"terminated": {"exitCode": code}});
    let running = || json!({"running": {}});
    let back = |spec: Value, list: &str, code: i64| {
        !of_pod(spec, status(list, ended(code)), status(list, running())).is_empty()
    };
    let policy = |policy: &str| json!({ "restartPolicy": policy });
    let one = "containerStatuses";
    for (spec, code, refused) in [
        (policy("Always"), 0, false),
        (policy("OnFailure"), 1, false),
        (policy("OnFailure"), 0, true),
        (policy("Never"), 1, true),
        (
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Always"}]}),
            0,
            false,
        ),
        (
            json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never"}]}),
            1,
            true,
        ),
        (
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never",
                "restartPolicyRules": [{"action": "Restart"}]}]}),
            1,
            false,
        ),
        (
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"},
                {"name": "b", "image": "i", "restartPolicyRules": [{"action": "RestartAllContainers"}]}]}),
            0,
            false,
        ),
    ] {
        assert_eq!(back(spec.clone(), one, code), refused, "{spec} {code}");
    }
    let init = |own: Value| {
        let mut container = json!({"name": "a", "image": "i"});
        container["restartPolicy"] = own;
        json!({"restartPolicy": "Never", "containers": [{"name": "b", "image": "i"}], "initContainers": [container]})
    };
    assert!(back(init(Value::Null), "initContainerStatuses", 0));
    assert!(!back(init("Always".into()), "initContainerStatuses", 0));
    assert!(back(policy("Always"), "ephemeralContainerStatuses", 1));
    assert_eq!(
        of_pod(policy("Never"), status(one, ended(0)), status(one, running())),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
    // An end stays one, and a status may be left out.
    assert_eq!(of_pod(policy("Never"), status(one, ended(0)), status(one, ended(1))), [""; 0]);
    assert_eq!(of_pod(policy("Never"), status(one, ended(0)), json!({})), [""; 0]);
    assert_eq!(of_pod(policy("Never"), status(one, running()), status(one, running())), [""; 0]);
}

#[test]
fn what_is_said_of_a_pod_has_its_form() {
    let said = |new: Value| of_pod(json!({}), json!({"qosClass": "Burstable"}), new);
    let with = |field: &str, value: Value| json!({"qosClass": "Burstable", field: value});
    assert_eq!(said(with("conditions", json!([{"type": "Ready"}, {"type": "example.com/gate"}]))), [""; 0]);
    assert_eq!(
        said(with("conditions", json!([{"type": "Ready"}, {"type": "a b"}])))
            .iter()
            .map(|text| text.split(": ").take(3).collect::<Vec<_>>().join(": "))
            .collect::<Vec<_>>(),
        ["metadata.conditions[1].Type: Invalid value: \"a b\""]
    );
    assert_eq!(
        said(json!({"qosClass": "Guaranteed"})),
        ["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"]
    );
    assert_eq!(said(with("nominatedNodeName", json!("n"))), [""; 0]);
    assert_eq!(
        said(with("nominatedNodeName", json!("A_"))),
        [format!("status.nominatedNodeName: Invalid value: \"A_\": {}", super::names::SUBDOMAIN)]
    );
    let claims = json!([{"name": "c", "resourceClaimName": "A_"}, {"name": "c"}]);
    let claimed = json!({"resourceClaims": [{"name": "c", "resourceClaimName": "x"}]});
    assert_eq!(
        of_pod(claimed, json!({}), json!({"resourceClaimStatuses": claims})),
        [
            format!(
                "status.resourceClaimStatuses[0].name: Invalid value: \"A_\": {}",
                super::names::SUBDOMAIN
            ),
            "status.resourceClaimStatuses[1].name: Duplicate value: \"c\"".to_owned(),
        ]
    );
    assert_eq!(
        said(with("resourceClaimStatuses", json!([{"name": "d"}]))),
        ["status.resourceClaimStatuses[0].name: Invalid value: \"d\": must match the name of an entry in \
             `spec.resourceClaims`"]
    );
}

#[test]
fn whom_a_container_runs_as_is_somebody() {
    let user = |linux: Value| json!({"containerStatuses": [{"name": "a", "user": {"linux": linux}}]});
    let said = |spec: Value, linux: Value| of_pod(spec, json!({}), user(linux));
    assert_eq!(said(json!({}), json!({"uid": 0, "gid": 0, "supplementalGroups": [1]})), [""; 0]);
    let range = "must be between 0 and 2147483647, inclusive";
    let at = "status.containerStatuses[0].linux";
    assert_eq!(
        said(json!({}), json!({"uid": -1, "gid": -2, "supplementalGroups": [1, -3]})),
        [
            format!("{at}.uid: Invalid value: -1: {range}"),
            format!("{at}.gid: Invalid value: -2: {range}"),
            format!("{at}.supplementalGroups[1]: Invalid value: -3: {range}"),
        ]
    );
    assert_eq!(
        said(json!({"os": {"name": "windows"}}), json!({"uid": 0, "gid": 0})),
        [format!("{at}: Forbidden: cannot be set for a windows pod")]
    );
}
