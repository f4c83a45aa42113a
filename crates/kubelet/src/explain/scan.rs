//! One look at all processes of the node: their namespaces, and which pod each belongs to.

use std::collections::HashMap;
use std::sync::OnceLock;

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
    /// By pod UID, those in another network than their pod's; found when first asked for.
    strays: OnceLock<HashMap<String, Vec<ProcessFact>>>,
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
        let (known, strays) = Default::default();
        Self { node_name, inodes, processes, members, pods, sandboxes, containers, known, strays }
    }

    /// The processes of a pod that are in another network than its sandbox, in the order of their numbers.
    pub(crate) fn strays(&self, uid: &str) -> &[ProcessFact] {
        let strays = self.strays.get_or_init(|| {
            let mut homes: HashMap<&str, Vec<u64>> = HashMap::new();
            for own in self.sandboxes.iter().filter(|own| own.pid != 0) {
                let pause = self.processes.iter().find(|process| process.pid == own.pid);
                homes.entry(labels::uid(&own.config.labels)).or_default().extend(pause.map(net));
            }
            strays(&self.processes, &homes, |pid| self.pod_uid(pid))
        });
        strays.get(uid).map_or(&[], Vec::as_slice)
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

/// Of all processes of the node, since who has entered its namespaces is of the pod still. `homes` are the networks
/// of each pod's sandboxes.
fn strays(
    processes: &[ProcessFact],
    homes: &HashMap<&str, Vec<u64>>,
    pod_uid: impl Fn(u32) -> Option<String>,
) -> HashMap<String, Vec<ProcessFact>> {
    let mut strays: HashMap<String, Vec<ProcessFact>> = HashMap::new();
    for process in processes {
        if let Some(uid) = pod_uid(process.pid)
            && let Some(home) = homes.get(uid.as_str())
            && !home.contains(&net(process))
        {
            strays.entry(uid).or_default().push(*process);
        }
    }
    strays.values_mut().for_each(|own| own.sort_by_key(|process| process.pid));
    strays
}

/// The network namespace that a process is in.
fn net(process: &ProcessFact) -> u64 {
    process.namespaces[0]
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
    fn who_left_its_pods_network_is_found_wherever_it_went() {
        let process = |pid, net| ProcessFact { pid, namespaces: [net, 2, 3, 4, 5, 6, 7, 8] };
        // The node's network is 1, those of the pods a, b and c are 11, 12 and, on the node's network, 1.
        let processes = [
            process(30, 13),
            process(2, 1),
            process(10, 11),
            process(11, 11),
            process(13, 1),
            process(12, 12),
            process(20, 12),
            process(40, 1),
            process(41, 14),
        ];
        let homes = HashMap::from([("a", vec![11]), ("b", vec![12]), ("c", vec![1])]);
        let uid = |pid| match pid {
            10..=13 | 30 => Some("a".to_owned()),
            20 => Some("b".to_owned()),
            40 | 41 => Some("c".to_owned()),
            50 => Some("gone".to_owned()),
            _ => None,
        };
        let found = strays(&processes, &homes, uid);
        let of = |uid: &str| -> Vec<(u32, u64)> {
            found.get(uid).into_iter().flatten().map(|own| (own.pid, net(own))).collect()
        };
        assert_eq!(of("a"), [(12, 12), (13, 1), (30, 13)]);
        assert_eq!((of("b"), of("c"), of("gone")), (vec![], vec![(41, 14)], vec![]));
    }

    #[test]
    fn control_groups_name_pod_and_container() {
        let groups = "3:cpu:/kubepods/burstable/pod12-34/abc\n0::/other\n";
        assert_eq!(owner(groups), (Some("12-34"), Some("abc")));
        assert_eq!(owner("0::/kubepods/pod12-34\n"), (Some("12-34"), None));
        assert_eq!(owner("0::/system.slice/podman.service\n").0, Some("man.service"), "whose UID no pod has");
        assert_eq!(owner("0::/init.scope\n"), (None, None));
    }
}
