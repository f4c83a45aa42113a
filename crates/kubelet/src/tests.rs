//! The agent as a whole against honest fakes of the API, the runtime and the network.

mod again;
mod door;
mod faults;
mod isolation;
mod pods;
mod probes;
mod pull_secrets;
mod refusals;
mod server;
mod telling;
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
