//! The values that a kind's fields get when its writer leaves them out, as upstream's versioned
//! defaults: what the server adds before admission and validation see the object.
//!
//! Objects are JSON values, normalised by the decoder. An empty text (and a zero, where zero can't be
//! meant) counts as left out, as it does for Go's plain fields.

mod network_policy;
mod pod;
mod rbac;
mod service;
mod workloads;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub use pod::pull_policy;

/// Completes an object of this kind in place. Doing it twice changes nothing more.
pub fn apply(group: &str, kind: &str, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    match (group, kind) {
        ("", "Pod") => pod::pod(map),
        ("", "Service") => service::service(map),
        ("", "Namespace") => namespace(map),
        ("", "Node") => node(map),
        ("", "Secret") => secret(map),
        ("", "Endpoints") => endpoints(map),
        ("apps", "Deployment") => workloads::deployment(map),
        ("apps", "ReplicaSet") => workloads::replica_set(map),
        ("apps", "DaemonSet") => workloads::daemon_set(map),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(map),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::binding(map),
        ("networking.k8s.io", "NetworkPolicy") => network_policy::network_policy(map),
        ("scheduling.k8s.io", "PriorityClass") => text(map, "preemptionPolicy", "PreemptLowerPriority"),
        _ => {}
    }
}

/// Sets a field that is missing or null.
fn missing(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.into(), value.into());
    }
}

/// Sets a text that is missing or empty.
fn text(map: &mut Map<String, Value>, field: &str, value: &str) {
    if map.get(field).is_none_or(|v| v.is_null() || v.as_str() == Some("")) {
        map.insert(field.into(), value.into());
    }
}

/// Sets a number that is missing or zero.
fn number(map: &mut Map<String, Value>, field: &str, value: i64) {
    if map.get(field).is_none_or(|v| v.is_null() || v.as_i64() == Some(0)) {
        map.insert(field.into(), value.into());
    }
}

/// The object in a field, if there is one.
fn object<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field)?.as_object_mut()
}

/// The objects of a list in a field.
fn each<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// An object in a field, made where it is missing.
fn made<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    missing(map, field, json!({}));
    object(map, field)
}

fn namespace(namespace: &mut Map<String, Value>) {
    let name = namespace.get("metadata").and_then(|m| m["name"].as_str()).unwrap_or_default().to_owned();
    if name.is_empty() {
        return;
    }
    let labels = object(namespace, "metadata").and_then(|m| made(m, "labels"));
    if let Some(labels) = labels {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn node(node: &mut Map<String, Value>) {
    if let Some(status) = object(node, "status")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        missing(status, "allocatable", capacity);
    }
}

fn secret(secret: &mut Map<String, Value>) {
    text(secret, "type", "Opaque");
    let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
    if let Some(data) = made(secret, "data") {
        for (key, value) in plain {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

fn endpoints(endpoints: &mut Map<String, Value>) {
    for subset in each(endpoints, "subsets") {
        each(subset, "ports").for_each(|port| text(port, "protocol", "TCP"));
    }
}

fn endpoint_slice(slice: &mut Map<String, Value>) {
    for port in each(slice, "ports") {
        missing(port, "name", "");
        text(port, "protocol", "TCP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_of_a_secret_become_data() {
        let mut secret = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        apply("", "Secret", &mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    }

    #[test]
    fn a_namespace_is_labelled_with_its_name() {
        let mut namespace = json!({"metadata": {"name": "n"}});
        apply("", "Namespace", &mut namespace);
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    }
}
