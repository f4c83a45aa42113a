//! The agent is killed at any moment, again and again, while pods come, crash and go: what comes of it is
//! what would have come without.
//!
//! Time is tokio's and stands still while anything happens, so that hours pass in seconds. `SKIFF_SEED`
//! repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skiff_runtime::{Container, ContainerState, Runtime, Sandbox};

use super::Agent;
use crate::labels;
use crate::observed::is_over;

const LIVES: u64 = 6;
const STEPS: usize = 50;
const PODS_MAX: usize = 5;
/// Longer than any back-off.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// A container's end that the script brought about.
struct Death {
    uid: String,
    name: String,
    /// As the status names it.
    container: String,
    code: i32,
}

/// One cluster of one node, and what was done to it.
struct Life {
    agent: Agent,
    random: SmallRng,
    /// Named by their numbers; those whose object was not removed by force.
    pods: BTreeSet<u64>,
    added: u64,
    removed_by_force: BTreeSet<String>,
    deaths: Vec<Death>,
    sandboxes_killed: BTreeMap<String, usize>,
    kills: usize,
}

fn name(number: u64) -> String {
    format!("p{number}")
}

fn uid(number: u64) -> String {
    format!("u{number}")
}

fn path(number: u64) -> String {
    format!("/api/v1/namespaces/default/pods/{}", name(number))
}

fn is_final(phase: &Value) -> bool {
    matches!(phase.as_str(), Some("Failed" | "Succeeded"))
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            agent: Agent::new(),
            random: SmallRng::seed_from_u64(seed),
            pods: BTreeSet::new(),
            added: 0,
            removed_by_force: BTreeSet::new(),
            deaths: Vec::new(),
            sandboxes_killed: BTreeMap::new(),
            kills: 0,
        }
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.random.random_range(0..all.len())])
    }

    async fn containers(&self) -> Vec<Container> {
        self.agent.runtime.list_containers().await.expect("they are listed")
    }

    async fn sandboxes(&self) -> Vec<Sandbox> {
        self.agent.runtime.list_sandboxes().await.expect("they are listed")
    }

    fn add(&mut self) {
        if self.pods.len() == PODS_MAX {
            return;
        }
        let number = self.added;
        self.added += 1;
        self.pods.insert(number);
        let port = 8_000 + number;
        let mut containers =
            vec![json!({"name": "a", "image": "web:1", "ports": [{"containerPort": 80, "hostPort": port}]})];
        if self.random.random() {
            let mut second = json!({"name": "b", "image": "web:1"});
            if self.random.random() {
                second["restartPolicy"] = json!(self.one_of(&["Always", "OnFailure", "Never"]));
            }
            containers.push(second);
        }
        let mut spec = json!({
            "nodeName": "node", "containers": containers, "terminationGracePeriodSeconds": 5,
            "restartPolicy": self.one_of(&["Always", "OnFailure", "Never"]),
        });
        if self.random.random_range(0..3) == 0 {
            spec["initContainers"] = json!([{"name": "i", "image": "web:1"}]);
        }
        self.agent.api.put(
            &path(number),
            json!({
                "kind": "Pod",
                "metadata": {"name": name(number), "namespace": "default", "uid": uid(number)},
                "spec": spec, "status": {"phase": "Pending"},
            }),
        );
    }

    fn delete(&mut self, number: u64) {
        let Some(mut pod) = self.agent.api.get(&path(number)) else { return };
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(5);
        self.agent.api.put(&path(number), pod);
    }

    async fn exit(&mut self, container: &Container, code: i32) {
        self.agent.runtime.exit_one(&container.id, code);
        self.deaths.push(Death {
            uid: labels::uid(&container.labels).to_owned(),
            name: container.name.clone(),
            container: format!("skiff://{}", container.id.0),
            code,
        });
    }

    async fn some_container_ends(&mut self) {
        let mut running = self.containers().await;
        running.retain(|container| container.state == ContainerState::Running);
        let Some(container) = self.one_of(&running.iter().collect::<Vec<_>>()).cloned() else { return };
        let code = self.one_of(&[0, 0, 1, 42]).expect("there are some");
        self.exit(&container, code).await;
    }

    async fn some_sandbox_dies(&mut self) {
        let mut ready = self.sandboxes().await;
        ready.retain(|sandbox| sandbox.ready);
        let Some(sandbox) = self.one_of(&ready.iter().collect::<Vec<_>>()).cloned() else { return };
        let uid = labels::uid(&sandbox.config.labels).to_owned();
        *self.sandboxes_killed.entry(uid).or_default() += 1;
        for container in self.containers().await {
            if container.sandbox == sandbox.id && container.state == ContainerState::Running {
                self.exit(&container, 137).await;
            }
        }
        self.agent.runtime.kill_one_sandbox(&sandbox.id);
    }

    /// One thing that happens to pods.
    async fn step(&mut self) {
        match self.random.random_range(0..10) {
            0..3 => self.add(),
            3..7 => self.some_container_ends().await,
            7 => self.some_sandbox_dies().await,
            8 => {
                let pods: Vec<u64> = self.pods.iter().copied().collect();
                if let Some(number) = self.one_of(&pods) {
                    self.delete(number);
                }
            }
            _ => {
                let pods: Vec<u64> = self.pods.iter().copied().collect();
                if let Some(number) = self.one_of(&pods) {
                    self.pods.remove(&number);
                    if self.agent.api.remove(&path(number)) {
                        self.removed_by_force.insert(uid(number));
                    }
                }
            }
        }
        self.pods.retain(|number| self.agent.api.get(&path(*number)).is_some());
    }

    /// Kills the agent before or after something that it does, or where it just is, and starts it again.
    async fn kill(&mut self) {
        let passages = self.random.random_range(0..8);
        let which = self.random.random_range(0..3);
        // What happens meanwhile gives it something to do.
        let gates =
            [self.agent.runtime.gate().clone(), self.agent.network.gate().clone(), self.agent.api.gate()];
        let gate = gates[which].clone();
        gate.shut_after(passages);
        self.step().await;
        let _ = tokio::time::timeout(Duration::from_secs(20), gate.is_shut()).await;
        self.agent.kill().await;
        gate.open();
        self.kills += 1;
        for _ in 0..self.random.random_range(0..3) {
            self.step().await;
        }
        self.check().await;
        self.agent.start();
    }

    async fn pass_time(&mut self) {
        match self.random.random_range(0..3) {
            0 => {
                for _ in 0..self.random.random_range(0..50) {
                    tokio::task::yield_now().await;
                }
            }
            1 => tokio::time::sleep(Duration::from_millis(self.random.random_range(1..2_000))).await,
            _ => tokio::time::sleep(Duration::from_secs(self.random.random_range(1..120))).await,
        }
    }

    /// What holds at every moment.
    async fn check(&self) {
        let calls = self.agent.runtime.calls();
        let wrong: Vec<&String> = calls.iter().filter(|call| call.starts_with("WRONG")).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let (containers, sandboxes) = (self.containers().await, self.sandboxes().await);
        for number in &self.pods {
            let Some(pod) = self.agent.api.get(&path(*number)) else { continue };
            if is_final(&pod["status"]["phase"]) {
                let of = |labels: &BTreeMap<String, String>| labels::uid(labels) == uid(*number);
                let runs = containers.iter().any(|each| of(&each.labels) && !is_over(each))
                    || sandboxes.iter().any(|each| of(&each.config.labels) && each.ready);
                assert!(!runs, "something runs of a pod that has ended: {:#}", pod["status"]);
            }
        }
    }

    /// Whether a pod is as its definition wants it, for good.
    fn has_settled(&self, pod: &Value, containers: &[Container]) -> bool {
        let spec = serde_json::from_value(pod["spec"].clone()).expect("a specification");
        let spec: k8s_openapi::api::core::v1::PodSpec = spec;
        let status = &pod["status"];
        let own = |container: &str| {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let all = containers.iter().filter(move |each| labels::uid(&each.labels) == uid);
            all.filter(|each| each.name == container)
                .max_by_key(|each| (each.created_at, labels::attempt(&each.labels)))
        };
        if is_final(&status["phase"]) {
            return true;
        }
        status["phase"] == "Running"
            && spec.containers.iter().all(|container| {
                let Some(latest) = own(&container.name) else { return false };
                let told = status["containerStatuses"].as_array().into_iter().flatten();
                let told = told.filter(|told| told["name"] == container.name.as_str()).next_back();
                let told_running = told.is_some_and(|told| {
                    told["containerID"] == format!("skiff://{}", latest.id.0)
                        && !told["state"]["running"].is_null()
                });
                match latest.state {
                    ContainerState::Running => told_running,
                    _ => {
                        let code = latest.exit_code.unwrap_or(137);
                        !told_running && !crate::restarts::restarts(&spec, container, code)
                    }
                }
            })
    }

    /// Waits until every pod is as it should be; init containers are let end well.
    async fn settle(&mut self) {
        let began = tokio::time::Instant::now();
        loop {
            let containers = self.containers().await;
            let inits =
                containers.iter().filter(|each| each.name == "i" && each.state == ContainerState::Running);
            for init in inits.cloned().collect::<Vec<_>>() {
                self.exit(&init, 0).await;
            }
            let pods: Vec<Value> =
                self.pods.iter().filter_map(|number| self.agent.api.get(&path(*number))).collect();
            let unsettled: Vec<&Value> = pods
                .iter()
                .filter(|pod| {
                    !pod["metadata"]["deletionTimestamp"].is_null() || !self.has_settled(pod, &containers)
                })
                .collect();
            if unsettled.is_empty() {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{:#?}\n{containers:#?}\n{:#?}",
                unsettled,
                self.agent.runtime.calls()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What was told of pods in the course of time.
    fn check_history(&self) {
        for number in 0..self.added {
            let history = self.agent.api.history(&name(number));
            let mut ends: Vec<&str> = history
                .iter()
                .filter_map(|status| status["phase"].as_str())
                .skip_while(|phase| !matches!(*phase, "Failed" | "Succeeded"))
                .collect();
            ends.dedup();
            assert!(ends.len() <= 1, "an end is an end: p{number} was {ends:?}");
        }
        for death in self.deaths.iter().filter(|death| !self.removed_by_force.contains(&death.uid)) {
            let told = |status: &Value| {
                let lists = ["initContainerStatuses", "containerStatuses"];
                let all = lists.iter().flat_map(|list| status[*list].as_array().into_iter().flatten());
                all.flat_map(|each| [&each["state"], &each["lastState"]]).any(|state| {
                    let end = &state["terminated"];
                    end["containerID"] == death.container.as_str() && end["exitCode"] == death.code
                })
            };
            let history = self.agent.api.history(&death.uid.replace('u', "p"));
            assert!(
                history.iter().any(told),
                "that {} of {} ended with {} was never told: {history:#?}",
                death.container,
                death.uid,
                death.code
            );
        }
    }

    /// Containers start once, and once more for each end that was brought about.
    fn check_starts(&self) {
        let mut starts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (uid, name) in self.agent.runtime.started() {
            *starts.entry((uid, name)).or_default() += 1;
        }
        for ((uid, name), starts) in starts {
            let deaths = self.deaths.iter().filter(|death| death.uid == uid && death.name == name).count();
            // In a new sandbox init containers run again.
            let anew = if name == "i" { self.sandboxes_killed.get(&uid).copied().unwrap_or(0) } else { 0 };
            assert!(
                starts <= 1 + deaths + anew,
                "{name} of {uid} was started {starts} times and ended {deaths} times: {:#?}",
                self.agent.runtime.calls()
            );
        }
    }

    /// Deletes what is left, and waits until nothing is.
    async fn end(&mut self) {
        for number in self.pods.clone() {
            self.delete(number);
        }
        let began = tokio::time::Instant::now();
        loop {
            let (containers, sandboxes) = (self.containers().await, self.sandboxes().await);
            let pods = self.agent.api.all("/pods/");
            if pods.is_empty() && containers.is_empty() && sandboxes.is_empty() {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "left: {pods:#?}\n{containers:#?}\n{sandboxes:#?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Its directories go before a pod does, and what is left of the killed at the next start.
        self.agent.kill().await;
        self.agent.start();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(self.agent.network.ports.lock().is_empty(), "no host port is left");
        for dir in ["pods", "pods-log"] {
            let left = std::fs::read_dir(self.agent.dir.path().join(dir)).expect("is there");
            let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_fare_as_they_should_however_often_the_agent_is_killed() {
    let seed: u64 =
        std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("SKIFF_SEED={seed}");
    let (mut kills, mut deaths) = (0, 0);
    for round in 0..LIVES {
        let mut life = Life::new(seed.wrapping_add(round));
        for _ in 0..STEPS {
            if life.random.random_range(0..4) == 0 {
                life.kill().await;
            } else {
                life.step().await;
            }
            life.pass_time().await;
            life.check().await;
        }
        life.settle().await;
        life.check().await;
        life.end().await;
        life.check_starts();
        life.check_history();
        kills += life.kills;
        deaths += life.deaths.len();
    }
    println!("{kills} kills, {deaths} containers ended");
    assert!(kills > 0 && deaths > 0);
}
