//! Sandboxes: made, stopped and removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use skiff_sys::cgroup::{Group, Limits};
use tracing::warn;

use super::records::{RECORD, SandboxRecord};
use super::{Inner, SandboxEntry, cgroup_error, doing, make_dir, new_id};
use crate::files::write_json;
use crate::protocol::{Boot, Request};
use crate::types::*;

/// What `pause` is called among its sandbox's control groups.
const PAUSE_GROUP: &str = "pause-";

impl Inner {
    pub(super) fn run_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<Sandbox, Error> {
        let id = new_id();
        let record = SandboxRecord { id: id.clone(), config, created_at: SystemTime::now() };
        let dir = self.sandbox_dir(&id);
        make_dir(&dir)?;
        // First of all, so that whatever is made from here on can be found and removed.
        let recorded = write_json(&dir.join(RECORD), &record, false);
        if let Err(source) = recorded {
            self.discard(&dir);
            return Err(doing("record the sandbox")(source));
        }
        match self.start_sandbox(&record) {
            Ok(pause_pid) => {
                let entry = SandboxEntry { record, pause_pid, shim_lives: true };
                let sandbox = self.sandbox(&entry);
                self.update(|state| state.sandboxes.insert(id.clone(), entry));
                self.listen(&id)?;
                Ok(sandbox)
            }
            Err(error) => {
                if let Err(error) = self.clear_sandbox(&record) {
                    warn!(sandbox = id, error = &error as &dyn std::error::Error, "cannot clear up");
                }
                Err(error)
            }
        }
    }

    fn start_sandbox(&self, record: &SandboxRecord) -> Result<u32, Error> {
        let (id, config) = (&record.id, &record.config);
        let run = self.run_dir(id);
        make_dir(&run)?;
        let pause = self.pause_group(record);
        {
            let _alone = self.groups.lock();
            pause.create().map_err(cgroup_error)?;
            let parent = self.parent_group(&config.cgroup_parent);
            parent.limit(&limits(&config.resources)).map_err(cgroup_error)?;
        }
        let own_net = config.network != NamespaceMode::Node;
        self.boot(Boot {
            id: id.clone(),
            dir: self.sandbox_dir(id),
            run,
            pause_root: self.config.data_dir.join("pause"),
            cgroup_mount: self.config.cgroup_mount.clone(),
            join: pause.join_files(),
            hostname: own_net.then(|| config.hostname.clone()),
            own_net,
            own_ipc: config.ipc != NamespaceMode::Node,
            shared_pid: config.pid == NamespaceMode::Pod,
            sysctls: config.sysctls.clone().into_iter().collect(),
            users: config.users,
        })
        .map_err(|error| match error {
            Error::Start { message, .. } => Error::Invalid(format!("failed to create sandbox: {message}")),
            error => error,
        })
    }

    pub(super) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some((containers, record)) = self.members(id) else { return Ok(()) };
        // All at once, then each until it is over.
        for container in &containers {
            self.kill_container(container).await?;
        }
        for container in &containers {
            self.until_over(container).await;
        }
        let inner = self.clone();
        let lives = self.state.lock().sandboxes.get(id).is_some_and(|entry| entry.shim_lives);
        let stop = move || {
            let asked = if lives { inner.ask(&record.id, Request::Stop).map(drop) } else { Ok(()) };
            if asked.is_err() || !lives {
                // `pause` without a shim, or with one that doesn't hear.
                inner.pause_group(&record).kill();
            }
            asked
        };
        match tokio::task::spawn_blocking(stop).await {
            // It has gone meanwhile, as it should, or it will be waited for.
            Ok(answer) => {
                if let Err(error) = answer {
                    warn!(sandbox = id, error = &error as &dyn std::error::Error, "a shim does not hear");
                }
            }
            Err(error) => return Err(doing("stop the sandbox")(std::io::Error::other(error))),
        }
        let over = |state: &super::State| match state.sandboxes.get(id) {
            Some(entry) if entry.ready() => None,
            _ => Some(()),
        };
        self.until(over).await;
        Ok(())
    }

    pub(super) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some((containers, record)) = self.members(id) else { return Ok(()) };
        for container in containers {
            self.remove_container(&ContainerId(container)).await?;
        }
        let inner = self.clone();
        let cleared = tokio::task::spawn_blocking(move || inner.clear_sandbox(&record)).await;
        cleared.map_err(|error| doing("clear up")(std::io::Error::other(error)))??;
        self.update(|state| state.sandboxes.remove(id));
        Ok(())
    }

    /// The IDs of a sandbox's containers, and its record.
    fn members(&self, id: &str) -> Option<(Vec<String>, SandboxRecord)> {
        let state = self.state.lock();
        let entry = state.sandboxes.get(id)?;
        let own = state.containers.values().filter(|container| container.record.sandbox == id);
        let containers = own.map(|container| container.record.id.clone()).collect();
        Some((containers, entry.record.clone()))
    }

    /// A group of its own, as several sandboxes may follow one another in one parent.
    pub(super) fn pause_group(&self, record: &SandboxRecord) -> Group {
        self.parent_group(&record.config.cgroup_parent).child(format!("{PAUSE_GROUP}{}", record.id))
    }

    pub(super) fn parent_group(&self, cgroup_parent: &str) -> Group {
        let below: PathBuf = cgroup_parent.trim_matches('/').into();
        self.hierarchy.group(&self.config.cgroup_root).child(below)
    }
}

pub(super) fn limits(resources: &Resources) -> Limits {
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_us: resources.cpu_quota,
        cpu_period_us: resources.cpu_period,
        memory_bytes: resources.memory_bytes,
        pids_max: resources.pids_max,
    }
}
