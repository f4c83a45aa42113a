//! Tokens that Secrets hold: good for as long as they are held, and nobody says otherwise.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::api::{Api, next};
use super::{ACCOUNT, ISSUER, REVIEW, SECRETS, TOKEN_REVIEW, at, bytes, claims, code};

#[tokio::test]
async fn a_kept_token_is_good_as_long_as_its_secret_holds_it() {
    let (api, time) = at(1_800_000_000).await;
    let account = api.ok(Method::GET, ACCOUNT, Value::Null).await;
    let uid = account["metadata"]["uid"].as_str().expect("a UID");
    let token = api.server().account_token("default", ("default", uid), "kept").expect("signed");
    assert_eq!(claims(&token)["iss"], "kubernetes/serviceaccount");
    assert_eq!(code(&api, &token).await, 401, "no secret holds it");
    let secret = |token: &str| {
        json!({"metadata": {"name": "kept", "annotations": {"kubernetes.io/service-account.name": "default"}},
            "type": "kubernetes.io/service-account-token", "data": {"token": bytes(token)}})
    };
    api.ok(Method::POST, SECRETS, secret(&token)).await;
    assert_eq!(code(&api, &token).await, 201);
    let review = json!({"spec": {"token": token, "audiences": ["vault"]}});
    let answer = api.ok(Method::POST, TOKEN_REVIEW, review).await;
    let error = format!(
        "[invalid bearer token, token audiences [\"{ISSUER}\"] is invalid for the target audiences [\"vault\"]]"
    );
    assert_eq!(answer["status"], json!({"user": {}, "error": error}), "it is for the API alone");
    time.store(2_800_000_000, Ordering::SeqCst);
    assert_eq!(code(&api, &token).await, 201, "it has no end of its own");
    api.ok(Method::PUT, &format!("{SECRETS}/kept"), secret("another")).await;
    assert_eq!(code(&api, &token).await, 401);
    api.ok(Method::PUT, &format!("{SECRETS}/kept"), secret(&token)).await;
    assert_eq!(code(&api, &token).await, 201);
    let (_, review) = api.with_token(&token, Method::POST, REVIEW, json!({})).await;
    assert_eq!(review["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    assert_eq!(review["status"]["userInfo"]["extra"], Value::Null);
    api.ok(Method::DELETE, &format!("{SECRETS}/kept"), Value::Null).await;
    assert_eq!(code(&api, &token).await, 401);
}

/// The Secret as it is once its label says this day.
async fn last_used(api: &Api, day: &str) -> Value {
    let watch = api.request(
        Method::GET,
        &format!("{SECRETS}?watch=1&fieldSelector=metadata.name=kept"),
        &Value::Null,
    );
    let (mut body, mut rest) = (api.send(watch).await.into_body(), Vec::new());
    let told = async {
        loop {
            let secret = next(&mut body, &mut rest).await["object"].take();
            if secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"] == day {
                return secret;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), told).await.expect("the label is written")
}

#[tokio::test]
async fn a_kept_token_that_is_marked_invalid_is_not_taken() {
    let (api, time) = at(1_800_000_000).await;
    let account = api.ok(Method::GET, ACCOUNT, Value::Null).await;
    let uid = account["metadata"]["uid"].as_str().expect("a UID");
    let token = api.server().account_token("default", ("default", uid), "kept").expect("signed");
    let secret = json!({
        "metadata": {"name": "kept", "annotations": {"kubernetes.io/service-account.name": "default"},
            "labels": {"own": "label"}},
        "type": "kubernetes.io/service-account-token", "data": {"token": bytes(&token)},
    });
    api.ok(Method::POST, SECRETS, secret).await;
    assert_eq!(code(&api, &token).await, 201);
    let told = last_used(&api, "2027-01-15").await;
    assert_eq!(told["metadata"]["labels"]["own"], "label");
    assert_eq!(told["data"]["token"], bytes(&token));
    // On the same day nothing more is written.
    assert_eq!(code(&api, &token).await, 201);
    let mark = |day: &str| json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": day}}});
    let patch = async |body: Value| {
        let mut request = api.request(Method::PATCH, &format!("{SECRETS}/kept"), &body);
        request.headers_mut().insert("content-type", "application/merge-patch+json".parse().expect("a type"));
        assert_eq!(api.send(request).await.status(), StatusCode::OK);
    };
    patch(mark("2027-01-15")).await;
    assert_eq!(code(&api, &token).await, 401);
    let review = json!({"spec": {"token": token}});
    let answer = api.ok(Method::POST, TOKEN_REVIEW, review).await;
    let error = "[invalid bearer token, the token in secret default/kept for service account default/default has been \
                 marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or \
                 remove the 'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use \
                 of this token]";
    assert_eq!(answer["status"], json!({"user": {}, "error": error}));
    // Who comes with it all the same is told of by the other label.
    time.store(1_800_000_000 + 3 * 86_400, Ordering::SeqCst);
    assert_eq!(code(&api, &token).await, 401);
    last_used(&api, "2027-01-18").await;
    for unmarked in [json!(""), Value::Null] {
        patch(json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": unmarked}}})).await;
        assert_eq!(code(&api, &token).await, 201, "{unmarked}");
    }
}

#[tokio::test]
async fn a_secret_for_a_token_names_its_account() {
    let (api, _) = at(1_800_000_000).await;
    let secret = json!({"metadata": {"name": "s"}, "type": "kubernetes.io/service-account-token"});
    let refusal = api.refused(Method::POST, SECRETS, secret, 422).await;
    assert_eq!(
        refusal,
        "Secret \"s\" is invalid: metadata.annotations[kubernetes.io/service-account.name]: Required value"
    );
}
