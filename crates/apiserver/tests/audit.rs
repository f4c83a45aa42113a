//! The audit log, as a policy asks for it.

mod api;

use std::path::PathBuf;

use api::{Api, PODS, pod};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::audit::{AuditConfig, LogConfig, Policy};
use skiff_apiserver::{Config, Identity};

struct Audited {
    api: Api,
    path: PathBuf,
    dir: tempfile::TempDir,
}

impl Audited {
    /// A server whose policy has these rules.
    async fn new(rules: &str) -> Self {
        Self::with(rules, LogConfig::default()).await
    }

    async fn with(rules: &str, log: LogConfig) -> Self {
        Self::of(rules, log, Config::default()).await
    }

    async fn of(rules: &str, log: LogConfig, config: Config) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("logs/audit.log");
        let policy = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{rules}]}}");
        let policy = serde_yaml_ng::from_str(&policy).expect("YAML");
        let policy = Policy::read(&policy).unwrap_or_else(|error| panic!("{error}"));
        let audit = AuditConfig { policy, log: LogConfig { path: path.clone(), ..log } };
        let api = Api::with(Config { audit: Some(audit), ..config }).await;
        Self { api, path, dir }
    }

    /// All events of requests by this user.
    async fn events(&self, user: &str) -> Vec<Value> {
        self.api.server().flush().await;
        let text = std::fs::read_to_string(&self.path).expect("the log");
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("one event a line"));
        events.filter(|event| event["user"]["username"] == user).collect()
    }

    /// Sends a request as jane, and reads the answer whole.
    async fn send(&self, method: Method, path: &str, body: &Value) -> http::Response<()> {
        let mut request = self.api.request(method, path, body);
        request.extensions_mut().insert(Identity::new("jane", &["system:masters", "team"]));
        request.headers_mut().insert("user-agent", http::HeaderValue::from_static("test/1"));
        let (parts, body) = self.api.send(request).await.into_parts();
        body.collect().await.expect("a body");
        http::Response::from_parts(parts, ())
    }
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["stage"].as_str()).collect()
}

#[tokio::test]
async fn an_event_says_who_asked_for_what_and_what_became_of_it() {
    let audited = Audited::new("{level: Metadata}").await;
    let answer = audited.send(Method::POST, PODS, &pod("p")).await;
    let events = audited.events("jane").await;
    assert_eq!(stages(&events), ["RequestReceived", "ResponseComplete"]);
    let event = &events[1];
    assert_eq!((&event["kind"], &event["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&event["level"], &event["verb"]), (&json!("Metadata"), &json!("create")));
    assert_eq!(event["requestURI"], PODS);
    assert_eq!(event["userAgent"], "test/1");
    assert_eq!(event["user"]["groups"], json!(["system:masters", "team", "system:authenticated"]));
    assert_eq!(
        event["objectRef"],
        json!({"resource": "pods", "namespace": "default", "name": "p", "apiVersion": "v1"})
    );
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(event["auditID"], events[0]["auditID"]);
    assert_eq!(answer.headers()["audit-id"].to_str().ok(), event["auditID"].as_str());
    for stamp in ["requestReceivedTimestamp", "stageTimestamp"] {
        let text = event[stamp].as_str().expect("a time");
        assert!(text.len() == "2006-01-02T15:04:05.000000Z".len() && text.ends_with('Z'), "{text}");
    }
    assert!(event["requestObject"].is_null() && event["responseObject"].is_null());
}

#[tokio::test]
async fn a_refusal_s_status_is_told_and_pod_security_s_verdict() {
    let audited = Audited::new("{level: Metadata, omitStages: [RequestReceived]}").await;
    let labels = json!({
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"});
    let namespace = json!({"metadata": {"name": "strict", "labels": labels}});
    audited.api.ok(Method::POST, "/api/v1/namespaces", namespace).await;
    let account = json!({"metadata": {"name": "default"}});
    audited.api.ok(Method::POST, "/api/v1/namespaces/strict/serviceaccounts", account).await;
    let mut shared = pod("p");
    shared["spec"]["hostPID"] = true.into();
    audited.send(Method::POST, "/api/v1/namespaces/strict/pods", &shared).await;
    let events = audited.events("jane").await;
    assert_eq!(stages(&events), ["ResponseComplete"]);
    let status = &events[0]["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(403), &json!("Forbidden")));
    assert!(status["message"].as_str().is_some_and(|m| m.contains("violates PodSecurity")), "{status}");
    let annotations = &events[0]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    let audit = annotations["pod-security.kubernetes.io/audit-violations"].as_str().expect("a verdict");
    assert!(audit.starts_with("would violate PodSecurity \"restricted:latest\": host namespaces"), "{audit}");
}

#[tokio::test]
async fn a_list_of_one_name_is_that_object_s() {
    let audited = Audited::new(
        "{level: Metadata, resources: [{resources: [secrets], resourceNames: [watched]}], omitStages: [RequestReceived]},
         {level: None}",
    )
    .await;
    let secrets = "/api/v1/namespaces/default/secrets";
    audited
        .send(Method::GET, &format!("{secrets}?fieldSelector=metadata.name%3Dwatched"), &Value::Null)
        .await;
    audited.send(Method::GET, &format!("{secrets}?fieldSelector=metadata.name%3Dother"), &Value::Null).await;
    let events = audited.events("jane").await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["verb"], &events[0]["objectRef"]["name"]), (&json!("list"), &json!("watched")));
}

#[tokio::test]
async fn bodies_are_kept_as_far_as_the_rule_goes() {
    let audited = Audited::new(
        "{level: Metadata, resources: [{resources: [secrets]}]},
         {level: Request, verbs: [create, update, patch], resources: [{resources: [configmaps]}], omitStages: [RequestReceived]},
         {level: RequestResponse, verbs: [get], resources: [{resources: [configmaps]}], omitStages: [RequestReceived]},
         {level: None}",
    )
    .await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "not-for-the-log"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    audited.send(Method::POST, secrets, &secret).await;
    audited.send(Method::GET, &format!("{secrets}/s"), &Value::Null).await;
    audited.send(Method::GET, secrets, &Value::Null).await;
    // What is wrong with it is told by quoting it.
    let broken = json!({"metadata": {"name": "s"}, "data": {"password": "bm90LWZvci10aGUtbG9n", "x": "!"}});
    let answer = audited.send(Method::PUT, &format!("{secrets}/s"), &broken).await;
    assert!(answer.status().is_client_error());
    // So is what is wrong with a patch, whatever the code.
    let patch = json!({"data": {"$patch": "x", "password": "bm90LWZvci10aGUtbG9n"}});
    let mut request = audited.api.request(Method::PATCH, &format!("{secrets}/s"), &patch);
    request.extensions_mut().insert(Identity::new("jane", &["system:masters", "team"]));
    let strategic = http::HeaderValue::from_static("application/strategic-merge-patch+json");
    request.headers_mut().insert("content-type", strategic);
    let answer = audited.api.send(request).await;
    assert!(answer.status().as_u16() >= 400, "{}", answer.status());
    answer.into_body().collect().await.expect("a body");
    let maps = "/api/v1/namespaces/default/configmaps";
    audited.send(Method::POST, maps, &json!({"metadata": {"name": "m"}, "data": {"a": "asked"}})).await;
    audited.send(Method::GET, &format!("{maps}/m"), &Value::Null).await;
    audited.send(Method::GET, "/version", &Value::Null).await;
    let events = audited.events("jane").await;
    let text = std::fs::read_to_string(&audited.path).expect("the log");
    assert!(!text.contains("not-for-the-log") && !text.contains("bm90LWZvci10aGUtbG9n"), "{text}");
    let maps: Vec<&Value> = events.iter().filter(|e| e["objectRef"]["resource"] == "configmaps").collect();
    assert_eq!(maps.len(), 2);
    assert_eq!(
        (&maps[0]["level"], &maps[0]["requestObject"]["data"]["a"]),
        (&json!("Request"), &json!("asked"))
    );
    assert!(maps[0]["responseObject"].is_null());
    assert_eq!(
        (&maps[1]["level"], &maps[1]["responseObject"]["data"]["a"]),
        (&json!("RequestResponse"), &json!("asked"))
    );
    assert_eq!(maps[1]["responseObject"]["kind"], "ConfigMap");
    assert_eq!(events.len(), 2 * 5 + 2, "nothing of paths");
    let refused = events.iter().map(|event| &event["responseStatus"]);
    let refused: Vec<&Value> = refused.filter(|told| told["code"].as_u64() >= Some(400)).collect();
    assert_eq!(refused.len(), 2);
    assert!(
        refused.iter().all(|told| told["reason"].is_string() && told["message"].is_null()),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_watch_is_told_of_when_it_starts_and_when_it_ends() {
    let audited = Audited::new("{level: Metadata}").await;
    let path = format!("{PODS}?watch=1&timeoutSeconds=60");
    let mut request = audited.api.request(Method::GET, &path, &Value::Null);
    request.extensions_mut().insert(Identity::new("jane", &["system:masters"]));
    let response = audited.api.send(request).await;
    assert_eq!(stages(&audited.events("jane").await), ["RequestReceived", "ResponseStarted"]);
    drop(response);
    let events = audited.events("jane").await;
    assert_eq!(stages(&events), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    assert_eq!((&events[2]["verb"], &events[2]["responseStatus"]["code"]), (&json!("watch"), &json!(200)));
    assert_eq!(events[2]["requestURI"], path.as_str());
}

#[tokio::test]
async fn who_is_impersonated_is_told_beside_who_asked() {
    let audited = Audited::new("{level: Metadata, omitStages: [RequestReceived]}").await;
    let mut request = audited.api.request(Method::GET, PODS, &Value::Null);
    request.extensions_mut().insert(Identity::new("jane", &["system:masters"]));
    request.headers_mut().insert("impersonate-user", http::HeaderValue::from_static("joe"));
    assert_eq!(audited.api.send(request).await.status(), 403);
    let events = audited.events("jane").await;
    assert_eq!(events[0]["impersonatedUser"]["username"], "joe");
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[0]["responseStatus"]["code"], 403);
}

#[tokio::test]
async fn who_can_t_show_who_they_are_is_told_of() {
    let audited = Audited::new("{level: Metadata, omitStages: [RequestReceived]}").await;
    let mut request = audited.api.request(Method::GET, PODS, &Value::Null);
    request.extensions_mut().remove::<Identity>();
    request.headers_mut().insert("authorization", http::HeaderValue::from_static("Bearer forged"));
    assert_eq!(audited.api.send(request).await.status(), 401);
    audited.api.server().flush().await;
    let text = std::fs::read_to_string(&audited.path).expect("the log");
    let mut events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let event = events.rfind(|event| event["responseStatus"]["code"] == 401).expect("an event");
    assert_eq!((&event["user"], &event["responseStatus"]["reason"]), (&json!({}), &json!("Unauthorized")));
    assert!(!text.contains("forged"));
}

#[tokio::test]
async fn a_handler_that_panics_is_told_of_and_the_server_goes_on() {
    let config = Config { more_metrics: Some(|_| panic!("a figure that can't be")), ..Config::default() };
    let audited = Audited::of("{level: Metadata}", LogConfig::default(), config).await;
    for _ in 0..2 {
        let (code, answer) = audited.api.call(Method::GET, "/metrics", Value::Null).await;
        assert_eq!((code.as_u16(), &answer["reason"]), (500, &json!("InternalError")), "{answer}");
        assert!(!answer.to_string().contains("a figure"), "{answer}");
        audited.api.ok(Method::GET, PODS, Value::Null).await;
    }
    let events = audited.events("admin").await;
    let events: Vec<Value> = events.into_iter().filter(|event| event["requestURI"] == "/metrics").collect();
    assert_eq!(stages(&events), ["RequestReceived", "Panic", "RequestReceived", "Panic"]);
    let status = &events[1]["responseStatus"];
    assert_eq!((&status["code"], &status["status"]), (&json!(500), &json!("Failure")));
    assert_eq!(status["reason"], "InternalError");
    assert_eq!(status["message"], "APIServer panic'd: a figure that can't be");
}

#[tokio::test]
async fn the_log_is_rotated_and_old_ones_go() {
    let log = LogConfig { max_size_mib: 1, max_backups: 2, ..LogConfig::default() };
    let audited = Audited::with("{level: Request, omitStages: [RequestReceived]}", log).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for number in 0..6 {
        let map = json!({"metadata": {"name": format!("m{number}")}, "data": {"a": "x".repeat(900_000)}});
        audited.send(Method::POST, maps, &map).await;
        audited.api.server().flush().await;
    }
    let logs = std::fs::read_dir(audited.dir.path().join("logs")).expect("a directory").flatten();
    let mut names: Vec<String> = logs.map(|log| log.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names[0].starts_with("audit-20") && names[2] == "audit.log", "{names:?}");
}
