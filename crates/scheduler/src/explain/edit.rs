//! A change of a pod's manifest as a JSON patch: applied here to try it, and told as a command that makes
//! the very same change.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::json::Json;

use crate::snapshot::PodInfo;

/// Operations of RFC 6902: of its six kinds `add`, `replace` and `remove`.
#[derive(Debug, Clone)]
pub(super) struct Edit(Vec<Value>);

impl Edit {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn add(mut self, path: impl Into<String>, value: Value) -> Self {
        self.0.push(json!({"op": "add", "path": path.into(), "value": value}));
        self
    }

    pub(super) fn replace(mut self, path: impl Into<String>, value: Value) -> Self {
        self.0.push(json!({"op": "replace", "path": path.into(), "value": value}));
        self
    }

    pub(super) fn remove(mut self, path: impl Into<String>) -> Self {
        self.0.push(json!({"op": "remove", "path": path.into()}));
        self
    }

    /// The pod after it.
    pub(super) fn of(&self, pod: &PodInfo) -> Option<PodInfo> {
        let mut value = pod.pod.to_value().ok()?;
        for operation in &self.0 {
            apply(&mut value, operation)?;
        }
        let changed = Pod::from_value(&value).ok()?;
        Some(PodInfo::new(Arc::new(changed)))
    }

    /// For what may change in a pod that exists.
    pub(super) fn patch(&self, pod: &PodInfo) -> String {
        format!(
            "kubectl -n {} patch pod {} --type=json -p {}",
            pod.key.namespace,
            pod.key.name,
            self.quoted()
        )
    }

    /// For what may not: the pod is made anew.
    pub(super) fn replacement(&self, pod: &PodInfo) -> String {
        format!(
            "{} --dry-run=client -o json | kubectl -n {} replace --force -f -",
            self.patch(pod),
            pod.key.namespace
        )
    }

    fn quoted(&self) -> String {
        let text = Value::from(self.0.clone()).to_string();
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn apply(value: &mut Value, operation: &Value) -> Option<()> {
    let (parent, last) = operation["path"].as_str()?.rsplit_once('/')?;
    let last = unescaped(last);
    let new = &operation["value"];
    match (operation["op"].as_str()?, value.pointer_mut(parent)?) {
        ("add", Value::Array(items)) => {
            let end = items.len();
            let index = if last == "-" { Some(end) } else { last.parse().ok().filter(|at| *at <= end) };
            items.insert(index?, new.clone());
        }
        ("replace", Value::Array(items)) => *items.get_mut(last.parse::<usize>().ok()?)? = new.clone(),
        ("add" | "replace", Value::Object(fields)) => drop(fields.insert(last, new.clone())),
        ("remove", Value::Object(fields)) => drop(fields.remove(&last)?),
        ("remove", Value::Array(items)) => {
            let index = last.parse::<usize>().ok().filter(|index| *index < items.len())?;
            items.remove(index);
        }
        _ => return None,
    }
    Some(())
}

/// One part of a JSON pointer (RFC 6901).
pub(super) fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_edited_as_the_rfc_says() {
        let edited = |edit: &Edit| {
            let mut value = json!({"a": [1, 2]});
            edit.0.iter().try_for_each(|operation| apply(&mut value, operation)).map(|()| value["a"].clone())
        };
        let new = Edit::new;
        assert_eq!(edited(&new().add("/a/-", json!(3))), Some(json!([1, 2, 3])));
        assert_eq!(edited(&new().add("/a/0", json!(3))), Some(json!([3, 1, 2])));
        assert_eq!(edited(&new().add("/a/2", json!(3))), Some(json!([1, 2, 3])));
        assert_eq!(edited(&new().add("/a/3", json!(3))), None);
        assert_eq!(edited(&new().replace("/a/1", json!(3))), Some(json!([1, 3])));
        assert_eq!(edited(&new().replace("/a/2", json!(3))), None);
        assert_eq!(edited(&new().replace("/a/-", json!(3))), None);
        assert_eq!(edited(&new().remove("/a/0")), Some(json!([2])));
        assert_eq!(edited(&new().remove("/a/1")), Some(json!([1])));
        assert_eq!(edited(&new().remove("/a/2")), None);
        assert_eq!(edited(&new().remove("/b")), None);
        assert_eq!(edited(&new().replace("/a", json!([]))), Some(json!([])));
    }
}
