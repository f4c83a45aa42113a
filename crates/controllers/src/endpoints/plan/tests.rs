//! Endpoints by values: a service, its pods, the objects.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let object = json!({"metadata": {"name": "web", "namespace": "a", "uid": "s", "labels": {"app": "web"}}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn pod(name: &str, ip: &str, ready: bool, more: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [
            {"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    for part in ["metadata", "spec", "status"] {
        for (key, value) in more[part].as_object().into_iter().flatten() {
            object[part][key] = value.clone();
        }
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

/// Where nodes are nowhere in particular.
fn slices(service: &Service, pods: &[Arc<Pod>], present: &[Arc<EndpointSlice>]) -> Vec<Change> {
    super::slices(service, pods, present, |_| None)
}

fn port_80() -> Value {
    json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
}

fn applied(changes: Vec<Change>) -> Vec<Arc<EndpointSlice>> {
    changes
        .into_iter()
        .filter_map(|change| match change {
            Change::Create(slice) | Change::Update(slice) => Some(Arc::new(*slice)),
            Change::Delete(_) => None,
        })
        .collect()
}

fn show(slice: &EndpointSlice) -> String {
    let ports: Vec<_> = slice.ports.iter().flatten().map(|port| port.port.unwrap().to_string()).collect();
    let endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            let flag = |on: Option<bool>, letter: &'static str| if on == Some(true) { letter } else { "-" };
            format!(
                "{}{}{}{}",
                endpoint.addresses[0],
                flag(conditions.ready, "R"),
                flag(conditions.serving, "S"),
                flag(conditions.terminating, "T")
            )
        })
        .collect();
    format!("[{}] {}", ports.join(","), endpoints.join(" "))
}

#[test]
fn conditions_tell_ready_serving_and_terminating() {
    let leaving = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
    let pods = [
        pod("a", "10.0.0.1", true, json!({})),
        pod("b", "10.0.0.2", false, json!({})),
        pod("c", "10.0.0.3", true, leaving.clone()),
        pod("d", "10.0.0.4", false, leaving),
        pod("e", "10.0.0.5", true, json!({"status": {"phase": "Succeeded"}})),
        pod("f", "", true, json!({})),
    ];
    let made = applied(slices(&service(port_80()), &pods, &[]));
    assert_eq!(made.len(), 1);
    assert_eq!(show(&made[0]), "[8080] 10.0.0.1RS- 10.0.0.2--- 10.0.0.3-ST 10.0.0.4--T");
    let labels = made[0].metadata.labels.clone().unwrap();
    assert_eq!(labels[SERVICE_LABEL], "web");
    assert_eq!((labels[MANAGED_BY_LABEL].as_str(), labels["app"].as_str()), (MANAGED_BY, "web"));
    let mut eager = port_80();
    eager["publishNotReadyAddresses"] = true.into();
    let made = applied(slices(&service(eager), &pods, &[]));
    assert_eq!(show(&made[0]), "[8080] 10.0.0.1RS- 10.0.0.2R-- 10.0.0.3RST 10.0.0.4R-T");
}

#[test]
fn named_ports_may_differ_from_pod_to_pod() {
    let other =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let none = json!({"spec": {"containers": [{"name": "c"}]}});
    let pods = [
        pod("a", "10.0.0.1", true, json!({})),
        pod("b", "10.0.0.2", true, other),
        pod("c", "10.0.0.3", true, none),
    ];
    let made = applied(slices(&service(port_80()), &pods, &[]));
    assert_eq!(
        made.iter().map(|slice| show(slice)).collect::<Vec<_>>(),
        ["[8080] 10.0.0.1RS-", "[9090] 10.0.0.2RS-", "[] 10.0.0.3RS-"]
    );
    let number = service(json!({"ports": [{"port": 80, "targetPort": 81}, {"name": "b", "port": 82}]}));
    assert_eq!(show(&applied(slices(&number, &pods[..1], &[]))[0]), "[81,82] 10.0.0.1RS-");
}

#[test]
fn nothing_changes_twice_and_endpoints_keep_their_slice() {
    let service = service(port_80());
    let mut pods: Vec<_> = (0..150)
        .map(|index| {
            pod(&format!("p{index}"), &format!("10.0.{}.{}", index / 100, index % 100), true, json!({}))
        })
        .collect();
    let made = applied(slices(&service, &pods, &[]));
    assert_eq!(
        made.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>(),
        [100, 50]
    );
    assert_eq!(slices(&service, &pods, &made), []);
    assert_ne!(made[0].metadata.name, made[1].metadata.name);
    assert_eq!(applied(slices(&service, &pods, &[]))[1].metadata.name, made[1].metadata.name);
    pods.remove(0);
    let changes = slices(&service, &pods, &made);
    assert_eq!(changes.len(), 1, "only the slice that had it");
    let changes = slices(&service, &[], &made);
    assert!(matches!(changes.as_slice(), [Change::Create(_), Change::Delete(_), Change::Delete(_)]));
    let empty = applied(slices(&service, &[], &[]));
    assert_eq!(show(&empty[0]), "[] ");
    assert_eq!(slices(&service, &[], &empty), []);
}

#[test]
fn endpoints_list_ready_and_unready_addresses() {
    let service = service(port_80());
    let pods = [
        pod("b", "10.0.0.2", true, json!({"spec": {"hostname": "h", "subdomain": "web"}})),
        pod("a", "10.0.0.1", true, json!({})),
        pod("c", "10.0.0.3", false, json!({})),
        pod("d", "10.0.0.4", true, json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}})),
    ];
    let made = endpoints(&service, &pods, None).unwrap();
    let value = serde_json::to_value(&made.subsets).unwrap();
    let reference = |name: &str| json!({"kind": "Pod", "name": name, "namespace": "a", "uid": name});
    assert_eq!(
        value,
        json!([{
            "addresses": [
                {"ip": "10.0.0.1", "nodeName": "n1", "targetRef": reference("a")},
                {"ip": "10.0.0.2", "nodeName": "n1", "hostname": "h", "targetRef": reference("b")}],
            "notReadyAddresses": [{"ip": "10.0.0.3", "nodeName": "n1", "targetRef": reference("c")}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }])
    );
    assert!(is_generated(&made));
    assert_eq!(endpoints(&service, &pods, Some(&made)), None);
    assert!(endpoints(&service, &pods[1..], Some(&made)).is_some());
    assert_eq!(endpoints(&service, &[], Some(&made)).unwrap().subsets, None);
    let headless = super::tests::service(json!({"clusterIP": "None"}));
    let made = endpoints(&headless, &pods[1..2], None).unwrap();
    assert_eq!(made.metadata.labels.unwrap()[HEADLESS_LABEL], "");
    assert_eq!(made.subsets.unwrap().len(), 1, "a headless service needs no ports");
}

#[test]
fn endpoints_are_meant_for_their_zone_and_for_their_node_where_the_service_prefers_that() {
    let on = |node: &str| json!({"spec": {"nodeName": node}});
    let late = json!({"spec": {"nodeName": "n1"}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let pods = [
        pod("a", "10.0.0.1", true, on("n1")),
        pod("b", "10.0.0.2", true, on("nowhere")),
        pod("c", "10.0.0.3", false, on("n1")),
        pod("d", "10.0.0.4", true, late),
    ];
    let zone_of = |node: &str| (node == "n1").then(|| "east".to_owned());
    let hints = |made: &[Arc<EndpointSlice>]| -> Vec<String> {
        let names = |hints: &EndpointHints| {
            let zones = hints.for_zones.iter().flatten().map(|zone| format!(" zone {}", zone.name));
            let nodes = hints.for_nodes.iter().flatten().map(|node| format!(" node {}", node.name));
            zones.chain(nodes).collect::<String>()
        };
        let endpoints = made.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .map(|own| {
                let zone = own.zone.clone().unwrap_or_default();
                format!("{} {zone}:{}", own.addresses[0], own.hints.iter().map(names).collect::<String>())
            })
            .collect()
    };
    let with = |wish: Option<&str>, present: &[Arc<EndpointSlice>]| {
        let mut spec = port_80();
        if let Some(wish) = wish {
            spec["trafficDistribution"] = wish.into();
        }
        applied(super::slices(&service(spec), &pods, present, zone_of))
    };
    let none = ["10.0.0.1 east:", "10.0.0.2 :", "10.0.0.3 east:", "10.0.0.4 east:"];
    let plain = with(None, &[]);
    assert_eq!(hints(&plain), none);
    assert_eq!(hints(&with(Some("ByMagic"), &[])), none);
    for wish in ["PreferClose", "PreferSameZone"] {
        let wanted = ["10.0.0.1 east: zone east", "10.0.0.2 :", "10.0.0.3 east:", "10.0.0.4 east:"];
        assert_eq!(hints(&with(Some(wish), &[])), wanted, "{wish}");
        // One that is there already is changed, and back again.
        let changed = with(Some(wish), &plain);
        assert_eq!(hints(&changed), wanted, "{wish}");
        assert_eq!(hints(&with(None, &changed)), none, "{wish}");
        assert!(with(Some(wish), &changed).is_empty(), "{wish}");
    }
    let wanted = ["10.0.0.1 east: zone east node n1", "10.0.0.2 : node nowhere", none[2], none[3]];
    assert_eq!(hints(&with(Some("PreferSameNode"), &[])), wanted);
}

fn nowhere(_: &str) -> Option<String> {
    None
}

#[test]
fn an_endpoint_says_where_its_pod_is_and_what_it_is_called() {
    let named = json!({"spec": {"hostname": "h", "subdomain": "web"}});
    let pods = [pod("a", "10.0.0.1", true, named)];
    let made = applied(super::slices(&service(port_80()), &pods, &[], nowhere));
    assert_eq!(made[0].metadata.namespace.as_deref(), Some("a"));
    let endpoint = &made[0].endpoints.as_ref().unwrap()[0];
    assert_eq!((endpoint.hostname.as_deref(), endpoint.node_name.as_deref()), (Some("h"), Some("n1")));
    // Without ports and without endpoints the list of ports stays away, as the server keeps it.
    let none = applied(super::slices(&service(port_80()), &[], &[], nowhere));
    assert_eq!(none[0].ports, None);
}

#[test]
fn a_named_port_is_of_the_services_protocol_and_may_be_a_sidecars() {
    let ports = |containers: Value, inits: Value, protocol: &str| {
        let spec = json!({"spec": {"containers": containers, "initContainers": inits}});
        let pods = [pod("a", "10.0.0.1", true, spec)];
        let port = json!({"name": "p", "port": 53, "protocol": protocol, "targetPort": "dns"});
        show(&applied(super::slices(&service(json!({"ports": [port]})), &pods, &[], nowhere))[0])
    };
    let container = |name: &str, protocol: &str, number: i32| {
        json!({"name": name, "ports": [{"name": "other", "containerPort": 1, "protocol": protocol},
            {"name": "dns", "containerPort": number, "protocol": protocol}]})
    };
    let both = || json!([container("t", "TCP", 5300), container("u", "UDP", 5301)]);
    assert_eq!(ports(both(), json!([]), "TCP"), "[5300] 10.0.0.1RS-");
    assert_eq!(ports(both(), json!([]), "UDP"), "[5301] 10.0.0.1RS-");
    let init = |policy: Value| {
        let mut init = container("i", "TCP", 5302);
        init["restartPolicy"] = policy;
        json!([init])
    };
    assert_eq!(ports(json!([{"name": "c"}]), init("Always".into()), "TCP"), "[5302] 10.0.0.1RS-");
    assert_eq!(ports(json!([{"name": "c"}]), init(Value::Null), "TCP"), "[] 10.0.0.1RS-");
}

#[test]
fn an_endpoints_object_is_the_services_and_says_when_it_is_too_small() {
    let service = service(port_80());
    let pods: Vec<_> = (0..=ENDPOINTS_MAX)
        .map(|index| {
            pod(&format!("p{index}"), &format!("10.0.{}.{}", index / 250, index % 250), true, json!({}))
        })
        .collect();
    let full = endpoints(&service, &pods[..ENDPOINTS_MAX], None).unwrap();
    assert_eq!((full.metadata.name.as_deref(), full.metadata.namespace.as_deref()), (Some("web"), Some("a")));
    assert_eq!(full.metadata.annotations, None);
    let over = endpoints(&service, &pods, Some(&full)).expect("the note is new");
    assert_eq!(over.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY], "truncated");
    assert_eq!(over.subsets, full.subsets, "the first ones alone");
    assert_eq!(endpoints(&service, &pods, Some(&over)), None);
    let less = endpoints(&service, &pods[..ENDPOINTS_MAX], Some(&over)).expect("the note goes");
    assert_eq!(less.metadata.annotations, None);
    // Other labels are a change, too.
    let mut labeled = full.clone();
    labeled.metadata.labels.as_mut().unwrap().insert("x".into(), "y".into());
    assert!(endpoints(&service, &pods[..ENDPOINTS_MAX], Some(&labeled)).is_some());
    let mut foreign = full.clone();
    foreign.metadata.labels.as_mut().unwrap().insert(ENDPOINTS_MANAGED_BY_LABEL.into(), "me".into());
    assert!(is_generated(&full) && !is_generated(&foreign));
}
