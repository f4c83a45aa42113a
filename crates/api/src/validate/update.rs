//! Changes of what may not change.

use serde_json::Value;

use super::cursor::At;
use super::diff::diff;
use super::rbac;
use crate::status::Cause;

const IMMUTABLE: &str = "field is immutable";

type Check = fn(&At<'_>, &At<'_>, &mut Vec<Cause>);

pub(super) fn of_kind(group: &str, kind: &str) -> Option<Check> {
    Some(match (group, kind) {
        ("", "Pod") => pod,
        ("", "Service") => service,
        ("", "Node") => node,
        ("", "ConfigMap") => |new, old, faults| sealed(new, old, &["data", "binaryData"], faults),
        ("", "Secret") => secret,
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => workload,
        ("apps", "ControllerRevision") => |new, old, faults| immutable(new, old, "data", faults),
        ("scheduling.k8s.io", "PriorityClass") => priority_class,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::same_role_ref,
        ("discovery.k8s.io", "EndpointSlice") => {
            |new, old, faults| immutable(new, old, "addressType", faults)
        }
        _ => return None,
    })
}

fn immutable(new: &At<'_>, old: &At<'_>, field: &str, faults: &mut Vec<Cause>) {
    let (new, old) = (new.get(field), old.get(field));
    if new.value != old.value {
        faults.push(Cause::invalid(new.path.clone(), new.value.clone(), IMMUTABLE));
    }
}

/// Only images, the deadline (shorter), tolerations (more) and a few fields of scheduling may change.
fn pod(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (new_spec, old_spec) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        let place = new_spec.get(list);
        if place.items().count() != old_spec.get(list).items().count() {
            let detail = "pod updates may not add or remove containers";
            faults.push(Cause::forbidden(place.path, detail));
            return;
        }
    }
    let (deadline, before) = (new_spec.get("activeDeadlineSeconds"), old_spec.get("activeDeadlineSeconds"));
    match (deadline.number(), before.number()) {
        (Some(new), Some(old)) if new > old => {
            faults.push(Cause::invalid(
                deadline.path.clone(),
                new,
                format!("must be less than or equal to previous value {old}"),
            ));
        }
        (None, Some(old)) => {
            faults.push(Cause::invalid(
                deadline.path.clone(),
                Value::Null,
                format!("must not update from a positive integer to nil value {old}"),
            ));
        }
        _ => {}
    }
    let tolerations = new_spec.get("tolerations");
    // For how long a taint is tolerated may change.
    let what = |item: At<'_>| {
        let mut what = item.value.clone();
        what.as_object_mut().map(|fields| fields.remove("tolerationSeconds"));
        what
    };
    let kept: Vec<Value> = tolerations.items().map(what).collect();
    if old_spec.get("tolerations").items().map(what).any(|item| !kept.contains(&item)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(Cause::forbidden(tolerations.path.clone(), detail));
    }
    let mut allowed = old_spec.value.clone();
    // As if what may change had been changed already.
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> =
            new_spec.get(list).items().map(|container| container.get("image").value.clone()).collect();
        if let Some(containers) = allowed.get_mut(list).and_then(Value::as_array_mut)
            && containers.len() == images.len()
        {
            for (container, image) in containers.iter_mut().zip(images) {
                container["image"] = image;
            }
        }
    }
    let gated = !old_spec.get("schedulingGates").is_empty();
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let grace = |spec: &At<'_>| spec.get("terminationGracePeriodSeconds").number();
    if grace(&new_spec) == Some(1) && grace(&old_spec).is_some_and(|seconds| seconds < 0) {
        free.push("terminationGracePeriodSeconds");
    }
    if gated {
        free.extend(["nodeSelector", "affinity"]);
        let (selector, before) = (new_spec.get("nodeSelector"), old_spec.get("nodeSelector"));
        if before.entries().any(|(key, label)| selector.value.get(key) != Some(label.value)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            faults.push(Cause::invalid(selector.path.clone(), selector.value.clone(), detail));
        }
    }
    for field in free {
        if let Some(map) = allowed.as_object_mut() {
            map.remove(field);
            if let Some(value) = new_spec.value.get(field) {
                map.insert(field.to_owned(), value.clone());
            }
        }
    }
    if &allowed != new_spec.value {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        let detail = format!("{detail}\n{}", diff(&allowed, new_spec.value));
        faults.push(Cause::forbidden(new_spec.path.clone(), detail));
    }
    let name = |gate: At<'_>| gate.get("name").text().to_owned();
    let before: Vec<String> = old_spec.get("schedulingGates").items().map(name).collect();
    for gate in new_spec.get("schedulingGates").items() {
        let place = gate.child("name");
        let name = name(gate);
        if !before.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            faults.push(Cause::forbidden(place, detail));
        }
    }
}

fn service(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (new_spec, old_spec) = (new.get("spec"), old.get("spec"));
    if [&new_spec, &old_spec].iter().any(|spec| spec.get("type").text() == "ExternalName") {
        return;
    }
    let (ip, before) = (new_spec.get("clusterIP"), old_spec.get("clusterIP"));
    if !before.is_empty() && ip.value != before.value {
        faults.push(Cause::invalid(
            new_spec.child("clusterIPs[0]"),
            ip.value.clone(),
            "may not change once set",
        ));
    }
}

fn node(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (new_spec, old_spec) = (new.get("spec"), old.get("spec"));
    let (range, before) = (new_spec.get("podCIDRs"), old_spec.get("podCIDRs"));
    if !before.is_empty() && range.value != before.value {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        faults.push(Cause::forbidden(range.path.clone(), detail));
    }
    let (provider, before) = (new_spec.get("providerID"), old_spec.get("providerID"));
    if !before.is_empty() && provider.value != before.value {
        let detail = "node updates may not change providerID except from \"\" to valid";
        faults.push(Cause::forbidden(provider.path.clone(), detail));
    }
}

/// A config map or secret that was declared immutable.
fn sealed(new: &At<'_>, old: &At<'_>, fields: &[&str], faults: &mut Vec<Cause>) {
    if !old.get("immutable").is_true() {
        return;
    }
    if !new.get("immutable").is_true() {
        faults.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if new.get(field).value != old.get(field).value {
            faults.push(Cause::forbidden(*field, "field is immutable when `immutable` is set"));
        }
    }
}

fn secret(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    immutable(new, old, "type", faults);
    sealed(new, old, &["data"], faults);
}

fn workload(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    immutable(&new.get("spec"), &old.get("spec"), "selector", faults);
}

fn priority_class(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    for field in ["value", "preemptionPolicy"] {
        if new.get(field).value != old.get(field).value {
            faults.push(Cause::forbidden(field, "may not be changed in an update."));
        }
    }
}
