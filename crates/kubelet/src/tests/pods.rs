//! What becomes of a pod and its containers while the agent lives.

use serde_json::{Value, json};

use super::{Agent, web};

#[tokio::test]
async fn a_pod_starts_runs_and_goes() {
    let agent = Agent::new();
    agent.apply(web());
    let status = agent.until_running().await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.244.0.2");
    assert_eq!(status["hostIP"], "10.100.0.2");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["observedGeneration"], 1);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "skiff://c2");
    assert_eq!(container["image"], "docker.io/library/web:1");
    assert_eq!(container["imageID"], "docker.io/library/web:1@sha256:1");
    assert_eq!((&container["ready"], &container["started"]), (&json!(true), &json!(true)));
    assert_eq!(agent.network.ports.lock()["s1"].len(), 1);
    let hosts = std::fs::read_to_string(agent.dir.path().join("pods/u1/etc-hosts")).expect("is there");
    assert!(hosts.ends_with("10.244.0.2\tp\n"), "{hosts}");
    assert_eq!(
        agent.event("Pulled").await,
        "Container image \"web:1\" already present on machine and can be accessed by the pod"
    );
    assert_eq!(agent.event("Started").await, "Container started");

    agent.delete(7);
    agent.until_gone().await;
    assert_eq!(
        agent.runtime.calls(),
        ["run sandbox s1", "create c []", "stop c2 after 7 s", "stop sandbox s1", "remove sandbox s1"]
    );
    assert_eq!(agent.event("Killing").await, "Stopping container c");
    assert!(!agent.dir.path().join("pods/u1").exists());
    assert!(agent.network.ports.lock().is_empty(), "no host port is left");
}

#[tokio::test]
async fn init_containers_run_in_order_before_the_others() {
    let agent = Agent::new();
    agent.apply(json!({
        "initContainers": [{"name": "i", "image": "web:1"}, {"name": "j", "image": "web:1"}],
        "containers": [{"name": "c", "image": "web:1"}],
    }));
    for init in ["i", "j"] {
        let running = |status: &Value| {
            let all = status["initContainerStatuses"].as_array().cloned().unwrap_or_default();
            all.iter().any(|each| each["name"] == init && !each["state"]["running"].is_null())
        };
        let status = agent.until("an init container runs", running).await;
        assert_eq!(status["phase"], "Pending");
        assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
        assert_eq!(agent.runtime.running(), [init]);
        agent.runtime.exit(init, 0);
    }
    let status = agent.until_running().await;
    assert_eq!(status["initContainerStatuses"][1]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(agent.runtime.running(), ["c"]);
}

#[tokio::test]
async fn a_crash_loop_backs_off() {
    let agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    agent.runtime.exit("c", 1);
    agent.until("restarts at once", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    agent.until_running().await;
    agent.runtime.exit("c", 1);
    let waits = |status: &Value| !status["containerStatuses"][0]["state"]["waiting"].is_null();
    let status = agent.until("waits", waits).await;
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(
        container["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=p_default(u1)"
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(agent.event("BackOff").await, "Back-off restarting failed container c in pod p_default(u1)");
}

#[tokio::test]
async fn jobs_like_pods_come_to_an_end() {
    for (code, phase) in [(0, "Succeeded"), (3, "Failed")] {
        let agent = Agent::new();
        let mut spec = web();
        spec["restartPolicy"] = json!("Never");
        agent.apply(spec);
        agent.until_running().await;
        agent.runtime.exit("c", code);
        let status = agent.until("ends", |status| status["phase"] == phase).await;
        assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], code);
        assert_eq!(status["podIP"], "10.244.0.2", "it keeps the address that it had");
    }
}

#[tokio::test]
async fn config_maps_arrive_when_they_exist() {
    let agent = Agent::new();
    agent.apply(json!({
        "containers": [{"name": "c", "image": "web:1", "command": ["$(A)", "$(B)"],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}],
    }));
    let waits = |status: &Value| !status["containerStatuses"][0]["state"]["waiting"]["message"].is_null();
    let status = agent.until("waits", waits).await;
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "CreateContainerConfigError");
    assert_eq!(waiting["message"], "configmap \"m\" not found");
    agent.api.put(
        "/api/v1/namespaces/default/configmaps/m",
        json!({"kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"k": "v"}}),
    );
    agent.until_running().await;
    assert!(agent.runtime.calls().contains(&"create c [\"v\", \"$(B)\"]".to_owned()));
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced() {
    let agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    agent.runtime.kill_sandbox();
    let status = agent.until("restarts", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    agent.until_running().await;
    assert!(agent.runtime.calls().contains(&"run sandbox s3".to_owned()), "{:?}", agent.runtime.calls());
    assert_eq!(agent.event("SandboxChanged").await, "Pod sandbox changed, it will be killed and re-created.");
}

#[tokio::test]
async fn a_taken_host_port_is_told() {
    for host_network in [false, true] {
        let agent = Agent::new();
        agent.apply(json!({"hostNetwork": host_network, "containers": [
            {"name": "c", "image": "web:1", "ports": [{"containerPort": 9999, "hostPort": 9999}]},
        ]}));
        let status = agent.until_running().await;
        assert_eq!(status["podIP"], if host_network { "10.100.0.2" } else { "10.244.0.2" });
        assert_eq!(
            agent.event("HostPortConflict").await,
            "host port 0.0.0.0:9999/TCP is already used on this node by process 7 (nginx)"
        );
    }
}
