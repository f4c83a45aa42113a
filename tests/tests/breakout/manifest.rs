//! The hostile pods, as manifests.

use serde_json::{Map, Value, json};

use crate::attempts::Setting;

pub(crate) const IMAGE: &str = "skiff/attacker:v1";
pub(crate) const PROGRAM: &str = "/usr/bin/attacker";

/// The level that the setting's namespace enforces.
pub(crate) fn level(setting: Setting) -> Option<&'static str> {
    match setting {
        Setting::Baseline => Some("baseline"),
        Setting::Restricted => Some("restricted"),
        _ => None,
    }
}

pub(crate) fn has_own_users(setting: Setting) -> bool {
    matches!(setting, Setting::Users | Setting::PrivilegedUsers)
}

fn security(setting: Setting) -> Value {
    let filter = json!({"type": "RuntimeDefault"});
    match setting {
        Setting::Default | Setting::Users => json!({}),
        Setting::Baseline => json!({"seccompProfile": filter}),
        Setting::Restricted => json!({
            "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": filter,
        }),
        Setting::Privileged | Setting::PrivilegedUsers => json!({"privileged": true}),
    }
}

/// A container that makes an attempt. What it says last is in its status.
pub(crate) fn attacking(name: &str, words: &[&str], setting: Setting) -> Value {
    let command: Vec<&str> = std::iter::once(PROGRAM).chain(words.iter().copied()).collect();
    running(name, &command, setting)
}

pub(crate) fn running(name: &str, command: &[&str], setting: Setting) -> Value {
    json!({
        "name": name,
        "image": IMAGE,
        "command": command,
        "securityContext": security(setting),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// The container with more fields.
pub(crate) fn with(mut container: Value, fields: Value) -> Value {
    merge(&mut container, fields);
    container
}

/// A pod of these containers on one node.
pub(crate) fn pod(name: &str, node: &str, setting: Setting, containers: Vec<Value>, more: Value) -> Value {
    let mut spec = json!({
        "nodeName": node,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "containers": containers,
    });
    if has_own_users(setting) {
        spec["hostUsers"] = json!(false);
    }
    merge(&mut spec, more);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn merge(into: &mut Value, fields: Value) {
    match (into, fields) {
        (Value::Object(into), Value::Object(fields)) => {
            for (name, value) in fields {
                merge(into.entry(name).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (into, value) => *into = value,
    }
}
