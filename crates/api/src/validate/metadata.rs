//! Labels, annotations and owner references.

use super::cursor::At;
use crate::selector::{label_key_faults, label_value_faults};
use crate::status::Cause;

const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

pub(super) fn check(metadata: &At<'_>, faults: &mut Vec<Cause>) {
    labels(&metadata.get("labels"), faults);
    annotations(&metadata.get("annotations"), faults);
    let owners = metadata.get("ownerReferences");
    for owner in owners.items() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            let part = owner.get(field);
            if part.is_empty() {
                faults.push(Cause::invalid(
                    part.path.clone(),
                    "",
                    format!("{} must not be empty", words(field)),
                ));
            }
        }
    }
    let controllers: Vec<&str> = owners
        .items()
        .filter(|owner| owner.get("controller").is_true())
        .map(|owner| owner.get("kind").text())
        .collect();
    if controllers.len() > 1 {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {}",
            controllers.join(" and ")
        );
        faults.push(Cause::invalid(owners.path.clone(), owners.value.clone(), detail));
    }
}

/// Finalizers are named for who takes them away; only those of the platform itself have plain names.
pub(super) fn finalizers(metadata: &At<'_>, faults: &mut Vec<Cause>) {
    let list = metadata.get("finalizers");
    let has = |name: &str| list.items().any(|one| one.text() == name);
    for one in list.items() {
        let wrong = label_key_faults(one.text());
        faults.extend(wrong.into_iter().map(|why| Cause::invalid(list.path.clone(), one.text(), why)));
    }
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        faults.push(Cause::invalid(list.path.clone(), list.value.clone(), detail));
    }
    for one in list.items() {
        of_whom(one.text(), &one.path, faults);
    }
}

/// A namespace has finalizers of its own beside those of every object.
pub(super) fn namespace(namespace: &At<'_>, faults: &mut Vec<Cause>) {
    let list = namespace.get("spec").get("finalizers");
    for one in list.items() {
        let wrong = label_key_faults(one.text());
        faults.extend(wrong.into_iter().map(|why| Cause::invalid(list.path.clone(), one.text(), why)));
        of_whom(one.text(), &list.path, faults);
    }
}

fn of_whom(finalizer: &str, path: &str, faults: &mut Vec<Cause>) {
    if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        faults.push(Cause::invalid(path, finalizer, detail));
    }
}

fn words(field: &str) -> &str {
    if field == "apiVersion" { "version" } else { field }
}

pub(super) fn labels(labels: &At<'_>, faults: &mut Vec<Cause>) {
    for (key, value) in labels.entries() {
        faults.extend(
            label_key_faults(key).into_iter().map(|fault| Cause::invalid(labels.path.clone(), key, fault)),
        );
        let text = value.text();
        faults.extend(
            label_value_faults(text)
                .into_iter()
                .map(|fault| Cause::invalid(labels.path.clone(), text, fault)),
        );
    }
}

fn annotations(annotations: &At<'_>, faults: &mut Vec<Cause>) {
    let mut bytes = 0;
    for (key, value) in annotations.entries() {
        // Upper case was allowed in annotation keys before it was refused in labels.
        let lower = key.to_ascii_lowercase();
        faults.extend(
            label_key_faults(&lower)
                .into_iter()
                .map(|fault| Cause::invalid(annotations.path.clone(), key, fault)),
        );
        bytes += key.len() + value.text().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        faults.push(Cause::too_long(annotations.path.clone(), ANNOTATIONS_BYTES_MAX));
    }
}
