//! Steps about a pod's sandbox and its place in the network.

use std::sync::Arc;

use skiff_explain::start::Phase;
use skiff_network::{HostPortConflict, Network, Protocol};
use skiff_runtime::SandboxId;
use tracing::debug;

use super::NODE_READY_TIMEOUT;
use crate::events::Kind;
use crate::images::chain;
use crate::translate;
use crate::worker::Worker;

impl Worker {
    pub(super) async fn run_sandbox(&mut self, attempt: u32) {
        let began = crate::time::now();
        // Most pods' users are the node's.
        let own_users = self.pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false));
        let users = own_users.then(|| self.context.users.take(&self.uid)).transpose();
        let mut required = None;
        let made =
            users.and_then(|users| translate::sandbox(&self.pod, attempt, users, &self.context.config));
        let made = match made {
            Ok(config) => {
                let (made, version) = tokio::join!(self.context.runtime.run_sandbox(config), self.required());
                required = Some(version);
                made.map_err(|error| chain(&error))
            }
            Err(message) => Err(message),
        };
        let sandbox = match made {
            Ok(sandbox) => sandbox,
            Err(message) => {
                return self.pod_failure(
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                );
            }
        };
        self.context.memory.mark(&self.uid, Phase::Sandbox, began);
        self.context.bells.learn(&sandbox.id, &self.uid);
        self.pod_recovered();
        self.seen.ip = None;
        let node_network = self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let id = sandbox.id.clone();
        self.seen.sandboxes.insert(0, sandbox);
        if node_network {
            self.warn_of_listeners().await;
        } else {
            self.attach(&id, required).await;
        }
    }

    pub(super) async fn attach(&mut self, id: &SandboxId, required: Option<Result<u64, String>>) {
        if let Err(message) = self.try_attach(id, required).await {
            self.pod_failure("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
        }
    }

    /// The version of what restricts pods that this one must find in force.
    async fn required(&self) -> Result<u64, String> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        self.context.isolation.required(namespace).await.map_err(|error| chain(&*error))
    }

    async fn try_attach(
        &mut self,
        id: &SandboxId,
        required: Option<Result<u64, String>>,
    ) -> Result<(), String> {
        let began = crate::time::now();
        let network = self.network().await?;
        let netns = self.seen.sandboxes.iter().find(|sandbox| sandbox.id == *id);
        let netns =
            netns.and_then(|sandbox| sandbox.netns.clone()).ok_or("the sandbox has no network namespace")?;
        let attachment = network.attach(&id.0, &netns).await.map_err(|error| chain(&error))?;
        let runs = self.seen.containers.iter().any(|container| container.sandbox == *id);
        let required = match required {
            _ if runs => None,
            Some(required) => Some(required?),
            None => Some(self.required().await?),
        };
        let admitted = self.context.isolation.admit(&self.pod, attachment.ip, required).await;
        admitted.map_err(|error| chain(&*error))?;
        let ports = translate::host_ports(&self.pod);
        if !ports.is_empty() {
            let conflicts = network.set_host_ports(&id.0, &ports).await.map_err(|error| chain(&error))?;
            conflicts.iter().for_each(|conflict| self.warn_of_conflict(conflict));
        }
        self.context.memory.mark(&self.uid, Phase::Network, began);
        self.seen.ip = Some(attachment.ip);
        self.pod_recovered();
        Ok(())
    }

    async fn network(&self) -> Result<Arc<dyn Network>, String> {
        let mut slot = self.context.network.clone();
        let found = tokio::time::timeout(NODE_READY_TIMEOUT, slot.wait_for(Option::is_some)).await;
        let network = found.ok().and_then(Result::ok).and_then(|network| network.clone());
        network.ok_or_else(|| "network is not ready: the node has no pod CIDR yet".into())
    }

    /// The ports that a pod on the node's network says it will use.
    async fn warn_of_listeners(&self) {
        let Some(network) = self.context.network.borrow().clone() else { return };
        for port in translate::host_ports(&self.pod) {
            match network.listener(&port).await {
                Ok(Some(conflict)) => self.warn_of_conflict(&conflict),
                Ok(None) => {}
                Err(error) => debug!(error = %chain(&error), "cannot look for listeners"),
            }
        }
    }

    fn warn_of_conflict(&self, conflict: &HostPortConflict) {
        let HostPortConflict { port, pid, command } = conflict;
        let protocol = match port.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        let message = format!(
            "host port {}:{}/{protocol} is already used on this node by process {pid} ({command})",
            port.host_ip, port.host_port
        );
        self.context.events.pod(&self.pod, None, Kind::Warning, "HostPortConflict", message);
    }

    pub(super) async fn stop_sandboxes(&mut self) -> Result<(), String> {
        for sandbox in self.seen.sandboxes.clone() {
            if sandbox.netns.is_some() {
                self.detach(&sandbox.id).await?;
            }
            self.context.runtime.stop_sandbox(&sandbox.id).await.map_err(|error| chain(&error))?;
        }
        Ok(())
    }

    async fn detach(&self, id: &SandboxId) -> Result<(), String> {
        let network = self.context.network.borrow().clone();
        match network {
            Some(network) => {
                let attached = network.attachments().await.map_err(|error| chain(&error))?;
                for attachment in attached.iter().filter(|this| this.sandbox == id.0) {
                    self.context.isolation.release(attachment.ip);
                }
                network.detach(&id.0).await.map_err(|error| chain(&error))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), String> {
        self.detach(id).await?;
        self.context.runtime.remove_sandbox(id).await.map_err(|error| chain(&error))
    }
}
