//! What services ask of a node, as text: one line a frontend.

use std::collections::BTreeSet;
use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use skiff_client::{Change, ObjectKey};
use skiff_proxy::plan::{Node, Services, State, Target};

fn node() -> Node {
    Node {
        name: "here".into(),
        ip: "10.100.0.2".parse().unwrap(),
        zone: Some("east".into()),
        local_addresses: BTreeSet::from(["10.96.0.10".parse().unwrap()]),
        services: "10.96.0.0/16".parse().unwrap(),
    }
}

/// Endpoints as `address node condition… hint=name…`, all in one slice of port 8080 named `p`.
fn slice(name: &str, service: &str, endpoints: &[&str]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|text| {
            let mut words = text.split(' ');
            let (address, node) = (words.next().unwrap(), words.next().unwrap());
            let (mut conditions, mut hints) = (serde_json::Map::new(), json!({}));
            for word in words {
                match (word.strip_prefix('!'), word.split_once('=')) {
                    (_, Some((kind, name))) => hints[kind] = json!([{"name": name}]),
                    (Some(word), _) => drop(conditions.insert(word.to_owned(), false.into())),
                    (None, _) => drop(conditions.insert(word.to_owned(), true.into())),
                }
            }
            json!({"addresses": [address], "nodeName": node, "conditions": conditions, "hints": hints})
        })
        .collect();
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn service(spec: Value) -> Value {
    let mut all = json!({"clusterIP": "10.96.0.5", "ports": [{"name": "p", "port": 80}]});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    json!({"metadata": {"namespace": "default", "name": "web"}, "spec": all})
}

fn text(plan: &Services) -> String {
    let target = |target: &Target| match target {
        Target::Backends(backends) => {
            backends.iter().map(|(ip, port)| format!("{ip}:{port}")).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    };
    plan.iter()
        .map(|(frontend, ways)| {
            let outside = ways.outside.as_ref().map(|outside| format!(", outside {}", target(outside)));
            let sources = ways.sources.iter().map(|sources| {
                let ranges = sources.iter().map(|range| format!("{}/{}", range.address, range.prefix));
                format!(", only from {}", ranges.collect::<Vec<_>>().join(" "))
            });
            format!(
                "{:?} {}:{} -> {}{}{}\n",
                frontend.protocol,
                frontend.address,
                frontend.port,
                target(&ways.inside),
                outside.unwrap_or_default(),
                sources.collect::<String>()
            )
        })
        .collect()
}

fn state(service: Value, slices: &[Value]) -> State {
    let object = Arc::new(serde_json::from_value(service).unwrap());
    State::new([object], slices.iter().map(|slice| Arc::new(serde_json::from_value(slice.clone()).unwrap())))
}

/// CVE-2020-8554, as far as it would take the platform from the nodes: neither a service's address, nor the
/// API's or an agent's port, whoever asks.
#[test]
fn no_external_address_takes_the_platforms_place() {
    let api: Value = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "api", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.100.1.2"]}],
    }))
    .unwrap();
    let addresses = ["10.100.1.2", "10.100.1.3", "10.96.0.1"];
    let plan = |port: u16, protocol: &str| {
        let ports = json!([{"name": "p", "port": port, "protocol": protocol}]);
        let service = service(json!({"externalIPs": addresses, "ports": ports}));
        let plan =
            state(service, std::slice::from_ref(&api)).plan(&ObjectKey::new("default", "web"), &node());
        text(&plan)
    };
    expect![[r"
        Tcp 10.96.0.5:6443 -> Reject
        Tcp 10.100.1.3:6443 -> Reject
    "]]
    .assert_eq(&plan(6443, "TCP"));
    expect![[r"
        Tcp 10.96.0.5:10250 -> Reject
    "]]
    .assert_eq(&plan(10250, "TCP"));
    expect![[r"
        Udp 10.96.0.5:10250 -> Reject
        Udp 10.100.1.2:10250 -> Reject
        Udp 10.100.1.3:10250 -> Reject
    "]]
    .assert_eq(&plan(10250, "UDP"));
    // Only the service `kubernetes` of namespace `default` is the API's.
    for (namespace, of) in [("default", "web"), ("data", "kubernetes")] {
        let mut other = api.clone();
        other["metadata"]["namespace"] = namespace.into();
        other["metadata"]["labels"]["kubernetes.io/service-name"] = of.into();
        let ports = json!([{"name": "p", "port": 6443}]);
        let service = service(json!({"externalIPs": ["10.100.1.2"], "ports": ports}));
        let plan = state(service, &[other]).plan(&ObjectKey::new("default", "web"), &node());
        assert!(text(&plan).contains("Tcp 10.100.1.2:6443"), "{namespace}/{of}");
    }
}

#[track_caller]
fn check(service: Value, slices: &[Value], expected: Expect) {
    let plan = state(service, slices).plan(&ObjectKey::new("default", "web"), &node());
    expected.assert_eq(&text(&plan));
}

#[test]
fn ready_endpoints_of_all_slices_count_once() {
    let slices = [
        slice("b", "web", &["10.244.2.3 there ready", "10.244.1.2 here"]),
        slice("a", "web", &["10.244.1.2 here ready", "10.244.1.9 here !ready"]),
        slice("c", "other", &["10.244.9.9 here"]),
    ];
    check(
        service(json!({})),
        &slices,
        expect![[r#"
        Tcp 10.96.0.5:80 -> 10.244.1.2:8080 10.244.2.3:8080
    "#]],
    );
}

#[test]
fn a_port_leads_to_the_one_of_its_name_and_protocol() {
    let ports = |protocol: &str, name: &str| json!([{"name": name, "port": 80, "protocol": protocol}, {"name": "none", "port": 0}]);
    let mut slice = slice("a", "web", &["10.244.1.2 here"]);
    slice["ports"] = json!([
        {"name": "p", "port": 8080, "protocol": "TCP"},
        {"name": "p", "port": 8081, "protocol": "UDP"},
        {"name": "q", "port": 8082, "protocol": "TCP"},
        {"name": "q", "port": 8083, "protocol": "SCTP"},
        {"name": "q", "port": 0, "protocol": "SCTP"},
    ]);
    for (protocol, name, expected) in [
        ("TCP", "p", "Tcp 10.96.0.5:80 -> 10.244.1.2:8080\n"),
        ("UDP", "p", "Udp 10.96.0.5:80 -> 10.244.1.2:8081\n"),
        ("TCP", "q", "Tcp 10.96.0.5:80 -> 10.244.1.2:8082\n"),
        ("SCTP", "q", "Sctp 10.96.0.5:80 -> 10.244.1.2:8083\n"),
        ("UDP", "q", "Udp 10.96.0.5:80 -> Reject\n"),
        ("ICMP", "q", ""),
    ] {
        let state = state(service(json!({"ports": ports(protocol, name)})), std::slice::from_ref(&slice));
        let web = ObjectKey::new("default", "web");
        assert_eq!(state.services().collect::<Vec<_>>(), [&web]);
        assert_eq!(text(&state.plan(&web, &node())), expected, "{protocol} {name}");
    }
}

#[test]
fn ending_endpoints_serve_only_where_none_is_ready() {
    let ending = "10.244.1.2 here !ready serving terminating";
    check(
        service(json!({})),
        &[slice("a", "web", &[ending, "10.244.1.3 here ready"])],
        expect![[r#"
        Tcp 10.96.0.5:80 -> 10.244.1.3:8080
    "#]],
    );
    let silent = "10.244.1.4 here !ready !serving terminating";
    check(
        service(json!({})),
        &[slice("a", "web", &[ending, silent])],
        expect![[r#"
        Tcp 10.96.0.5:80 -> 10.244.1.2:8080
    "#]],
    );
    check(
        service(json!({})),
        &[slice("a", "web", &[silent, "10.244.1.5 here !ready serving"])],
        expect![[r#"
        Tcp 10.96.0.5:80 -> Reject
    "#]],
    );
}

#[test]
fn a_node_port_is_an_external_address_of_every_node() {
    let spec = json!({
        "type": "NodePort",
        "externalIPs": ["198.51.100.7", "2001:db8::1"],
        "ports": [{"name": "p", "port": 80, "nodePort": 30080}, {"name": "q", "port": 81, "protocol": "UDP"}],
    });
    check(
        service(spec),
        &[slice("a", "web", &["10.244.1.2 here"])],
        expect![[r#"
        Tcp 0.0.0.0:30080 -> 10.244.1.2:8080
        Tcp 10.96.0.5:80 -> 10.244.1.2:8080
        Udp 10.96.0.5:81 -> Reject
        Tcp 198.51.100.7:80 -> 10.244.1.2:8080
        Udp 198.51.100.7:81 -> Reject
    "#]],
    );
}

/// A service to which a load balancer gave these.
fn balanced(spec: Value, ingress: Value) -> Value {
    let mut all = json!({"type": "LoadBalancer"});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    let mut service = service(all);
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    service
}

#[test]
fn a_load_balancers_addresses_are_external_addresses_unless_it_is_a_proxy() {
    let ingress = json!([
        {"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "VIP"}, {"ip": "198.51.100.9", "ipMode": "Proxy"},
        {"hostname": "example.org"}, {"ip": "2001:db8::1"}, {"ip": "127.0.0.1"}, {"ip": "10.96.0.77"},
    ]);
    let slices = [slice("a", "web", &["10.244.1.2 here", "10.244.2.3 there"])];
    let ports = json!([{"name": "p", "port": 80, "nodePort": 30080}]);
    let spec = json!({"externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.5"], "ports": ports});
    check(
        balanced(spec.clone(), ingress.clone()),
        &slices,
        expect![[r#"
            Tcp 0.0.0.0:30080 -> 10.244.1.2:8080 10.244.2.3:8080, outside 10.244.1.2:8080
            Tcp 10.96.0.5:80 -> 10.244.1.2:8080 10.244.2.3:8080
            Tcp 198.51.100.7:80 -> 10.244.1.2:8080 10.244.2.3:8080, outside 10.244.1.2:8080
            Tcp 198.51.100.8:80 -> 10.244.1.2:8080 10.244.2.3:8080, outside 10.244.1.2:8080
            Tcp 203.0.113.5:80 -> 10.244.1.2:8080 10.244.2.3:8080, outside 10.244.1.2:8080
        "#]],
    );
    // What is left of them when it is no such service any more opens nothing.
    let mut other = balanced(spec, ingress);
    other["spec"]["type"] = "ClusterIP".into();
    other["spec"]["externalIPs"] = json!([]);
    check(
        other,
        &slices,
        expect![[r#"
            Tcp 10.96.0.5:80 -> 10.244.1.2:8080 10.244.2.3:8080
        "#]],
    );
}

#[test]
fn source_ranges_guard_the_load_balancers_addresses_alone() {
    let slices = [slice("a", "web", &["10.244.1.2 here"])];
    let guarded = |ranges: Value, external: &str| {
        let ports = json!([{"name": "p", "port": 80, "nodePort": 30080}]);
        let spec = json!({"externalIPs": [external], "loadBalancerSourceRanges": ranges, "ports": ports});
        let service = balanced(spec, json!([{"ip": "198.51.100.7"}]));
        text(&state(service, &slices).plan(&ObjectKey::new("default", "web"), &node()))
    };
    let ranges = json!(["192.0.2.77/24", " 203.0.113.9/32", "2001:db8::/32"]);
    expect![[r#"
        Tcp 0.0.0.0:30080 -> 10.244.1.2:8080
        Tcp 10.96.0.5:80 -> 10.244.1.2:8080
        Tcp 198.51.100.7:80 -> 10.244.1.2:8080, only from 192.0.2.0/24 203.0.113.9/32
        Tcp 203.0.113.5:80 -> 10.244.1.2:8080
    "#]]
    .assert_eq(&guarded(ranges, "203.0.113.5"));
    let sources = |ranges: Value, external: &str| -> Vec<String> {
        let plan = guarded(ranges, external);
        plan.lines().filter_map(|line| Some(line.split_once(", only from ")?.1.to_owned())).collect()
    };
    // A node among them reaches it also by the address itself, where it has that.
    assert_eq!(sources(json!(["10.100.0.0/24"]), "203.0.113.5"), ["10.100.0.0/24 198.51.100.7/32"]);
    // Of another family alone: as if there were none, as upstream.
    assert_eq!(sources(json!(["2001:db8::/32"]), "203.0.113.5"), Vec::<String>::new());
    // An address that is both is guarded.
    assert_eq!(sources(json!(["0.0.0.0/8"]), "198.51.100.7"), ["0.0.0.0/8"]);
}

/// The endpoints that connections to a service's address are led to.
#[track_caller]
fn led_to(endpoints: &[&str], expected: &str) {
    let plan = state(service(json!({})), &[slice("a", "web", endpoints)]);
    let text = text(&plan.plan(&ObjectKey::new("default", "web"), &node()));
    assert_eq!(text.trim_end().strip_prefix("Tcp 10.96.0.5:80 -> ").expect(&text), expected, "{endpoints:?}");
}

#[test]
fn hints_lead_to_the_same_node_else_the_same_zone_else_anywhere() {
    let (one, two, three) = ("10.244.1.1:8080", "10.244.1.2:8080", "10.244.1.3:8080");
    let all = format!("{one} {two} {three}");
    let one_of = |hints: [&str; 3]| {
        let endpoints = [1, 2, 3].map(|last| format!("10.244.1.{last} n{last} {}", hints[last - 1]));
        endpoints.map(|text| text.trim_end().to_owned())
    };
    let check = |hints: [&str; 3], expected: &str| {
        led_to(&one_of(hints).each_ref().map(String::as_str), expected);
    };
    check(["", "", ""], &all);
    check(["forZones=east", "forZones=west", "forZones=east"], &format!("{one} {three}"));
    check(["forZones=north", "forZones=west", "forZones=south"], &all);
    // One without a hint, and none holds.
    check(["forZones=east", "", "forZones=east"], &all);
    check(["forNodes=here", "forNodes=there", "forNodes=elsewhere"], one);
    check(["forNodes=here forZones=west", "forNodes=there forZones=east", "forNodes=x forZones=east"], one);
    check(
        ["forNodes=y forZones=west", "forNodes=there forZones=east", "forNodes=x forZones=east"],
        &format!("{two} {three}"),
    );
    check(["forNodes=here forZones=west", "forZones=east", "forZones=east"], &format!("{two} {three}"));
    // Who is not ready has no say.
    check(["forZones=east", "!ready", "forZones=west"], one);
    check(["!ready forZones=east", "forZones=west", "forZones=west"], &format!("{two} {three}"));
    // Where nobody is ready those serve that end, wherever they are.
    let ending = "!ready serving terminating";
    check(
        [&format!("{ending} forZones=east"), &format!("{ending} forZones=west"), "!ready"],
        &format!("{one} {two}"),
    );
}

#[test]
fn a_traffic_policy_goes_before_preferences() {
    let endpoints = ["10.244.1.2 here forZones=west", "10.244.2.3 there forZones=east"];
    let ports = json!([{"name": "p", "port": 80, "nodePort": 30080}]);
    check(
        service(json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports})),
        &[slice("a", "web", &endpoints)],
        expect![[r#"
            Tcp 0.0.0.0:30080 -> 10.244.2.3:8080, outside 10.244.1.2:8080
            Tcp 10.96.0.5:80 -> 10.244.2.3:8080
        "#]],
    );
}

#[test]
fn traffic_policies_prefer_this_node() {
    let spec = |ports: Value| json!({"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "ports": ports});
    let ports = json!([{"name": "p", "port": 80, "nodePort": 30080}]);
    let (here, there) = ("10.244.1.2 here", "10.244.2.3 there");
    check(
        service(spec(ports.clone())),
        &[slice("a", "web", &[here, there])],
        expect![[r#"
        Tcp 0.0.0.0:30080 -> 10.244.1.2:8080 10.244.2.3:8080, outside 10.244.1.2:8080
        Tcp 10.96.0.5:80 -> 10.244.1.2:8080
    "#]],
    );
    check(
        service(spec(ports.clone())),
        &[slice("a", "web", &[there])],
        expect![[r#"
        Tcp 0.0.0.0:30080 -> 10.244.2.3:8080, outside Drop
        Tcp 10.96.0.5:80 -> Drop
    "#]],
    );
    let ending = "10.244.1.4 here !ready serving terminating";
    check(
        service(spec(ports.clone())),
        &[slice("a", "web", &[ending, there])],
        expect![[r#"
        Tcp 0.0.0.0:30080 -> 10.244.2.3:8080, outside 10.244.1.4:8080
        Tcp 10.96.0.5:80 -> 10.244.1.4:8080
    "#]],
    );
    check(
        service(spec(ports)),
        &[],
        expect![[r#"
        Tcp 0.0.0.0:30080 -> Reject, outside Reject
        Tcp 10.96.0.5:80 -> Reject
    "#]],
    );
}

#[test]
fn some_services_are_not_ours() {
    let slices = [slice("a", "web", &["10.244.1.2 here"])];
    check(service(json!({"clusterIP": "None"})), &slices, expect![""]);
    check(service(json!({"clusterIP": ""})), &slices, expect![""]);
    check(service(json!({"type": "ExternalName", "externalName": "example.org"})), &slices, expect![""]);
    check(service(json!({"clusterIP": "10.96.0.10"})), &slices, expect![""]);
    let mut foreign = service(json!({}));
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "another"});
    check(foreign, &slices, expect![""]);
}

#[test]
fn nothing_leads_to_what_is_another_place_on_each_node() {
    let endpoints = [
        "127.0.0.1 here",
        "127.9.9.9 here",
        "169.254.169.254 here",
        "0.0.0.0 here",
        "10.244.1.2 here",
        "224.0.0.1 here",
    ];
    check(
        service(json!({"externalIPs": ["127.0.0.1", "169.254.169.254", "198.51.100.7"]})),
        &[slice("a", "web", &endpoints)],
        expect![[r#"
        Tcp 10.96.0.5:80 -> 10.244.1.2:8080
        Tcp 198.51.100.7:80 -> 10.244.1.2:8080
    "#]],
    );
    check(
        service(json!({})),
        &[slice("a", "web", &endpoints[..1])],
        expect![[r#"
        Tcp 10.96.0.5:80 -> Reject
    "#]],
    );
}

#[test]
fn a_slice_that_moves_concerns_both_services() {
    let object = |slice: Value| Arc::new(serde_json::from_value(slice).unwrap());
    let (old, new) = (object(slice("a", "web", &["10.244.1.2 here"])), object(slice("a", "other", &[])));
    let mut state = state(service(json!({})), &[]);
    let web = ObjectKey::new("default", "web");
    assert_eq!(state.observe_slice(Change::Applied { old: None, new: old }), vec![web.clone()]);
    assert_eq!(text(&state.plan(&web, &node())), "Tcp 10.96.0.5:80 -> 10.244.1.2:8080\n");
    let old = object(slice("a", "web", &[]));
    let keys = state.observe_slice(Change::Applied { old: Some(old), new: new.clone() });
    assert_eq!(keys, [web.clone(), ObjectKey::new("default", "other")]);
    assert_eq!(text(&state.plan(&web, &node())), "Tcp 10.96.0.5:80 -> Reject\n");
    assert_eq!(state.observe_slice(Change::Deleted(new)).len(), 1);
    let gone: Arc<_> = Arc::new(serde_json::from_value(service(json!({}))).unwrap());
    assert_eq!(state.observe_service(Change::Deleted(gone)), Some(web.clone()));
    assert_eq!(text(&state.plan(&web, &node())), "");
}

#[test]
fn ranges_are_parsed() {
    let range: skiff_proxy::Range = "10.96.0.0/16".parse().unwrap();
    assert_eq!((range.address.to_string().as_str(), range.prefix), ("10.96.0.0", 16));
    for bad in ["10.96.0.0", "10.96.0.0/33", "10.96/8", "/", ""] {
        assert!(bad.parse::<skiff_proxy::Range>().is_err(), "{bad}");
    }
}
