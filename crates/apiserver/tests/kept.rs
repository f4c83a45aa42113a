//! What every cluster has comes back, whoever deletes or changes it.

mod api;

use std::time::Duration;

use api::Api;
use http::{Method, StatusCode};
use serde_json::{Value, json};

const ENOUGH: Duration = Duration::from_secs(60);
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
const LEASES: &str = "/api/v1/namespaces/kube-node-lease";

/// Reads the object until it is as wanted.
async fn comes(api: &Api, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            match api.call(Method::GET, path, Value::Null).await {
                (StatusCode::OK, object) if wanted(&object) => return object,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(ENOUGH, look).await.expect("it comes back")
}

#[tokio::test]
async fn deleted_things_of_every_cluster_are_made_again() {
    let api = Api::new().await;
    for path in [SLICE, ENDPOINTS, LEASES] {
        let before = api.ok(Method::GET, path, Value::Null).await;
        api.ok(Method::DELETE, path, Value::Null).await;
        // Nobody empties a namespace here, so its finalizer is taken away as who does would.
        if path == LEASES {
            let emptied = json!({"metadata": {"name": before["metadata"]["name"]}, "spec": {}});
            api.ok(Method::PUT, &format!("{path}/finalize"), emptied).await;
        }
        let uid = &before["metadata"]["uid"];
        let after = comes(&api, path, |object| object["metadata"]["uid"] != *uid).await;
        for part in ["subsets", "endpoints", "ports", "addressType"] {
            assert_eq!(after[part], before[part], "{path}");
        }
        assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"], "{path}");
    }
}

#[tokio::test]
async fn endpoints_of_the_api_that_somebody_changed_are_put_right() {
    let api = Api::new().await;
    for (path, part, value) in [
        (SLICE, "/endpoints", json!([])),
        (SLICE, "/ports", json!([])),
        (SLICE, "/metadata/labels", json!({"kubernetes.io/service-name": "other"})),
        (ENDPOINTS, "/subsets", json!([])),
    ] {
        let before = api.ok(Method::GET, path, Value::Null).await;
        let mut changed = before.clone();
        *changed.pointer_mut(part).expect("it has that") = value;
        api.ok(Method::PUT, path, changed).await;
        comes(&api, path, |object| {
            ["subsets", "endpoints", "ports"].iter().all(|part| object[*part] == before[*part])
                && object["metadata"]["labels"] == before["metadata"]["labels"]
        })
        .await;
    }
}
