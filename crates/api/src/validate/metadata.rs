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
