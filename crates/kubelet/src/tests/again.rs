//! An agent that was killed and is started again.

use serde_json::{Value, json};

use super::{Agent, POD, web};

#[tokio::test]
async fn a_killed_agent_adopts_what_runs() {
    let mut agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    agent.kill().await;
    agent.runtime.exit("c", 5);
    agent.start();
    let status =
        agent.until("knows the end", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 5);
    assert_eq!(agent.runtime.calls().iter().filter(|call| call.starts_with("run sandbox")).count(), 1);

    agent.until_running().await;
    let before = agent.runtime.calls();
    agent.kill().await;
    let told = agent.api.history("p");
    agent.start();
    agent.api.put(
        "/api/v1/namespaces/default/pods/q",
        json!({
            "kind": "Pod", "metadata": {"name": "q", "namespace": "default", "uid": "u2"},
            "spec": {"nodeName": "node", "containers": [{"name": "d", "image": "web:1"}]},
        }),
    );
    // By the time that another pod runs, the first has been looked at.
    let running =
        |object: Option<&Value>| object.is_some_and(|object| object["status"]["phase"] == "Running");
    agent.api.until("/api/v1/namespaces/default/pods/q", "runs", running).await;
    assert!(agent.runtime.calls().starts_with(&before));
    assert!(
        !agent.runtime.calls()[before.len()..].iter().any(|call| call.contains(" c ")),
        "nothing restarts"
    );
    let since = agent.api.history("p").split_off(told.len());
    let unready = since.iter().any(|status| status["conditions"][2]["status"] == "False");
    assert!(!unready, "a restart makes no pod unready");
}

#[tokio::test]
async fn orphans_end() {
    let mut agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    agent.kill().await;
    assert!(agent.api.remove(POD));
    agent.start();
    while !agent.runtime.calls().contains(&"remove sandbox s1".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert!(agent.runtime.running().is_empty());
}
