//! What objects must look like beyond their types, with upstream's field paths and wording.
//!
//! Every function reports all faults, each with its path. Objects come in normalised and defaulted, so
//! types are right and only what a value says is judged. What needs other objects (is that port range
//! taken?) is the server's to judge.

mod address;
mod annotations;
mod certificate;
mod config;
mod container;
mod cursor;
mod diff;
mod downward;
mod event;
mod ip;
mod metadata;
pub mod names;
mod network_policy;
mod node;
mod pod;
mod pod_update;
mod probe;
mod rbac;
mod resource;
mod restart;
mod scheduling;
mod security;
mod selector;
mod service;
mod status;
mod update;
mod volume;
mod warnings;
mod windows;
mod workload;

use serde_json::Value;

use crate::status::Cause;
pub use certificate::request_pem as certificate_request_pem;
use cursor::At;

/// Faults of a new object.
pub fn create(group: &str, kind: &str, new: &Value) -> Vec<Cause> {
    let object = At::root(new);
    let mut faults = Vec::new();
    metadata::check(&object.get("metadata"), &mut faults);
    metadata::finalizers(&object.get("metadata"), &mut faults);
    if let Some(check) = of_kind(group, kind) {
        check(&object, &mut faults);
    }
    if (group, kind) == ("", "Pod") {
        annotations::create(&object, &mut faults);
    }
    faults
}

/// Faults of an update: those of the object itself, and changes of what may not change.
pub fn update(group: &str, kind: &str, subresource: &str, new: &Value, old: &Value) -> Vec<Cause> {
    let (new, old) = (At::root(new), At::root(old));
    let mut faults = Vec::new();
    metadata::check(&new.get("metadata"), &mut faults);
    if new.get("metadata").get("finalizers").value != old.get("metadata").get("finalizers").value {
        metadata::finalizers(&new.get("metadata"), &mut faults);
    }
    if subresource.is_empty() || subresource == "scale" {
        // An object that is stored with a fault, from before a rule was made, must stay changeable.
        let spec_changed = new.get("spec").value != old.get("spec").value;
        if let Some(check) = of_kind(group, kind).filter(|_| spec_changed || kind != "Pod") {
            check(&new, &mut faults);
            forgive_old_forms(check, &old, &mut faults);
        }
        if let Some(check) = update::of_kind(group, kind) {
            check(&new, &old, &mut faults);
        }
    }
    if (group, kind) == ("", "Pod") {
        annotations::update(&new, &old, &mut faults);
    }
    if subresource == "status"
        && let Some(check) = status::of_kind(group, kind)
    {
        check(&new, &old, &mut faults);
        forgive_old_forms(|old, faults| check(old, old, faults), &old, &mut faults);
    }
    if kind == "CertificateSigningRequest" {
        certificate::update(&new, &old, subresource, &mut faults);
    }
    faults
}

/// What is to be said of an object that is taken all the same, one text each.
pub fn warnings(group: &str, kind: &str, object: &Value) -> Vec<String> {
    warnings::of(group, kind, object)
}

/// An address that the old object has in a form that is refused today may be in the new one, too.
fn forgive_old_forms(check: impl Fn(&At<'_>, &mut Vec<Cause>), old: &At<'_>, faults: &mut Vec<Cause>) {
    if !faults.iter().any(ip::is_about_form) {
        return;
    }
    let mut before = Vec::new();
    check(old, &mut before);
    faults.retain(|fault| !ip::is_about_form(fault) || before.iter().all(|old| old.message != fault.message));
}

type Check = fn(&At<'_>, &mut Vec<Cause>);

/// One row a kind.
fn of_kind(group: &str, kind: &str) -> Option<Check> {
    Some(match (group, kind) {
        ("", "Pod") => pod::check,
        ("", "Service") => service::check,
        ("", "Node") => node::check,
        ("", "Namespace") => metadata::namespace,
        ("", "Event") => event::check,
        ("", "ConfigMap") => config::config_map,
        ("", "Secret") => config::secret,
        ("", "Endpoints") => service::endpoints,
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice,
        ("certificates.k8s.io", "CertificateSigningRequest") => certificate::check,
        ("apps", "Deployment") => workload::deployment,
        ("apps", "ReplicaSet") => workload::replica_set,
        ("apps", "DaemonSet") => workload::daemon_set,
        ("apps", "ControllerRevision") => workload::controller_revision,
        ("networking.k8s.io", "NetworkPolicy") => network_policy::check,
        ("scheduling.k8s.io", "PriorityClass") => config::priority_class,
        ("coordination.k8s.io", "Lease") => config::lease,
        ("rbac.authorization.k8s.io", "Role") => rbac::role,
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::cluster_role,
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::role_binding,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::cluster_role_binding,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
