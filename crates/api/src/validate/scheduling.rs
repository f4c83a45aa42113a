//! Where a pod may go relative to other pods: affinity between pods, and spreading.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use super::container::choice;
use super::cursor::At;
use super::names;
use super::workload::of_selector;
use crate::selector::{label_key_faults, label_selector_faults};
use crate::status::Cause;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_POSITIVE: &str = "must be greater than zero";

/// `affinity` of a pod's specification, but for that to nodes.
pub(super) fn pod_affinity(affinity: &At<'_>, faults: &mut Vec<Cause>) {
    for kind in ["podAffinity", "podAntiAffinity"].map(|kind| affinity.get(kind)) {
        kind.get(REQUIRED).items().for_each(|one| term(&one, faults));
        for preferred in kind.get(PREFERRED).items() {
            weight(&preferred.get("weight"), faults);
            term(&preferred.get("podAffinityTerm"), faults);
        }
    }
}

/// How much a preference counts.
pub(super) fn weight(weight: &At<'_>, faults: &mut Vec<Cause>) {
    let number = weight.number().unwrap_or(0);
    if !(1..=100).contains(&number) {
        faults.push(Cause::invalid(weight.path.clone(), number, "must be in the range 1-100"));
    }
}

fn term(term: &At<'_>, faults: &mut Vec<Cause>) {
    selector(&term.get("labelSelector"), faults);
    selector(&term.get("namespaceSelector"), faults);
    for namespace in term.get("namespaces").items() {
        if let Some(fault) = names::label(namespace.text()) {
            faults.push(Cause::invalid(term.child("namespace"), namespace.text(), fault));
        }
    }
    let key = term.get("topologyKey");
    topology_key(&key, faults);
    let wrong = if key.is_empty() { Vec::new() } else { label_key_faults(key.text()) };
    faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
}

fn topology_key(key: &At<'_>, faults: &mut Vec<Cause>) {
    if key.is_empty() {
        faults.push(Cause::required(key.path.clone(), "can not be empty"));
    }
}

fn selector(place: &At<'_>, faults: &mut Vec<Cause>) {
    if !place.is_there() {
        return;
    }
    match LabelSelector::deserialize(place.value) {
        Ok(selector) => {
            faults.extend(label_selector_faults(&selector, &place.path).into_iter().map(of_selector));
        }
        Err(error) => {
            faults.push(Cause::invalid(place.path.clone(), place.value.clone(), error.to_string()));
        }
    }
}

pub(super) fn topology_spread(constraints: &At<'_>, faults: &mut Vec<Cause>) {
    // A pair that occurs again is told where it first stands.
    let pair = |constraint: &At<'_>| {
        (
            constraint.get("topologyKey").text().to_owned(),
            constraint.get("whenUnsatisfiable").text().to_owned(),
        )
    };
    let mut again: BTreeSet<usize> = BTreeSet::new();
    let pairs: Vec<_> = constraints.items().map(|constraint| pair(&constraint)).collect();
    for (at, one) in pairs.iter().enumerate() {
        if pairs[at + 1..].contains(one) {
            again.insert(at);
        }
    }
    for (at, constraint) in constraints.items().enumerate() {
        let skew = constraint.get("maxSkew");
        let number = skew.number().unwrap_or(0);
        if number <= 0 {
            faults.push(Cause::invalid(skew.path.clone(), number, NOT_POSITIVE));
        }
        topology_key(&constraint.get("topologyKey"), faults);
        let action = constraint.get("whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.text()) {
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            faults.push(Cause::not_supported(action.path.clone(), action.text(), supported));
        }
        if again.contains(&at) {
            let (key, action) = &pairs[at];
            let place = constraint.child("{topologyKey, whenUnsatisfiable}");
            faults.push(Cause::duplicate(place, format!("{{{key}, {action}}}")));
        }
        let domains = constraint.get("minDomains");
        if let Some(number) = domains.number() {
            if number <= 0 {
                faults.push(Cause::invalid(domains.path.clone(), number, NOT_POSITIVE));
            }
            if action.text() != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                );
                faults.push(Cause::invalid(domains.path.clone(), number, detail));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            choice(&constraint.get(policy), &["Honor", "Ignore"], faults);
        }
        selector(&constraint.get("labelSelector"), faults);
    }
}
