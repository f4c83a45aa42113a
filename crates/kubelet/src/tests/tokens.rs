//! A pod's own token: fetched, mounted, replaced, released.

use std::fs;

use serde_json::json;

use super::*;

fn spec() -> Value {
    json!({
        "serviceAccountName": "robot",
        "containers": [{"name": "c", "image": "web:1", "volumeMounts": [{"name": "api", "mountPath": "/api"}]}],
        "volumes": [{"name": "api", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "a"}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}],
    })
}

fn file(agent: &Agent, name: &str) -> String {
    let dir = agent.dir.path().join("pods/u1/volumes/projected/api");
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}

#[tokio::test]
async fn a_pods_token_is_bound_to_it_and_there_before_its_containers() {
    let agent = Agent::new();
    agent.api.grant_tokens_of(600);
    agent.apply(spec());
    agent.until_running().await;
    assert_eq!((file(&agent, "token"), file(&agent, "namespace")), ("token-1".into(), "default".into()));
    let asked = agent.api.token_requests();
    assert_eq!(asked[0].0, "/api/v1/namespaces/default/serviceaccounts/robot/token");
    assert_eq!(
        asked[0].1["spec"],
        json!({
            "audiences": ["a"], "expirationSeconds": 600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u1"},
        })
    );
    assert_eq!(asked.len(), 1);
    agent.delete(1);
    agent.until_gone().await;
}

#[tokio::test]
async fn a_token_near_its_end_is_replaced_while_the_pod_runs() {
    let agent = Agent::new();
    // Ten seconds are left of ten minutes: the first is due as soon as it is there.
    agent.api.grant_tokens_of(10);
    agent.apply(spec());
    agent.until_running().await;
    agent.api.grant_tokens_of(600);
    while !file(&agent, "token").starts_with("token-") || file(&agent, "token") == "token-1" {
        tokio::task::yield_now().await;
    }
    assert_eq!(agent.runtime.calls().iter().filter(|call| call.starts_with("create")).count(), 1);
    agent.delete(1);
    agent.until_gone().await;
}

#[tokio::test]
async fn a_pod_without_its_token_waits_and_says_why() {
    let agent = Agent::new();
    agent.apply(spec());
    assert_eq!(
        agent.event("FailedMount").await,
        "MountVolume.SetUp failed for volume \"api\" : failed to fetch token: not found"
    );
    assert!(agent.runtime.running().is_empty());
    agent.api.grant_tokens_of(600);
    agent.until_running().await;
    agent.delete(1);
    agent.until_gone().await;
}
