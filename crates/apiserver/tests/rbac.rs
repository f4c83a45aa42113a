//! Roles and bindings as users meet them.

mod api;

use api::{Api, MAPS, PODS, pod};
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::Identity;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";

fn cluster(plural: &str) -> String {
    format!("{RBAC}/{plural}")
}

fn in_default(plural: &str) -> String {
    format!("{RBAC}/namespaces/default/{plural}")
}

fn user(name: &str) -> Identity {
    Identity::new(name, &[])
}

fn binding(name: &str, kind: &str, role: &str, subject: &Value) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": [subject],
    })
}

fn named(user: &str) -> Value {
    json!({"kind": "User", "name": user})
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn rule(verbs: &[&str], resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [""], "resources": resources})
}

/// What a user is refused with this code.
async fn refused(api: &Api, who: &str, method: Method, path: &str, body: Value, code: u16) -> String {
    let (got, answer) = api.call_as(&user(who), method, path, body).await;
    assert_eq!(got, code, "{path}: {answer}");
    answer["message"].as_str().unwrap_or_default().to_owned()
}

async fn allowed(api: &Api, who: &str, method: Method, path: &str, body: Value) -> Value {
    let (code, answer) = api.call_as(&user(who), method, path, body).await;
    assert!(code.is_success(), "{path}: {code} {answer}");
    answer
}

#[tokio::test]
async fn a_user_has_nothing_until_a_binding_gives_it() {
    let api = Api::new().await;
    assert_eq!(
        refused(&api, "jane", Method::GET, PODS, Value::Null, 403).await,
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    assert_eq!(
        refused(&api, "jane", Method::GET, "/api/v1/nodes/a", Value::Null, 403).await,
        r#"nodes "a" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#
    );
    assert_eq!(
        refused(&api, "jane", Method::GET, "/metrics", Value::Null, 403).await,
        r#"forbidden: User "jane" cannot get path "/metrics""#
    );
    let path = in_default("rolebindings");
    api.ok(Method::POST, &path, binding("b", "ClusterRole", "view", &named("jane"))).await;
    // True the moment the binding's creation was answered.
    allowed(&api, "jane", Method::GET, PODS, Value::Null).await;
    refused(&api, "jane", Method::POST, PODS, pod("p"), 403).await;
    refused(&api, "jane", Method::GET, "/api/v1/pods", Value::Null, 403).await;
    api.ok(Method::DELETE, &format!("{path}/b"), Value::Null).await;
    refused(&api, "jane", Method::GET, PODS, Value::Null, 403).await;
}

#[tokio::test]
async fn a_replacement_that_creates_needs_the_right_to_create() {
    let api = Api::new().await;
    let rule = json!({"verbs": ["update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]});
    api.ok(Method::POST, &in_default("roles"), role("renews", json!([rule]))).await;
    api.ok(Method::POST, &in_default("rolebindings"), binding("b", "Role", "renews", &named("jane"))).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "jane"}});
    let path = format!("{leases}/l");
    assert_eq!(
        refused(&api, "jane", Method::PUT, &path, lease.clone(), 403).await,
        "leases.coordination.k8s.io \"l\" is forbidden: User \"jane\" cannot create resource \"leases\" in API \
         group \"coordination.k8s.io\" in the namespace \"default\""
    );
    let made = api.ok(Method::POST, leases, lease).await;
    allowed(&api, "jane", Method::PUT, &path, made).await;
}

#[tokio::test]
async fn to_look_at_a_node_is_not_to_run_commands_in_its_pods() {
    let api = Api::new().await;
    let looks = role("looks", json!([rule(&["get"], &["nodes/proxy"])]));
    api.ok(Method::POST, &cluster("clusterroles"), looks).await;
    let bound = binding("b", "ClusterRole", "looks", &named("jane"));
    api.ok(Method::POST, &cluster("clusterrolebindings"), bound).await;
    for path in ["exec/default/web/app?command=id&output=1", "%65xec/default/web/app?command=id", "/attach/x"]
    {
        let path = format!("/api/v1/nodes/n/proxy/{path}");
        // Without an upgrade it is a question like others, to a node that isn't there.
        assert_eq!(
            refused(&api, "jane", Method::GET, &path, Value::Null, 404).await,
            "nodes \"n\" not found"
        );
        let mut request = api.request(Method::GET, &path, &Value::Null);
        request.extensions_mut().insert(user("jane"));
        let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
        for (name, value) in headers {
            request.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        assert_eq!(api.send(request).await.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn a_binding_to_a_missing_role_is_named_in_the_denial() {
    let api = Api::new().await;
    api.ok(
        Method::POST,
        &cluster("clusterrolebindings"),
        binding("b", "ClusterRole", "gone", &named("jane")),
    )
    .await;
    assert_eq!(
        refused(&api, "jane", Method::GET, PODS, Value::Null, 403).await,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \
         \"default\": RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found"
    );
    api.ok(Method::POST, &in_default("rolebindings"), binding("b", "Role", "too", &named("jane"))).await;
    let message = refused(&api, "jane", Method::GET, PODS, Value::Null, 403).await;
    assert!(
        message.ends_with(
            "RBAC: [clusterrole.rbac.authorization.k8s.io \"gone\" not found, \
             role.rbac.authorization.k8s.io \"too\" not found]"
        ),
        "{message}"
    );
}

#[tokio::test]
async fn a_rule_for_names_holds_for_lists_that_name_one() {
    let api = Api::new().await;
    let mut one = rule(&["get", "list", "watch"], &["configmaps"]);
    one["resourceNames"] = json!(["mine"]);
    api.ok(Method::POST, &in_default("roles"), role("r", json!([one]))).await;
    api.ok(Method::POST, &in_default("rolebindings"), binding("b", "Role", "r", &named("jane"))).await;
    let list = |name: &str| format!("{MAPS}?fieldSelector=metadata.name%3D{name}");
    allowed(&api, "jane", Method::GET, &list("mine"), Value::Null).await;
    refused(&api, "jane", Method::GET, &list("other"), Value::Null, 403).await;
    refused(&api, "jane", Method::GET, MAPS, Value::Null, 403).await;
    refused(&api, "jane", Method::GET, &format!("{MAPS}/mine"), Value::Null, 404).await;
    refused(&api, "jane", Method::GET, &format!("{MAPS}/other"), Value::Null, 403).await;
}

/// `jane` may write roles and bindings in `default`, and read pods there.
async fn with_a_role_writer() -> Api {
    let api = Api::new().await;
    let rules = json!([
        {"verbs": ["*"], "apiGroups": [GROUP], "resources": ["roles", "rolebindings"]},
        rule(&["get", "list"], &["pods"]),
    ]);
    api.ok(Method::POST, &in_default("roles"), role("writer", rules)).await;
    // `*` on roles is escalate and bind too, which this test is about to be without.
    let rules = json!([
        {"verbs": ["create", "update", "get", "patch"], "apiGroups": [GROUP],
         "resources": ["roles", "rolebindings"]},
        rule(&["get", "list"], &["pods"]),
    ]);
    let mut narrower = api.ok(Method::GET, &format!("{}/writer", in_default("roles")), Value::Null).await;
    narrower["rules"] = rules;
    api.ok(Method::PUT, &format!("{}/writer", in_default("roles")), narrower).await;
    api.ok(Method::POST, &in_default("rolebindings"), binding("b", "Role", "writer", &named("jane"))).await;
    api
}

#[tokio::test]
async fn nobody_writes_a_role_with_more_than_their_own() {
    let api = with_a_role_writer().await;
    let path = in_default("roles");
    allowed(&api, "jane", Method::POST, &path, role("less", json!([rule(&["get"], &["pods"])]))).await;
    let more = role("more", json!([rule(&["get", "list", "watch"], &["pods", "secrets"])]));
    assert_eq!(
        refused(&api, "jane", Method::POST, &path, more.clone(), 403).await,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"watch\"]}"
    );
    let (code, _) = api.call(Method::GET, &format!("{path}/more"), Value::Null).await;
    assert_eq!(code, 404, "nothing was made");
    let patch = json!({"rules": more["rules"]});
    let mut request = api.request(Method::PATCH, &format!("{path}/less"), &patch);
    request.extensions_mut().insert(user("jane"));
    let merge = "application/merge-patch+json".parse().expect("a type");
    request.headers_mut().insert(http::header::CONTENT_TYPE, merge);
    assert_eq!(api.send(request).await.status(), 403, "nor makes one so");
    // What does not touch the rules is free.
    api.ok(Method::POST, &path, role("strong", more["rules"].clone())).await;
    let mut labelled = api.ok(Method::GET, &format!("{path}/strong"), Value::Null).await;
    labelled["metadata"]["labels"] = json!({"a": "b"});
    allowed(&api, "jane", Method::PUT, &format!("{path}/strong"), labelled).await;
}

#[tokio::test]
async fn nobody_binds_a_role_with_more_than_their_own() {
    let api = with_a_role_writer().await;
    let path = in_default("rolebindings");
    api.ok(Method::POST, &in_default("roles"), role("own", json!([rule(&["get"], &["pods"])]))).await;
    allowed(&api, "jane", Method::POST, &path, binding("ok", "Role", "own", &named("joe"))).await;
    let message =
        refused(&api, "jane", Method::POST, &path, binding("no", "ClusterRole", "edit", &named("joe")), 403)
            .await;
    assert!(
        message.starts_with(
            "rolebindings.rbac.authorization.k8s.io \"no\" is forbidden: user \"jane\" \
             (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{"
        ),
        "{message}"
    );
    assert_eq!(
        refused(&api, "jane", Method::POST, &path, binding("no", "ClusterRole", "gone", &named("joe")), 404)
            .await,
        "clusterroles.rbac.authorization.k8s.io \"gone\" not found"
    );
    // Not the binding's own words, but the right to bind.
    let may_bind = json!([{
        "verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["edit"],
    }]);
    api.ok(Method::POST, &cluster("clusterroles"), role("binder", may_bind)).await;
    api.ok(Method::POST, &path, binding("binder", "ClusterRole", "binder", &named("jane"))).await;
    allowed(&api, "jane", Method::POST, &path, binding("yes", "ClusterRole", "edit", &named("joe"))).await;
    refused(&api, "jane", Method::POST, &path, binding("no", "ClusterRole", "admin", &named("joe")), 403)
        .await;
}

#[tokio::test]
async fn escalate_is_the_right_to_write_any_role() {
    let api = with_a_role_writer().await;
    let rules = json!([{"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"]}]);
    api.ok(Method::POST, &in_default("roles"), role("up", rules)).await;
    let path = in_default("roles");
    let all = role("all", json!([rule(&["*"], &["*"])]));
    refused(&api, "jane", Method::POST, &path, all.clone(), 403).await;
    api.ok(Method::POST, &in_default("rolebindings"), binding("up", "Role", "up", &named("jane"))).await;
    allowed(&api, "jane", Method::POST, &path, all).await;
}

#[tokio::test]
async fn an_aggregated_role_takes_an_administrator() {
    let api = Api::new().await;
    let rules = json!([{"verbs": ["create"], "apiGroups": [GROUP], "resources": ["clusterroles"]}]);
    api.ok(Method::POST, &cluster("clusterroles"), role("writer", rules)).await;
    let path = cluster("clusterrolebindings");
    api.ok(Method::POST, &path, binding("b", "ClusterRole", "writer", &named("jane"))).await;
    let aggregated = json!({
        "metadata": {"name": "all"}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]},
    });
    assert_eq!(
        refused(&api, "jane", Method::POST, &cluster("clusterroles"), aggregated.clone(), 403).await,
        "clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: must have cluster-admin privileges to \
         use the aggregationRule"
    );
    api.ok(Method::POST, &cluster("clusterroles"), aggregated).await;
}

#[tokio::test]
async fn malformed_roles_and_bindings_name_their_fields() {
    let api = Api::new().await;
    let path = in_default("roles");
    assert_eq!(
        api.refused(Method::POST, &path, role("r", json!([{"apiGroups": [""], "resources": ["pods"]}])), 422)
            .await,
        "Role.rbac.authorization.k8s.io \"r\" is invalid: rules[0].verbs: Required value: verbs must contain \
         at least one value"
    );
    let path = in_default("rolebindings");
    let robot = json!({"kind": "Robot", "name": "r2"});
    assert_eq!(
        api.refused(Method::POST, &path, binding("b", "ClusterRole", "view", &robot), 422).await,
        "RoleBinding.rbac.authorization.k8s.io \"b\" is invalid: subjects[0].kind: Unsupported value: \
         \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\""
    );
    assert_eq!(
        api.refused(Method::POST, &path, binding("b", "Rule", "view", &named("jane")), 422).await,
        "RoleBinding.rbac.authorization.k8s.io \"b\" is invalid: roleRef.kind: Unsupported value: \"Rule\": \
         supported values: \"Role\", \"ClusterRole\""
    );
    let mut made = api.ok(Method::POST, &path, binding("b", "ClusterRole", "view", &named("jane"))).await;
    made["roleRef"]["name"] = "edit".into();
    let message = api.refused(Method::PUT, &format!("{path}/b"), made, 422).await;
    assert!(message.ends_with("cannot change roleRef"), "{message}");
}

#[tokio::test]
async fn a_start_completes_what_the_platform_brings_and_leaves_what_users_added() {
    let api = Api::new().await;
    let at = |name: &str| format!("{}/{name}", cluster("clusterroles"));
    let mut changed = api.ok(Method::GET, &at("system:basic-user"), Value::Null).await;
    changed["rules"] = json!([rule(&["get"], &["pods"])]);
    api.ok(Method::PUT, &at("system:basic-user"), changed).await;
    let mut own = api.ok(Method::GET, &at("system:discovery"), Value::Null).await;
    own["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
    own["rules"] = json!([]);
    api.ok(Method::PUT, &at("system:discovery"), own).await;
    api.ok(Method::DELETE, &at("system:monitoring"), Value::Null).await;

    let api = api.restarted().await;
    let completed = api.ok(Method::GET, &at("system:basic-user"), Value::Null).await;
    let rules = completed["rules"].as_array().expect("rules");
    assert_eq!(rules[0], rule(&["get"], &["pods"]));
    assert_eq!(rules.len(), 4, "{completed}");
    assert_eq!(api.ok(Method::GET, &at("system:discovery"), Value::Null).await["rules"], json!([]));
    api.ok(Method::GET, &at("system:monitoring"), Value::Null).await;

    let revision = |list: Value| list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let before = revision(api.ok(Method::GET, &cluster("clusterroles"), Value::Null).await);
    let api = api.restarted().await;
    let after = revision(api.ok(Method::GET, &cluster("clusterroles"), Value::Null).await);
    assert_eq!(before, after, "a second start writes nothing");
}

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

#[tokio::test]
async fn reviews_answer_as_requests_would_be() {
    let api = Api::new().await;
    let path = in_default("rolebindings");
    let robot = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    api.ok(Method::POST, &path, binding("b", "ClusterRole", "view", &robot)).await;
    let attributes = |namespace: &str| json!({"verb": "list", "resource": "pods", "namespace": namespace});
    let path = format!("{REVIEWS}/subjectaccessreviews");
    let ask = |namespace: &str, user: &str| json!({"spec": {"user": user, "resourceAttributes": attributes(namespace)}});
    let robot = "system:serviceaccount:default:robot";
    let said = api.ok(Method::POST, &path, ask("default", robot)).await;
    assert_eq!(
        said["status"],
        json!({
            "allowed": true,
            "reason": "RBAC: allowed by RoleBinding \"b/default\" of ClusterRole \"view\" to ServiceAccount \
                       \"robot/default\"",
        })
    );
    assert_eq!(
        api.ok(Method::POST, &path, ask("kube-system", robot)).await["status"],
        json!({"allowed": false})
    );
    let by_path = json!({"spec": {
        "user": "x", "groups": ["system:unauthenticated"],
        "nonResourceAttributes": {"verb": "get", "path": "/healthz"},
    }});
    assert_eq!(api.ok(Method::POST, &path, by_path).await["status"]["allowed"], true);
    // Of oneself everybody who is known may ask; of others not.
    let own = json!({"spec": {"resourceAttributes": attributes("default")}});
    let own_path = format!("{REVIEWS}/selfsubjectaccessreviews");
    assert_eq!(allowed(&api, "jane", Method::POST, &own_path, own.clone()).await["status"]["allowed"], false);
    refused(&api, "jane", Method::POST, &path, ask("default", robot), 403).await;
    let (code, _) = api.call_as(&Identity::anonymous(), Method::POST, &own_path, own).await;
    assert_eq!(code, 403);
    let local = format!("{REVIEWS}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(api.ok(Method::POST, &local, ask("default", robot)).await["status"]["allowed"], true);
    api.refused(Method::POST, &local, ask("kube-system", robot), 422).await;
}

#[tokio::test]
async fn a_review_that_asks_nothing_or_too_much_is_refused_by_field() {
    let api = Api::new().await;
    let path = format!("{REVIEWS}/subjectaccessreviews");
    assert_eq!(
        api.refused(Method::POST, &path, json!({"spec": {"user": "x"}}), 422).await,
        "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: \
         \"null\": exactly one of nonResourceAttributes or resourceAttributes must be specified"
    );
    let both = json!({"spec": {
        "resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"verb": "get", "path": "/"},
    }});
    let message = api.refused(Method::POST, &path, both, 422).await;
    assert!(message.contains("spec.nonResourceAttributes: Invalid value"), "{message}");
    assert!(message.contains("spec.user: Invalid value: \"\": at least one of user or group"), "{message}");
    let rules = format!("{REVIEWS}/selfsubjectrulesreviews");
    assert_eq!(api.refused(Method::POST, &rules, json!({"spec": {}}), 400).await, "no namespace on request");
}

#[tokio::test]
async fn a_user_can_list_what_they_may() {
    let api = Api::new().await;
    api.ok(Method::POST, &in_default("roles"), role("r", json!([rule(&["get"], &["pods"])]))).await;
    api.ok(Method::POST, &in_default("rolebindings"), binding("b", "Role", "r", &named("jane"))).await;
    let path = format!("{REVIEWS}/selfsubjectrulesreviews");
    let ask = json!({"spec": {"namespace": "default"}});
    let status = allowed(&api, "jane", Method::POST, &path, ask.clone()).await["status"].clone();
    assert_eq!(status["incomplete"], false);
    let rules = status["resourceRules"].as_array().expect("rules");
    assert!(rules.contains(&json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), "{status}");
    let paths = status["nonResourceRules"].as_array().expect("rules");
    assert!(paths.iter().any(|rule| rule["nonResourceURLs"][0] == "/healthz"), "{status}");
    let all = api.ok(Method::POST, &path, ask).await["status"].clone();
    assert_eq!(all["resourceRules"][0], json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
}
