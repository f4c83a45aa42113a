//! What comes of probes: readiness, restarts, and the time before a container has started.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Agent, web};

/// Asks by a command of that name, each second, and believes the first answer.
fn by(command: &str) -> Value {
    json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1})
}

fn container(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

#[tokio::test]
async fn who_fails_to_live_is_restarted() {
    let agent = Agent::new();
    agent.runtime.answer("alive", 0);
    let mut spec = web();
    spec["terminationGracePeriodSeconds"] = json!(9);
    spec["containers"][0]["livenessProbe"] = by("alive");
    agent.apply(spec);
    agent.until_running().await;
    agent.runtime.answer("alive", 1);
    assert_eq!(agent.event("Unhealthy").await, "Liveness probe failed: said by alive");
    assert_eq!(agent.event("Killing").await, "Container c failed liveness probe, will be restarted");
    agent.runtime.answer("alive", 0);
    let again = |status: &Value| container(status)["restartCount"] == 1 && container(status)["ready"] == true;
    agent.until("runs again", again).await;
    assert!(agent.runtime.calls().contains(&"stop c2 after 9 s".to_owned()), "{:?}", agent.runtime.calls());
}

#[tokio::test]
async fn who_is_not_ready_runs_on_and_is_told_to_be_so() {
    let agent = Agent::new();
    agent.runtime.answer("ready", 1);
    let mut spec = web();
    spec["containers"][0]["readinessProbe"] = by("ready");
    agent.apply(spec);
    let status = agent.until("runs", |status| container(status)["started"] == true).await;
    assert_eq!(container(&status)["ready"], false);
    assert_eq!(status["conditions"][2]["message"], "containers with unready status: [c]");
    assert_eq!(agent.event("Unhealthy").await, "Readiness probe failed: said by ready");
    agent.runtime.answer("ready", 0);
    agent.until_running().await;
    agent.runtime.answer("ready", 1);
    agent.until("is unready again", |status| status["conditions"][2]["status"] == "False").await;
    assert_eq!(agent.runtime.running(), ["c"]);
    assert!(!agent.runtime.calls().iter().any(|call| call.starts_with("stop")), "nobody stopped it");
}

#[tokio::test]
async fn before_it_has_started_nothing_else_is_asked() {
    let agent = Agent::new();
    for command in ["up", "alive", "ready"] {
        agent.runtime.answer(command, 1);
    }
    let mut spec = web();
    let probed = &mut spec["containers"][0];
    probed["startupProbe"] = by("up");
    probed["startupProbe"]["failureThreshold"] = json!(1_000);
    (probed["livenessProbe"], probed["readinessProbe"]) = (by("alive"), by("ready"));
    agent.apply(spec);
    assert_eq!(agent.event("Unhealthy").await, "Startup probe failed: said by up");
    let status = agent.until("runs", |status| !container(status)["state"]["running"].is_null()).await;
    assert_eq!(
        (&container(&status)["started"], &container(&status)["ready"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(agent.runtime.asked(), ["up"], "the others wait for it");
    agent.runtime.answer("up", 0);
    assert_eq!(agent.event("Killing").await, "Container c failed liveness probe, will be restarted");
}

#[tokio::test]
async fn who_does_not_start_in_time_is_restarted() {
    let agent = Agent::new();
    agent.runtime.answer("up", 1);
    let mut spec = web();
    spec["containers"][0]["startupProbe"] = by("up");
    agent.apply(spec);
    assert_eq!(agent.event("Killing").await, "Container c failed startup probe, will be restarted");
    agent.runtime.answer("up", 0);
    let again =
        |status: &Value| container(status)["restartCount"] == 1 && container(status)["started"] == true;
    agent.until("starts again", again).await;
}

#[tokio::test]
async fn a_probe_that_hangs_holds_up_no_other() {
    let agent = Agent::new();
    agent.runtime.hang("ready");
    agent.runtime.answer("alive", 0);
    let mut spec = web();
    (spec["containers"][0]["readinessProbe"], spec["containers"][0]["livenessProbe"]) =
        (by("ready"), by("alive"));
    agent.apply(spec);
    agent.until("runs", |status| container(status)["started"] == true).await;
    let hangs = async {
        while !agent.runtime.asked().contains(&"ready".to_owned()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), hangs).await.expect("it is asked");
    agent.runtime.answer("alive", 1);
    assert_eq!(agent.event("Killing").await, "Container c failed liveness probe, will be restarted");
}

#[tokio::test]
async fn readiness_is_asked_for_until_the_end_and_liveness_no_more() {
    let agent = Agent::new();
    for command in ["alive", "ready"] {
        agent.runtime.answer(command, 0);
    }
    let mut spec = web();
    (spec["containers"][0]["readinessProbe"], spec["containers"][0]["livenessProbe"]) =
        (by("ready"), by("alive"));
    agent.apply(spec);
    agent.until_running().await;
    agent.runtime.hold_ends();
    agent.delete(30);
    assert_eq!(agent.event("Killing").await, "Stopping container c");
    agent.runtime.answer("alive", 1);
    agent.runtime.answer("ready", 1);
    let status = agent.until("is unready", |status| status["conditions"][2]["status"] == "False").await;
    assert!(!container(&status)["state"]["running"].is_null());
    let stops = agent.runtime.calls().iter().filter(|call| call.starts_with("stop c")).count();
    assert_eq!(stops, 1, "it ends as it was told");
}

#[tokio::test]
async fn what_can_not_be_asked_restarts_nobody_and_changes_nothing() {
    let agent = Agent::new();
    // The one command that the container has.
    agent.runtime.answer("ready", 0);
    let mut spec = web();
    spec["containers"][0]["readinessProbe"] = by("ready");
    spec["containers"][0]["livenessProbe"] = by("nope");
    agent.apply(spec);
    agent.until_running().await;
    let unknown =
        "Liveness probe errored and resulted in unknown state: container ContainerId(\"c2\") is not running";
    assert_eq!(agent.event("Unhealthy").await, unknown);
    // From here on it is known to fail: the first failure is the one that counts, whatever was before.
    assert!(!agent.runtime.calls().iter().any(|call| call.starts_with("stop")), "nobody stopped it");
    let tries = agent.runtime.tried("nope");
    assert_eq!(tries % 3, 0, "asked {tries} times");
    agent.runtime.answer("nope", 1);
    assert_eq!(agent.event("Killing").await, "Container c failed liveness probe, will be restarted");
}

#[tokio::test]
async fn who_redirects_elsewhere_is_ready_and_people_are_warned() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = server.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 302 Found\r\nlocation: http://0.0.0.0/\r\ncontent-length: 4\r\n\r\ngone";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let agent = Agent::new();
    let mut spec = web();
    spec["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"host": "127.0.0.1", "port": port, "path": "/"}, "periodSeconds": 1});
    agent.apply(spec);
    agent.until_running().await;
    let warned = "Readiness probe warning: Probe terminated redirects, Response body: gone";
    assert_eq!(agent.event("ProbeWarning").await, warned);
}
