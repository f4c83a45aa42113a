//! Nodes.

use std::collections::BTreeSet;

use super::container::choice;
use super::cursor::At;
use super::{ip, resource};
use crate::selector::{label_key_faults, label_value_faults};
use crate::status::Cause;

pub(super) fn check(node: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = node.get("spec");
    let mut seen = std::collections::BTreeSet::new();
    for taint in spec.get("taints").items() {
        let key = taint.get("key");
        let wrong = label_key_faults(key.text());
        faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
        let value = taint.get("value");
        let wrong = label_value_faults(value.text());
        faults.extend(wrong.into_iter().map(|fault| Cause::invalid(value.path.clone(), value.text(), fault)));
        let effect = taint.get("effect");
        if effect.is_empty() {
            faults.push(Cause::required(effect.path.clone(), ""));
        }
        choice(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], faults);
        if !seen.insert((key.text(), effect.text())) {
            let mut fault = Cause::duplicate(taint.path.clone(), taint.value.clone());
            fault.message.push_str(": taints must be unique by key and effect pair");
            faults.push(fault);
        }
    }
    let ranges = spec.get("podCIDRs");
    for range in ranges.items() {
        ip::range(&range, faults);
    }
    let single = spec.get("podCIDR");
    if !single.is_empty() && ranges.is_empty() {
        ip::range(&single, faults);
    }
    status(node, faults);
}

/// What a node says that it has, and where it is; judged whichever way it is written.
pub(super) fn status(node: &At<'_>, faults: &mut Vec<Cause>) {
    let status = node.get("status");
    for list in ["capacity", "allocatable"] {
        let list = status.get(list);
        for (name, amount) in list.entries() {
            resource::amount(name, &At { value: amount.value, path: list.child(name) }, faults);
        }
    }
    let mut seen = BTreeSet::new();
    for address in status.get("addresses").items() {
        if !seen.insert((address.get("type").text(), address.get("address").text())) {
            faults.push(Cause::duplicate(address.path.clone(), address.value.clone()));
        }
    }
}
