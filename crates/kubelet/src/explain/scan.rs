//! One look at all processes of the node: their namespaces, and which pod each belongs to.

use std::collections::HashMap;

use parking_lot::Mutex;
use skiff_explain::facts::Process;
use skiff_explain::namespaces::{Inodes, Kind};
use skiff_runtime::facts::{self, ProcessFact};
use skiff_runtime::{Container, Sandbox};

use crate::agent::{Refusal, internal};
use crate::labels;
use crate::node_context::Context;

pub(crate) struct Scan {
    pub(crate) node_name: String,
    /// The namespaces of the agent, which are the node's.
    pub(crate) inodes: Inodes,
    pub(crate) processes: Vec<ProcessFact>,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
    members: HashMap<(Kind, u64), Vec<u32>>,
    /// `NAMESPACE/NAME` by pod UID.
    pods: HashMap<String, String>,
    /// Who a process is, read when first asked for.
    known: Mutex<HashMap<u32, Process>>,
}

impl Scan {
    pub(super) async fn take(context: &Context) -> Result<Self, Refusal> {
        let sandboxes = context.runtime.list_sandboxes().await.map_err(internal)?;
        let containers = context.runtime.list_containers().await.map_err(internal)?;
        let node_name = context.config.node_name.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let processes = facts::processes()?;
            let own = facts::namespaces(std::process::id()).unwrap_or_default();
            Ok(Self::new(node_name, Inodes(own), processes, sandboxes, containers))
        });
        let scan: std::io::Result<Self> = looked.await.map_err(internal)?;
        scan.map_err(internal)
    }

    pub(super) fn new(
        node_name: String,
        inodes: Inodes,
        processes: Vec<ProcessFact>,
        sandboxes: Vec<Sandbox>,
        containers: Vec<Container>,
    ) -> Self {
        let mut members: HashMap<(Kind, u64), Vec<u32>> = HashMap::new();
        for process in &processes {
            for (kind, inode) in Kind::ALL.into_iter().zip(process.namespaces) {
                members.entry((kind, inode)).or_default().push(process.pid);
            }
        }
        let pods = sandboxes.iter().map(|sandbox| {
            let own = &sandbox.config.labels;
            let part = |name: &str| own.get(name).map_or("", String::as_str);
            let full = format!("{}/{}", part(labels::POD_NAMESPACE), part(labels::POD_NAME));
            (labels::uid(own).to_owned(), full)
        });
        let pods = pods.collect();
        Self { node_name, inodes, processes, members, pods, sandboxes, containers, known: Mutex::default() }
    }

    /// The processes in a namespace.
    pub(crate) fn members(&self, kind: Kind, inode: u64) -> &[u32] {
        self.members.get(&(kind, inode)).map_or(&[], Vec::as_slice)
    }

    /// Who a process is: by its control group, which it cannot leave.
    pub(crate) fn process(&self, pid: u32) -> Process {
        if let Some(known) = self.known.lock().get(&pid) {
            return known.clone();
        }
        let groups = facts::control_groups(pid);
        let (uid, container) = owner(&groups);
        let pod = uid.and_then(|uid| self.pods.get(uid)).cloned();
        let container = container.and_then(|id| self.containers.iter().find(|own| own.id.0 == id));
        let found = Process {
            pid,
            command: facts::command(pid),
            pod,
            container: container.map(|own| labels::container_name(own).to_owned()),
        };
        self.known.lock().insert(pid, found.clone());
        found
    }

    /// The UID of the pod that a process belongs to.
    pub(crate) fn pod_uid(&self, pid: u32) -> Option<String> {
        owner(&facts::control_groups(pid)).0.map(str::to_owned)
    }
}

/// The pod's UID and the container's ID in the text of `/proc/PID/cgroup`: the groups of a pod are named
/// `…/podUID/…`.
fn owner(groups: &str) -> (Option<&str>, Option<&str>) {
    for line in groups.lines() {
        let Some(path) = line.splitn(3, ':').nth(2) else { continue };
        let mut parts = path.split('/');
        if let Some(uid) =
            parts.by_ref().find_map(|part| part.strip_prefix("pod").filter(|uid| !uid.is_empty()))
        {
            return (Some(uid), parts.next());
        }
    }
    (None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_name_pod_and_container() {
        let groups = "3:cpu:/kubepods/burstable/pod12-34/abc\n0::/other\n";
        assert_eq!(owner(groups), (Some("12-34"), Some("abc")));
        assert_eq!(owner("0::/kubepods/pod12-34\n"), (Some("12-34"), None));
        assert_eq!(owner("0::/system.slice/podman.service\n").0, Some("man.service"), "whose UID no pod has");
        assert_eq!(owner("0::/init.scope\n"), (None, None));
    }
}
