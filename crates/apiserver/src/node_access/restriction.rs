//! NodeRestriction: what an agent writes must be about its own node and the pods that run there, and no
//! label or taint by which others trust a node is the node's to set.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::Value;
use skiff_api::json::Json;
use skiff_api::status::StatusError;

use super::LEASES;
use super::graph::{Vertex, of_spec};
use crate::auth::{Attributes, Identity};
use crate::metadata;
use crate::resources::{Resource, find};
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
    let Some(node) = who.node_name() else { return Ok(()) };
    let own_uid = || {
        let nodes = find("", "nodes").expect("nodes are in the table");
        server.caches.of(nodes).get(&nodes.key("", node)).map(|found| found.uid.to_string())
    };
    let fault = fault(node, own_uid, write);
    let object = write.new.or(write.old).unwrap_or(&Value::Null);
    match fault {
        None => Ok(()),
        Some(why) => {
            Err(StatusError::forbidden(write.row.group_resource(), metadata::text(object, "name"), &why))
        }
    }
}

/// What is wrong with a node's write; a pure function but for the node's UID, which few writes need.
fn fault(node: &str, own_uid: impl Fn() -> Option<String>, write: &Written<'_>) -> Option<String> {
    match (write.row.group, write.row.plural, write.subresource) {
        ("", "pods", "") => match (write.old, write.new) {
            (None, Some(pod)) => mirror_pod(node, own_uid, pod),
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
            (labels(old) != labels(new))
                .then(|| format!("node {node:?} cannot update labels through pod status"))
        }
        ("", "pods", "eviction") => not_own(write.old?, node)
            .then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")),
        ("", "pods", other) => {
            Some(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(node, write.old, write.new?),
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

/// A mirror pod belongs to the node and needs nothing of the API.
fn mirror_pod(node: &str, own_uid: impl Fn() -> Option<String>, pod: &Value) -> Option<String> {
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
    let (expected, got) = (own_uid().unwrap_or_default(), owner["uid"].as_str().unwrap_or_default());
    if expected != got {
        return Some(format!("node {node} UID mismatch: expected {expected} got {got}"));
    }
    let spec = Pod::from_value(pod).ok()?.spec?;
    let named = of_spec(&spec, metadata::text(pod, "name"));
    let plural = match named.first()?.0 {
        Vertex::Account => "a service account",
        Vertex::Secret => "secrets",
        Vertex::ConfigMap => "configmaps",
        Vertex::Claim | Vertex::Pod => "persistentvolumeclaims",
    };
    Some(format!("node {node:?} can not create pods that reference {plural}"))
}

fn own_node(node: &str, old: Option<&Value>, new: &Value) -> Option<String> {
    let name = metadata::text(new, "name");
    if name != node {
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(old) = old else {
        let forbidden = forbidden_labels(&labels(new), &[]);
        return (!forbidden.is_empty())
            .then(|| format!("is not allowed to set the following labels: {}", join(&forbidden)));
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
mod tests {
    use serde_json::json;

    use super::*;

    fn said(group: &str, plural: &str, subresource: &str, old: Option<Value>, new: Option<Value>) -> String {
        let row = find(group, plural).expect("served");
        let write = Written { row, subresource, old: old.as_ref(), new: new.as_ref() };
        fault("a", || Some("u".to_owned()), &write).unwrap_or_default()
    }

    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": []}})
    }

    #[test]
    fn an_agent_writes_status_of_and_deletes_its_own_pods() {
        assert_eq!(said("", "pods", "status", Some(pod("a")), Some(pod("a"))), "");
        assert_eq!(
            said("", "pods", "status", Some(pod("b")), Some(pod("b"))),
            r#"node "a" can only update pod status for pods with spec.nodeName set to itself"#
        );
        assert_eq!(said("", "pods", "", Some(pod("a")), None), "");
        assert_eq!(
            said("", "pods", "", Some(pod("b")), None),
            r#"node "a" can only delete pods with spec.nodeName set to itself"#
        );
        assert_eq!(
            said("", "pods", "eviction", Some(pod("b")), None),
            "node a can only evict pods with spec.nodeName set to itself"
        );
        let mut labelled = pod("a");
        labelled["metadata"]["labels"] = json!({"x": "y"});
        assert_eq!(
            said("", "pods", "status", Some(pod("a")), Some(labelled)),
            r#"node "a" cannot update labels through pod status"#
        );
        assert!(said("", "pods", "binding", None, Some(pod("a"))).starts_with("unexpected pod subresource"));
    }

    #[test]
    fn an_agent_makes_only_mirrors_of_its_own() {
        let said = |pod: &Value| said("", "pods", "", None, Some(pod.clone()));
        let mut mirror = pod("a");
        assert_eq!(
            said(&mirror),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only create mirror \
             pods"
        );
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert_eq!(said(&mirror), r#"node "a" can only create pods with an owner reference set to itself"#);
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
        mirror["metadata"]["ownerReferences"] = json!([owner]);
        assert_eq!(said(&mirror), "");
        mirror["metadata"]["ownerReferences"][0]["uid"] = "v".into();
        assert_eq!(said(&mirror), "node a UID mismatch: expected u got v");
        mirror["metadata"]["ownerReferences"][0] = owner;
        mirror["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        assert_eq!(said(&mirror), r#"node "a" can not create pods that reference secrets"#);
        mirror["spec"]["nodeName"] = "b".into();
        assert_eq!(said(&mirror), r#"node "a" can only create pods with spec.nodeName set to itself"#);
    }

    fn node(name: &str, labels: Value) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "spec": {}})
    }

    #[test]
    fn an_agent_writes_its_own_node_alone() {
        let (own, other) = (node("a", json!({})), node("b", json!({})));
        assert_eq!(said("", "nodes", "", None, Some(own.clone())), "");
        let why = r#"node "a" is not allowed to modify node "b""#;
        assert_eq!(said("", "nodes", "", None, Some(other.clone())), why);
        assert_eq!(said("", "nodes", "status", Some(other.clone()), Some(other)), why);
        let mut tainted = own.clone();
        tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        assert_eq!(said("", "nodes", "", None, Some(tainted.clone())), "", "it may come with taints");
        assert_eq!(
            said("", "nodes", "", Some(tainted), Some(own)),
            r#"node "a" is not allowed to modify taints"#
        );
    }

    #[test]
    fn no_label_that_others_trust_is_the_agents_to_set() {
        let own =
            node("a", json!({"kubernetes.io/hostname": "a", "x": "y", "node.kubernetes.io/speed": "1"}));
        assert_eq!(said("", "nodes", "", None, Some(own.clone())), "");
        let trusted = node(
            "a",
            json!({
                "node-restriction.kubernetes.io/team": "x", "my.node-restriction.kubernetes.io/team": "x",
                "node-role.kubernetes.io/control-plane": "", "x.k8s.io/y": "",
            }),
        );
        assert_eq!(
            said("", "nodes", "", None, Some(trusted.clone())),
            "is not allowed to set the following labels: my.node-restriction.kubernetes.io/team, \
             node-restriction.kubernetes.io/team, node-role.kubernetes.io/control-plane, x.k8s.io/y"
        );
        let said = said("", "nodes", "", Some(trusted), Some(own));
        assert!(said.starts_with("is not allowed to modify labels: "), "nor to remove: {said}");
    }

    #[test]
    fn an_agent_has_one_lease() {
        let lease =
            |namespace: &str, name: &str| Some(json!({"metadata": {"namespace": namespace, "name": name}}));
        let said = |new| said("coordination.k8s.io", "leases", "", None, new);
        assert_eq!(said(lease("kube-node-lease", "a")), "");
        assert_eq!(
            said(lease("kube-node-lease", "b")),
            "can only access node lease with the same name as the requesting node"
        );
        assert_eq!(
            said(lease("default", "a")),
            "can only access leases in the \"kube-node-lease\" system namespace"
        );
    }

    #[test]
    fn a_mirrors_owner_is_its_node_and_nothing_else() {
        let said = |owners: Value| {
            let mut mirror = pod("a");
            mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
            mirror["metadata"]["ownerReferences"] = owners;
            said("", "pods", "", None, Some(mirror))
        };
        let owner = |field: &str, value: Value| {
            let mut owner =
                json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
            owner[field] = value;
            owner
        };
        let itself = r#"node "a" can only create pods with an owner reference set to itself"#;
        assert_eq!(said(json!([])), itself);
        for (field, value) in [("apiVersion", "v2"), ("kind", "Pod"), ("name", "b")] {
            assert_eq!(said(json!([owner(field, value.into())])), itself, "{field}");
        }
        let good = owner("blockOwnerDeletion", false.into());
        assert_eq!(said(json!([good])), "");
        assert_eq!(
            said(json!([good, good])),
            r#"node "a" can only create pods with a single owner reference set to itself"#
        );
        assert_eq!(
            said(json!([owner("controller", false.into())])),
            r#"node "a" can only create pods with a controller owner reference set to itself"#
        );
        assert_eq!(
            said(json!([owner("blockOwnerDeletion", true.into())])),
            r#"node "a" must not set blockOwnerDeletion on an owner reference"#
        );
    }

    #[test]
    fn a_mirror_needs_nothing_of_the_api() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
        let said = |field: &str, value: Value| {
            let mut mirror = pod("a");
            mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
            mirror["metadata"]["ownerReferences"] = json!([owner]);
            mirror["spec"][field] = value;
            said("", "pods", "", None, Some(mirror))
        };
        assert_eq!(said("hostname", "h".into()), "");
        for (field, value, what) in [
            ("serviceAccountName", json!("s"), "a service account"),
            ("volumes", json!([{"name": "v", "configMap": {"name": "c"}}]), "configmaps"),
            (
                "volumes",
                json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
                "persistentvolumeclaims",
            ),
        ] {
            assert_eq!(said(field, value), format!("node \"a\" can not create pods that reference {what}"));
        }
    }

    #[test]
    fn what_of_its_pods_an_agent_writes() {
        assert_eq!(said("", "pods", "eviction", Some(pod("a")), None), "");
        assert_eq!(
            said("", "pods", "", Some(pod("a")), Some(pod("a"))),
            "unexpected operation \"UPDATE\", node \"a\" can only create and delete mirror pods"
        );
        // Elsewhere others decide.
        assert_eq!(said("", "services", "", None, Some(json!({"metadata": {"name": "s"}}))), "");
    }

    #[test]
    fn an_agent_gives_its_node_no_new_owners() {
        let owned = |names: &[&str]| {
            let owners: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
            let mut node = node("a", json!({}));
            node["metadata"]["ownerReferences"] = json!(owners);
            node
        };
        let said = |old: &[&str], new: &[&str]| said("", "nodes", "", Some(owned(old)), Some(owned(new)));
        let why = r#"node "a" is not allowed to modify ownerReferences"#;
        assert_eq!(said(&[], &["x"]), why);
        assert_eq!(said(&["x"], &["y"]), why);
        assert_eq!(said(&["x"], &["x"]), "");
        assert_eq!(said(&["x"], &[]), "", "they may go");
    }

    #[test]
    fn labels_are_forbidden_by_their_domain() {
        for (label, expected) in [
            ("x", false),
            ("example.com/x", false),
            ("kubernetes.io/os", false),
            ("kubernetes.io/x", true),
            ("a.kubernetes.io/x", true),
            ("notkubernetes.io/x", false),
            ("k8s.io/x", true),
            ("a.k8s.io/x", true),
            ("ak8s.io/x", false),
            ("kubelet.kubernetes.io/x", false),
            ("a.kubelet.kubernetes.io/x", false),
            ("node.kubernetes.io/x", false),
            ("xnode.kubernetes.io/x", true),
            ("node-restriction.kubernetes.io/x", true),
            ("topology.kubernetes.io/zone", false),
            ("topology.kubernetes.io/rack", true),
        ] {
            assert_eq!(is_forbidden(label), expected, "{label}");
        }
        // What stays as it is nobody sets.
        let trusted = || node("a", json!({"node-restriction.kubernetes.io/team": "x"}));
        assert_eq!(said("", "nodes", "", Some(trusted()), Some(trusted())), "");
        let other = node("a", json!({"node-restriction.kubernetes.io/team": "y"}));
        assert_eq!(
            said("", "nodes", "", Some(trusted()), Some(other)),
            "is not allowed to modify labels: node-restriction.kubernetes.io/team"
        );
    }
}
