//! What is said of an object by those who run it: counts that can be, addresses that are addresses, and no
//! container back from its end.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::container::choice;
use super::cursor::At;
use super::{ip, names, node, pod, security};
use crate::selector::label_key_faults;
use crate::status::Cause;

type Check = fn(&At<'_>, &At<'_>, &mut Vec<Cause>);

/// One row a kind whose status has rules: the new object, the old one, the faults.
pub(super) fn of_kind(group: &str, kind: &str) -> Option<Check> {
    Some(match (group, kind) {
        ("", "Pod") => pod_status,
        ("", "Node") => |new, _, faults| node::status(new, faults),
        ("", "Service") => service,
        ("", "Namespace") => namespace,
        ("apps", "Deployment") => deployment,
        ("apps", "ReplicaSet") => replica_set,
        ("apps", "DaemonSet") => daemon_set,
        _ => return None,
    })
}

fn number(status: &At<'_>, field: &str) -> i64 {
    status.get(field).number().unwrap_or(0)
}

fn not_negative(status: &At<'_>, fields: &[&str], faults: &mut Vec<Cause>) {
    for place in fields.iter().map(|field| status.get(field)) {
        if let Some(number) = place.number().filter(|number| *number < 0) {
            faults.push(Cause::invalid(place.path, number, "must be greater than or equal to 0"));
        }
    }
}

/// None of these counts is more than the one that they are part of.
fn at_most(status: &At<'_>, parts: &[&str], whole: &str, detail: &str, faults: &mut Vec<Cause>) {
    let most = number(status, whole);
    for part in parts.iter().filter(|part| number(status, part) > most) {
        faults.push(Cause::invalid(status.child(part), number(status, part), detail));
    }
}

const OF_REPLICAS: &str = "cannot be greater than status.replicas";
const OF_READY: &str = "cannot be greater than readyReplicas";

fn deployment(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let status = new.get("status");
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    not_negative(&status, &counts, faults);
    let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    at_most(&status, &parts, "replicas", OF_REPLICAS, faults);
    at_most(&status, &["availableReplicas"], "readyReplicas", OF_READY, faults);
    collisions(&status, &old.get("status"), faults);
}

fn replica_set(new: &At<'_>, _old: &At<'_>, faults: &mut Vec<Cause>) {
    let status = new.get("status");
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ];
    not_negative(&status, &counts, faults);
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    at_most(&status, &parts, "replicas", OF_REPLICAS, faults);
    at_most(&status, &["availableReplicas"], "readyReplicas", OF_READY, faults);
}

fn daemon_set(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let status = new.get("status");
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    not_negative(&status, &counts, faults);
    collisions(&status, &old.get("status"), faults);
}

fn collisions(status: &At<'_>, before: &At<'_>, faults: &mut Vec<Cause>) {
    let count = number(status, "collisionCount");
    if count < number(before, "collisionCount") {
        faults.push(Cause::invalid(status.child("collisionCount"), count, "cannot be decremented"));
    }
}

fn namespace(new: &At<'_>, _old: &At<'_>, faults: &mut Vec<Cause>) {
    let deleted = new.get("metadata").get("deletionTimestamp").is_there();
    let phase = new.get("status").get("phase");
    let (wanted, detail) = match deleted {
        true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
    };
    if phase.text() != wanted {
        // Upstream's spelling of the field.
        faults.push(Cause::invalid("status.Phase", phase.text(), detail));
    }
}

fn service(new: &At<'_>, _old: &At<'_>, faults: &mut Vec<Cause>) {
    let ingress = new.get("status").get("loadBalancer").get("ingress");
    if new.get("spec").get("type").text() != "LoadBalancer" {
        if !ingress.is_empty() {
            let detail = "may only be used when `spec.type` is \"LoadBalancer\"";
            faults.push(Cause::forbidden(ingress.path, detail));
        }
        return;
    }
    for way in ingress.items() {
        let (address, mode, name) = (way.get("ip"), way.get("ipMode"), way.get("hostname"));
        if !address.is_empty() {
            ip::address(&address, faults);
        }
        match (address.is_empty(), mode.is_there()) {
            (false, false) => {
                faults.push(Cause::required(mode.path.clone(), "must be specified when `ip` is set"));
            }
            (true, true) => {
                faults.push(Cause::forbidden(mode.path.clone(), "may not be specified when `ip` is not set"));
            }
            _ => choice(&mode, &["Proxy", "VIP"], faults),
        }
        if name.is_empty() {
            continue;
        }
        if let Some(fault) = names::subdomain(name.text()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
        if name.text().parse::<IpAddr>().is_ok() {
            let detail = "must be a DNS name, not an IP address";
            faults.push(Cause::invalid(name.path.clone(), name.text(), detail));
        }
    }
}

/// The lists of statuses, and what runs them.
const STATUSES: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

fn pod_status(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (status, before) = (new.get("status"), old.get("status"));
    for (at, condition) in status.get("conditions").items().enumerate() {
        let kind = condition.get("type").text();
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            // Upstream's path of a condition.
            let path = format!("metadata.conditions[{at}].Type");
            let wrong = label_key_faults(kind).into_iter();
            faults.extend(wrong.map(|fault| Cause::invalid(path.clone(), kind, fault)));
        }
    }
    let node = status.get("nominatedNodeName");
    if !node.is_empty()
        && node.value != before.get("nominatedNodeName").value
        && let Some(fault) = names::subdomain(node.text())
    {
        faults.push(Cause::invalid(node.path.clone(), node.text(), fault));
    }
    let class = status.get("qosClass");
    if class.text() != before.get("qosClass").text() {
        faults.push(Cause::invalid(class.path.clone(), class.text(), "field is immutable"));
    }
    for (list, containers) in STATUSES {
        ends(&status.get(list), &before.get(list), &old.get("spec"), containers, faults);
    }
    claims(&status.get("resourceClaimStatuses"), &new.get("spec"), faults);
    pod::addresses(&status, faults);
    let windows = new.get("spec").get("os").get("name").text() == "windows";
    for (list, _) in STATUSES {
        for container in status.get(list).items() {
            users(&container, windows, faults);
        }
    }
}

/// A container that is not to be started again does not come back from its end.
fn ends(new: &At<'_>, old: &At<'_>, spec: &At<'_>, containers: &str, faults: &mut Vec<Cause>) {
    for before in old.items() {
        let ended = before.get("state").get("terminated");
        if !ended.is_there() || may_start_again(&before, &ended, spec, containers) {
            continue;
        }
        for now in new.items().filter(|now| now.get("name").text() == before.get("name").text()) {
            if !now.get("state").get("terminated").is_there() {
                let detail = "may not be transitioned to non-terminated state";
                faults.push(Cause::forbidden(before.get("state").path, detail));
            }
        }
    }
}

fn may_start_again(status: &At<'_>, ended: &At<'_>, spec: &At<'_>, containers: &str) -> bool {
    // Nobody starts these again, whatever the pod's policy.
    if containers == "ephemeralContainers" {
        return false;
    }
    let starts_all = |container: &At<'_>| {
        let rules = container.get("restartPolicyRules");
        rules.items().any(|rule| rule.get("action").text() == "RestartAllContainers")
    };
    if ["containers", "initContainers"].iter().any(|list| spec.get(list).items().any(|c| starts_all(&c))) {
        return true;
    }
    let of_pod = spec.get("restartPolicy");
    let own = spec.get(containers).items().find(|own| own.get("name").text() == status.get("name").text());
    if own.as_ref().is_some_and(|own| !own.get("restartPolicyRules").is_empty()) {
        return true;
    }
    let of_container = own.map(|own| own.get("restartPolicy").text()).filter(|policy| !policy.is_empty());
    let failed = ended.get("exitCode").number().unwrap_or(0) != 0;
    match of_container.unwrap_or(of_pod.text()) {
        "Always" => true,
        "OnFailure" => failed,
        _ => false,
    }
}

fn claims(statuses: &At<'_>, spec: &At<'_>, faults: &mut Vec<Cause>) {
    let of_pod = spec.get("resourceClaims");
    let of_pod: BTreeSet<&str> = of_pod.items().map(|claim| claim.get("name").text()).collect();
    let mut seen = BTreeSet::new();
    for status in statuses.items() {
        let (name, claim) = (status.get("name"), status.get("resourceClaimName"));
        if !of_pod.contains(name.text()) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            faults.push(Cause::invalid(name.path.clone(), name.text(), detail));
        }
        if !seen.insert(name.text()) {
            faults.push(Cause::duplicate(name.path.clone(), name.text()));
        }
        if claim.is_there()
            && let Some(fault) = names::subdomain(claim.text())
        {
            faults.push(Cause::invalid(name.path, claim.text(), fault));
        }
    }
}

/// Who a container's first process runs as.
fn users(container: &At<'_>, windows: bool, faults: &mut Vec<Cause>) {
    let user = container.get("user").get("linux");
    if !user.is_there() {
        return;
    }
    // Upstream leaves `user` out of the path.
    let place = At { value: user.value, path: container.child("linux") };
    if windows {
        faults.push(Cause::forbidden(place.path, "cannot be set for a windows pod"));
        return;
    }
    for id in ["uid", "gid"] {
        security::id(&place.get(id), faults);
    }
    for group in place.get("supplementalGroups").items() {
        security::id(&group, faults);
    }
}
