//! Pods as policies see them: of each only labels, address and named ports are kept.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize};
use skiff_api::json::Json;
use skiff_api::selector::Labels;
use skiff_client::ObjectKey;

use crate::plan::Protocol;

/// A pod that has an address of its own, and may be isolated or be somebody's peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub pod: ObjectKey,
    pub uid: String,
    pub labels: Labels,
    pub ports: Vec<NamedPort>,
    /// Whether it runs on this node, which then isolates it.
    pub local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
}

impl Subject {
    /// Of a pod of this node.
    pub fn of_own(pod: &Pod) -> Subject {
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| {
            // Init containers that stay (sidecars) are addressed by their ports too.
            spec.init_containers.iter().flatten().chain(&spec.containers)
        });
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            named_port(port.name.as_deref(), port.protocol.as_deref(), Some(port.container_port))
        });
        Subject {
            pod: ObjectKey::of(pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ports: ports.collect(),
            local: true,
        }
    }
}

fn named_port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<NamedPort> {
    let protocol = match protocol.unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let name = name.filter(|name| !name.is_empty())?.to_owned();
    Some(NamedPort { name, protocol, number: u16::try_from(number?).ok()? })
}

/// A pod, read from the API's answers without what policies don't ask for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LeanPod {
    metadata: ObjectMeta,
    #[serde(skip)]
    pub(crate) node: Option<Box<str>>,
    #[serde(skip)]
    pub(crate) ip: Option<Ipv4Addr>,
    #[serde(skip)]
    pub(crate) ports: Box<[NamedPort]>,
}

impl LeanPod {
    /// Its address and what policies see of it, where it has one of its own and still runs.
    pub(crate) fn subject(&self, node_name: &str) -> Option<(Ipv4Addr, Subject)> {
        let subject = Subject {
            pod: ObjectKey::of(self),
            uid: self.metadata.uid.clone().unwrap_or_default(),
            labels: self.metadata.labels.clone().unwrap_or_default(),
            ports: self.ports.to_vec(),
            local: self.node.as_deref() == Some(node_name),
        };
        Some((self.ip?, subject))
    }

    /// The version of the object.
    pub(crate) fn version(&self) -> u64 {
        version(&self.metadata)
    }
}

/// Versions of this API are numbers that grow; zero where there is none.
pub(crate) fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl<'de> Deserialize<'de> for LeanPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LeanPod, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let Wire { metadata, spec, status } = wire;
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        // A pod in its node's network has the node's address, and is no pod to policies.
        let own = !spec.host_network.unwrap_or(false) && !over;
        let ip = status.pod_ip.as_deref().filter(|_| own).and_then(|ip| ip.parse().ok());
        let containers = spec.init_containers.iter().chain(&spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            named_port(port.name.as_deref(), port.protocol.as_deref(), port.container_port)
        });
        Ok(LeanPod {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                labels: metadata.labels,
                ..ObjectMeta::default()
            },
            node: spec.node_name.map(String::into_boxed_str),
            ip,
            ports: ports.collect(),
        })
    }
}

impl Json for LeanPod {
    fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

impl k8s_openapi::Resource for LeanPod {
    const API_VERSION: &'static str = Pod::API_VERSION;
    const GROUP: &'static str = Pod::GROUP;
    const KIND: &'static str = Pod::KIND;
    const VERSION: &'static str = Pod::VERSION;
    const URL_PATH_SEGMENT: &'static str = Pod::URL_PATH_SEGMENT;
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for LeanPod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The fields that are read; all others are passed over.
#[derive(Deserialize)]
struct Wire {
    metadata: WireMetadata,
    #[serde(default)]
    spec: WireSpec,
    #[serde(default)]
    status: WireStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<Labels>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Vec<WireContainer>,
    init_containers: Vec<WireContainer>,
}

#[derive(Deserialize)]
struct WireContainer {
    ports: Option<Vec<WirePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value, phase: &str) -> Value {
        json!({
            "metadata": {"namespace": "n", "name": "p", "uid": "u", "resourceVersion": "7",
                "labels": {"a": "b"}, "annotations": {"c": "d"}, "managedFields": []},
            "spec": spec,
            "status": {"phase": phase, "podIP": "10.244.1.2", "conditions": []},
        })
    }

    fn subject(object: &Value) -> Option<(Ipv4Addr, Subject)> {
        let text = object.to_string();
        let lean: LeanPod = serde_json::from_str(&text).unwrap();
        lean.subject("node-1")
    }

    #[test]
    fn what_policies_ask_for_is_kept() {
        let spec = json!({"nodeName": "node-1", "containers": [
            {"name": "a", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}, {"containerPort": 81}]},
            {"name": "b", "ports": null},
        ]});
        let object = pod(spec, "Running");
        let (ip, lean) = subject(&object).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(lean.ports, [NamedPort { name: "http".into(), protocol: Protocol::Tcp, number: 80 }]);
        assert_eq!(lean, Subject::of_own(&serde_json::from_value(object).unwrap()));
    }

    #[test]
    fn who_has_no_address_of_its_own_is_nobody() {
        let containers = json!([{"name": "a", "image": "b"}]);
        assert!(subject(&pod(json!({"containers": containers, "hostNetwork": true}), "Running")).is_none());
        assert!(
            subject(&pod(json!({"containers": containers}), "Failed")).is_none(),
            "its address may be another's"
        );
        let mut waiting = pod(json!({"containers": containers}), "Pending");
        waiting["status"]["podIP"] = Value::Null;
        assert!(subject(&waiting).is_none());
    }

    #[test]
    fn escaped_texts_are_read_from_values_too() {
        let object = pod(json!({"nodeName": "node-1", "containers": []}), "Running");
        let lean: LeanPod = serde_json::from_value(object).unwrap();
        assert_eq!(lean.subject("node-1").unwrap().1.pod.to_string(), "n/p");
    }
}
