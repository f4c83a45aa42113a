//! What lists and watches are asked for beside their objects, and what a server does that was started again.

mod api;

use std::time::Duration;

use api::{Api, MAPS, next, pod};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_gets_bookmarks_and_ends_with_its_time() {
    let api = Api::new().await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}})).await;
    let watch = async |more: &str| {
        let path = format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=150{more}");
        let response = api.send(api.request(Method::GET, &path, &Value::Null)).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    };
    let begin = Instant::now();
    let mut rest = Vec::new();
    let mut body = watch("&allowWatchBookmarks=true").await;
    assert_eq!(next(&mut body, &mut rest).await["type"], "ADDED");
    let mut told = Vec::new();
    for _ in 0..3 {
        let event = next(&mut body, &mut rest).await;
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
        assert!(version(&event["object"]) > 0);
        told.push(begin.elapsed().as_secs());
    }
    assert!(body.frame().await.is_none(), "it ends after its last bookmark");
    assert_eq!((told, begin.elapsed().as_secs()), (vec![60, 120, 150], 150));

    // Who asks for none gets none, and the same end.
    let begin = Instant::now();
    let mut body = watch("").await;
    assert_eq!(next(&mut body, &mut rest).await["type"], "ADDED");
    assert!(body.frame().await.is_none());
    assert_eq!(begin.elapsed().as_secs(), 150);
}

#[tokio::test]
async fn a_list_is_of_the_version_that_is_asked_for() {
    let api = Api::new().await;
    let made = api.ok(Method::POST, MAPS, json!({"metadata": {"name": "old"}})).await;
    let then = version(&made);
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "new"}})).await;
    api.ok(Method::DELETE, &format!("{MAPS}/old"), Value::Null).await;
    let list = async |query: &str| api.ok(Method::GET, &format!("{MAPS}?{query}"), Value::Null).await;
    let exact = list(&format!("resourceVersion={then}&resourceVersionMatch=Exact")).await;
    assert_eq!((names(&exact), version(&exact)), (vec!["old".to_owned()], then));
    for query in [
        String::new(),
        "resourceVersion=0".into(),
        format!("resourceVersion={then}"),
        format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan"),
    ] {
        let present = list(&query).await;
        assert!(names(&present) == ["new"] && version(&present) > then, "{query}: {present}");
    }
    for (query, why) in [
        ("resourceVersionMatch=Exact", "forbidden unless resourceVersion is provided"),
        ("resourceVersion=0&resourceVersionMatch=Exact", "forbidden for resourceVersion \"0\""),
        ("resourceVersion=1&resourceVersionMatch=Newest", "Unsupported value: \"Newest\""),
    ] {
        let refused = api.refused(Method::GET, &format!("{MAPS}?{query}"), Value::Null, 422).await;
        assert!(refused.contains(why), "{query}: {refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_two_seconds_for_its_namespaces_account() {
    let api = Api::new().await;
    let (namespaces, pods) = ("/api/v1/namespaces", "/api/v1/namespaces/fresh/pods");
    api.ok(Method::POST, namespaces, json!({"metadata": {"name": "fresh"}})).await;
    let begin = Instant::now();
    assert_eq!(
        api.refused(Method::POST, pods, pod("early"), 403).await,
        "pods \"early\" is forbidden: error looking up service account fresh/default: serviceaccount \
         \"default\" not found"
    );
    assert_eq!(begin.elapsed().as_secs(), 2);
    // The account comes while it waits.
    let account = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let account = json!({"metadata": {"name": "default"}});
        api.ok(Method::POST, "/api/v1/namespaces/fresh/serviceaccounts", account).await;
    };
    let (made, ()) = tokio::join!(api.ok(Method::POST, pods, pod("late")), account);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    // No controller makes any other.
    let begin = Instant::now();
    let mut other = pod("other");
    other["spec"]["serviceAccountName"] = "nope".into();
    assert_eq!(
        api.refused(Method::POST, pods, other, 403).await,
        "pods \"other\" is forbidden: error looking up service account fresh/nope: serviceaccount \"nope\" \
         not found"
    );
    assert_eq!(begin.elapsed().as_millis(), 0);
}

/// Who makes many by one prefix hears the same each time.
#[tokio::test]
async fn a_name_is_not_drawn_for_what_admission_refuses() {
    let api = Api::new().await;
    let refused = async |field: &str, value: &str| {
        let mut drawn = pod("");
        drawn["metadata"] = json!({"generateName": "web-5d9-"});
        drawn["spec"][field] = value.into();
        api.refused(Method::POST, "/api/v1/namespaces/default/pods", drawn, 403).await
    };
    assert_eq!(
        refused("serviceAccountName", "nope").await,
        "pods \"web-5d9-\" is forbidden: error looking up service account default/nope: serviceaccount \
         \"nope\" not found"
    );
    assert_eq!(
        refused("priorityClassName", "nope").await,
        "pods \"web-5d9-\" is forbidden: no PriorityClass with name nope was found"
    );
}

#[tokio::test]
async fn services_keep_what_they_have_when_the_server_starts_again() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let open = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let made = api.ok(Method::POST, path, service("a", open.clone())).await;
    let (ip, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    assert!(ip.is_string() && port.is_u64(), "{made}");

    let api = api.restarted().await;
    let kept = api.ok(Method::GET, &format!("{path}/a"), Value::Null).await;
    assert_eq!(kept["spec"], made["spec"]);
    let taken = json!({"clusterIP": ip, "ports": [{"port": 80}]});
    let refused = api.refused(Method::POST, path, service("b", taken.clone()), 422).await;
    assert!(refused.contains("provided IP is already allocated"), "{refused}");
    let held = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let refused = api.refused(Method::POST, path, service("b", held.clone()), 422).await;
    assert!(refused.contains("provided port is already allocated"), "{refused}");
    // Nor is it given to whoever leaves the choice to the server.
    for number in 0..50 {
        let other = api.ok(Method::POST, path, service(&format!("s{number}"), open.clone())).await;
        assert_ne!(other["spec"]["clusterIP"], ip);
        assert_ne!(other["spec"]["ports"][0]["nodePort"], port);
    }
    // What it gives up is free, also for a server that never gave it out.
    api.ok(Method::DELETE, &format!("{path}/a"), Value::Null).await;
    api.ok(Method::POST, path, service("b", taken)).await;
    api.ok(Method::POST, path, service("c", held)).await;
}

/// Old clients validate and explain by it.
#[tokio::test]
async fn the_old_document_comes_as_protobuf_too() {
    let api = Api::new().await;
    let mut request = api.request(Method::GET, "/openapi/v2", &Value::Null);
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    request.headers_mut().insert("accept", asked.parse().expect("a header"));
    let response = api.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    // `swagger`, the first field of a document, and a definition by its name.
    assert_eq!(bytes[..5], *b"\x0a\x032.0");
    let name = b"io.k8s.api.core.v1.EnvVar";
    assert!(bytes.windows(name.len()).any(|window| window == name));
}
