//! Nothing of a pod runs before its traffic is restricted.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Agent, web};
use crate::{BoxError, Isolation};

/// Lets pods wait until it is opened, and writes down what it is told.
struct Gate {
    told: watch::Sender<Vec<String>>,
    is_open: watch::Sender<bool>,
    failures: Mutex<u32>,
}

#[async_trait]
impl Isolation for Gate {
    async fn required(&self, namespace: &str) -> Result<u64, BoxError> {
        assert_eq!(namespace, "default");
        let mut failures = self.failures.lock();
        if *failures > 0 {
            *failures -= 1;
            return Err("the server can't be asked".into());
        }
        Ok(7)
    }

    async fn admit(&self, pod: &Pod, ip: Ipv4Addr, required: Option<u64>) -> Result<(), BoxError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.told.send_modify(|told| told.push(format!("admit {name} {ip} {required:?}")));
        if required.is_some() {
            self.is_open.subscribe().wait_for(|open| *open).await?;
        }
        Ok(())
    }

    fn release(&self, ip: Ipv4Addr) {
        self.told.send_modify(|told| told.push(format!("release {ip}")));
    }
}

fn gate(is_open: bool, failures: u32) -> Arc<Gate> {
    Arc::new(Gate {
        told: watch::channel(Vec::new()).0,
        is_open: watch::channel(is_open).0,
        failures: Mutex::new(failures),
    })
}

#[tokio::test]
async fn nothing_of_a_pod_runs_before_it_is_admitted() {
    let gate = gate(false, 0);
    let agent = Agent::isolated_by(gate.clone());
    agent.apply(web());
    gate.told.subscribe().wait_for(|told| !told.is_empty()).await.expect("it is told");
    assert_eq!(*gate.told.borrow(), ["admit p 10.244.0.2 Some(7)"]);
    assert_eq!(agent.runtime.calls(), ["run sandbox s1"]);
    assert!(agent.network.ports.lock().is_empty(), "its host ports are closed too");
    gate.is_open.send_replace(true);
    agent.until_running().await;
    agent.delete(0);
    agent.until_gone().await;
    assert_eq!(*gate.told.borrow(), ["admit p 10.244.0.2 Some(7)", "release 10.244.0.2"]);
}

#[tokio::test]
async fn a_pod_that_runs_is_told_of_anew_and_not_held_up() {
    let gate = gate(true, 0);
    let mut agent = Agent::isolated_by(gate.clone());
    agent.apply(web());
    agent.until_running().await;
    agent.kill().await;
    gate.is_open.send_replace(false);
    agent.start();
    gate.told.subscribe().wait_for(|told| told.len() == 2).await.expect("it is told");
    assert_eq!(gate.told.borrow()[1], "admit p 10.244.0.2 None");
    agent.delete(0);
    agent.until_gone().await;
}

#[tokio::test]
async fn a_pod_waits_while_nobody_knows_what_restricts_it() {
    let agent = Agent::isolated_by(gate(true, 1));
    agent.apply(web());
    let message = agent.event("FailedCreatePodSandBox").await;
    assert_eq!(message, "Failed to create pod sandbox: the server can't be asked");
    assert_eq!(agent.runtime.calls(), ["run sandbox s1"]);
}

/// Panics as often as that, where it is told of a pod.
struct Faulty(Mutex<u32>);

#[async_trait]
impl Isolation for Faulty {
    async fn required(&self, _namespace: &str) -> Result<u64, BoxError> {
        Ok(0)
    }

    async fn admit(&self, _pod: &Pod, _ip: Ipv4Addr, _required: Option<u64>) -> Result<(), BoxError> {
        let mut left = self.0.lock();
        if *left > 0 {
            *left -= 1;
            drop(left);
            panic!("this is the fault that is tried");
        }
        Ok(())
    }

    fn release(&self, _ip: Ipv4Addr) {}
}

#[tokio::test]
async fn a_fault_about_one_pod_leaves_the_agent_and_the_pod_running() {
    let agent = Agent::isolated_by(Arc::new(Faulty(Mutex::new(1))));
    agent.apply(web());
    agent.until_running().await;
    assert!(!agent.task.as_ref().expect("it was started").is_finished(), "the agent is the same");
    agent.delete(1);
    agent.until_gone().await;
}
