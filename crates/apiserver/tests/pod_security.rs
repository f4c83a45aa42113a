//! Pod Security admission and the preflight of host ports, through the API.

mod api;

use api::{Api, PODS};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::{Config, Identity};
use skiff_pod_security::{Configuration, Exemptions, Level, LevelVersion, Policy, Version};

/// Code, message of a Status, and warnings.
async fn answer(api: &Api, method: Method, path: &str, body: &Value) -> (u16, String, Vec<String>) {
    send(api, api.request(method, path, body)).await
}

async fn send(api: &Api, request: http::Request<skiff_apiserver::Body>) -> (u16, String, Vec<String>) {
    let response = api.send(request).await;
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|w| w.to_str().expect("text").to_owned()).collect();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let value: Value = serde_json::from_slice(&bytes).expect("JSON");
    (code, value["message"].as_str().unwrap_or_default().to_owned(), warnings)
}

/// Labels the namespace `default`.
async fn label(api: &Api, labels: Value) -> (u16, String, Vec<String>) {
    let patch = json!({"metadata": {"labels": labels}});
    let mut request = api.request(Method::PATCH, "/api/v1/namespaces/default", &patch);
    request
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/merge-patch+json"));
    send(api, request).await
}

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const WARN: &str = "pod-security.kubernetes.io/warn";

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "main", "image": "alpine"}]);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn workload(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "kind": kind, "apiVersion": "apps/v1", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": pod(name, spec)["spec"]}},
    })
}

#[tokio::test]
async fn a_baseline_namespace_refuses_in_upstreams_words() {
    let api = Api::new().await;
    assert_eq!(label(&api, json!({ENFORCE: "baseline"})).await, (200, String::new(), vec![]));
    let ports = json!([{"name": "main", "image": "i", "ports": [{"containerPort": 8080, "hostPort": 9000}]}]);
    let privileged = json!([{"name": "main", "image": "i", "securityContext": {"privileged": true}}]);
    for (spec, details) in [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (json!({"hostIPC": true}), "host namespaces (hostIPC=true)"),
        (json!({"containers": ports}), "hostPort (container \"main\" uses hostPort 9000)"),
        (
            json!({"containers": privileged}),
            "privileged (container \"main\" must not set securityContext.privileged=true)",
        ),
    ] {
        let expected =
            format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": {details}");
        assert_eq!(answer(&api, Method::POST, PODS, &pod("p", spec)).await, (403, expected, vec![]));
    }
    assert_eq!(answer(&api, Method::POST, PODS, &pod("p", json!({}))).await.0, 201);
    // It judges the object as it would be stored, with its name.
    let mut drawn = pod("", json!({"hostIPC": true}));
    drawn["metadata"] = json!({"generateName": "web-"});
    let (code, message, _) = answer(&api, Method::POST, PODS, &drawn).await;
    let drawn = message.strip_prefix("pods \"web-").and_then(|rest| rest.split_once('"'));
    assert!(code == 403 && drawn.is_some_and(|(suffix, _)| suffix.len() == 5), "{message}");
    // Faults of the object itself come first.
    let broken = json!({"hostNetwork": true, "containers": [{"name": "UPPER", "image": "i"}]});
    assert_eq!(answer(&api, Method::POST, PODS, &pod("q", broken)).await.0, 422);
}

#[tokio::test]
async fn templates_are_warned_of_and_made() {
    let api = Api::new().await;
    label(&api, json!({ENFORCE: "baseline"})).await;
    let warning =
        "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostNetwork=true)\"";
    for (kind, plural) in
        [("Deployment", "deployments"), ("DaemonSet", "daemonsets"), ("ReplicaSet", "replicasets")]
    {
        let path = format!("/apis/apps/v1/namespaces/default/{plural}");
        let body = workload(kind, "w", json!({"hostNetwork": true}));
        assert_eq!(
            answer(&api, Method::POST, &path, &body).await,
            (201, String::new(), vec![warning.into()])
        );
        let body = workload(kind, "fine", json!({}));
        assert_eq!(answer(&api, Method::POST, &path, &body).await, (201, String::new(), vec![]));
    }
    let scale = json!({"metadata": {"name": "w"}, "spec": {"replicas": 3}});
    let path = "/apis/apps/v1/namespaces/default/deployments/w/scale";
    assert_eq!(answer(&api, Method::PUT, path, &scale).await.2, [""; 0]);
}

#[tokio::test]
async fn a_warn_label_warns_and_lets_pass() {
    let api = Api::new().await;
    label(&api, json!({WARN: "baseline", "pod-security.kubernetes.io/warn-version": "v1.30"})).await;
    let (code, _, warnings) = answer(&api, Method::POST, PODS, &pod("p", json!({"hostPID": true}))).await;
    let expected =
        "299 - \"would violate PodSecurity \\\"baseline:v1.30\\\": host namespaces (hostPID=true)\"";
    assert_eq!((code, warnings), (201, vec![expected.to_owned()]));
}

#[tokio::test]
async fn labels_without_meaning_are_refused() {
    let api = Api::new().await;
    let level = "must be one of privileged, baseline, restricted";
    let (code, message, _) = label(&api, json!({ENFORCE: "strict"})).await;
    assert_eq!(
        (code, message),
        (
            422,
            format!(
                "Namespace \"default\" is invalid: metadata.labels[{ENFORCE}]: Invalid value: \"strict\": {level}"
            )
        )
    );
    let labels = json!({WARN: "none", "pod-security.kubernetes.io/warn-version": "1.30"});
    let namespace = json!({"metadata": {"name": "n", "labels": labels}});
    let (code, message, _) = answer(&api, Method::POST, "/api/v1/namespaces", &namespace).await;
    assert_eq!(
        (code, message),
        (
            422,
            format!(
                "Namespace \"n\" is invalid: [metadata.labels[{WARN}]: Invalid value: \"none\": {level}, \
                 metadata.labels[{WARN}-version]: Invalid value: \"1.30\": must be \"latest\" or \"v1.x\"]"
            )
        )
    );
    api.refused(Method::GET, "/api/v1/namespaces/n", Value::Null, 404).await;
}

#[tokio::test]
async fn a_stricter_label_lists_the_pods_it_would_refuse() {
    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("b", json!({"hostNetwork": true}))).await;
    api.ok(Method::POST, PODS, pod("a", json!({"hostPID": true}))).await;
    api.ok(Method::POST, PODS, pod("fine", json!({}))).await;
    let (code, _, warnings) = label(&api, json!({ENFORCE: "baseline"})).await;
    assert_eq!(
        (code, warnings),
        (
            200,
            vec![
                "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \
                 \\\"baseline:latest\\\"\""
                    .to_owned(),
                "299 - \"a (and 1 other pod): host namespaces\"".to_owned(),
            ]
        )
    );
    assert_eq!(label(&api, json!({ENFORCE: "baseline", "x": "y"})).await.2, [""; 0]);
    assert_eq!(label(&api, json!({ENFORCE: "privileged"})).await.2, [""; 0]);
}

#[tokio::test]
async fn running_pods_change_freely_but_for_images() {
    let api = Api::new().await;
    let mut made = api.ok(Method::POST, PODS, pod("p", json!({"hostIPC": true}))).await;
    label(&api, json!({ENFORCE: "baseline"})).await;
    let path = format!("{PODS}/p");
    made["metadata"]["labels"] = json!({"a": "b"});
    made = api.ok(Method::PUT, &path, made).await;
    let status = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}});
    let mut running = made.clone();
    running["status"] = status["status"].clone();
    made = api.ok(Method::PUT, &format!("{path}/status"), running).await;
    made["spec"]["containers"][0]["image"] = "other".into();
    assert_eq!(
        api.refused(Method::PUT, &path, made, 403).await,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostIPC=true)"
    );
    api.ok(Method::DELETE, &path, Value::Null).await;
}

#[tokio::test]
async fn defaults_hold_where_labels_are_silent_and_exemptions_everywhere() {
    let restricted = LevelVersion { level: Level::Baseline, version: Version::Latest };
    let pod_security = Configuration {
        defaults: Policy { enforce: restricted, ..Policy::default() },
        exemptions: Exemptions {
            usernames: vec!["jane".into()],
            namespaces: vec!["kube-system".into()],
            ..Exemptions::default()
        },
    };
    let api = Api::with(Config { pod_security, ..Config::default() }).await;
    let (code, message, _) = answer(&api, Method::POST, PODS, &pod("p", json!({"hostPID": true}))).await;
    assert_eq!(code, 403, "{message}");
    let mut request = api.request(Method::POST, PODS, &pod("p", json!({"hostPID": true})));
    request.extensions_mut().insert(Identity::new("jane", &["system:masters"]));
    assert_eq!(send(&api, request).await.0, StatusCode::CREATED);
    let account = json!({"metadata": {"name": "default"}});
    api.ok(Method::POST, "/api/v1/namespaces/kube-system/serviceaccounts", account).await;
    api.ok(Method::POST, "/api/v1/namespaces/kube-system/pods", pod("p", json!({"hostPID": true}))).await;
    // The namespace's own word counts.
    label(&api, json!({ENFORCE: "privileged"})).await;
    assert_eq!(answer(&api, Method::POST, PODS, &pod("q", json!({"hostPID": true}))).await.0, 201);
}

#[tokio::test]
async fn ports_of_the_platform_are_warned_of_at_once() {
    let api = Api::new().await;
    let with = |port: u16| json!({"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 80, "hostPort": port}]}]});
    let (code, _, warnings) = answer(&api, Method::POST, PODS, &pod("p", with(10250))).await;
    assert_eq!(
        (code, warnings),
        (
            201,
            vec![
                "299 - \"spec.containers[0].ports[0].hostPort: 10250/TCP is the agent's on every node; the \
                 pod can't have it\""
                    .to_owned()
            ]
        )
    );
    assert_eq!(answer(&api, Method::POST, PODS, &pod("q", with(9000))).await.2, [""; 0]);
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let (_, _, warnings) = answer(&api, Method::POST, path, &workload("Deployment", "d", with(30080))).await;
    assert!(
        warnings.len() == 1
            && warnings[0]
                .contains("spec.template.spec.containers[0].ports[0].hostPort: 30080/TCP is in the range"),
        "{warnings:?}"
    );
    // Not again when something else changes.
    let mut deployment = api.ok(Method::GET, &format!("{path}/d"), Value::Null).await;
    deployment["spec"]["replicas"] = 2.into();
    assert_eq!(answer(&api, Method::PUT, &format!("{path}/d"), &deployment).await.2, [""; 0]);
}
