//! What the scheduler knows: changes go in, and what to do about the next pod comes out. No I/O.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::selector::Labels;
use skiff_client::ObjectKey;
use tokio::time::Instant;

use crate::decide::schedule;
use crate::fit_error::FitError;
use crate::preempt::{self, Outcome};
use crate::queue::Queue;
use crate::snapshot::{NodeChange, PodInfo, Snapshot};
use crate::wake::{News, concerns};

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
            self.placed(Arc::new(PodInfo::new(pod.clone())), node);
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
            self.forget_nomination(&key);
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

    /// A pod is seen on a node: those that wait for company may follow, and where it asks for less than before,
    /// others as well.
    fn placed(&mut self, pod: Arc<PodInfo>, node: &str) {
        let key = pod.key.clone();
        let before = self.snapshot.placed(&key).cloned();
        let nominated = self.snapshot.nomination(&key).filter(|nominated| *nominated != node);
        let nominated = nominated.map(str::to_owned);
        let asks = pod.request.clone();
        self.snapshot.place(pod, node);
        self.wake(|_, pod| !pod.requires.is_nothing());
        if before.is_some_and(|before| before.request != asks) {
            self.node_freed(node);
        }
        if let Some(nominated) = nominated {
            self.node_freed(&nominated);
        }
    }

    /// A pod is deleted or has ended: what it held is free.
    pub(crate) fn pod_gone(&mut self, key: &ObjectKey) {
        self.queue.remove(key);
        self.assumed.remove(key);
        self.snapshot.forget_victim(key);
        self.forget_nomination(key);
        let gone = self.snapshot.placed(key).cloned();
        if let Some(node) = self.snapshot.remove(key) {
            self.node_freed(&node);
        }
        self.wake_shunned(gone.into_iter().collect());
    }

    /// A node is new or changed.
    pub(crate) fn node_applied(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let before = self.snapshot.node(&name).filter(|known| known.admits_differently(node)).cloned();
        match (self.snapshot.set_node(node.clone()), before) {
            (NodeChange::Same, _) => {}
            (NodeChange::Changed, Some(before)) => {
                self.wake_who_may_enter(&name, &News::Node { before: &before });
                if before.labels() != node.metadata.labels.as_ref() {
                    self.wake_shunned(before.pods.into_values().collect());
                }
            }
            // The count of nodes in every waiting pod's message is out of date, too.
            (NodeChange::Added | NodeChange::Changed, _) => self.wake(|_, _| true),
        }
    }

    /// With a node, its part of the topology may be gone, and what was expected there.
    pub(crate) fn node_gone(&mut self, name: &str) {
        let Some(gone) = self.snapshot.remove_node(name) else { return };
        self.wake(|_, pod| !pod.requires.is_nothing() || gone.nominated.contains_key(&pod.key));
        self.wake_shunned(gone.pods.into_values().collect());
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
                let nominated = self.snapshot.forget_nomination(&pod.key);
                self.snapshot.place(pod.clone(), &choice.node);
                // Room that was kept for it and that it does not take is another's.
                if let Some(nominated) = nominated.filter(|nominated| *nominated != choice.node) {
                    self.node_freed(&nominated);
                }
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
                if self.snapshot.nomination(&pod.key) != Some(&node) {
                    self.forget_nomination(&pod.key);
                }
                self.snapshot.nominate(pod.clone(), &node);
                victims.iter().for_each(|victim| self.snapshot.mark_victim(victim));
                (error.message(None), Nomination::Set(node), victims)
            }
            Some(Outcome::Useless { message, keep_nomination }) => {
                let nomination = if keep_nomination { Nomination::Keep } else { Nomination::Clear };
                if nomination == Nomination::Clear {
                    self.forget_nomination(&pod.key);
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
            self.node_freed(&node);
        }
        self.wake_shunned(vec![Arc::new(pod.clone())]);
    }

    /// Pods that were to end for this one do not: it looks again.
    pub(crate) fn eviction_failed(&mut self, pod: &PodInfo, staying: &[Arc<PodInfo>], now: Instant) {
        staying.iter().for_each(|victim| self.snapshot.forget_victim(&victim.key));
        self.queue.retry(&pod.key, now);
    }

    fn forget_nomination(&mut self, key: &ObjectKey) {
        if let Some(node) = self.snapshot.forget_nomination(key) {
            self.node_freed(&node);
        }
    }

    /// Something that was on the node, or expected there, is not any more.
    fn node_freed(&mut self, node: &str) {
        self.wake_who_may_enter(node, &News::Room);
    }
    /// Wakes the parked pods that news of a node concerns.
    fn wake_who_may_enter(&mut self, node: &str, news: &News<'_>) {
        self.wake(|snapshot, pod| {
            snapshot.node(node).is_some_and(|node| concerns(snapshot, pod, node, news))
        });
    }

    /// Wakes the parked pods that these kept away, wherever they were.
    fn wake_shunned(&mut self, by: Vec<Arc<PodInfo>>) {
        let by: Vec<_> = by.into_iter().filter(|other| other.requires.keeps_others_away()).collect();
        if !by.is_empty() {
            self.wake(|snapshot, pod| {
                by.iter().any(|other| other.requires.keeps_away(&pod.pod, snapshot.namespaces()))
            });
        }
    }

    /// A namespace is new or changed; its labels decide whose pods terms mean.
    pub(crate) fn namespace_applied(&mut self, name: &str, labels: Option<Labels>) {
        self.snapshot.set_namespace(name, labels);
        self.wake(|_, pod| !pod.requires.is_nothing() || pod.key.namespace == name);
    }

    fn wake(&mut self, concerned: impl Fn(&Snapshot, &PodInfo) -> bool) {
        for pod in self.queue.parked() {
            if concerned(&self.snapshot, &pod) {
                self.queue.wake(&pod.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
