//! PUT to a name that is free: creates objects of the kinds that upstream lets be made so, by all the rules of a
//! creation.

mod api;

use api::{Api, MAPS, PODS, pod};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::Identity;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

#[tokio::test]
async fn kinds_that_upstream_creates_by_put_are_created() {
    let api = Api::new().await;
    let group = "/apis/rbac.authorization.k8s.io/v1";
    let binding = |kind: &str| {
        json!({"metadata": {"name": "x"}, "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "view"}})
    };
    let event = json!({"metadata": {"name": "x"}, "involvedObject": {"namespace": "default"}});
    let new_event = json!({"metadata": {"name": "y"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
        "reportingController": "c.d/e", "reportingInstance": "i", "action": "a", "reason": "r",
        "regarding": {"namespace": "default"}});
    let plain = || json!({"metadata": {"name": "x"}});
    for (path, object) in [
        (format!("{SERVICES}/x"), service("x")),
        ("/api/v1/namespaces/default/endpoints/x".to_owned(), plain()),
        ("/api/v1/namespaces/default/events/x".to_owned(), event),
        ("/apis/events.k8s.io/v1/namespaces/default/events/y".to_owned(), new_event),
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases/x".to_owned(), plain()),
        (format!("{ROLES}/x"), plain()),
        (format!("{group}/clusterroles/x"), plain()),
        (format!("{group}/namespaces/default/rolebindings/x"), binding("ClusterRole")),
        (format!("{group}/clusterrolebindings/x"), binding("ClusterRole")),
    ] {
        let (code, made) = api.call(Method::PUT, &path, object).await;
        assert_eq!(code, StatusCode::CREATED, "{path}: {made}");
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default();
        assert!(!uid.is_empty(), "{path}");
        let (code, again) = api.call(Method::PUT, &path, made.clone()).await;
        assert_eq!(
            (code, &again["metadata"]["uid"]),
            (StatusCode::OK, &made["metadata"]["uid"]),
            "{path}: {again}"
        );
    }
}

#[tokio::test]
async fn other_kinds_are_not_found() {
    let api = Api::new().await;
    let missing = |kind: &str| format!("{kind} \"x\" not found");
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    for (path, kind, object) in [
        (PODS, "pods", pod("x")),
        (MAPS, "configmaps", json!({"metadata": {"name": "x"}})),
        ("/api/v1/namespaces/default/secrets", "secrets", json!({"metadata": {"name": "x"}})),
        ("/api/v1/namespaces/default/serviceaccounts", "serviceaccounts", json!({"metadata": {"name": "x"}})),
        ("/api/v1/namespaces", "namespaces", json!({"metadata": {"name": "x"}})),
        ("/api/v1/nodes", "nodes", json!({"metadata": {"name": "x"}})),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            "deployments.apps",
            json!({"metadata": {"name": "x"}, "spec": spec}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            "endpointslices.discovery.k8s.io",
            json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []}),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            "priorityclasses.scheduling.k8s.io",
            json!({"metadata": {"name": "x"}, "value": 1}),
        ),
    ] {
        let path = format!("{path}/x");
        assert_eq!(api.refused(Method::PUT, &path, object, 404).await, missing(kind));
        api.refused(Method::GET, &path, Value::Null, 404).await;
    }
    // Parts of an object make none.
    api.refused(Method::PUT, &format!("{SERVICES}/x/status"), service("x"), 404).await;
    // Neither do patches.
    let mut patch = api.request(Method::PATCH, &format!("{SERVICES}/x"), &service("x"));
    patch.headers_mut().insert("content-type", "application/merge-patch+json".parse().expect("a type"));
    assert_eq!(api.told(patch).await, (404, missing("services")));
}

#[tokio::test]
async fn what_a_put_creates_has_passed_all_that_a_creation_does() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/a");
    let (code, dry) = api.call(Method::PUT, &format!("{path}?dryRun=All"), service("a")).await;
    assert_eq!(code, StatusCode::CREATED, "{dry}");
    api.refused(Method::GET, &path, Value::Null, 404).await;
    // Defaults, an address of its own, and no version or status of the client's.
    let mut wanted = service("a");
    wanted["metadata"]["resourceVersion"] = "3".into();
    wanted["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
    let (code, made) = api.call(Method::PUT, &path, wanted).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["spec"]["type"], "ClusterIP");
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    // The address is taken as that of any service.
    let mut other = service("b");
    other["spec"]["clusterIP"] = ip.as_str().into();
    let refusal = api.refused(Method::PUT, &format!("{SERVICES}/b"), other, 422).await;
    assert!(refusal.ends_with("provided IP is already allocated"), "{refusal}");
    // Namespaces that are not there, or go, take nothing.
    let elsewhere = "/api/v1/namespaces/none/services/a";
    assert_eq!(api.refused(Method::PUT, elsewhere, service("a"), 404).await, "namespaces \"none\" not found");
    // The name is the path's.
    let check = async |body: Value, expected: &str| {
        assert_eq!(api.refused(Method::PUT, &format!("{SERVICES}/c"), body, 400).await, expected);
    };
    check(service("d"), "the name of the object (d) does not match the name on the URL (c)").await;
    let undeterminable = "the name of the object (c based on URL) was undeterminable: name must be provided";
    check(service(""), undeterminable).await;
    let mut generated = service("");
    generated["metadata"] = json!({"generateName": "c-"});
    check(generated, undeterminable).await;
    // Whoever names a UID means an object that was there.
    let mut former = service("c");
    former["metadata"]["uid"] = "u".into();
    assert_eq!(
        api.refused(Method::PUT, &format!("{SERVICES}/c"), former, 409).await,
        "Operation cannot be fulfilled on services \"c\": Precondition failed: UID in precondition: u, UID in object \
         meta: "
    );
    let list = api.ok(Method::GET, SERVICES, Value::Null).await;
    let names: Vec<_> =
        list["items"].as_array().expect("a list").iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["a", "kubernetes"]);
}

#[tokio::test]
async fn who_may_update_only_creates_nothing() {
    let api = Api::new().await;
    let grant = async |verbs: &[&str]| {
        let rules = json!([{"apiGroups": ["", "rbac.authorization.k8s.io"], "resources": ["services", "roles"],
            "verbs": verbs}]);
        let role = json!({"metadata": {"name": "own"}, "rules": rules});
        api.ok(Method::PUT, &format!("{ROLES}/own"), role).await;
    };
    grant(&["get", "update"]).await;
    let binding = json!({"metadata": {"name": "own"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own"}});
    api.ok(Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let jane = Identity::new("jane", &[]);
    let path = format!("{SERVICES}/a");
    let (code, refusal) = api.call_as(&jane, Method::PUT, &path, service("a")).await;
    let expected = "services \"a\" is forbidden: User \"jane\" cannot create resource \"services\" in API group \"\" in \
                    the namespace \"default\"";
    assert_eq!((code.as_u16(), &refusal["message"]), (403, &expected.into()));
    api.refused(Method::GET, &path, Value::Null, 404).await;
    grant(&["get", "update", "create"]).await;
    assert_eq!(api.call_as(&jane, Method::PUT, &path, service("a")).await.0, StatusCode::CREATED);
    // Nobody grants what they do not have, by this way neither.
    let role = json!({"metadata": {"name": "more"}, "rules": [{
        "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let (code, refusal) = api.call_as(&jane, Method::PUT, &format!("{ROLES}/more"), role).await;
    assert_eq!(code.as_u16(), 403, "{refusal}");
    api.refused(Method::GET, &format!("{ROLES}/more"), Value::Null, 404).await;
}

/// Many at once: one creates it, the others replace it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_puts_at_the_same_moment_one_creates() {
    let api = std::sync::Arc::new(Api::new().await);
    let mut all = tokio::task::JoinSet::new();
    for i in 0..8 {
        let api = std::sync::Arc::clone(&api);
        all.spawn(async move {
            let mut own = service("a");
            own["metadata"]["labels"] = json!({"by": i.to_string()});
            api.call(Method::PUT, &format!("{SERVICES}/a"), own).await.0
        });
    }
    let codes = all.join_all().await;
    let of = |code| codes.iter().filter(|one| **one == code).count();
    assert_eq!((of(StatusCode::CREATED), of(StatusCode::OK)), (1, 7), "{codes:?}");
}
