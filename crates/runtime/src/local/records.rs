//! What is kept on disk of a sandbox and a container, and its way into the interface's types.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{ContainerEntry, Inner, SandboxEntry};
use crate::shim::NETNS;
use crate::types::*;

pub(super) const RECORD: &str = "record.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: String,
    pub(super) config: SandboxConfig,
    pub(super) created_at: SystemTime,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) name: String,
    pub(super) labels: std::collections::BTreeMap<String, String>,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) created_at: SystemTime,
    pub(super) log_path: Option<PathBuf>,
    pub(super) stop_signal: i32,
    pub(super) tty: bool,
    pub(super) stdin: bool,
    /// Its control group's path.
    pub(super) cgroup: PathBuf,
}

impl SandboxEntry {
    pub(super) fn ready(&self) -> bool {
        self.shim_lives && self.pause_pid != 0
    }
}

impl ContainerEntry {
    pub(super) fn state(&self) -> ContainerState {
        match () {
            () if self.progress.finished_at.is_some() => ContainerState::Exited,
            () if self.lost => ContainerState::Unknown,
            () if self.progress.started_at.is_some() => ContainerState::Running,
            () => ContainerState::Created,
        }
    }
}

impl Inner {
    pub(super) fn list_sandboxes(&self) -> Vec<Sandbox> {
        self.state.lock().sandboxes.values().map(|entry| self.sandbox(entry)).collect()
    }

    pub(super) fn list_containers(&self) -> Vec<Container> {
        self.state.lock().containers.values().map(container).collect()
    }

    pub(super) fn sandbox(&self, entry: &SandboxEntry) -> Sandbox {
        let record = &entry.record;
        let own_net = record.config.network != NamespaceMode::Node;
        Sandbox {
            id: SandboxId(record.id.clone()),
            config: record.config.clone(),
            ready: entry.ready(),
            created_at: record.created_at,
            pid: entry.pause_pid,
            netns: own_net.then(|| self.run_dir(&record.id).join(NETNS)),
        }
    }
}

fn container(entry: &ContainerEntry) -> Container {
    let (record, progress, state) = (&entry.record, &entry.progress, entry.state());
    Container {
        id: ContainerId(record.id.clone()),
        sandbox: SandboxId(record.sandbox.clone()),
        name: record.name.clone(),
        labels: record.labels.clone(),
        state,
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        created_at: record.created_at,
        started_at: progress.started_at,
        finished_at: progress.finished_at,
        exit_code: progress.exit_code,
        reason: progress.reason.clone(),
        message: progress.message.clone(),
        pid: if state == ContainerState::Running { progress.pid } else { 0 },
        log_path: record.log_path.clone(),
    }
}
