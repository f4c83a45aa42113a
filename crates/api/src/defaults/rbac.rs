//! Bindings: the API groups of what they name.

use serde_json::{Map, Value};

use super::{each, made, text};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn binding(binding: &mut Map<String, Value>) {
    if let Some(reference) = made(binding, "roleRef") {
        text(reference, "apiGroup", GROUP);
    }
    for subject in each(binding, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            text(subject, "apiGroup", GROUP);
        }
    }
}
