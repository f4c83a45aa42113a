//! Secrets that hold tokens.

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;

use crate::harness::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_a_token_is_filled_and_goes_with_its_account() {
    let cluster = Cluster::new(&[]).await;
    cluster.create::<ServiceAccount>("default", json!({"metadata": {"name": "builder"}})).await;
    let annotations = json!({"kubernetes.io/service-account.name": "builder"});
    let secret = json!({"metadata": {"name": "kept", "annotations": annotations},
        "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>("default", secret).await;
    let has = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.contains_key("token"));
    cluster.until::<Secret>("default", |all| all.len() == 1 && has(&all[0])).await;
    let secret = cluster.client().get::<Secret>("default", "kept").await.expect("there");
    let data = secret.data.as_ref().expect("filled");
    assert_eq!(data["ca.crt"], ByteString(b"the CA".to_vec()));
    assert_eq!(data["namespace"], ByteString(b"default".to_vec()));
    let token = String::from_utf8(data["token"].0.clone()).expect("text");
    let review: TokenReview =
        serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}})).expect("a review");
    let review = cluster.client().create(&review).await.expect("reviewed");
    let status = review.status.clone().expect("a status");
    let user = status.user.and_then(|user| user.username);
    assert_eq!(user.as_deref(), Some("system:serviceaccount:default:builder"), "{:?}", status.error);

    // An account that was never there leaves no secret either.
    let annotations = json!({"kubernetes.io/service-account.name": "nobody"});
    let secret = json!({"metadata": {"name": "orphan", "annotations": annotations},
        "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>("default", secret).await;
    cluster.delete::<ServiceAccount>("default", "builder", None).await;
    cluster.until::<Secret>("default", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_token_that_ended_is_deleted() {
    let cluster = Cluster::new(&[]).await;
    let token = |id: &str, end: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "data": {"expiration": ByteString(end.as_bytes().to_vec())}})
    };
    cluster.create::<Secret>("kube-system", token("ended1", "2020-01-01T00:00:00Z")).await;
    cluster.create::<Secret>("kube-system", token("lasts1", "2199-01-01T00:00:00Z")).await;
    let names = |all: &[std::sync::Arc<Secret>]| -> Vec<String> {
        all.iter().filter_map(|secret| secret.metadata.name.clone()).collect()
    };
    let ended = "bootstrap-token-ended1".to_owned();
    cluster.until::<Secret>("kube-system", |all| !names(all).contains(&ended)).await;
    let left = names(&cluster.list::<Secret>("kube-system").await);
    assert!(left.contains(&"bootstrap-token-lasts1".to_owned()), "{left:?}");
}
