//! What programs written for upstream do at the edges, found by running them against this server.

mod api;

use api::{Api, MAPS};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::Identity;

async fn sent(
    api: &Api,
    who: Option<Identity>,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: Value,
) -> (u16, Value) {
    let mut request = api.request(method, path, &body);
    if let Some(who) = who {
        request.extensions_mut().insert(who);
    }
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a header"));
    }
    let response = api.send(request).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn acting_as_somebody_else_has_their_rights() {
    let api = Api::new().await;
    let bob = ("impersonate-user", "bob");
    let (code, status) = sent(&api, None, Method::GET, MAPS, &[bob], Value::Null).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            403,
            Some(
                "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in \
                 the namespace \"default\""
            )
        )
    );
    let (code, _) =
        sent(&api, None, Method::GET, MAPS, &[bob, ("impersonate-group", "system:masters")], Value::Null)
            .await;
    assert_eq!(code, 200, "as a member of a group that may");
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let account = ("impersonate-user", "system:serviceaccount:default:builder");
    let (_, answer) =
        sent(&api, None, Method::POST, reviews, &[account, ("content-type", "application/json")], review)
            .await;
    let user = json!({
        "username": "system:serviceaccount:default:builder",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
    });
    assert_eq!(answer["status"]["userInfo"], user, "{answer}");
}

#[tokio::test]
async fn who_may_not_impersonate_is_told_so() {
    let api = Api::new().await;
    let who = Identity::new("mallory", &[]);
    let admin = ("impersonate-user", "admin");
    let (code, status) = sent(&api, Some(who), Method::GET, MAPS, &[admin], Value::Null).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            403,
            Some(
                "users \"admin\" is forbidden: User \"mallory\" cannot impersonate resource \"users\" in API \
                 group \"\" at the cluster scope"
            )
        )
    );
    let (code, _) =
        sent(&api, None, Method::GET, MAPS, &[("impersonate-group", "system:masters")], Value::Null).await;
    assert_eq!(code, 500, "a group without a user, as upstream");
    let (code, _) = sent(
        &api,
        None,
        Method::GET,
        MAPS,
        &[("impersonate-user", "a"), ("impersonate-unheard-of", "b")],
        Value::Null,
    )
    .await;
    assert_eq!(code, 400, "what is not known is refused, not dropped");
}

#[tokio::test]
async fn a_server_side_apply_is_refused_before_the_object_is_looked_for() {
    let api = Api::new().await;
    let apply = ("content-type", "application/apply-patch+yaml");
    for path in ["m", "m/status"] {
        let path = format!("{}/{path}", if path == "m" { MAPS } else { "/api/v1/namespaces/default/pods" });
        let (code, _) = sent(&api, None, Method::PATCH, &path, &[apply], json!({})).await;
        assert_eq!(code, 415, "{path}");
    }
}

#[tokio::test]
async fn a_bad_label_selector_is_explained_once() {
    let api = Api::new().await;
    let refused = api.refused(Method::GET, &format!("{MAPS}?labelSelector=a+in+b"), Value::Null, 400).await;
    assert_eq!(refused, "unable to parse requirement: found 'b', expected: '('");
}

#[tokio::test]
async fn what_a_dry_run_would_create_has_no_resource_version() {
    let api = Api::new().await;
    let path = format!("{MAPS}?dryRun=All");
    let made = api.ok(Method::POST, &path, json!({"metadata": {"name": "m"}})).await;
    assert_eq!(made["metadata"]["resourceVersion"], Value::Null, "{made}");
    assert!(made["metadata"]["uid"].is_string(), "{made}");
}

#[tokio::test]
async fn a_patch_that_makes_a_field_unreadable_is_invalid() {
    let api = Api::new().await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await;
    let path = format!("{MAPS}/m");
    let merge = ("content-type", "application/merge-patch+json");
    let (code, status) = sent(&api, None, Method::PATCH, &path, &[merge], json!({"data": {"a": 1}})).await;
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")), "{status}");
    assert_eq!(status["details"]["causes"][0]["field"], "patch");
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.ends_with("json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
        "{message}"
    );
}

#[tokio::test]
async fn endpoints_are_deprecated_on_every_answer() {
    let api = Api::new().await;
    for path in ["/api/v1/endpoints", "/api/v1/namespaces/default/endpoints?limit=5"] {
        let response = api.send(api.request(Method::GET, path, &Value::Null)).await;
        assert_eq!(
            response.headers()["warning"],
            "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"",
            "{path}"
        );
    }
    let response = api.send(api.request(Method::GET, MAPS, &Value::Null)).await;
    assert!(response.headers().get("warning").is_none());
}

#[tokio::test]
async fn there_are_no_custom_kinds_and_that_can_be_asked() {
    let api = Api::new().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let list = api.ok(Method::GET, path, Value::Null).await;
    assert_eq!((&list["kind"], &list["items"]), (&"CustomResourceDefinitionList".into(), &json!([])));
    let (code, _) = api.call(Method::POST, path, json!({})).await;
    assert_eq!(code.as_u16(), 404, "none can be made");
    let (code, _) = api.call(Method::GET, &format!("{path}/some"), Value::Null).await;
    assert_eq!(code.as_u16(), 404);
}

#[tokio::test]
async fn too_much_data_is_told_as_upstream_does() {
    let api = Api::new().await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat((1 << 20) + 1)}});
    let refused = api.refused(Method::POST, MAPS, map, 422).await;
    assert_eq!(refused, "ConfigMap \"m\" is invalid: []: Too long: may not be more than 1048576 bytes");
}
