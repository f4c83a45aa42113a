//! Names and amounts of what nodes have and containers ask for.

use super::cursor::At;
use crate::quantity::Quantity;
use crate::selector::label_key_faults;
use crate::status::Cause;

pub(super) const HUGE_PAGES: &str = "hugepages-";

/// Names without a domain that mean something somewhere, if only in quotas.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];
/// What is counted in wholes.
const WHOLE: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Somebody's own, of a domain that isn't Kubernetes'.
fn is_extended(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && label_key_faults(&format!("requests.{name}")).is_empty()
}

/// Whether a container may name it. Upstream asks two questions, and tells both answers.
pub(super) fn name_in_container(name: &str, place: &At<'_>, faults: &mut Vec<Cause>) {
    let mut wrong = label_key_faults(name);
    let own = name.contains('/');
    let standard =
        || STANDARD.contains(&name) || name.strip_prefix("requests.").unwrap_or(name).starts_with(HUGE_PAGES);
    if wrong.is_empty() && !own && !standard() {
        wrong.push("must be a standard resource type or fully qualified".into());
    }
    let of_containers =
        || ["cpu", "ephemeral-storage", "memory"].contains(&name) || name.starts_with(HUGE_PAGES);
    if !own && !of_containers() {
        wrong.push("must be a standard resource for containers".into());
    } else if own && !name.contains("kubernetes.io/") && !is_extended(name) {
        wrong.push("doesn't follow extended resource name standard".into());
    }
    faults.extend(wrong.into_iter().map(|fault| Cause::invalid(place.path.clone(), name, fault)));
}

/// An amount of it.
pub(super) fn amount(name: &str, place: &At<'_>, faults: &mut Vec<Cause>) {
    let Ok(amount) = place.text().parse::<Quantity>() else { return };
    if amount.is_negative() {
        faults.push(Cause::invalid(place.path.clone(), place.text(), "must be greater than or equal to 0"));
    }
    if (WHOLE.contains(&name) || is_extended(name)) && !amount.is_whole() {
        faults.push(Cause::invalid(place.path.clone(), place.text(), "must be an integer"));
    }
}
