//! What old clients and people at a terminal ask for: paths that are watches by themselves, and indented JSON.

mod api;

use api::{Api, MAPS, PODS, next, pod};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::Identity;

async fn text(api: &Api, path: &str, header: Option<(&'static str, &str)>) -> String {
    let mut request = api.request(Method::GET, path, &Value::Null);
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let body = api.send(request).await.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

fn pretty(text: &str) -> String {
    let lines = text.lines().count();
    assert!(lines > 2, "{text}");
    // Keys keep the order that they have in what is not indented.
    let spaces = |line: &str| line.len() - line.trim_start().len();
    assert!(text.lines().all(|line| spaces(line) % 2 == 0) && !text.ends_with('\n'), "{text}");
    text.lines().map(str::trim_start).collect::<String>().replace("\": ", "\":")
}

#[tokio::test]
async fn who_reads_json_gets_it_indented() {
    let api = Api::new().await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
    api.ok(Method::POST, MAPS, map).await;
    let curl = Some(("user-agent", "curl/8.5.0"));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let one = format!("{MAPS}/m");
    let none = format!("{MAPS}/none");
    for path in [&one, MAPS, &none, "/apis", "/api/v1", "/apis/apps", "/nothing/of/that/kind"] {
        let plain = text(&api, path, None).await;
        assert_eq!(plain.trim_end().lines().count(), 1, "{path}: {plain}");
        if path.starts_with("/nothing") {
            assert_eq!(text(&api, path, curl).await, plain, "no JSON");
            continue;
        }
        for query in ["?pretty=true", "?pretty=1"] {
            assert_eq!(
                pretty(&text(&api, &format!("{path}{query}"), None).await),
                plain.trim_end(),
                "{path}"
            );
        }
        assert_eq!(pretty(&text(&api, path, curl).await), plain.trim_end(), "{path}");
        assert_eq!(text(&api, &format!("{path}?pretty=false"), curl).await, plain, "{path}");
    }
    assert!(text(&api, &format!("{MAPS}?pretty=true"), Some(("accept", table))).await.starts_with("{\n  \""));
    let yaml = Some(("accept", "application/yaml"));
    assert_eq!(text(&api, &format!("{one}?pretty=true"), yaml).await, text(&api, &one, yaml).await);
    let mut create = api.request(Method::POST, MAPS, &json!({"metadata": {"name": "n"}}));
    create.headers_mut().insert("user-agent", "curl/8.5.0".parse().expect("a value"));
    let made = api.send(create).await.into_body().collect().await.expect("a body").to_bytes();
    assert!(made.starts_with(b"{\n  \"kind\": \"ConfigMap\",\n"), "{made:?}");
    // These are, whoever asks.
    for path in ["/version", "/"] {
        assert!(text(&api, path, None).await.starts_with("{\n  \""), "{path}");
    }
    // And documents never.
    for path in ["/openapi/v3", "/.well-known/openid-configuration", "/openid/v1/jwks"] {
        assert_eq!(text(&api, path, curl).await, text(&api, path, None).await, "{path}");
    }
}

#[tokio::test]
async fn a_long_list_is_indented_too() {
    let api = Api::new().await;
    for i in 0..4 {
        let map = json!({"metadata": {"name": format!("m{i}")}, "data": {"a": "x\"{".repeat(20_000)}});
        api.ok(Method::POST, MAPS, map).await;
    }
    let plain = text(&api, MAPS, None).await;
    assert!(plain.len() > 200_000);
    let value: Value =
        serde_json::from_str(&text(&api, &format!("{MAPS}?pretty=1"), None).await).expect("JSON");
    assert_eq!(value, serde_json::from_str::<Value>(&plain).expect("JSON"));
}

/// The first events of a watch, as `TYPE name`.
async fn events(api: &Api, path: &str, header: Option<(&'static str, &str)>, count: usize) -> Vec<String> {
    let mut request = api.request(Method::GET, path, &Value::Null);
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let answer = api.send(request).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    let (mut body, mut rest, mut seen) = (answer.into_body(), Vec::new(), Vec::new());
    while seen.len() < count {
        let event = next(&mut body, &mut rest).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        seen.push(format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"])));
    }
    seen
}

#[tokio::test]
async fn old_paths_of_watches_are_served() {
    let api = Api::new().await;
    api.ok(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": "t"}})).await;
    api.ok(Method::POST, "/api/v1/namespaces/t/serviceaccounts", json!({"metadata": {"name": "default"}}))
        .await;
    api.ok(Method::POST, PODS, pod("a")).await;
    api.ok(Method::POST, PODS, pod("b")).await;
    api.ok(Method::POST, "/api/v1/namespaces/t/pods", pod("c")).await;
    api.ok(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    api.ok(Method::POST, lease, json!({"metadata": {"name": "l"}})).await;
    let check = async |path: &str, expected: &[&str]| {
        assert_eq!(events(&api, path, None, expected.len()).await, expected, "{path}");
        // A reader's lines stay lines.
        let curl = Some(("user-agent", "curl/8.5.0"));
        assert_eq!(events(&api, path, curl, expected.len()).await, expected, "{path}");
    };
    check("/api/v1/watch/pods", &["ADDED a", "ADDED b", "ADDED c"]).await;
    check("/api/v1/watch/namespaces/default/pods", &["ADDED a", "ADDED b"]).await;
    check("/api/v1/watch/namespaces/default/pods/b", &["ADDED b"]).await;
    check("/api/v1/watch/nodes", &["ADDED n"]).await;
    check("/api/v1/watch/nodes/n", &["ADDED n"]).await;
    check("/api/v1/watch/namespaces/t", &["ADDED t"]).await;
    check("/apis/coordination.k8s.io/v1/watch/leases", &["ADDED l"]).await;
    check("/apis/coordination.k8s.io/v1/watch/namespaces/default/leases/l", &["ADDED l"]).await;
    for path in [
        "/api/v1/watch/foos",
        "/api/v1/watch/namespaces/default/nodes",
        "/api/v1/watch/namespaces/default/pods/b/status",
        "/api/v1/watch/namespaces/default/pods/b/exec",
        "/api/v1/watch/namespaces/default/bindings",
        "/apis/authentication.k8s.io/v1/watch/tokenreviews",
        "/apis/explain.skiff.dev/v1/watch/namespaces/default/pods/b",
        "/api/v1/watch",
    ] {
        for method in [Method::GET, Method::POST] {
            api.refused(method, path, json!({"target": {"name": "n"}, "metadata": {"name": "a"}}), 404).await;
        }
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        api.refused(method, "/api/v1/watch/namespaces/default/pods/b", pod("b"), 405).await;
    }
    api.ok(Method::GET, &format!("{PODS}/b"), Value::Null).await;
}

#[tokio::test]
async fn an_old_path_is_allowed_as_a_watch() {
    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("a")).await;
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let grant = async |verb: &str| {
        let role = json!({"metadata": {"name": "own"}, "rules": [{
            "apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]});
        api.ok(Method::PUT, &format!("{group}/roles/own"), role).await;
    };
    grant("list").await;
    let binding = json!({"metadata": {"name": "own"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own"}});
    api.ok(Method::POST, &format!("{group}/rolebindings"), binding).await;
    let jane = Identity::new("jane", &[]);
    let ask = async |path: &str| {
        let mut request = api.request(Method::GET, path, &Value::Null);
        request.extensions_mut().insert(jane.clone());
        api.send(request).await.status().as_u16()
    };
    let (old, all) = ("/api/v1/watch/namespaces/default/pods", "/api/v1/watch/pods");
    assert_eq!((ask(old).await, ask(all).await), (403, 403));
    grant("watch").await;
    assert_eq!((ask(old).await, ask(all).await), (200, 403));
}
