//! Requests that nobody sends but by mistake: what is not served, odd paths and methods, wrong types. The answers
//! are upstream's.

mod api;

use api::{Api, MAPS, PODS, pod};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// Code, type and body of an answer.
async fn answer(api: &Api, method: &str, path: &str) -> (u16, String, String) {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let answer = api.send(api.request(method, path, &Value::Null)).await;
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (code, kind.unwrap_or_default(), String::from_utf8_lossy(&body).into_owned())
}

const NO_PAGE: &str = "404 page not found\n";

fn status(code: u16, reason: &str, message: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "details": {}, "code": code,
    })
    .to_string()
}

#[tokio::test]
async fn what_is_not_served_is_not_found() {
    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("p")).await;
    let missing = status(404, "NotFound", "the server could not find the requested resource");
    let missing: Value = serde_json::from_str(&missing).expect("JSON");
    for path in [
        "/api/v1/foos",
        "/api/v1/foos/bar",
        "/api/v1/namespaces/default/foos",
        "/apis/apps/v1/namespaces/default/statefulsets",
        "/api/v1/pods/p",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/pods/p/nothing",
        "/api/v1/namespaces/default/pods/p/status/more",
        "/apis/explain.skiff.dev/v1/foos",
        "/apis/explain.skiff.dev/v1/namespaces/default/pods/p/nothing",
    ] {
        for method in ["GET", "POST", "HEAD", "DELETE"] {
            let explained = path.contains("explain") && method != "GET" && path.contains("/pods/");
            let (code, kind, body) = answer(&api, method, path).await;
            if explained {
                assert_eq!(code, 405, "{method} {path}");
                continue;
            }
            let body: Value =
                serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {body}"));
            assert_eq!((code, &*kind, &body), (404, "application/json", &missing), "{method} {path}");
        }
    }
    for path in [
        "/apis/example.com/v1/foos",
        "/apis/apps/v9/deployments",
        "/apis/apps/v9",
        "/apis/example.com",
        "/api/v2",
        "/api/v2/pods",
        "//api/v1/pods",
        "/nothing",
        "/skiff/v1/nothing",
        "/livez/nothing",
    ] {
        for method in ["GET", "POST", "PATCH"] {
            let (code, kind, body) = answer(&api, method, path).await;
            let expected = (404, "text/plain; charset=utf-8", NO_PAGE);
            assert_eq!((code, &*kind, &*body), expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_belongs_to_no_namespace_is_not_found_in_one() {
    let api = Api::new().await;
    api.ok(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": "t"}})).await;
    let missing = status(404, "NotFound", "the server could not find the requested resource");
    let missing: Value = serde_json::from_str(&missing).expect("JSON");
    let groups = api.ok(Method::GET, "/apis", Value::Null).await;
    let names = groups["groups"].as_array().expect("groups").iter().map(|group| &group["name"]);
    let bases: Vec<String> =
        names.map(|name| format!("/apis/{}/v1", name.as_str().expect("a name"))).collect();
    let mut kinds = Vec::new();
    for base in std::iter::once("/api/v1").chain(bases.iter().map(String::as_str)) {
        let list = api.ok(Method::GET, base, Value::Null).await;
        let of_cluster =
            list["resources"].as_array().expect("a list").iter().filter(|kind| kind["namespaced"] == false);
        for kind in of_cluster.map(|kind| kind["name"].as_str().expect("a name")) {
            let (kind, sub) =
                kind.split_once('/').map_or((kind, String::new()), |(kind, sub)| (kind, format!("/{sub}")));
            for name in ["", "/t", "/default"] {
                let path = format!("{base}/namespaces/t/{kind}{name}{sub}");
                for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                    let (code, kind, body) = answer(&api, method, &path).await;
                    let body: Value =
                        serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {body}"));
                    assert_eq!((code, &*kind, &body), (404, "application/json", &missing), "{method} {path}");
                }
            }
            kinds.push(kind.to_owned());
        }
    }
    for kind in ["namespaces", "nodes", "clusterroles", "priorityclasses", "tokenreviews"] {
        assert!(kinds.iter().any(|known| known == kind), "{kind}: {kinds:?}");
    }
    api.refused(Method::GET, "/api/v1/namespaces/t/namespaces", Value::Null, 404).await;
    let (code, ..) =
        answer(&api, "GET", "/apis/apiextensions.k8s.io/v1/namespaces/t/customresourcedefinitions").await;
    assert_eq!(code, 404);
    // Nothing of it was done, and what is a namespace's own is there all the same.
    assert_eq!(api.ok(Method::GET, "/api/v1/namespaces/t", Value::Null).await["status"]["phase"], "Active");
    api.ok(Method::GET, "/api/v1/namespaces/t/status", Value::Null).await;
}

#[tokio::test]
async fn methods_that_are_not_served_are_refused() {
    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("p")).await;
    let refused = "the server does not allow this method on the requested resource";
    let refused: Value = serde_json::from_str(&status(405, "MethodNotAllowed", refused)).expect("JSON");
    for (method, path) in [
        ("HEAD", PODS),
        ("HEAD", "/api/v1/namespaces/default/pods/p"),
        ("OPTIONS", PODS),
        ("TRACE", PODS),
        ("BREW", "/api/v1/namespaces/default/pods/p"),
        ("PUT", PODS),
        ("PATCH", PODS),
        ("POST", "/api/v1/pods"),
        ("POST", "/api/v1/namespaces/default/pods/p"),
        ("DELETE", "/api/v1/namespaces/default/pods/p/status"),
        ("GET", "/api/v1/namespaces/default/bindings"),
        ("POST", "/version"),
        ("HEAD", "/version"),
        ("POST", "/api"),
        ("HEAD", "/apis"),
        ("PUT", "/apis/apps/v1"),
        ("DELETE", "/metrics"),
        ("POST", "/openid/v1/jwks"),
    ] {
        let (code, _, body) = answer(&api, method, path).await;
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {body}"));
        assert_eq!((code, &body), (405, &refused), "{method} {path}");
    }
    for (method, path) in [
        ("POST", "/healthz"),
        ("HEAD", "/livez"),
        ("PUT", "/readyz/ping"),
        ("HEAD", "/metrics"),
        ("HEAD", "/"),
    ] {
        assert_eq!(answer(&api, method, path).await.0, 200, "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_of_other_types_are_refused() {
    let api = Api::new().await;
    let send = async |method: Method, path: &str, kind: &str, body: &str| {
        let mut request = api.request(method, path, &Value::Null);
        *request.body_mut() = skiff_apiserver::http_body::full(body.to_owned());
        if !kind.is_empty() {
            request.headers_mut().insert("content-type", kind.parse().expect("a type"));
        }
        let answer = api.send(request).await;
        let code = answer.status();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    let map = |name: &str| json!({"metadata": {"name": name}}).to_string();
    for (name, kind) in [
        ("a", ""),
        ("b", "application/json"),
        ("c", "application/json; charset=utf-8"),
        ("d", "application/yaml"),
    ] {
        let (code, answer) = send(Method::POST, MAPS, kind, &map(name)).await;
        assert_eq!(code, StatusCode::CREATED, "{kind}: {answer}");
    }
    let types = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "json", "application/"]
    {
        let (code, answer) = send(Method::POST, MAPS, kind, &map("x")).await;
        assert_eq!((code.as_u16(), &answer["reason"]), (415, &json!("UnsupportedMediaType")), "{kind}");
        let expected = format!(
            "the body of the request was in an unknown format - accepted media types include: {types}"
        );
        assert_eq!(answer["message"], expected, "{kind}");
    }
    let one = format!("{MAPS}/a");
    for kind in ["", "application/json", "text/plain"] {
        let (code, answer) = send(Method::PATCH, &one, kind, "{}").await;
        assert_eq!((code.as_u16(), &answer["reason"]), (415, &json!("UnsupportedMediaType")), "{kind}");
    }
    let merge = "application/merge-patch+json; charset=utf-8";
    assert_eq!(send(Method::PATCH, &one, merge, "{}").await.0, StatusCode::OK);
    for body in ["", "{", "[]", "\"x\""] {
        let (code, answer) = send(Method::POST, MAPS, "application/json", body).await;
        assert_eq!((code.as_u16(), &answer["reason"]), (400, &json!("BadRequest")), "{body:?}: {answer}");
    }
}
