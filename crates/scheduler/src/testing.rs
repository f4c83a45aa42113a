//! Pods and nodes for tests, from JSON.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::snapshot::{PodInfo, Snapshot};

/// A pod of namespace `default` whose UID is its name; `containers` is filled in where `spec` has none.
pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "main", "image": "web"}]);
    }
    let object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": spec,
    });
    serde_json::from_value(object).expect("a test's pod is valid")
}

pub(crate) fn info(name: &str, spec: Value) -> PodInfo {
    PodInfo::new(Arc::new(pod(name, spec)))
}

/// A node of 4 CPUs, 8 GiB and 110 pods, with `spec` and these labels.
pub(crate) fn node(name: &str, spec: Value, labels: Value) -> Arc<Node> {
    let object = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "10Gi"}},
    });
    Arc::new(serde_json::from_value(object).expect("a test's node is valid"))
}

/// The usual three: a tainted control plane and two workers.
pub(crate) fn three_nodes() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let taint = json!({"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]});
    snapshot.set_node(node("cp", taint, json!({})));
    snapshot.set_node(node("w1", json!({}), json!({"disk": "ssd"})));
    snapshot.set_node(node("w2", json!({}), json!({})));
    snapshot
}
