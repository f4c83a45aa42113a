//! What validation says, as tables of objects and their faults.

use serde_json::{Value, json};

use super::*;

mod bounds;
mod configuration;
mod containers;
mod metadata;
mod placement;
mod pods;
mod restarts;
mod security;
mod services;
mod sources;
mod statuses;
mod updates;
mod volumes;
mod workloads;

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    for (field, value) in [("restartPolicy", "Always"), ("dnsPolicy", "ClusterFirst")] {
        if spec[field].is_null() {
            spec[field] = value.into();
        }
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn texts(faults: &[Cause]) -> Vec<String> {
    faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
}

#[track_caller]
fn check(kind: &str, object: &Value, expected: &[&str]) {
    let group = match kind {
        "Deployment" => "apps",
        "PriorityClass" => "scheduling.k8s.io",
        _ => "",
    };
    assert_eq!(texts(&create(group, kind, object)), expected);
}

#[track_caller]
fn check_of(group: &str, kind: &str, object: &Value, expected: &[&str]) {
    assert_eq!(texts(&create(group, kind, object)), expected, "{object}");
}

#[test]
fn a_good_pod_has_no_fault() {
    let object = pod(json!({
        "containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP", "name": "http"}],
            "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}}],
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }));
    check("Pod", &object, &[]);
}

#[test]
fn ports_are_judged_one_by_one() {
    let port = |port: Value| pod(json!({"containers": [{"name": "a", "image": "b", "ports": [port]}]}));
    let cases = [
        (
            json!({"containerPort": 70000, "protocol": "TCP"}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"containerPort": 0, "protocol": "TCP"}),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            json!({"containerPort": 1, "hostPort": 70000, "protocol": "TCP"}),
            "spec.containers[0].ports[0].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"containerPort": 1, "protocol": "tcp"}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"containerPort": 1, "protocol": "TCP", "hostIP": "x"}),
            "spec.containers[0].ports[0].hostIP: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    ];
    for (input, expected) in cases {
        check("Pod", &port(input), &[expected]);
    }
}

#[test]
fn host_network_needs_equal_ports() {
    let object = pod(json!({"hostNetwork": true, "containers": [{"name": "a", "image": "b",
        "ports": [{"containerPort": 8080, "hostPort": 9090, "protocol": "TCP"}]}]}));
    check(
        "Pod",
        &object,
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 8080: must match `hostPort` when `hostNetwork` is true",
        ],
    );
}

#[test]
fn host_ports_clash_within_a_pod_by_address_and_protocol() {
    let container = |name: &str, port: Value| json!({"name": name, "image": "b", "ports": [port]});
    let object = |first: Value, second: Value| {
        pod(json!({"containers": [container("a", first), container("b", second)]}))
    };
    let tcp = json!({"containerPort": 1, "hostPort": 9000, "protocol": "TCP"});
    let udp = json!({"containerPort": 1, "hostPort": 9000, "protocol": "UDP"});
    check(
        "Pod",
        &object(tcp.clone(), tcp.clone()),
        &["spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//9000\""],
    );
    check("Pod", &object(tcp, udp), &[]);
}

#[test]
fn every_fault_is_reported() {
    let object = pod(
        json!({"restartPolicy": "Sometimes", "containers": [{"name": "A"}, {"name": "x", "image": "y"}, {"name": "x", "image": "y"}]}),
    );
    let faults = create("", "Pod", &object);
    let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.containers[0].name",
            "spec.containers[0].image",
            "spec.containers[2].name",
            "spec.restartPolicy"
        ]
    );
}

#[test]
fn a_pod_s_spec_may_change_in_few_places() {
    let old = pod(json!({"containers": [{"name": "a", "image": "b"}]}));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "c".into();
    new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    assert_eq!(texts(&update("", "Pod", "", &new, &old)), Vec::<String>::new());
    new["spec"]["hostNetwork"] = true.into();
    let faults = update("", "Pod", "", &new, &old);
    assert!(
        texts(&faults)[0].starts_with("spec: Forbidden: pod updates may not change fields other than"),
        "{faults:?}"
    );
}

#[test]
fn a_selector_must_match_and_stay() {
    let deployment = |label: &str| {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": label}}, "spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "containers": [{"name": "a", "image": "b"}]}}}})
    };
    check("Deployment", &deployment("b"), &[]);
    check(
        "Deployment",
        &deployment("c"),
        &[
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        ],
    );
    let mut changed = deployment("b");
    changed["spec"]["selector"]["matchLabels"] = json!({"a": "b", "c": "d"});
    changed["spec"]["template"]["metadata"]["labels"] = json!({"a": "b", "c": "d"});
    let faults = update("apps", "Deployment", "", &changed, &deployment("b"));
    assert_eq!(faults.len(), 1);
    assert!(faults[0].message.ends_with("field is immutable"));
}

#[test]
fn services_need_ports_with_names_where_there_are_several() {
    let service =
        |ports: Value| json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "ports": ports}});
    check("Service", &service(json!([])), &["spec.ports: Required value"]);
    check(
        "Service",
        &service(json!([{"port": 80, "protocol": "TCP"}, {"port": 0, "protocol": "TCP", "name": "b"}])),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        "Service",
        &service(json!([{"port": 80, "protocol": "TCP", "nodePort": 30000}])),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
}

#[test]
fn too_much_data_is_refused() {
    let text = "a".repeat((1 << 20) + 1);
    check(
        "ConfigMap",
        &json!({"metadata": {"name": "c"}, "data": {"a": text}}),
        &["[]: Too long: may not be more than 1048576 bytes"],
    );
}

#[test]
fn services_may_not_ask_for_what_no_proxy_does() {
    let service = |field: &str, value: Value| {
        let mut spec = json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]});
        spec[field] = value;
        json!({"metadata": {"name": "s"}, "spec": spec})
    };
    for (field, value, fault) in [
        (
            "sessionAffinity",
            json!("ClientIP"),
            "spec.sessionAffinity: Unsupported value: \"ClientIP\": supported values: \"None\"",
        ),
        (
            "ipFamilyPolicy",
            json!("RequireDualStack"),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            "ipFamilies",
            json!(["IPv4", "IPv6"]),
            "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
    ] {
        check("Service", &service(field, value), &[fault]);
    }
    for (field, value) in [
        ("sessionAffinity", json!("None")),
        ("ipFamilyPolicy", json!("PreferDualStack")),
        ("ipFamilies", json!(["IPv4"])),
    ] {
        check("Service", &service(field, value), &[]);
    }
}

#[test]
fn an_immutable_config_map_stays() {
    let old = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "b"}});
    let new = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "c"}});
    assert_eq!(
        texts(&update("", "ConfigMap", "", &new, &old)),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    check(
        "ConfigMap",
        &json!({"metadata": {"name": "c"}, "data": {"a b": "c"}}),
        &[
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
}
