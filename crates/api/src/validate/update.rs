//! Changes of what may not change.

use super::cursor::At;
use super::{pod_update, rbac};
use crate::status::Cause;

const IMMUTABLE: &str = "field is immutable";

type Check = fn(&At<'_>, &At<'_>, &mut Vec<Cause>);

pub(super) fn of_kind(group: &str, kind: &str) -> Option<Check> {
    Some(match (group, kind) {
        ("", "Pod") => pod_update::check,
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
