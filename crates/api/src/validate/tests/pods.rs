//! Pods, field by field: each with the faults that it alone makes.

use serde_json::{Value, json};

use super::super::names;
use super::{check, pod};

/// A pod of one good container, with these fields beside it.
pub(super) fn with(spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "a", "image": "b"}]);
    pod(spec)
}

/// A pod whose only container has these fields, too.
fn with_container(fields: Value) -> Value {
    let mut container = json!({"name": "a", "image": "b"});
    for (field, value) in fields.as_object().expect("fields") {
        container[field] = value.clone();
    }
    pod(json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
}

#[track_caller]
pub(super) fn spec(cases: &[(Value, &str)]) {
    for (fields, expected) in cases {
        let expected: Vec<&str> = Some(*expected).filter(|text| !text.is_empty()).into_iter().collect();
        check("Pod", &with(fields.clone()), &expected);
    }
}

#[track_caller]
pub(super) fn container(cases: &[(Value, &str)]) {
    for (fields, expected) in cases {
        let expected: Vec<String> = Some(*expected)
            .filter(|text| !text.is_empty())
            .map(|text| format!("spec.containers[0].{text}"))
            .into_iter()
            .collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check("Pod", &with_container(fields.clone()), &expected);
    }
}

#[test]
fn names_of_the_pod_and_of_what_it_refers_to() {
    let long = "a".repeat(64);
    spec(&[
        (
            json!({"hostname": "web-0", "subdomain": "web", "nodeName": "n1.example", "serviceAccountName": "s"}),
            "",
        ),
        (
            json!({"hostname": long}),
            &format!("spec.hostname: Invalid value: \"{long}\": must be no more than 63 bytes"),
        ),
        (
            json!({"subdomain": "a.b"}),
            &format!("spec.subdomain: Invalid value: \"a.b\": {}", names::label("a.b").expect("a fault")),
        ),
        (json!({"nodeName": "N"}), &format!("spec.nodeName: Invalid value: \"N\": {}", names::SUBDOMAIN)),
        (
            json!({"priorityClassName": "-"}),
            &format!("spec.priorityClassName: Invalid value: \"-\": {}", names::SUBDOMAIN),
        ),
    ]);
}

#[test]
fn seconds_have_their_least() {
    let first = "must be between 1 and 2147483647, inclusive";
    spec(&[
        (json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0}), ""),
        (
            json!({"activeDeadlineSeconds": 0}),
            &format!("spec.activeDeadlineSeconds: Invalid value: 0: {first}"),
        ),
        (json!({"activeDeadlineSeconds": i32::MAX, "terminationGracePeriodSeconds": i64::MAX}), ""),
        (
            json!({"activeDeadlineSeconds": i64::MAX}),
            &format!("spec.activeDeadlineSeconds: Invalid value: 9223372036854775807: {first}"),
        ),
        // Who deletes it takes it for one second.
        (json!({"terminationGracePeriodSeconds": -1}), ""),
    ]);
}

#[test]
fn policies_are_of_a_set() {
    spec(&[
        (json!({"restartPolicy": "Never", "dnsPolicy": "Default"}), ""),
        (json!({"dnsPolicy": "ClusterFirstWithHostNet"}), ""),
        (
            json!({"dnsPolicy": "Own"}),
            "spec.dnsPolicy: Unsupported value: \"Own\": supported values: \"ClusterFirstWithHostNet\", \
             \"ClusterFirst\", \"Default\", \"None\"",
        ),
        (
            json!({"restartPolicy": "Once"}),
            "spec.restartPolicy: Unsupported value: \"Once\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (json!({"restartPolicy": ""}), "spec.restartPolicy: Required value"),
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (json!({"hostPID": true}), ""),
        (json!({"shareProcessNamespace": true}), ""),
    ]);
}

#[test]
fn name_servers_are_few_and_addresses() {
    let servers = |count: usize| vec!["192.0.2.1"; count];
    let must = "must provide at least one DNS nameserver when `dnsPolicy` is None";
    spec(&[
        (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers(3)}}), ""),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {}}),
            &format!("spec.dnsConfig.nameservers: Required value: {must}"),
        ),
        (json!({"dnsPolicy": "None"}), &format!("spec.dnsConfig: Required value: {must}")),
        (
            json!({"dnsConfig": {"nameservers": servers(4)}}),
            "spec.dnsConfig.nameservers: Invalid value: [\"192.0.2.1\",\"192.0.2.1\",\"192.0.2.1\",\"192.0.2.1\"]: \
             must not have more than 3 nameservers",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["here"]}}),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"here\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
        ),
        (json!({"dnsConfig": {"searches": vec!["a"; 32], "options": [{"name": "ndots", "value": "2"}]}}), ""),
        (
            json!({"dnsConfig": {"options": [{"value": "2"}]}}),
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ),
    ]);
    let faults = super::create("", "Pod", &with(json!({"dnsConfig": {"searches": vec!["a"; 33]}})));
    assert_eq!(faults.len(), 1);
    assert!(faults[0].message.ends_with("must not have more than 32 search paths"), "{faults:?}");
}

#[test]
fn aliases_of_hosts_are_addresses_and_names() {
    spec(&[
        (json!({"hostAliases": [{"ip": "127.0.0.1", "hostnames": ["a", "b.example"]}]}), ""),
        (
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"hostAliases": [{"ip": "::1", "hostnames": ["a", "B"]}]}),
            &format!("spec.hostAliases[0].hostnames: Invalid value: \"B\": {}", names::SUBDOMAIN),
        ),
    ]);
}

#[test]
fn tolerations_say_what_they_tolerate() {
    let with = |toleration: Value| json!({"tolerations": [toleration]});
    spec(&[
        (with(json!({"operator": "Exists"})), ""),
        (with(json!({"key": "k", "value": "v", "effect": "NoSchedule"})), ""),
        (with(json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5})), ""),
        (
            with(json!({"value": "v"})),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which \
             means \"match all values and all keys\"",
        ),
        (
            with(json!({"key": "k", "operator": "Exists", "value": "v"})),
            "spec.tolerations[0].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
        ),
        (
            with(json!({"key": "k", "effect": "NoSchedule", "tolerationSeconds": 5})),
            "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
        ),
        (
            with(json!({"key": "k", "operator": "Like"})),
            "spec.tolerations[0].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"",
        ),
        (
            with(json!({"key": "k", "effect": "Never"})),
            "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\"",
        ),
    ]);
    for toleration in [json!({"key": "a b"}), json!({"key": "k", "operator": "Equal", "value": "a b"})] {
        let faults = super::create(
            "",
            "Pod",
            &super::pod(json!({
            "containers": [{"name": "a", "image": "b"}], "tolerations": [toleration]})),
        );
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
}

#[test]
fn terms_of_node_affinity_have_values_by_their_operator() {
    let required = |requirement: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}})
    };
    let place = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let of = |operator: &str, values: &[&str]| {
        required(json!({"key": "k", "operator": operator, "values": values}))
    };
    let at = format!("{place}[0].matchExpressions[0]");
    let some = format!("{at}.values: Required value: must be specified when `operator` is 'In' or 'NotIn'");
    let none =
        format!("{at}.values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
    let one = format!(
        "{at}.values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"
    );
    spec(&[
        (of("In", &["a", "b"]), ""),
        (of("NotIn", &["a"]), ""),
        (of("Exists", &[]), ""),
        (of("DoesNotExist", &[]), ""),
        (of("Gt", &["1"]), ""),
        (of("Lt", &["1"]), ""),
        (of("In", &[]), &some),
        (of("NotIn", &[]), &some),
        (of("Exists", &["a"]), &none),
        (of("DoesNotExist", &["a"]), &none),
        (of("Gt", &[]), &one),
        (of("Lt", &["1", "2"]), &one),
        (
            of("Like", &["a"]),
            &format!("{at}.operator: Invalid value: \"Like\": not a valid selector operator"),
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": []}}}}),
            &format!("{place}: Required value: must have at least one node selector term"),
        ),
    ]);
    let preferred = |weight: i64| {
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "preference": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}]}}})
    };
    let weight = |number: i64| {
        format!(
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: \
             {number}: must be in the range 1-100"
        )
    };
    spec(&[
        (preferred(1), ""),
        (preferred(100), ""),
        (preferred(0), &weight(0)),
        (preferred(101), &weight(101)),
    ]);
}

#[test]
fn a_host_name_instead_of_dns_is_one_and_alone() {
    let at = "spec.hostnameOverride";
    spec(&[
        (json!({"hostnameOverride": "a.example", "setHostnameAsFQDN": false}), ""),
        (json!({"setHostnameAsFQDN": true}), ""),
        (json!({"hostnameOverride": "A_"}), &format!("{at}: Invalid value: \"A_\": {}", names::SUBDOMAIN)),
        (
            json!({"hostnameOverride": format!("{}.b", "a".repeat(63))}),
            &format!("{at}: Too long: may not be more than 64 bytes"),
        ),
        (
            json!({"hostnameOverride": "a", "setHostnameAsFQDN": true}),
            &format!("{at}: Forbidden: may not be set when `setHostnameAsFQDN` is true"),
        ),
        (
            json!({"hostnameOverride": "a", "hostNetwork": true}),
            &format!("{at}: Forbidden: may not be set when `hostNetwork` is true"),
        ),
    ]);
}
