//! The API through its router, as components in the same process use it.

mod api;

use std::sync::Arc;

use api::{Api, MAPS, PODS, next, pod};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_api::typed;
use skiff_apiserver::Config;
use skiff_store::{Expect, MemoryStore, Store, Write};

#[tokio::test]
async fn a_new_cluster_has_its_namespaces_and_its_own_service() {
    let api = Api::new().await;
    let list = api.ok(Method::GET, "/api/v1/namespaces", Value::Null).await;
    let names: Vec<&str> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|n| n["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = api.ok(Method::GET, "/api/v1/namespaces/default/services/kubernetes", Value::Null).await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn a_pod_is_made_bound_once_and_deleted_with_grace() {
    let api = Api::new().await;
    let made = api.ok(Method::POST, PODS, pod("p")).await;
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = "/api/v1/namespaces/default/pods/p/binding";
    let bad = [
        (json!({"annotations": {"kubernetes.io/config.mirror": "x"}}), "n1", "config.mirror]: Forbidden"),
        (json!({"labels": {"bad label??": "x"}}), "n1", "metadata.labels: Invalid value: \"bad label??\""),
        (json!({}), "no/such/../node", "target.name: Invalid value: \"no/such/../node\""),
    ];
    for (metadata, node, why) in bad {
        let binding = json!({"metadata": metadata, "target": {"kind": "Node", "name": node}});
        for path in [path, "/api/v1/namespaces/default/bindings"] {
            let mut binding = binding.clone();
            binding["metadata"]["name"] = "p".into();
            let refusal = api.refused(Method::POST, path, binding, 422).await;
            assert!(refusal.contains(why), "{refusal}");
        }
    }
    api.ok(Method::POST, path, binding.clone()).await;
    let refusal = api.refused(Method::POST, path, binding, 409).await;
    assert_eq!(
        refusal,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let bound = api.ok(Method::GET, "/api/v1/namespaces/default/pods/p", Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bound["metadata"]["generation"], 1, "nothing else is asked of it than before");
    let dying = api.ok(Method::DELETE, "/api/v1/namespaces/default/pods/p", Value::Null).await;
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 30);
    api.ok(Method::DELETE, "/api/v1/namespaces/default/pods/p", json!({"gracePeriodSeconds": 0})).await;
    let gone = api.refused(Method::GET, "/api/v1/namespaces/default/pods/p", Value::Null, 404).await;
    assert_eq!(gone, "pods \"p\" not found");
}

#[tokio::test]
async fn a_pod_bears_the_labels_that_say_where_its_node_is() {
    let api = Api::new().await;
    let (zone, region) = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region");
    for (name, labels) in
        [("n1", json!({zone: "z1", region: "r1", "disk": "ssd"})), ("n2", json!({zone: "z2"}))]
    {
        let node = json!({"metadata": {"name": name, "labels": labels}});
        api.ok(Method::POST, "/api/v1/nodes", node).await;
    }
    let bound = async |name: &str, labels: Value, to: &str| {
        let mut new = pod(name);
        new["metadata"]["labels"] = labels;
        api.ok(Method::POST, PODS, new).await;
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": to}});
        api.ok(Method::POST, &format!("{PODS}/{name}/binding"), binding).await;
        api.ok(Method::GET, &format!("{PODS}/{name}"), Value::Null).await["metadata"]["labels"].clone()
    };
    assert_eq!(bound("a", Value::Null, "n1").await, json!({zone: "z1", region: "r1"}));
    // Of what it said itself, that which the node says stands.
    let own = json!({zone: "mine", region: "mine", "app": "web"});
    assert_eq!(bound("b", own.clone(), "n2").await, json!({zone: "z2", region: "mine", "app": "web"}));
    assert_eq!(bound("c", own.clone(), "unknown").await, own);
    let mut placed = pod("placed");
    placed["spec"]["nodeName"] = "n1".into();
    let made = api.ok(Method::POST, PODS, placed).await;
    assert_eq!(made["metadata"]["labels"], json!({zone: "z1", region: "r1"}));
}

#[tokio::test]
async fn writes_with_an_old_version_are_refused_and_no_ops_change_nothing() {
    let api = Api::new().await;
    let made = api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    let mut changed = made.clone();
    changed["data"]["a"] = "2".into();
    let path = format!("{MAPS}/m");
    let second = api.ok(Method::PUT, &path, changed.clone()).await;
    let refusal = api.refused(Method::PUT, &path, changed, 409).await;
    assert!(
        refusal
            .starts_with("Operation cannot be fulfilled on configmaps \"m\": the object has been modified")
    );
    let third = api.ok(Method::PUT, &path, second.clone()).await;
    assert_eq!(second["metadata"]["resourceVersion"], third["metadata"]["resourceVersion"]);
    assert_ne!(made["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn status_and_spec_do_not_write_each_other() {
    let api = Api::new().await;
    let mut made = api.ok(Method::POST, PODS, pod("p")).await;
    made["status"]["phase"] = "Running".into();
    let kept = api.ok(Method::PUT, &format!("{PODS}/p"), made.clone()).await;
    assert_eq!(kept["status"]["phase"], "Pending");
    made["spec"]["nodeName"] = "elsewhere".into();
    made["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"].clone();
    let set = api.ok(Method::PUT, &format!("{PODS}/p/status"), made).await;
    assert_eq!(set["status"]["phase"], "Running");
    assert_eq!(set["spec"]["nodeName"], Value::Null);
    assert_eq!(set["metadata"]["generation"], 1);
}

#[tokio::test]
async fn pages_show_one_state_though_writes_go_on() {
    let api = Api::new().await;
    for name in ["a", "b", "c", "d"] {
        api.ok(Method::POST, MAPS, json!({"metadata": {"name": name}})).await;
    }
    let first = api.ok(Method::GET, &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    api.ok(Method::DELETE, &format!("{MAPS}/c"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = api.ok(Method::GET, &format!("{MAPS}?limit=2&continue={token}"), Value::Null).await;
    let names: Vec<&str> = second["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["continue"], Value::Null);
}

#[tokio::test]
async fn a_watch_shows_objects_entering_and_leaving_its_selector() {
    let api = Api::new().await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m", "labels": {"x": "y"}}})).await;
    let path = format!(
        "{MAPS}?watch=true&labelSelector=x%3Dy&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let response = api.send(api.request(Method::GET, &path, &Value::Null)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let (mut body, mut rest) = (response.into_body(), Vec::new());
    let mut seen = Vec::new();
    let event = next(&mut body, &mut rest).await;
    seen.push(event["type"].clone());
    let event = next(&mut body, &mut rest).await;
    assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    seen.push(event["type"].clone());
    for labels in [json!({"x": "z"}), json!({"x": "y"}), json!({"x": "y", "more": "1"})] {
        api.ok(Method::PUT, &format!("{MAPS}/m"), json!({"metadata": {"name": "m", "labels": labels}})).await;
        seen.push(next(&mut body, &mut rest).await["type"].clone());
    }
    api.ok(Method::DELETE, &format!("{MAPS}/m"), Value::Null).await;
    seen.push(next(&mut body, &mut rest).await["type"].clone());
    assert_eq!(seen, ["ADDED", "BOOKMARK", "DELETED", "ADDED", "MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn callers_in_the_process_get_typed_values() {
    use futures_util::StreamExt;
    use k8s_openapi::api::core::v1::Pod;

    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("p")).await;
    let mut request = api.request(Method::GET, &format!("{PODS}/p"), &Value::Null);
    request.extensions_mut().insert(typed::Wanted);
    let response = api.send(request).await;
    let typed::Object(object) = response.extensions().get::<typed::Object>().expect("typed").clone();
    let pod: Arc<Pod> = object.downcast().expect("a pod");
    assert!(pod.metadata.resource_version.is_some());

    let mut request =
        api.request(Method::GET, &format!("{PODS}?watch=1&fieldSelector=spec.nodeName%3D"), &Value::Null);
    request.extensions_mut().insert(typed::Wanted);
    let response = api.send(request).await;
    let watch = response.extensions().get::<typed::Watch>().expect("typed");
    let mut events = watch.take().expect("taken once");
    assert!(matches!(events.next().await, Some(typed::Event::Added(_))));
}

#[tokio::test]
async fn who_follows_in_this_process_hears_of_what_can_not_be_read_as_well() {
    use futures_util::StreamExt;

    let store = Arc::new(MemoryStore::default());
    let api = Api::on(Config::default(), Arc::clone(&store) as Arc<dyn Store>).await;
    let mut request = api.request(Method::GET, &format!("{PODS}?watch=1"), &Value::Null);
    request.extensions_mut().insert(typed::Wanted);
    let response = api.send(request).await;
    let watch = response.extensions().get::<typed::Watch>().expect("typed");
    let mut events = watch.take().expect("taken once");
    // As an earlier version may have left it.
    let odd = r#"{"metadata":{"name":"odd","namespace":"default","uid":"u"},"spec":{"containers":"none"}}"#;
    let readable = r#"{"metadata":{"name":"odd","namespace":"default","uid":"u"}}"#;
    for (body, expected) in
        [(Some(odd), Some(false)), (Some(readable), None), (Some(odd), Some(false)), (None, Some(true))]
    {
        let write = Write {
            key: "/pods/default/odd".into(),
            expect: Expect::Any,
            value: body.map(|body| bytes::Bytes::from_static(body.as_bytes())),
            volatile: false,
        };
        let done = store.commit(vec![write]).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        let event = events.next().await.expect("an event");
        let told = match &event {
            typed::Event::Unreadable { json, gone } => {
                let object: Value = serde_json::from_slice(json).expect("JSON");
                assert_eq!((&object["metadata"]["name"], &object["kind"]), (&"odd".into(), &"Pod".into()));
                assert!(object["metadata"]["resourceVersion"].is_string());
                Some(*gone)
            }
            typed::Event::Modified(_) => None,
            _ => panic!("neither unreadable nor changed"),
        };
        assert_eq!(told, expected, "{body:?}");
    }
}

#[tokio::test]
async fn what_a_namespace_is_not_fit_for_is_refused() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/nowhere/configmaps";
    let refusal = api.refused(Method::POST, path, json!({"metadata": {"name": "m"}}), 404).await;
    assert_eq!(refusal, "namespaces \"nowhere\" not found");
    api.ok(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": "dying"}})).await;
    api.ok(Method::DELETE, "/api/v1/namespaces/dying", Value::Null).await;
    let path = "/api/v1/namespaces/dying/configmaps";
    let refusal = api.refused(Method::POST, path, json!({"metadata": {"name": "m"}}), 403).await;
    assert_eq!(
        refusal,
        "configmaps \"m\" is forbidden: unable to create new content in namespace dying because it is being \
         terminated"
    );
    api.ok(
        Method::PUT,
        "/api/v1/namespaces/dying/finalize",
        json!({"metadata": {"name": "dying"}, "spec": {}}),
    )
    .await;
    api.refused(Method::GET, "/api/v1/namespaces/dying", Value::Null, 404).await;
    api.refused(Method::DELETE, "/api/v1/namespaces/default", Value::Null, 403).await;
}

#[tokio::test]
async fn services_get_addresses_and_ports_and_give_them_back() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Value| {
        json!({"metadata": {"name": name}, "spec": {
            "type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": 30080}]}})
    };
    let made = api.ok(Method::POST, path, service("a", "10.96.3.4".into())).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.96.3.4"]));
    let refusal = api.refused(Method::POST, path, service("b", "10.96.3.4".into()), 422).await;
    assert_eq!(
        refusal,
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.3.4\"]: failed to allocate IP \
         10.96.3.4: provided IP is already allocated"
    );
    let refusal = api.refused(Method::POST, path, service("b", Value::Null), 422).await;
    assert_eq!(
        refusal,
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already \
         allocated"
    );
    api.ok(Method::DELETE, &format!("{path}/a"), Value::Null).await;
    api.ok(Method::POST, path, service("b", "10.96.3.4".into())).await;
}

#[tokio::test]
async fn unknown_paths_are_plain_text() {
    let api = Api::new().await;
    for path in ["/nothing", "/api/v2/nothing", "/apis/batch/v1beta1/cronjobs"] {
        let (code, body) = api.call(Method::GET, path, Value::Null).await;
        assert_eq!((code.as_u16(), body), (404, "404 page not found\n".into()), "{path}");
    }
}

#[tokio::test]
async fn documents_say_what_fields_are_for() {
    let api = Api::new().await;
    let v2 = api.ok(Method::GET, "/openapi/v2", Value::Null).await;
    let v3 = api.ok(Method::GET, "/openapi/v3/api/v1", Value::Null).await;
    for definitions in [&v2["definitions"], &v3["components"]["schemas"]] {
        let spec = &definitions["io.k8s.api.core.v1.PodSpec"];
        let text = spec["properties"]["hostNetwork"]["description"].as_str().expect("a text");
        assert!(text.starts_with("Host networking requested for this pod."), "{text}");
        assert_eq!(spec["description"], "PodSpec is a description of a pod.");
    }
    // Lists, and the options of streams, are the few without.
    let pods_own = v3["components"]["schemas"].as_object().expect("definitions");
    let silent: Vec<&str> = pods_own
        .iter()
        .filter(|(name, _)| name.starts_with("io.k8s.api.core.v1."))
        .filter(|(name, _)| !name.ends_with("List") && !name.ends_with("Options"))
        .filter(|(_, schema)| {
            schema["properties"].as_object().is_some_and(|properties| {
                properties.values().any(|property| property.get("description").is_none())
            })
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(silent, Vec::<&str>::new());
}
