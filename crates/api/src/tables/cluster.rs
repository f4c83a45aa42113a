//! Nodes, namespaces, configuration, leases, priority classes.

use serde_json::Value;

use super::format::{NONE, UNKNOWN, age, list, name, number, text_or};
use super::{AGE, Column, NAME, col, int, wide};

pub(super) static NODE_COLUMNS: &[Column] = &[
    NAME,
    col("Status"),
    col("Roles"),
    AGE,
    Column { description: "The version of the node's agent.", ..col("Version") },
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

pub(super) fn node(node: &Value, now: i64) -> Vec<Value> {
    let status = &node["status"];
    let info = &status["nodeInfo"];
    let address = |type_: &str| {
        let found = list(&status["addresses"]).iter().find(|a| a["type"] == type_);
        found.map_or(NONE, |a| text_or(&a["address"], NONE)).to_owned()
    };
    vec![
        name(node),
        node_status(node).into(),
        roles(node).into(),
        age(node, now).into(),
        text_or(&info["kubeletVersion"], "").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        text_or(&info["osImage"], UNKNOWN).into(),
        text_or(&info["kernelVersion"], UNKNOWN).into(),
        text_or(&info["containerRuntimeVersion"], UNKNOWN).into(),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = list(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut words = vec![match ready {
        None => "Unknown",
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    }];
    if node["spec"]["unschedulable"] == true {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => (!role.is_empty()).then_some(role),
            None if key == "kubernetes.io/role" => value.as_str().filter(|r| !r.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.into() } else { roles.join(",") }
}

pub(super) fn namespace(namespace: &Value, now: i64) -> Vec<Value> {
    let phase = text_or(&namespace["status"]["phase"], "");
    vec![name(namespace), phase.into(), age(namespace, now).into()]
}

fn entries(object: &Value, fields: &[&str]) -> usize {
    fields.iter().map(|f| object[*f].as_object().map_or(0, serde_json::Map::len)).sum()
}

pub(super) fn config_map(map: &Value, now: i64) -> Vec<Value> {
    vec![name(map), entries(map, &["data", "binaryData"]).into(), age(map, now).into()]
}

pub(super) fn secret(secret: &Value, now: i64) -> Vec<Value> {
    let type_ = text_or(&secret["type"], "");
    vec![name(secret), type_.into(), entries(secret, &["data"]).into(), age(secret, now).into()]
}

pub(super) fn lease(lease: &Value, now: i64) -> Vec<Value> {
    let holder = text_or(&lease["spec"]["holderIdentity"], "");
    vec![name(lease), holder.into(), age(lease, now).into()]
}

pub(super) static PRIORITY_CLASS_COLUMNS: &[Column] =
    &[NAME, int("Value"), Column { type_: "boolean", ..col("Global-Default") }, AGE, col("PreemptionPolicy")];

pub(super) fn priority_class(class: &Value, now: i64) -> Vec<Value> {
    vec![
        name(class),
        number(&class["value"]).into(),
        (class["globalDefault"] == true).into(),
        age(class, now).into(),
        text_or(&class["preemptionPolicy"], "").into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nodes_roles_come_from_its_labels() {
        let node = json!({
            "metadata": {"labels": {
                "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x", "other": "y"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(roles(&node), "control-plane,x");
        assert_eq!(node_status(&node), "Ready,SchedulingDisabled");
        assert_eq!(node_status(&json!({})), "Unknown");
    }
}
