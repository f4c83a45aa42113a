//! What stands just at a bound, and what belongs to a rule by one of its two conditions alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pods::{container, with};
use super::{check, check_of, pod, texts};
use crate::validate::{create, update, warnings};

fn faults(group: &str, kind: &str, object: &Value) -> Vec<String> {
    texts(&create(group, kind, object))
}

#[test]
fn a_secret_may_be_as_big_as_the_bound() {
    let secret = |bytes: usize| {
        json!({"metadata": {"name": "s", "namespace": "a"}, "type": "Opaque",
            "data": {"k": STANDARD.encode(vec![0; bytes])}})
    };
    check("Secret", &secret(1 << 20), &[]);
    assert_eq!(faults("", "Secret", &secret((1 << 20) + 1)).len(), 1);
}

#[test]
fn credentials_that_are_no_object_say_why() {
    let docker = |text: &str| {
        let object = json!({"metadata": {"name": "s", "namespace": "a"}, "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": STANDARD.encode(text)}});
        faults("", "Secret", &object).join(" ")
    };
    for (text, why) in [
        ("{}", ""),
        ("{bad", "invalid JSON"),
        ("[1,]", "invalid JSON"),
        ("<xml>", "invalid character '<' looking for beginning of value"),
        ("{", "unexpected end of JSON input"),
        ("7", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
    ] {
        let said = docker(text);
        assert!(said.ends_with(why) && said.is_empty() == why.is_empty(), "{text}: {said}");
    }
}

#[test]
fn a_value_without_a_source_is_no_value_of_two_origins() {
    let object = pod(json!({"containers": [{"name": "a", "image": "b",
        "env": [{"name": "A", "value": "x", "valueFrom": {}}]}]}));
    let said = faults("", "Pod", &object);
    assert!(
        !said.is_empty() && !said.iter().any(|text| text.contains("when `value` is not empty")),
        "{said:?}"
    );
}

#[test]
fn only_a_negative_grace_period_may_become_one_second() {
    let graceful = |seconds: i64| with(json!({"terminationGracePeriodSeconds": seconds}));
    let changed = |before: i64| texts(&update("", "Pod", "", &graceful(1), &graceful(before)));
    assert_eq!(changed(-1), Vec::<String>::new());
    assert_eq!(changed(0).len(), 1);
    assert_eq!(changed(30).len(), 1);
}

#[test]
fn only_bindings_of_the_cluster_need_an_accounts_namespace() {
    let bound = |kind: &str, namespace: Value| {
        let object = json!({
            "metadata": {"name": "b", "namespace": if kind == "RoleBinding" { "a".into() } else { Value::Null }},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": namespace}],
        });
        faults("rbac.authorization.k8s.io", kind, &object)
    };
    assert_eq!(bound("RoleBinding", Value::Null), Vec::<String>::new());
    assert_eq!(bound("RoleBinding", "a".into()), Vec::<String>::new());
    assert_eq!(bound("ClusterRoleBinding", "a".into()), Vec::<String>::new());
    assert_eq!(bound("ClusterRoleBinding", Value::Null), ["subjects[0].namespace: Required value"]);
}

#[test]
fn rules_of_restarts_are_bounded() {
    let rule = |codes: usize| json!({"action": "Restart", "exitCodes": {"operator": "In", "values": (0..codes).collect::<Vec<_>>()}});
    let with = |rules: Vec<Value>| json!({"restartPolicy": "Never", "restartPolicyRules": rules});
    container(&[
        (with(vec![rule(1); 20]), ""),
        (with(vec![rule(1); 21]), "restartPolicyRules: Too many: 21: must have at most 20 items"),
        (with(vec![rule(255)]), ""),
        (
            with(vec![rule(256)]),
            "restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items",
        ),
    ]);
}

#[test]
fn profiles_of_apparmor_have_a_type_and_a_name_where_they_are_local() {
    let profile = |profile: Value| json!({"securityContext": {"appArmorProfile": profile}});
    let local = |length: usize| profile(json!({"type": "Localhost", "localhostProfile": "p".repeat(length)}));
    let field = "securityContext.appArmorProfile";
    container(&[
        (profile(json!({"type": "RuntimeDefault"})), ""),
        (
            profile(json!({"type": ""})),
            &format!("{field}.type: Required value: type is required when appArmorProfile is set"),
        ),
        (
            profile(json!({"type": "RuntimeDefault", "localhostProfile": "p"})),
            &format!(
                "{field}.localhostProfile: Invalid value: \"p\": can only be set when AppArmor type is Localhost"
            ),
        ),
        (local(4095), ""),
        (local(4096), &format!("{field}.localhostProfile: Too long: may not be more than 4095 bytes")),
    ]);
}

#[test]
fn each_projected_source_is_judged_by_its_kind() {
    let projected = |source: Value| {
        let volumes = json!([{"name": "v", "projected": {"sources": [source]}}]);
        faults("", "Pod", &with(json!({ "volumes": volumes })))
    };
    let token =
        |seconds: i64| projected(json!({"serviceAccountToken": {"path": "t", "expirationSeconds": seconds}}));
    assert_eq!(token(1 << 32), Vec::<String>::new());
    assert_eq!(token((1 << 32) + 1).len(), 1);
    assert_eq!(token(600), Vec::<String>::new());
    assert_eq!(token(599).len(), 1);
    let item = |path: &str| {
        projected(json!({"downwardAPI": {"items": [{"path": path,
        "fieldRef": {"fieldPath": "metadata.name"}}]}}))
    };
    assert_eq!(item("name"), Vec::<String>::new());
    assert_eq!(item("../name").len(), 1);
}

#[test]
fn a_deadline_of_zero_is_too_early_and_not_negative() {
    let deployment = |deadline: i64, ready: i64| {
        json!({"metadata": {"name": "d", "namespace": "a"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "progressDeadlineSeconds": deadline, "minReadySeconds": ready,
            "template": {"metadata": {"labels": {"a": "b"}},
                "spec": with(json!({}))["spec"].clone()}}})
    };
    let field = "spec.progressDeadlineSeconds: Invalid value";
    check("Deployment", &deployment(1, 0), &[]);
    check("Deployment", &deployment(0, 0), &[&format!("{field}: 0: must be greater than minReadySeconds")]);
    check("Deployment", &deployment(5, 5), &[&format!("{field}: 5: must be greater than minReadySeconds")]);
    check(
        "Deployment",
        &deployment(-1, 0),
        &[
            &format!("{field}: -1: must be greater than or equal to 0"),
            &format!("{field}: -1: must be greater than minReadySeconds"),
        ],
    );
}

#[test]
fn warnings_are_of_the_kind_that_they_are_for() {
    let odd = json!({"spec": {"type": "ClusterIP", "clusterIP": "fd00::1", "clusterIPs": ["FD00::1"],
        "sessionAffinity": "ClientIP"}});
    assert_eq!(warnings("", "Service", &odd).len(), 1, "and nothing of headless services");
    for (group, kind) in [("", "Pod"), ("example.com", "Service"), ("networking.k8s.io", "NetworkPolicy")] {
        assert_eq!(warnings(group, kind, &odd), Vec::<String>::new(), "{group} {kind}");
    }
}

#[test]
fn finalizers_are_judged_where_they_change() {
    let map = |finalizer: &str, data: &str| json!({"metadata": {"name": "m", "namespace": "a", "finalizers": [finalizer]}, "data": {"k": data}});
    let is_taken = |new: Value, old: Value| update("", "ConfigMap", "", &new, &old).is_empty();
    assert!(is_taken(map("Bad_", "new"), map("Bad_", "old")), "it was there before");
    assert!(!is_taken(map("Bad_", "same"), map("example.com/good", "same")));
}

#[test]
fn requests_for_certificates_are_judged_as_such() {
    let (group, kind) = ("certificates.k8s.io", "CertificateSigningRequest");
    let csr = |conditions: Value| {
        json!({"metadata": {"name": "c"}, "spec": {"request": "", "signerName": "example.com/s",
            "usages": ["any"]}, "status": {"conditions": conditions}})
    };
    check_of(group, kind, &csr(json!([])), &["spec.request: Required value"]);
    let approved = json!([{"type": "Approved", "status": "True"}]);
    assert_eq!(texts(&update(group, kind, "approval", &csr(json!([])), &csr(approved.clone()))).len(), 1);
    // Other kinds' conditions are theirs to remove.
    let map = |conditions: Value| json!({"metadata": {"name": "m", "namespace": "a"}, "status": {"conditions": conditions}});
    assert_eq!(texts(&update("", "ConfigMap", "status", &map(json!([])), &map(approved))).len(), 0);
}

#[test]
fn what_all_other_pods_are_compared_with_is_bounded() {
    let terms = |count: usize| {
        vec![json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}); count]
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = |field: &str, list: Value| with(json!({"affinity": {kind: {field: list}}}));
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        check("Pod", &affinity(required, json!(terms(256))), &[]);
        let expected = format!("spec.affinity.{kind}.{required}: Too many: 257: must have at most 256 items");
        check("Pod", &affinity(required, json!(terms(257))), &[&expected]);
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let weighed: Vec<Value> =
            terms(257).into_iter().map(|term| json!({"weight": 1, "podAffinityTerm": term})).collect();
        let expected =
            format!("spec.affinity.{kind}.{preferred}: Too many: 257: must have at most 256 items");
        check("Pod", &affinity(preferred, json!(weighed)), &[&expected]);
    }
    let spread: Vec<Value> = (0..257)
        .map(|n| json!({"maxSkew": 1, "topologyKey": format!("k{n}"), "whenUnsatisfiable": "DoNotSchedule"}))
        .collect();
    check("Pod", &with(json!({"topologySpreadConstraints": spread[..256]})), &[]);
    check(
        "Pod",
        &with(json!({"topologySpreadConstraints": spread})),
        &["spec.topologySpreadConstraints: Too many: 257: must have at most 256 items"],
    );
}

/// Comparing each with each of them would not end while anybody waits.
#[test]
fn long_lists_are_compared_in_one_pass() {
    let count = 60_000;
    let keys = |from: usize| (from..from + count).map(|n| json!(format!("k{n}"))).collect::<Vec<_>>();
    let expressions: Vec<Value> =
        (count..2 * count).map(|n| json!({"key": format!("k{n}"), "operator": "Exists"})).collect();
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchExpressions": expressions},
        "matchLabelKeys": keys(0), "mismatchLabelKeys": keys(count)});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
    check("Pod", &with(json!({"affinity": {"podAffinity": required}})), &[]);
    let tolerations: Vec<Value> =
        (0..count).map(|n| json!({"key": format!("k{n}"), "operator": "Exists"})).collect();
    let tolerant = with(json!({"tolerations": tolerations}));
    assert_eq!(texts(&update("", "Pod", "", &tolerant, &tolerant)), Vec::<String>::new());
    let gates: Vec<Value> = (0..count).map(|n| json!({"name": format!("k{n}")})).collect();
    let gated = with(json!({"schedulingGates": gates}));
    assert_eq!(texts(&update("", "Pod", "", &gated, &gated)), Vec::<String>::new());
}
