//! NodeRestriction: what an agent writes must be about its own node and the pods that run there, and no
//! label or taint by which others trust a node is the node's to set.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::Value;
use skiff_api::json::Json;
use skiff_api::status::StatusError;

use super::graph::{Vertex, of_spec};
use super::{LEASES, place};
use crate::auth::{Attributes, Identity};
use crate::config::Range;
use crate::metadata;
use crate::resources::{Resource, find, node_ranges, node_spans};
use crate::server::Inner;

/// Marks the API's copy of a pod that the node itself started.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// A write as admission sees it.
pub(crate) struct Written<'a> {
    pub(crate) row: &'a Resource,
    pub(crate) subresource: &'a str,
    /// Before; `None` for a creation.
    pub(crate) old: Option<&'a Value>,
    /// After; `None` for a deletion.
    pub(crate) new: Option<&'a Value>,
}

/// Refuses what is not this agent's to write. Everybody else may pass.
pub(crate) fn check(server: &Inner, who: &Identity, write: &Written<'_>) -> Result<(), StatusError> {
    let Some(name) = who.node_name() else { return Ok(()) };
    let object = || {
        let nodes = find("", "nodes").expect("nodes are in the table");
        server.caches.of(nodes).get(&nodes.key("", name)).map(|found| found.value(nodes))
    };
    let fault = match name {
        "" => Some(format!("could not determine node from user {:?}", &*who.user)),
        name => {
            let config = &server.config;
            let comes_from = || config.pki.as_ref().map(|pki| pki.node_addresses(name)).unwrap_or_default();
            let place = place::Known {
                pods: config.cluster_cidr,
                services: config.service_cidr,
                api: config.advertise.0,
                has_api: config.own_node.as_deref() == Some(name),
                comes_from: &comes_from,
                holder: &|ip| place::holder(server, name, ip),
            };
            fault(&Own { name, object: &object, pods: config.cluster_cidr, place: &place }, write)
        }
    };
    let object = write.new.or(write.old).unwrap_or(&Value::Null);
    match fault {
        None => Ok(()),
        Some(why) => {
            Err(StatusError::forbidden(write.row.group_resource(), metadata::known_by(object), &why))
        }
    }
}

/// The node whose agent writes.
struct Own<'a> {
    name: &'a str,
    /// Its Node, which few writes need.
    object: &'a dyn Fn() -> Option<Value>,
    /// The range of all the cluster's pods.
    pods: Range,
    /// Which addresses it can't have.
    place: &'a place::Known<'a>,
}

/// What is wrong with a node's write; a pure function but for the Node.
fn fault(own: &Own<'_>, write: &Written<'_>) -> Option<String> {
    let node = own.name;
    match (write.row.group, write.row.plural, write.subresource) {
        ("", "pods", "") => match (write.old, write.new) {
            (None, Some(pod)) => mirror_pod(own, pod),
            (Some(pod), None) => not_own(pod, node)
                .then(|| format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
            _ => Some(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            )),
        },
        ("", "pods", "status") => {
            let (old, new) = (write.old?, write.new?);
            if not_own(old, node) {
                return Some(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            pod_status(own, old, new)
        }
        ("", "pods", "eviction") => not_own(write.old?, node)
            .then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")),
        ("", "pods", other) => {
            Some(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(own, write.old, write.new?),
        ("coordination.k8s.io", "leases", _) => lease(node, write.new.or(write.old)?),
        ("storage.k8s.io", "csinodes", _) => {
            let name = metadata::text(write.new.or(write.old)?, "name");
            (name != node)
                .then(|| "can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => None,
    }
}

fn not_own(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] != node
}

fn labels(object: &Value) -> Vec<(&str, &str)> {
    let all = object["metadata"]["labels"].as_object().into_iter().flatten();
    all.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())).collect()
}

/// What an agent says of a pod of its own.
fn pod_status(own: &Own<'_>, old: &Value, new: &Value) -> Option<String> {
    let node = own.name;
    if labels(old) != labels(new) {
        return Some(format!("node {node:?} cannot update labels through pod status"));
    }
    for (field, words) in [
        ("resourceClaimStatuses", "resource claim statues"),
        ("extendedResourceClaimStatus", "extended resource claim status"),
    ] {
        if old["status"][field] != new["status"][field] {
            return Some(format!("node {node:?} cannot update {words}"));
        }
    }
    foreign_address(own, old, new)
        .map(|ip| format!("node {node:?} can only report pod addresses of its own range, not {ip}"))
}

/// An address that is told anew and is not the node's to give. Services, policies and proxies lead to where an
/// agent says that its pods are. In the node's own network a pod has the node's address.
fn foreign_address(own: &Own<'_>, old: &Value, new: &Value) -> Option<String> {
    let before = addresses(old);
    let told: Vec<&str> = addresses(new).into_iter().filter(|ip| !before.contains(ip)).collect();
    if told.is_empty() || new["spec"]["hostNetwork"] == true {
        return None;
    }
    let ranges = (own.object)().map(|node| node_spans(&node)).unwrap_or_default();
    let is_own = |ip: &str| {
        let ip = ip.parse::<Ipv4Addr>().map(u32::from);
        ip.is_ok_and(|ip| ranges.iter().any(|(first, last)| (*first..=*last).contains(&ip)))
    };
    told.into_iter().find(|ip| !is_own(ip)).map(str::to_owned)
}

fn addresses(pod: &Value) -> Vec<&str> {
    let several = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|one| &one["ip"]);
    several.chain([&pod["status"]["podIP"]]).filter_map(Value::as_str).filter(|ip| !ip.is_empty()).collect()
}

/// A mirror pod belongs to the node and needs nothing of the API.
fn mirror_pod(own: &Own<'_>, pod: &Value) -> Option<String> {
    let node = own.name;
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Some(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if not_own(pod, node) {
        return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice) {
        Some([owner]) => owner,
        Some([_, ..]) => {
            return Some(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
        _ => {
            return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
    };
    if (&owner["apiVersion"], &owner["kind"], &owner["name"])
        != (&Value::from("v1"), &Value::from("Node"), &Value::from(node))
    {
        return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Some(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Some(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let own_node = (own.object)().unwrap_or_default();
    let (expected, got) = (metadata::text(&own_node, "uid"), owner["uid"].as_str().unwrap_or_default());
    if expected != got {
        return Some(format!("node {node} UID mismatch: expected {expected} got {got}"));
    }
    let reference = |what: &str| Some(format!("node {node:?} can not create pods that reference {what}"));
    if pod["spec"]["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()) {
        return reference("resourceclaims");
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources = volumes.filter_map(|volume| volume["projected"]["sources"].as_array()).flatten();
    if sources.any(|source| !source["clusterTrustBundle"].is_null()) {
        return reference("clustertrustbundles");
    }
    let spec = Pod::from_value(pod).ok()?.spec?;
    let named = of_spec(&spec, metadata::text(pod, "name"));
    reference(match named.first()?.0 {
        Vertex::Account => "a service account",
        Vertex::Secret => "secrets",
        Vertex::ConfigMap => "configmaps",
        Vertex::Claim | Vertex::Pod => "persistentvolumeclaims",
    })
}

fn own_node(own: &Own<'_>, old: Option<&Value>, new: &Value) -> Option<String> {
    let node = own.name;
    let name = metadata::text(new, "name");
    if name != node {
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if let Some(range) = foreign_range(own.pods, old, new) {
        let all = own.pods;
        return Some(format!(
            "node {node:?} is not allowed to take the pod range {range}, which is not of {all}"
        ));
    }
    if let Some(why) = place::fault(own.place, old, new) {
        return Some(format!("node {node:?} is not allowed to {why}"));
    }
    let Some(old) = old else {
        let forbidden = forbidden_labels(&labels(new), &[]);
        let set =
            || format!("node {node:?} is not allowed to set the following labels: {}", join(&forbidden));
        return (!forbidden.is_empty()).then(set);
    };
    let list = |object: &Value, parent: &str, field: &str| {
        object[parent][field].as_array().cloned().unwrap_or_default()
    };
    if list(new, "spec", "taints") != list(old, "spec", "taints") {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    let owners = list(new, "metadata", "ownerReferences");
    if !owners.is_empty() && owners != list(old, "metadata", "ownerReferences") {
        return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let forbidden = forbidden_labels(&labels(new), &labels(old));
    (!forbidden.is_empty()).then(|| format!("is not allowed to modify labels: {}", join(&forbidden)))
}

/// A range that a node takes beside the cluster's. The other nodes send it all that is for its range.
fn foreign_range(all: Range, old: Option<&Value>, new: &Value) -> Option<String> {
    let before = old.map(node_ranges).unwrap_or_default();
    let is_part = |text: &str| {
        text.parse::<Range>().is_ok_and(|part| part.prefix >= all.prefix && all.contains(part.network))
    };
    node_ranges(new).into_iter().find(|range| !before.contains(range) && !is_part(range))
}

fn join(labels: &BTreeSet<&str>) -> String {
    labels.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Labels of these names an agent may set on its node.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Labels that differ and that are not an agent's to set.
fn forbidden_labels<'a>(new: &[(&'a str, &'a str)], old: &[(&'a str, &'a str)]) -> BTreeSet<&'a str> {
    let changed =
        new.iter().filter(|one| !old.contains(one)).chain(old.iter().filter(|one| !new.contains(one)));
    changed.map(|(key, _)| *key).filter(|key| is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let under = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    let own = OWN_LABELS.contains(&label) || under("kubelet.kubernetes.io") || under("node.kubernetes.io");
    (under("kubernetes.io") || under("k8s.io")) && !own
}

fn lease(node: &str, lease: &Value) -> Option<String> {
    if metadata::text(lease, "namespace") != LEASES {
        return Some(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    (metadata::text(lease, "name") != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

/// Before an agent gets a token: it must be bound to a pod that runs on the agent's node, and be for an
/// audience that a volume of this pod asks for, or that roles give to the agent.
pub(crate) fn token(
    server: &Inner,
    who: &Identity,
    namespace: &str,
    account: &str,
    request: &Value,
) -> Result<(), StatusError> {
    let Some(node) = who.node_name() else { return Ok(()) };
    let accounts = find("", "serviceaccounts").expect("accounts are in the table");
    let refused = |why: &str| Err(StatusError::forbidden(accounts.group_resource(), account, why));
    let text = |field: &str| request["spec"]["boundObjectRef"][field].as_str().unwrap_or_default();
    let name = text("name");
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || name.is_empty() {
        return refused("node requested token not bound to a pod");
    }
    let uid = text("uid");
    if uid.is_empty() {
        return refused("node requested token with a pod binding without a uid");
    }
    let pods = find("", "pods").expect("pods are in the table");
    let Some(pod) = server.caches.of(pods).get(&pods.key(namespace, name)) else {
        return Err(StatusError::not_found(pods.group_resource(), name));
    };
    if *pod.uid != *uid {
        return refused(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object \
             might have been deleted and then recreated"
        ));
    }
    let index = pods.fields.iter().position(|field| field.name == "spec.nodeName");
    if index.and_then(|index| pod.fields.get(index)).is_none_or(|on| **on != *node) {
        return refused("node requested token bound to a pod scheduled on a different node");
    }
    let spec = pod.typed(pods).and_then(|pod| pod.downcast::<Pod>().ok()).and_then(|pod| pod.spec.clone());
    let audience = match unasked_audience(&request["spec"]["audiences"], &spec.unwrap_or_default()) {
        Ok(()) => return Ok(()),
        Err(fault) => fault,
    };
    let Some(audience) = audience else { return refused("node may only request 0 or 1 audiences") };
    // The audience stands in the place of a resource, so that a role can name it.
    let asked = Attributes {
        verb: "request-serviceaccounts-token-audience",
        resource: audience,
        namespace,
        name: account,
        ..Attributes::default()
    };
    if !audience.is_empty() && server.access.allows(who, &asked) {
        return Ok(());
    }
    refused(&format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this \
         audience",
        who.user
    ))
}

/// `Err` has the audience that is asked for and that no volume of the pod names, or nothing where several
/// are asked for. In both places, no audience is the API server's own.
fn unasked_audience<'a>(asked: &'a Value, pod: &PodSpec) -> Result<(), Option<&'a str>> {
    let asked = match asked.as_array().map(Vec::as_slice).unwrap_or_default() {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(None),
    };
    let projected = pod.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    let mut named = sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| token.audience.as_deref().unwrap_or_default());
    if named.any(|audience| audience == asked) { Ok(()) } else { Err(Some(asked)) }
}

#[cfg(test)]
mod tests;
