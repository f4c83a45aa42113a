//! What the scheduler knows: changes go in, and what to do about the next pod comes out. No I/O.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::selector::Labels;
use skiff_client::ObjectKey;
use tokio::time::Instant;

use crate::decide::schedule;
use crate::filter;
use crate::fit_error::FitError;
use crate::neighbours::Neighbours;
use crate::preempt::{self, Outcome};
use crate::queue::Queue;
use crate::snapshot::{NodeChange, NodeInfo, PodInfo, Snapshot};

/// What to write about one pod.
#[derive(Debug)]
pub(crate) enum Action {
    Bind {
        pod: Arc<PodInfo>,
        node: String,
    },
    Fail {
        pod: Arc<PodInfo>,
        error: FitError,
        message: String,
        nomination: Nomination,
        /// Pods that have to end for it.
        victims: Vec<Arc<PodInfo>>,
    },
}

/// What becomes of the pod's `nominatedNodeName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Nomination {
    Keep,
    Clear,
    Set(String),
}

pub(crate) struct State {
    scheduler_name: String,
    pub(crate) snapshot: Snapshot,
    pub(crate) queue: Queue,
    /// Pods on their way to a node: decided, not yet seen bound. By UID, since a name may come again.
    assumed: HashMap<ObjectKey, String>,
    start: usize,
}

impl State {
    pub(crate) fn new(scheduler_name: &str) -> Self {
        Self {
            scheduler_name: scheduler_name.to_owned(),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            assumed: HashMap::new(),
            start: 0,
        }
    }

    /// A pod is new or changed.
    pub(crate) fn pod_applied(&mut self, pod: &Arc<Pod>) {
        let key = ObjectKey::of(&**pod);
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.pod_gone(&key);
        }
        if let Some(node) = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
            self.queue.remove(&key);
            self.assumed.remove(&key);
            self.snapshot.place(Arc::new(PodInfo::new(pod.clone())), node);
            self.wake_companions();
            return;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match self.assumed.get(&key) {
            Some(assumed) if assumed == uid => return,
            // Another pod of that name: what was assumed is gone.
            Some(_) => self.pod_gone(&key),
            None => {}
        }
        let ours = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler")
            == self.scheduler_name;
        let gated =
            spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        if !ours || gated || pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(&key);
            self.snapshot.forget_nomination(&key);
            return;
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        match info.nominated_node().map(str::to_owned) {
            Some(node) if self.snapshot.nomination(&key) != Some(&node) => {
                self.snapshot.nominate(info.clone(), &node);
            }
            _ => {}
        }
        self.queue.put(info);
    }

    /// A pod is deleted or has ended: what it held is free.
    pub(crate) fn pod_gone(&mut self, key: &ObjectKey) {
        self.queue.remove(key);
        self.assumed.remove(key);
        let nominated = self.snapshot.nomination(key).map(str::to_owned);
        self.snapshot.forget_nomination(key);
        let freed = self.snapshot.remove(key);
        for node in [freed, nominated].into_iter().flatten() {
            self.wake_who_fits(&node);
        }
    }

    /// A node is new or changed.
    pub(crate) fn node_applied(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.snapshot.set_node(node.clone()) {
            // The count of nodes in every waiting pod's message is out of date, too.
            NodeChange::Added => self.wake_all(),
            NodeChange::Changed => self.wake_who_fits(&name),
            NodeChange::Same => {}
        }
    }

    pub(crate) fn node_gone(&mut self, name: &str) {
        self.snapshot.remove_node(name);
    }

    /// Changes were missed: these are all objects there are.
    pub(crate) fn resync_pods(&mut self, pods: &[Arc<Pod>]) {
        let present: HashMap<ObjectKey, Option<&str>> =
            pods.iter().map(|pod| (ObjectKey::of(&**pod), pod.metadata.uid.as_deref())).collect();
        let known = self.snapshot.placed_keys().into_iter().chain(self.queue.keys());
        for key in known.collect::<Vec<_>>() {
            if !present.contains_key(&key) {
                self.pod_gone(&key);
            }
        }
        pods.iter().for_each(|pod| self.pod_applied(pod));
    }

    pub(crate) fn resync_nodes(&mut self, nodes: &[Arc<Node>]) {
        for name in self.snapshot.node_names() {
            if !nodes.iter().any(|node| node.metadata.name.as_deref() == Some(&name)) {
                self.node_gone(&name);
            }
        }
        nodes.iter().for_each(|node| self.node_applied(node));
    }

    /// Decides about the next pod, if one is due.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Action> {
        let pod = self.queue.take(now)?;
        match schedule(&self.snapshot, &pod, self.start) {
            Ok(choice) => {
                self.start = choice.next_start;
                self.assumed.insert(pod.key.clone(), pod.uid().to_owned());
                self.snapshot.place(pod.clone(), &choice.node);
                Some(Action::Bind { pod, node: choice.node })
            }
            Err(error) => Some(self.fail(pod, error, now)),
        }
    }

    fn fail(&mut self, pod: Arc<PodInfo>, error: FitError, now: Instant) -> Action {
        let outcome = (error.nodes > 0).then(|| preempt::preempt(&self.snapshot, &pod, &error));
        let (message, nomination, victims) = match outcome {
            None => (error.message(None), Nomination::Clear, Vec::new()),
            Some(Outcome::Evict { node, victims }) => {
                self.snapshot.nominate(pod.clone(), &node);
                (error.message(None), Nomination::Set(node), victims)
            }
            Some(Outcome::Useless { message, keep_nomination }) => {
                let nomination = if keep_nomination { Nomination::Keep } else { Nomination::Clear };
                if nomination == Nomination::Clear {
                    self.snapshot.forget_nomination(&pod.key);
                }
                (error.message(Some(&message)), nomination, Vec::new())
            }
        };
        self.queue.park(&pod.key, now);
        Action::Fail { pod, error, message, nomination, victims }
    }

    /// The API took the binding.
    pub(crate) fn bound(&mut self, pod: &PodInfo) {
        if self.assumed.get(&pod.key).is_some_and(|uid| uid == pod.uid()) {
            self.queue.remove(&pod.key);
        }
    }

    /// The binding failed: the room is free again, the pod is tried later.
    pub(crate) fn bind_failed(&mut self, pod: &PodInfo, now: Instant) {
        if self.assumed.get(&pod.key).is_none_or(|uid| uid != pod.uid()) {
            return;
        }
        self.assumed.remove(&pod.key);
        let freed = self.snapshot.remove(&pod.key);
        self.queue.put_off(&pod.key, now);
        if let Some(node) = freed {
            self.wake_who_fits(&node);
        }
    }

    /// Wakes the parked pods that a node can take now.
    fn wake_who_fits(&mut self, node: &str) {
        let Some(info) = self.snapshot.node(node) else { return };
        let fitting: Vec<_> = self
            .queue
            .parked()
            .into_iter()
            .filter(|pod| {
                filter::pinned_nodes(pod).is_none_or(|names| names.contains(node)) && self.may_fit(pod, info)
            })
            .collect();
        for pod in fitting {
            self.queue.wake(&pod.key);
        }
    }

    /// Whether a change on that node may let the pod in. What depends on other pods is tried at all nodes:
    /// a change on one can open another of its topology.
    fn may_fit(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        !pod.requires.is_nothing()
            || filter::refusal(pod, node, &Neighbours::of(pod, &self.snapshot, None)).is_none()
    }

    /// A pod came to a node: those that wait for company may follow.
    fn wake_companions(&mut self) {
        for pod in self.queue.parked().into_iter().filter(|pod| !pod.requires.is_nothing()) {
            self.queue.wake(&pod.key);
        }
    }

    /// A namespace is new or changed; its labels decide whose pods terms mean.
    pub(crate) fn namespace_applied(&mut self, name: &str, labels: Option<Labels>) {
        self.snapshot.set_namespace(name, labels);
        self.wake_companions();
    }

    fn wake_all(&mut self) {
        for pod in self.queue.parked() {
            self.queue.wake(&pod.key);
        }
    }
}

#[cfg(test)]
mod tests;
