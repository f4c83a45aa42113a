//! What may become of a pod: images, a nearer deadline, more tolerations, opened gates; and while it waits at
//! one, a narrower choice of nodes.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::cursor::At;
use super::diff::diff;
use crate::status::Cause;

const RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

pub(super) fn check(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (new, old) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        let place = new.get(list);
        if place.items().count() != old.get(list).items().count() {
            let detail = "pod updates may not add or remove containers";
            faults.push(Cause::forbidden(place.path, detail));
            return;
        }
    }
    if !deadline(&new.get("activeDeadlineSeconds"), &old.get("activeDeadlineSeconds"), faults) {
        return;
    }
    tolerations(&new.get("tolerations"), &old.get("tolerations"), faults);
    gates(&new.get("schedulingGates"), &old.get("schedulingGates"), faults);
    if is_gated(&old) {
        node_selector(&new.get("nodeSelector"), &old.get("nodeSelector"), faults);
        let [wanted, present] = [&new, &old].map(|spec| spec.get("affinity").get("nodeAffinity"));
        node_affinity(&wanted, &present, faults);
    }
    let rest = without_what_may_change(&new, &old);
    if rest != *old.value {
        let detail = format!("{RULE}\n{}", diff(old.value, &rest));
        faults.push(Cause::forbidden(new.path, detail));
    }
}

fn is_gated(spec: &At<'_>) -> bool {
    !spec.get("schedulingGates").is_empty()
}

/// Whether it makes sense to look further.
fn deadline(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) -> bool {
    match (new.number(), old.number()) {
        (Some(number), Some(before)) if number > before => {
            let detail = "must be less than or equal to previous value";
            faults.push(Cause::invalid(new.path.clone(), number, detail));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            faults.push(Cause::invalid(new.path.clone(), Value::Null, detail));
            true
        }
        _ => true,
    }
}

fn tolerations(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    // For how long a taint is tolerated may change.
    fn what<'a>(item: At<'a>) -> [&'a str; 4] {
        ["key", "operator", "value", "effect"].map(|field| item.get(field).text())
    }
    let kept: BTreeSet<_> = new.items().map(what).collect();
    if old.items().map(what).any(|item| !kept.contains(&item)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(Cause::forbidden(new.path.clone(), detail));
    }
}

fn gates(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let before: BTreeSet<&str> = old.items().map(|gate| gate.get("name").text()).collect();
    for gate in new.items() {
        let name = gate.get("name");
        if !before.contains(name.text()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
            faults.push(Cause::forbidden(name.path, detail));
        }
    }
}

fn node_selector(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    if old.entries().any(|(key, label)| new.value.get(key) != Some(label.value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        faults.push(Cause::invalid(new.path.clone(), new.value.clone(), detail));
    }
}

/// Of the terms one must hold, so that another one would let in more nodes; of what a term requires all must
/// hold, so that more lets in fewer.
fn node_affinity(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let [new, old] = [new, old].map(|affinity| affinity.get(REQUIRED).get("nodeSelectorTerms"));
    if old.is_empty() {
        return;
    }
    if new.items().count() != old.items().count() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        faults.push(Cause::invalid(new.path.clone(), new.value.clone(), detail));
        return;
    }
    for (term, before) in new.items().zip(old.items()) {
        if !has_only_additions(&term, &before) {
            let detail = "only additions are allowed (no mutations or deletions)";
            faults.push(Cause::invalid(term.path.clone(), term.value.clone(), detail));
        }
    }
}

fn has_only_additions(new: &At<'_>, old: &At<'_>) -> bool {
    const LISTS: [&str; 2] = ["matchExpressions", "matchFields"];
    // A term that requires nothing selects nothing: whatever is added lets in more.
    if LISTS.iter().all(|list| old.get(list).is_empty()) {
        return LISTS.iter().all(|list| new.get(list).is_empty());
    }
    LISTS.iter().all(|list| {
        let (new, old) = (new.get(list), old.get(list));
        let same = new.items().zip(old.items()).take_while(|(new, old)| new.value == old.value).count();
        same == old.items().count()
    })
}

/// The new specification as if nothing had changed that may.
fn without_what_may_change(new: &At<'_>, old: &At<'_>) -> Value {
    let mut rest = new.value.clone();
    for list in ["containers", "initContainers"] {
        let containers = rest.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(old.get(list).items()) {
            container["image"] = before.get("image").value.clone();
        }
    }
    let Some(fields) = rest.as_object_mut() else { return rest };
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let grace = |spec: &At<'_>| spec.get("terminationGracePeriodSeconds").number();
    if grace(new) == Some(1) && grace(old).is_some_and(|seconds| seconds < 0) {
        free.push("terminationGracePeriodSeconds");
    }
    if is_gated(old) {
        free.push("nodeSelector");
        let mut affinity = fields.get("affinity").and_then(Value::as_object).cloned().unwrap_or_default();
        put_back(&mut affinity, &old.get("affinity"), "nodeAffinity");
        match affinity.is_empty() && !old.get("affinity").is_there() {
            true => fields.remove("affinity"),
            false => fields.insert("affinity".into(), affinity.into()),
        };
    }
    free.into_iter().for_each(|field| put_back(fields, old, field));
    rest
}

fn put_back(fields: &mut Map<String, Value>, old: &At<'_>, field: &str) {
    match old.value.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}
