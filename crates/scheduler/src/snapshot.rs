//! Nodes and the pods on them, kept current change by change.
//!
//! What filters and scores look at is computed once, when a node or pod enters: deciding about a pod on a
//! thousand nodes then reads integers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use skiff_api::quantity;
use skiff_api::selector::Labels;
use skiff_client::ObjectKey;

use crate::neighbours::Requires;
use crate::resources::{Resources, pod_request, pod_request_for_scoring};

/// A pod, with what scheduling wants to know of it.
#[derive(Debug, Clone)]
pub struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) key: ObjectKey,
    pub(crate) request: Resources,
    /// CPU in thousandths and memory in bytes, with defaults for containers that ask for none.
    pub(crate) scoring_request: (i64, i64),
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) priority: i32,
    /// UID of the controller that owns it, whose pods are spread.
    pub(crate) controller: Option<String>,
    pub(crate) requires: Requires,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let controller = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone());
        Self {
            key: ObjectKey::of(&*pod),
            request: pod_request(&pod),
            scoring_request: pod_request_for_scoring(&pod),
            host_ports: host_ports(&pod),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            controller,
            requires: Requires::of(&pod),
            pod,
        }
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it ends so that another pod fits, as its condition says.
    pub(crate) fn is_preempted(&self) -> bool {
        let conditions = self.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let says_so = |condition: &PodCondition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        };
        self.is_terminating() && conditions.into_iter().any(says_so)
    }

    pub(crate) fn may_preempt(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) != Some("Never")
    }

    pub(crate) fn nominated_node(&self) -> Option<&str> {
        let status = self.pod.status.as_ref()?;
        status.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }
}

/// A port that a pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Empty and `0.0.0.0` mean every address.
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both can't be taken on one node: same protocol and port, and the same or any address.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.is_any() || other.is_any() || self.ip == other.ip)
    }

    fn is_any(&self) -> bool {
        matches!(self.ip.as_str(), "" | "0.0.0.0")
    }
}

/// Ports of containers and sidecars; an init container's are gone before the pod serves.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// A node and what is on it.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub(crate) node: Arc<Node>,
    pub(crate) name: String,
    pub(crate) allocatable: Resources,
    pub(crate) pods_max: i64,
    pub(crate) requested: Resources,
    pub(crate) scoring_requested: (i64, i64),
    pub(crate) pods: HashMap<ObjectKey, Arc<PodInfo>>,
    /// How many pods each controller has here, by the controller's UID.
    pub(crate) controllers: HashMap<String, u32>,
    /// Image names and sizes in bytes.
    pub(crate) images: HashMap<String, i64>,
    /// Pods that wait for this node after their victims got their notice, by key.
    pub(crate) nominated: HashMap<ObjectKey, Arc<PodInfo>>,
}

impl NodeInfo {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            node: node.clone(),
            allocatable: Resources::default(),
            pods_max: 0,
            requested: Resources::default(),
            scoring_requested: (0, 0),
            pods: HashMap::new(),
            controllers: HashMap::new(),
            images: HashMap::new(),
            nominated: HashMap::new(),
        };
        info.set_node(node);
        info
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        self.pods_max = quantity::of(allocatable.and_then(|list| list.get("pods"))).value();
        self.images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.node.metadata.labels.as_ref()
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub(crate) fn is_unschedulable(&self) -> bool {
        self.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }

    pub(crate) fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.key);
        self.requested.add(&pod.request);
        self.scoring_requested.0 += pod.scoring_request.0;
        self.scoring_requested.1 += pod.scoring_request.1;
        if let Some(controller) = &pod.controller {
            *self.controllers.entry(controller.clone()).or_default() += 1;
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.request);
        self.scoring_requested.0 -= pod.scoring_request.0;
        self.scoring_requested.1 -= pod.scoring_request.1;
        if let Some(controller) = &pod.controller
            && let Some(count) = self.controllers.get_mut(controller)
        {
            *count -= 1;
            if *count == 0 {
                self.controllers.remove(controller);
            }
        }
        Some(pod)
    }

    /// Whether an update of the node can let a pod in that it kept out before.
    pub(crate) fn admits_differently(&self, other: &Node) -> bool {
        let allocatable = |node: &Node| {
            node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default()
        };
        let own = &*self.node;
        own.spec != other.spec
            || own.metadata.labels != other.metadata.labels
            || allocatable(own) != allocatable(other)
    }
}

/// What an update did, for the waiting pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeChange {
    Added,
    /// A label, taint, capacity or the like.
    Changed,
    /// Nothing that decides about a pod.
    Same,
}

/// All nodes, in the order they came.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// Where each pod is, nominations not counted.
    placed: HashMap<ObjectKey, String>,
    nominated: HashMap<ObjectKey, String>,
    /// Pods bound to a node that isn't known (yet).
    homeless: HashMap<ObjectKey, (String, Arc<PodInfo>)>,
    /// UIDs of pods that were chosen to end for another, so before that is seen of them.
    victims: HashMap<ObjectKey, String>,
    /// Placed pods that keep others away from them.
    loners: HashSet<ObjectKey>,
    /// Labels of namespaces, by name.
    namespaces: HashMap<String, Labels>,
}

impl Snapshot {
    pub(crate) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|index| &self.nodes[*index])
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    pub(crate) fn placed_keys(&self) -> Vec<ObjectKey> {
        self.placed.keys().chain(self.homeless.keys()).cloned().collect()
    }

    /// Whether any placed pod has anti-affinity, which concerns all others.
    pub(crate) fn keeps_others_away(&self) -> bool {
        !self.loners.is_empty()
    }

    pub(crate) fn namespaces(&self) -> &HashMap<String, Labels> {
        &self.namespaces
    }

    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.to_owned(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
    }

    fn node_mut(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.index.get(name).map(|index| &mut self.nodes[*index])
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) -> NodeChange {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(known) = self.node_mut(&name) {
            let change = if known.admits_differently(&node) { NodeChange::Changed } else { NodeChange::Same };
            known.set_node(node);
            return change;
        }
        self.index.insert(name.clone(), self.nodes.len());
        self.nodes.push(NodeInfo::new(node));
        let arrived: Vec<_> =
            self.homeless.iter().filter(|(_, (on, _))| *on == name).map(|(key, _)| key.clone()).collect();
        for key in arrived {
            if let Some((on, pod)) = self.homeless.remove(&key) {
                self.place(pod, &on);
            }
        }
        NodeChange::Added
    }

    /// Takes a node away, and gives it back with all that was on it.
    pub(crate) fn remove_node(&mut self, name: &str) -> Option<NodeInfo> {
        let index = self.index.remove(name)?;
        let node = self.nodes.remove(index);
        for position in self.index.values_mut().filter(|position| **position > index) {
            *position -= 1;
        }
        for (key, pod) in &node.pods {
            self.placed.remove(key);
            self.loners.remove(key);
            self.homeless.insert(key.clone(), (name.to_owned(), pod.clone()));
        }
        self.nominated.retain(|_, on| on != name);
        Some(node)
    }

    /// Puts a pod on a node, from wherever it was before.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.key);
        self.forget_nomination(&pod.key);
        match self.node_mut(node) {
            Some(info) => {
                let key = pod.key.clone();
                let lonely = pod.requires.keeps_others_away();
                info.add_pod(pod);
                if lonely {
                    self.loners.insert(key.clone());
                }
                self.placed.insert(key, node.to_owned());
            }
            None => {
                self.homeless.insert(pod.key.clone(), (node.to_owned(), pod));
            }
        }
    }

    /// Takes a pod off its node and says which that was.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<String> {
        self.homeless.remove(key);
        self.loners.remove(key);
        let node = self.placed.remove(key)?;
        if let Some(info) = self.node_mut(&node) {
            info.remove_pod(key);
        }
        Some(node)
    }

    /// Keeps room on a node for a pod that waits for its victims to end.
    pub(crate) fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.forget_nomination(&pod.key);
        let key = pod.key.clone();
        if let Some(info) = self.node_mut(node) {
            info.nominated.insert(key.clone(), pod);
            self.nominated.insert(key, node.to_owned());
        }
    }

    pub(crate) fn nomination(&self, key: &ObjectKey) -> Option<&str> {
        self.nominated.get(key).map(String::as_str)
    }

    /// Says which node it was.
    pub(crate) fn forget_nomination(&mut self, key: &ObjectKey) -> Option<String> {
        let node = self.nominated.remove(key)?;
        if let Some(info) = self.node_mut(&node) {
            info.nominated.remove(key);
        }
        Some(node)
    }

    /// Notes that a pod is about to end for another.
    pub(crate) fn mark_victim(&mut self, pod: &PodInfo) {
        self.victims.insert(pod.key.clone(), pod.uid().to_owned());
    }

    pub(crate) fn forget_victim(&mut self, key: &ObjectKey) {
        self.victims.remove(key);
    }

    /// Whether a pod ends so that another fits, or is about to.
    pub(crate) fn is_victim(&self, pod: &PodInfo) -> bool {
        pod.is_preempted() || self.victims.get(&pod.key).is_some_and(|uid| uid == pod.uid())
    }

    /// Where a pod is, if its node is known.
    pub(crate) fn placed(&self, key: &ObjectKey) -> Option<&Arc<PodInfo>> {
        self.node(self.placed.get(key)?)?.pods.get(key)
    }
}

#[cfg(test)]
mod tests;
