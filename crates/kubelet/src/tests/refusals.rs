//! What does not start, and what is told of why.

use serde_json::{Value, json};

use super::Agent;

#[tokio::test]
async fn a_missing_command_is_a_start_error() {
    let agent = Agent::new();
    agent.apply(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "web:1", "command": ["missing"]}]}));
    let status = agent.until("fails", |status| status["phase"] == "Failed").await;
    let end = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&end["reason"], &end["exitCode"], &end["message"]),
        (&json!("StartError"), &json!(127), &json!("no such file"))
    );
}

#[tokio::test]
async fn images_fail_and_back_off() {
    let agent = Agent::new();
    agent.apply(json!({"containers": [{"name": "c", "image": "absent:1"}]}));
    let reason = |reason: &'static str| {
        move |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    agent.until("fails to pull", reason("ErrImagePull")).await;
    let status = agent.until("backs off", reason("ImagePullBackOff")).await;
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "Back-off pulling image \"absent:1\": ErrImagePull: failed to pull and unpack image \"absent:1\": not found"
    );
}

#[tokio::test]
async fn what_is_not_supported_is_named() {
    let agent = Agent::new();
    agent.apply(json!({"runtimeClassName": "x", "containers": [{"name": "c", "image": "web:1"}]}));
    let waits = |status: &Value| {
        status["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    };
    let status = agent.until("waits", waits).await;
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "spec.runtimeClassName is not supported by this version of Skiff"
    );
    assert!(agent.runtime.running().is_empty());
}

#[tokio::test]
async fn what_must_not_run_as_root_waits_and_says_why() {
    let agent = Agent::new();
    agent.apply(
        json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c", "image": "web:1"}]}),
    );
    let waits = |status: &Value| {
        status["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    };
    let status = agent.until("waits", waits).await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("container has runAsNonRoot and image will run as root (pod: \"")
            && message.ends_with(", container: c)"),
        "{message}"
    );
    assert!(agent.runtime.running().is_empty());
}

#[tokio::test]
async fn a_pod_that_the_node_has_no_room_for_fails() {
    let agent = Agent::new();
    agent.apply(json!({"containers": [
        {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "100000"}}},
    ]}));
    let status = agent.until("fails", |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "OutOfcpu");
    let capacity = std::thread::available_parallelism().expect("there are some").get() * 1_000;
    let message =
        format!("Node didn't have enough resource: cpu, requested: 100000000, used: 0, capacity: {capacity}");
    assert_eq!(status["message"], format!("Pod was rejected: {message}"));
    assert_eq!(agent.event("OutOfcpu").await, message);
}

#[tokio::test]
async fn a_pod_that_means_other_nodes_fails() {
    let agent = Agent::new();
    agent.apply(json!({"nodeSelector": {"a": "b"}, "containers": [{"name": "c", "image": "web:1"}]}));
    let status = agent.until("fails", |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "NodeAffinity");
    assert!(agent.runtime.calls().is_empty());
}

#[tokio::test]
async fn a_pod_that_no_node_can_run_fails() {
    let agent = Agent::new();
    agent.apply(json!({"securityContext": {"sysctls": [{"name": "kernel.sem", "value": "1"}]},
        "containers": [{"name": "c", "image": "web:1"}]}));
    let status = agent.until("fails", |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "SysctlForbidden");
    assert!(status["containerStatuses"].is_null(), "there is nothing to tell of containers: {status}");
    assert_eq!(status["message"], "Pod was rejected: forbidden sysctl: \"kernel.sem\" not allowlisted");
}
