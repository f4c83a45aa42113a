//! Configuration, priorities, leases and nodes, field by field.

use serde_json::{Value, json};

use super::check_of as check;

#[test]
fn secrets_hold_what_their_type_needs() {
    let said = |kind: &str, data: Value, expected: &[&str]| {
        check("", "Secret", &json!({"metadata": {"name": "s"}, "type": kind, "data": data}), expected);
    };
    said("Opaque", json!({"a": "eA=="}), &[]);
    said("kubernetes.io/tls", json!({"tls.crt": "eA==", "tls.key": "eA=="}), &[]);
    said("kubernetes.io/tls", json!({}), &["data[tls.crt]: Required value", "data[tls.key]: Required value"]);
    for (kind, key) in [
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
        ("kubernetes.io/dockercfg", ".dockercfg"),
        ("kubernetes.io/ssh-auth", "ssh-privatekey"),
    ] {
        said(kind, json!({key: "e30="}), &[]);
        said(kind, json!({}), &[&format!("data[{key}]: Required value")]);
    }
    // x, nothing, {, [1] and "a".
    for (text, why) in [
        ("eA==", "invalid character 'x' looking for beginning of value"),
        ("", "unexpected end of JSON input"),
        ("ew==", "unexpected end of JSON input"),
        ("WzFd", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        ("ImEi", "json: cannot unmarshal string into Go value of type map[string]interface {}"),
    ] {
        let fault = format!("Invalid value: \"<secret contents redacted>\": {why}");
        for (kind, key) in [
            ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
            ("kubernetes.io/dockercfg", ".dockercfg"),
        ] {
            let expected = format!("data[{key}]: {fault}");
            said(kind, json!({key: text}), &[&expected]);
        }
    }
    said("kubernetes.io/basic-auth", json!({"username": "eA=="}), &[]);
    said("kubernetes.io/basic-auth", json!({"password": "eA=="}), &[]);
    said(
        "kubernetes.io/basic-auth",
        json!({}),
        &["data[username]: Required value", "data[password]: Required value"],
    );
    let account = |annotations: Value| json!({"metadata": {"name": "s", "annotations": annotations}, "type": "kubernetes.io/service-account-token"});
    check("", "Secret", &account(json!({"kubernetes.io/service-account.name": "a"})), &[]);
    check(
        "",
        "Secret",
        &account(json!({})),
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
}

#[test]
fn data_has_a_size_in_bytes() {
    const MAX: usize = 1 << 20;
    let text = |length: usize| "a".repeat(length);
    let map =
        |data: Value, binary: Value| json!({"metadata": {"name": "c"}, "data": data, "binaryData": binary});
    check("", "ConfigMap", &map(json!({"a": text(MAX - 3), "b": "xyz"}), json!({})), &[]);
    check(
        "",
        "ConfigMap",
        &map(json!({"a": text(MAX - 2), "b": "xyz"}), json!({})),
        &["[]: Too long: may not be more than 1048576 bytes"],
    );
    // Four letters of base64 are three bytes.
    check("", "ConfigMap", &map(json!({"a": text(MAX - 3)}), json!({"b": "YWFh"})), &[]);
    check(
        "",
        "ConfigMap",
        &map(json!({"a": text(MAX - 3)}), json!({"b": "YWFhYQ=="})),
        &["[]: Too long: may not be more than 1048576 bytes"],
    );
    check(
        "",
        "ConfigMap",
        &map(json!({"a": "b"}), json!({"a": "YQ=="})),
        &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
    );
    let secret =
        |letters: usize| json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": text(letters)}});
    check("", "Secret", &secret(MAX / 3 * 4), &[]);
    check("", "Secret", &secret(MAX / 3 * 4 + 4), &["data: Too long: may not be more than 1048576 bytes"]);
}

#[test]
fn priorities_of_users_are_below_those_of_the_system() {
    let said = |name: &str, value: i64, global: bool, expected: &[&str]| {
        let class = json!({"metadata": {"name": name}, "value": value, "globalDefault": global, "preemptionPolicy": "Never"});
        check("scheduling.k8s.io", "PriorityClass", &class, expected);
    };
    said("high", 1_000_000_000, true, &[]);
    said(
        "high",
        1_000_000_001,
        false,
        &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
    );
    said("system-node-critical", 2_000_001_000, false, &[]);
    said("system-cluster-critical", 2_000_000_000, false, &[]);
    let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
    for (name, value, global, why) in [
        ("system-mine", 5, false, "system-mine is not a known system priority class"),
        ("system-node-critical", 5, false, "value of system-node-critical PriorityClass must be 2000001000"),
        (
            "system-node-critical",
            2_000_001_000,
            true,
            "globalDefault of system-node-critical PriorityClass must be false",
        ),
    ] {
        said(name, value, global, &[&format!("{reserved}{why}")]);
    }
}

#[test]
fn leases_last_and_count() {
    let said = |spec: Value, expected: &[&str]| {
        check("coordination.k8s.io", "Lease", &json!({"metadata": {"name": "l"}, "spec": spec}), expected);
    };
    said(json!({"leaseDurationSeconds": 1, "leaseTransitions": 0}), &[]);
    said(
        json!({"leaseDurationSeconds": 0, "leaseTransitions": -1}),
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
}

#[test]
fn nodes_have_taints_and_ranges() {
    let said = |spec: Value, expected: &[&str]| {
        check("", "Node", &json!({"metadata": {"name": "n"}, "spec": spec}), expected);
    };
    let range = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    said(
        json!({"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}], "podCIDRs": ["10.0.0.0/32", "2001:db8::/128"]}),
        &[],
    );
    let word = &crate::selector::label_key_faults("")[1];
    said(
        json!({"taints": [{}]}),
        &[
            "spec.taints[0].key: Invalid value: \"\": name part must be non-empty",
            &format!("spec.taints[0].key: Invalid value: \"\": {word}"),
            "spec.taints[0].effect: Required value",
        ],
    );
    let taint = |value: &str, effect: &str| json!({"key": "k", "value": value, "effect": effect});
    said(json!({"taints": [taint("v", "NoExecute"), taint("v", "NoSchedule")]}), &[]);
    said(
        json!({"taints": [taint("v", "NoExecute"), taint("w", "NoExecute")]}),
        &[
            "spec.taints[1]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"k\",\"value\":\"w\"}: taints must be unique by \
           key and effect pair",
        ],
    );
    for bad in ["10.0.0.0", "10.0.0.0/33", "2001:db8::/129", "x/8"] {
        said(json!({"podCIDRs": [bad]}), &[&format!("spec.podCIDRs[0]: Invalid value: \"{bad}\": {range}")]);
    }
    said(json!({"podCIDR": "x"}), &[&format!("spec.podCIDR: Invalid value: \"x\": {range}")]);
    said(json!({"podCIDR": "x", "podCIDRs": ["10.0.0.0/8"]}), &[]);
}
