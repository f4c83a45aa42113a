//! The agent as a whole against honest fakes of the API, the runtime and the network.

mod door;
mod faults;
mod isolation;
mod probes;
mod pull_secrets;
mod tokens;
mod volumes;

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_client::Client;
use skiff_network::Network;
use skiff_runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::fakes::{FakeApi, FakeNetwork, FakeRuntime, config};

const POD: &str = "/api/v1/namespaces/default/pods/p";

struct Agent {
    api: FakeApi,
    runtime: Arc<FakeRuntime>,
    network: Arc<FakeNetwork>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), crate::Error>>>,
    serving: crate::Serving,
    isolation: Arc<dyn crate::Isolation>,
}

impl Agent {
    fn new() -> Self {
        Self::with(config().serving)
    }

    fn with(serving: crate::Serving) -> Self {
        Self::made_of(serving, Arc::new(crate::Unrestricted))
    }

    fn isolated_by(isolation: Arc<dyn crate::Isolation>) -> Self {
        Self::made_of(config().serving, isolation)
    }

    fn made_of(serving: crate::Serving, isolation: Arc<dyn crate::Isolation>) -> Self {
        let api = FakeApi::default();
        // The control plane gives ranges when it sees the node; here it is there from the start.
        api.put(
            "/api/v1/nodes/node",
            json!({"kind": "Node", "metadata": {"name": "node"}, "spec": {"podCIDR": "10.244.0.0/24"}}),
        );
        api.put(
            "/api/v1/namespaces/default/services/kubernetes",
            json!({
                "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]},
            }),
        );
        let mut agent = Self {
            api,
            runtime: Arc::default(),
            network: Arc::default(),
            dir: tempfile::tempdir().expect("a directory"),
            stop: CancellationToken::new(),
            task: None,
            serving,
            isolation,
        };
        agent.start();
        agent
    }

    fn start(&mut self) {
        let data_dir = self.dir.path().to_owned();
        let config = crate::Config { data_dir, serving: self.serving.clone(), ..config() };
        let network = self.network.clone() as Arc<dyn Network>;
        let runtime = self.runtime.clone() as Arc<dyn Runtime>;
        self.stop = CancellationToken::new();
        let run = crate::run(
            config,
            Client::new(self.api.clone()),
            runtime,
            Box::new(move |_| Ok(network.clone())),
            self.isolation.clone(),
            self.stop.clone(),
        );
        self.task = Some(tokio::spawn(run));
    }

    /// As by `kill -9`: no task gets a chance to say goodbye.
    async fn kill(&mut self) {
        let task = self.task.take().expect("it runs");
        task.abort();
        assert!(task.await.expect_err("it was killed").is_cancelled());
    }

    fn apply(&self, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node");
        self.api.put(
            POD,
            json!({
                "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default", "uid": "u1", "generation": 1},
                "spec": spec, "status": {"phase": "Pending"},
            }),
        );
    }

    async fn until(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        let test = |object: Option<&Value>| object.is_some_and(|object| test(&object["status"]));
        self.api.until(POD, what, test).await.expect("it is there")["status"].clone()
    }

    async fn until_running(&self) -> Value {
        self.until("runs", |status| status["conditions"][2]["status"] == "True").await
    }

    async fn until_gone(&self) {
        self.api.until(POD, "is gone", |object| object.is_none()).await;
    }

    fn delete(&self, grace: i64) {
        let mut pod = self.api.get(POD).expect("it is there");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.put(POD, pod);
    }

    /// Where the agent's server listens, as the node's status tells.
    async fn port(&self) -> u16 {
        let port = |node: Option<&Value>| {
            node.and_then(|node| node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64())
        };
        let node = self.api.until("/api/v1/nodes/node", "has a port", |node| port(node).is_some()).await;
        u16::try_from(port(node.as_ref()).expect("has one")).expect("a port")
    }

    async fn event(&self, reason: &str) -> String {
        loop {
            let events = self.api.all("/events/");
            if let Some(event) = events.iter().find(|event| event["reason"] == reason) {
                return event["message"].as_str().unwrap_or_default().to_owned();
            }
            tokio::task::yield_now().await;
        }
    }
}

fn web() -> Value {
    json!({"containers": [{"name": "c", "image": "web:1", "ports": [{"containerPort": 80, "hostPort": 8080}]}]})
}

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

/// One request to the agent's server.
async fn ask(agent: &Agent, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(("127.0.0.1", agent.port().await)).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    format!("{} {body}", head.split(' ').nth(1).expect("a status"))
}

#[tokio::test]
async fn the_server_answers_what_the_api_server_asks() {
    let agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    assert_eq!(ask(&agent, "/healthz").await, "200 ok");
    assert_eq!(ask(&agent, "/none").await, "404 404 page not found");
    let ps = ask(&agent, "/skiff/ps").await;
    assert!(ps.contains("\"name\":\"pause\"") && ps.contains("\"name\":\"c\""), "{ps}");
    assert_eq!(
        ask(&agent, "/containerLogs/default/p/c?previous=true").await,
        "400 previous terminated container \"c\" in pod \"p\" not found"
    );
    assert_eq!(
        ask(&agent, "/containerLogs/default/p/none").await,
        "400 container \"none\" in pod \"p\" is waiting to start: ContainerCreating"
    );
    assert_eq!(ask(&agent, "/exec/default/p/none?command=ls").await, "404 container not found (\"none\")");
    assert_eq!(ask(&agent, "/attach/default/p/none").await, "404 container none not found in pod p_default");
    let log = agent.dir.path().join("pods-log/default_p_u1/c/0.log");
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n")
        .expect("writes");
    let tail = ask(&agent, "/containerLogs/default/p/c?tailLines=1&timestamps=true").await;
    assert!(tail.contains("2026-01-01T00:00:01Z two\n") && !tail.contains("one"), "{tail}");
}

#[tokio::test]
async fn the_server_tells_what_pods_use() {
    let agent = Agent::new();
    let mut spec = web();
    spec["volumes"] = json!([
        {"name": "data", "emptyDir": {}},
        {"name": "machine", "hostPath": {"path": "/"}},
    ]);
    spec["containers"][0]["resources"] = json!({"limits": {"memory": "1Mi"}});
    agent.apply(spec);
    agent.until_running().await;
    let dir = agent.dir.path();
    let volume = dir.join("pods/u1/volumes/empty-dir/data");
    let log_dir = dir.join("pods-log/default_p_u1/c");
    for (path, bytes) in [(volume.join("file"), 300_000), (log_dir.join("0.log"), 200_000)] {
        std::fs::write(&path, vec![1; bytes]).expect("writes");
        // Some file systems give out blocks only then.
        std::fs::File::open(&path).and_then(|file| file.sync_all()).expect("is kept");
    }
    let answer = ask(&agent, "/stats/summary").await;
    let summary: Value = serde_json::from_str(answer.trim_start_matches("200 ")).expect("JSON");
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "default", "uid": "u1"}));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {value} in {pod}"));
    let volumes = pod["volume"].as_array().expect("volumes");
    assert_eq!(volumes.len(), 1, "the machine's own directories are not the pod's: {pod}");
    assert_eq!(volumes[0]["name"], "data");
    let (data, logs) = (number(&volumes[0]["usedBytes"]), number(&pod["containers"][0]["logs"]["usedBytes"]));
    let counted = |path: &std::path::Path| skiff_runtime::usage::of(path).expect("it is there").bytes;
    assert_eq!((data, logs), (counted(&volume), counted(&log_dir)), "{pod}");
    assert!(data > 0 && logs > 0, "{pod}");
    assert_eq!(number(&pod["ephemeral-storage"]["usedBytes"]), data + logs);
    assert!(number(&volumes[0]["capacityBytes"]) > data, "{pod}");
    assert_eq!(pod["containers"][0]["memory"]["availableBytes"], 1 << 20);
    assert_eq!(pod["process_stats"]["process_count"], 0);
    let node = &summary["node"];
    assert_eq!(node["nodeName"], "node");
    for path in
        ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes", "/memory/pageFaults", "/rlimit/curproc"]
    {
        assert!(node.pointer(path).and_then(Value::as_u64).is_some_and(|value| value > 0), "{path}: {node}");
    }
    let fs = &node["fs"];
    assert!(number(&fs["usedBytes"]) <= number(&fs["capacityBytes"]), "{fs}");
    assert_eq!(node["runtime"]["containerFs"]["capacityBytes"], fs["capacityBytes"]);
}
