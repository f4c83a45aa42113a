//! Taking the steps of a plan. Every decision has been made; what is here is order and error texts.

mod containers;
mod sandbox;
mod volumes;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions;
use skiff_client::DeleteOptions;
use skiff_runtime::tree;

use crate::events::Kind;
use crate::images::chain;
use crate::labels;
use crate::plan::Step;
use crate::worker::Worker;

/// How long a pod waits for the node's network or services before it says so.
const NODE_READY_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// Takes one step. An error is for the log: the worker waits, looks and plans again.
    pub(crate) async fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::FetchTokens => self.fetch_tokens(),
            Step::MountVolumes => self.mount_volumes().await,
            Step::MountTokens => self.mount_tokens().await,
            Step::RunSandbox { attempt } => self.run_sandbox(attempt).await,
            Step::Attach { sandbox } => self.attach(&sandbox, None).await,
            Step::EnsureImage { container } => self.ensure_image(&container).await,
            Step::Start { container, attempt, crash } => self.start(&container, attempt, crash).await,
            Step::Stop { id, container, grace, why } => self.stop(id, &container, grace, &why),
            Step::Remove { id } => {
                let log = self.seen.containers.iter().find(|each| each.id == id);
                let log = log.and_then(|each| each.log_path.clone());
                self.context.runtime.remove_container(&id).await.map_err(|error| chain(&error))?;
                if let Some(log) = log {
                    crate::logs::remove(&log);
                }
                return Ok(());
            }
            Step::SandboxChanged => {
                let message = "Pod sandbox changed, it will be killed and re-created.".into();
                self.context.events.pod(&self.pod, None, Kind::Normal, "SandboxChanged", message);
                return Ok(());
            }
            Step::StopSandboxes => return self.stop_sandboxes().await,
            Step::RemoveSandbox { id } => return self.remove_sandbox(&id).await,
            Step::Finish => return Ok(()),
        }
        Ok(())
    }

    /// Releases what the pod held, then lets its object go.
    pub(crate) async fn finish(&mut self) -> Result<(), String> {
        self.flush_status().await;
        for sandbox in &self.seen.sandboxes {
            self.remove_sandbox(&sandbox.id).await?;
        }
        let (pod_dir, log_dir) = (self.pod_dir(), self.log_dir());
        let removed = tokio::task::spawn_blocking(move || {
            crate::volumes::tear_down(&pod_dir)?;
            match tree::remove(&log_dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        removed.await.map_err(|error| error.to_string())?.map_err(|error: io::Error| chain(&error))?;
        self.context.references.release(&self.uid);
        self.context.tokens.release(&self.uid);
        self.context.users.release(&self.uid);
        self.context.puller.forget(&self.uid);
        if self.seen.removed {
            return Ok(());
        }
        let (namespace, name) = (
            self.pod.metadata.namespace.clone().unwrap_or_default(),
            self.pod.metadata.name.clone().unwrap_or_default(),
        );
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), ..Preconditions::default() }),
            ..DeleteOptions::default()
        };
        match self.context.client.delete::<Pod>(&namespace, &name, &options).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() || error.code() == Some(409) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    fn container(&self, name: &str) -> Option<Spec> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.find(|container| container.name == name).cloned()
    }

    pub(crate) fn pod_dir(&self) -> PathBuf {
        self.context.config.pod_dir(&self.uid)
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        let metadata = &self.pod.metadata;
        self.context.config.log_dir(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            &self.uid,
        )
    }
}

fn plan_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

/// A stand-in for a pod whose object is gone: just enough to end what is left of it.
pub(crate) fn orphan(labels_of: &BTreeMap<String, String>) -> Pod {
    let get = |label: &str| labels_of.get(label).cloned();
    let mut pod = Pod::default();
    pod.metadata.name = get(labels::POD_NAME);
    pod.metadata.namespace = get(labels::POD_NAMESPACE);
    pod.metadata.uid = get(labels::POD_UID);
    let grace = get(labels::GRACE).and_then(|text| text.parse().ok());
    let spec = pod.spec.get_or_insert_default();
    spec.termination_grace_period_seconds = grace;
    pod
}
