//! The node's own object: registration, status, heartbeats, and the routes that other nodes' call for.

mod lease;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use skiff_client::{Cache, Change, Client, Error, ObjectKey, Patch};
use skiff_network::{Cidr, Network, Route};
use skiff_runtime::{Image, Runtime};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::NetworkFactory;
use crate::capacity::Capacity;
use crate::config::Config;
use crate::events::{Kind, Recorder};
use crate::images::chain;
use crate::labels;
use crate::node_context::NetworkSlot;
use crate::time::api_time;
use crate::told::revision;

/// Looked at this often, written when it changed or [`HEARTBEAT`] has passed.
const STATUS_EVERY: Duration = Duration::from_secs(60);
const HEARTBEAT: Duration = Duration::from_secs(300);
const IMAGES_MAX: usize = 50;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The last status that the API took.
struct Written {
    status: NodeStatus,
    at: tokio::time::Instant,
    revision: u64,
}

impl Written {
    /// Somebody said since that the node is not ready, which it is.
    fn is_denied_by(&self, node: &Node) -> bool {
        is_ready(&self.status)
            && revision(&node.metadata) > self.revision
            && !node.status.as_ref().is_some_and(is_ready)
    }
}

/// The node's side of the API.
pub(crate) struct NodeAgent {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) events: Recorder,
    pub(crate) capacity: Capacity,
    pub(crate) port: u16,
}

impl NodeAgent {
    /// Creates the Node, or makes an existing one this agent's own. Retries for ever.
    pub(crate) async fn register(&self) {
        let mut pause = RETRY_MIN;
        loop {
            match self.try_register().await {
                Ok(()) => return info!(node = self.config.node_name, "registered"),
                Err(error) => {
                    let error = chain(&error);
                    warn!(node = self.config.node_name, error, "cannot register the node, retrying");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn try_register(&self) -> Result<(), Error> {
        let name = &self.config.node_name;
        let node = self.node();
        match self.client.find::<Node>("", name).await? {
            None if self.config.register => {
                self.client.create(&node).await?;
            }
            None => return self.client.get::<Node>("", name).await.map(drop),
            Some(_) => {
                let patch = Patch::Merge(json!({"metadata": {"labels": node.metadata.labels}}));
                self.client.patch::<Node>("", name, None, &patch).await?;
            }
        }
        Ok(())
    }

    fn node(&self) -> Node {
        let mut labels: BTreeMap<String, String> = BTreeMap::new();
        for prefix in ["", "beta."] {
            labels.insert(format!("{prefix}kubernetes.io/arch"), architecture().into());
            labels.insert(format!("{prefix}kubernetes.io/os"), "linux".into());
        }
        labels.insert("kubernetes.io/hostname".into(), self.config.node_name.clone());
        labels.extend(self.config.labels.clone());
        Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: (!self.config.taints.is_empty()).then(|| self.config.taints.clone()),
                pod_cidr: self.config.pod_cidr.clone(),
                pod_cidrs: self.config.pod_cidr.clone().map(|range| vec![range]),
                ..NodeSpec::default()
            }),
            status: None,
        }
    }

    /// Waits for the node's range, starts its network, then keeps the routes to other nodes.
    pub(crate) async fn keep_network(
        &self,
        make: NetworkFactory,
        slot: watch::Sender<Option<Arc<dyn Network>>>,
    ) {
        let mut changes = self.nodes.subscribe();
        let key = ObjectKey::new("", &self.config.node_name);
        let cidr = loop {
            let range = self.nodes.get(&key).and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
            match range.filter(|range| !range.is_empty()) {
                Some(range) => break range,
                None => drop(changes.next().await),
            };
        };
        let mut pause = RETRY_MIN;
        let network = loop {
            match make(cidr.clone()) {
                Ok(network) => break network,
                Err(error) => {
                    warn!(cidr, error = %chain(&*error), "cannot start the node's network, retrying");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        };
        info!(cidr, "the node's network is up");
        self.detach_gone(&*network).await;
        slot.send_replace(Some(network.clone()));
        let mut before: Option<Vec<Route>> = None;
        loop {
            let nodes = self.nodes.list();
            let routes = routes(&self.config.node_name, nodes.iter().map(|node| &**node));
            if before.as_ref() != Some(&routes) {
                match network.set_routes(&routes).await {
                    Ok(()) => before = Some(routes),
                    Err(error) => {
                        warn!(error = %chain(&error), "cannot set the routes to other nodes, retrying");
                        tokio::time::sleep(RETRY_MAX).await;
                        continue;
                    }
                }
            }
            changes.next().await;
        }
    }

    /// Frees what sandboxes hold that ended while no agent ran.
    async fn detach_gone(&self, network: &dyn Network) {
        let Ok(attachments) = network.attachments().await else { return };
        let Ok(sandboxes) = self.runtime.list_sandboxes().await else { return };
        for attachment in attachments {
            if sandboxes.iter().any(|sandbox| sandbox.ready && sandbox.id.0 == attachment.sandbox) {
                continue;
            }
            if let Err(error) = network.detach(&attachment.sandbox).await {
                warn!(sandbox = attachment.sandbox, error = %chain(&error), "cannot detach a sandbox that is gone");
            }
        }
    }

    /// Keeps the Node's status true.
    pub(crate) async fn keep_status(&self, mut network: NetworkSlot, wake: Arc<tokio::sync::Notify>) {
        let mut written: Option<Written> = None;
        let mut refused: Option<String> = None;
        let mut pause = RETRY_MIN;
        let mut changes = self.nodes.subscribe();
        let key = ObjectKey::new("", &self.config.node_name);
        loop {
            let is_up = network.borrow_and_update().is_some();
            let known = self.nodes.get(&key);
            let gone = self.nodes.is_synced() && known.is_none() && written.is_some();
            if gone {
                // Somebody deleted the Node; this agent still lives.
                self.register().await;
                written = None;
            }
            let images = self.runtime.list_images().await.unwrap_or_default();
            let before = known.as_ref().and_then(|node| node.status.clone()).unwrap_or_default();
            let status = self.status(is_up, &images, &before, SystemTime::now());
            let due = written.as_ref().is_none_or(|last| {
                without_heartbeats(&last.status) != without_heartbeats(&status)
                    || last.at.elapsed() >= HEARTBEAT
            });
            let limit = if due {
                // By what is known of the Node: an agent that was held up must see that it was taken for lost
                // before it says that it lives, or the end of that would bear the time of its beginning.
                let known = known.as_ref().and_then(|node| node.metadata.resource_version.as_deref());
                let patch = json!({ "metadata": {"resourceVersion": known}, "status": status });
                let patch = Patch::Merge(patch);
                match self.client.patch::<Node>("", &self.config.node_name, Some("status"), &patch).await {
                    Ok(node) => {
                        if is_up && !written.as_ref().is_some_and(|last| is_ready(&last.status)) {
                            let message = format!("Node {} status is now: NodeReady", self.config.node_name);
                            self.events.node(&node, Kind::Normal, "NodeReady", message);
                        }
                        let at = tokio::time::Instant::now();
                        written = Some(Written { status, at, revision: revision(&node.metadata) });
                        refused = None;
                        pause = RETRY_MIN;
                        STATUS_EVERY
                    }
                    Err(error) => {
                        let text = chain(&error);
                        // What is refused stays so until somebody acts: said once, and again when it changes.
                        if is_refusal(&error) && refused.as_ref() != Some(&text) {
                            warn!(error = text, "the API server does not take the node's status, retrying");
                            refused = Some(text);
                        } else {
                            debug!(error = text, "cannot write the node's status, retrying");
                        }
                        pause = (pause * 2).min(RETRY_MAX);
                        pause
                    }
                }
            } else {
                STATUS_EVERY
            };
            let deadline = tokio::time::Instant::now() + limit;
            loop {
                // All of these are cancel-safe.
                tokio::select! {
                    Ok(()) = network.changed() => break,
                    () = wake.notified() => break,
                    () = tokio::time::sleep_until(deadline) => break,
                    change = changes.next() => match change {
                        Change::Deleted(node) if ObjectKey::of(&*node) == key => break,
                        // Taken for lost while this agent was held up: it tells at once that it lives.
                        Change::Applied { new, .. } if ObjectKey::of(&*new) == key
                            && written.as_ref().is_some_and(|last| last.is_denied_by(&new)) =>
                        {
                            written = None;
                            break;
                        }
                        _ => {}
                    },
                }
            }
        }
    }

    fn status(
        &self,
        network_is_up: bool,
        images: &[Image],
        before: &NodeStatus,
        now: SystemTime,
    ) -> NodeStatus {
        let capacity = self.amounts();
        let condition = |kind: &str, holds: bool, reason: &str, message: String| {
            let status = if holds { "True" } else { "False" };
            let former = before.conditions.iter().flatten().find(|former| former.type_ == kind);
            NodeCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: Some(api_time(now)),
                last_transition_time: former
                    .filter(|former| former.status == status)
                    .and_then(|former| former.last_transition_time.clone())
                    .or_else(|| Some(api_time(now))),
            }
        };
        let ready = if network_is_up {
            condition("Ready", true, "KubeletReady", "kubelet is posting ready status".into())
        } else {
            let message = "container runtime network not ready: the node has no pod CIDR yet";
            condition("Ready", false, "KubeletNotReady", message.into())
        };
        let mut conditions = vec![
            condition(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available".into(),
            ),
            condition(
                "DiskPressure",
                false,
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure".into(),
            ),
            condition(
                "PIDPressure",
                false,
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available".into(),
            ),
            ready,
        ];
        let own = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
        let foreign = before.conditions.iter().flatten().filter(|each| !own.contains(&each.type_.as_str()));
        conditions.extend(foreign.cloned());
        let ips = self.config.node_ips.iter().map(|ip| ("InternalIP", ip.to_string()));
        let addresses = ips.chain([("Hostname", self.config.node_name.clone())]);
        let addresses =
            addresses.map(|(kind, address)| NodeAddress { type_: kind.into(), address }).collect();
        NodeStatus {
            addresses: Some(addresses),
            allocatable: Some(capacity.clone()),
            capacity: Some(capacity),
            conditions: Some(conditions),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            images: Some(image_list(images)),
            node_info: Some(self.info()),
            features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
            runtime_handlers: Some(vec![NodeRuntimeHandler {
                name: Some(String::new()),
                features: Some(NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: Some(true),
                    user_namespaces: Some(true),
                }),
            }]),
            ..NodeStatus::default()
        }
    }

    fn amounts(&self) -> BTreeMap<String, Text> {
        let cpus = self.capacity.cpu_milli / 1_000;
        [
            ("cpu", cpus.to_string()),
            ("ephemeral-storage", format!("{}Ki", self.capacity.disk_told_bytes() / 1_024)),
            ("hugepages-1Gi", "0".into()),
            ("hugepages-2Mi", "0".into()),
            ("memory", format!("{}Ki", self.capacity.memory_bytes / 1_024)),
            ("pods", self.config.pods_max.to_string()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Text(amount)))
        .collect()
    }

    fn info(&self) -> NodeSystemInfo {
        let read =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let version = format!("v{}", self.config.version);
        NodeSystemInfo {
            architecture: architecture().into(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: format!("{}://{}", labels::SCHEME, env!("CARGO_PKG_VERSION")),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kubelet_version: version.clone(),
            kube_proxy_version: String::new(),
            machine_id: read("/etc/machine-id"),
            operating_system: "linux".into(),
            os_image: os_image(&read("/etc/os-release")),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
            ..NodeSystemInfo::default()
        }
    }
}

/// Such as one of an address that is another's.
fn is_refusal(error: &Error) -> bool {
    matches!(error.code(), Some(403 | 422))
}

/// Each other node's range leads to its address.
fn routes<'a>(own: &str, nodes: impl Iterator<Item = &'a Node>) -> Vec<Route> {
    let mut routes: Vec<Route> = nodes
        .filter(|node| node.metadata.name.as_deref() != Some(own))
        .filter_map(|node| {
            let destination: Cidr = node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()?;
            let addresses = node.status.as_ref()?.addresses.as_ref()?;
            let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
            let via: Ipv4Addr = internal.address.parse().ok()?;
            Some(Route { destination, via })
        })
        .collect();
    routes.sort_unstable();
    routes
}

fn image_list(images: &[Image]) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by_key(|image| (std::cmp::Reverse(image.size_bytes), &image.id));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(image.digests.iter().chain(&image.tags).cloned().collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect()
}

fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    status
}

fn is_ready(status: &NodeStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The machine's architecture as Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_lead_to_other_nodes_alone() {
        let node = |name: &str, cidr: Option<&str>, ip: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"podCIDR": cidr},
                "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]},
            }))
            .expect("a node")
        };
        let nodes = [
            node("own", Some("10.244.0.0/24"), "10.100.0.2"),
            node("b", Some("10.244.2.0/24"), "10.100.0.4"),
            node("a", Some("10.244.1.0/24"), "10.100.0.3"),
            node("new", None, "10.100.0.5"),
        ];
        let made: Vec<String> = routes("own", nodes.iter())
            .iter()
            .map(|route| format!("{} via {}", route.destination.address, route.via))
            .collect();
        assert_eq!(made, ["10.244.1.0 via 10.100.0.3", "10.244.2.0 via 10.100.0.4"]);
    }

    #[test]
    fn the_os_has_a_name() {
        assert_eq!(os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
