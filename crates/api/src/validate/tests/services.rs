//! Services and endpoints, field by field.

use serde_json::{Value, json};

use super::super::names;
use super::check_of as check;

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
