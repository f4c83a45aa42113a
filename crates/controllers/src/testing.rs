//! Pods for tests, from JSON.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A pod of namespace `a` whose UID is its name, with these parts of metadata, spec and status.
pub(crate) fn pod(name: &str, parts: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name},
        "spec": {"containers": []},
    });
    for part in ["metadata", "spec", "status"] {
        for (key, value) in parts[part].as_object().into_iter().flatten() {
            object[part][key] = value.clone();
        }
    }
    Arc::new(serde_json::from_value(object).expect("a test's pod is valid"))
}
