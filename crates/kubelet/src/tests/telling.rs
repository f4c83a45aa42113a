//! What the agent tells the control plane, whatever others tell it meanwhile.

use serde_json::{Value, json};

use super::{Agent, POD, web};

#[tokio::test]
async fn readiness_that_the_control_plane_took_back_is_told_anew() {
    let agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    let mut pod = agent.api.get(POD).expect("it is there");
    pod["status"]["conditions"][2]["status"] = json!("False");
    agent.api.put(POD, pod);
    agent.until_running().await;
}

#[tokio::test]
async fn what_others_say_of_a_pod_stays_though_it_changes() {
    let agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    let mut pod = agent.api.get(POD).expect("it is there");
    let conditions = pod["status"]["conditions"].as_array_mut().expect("has some");
    conditions.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}));
    agent.api.put(POD, pod);
    // Before the agent can have heard of it.
    agent.runtime.exit("c", 1);
    let again = |status: &Value| {
        let container = &status["containerStatuses"][0];
        container["restartCount"] == 1 && container["ready"] == true
    };
    let status = agent.until("runs again", again).await;
    let conditions = status["conditions"].as_array().expect("has some");
    assert!(conditions.iter().any(|each| each["type"] == "DisruptionTarget"), "{status}");
    let ready = conditions.iter().find(|each| each["type"] == "Ready").expect("has one");
    assert!(ready["status"] == "True" && ready["message"].is_null(), "{ready}");
}

/// The control plane's writes come so fast that the agent may never see its own.
#[tokio::test]
async fn readiness_that_is_taken_back_again_and_again_is_told_until_it_stands() {
    let agent = Agent::new();
    agent.api.contradict(2);
    agent.apply(web());
    let stands = |object: Option<&Value>| {
        agent.api.contradictions() == 0
            && object.is_some_and(|object| object["status"]["conditions"][2]["status"] == "True")
    };
    agent.api.until(POD, "is ready in the end", stands).await;
    // Nobody contradicts any more: what stands is not told again.
    let told = agent.api.history("p").len();
    agent.api.put(
        "/api/v1/namespaces/default/pods/q",
        json!({
            "kind": "Pod", "metadata": {"name": "q", "namespace": "default", "uid": "u2"},
            "spec": {"nodeName": "node", "containers": [{"name": "d", "image": "web:1"}]},
        }),
    );
    let running =
        |object: Option<&Value>| object.is_some_and(|object| object["status"]["phase"] == "Running");
    agent.api.until("/api/v1/namespaces/default/pods/q", "runs", running).await;
    assert_eq!(agent.api.history("p").len(), told);
}

#[tokio::test]
async fn a_node_that_was_taken_for_lost_says_at_once_that_it_lives() {
    let agent = Agent::new();
    let ready = |wanted: &'static str| {
        move |node: Option<&Value>| {
            let conditions = node.and_then(|node| node["status"]["conditions"].as_array());
            conditions
                .is_some_and(|all| all.iter().any(|each| each["type"] == "Ready" && each["status"] == wanted))
        }
    };
    const NODE: &str = "/api/v1/nodes/node";
    let mut node = agent.api.until(NODE, "is ready", ready("True")).await.expect("is there");
    let conditions = node["status"]["conditions"].as_array_mut().expect("has some");
    conditions.iter_mut().for_each(|each| each["status"] = json!("Unknown"));
    agent.api.put(NODE, node);
    agent.api.until(NODE, "is ready again", ready("True")).await;
}

#[tokio::test]
async fn the_node_tells_of_itself() {
    let agent = Agent::new();
    let ready = |node: Option<&Value>| {
        node.is_some_and(|node| {
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True")
        })
    };
    let node = agent.api.until("/api/v1/nodes/node", "is ready", ready).await.expect("is there");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.0+skiff");
    assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "10.100.0.2"}));
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node");
    assert_eq!(node["status"]["allocatable"]["pods"], "110");
    let features = json!({"recursiveReadOnlyMounts": true, "userNamespaces": true});
    assert_eq!(node["status"]["runtimeHandlers"], json!([{"name": "", "features": features}]));
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node";
    let lease = agent.api.until(lease, "is held", |lease| lease.is_some()).await.expect("is there");
    assert_eq!(lease["spec"]["holderIdentity"], "node");
}
