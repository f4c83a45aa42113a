//! The rules of `metadata` that hold for every kind.

use rand::RngExt;
use serde_json::{Map, Value};
use skiff_api::status::{Cause, StatusError};

use crate::clock;
use crate::names;
use crate::resources::{Resource, Strategy};

/// Mutable metadata, made where it is missing.
pub(crate) fn of_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was made an object above")
}

/// A text field of metadata, empty where it is missing.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

pub(crate) fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let meta = of_mut(object);
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), finalizers.into());
    }
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Characters of generated names: no vowels and nothing that looks alike.
const RANDOM: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_PREFIX_MAX: usize = 58;

pub(crate) fn generate_name(prefix: &str) -> String {
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(RANDOM[rng.random_range(0..RANDOM.len())]));
    prefix.chars().take(GENERATED_PREFIX_MAX).chain(suffix).collect()
}

/// What a new object is called before its name is generated: as upstream says it.
pub(crate) fn known_by(object: &Value) -> &str {
    match (text(object, "name"), text(object, "generateName")) {
        ("", "") => "Unknown",
        ("", prefix) => prefix,
        (name, _) => name,
    }
}

/// What the server sets on a new object, and what no client may.
pub(crate) fn prepare_create(object: &mut Value, namespace: &str, generation: bool) {
    let meta = of_mut(object);
    for field in
        ["resourceVersion", "selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        meta.remove(field);
    }
    if !namespace.is_empty() {
        meta.insert("namespace".into(), namespace.into());
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), clock::rfc3339(clock::now()).into());
    match generation {
        true => meta.insert("generation".into(), 1.into()),
        false => meta.remove("generation"),
    };
}

/// What an update keeps of the old metadata, whatever it says.
pub(crate) fn prepare_update(object: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let meta = of_mut(object);
    meta.remove("selfLink");
    meta.remove("managedFields");
    let kept = [
        "namespace",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "resourceVersion",
    ];
    for field in kept {
        match old.get(field) {
            Some(value) => meta.insert(field.into(), value.clone()),
            None => meta.remove(field),
        };
    }
    if meta.get("uid").and_then(Value::as_str).is_none_or(str::is_empty)
        && let Some(uid) = old.get("uid")
    {
        meta.insert("uid".into(), uid.clone());
    }
}

/// Faults of a new object's metadata.
pub(crate) fn validate_create(row: &Resource, strategy: &dyn Strategy, object: &Value) -> Vec<Cause> {
    let mut faults = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        faults.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(fault) = names::path_segment(name).or_else(|| strategy.name_rule()(name)) {
        faults.push(Cause::invalid("metadata.name", name, fault));
    }
    let namespace = text(object, "namespace");
    if row.namespaced
        && !namespace.is_empty()
        && let Some(fault) = names::label(namespace)
    {
        faults.push(Cause::invalid("metadata.namespace", namespace, fault));
    }
    faults
}

/// Faults of an update's metadata.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut faults = Vec::new();
    for field in ["name", "uid"] {
        if text(new, field) != text(old, field) {
            faults.push(Cause::invalid(format!("metadata.{field}"), text(new, field), "field is immutable"));
        }
    }
    if is_deleting(old) {
        let before = finalizers(old);
        let added: Vec<&str> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            faults.push(Cause::forbidden("metadata.finalizers", detail));
        }
    }
    faults
}

/// Counts the generation up when anything outside of metadata and status has changed.
pub(crate) fn bump_generation(new: &mut Value, old: &Value) {
    let changed = {
        let rest = |v: &Value| -> Option<Vec<(String, Value)>> {
            Some(
                v.as_object()?
                    .iter()
                    .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            )
        };
        rest(new) != rest(old)
    };
    if changed {
        increment_generation(new, old);
    }
}

pub(crate) fn increment_generation(new: &mut Value, old: &Value) {
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
    of_mut(new).insert("generation".into(), (generation + 1).into());
}

/// The namespace in the path and the one in the object must agree.
pub(crate) fn check_namespace(row: &Resource, object: &Value, namespace: &str) -> Result<(), StatusError> {
    let given = text(object, "namespace");
    if !row.namespaced && !given.is_empty() {
        return Err(StatusError::bad_request("namespace not allowed on this resource"));
    }
    if !given.is_empty() && given != namespace {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
