//! Services, endpoints, configuration, nodes and metadata, field by field.

use serde_json::{Value, json};

use super::super::names;
use super::{create, texts};

#[track_caller]
fn check(group: &str, kind: &str, object: &Value, expected: &[&str]) {
    assert_eq!(texts(&create(group, kind, object)), expected, "{object}");
}

fn service(fields: Value) -> Value {
    let mut spec = json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]});
    for (field, value) in fields.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "s"}, "spec": spec})
}

#[test]
fn services_by_type() {
    let said = |fields: Value, expected: &[&str]| check("", "Service", &service(fields), expected);
    said(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}), &[]);
    said(
        json!({"type": "Own"}),
        &["spec.type: Unsupported value: \"Own\": supported values: \"ClusterIP\", \"ExternalName\", \
           \"LoadBalancer\", \"NodePort\""],
    );
    said(json!({"clusterIP": "None", "ports": []}), &[]);
    said(
        json!({"clusterIP": "None", "type": "NodePort"}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    );
    said(json!({"type": "ExternalName", "externalName": "db.example.", "ports": []}), &[]);
    said(json!({"type": "ExternalName", "ports": []}), &["spec.externalName: Required value"]);
    said(
        json!({"type": "ExternalName", "externalName": "DB", "ports": []}),
        &[&format!("spec.externalName: Invalid value: \"DB\": {}", names::SUBDOMAIN)],
    );
    said(
        json!({"type": "ExternalName", "externalName": "db", "clusterIP": "10.0.0.1"}),
        &["spec.clusterIPs[0]: Forbidden: may not be set for ExternalName services"],
    );
    let address = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    said(
        json!({"clusterIP": "here", "externalIPs": ["there", "192.0.2.1"]}),
        &[
            &format!("spec.clusterIPs[0]: Invalid value: \"here\": {address}"),
            &format!("spec.externalIPs[0]: Invalid value: \"there\": {address}"),
        ],
    );
    said(
        json!({"type": "NodePort", "externalTrafficPolicy": "Near"}),
        &[
            "spec.externalTrafficPolicy: Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"",
        ],
    );
}

#[test]
fn a_service_of_the_cluster_says_nothing_of_traffic_from_outside() {
    let said = |fields: Value, expected: &[&str]| check("", "Service", &service(fields), expected);
    let outside = "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services";
    said(json!({"externalTrafficPolicy": "Local"}), &[outside]);
    said(json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}), &[]);
    said(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), &[]);
    let balancer = "Forbidden: may only be used when `type` is 'LoadBalancer'";
    for (field, value) in [
        ("loadBalancerSourceRanges", json!(["10.0.0.0/8"])),
        ("loadBalancerClass", json!("example.com/a")),
        ("allocateLoadBalancerNodePorts", json!(false)),
    ] {
        for kind in ["ClusterIP", "NodePort"] {
            said(json!({"type": kind, field: value}), &[&format!("spec.{field}: {balancer}")]);
        }
        said(json!({"type": "LoadBalancer", field: value}), &[]);
    }
    said(
        json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0"]}),
        &[
            "spec.loadBalancerSourceRanges[1]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
           2001:db8::/64)",
        ],
    );
    let check = "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and \
                 `externalTrafficPolicy` is 'Local'";
    said(json!({"healthCheckNodePort": 30000}), &[check]);
    said(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 30000}),
        &[check],
    );
    said(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}),
        &[],
    );
}

/// Addresses that mean another place on each node, and what is said of them.
const SPECIAL: [(&str, &str); 12] = [
    ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
    ("::", "may not be unspecified (::)"),
    ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("127.255.255.255", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("::1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("169.254.169.254", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("fe80::1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("febf::1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ("224.0.0.255", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ("ff02::1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ("ff12::1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
];

#[test]
fn no_service_leads_to_what_is_another_place_on_each_node() {
    for (ip, why) in SPECIAL {
        let said = |group: &str, kind: &str, object: &Value, field: &str| {
            check(group, kind, object, &[&format!("{field}: Invalid value: \"{ip}\": {why}")]);
        };
        for list in ["addresses", "notReadyAddresses"] {
            let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{list: [{"ip": ip}]}]});
            said("", "Endpoints", &endpoints, &format!("subsets[0].{list}[0].ip"));
        }
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        let slice =
            json!({"metadata": {"name": "s"}, "addressType": family, "endpoints": [{"addresses": [ip]}]});
        said("discovery.k8s.io", "EndpointSlice", &slice, "endpoints[0].addresses[0]");
        said("", "Service", &service(json!({"externalIPs": [ip]})), "spec.externalIPs[0]");
    }
    for ip in [
        "10.0.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.0.1",
        "224.0.1.0",
        "2001:db8::1",
        "fec0::1",
        "ff05::1",
    ] {
        check(
            "",
            "Endpoints",
            &json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": ip}]}]}),
            &[],
        );
    }
}

#[test]
fn ports_of_services_are_told_apart() {
    let said = |kind: &str, ports: Value, expected: &[&str]| {
        check("", "Service", &service(json!({"type": kind, "ports": ports})), expected);
    };
    let port =
        |name: &str, number: i64, protocol: &str| json!({"name": name, "port": number, "protocol": protocol});
    said("ClusterIP", json!([port("a", 53, "UDP"), port("b", 53, "TCP")]), &[]);
    said(
        "ClusterIP",
        json!([port("a", 53, "UDP"), port("a", 53, "TCP")]),
        &["spec.ports[1].name: Duplicate value: \"a\""],
    );
    said(
        "ClusterIP",
        json!([port("a", 53, "UDP"), port("b", 53, "UDP")]),
        &["spec.ports[1]: Duplicate value: {\"port\":53,\"protocol\":\"UDP\"}"],
    );
    said(
        "ClusterIP",
        json!([port("A", 53, "UDP")]),
        &[&format!("spec.ports[0].name: Invalid value: \"A\": {}", names::label("A").expect("a fault"))],
    );
    said("ClusterIP", json!([{"port": 53}]), &["spec.ports[0].protocol: Required value"]);
    said(
        "ClusterIP",
        json!([{"port": 53, "protocol": "ICMP"}]),
        &[
            "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    let target = |target: Value| json!([{"port": 80, "protocol": "TCP", "targetPort": target}]);
    said("ClusterIP", target(json!("http")), &[]);
    said(
        "ClusterIP",
        target(json!(0)),
        &["spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive"],
    );
    let node = |name: &str, number: i64, protocol: &str, node: i64| json!({"name": name, "port": number, "protocol": protocol, "nodePort": node});
    said("NodePort", json!([node("a", 80, "TCP", 30000), node("b", 81, "UDP", 30000)]), &[]);
    said(
        "NodePort",
        json!([node("a", 80, "TCP", 30000), node("b", 81, "TCP", 30000)]),
        &["spec.ports[1].nodePort: Duplicate value: 30000"],
    );
    said("NodePort", json!([node("a", 80, "TCP", 0), node("b", 81, "TCP", 0)]), &[]);
}

#[test]
fn endpoints_have_addresses() {
    let address = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let said = |subset: Value, expected: &[&str]| {
        check("", "Endpoints", &json!({"metadata": {"name": "e"}, "subsets": [subset]}), expected);
    };
    said(json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}), &[]);
    said(json!({"notReadyAddresses": [{"ip": "10.0.0.1"}]}), &[]);
    said(json!({}), &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]);
    said(
        json!({"addresses": [{"ip": "x"}], "notReadyAddresses": [{"ip": "y"}], "ports": [{"port": 0, "protocol": "X"}]}),
        &[
            &format!("subsets[0].addresses[0].ip: Invalid value: \"x\": {address}"),
            &format!("subsets[0].notReadyAddresses[0].ip: Invalid value: \"y\": {address}"),
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
}

#[test]
fn slices_hold_addresses_of_their_type() {
    let slice = |kind: &str, endpoints: Value| json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": endpoints});
    let said =
        |object: &Value, expected: &[&str]| check("discovery.k8s.io", "EndpointSlice", object, expected);
    said(&slice("IPv4", json!([{"addresses": ["10.0.0.1"]}])), &[]);
    said(&slice("IPv6", json!([{"addresses": ["2001:db8::1"]}])), &[]);
    said(
        &slice("IPv6", json!([{"addresses": ["10.0.0.1"]}])),
        &["endpoints[0].addresses[0]: Invalid value: \"10.0.0.1\": must be an IPv6 address"],
    );
    said(&slice("", json!([])), &["addressType: Required value"]);
    said(
        &slice("IPv5", json!([])),
        &["addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
    said(
        &slice("IPv4", json!([{"addresses": []}, {"addresses": ["::1"]}])),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
        ],
    );
    let full = vec![json!({"addresses": ["10.0.0.1"]}); 1000];
    said(&slice("IPv4", json!(full)), &[]);
    let over = vec![json!({"addresses": ["10.0.0.1"]}); 1001];
    said(&slice("IPv4", json!(over)), &["endpoints: Too many: 1001: must have at most 1000 items"]);
}

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
    said(
        json!({"taints": [{}]}),
        &["spec.taints[0].key: Required value", "spec.taints[0].effect: Required value"],
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

#[test]
fn metadata_of_every_kind() {
    let said = |metadata: Value, expected: &[&str]| {
        check("", "Namespace", &json!({"metadata": metadata}), expected);
    };
    let owner = |controller: bool| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": controller});
    said(
        json!({"labels": {"a/b": "c"}, "annotations": {"A": "b c"}, "ownerReferences": [owner(true), owner(false)]}),
        &[],
    );
    said(
        json!({"ownerReferences": [{}]}),
        &[
            "metadata.ownerReferences[0].apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences[0].kind: Invalid value: \"\": kind must not be empty",
            "metadata.ownerReferences[0].name: Invalid value: \"\": name must not be empty",
            "metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty",
        ],
    );
    let two = create("", "Namespace", &json!({"metadata": {"ownerReferences": [owner(true), owner(true)]}}));
    assert!(
        two[0].message.ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for Pod and Pod"
        ),
        "{two:?}"
    );
    let annotations = |bytes: usize| json!({"annotations": {"abc": "x".repeat(bytes - 3)}});
    said(annotations(256 << 10), &[]);
    said(
        annotations((256 << 10) + 1),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    for bad in [
        json!({"labels": {"a b": "c"}}),
        json!({"labels": {"a": "c d"}}),
        json!({"annotations": {"a b": "c"}}),
    ] {
        assert_eq!(create("", "Namespace", &json!({ "metadata": bad })).len(), 1, "{bad}");
    }
}

#[test]
fn names_have_their_lengths_and_letters() {
    let fits = |rule: fn(&str) -> Option<String>, text: &str| rule(text).is_none();
    let a = |count: usize| "a".repeat(count);
    for (text, is_label, is_subdomain) in [
        ("a", true, true),
        ("a-1", true, true),
        ("1", true, true),
        ("", false, false),
        ("-a", false, false),
        ("a-", false, false),
        ("a.b", false, true),
        ("a..b", false, false),
        (".a", false, false),
        ("A", false, false),
        ("a_b", false, false),
    ] {
        assert_eq!(fits(names::label, text), is_label, "{text}");
        assert_eq!(fits(names::subdomain, text), is_subdomain, "{text}");
    }
    assert!(fits(names::label, &a(63)) && !fits(names::label, &a(64)));
    assert!(fits(names::subdomain, &a(253)) && !fits(names::subdomain, &a(254)));
    assert_eq!(names::path_segment("."), Some("may not be '.'".into()));
    assert_eq!(names::path_segment(".."), Some("may not be '..'".into()));
    assert_eq!(names::path_segment("a/b"), Some("may not contain '/'".into()));
    assert_eq!(names::path_segment("a%b"), Some("may not contain '%'".into()));
    assert_eq!(names::path_segment("..."), None);
    for (text, expected) in [
        ("a.B_c-1", None),
        ("..", Some("must not be '..'")),
        (".", Some("must not be '.'")),
        ("..a", Some("must not start with '..'")),
        (".a", None),
    ] {
        assert_eq!(names::config_key(text).as_deref(), expected, "{text}");
    }
    assert!(names::config_key(&a(253)).is_none() && names::config_key(&a(254)).is_some());
    assert!(names::config_key("").is_some() && names::config_key("a b").is_some());
    for (text, is_good) in
        [("A", true), (" ~", true), ("a\u{7f}", false), ("a\n", false), ("é", false), ("=", false)]
    {
        assert_eq!(names::environment(text).is_none(), is_good, "{text:?}");
    }
}

#[test]
fn finalizers_are_named_for_who_takes_them_away() {
    let of = |finalizers: Value| json!({"metadata": {"name": "n", "finalizers": finalizers}});
    let said = |finalizers: Value, expected: &[&str]| check("", "ConfigMap", &of(finalizers), expected);
    said(json!(["example.com/a", "orphan", "kubernetes"]), &[]);
    said(json!(["foregroundDeletion"]), &[]);
    said(
        json!(["example.com/a", "mine"]),
        &[
            "metadata.finalizers[1]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
           qualified",
        ],
    );
    said(
        json!(["orphan", "foregroundDeletion"]),
        &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
           foregroundDeletion cannot be both set"],
    );
    let faults = create("", "ConfigMap", &of(json!(["example.com/a b"])));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].field, "metadata.finalizers");
    let namespace = |own: Value| json!({"metadata": {"name": "n"}, "spec": {"finalizers": own}});
    check("", "Namespace", &namespace(json!(["kubernetes", "example.com/a"])), &[]);
    check(
        "",
        "Namespace",
        &namespace(json!(["mine"])),
        &[
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
}

#[test]
fn events_are_told_where_what_they_are_about_is() {
    let event = |own: &str, about: Value| json!({"metadata": {"name": "e", "namespace": own}, "involvedObject": about});
    let said = |own: &str, about: Value, expected: &[&str]| check("", "Event", &event(own, about), expected);
    said("a", json!({"namespace": "a"}), &[]);
    said("default", json!({"kind": "Node"}), &[]);
    said("kube-system", json!({"kind": "Node"}), &[]);
    let why = |theirs: &str| {
        format!("involvedObject.namespace: Invalid value: \"{theirs}\": does not match event.namespace")
    };
    said("a", json!({"namespace": "b"}), &[&why("b")]);
    said("a", json!({"kind": "Node"}), &[&why("")]);
}

#[test]
fn revisions_count_from_zero() {
    let said = |number: i64, expected: &[&str]| {
        let revision = json!({"metadata": {"name": "r"}, "data": {}, "revision": number});
        check("apps", "ControllerRevision", &revision, expected);
    };
    said(0, &[]);
    said(-1, &["revision: Invalid value: -1: must be greater than or equal to 0"]);
}

fn template(labels: &Value, spec: Value) -> Value {
    let mut spec = spec;
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("containers", json!([{"name": "a", "image": "b"}])),
    ] {
        if spec[field].is_null() {
            spec[field] = value;
        }
    }
    json!({"metadata": {"labels": labels}, "spec": spec})
}

/// A workload of that kind with these fields beside its selector and template.
fn workload(fields: Value) -> Value {
    let mut spec =
        json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(&json!({"a": "b"}), json!({}))});
    for (field, value) in fields.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "w"}, "spec": spec})
}

#[test]
fn workloads_count_from_zero() {
    let negative =
        |field: &str| format!("spec.{field}: Invalid value: -1: must be greater than or equal to 0");
    for (kind, fields) in [
        ("Deployment", &["replicas", "minReadySeconds", "revisionHistoryLimit"][..]),
        ("ReplicaSet", &["replicas", "minReadySeconds"]),
        ("DaemonSet", &["minReadySeconds", "revisionHistoryLimit"]),
    ] {
        for field in fields {
            check("apps", kind, &workload(json!({ *field: 0 })), &[]);
            check("apps", kind, &workload(json!({ *field: -1 })), &[&negative(field)]);
        }
    }
}

#[test]
fn templates_are_of_pods_that_stay() {
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let said = |spec: Value, expected: &[&str]| {
            check("apps", kind, &workload(json!({"template": template(&json!({"a": "b"}), spec)})), expected);
        };
        for policy in ["OnFailure", "Never"] {
            let fault = format!(
                "spec.template.spec.restartPolicy: Unsupported value: \"{policy}\": supported values: \"Always\""
            );
            said(json!({"restartPolicy": policy}), &[&fault]);
        }
        said(
            json!({"activeDeadlineSeconds": 5}),
            &[
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ],
        );
        said(json!({"containers": []}), &["spec.template.spec.containers: Required value"]);
        check("apps", kind, &workload(json!({"selector": null})), &["spec.selector: Required value"]);
        let faults = create(
            "apps",
            kind,
            &workload(json!({"template": template(&json!({"a": "b", "c d": "e"}), json!({}))})),
        );
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
}

#[test]
fn a_rollout_goes_on() {
    let said = |kind: &str, field: &str, strategy: Value, expected: &[&str]| {
        check("apps", kind, &workload(json!({ field: strategy })), expected);
    };
    let rolling = |unavailable: Value, surge: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
    for (kind, field) in [("Deployment", "strategy"), ("DaemonSet", "updateStrategy")] {
        let at = |rest: &str| format!("spec.{field}.rollingUpdate.{rest}");
        let stuck = match kind {
            "DaemonSet" => at("maxUnavailable: Required value: cannot be 0 when maxSurge is 0"),
            _ => at("maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"),
        };
        said(kind, field, rolling(json!(1), json!(0)), &[]);
        said(kind, field, rolling(json!("100%"), json!(0)), &[]);
        said(kind, field, rolling(json!(0), json!("200%")), &[]);
        said(kind, field, rolling(json!("0%"), json!(1)), &[]);
        said(kind, field, rolling(json!(0), json!(0)), &[&stuck]);
        said(kind, field, rolling(json!(0), json!("0%")), &[&stuck]);
        let both = at("maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero");
        let both: &[&str] = if kind == "DaemonSet" { &[&both] } else { &[] };
        said(kind, field, rolling(json!(1), json!(1)), both);
        said(
            kind,
            field,
            rolling(json!(-1), json!(0)),
            &[&at("maxUnavailable: Invalid value: -1: must be greater than or equal to 0")],
        );
        said(
            kind,
            field,
            rolling(json!("101%"), json!(0)),
            &[&at("maxUnavailable: Invalid value: \"101%\": must not be greater than 100%")],
        );
        let percent = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                       '93%', regex used for validation is '[0-9]+%')";
        said(
            kind,
            field,
            rolling(json!(1), json!("5")),
            &[&at(&format!("maxSurge: Invalid value: \"5\": {percent}"))],
        );
    }
    said("Deployment", "strategy", json!({"type": "Recreate"}), &[]);
    said(
        "Deployment",
        "strategy",
        json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    said(
        "Deployment",
        "strategy",
        json!({"type": "Slowly"}),
        &[
            "spec.strategy.type: Unsupported value: \"Slowly\": supported values: \"Recreate\", \"RollingUpdate\"",
        ],
    );
    said("DaemonSet", "updateStrategy", json!({"type": "OnDelete"}), &[]);
}

#[test]
fn a_deployments_deadline_is_after_its_pods_are_ready() {
    let said = |deadline: i64, ready: i64, expected: &[&str]| {
        let fields = json!({"progressDeadlineSeconds": deadline, "minReadySeconds": ready});
        check("apps", "Deployment", &workload(fields), expected);
    };
    said(6, 5, &[]);
    said(5, 5, &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"]);
    said(
        -1,
        0,
        &[
            "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than minReadySeconds",
        ],
    );
}
