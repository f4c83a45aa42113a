//! Nodes.

use super::container::choice;
use super::cursor::At;
use crate::selector::{label_key_faults, label_value_faults};
use crate::status::Cause;

pub(super) fn check(node: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = node.get("spec");
    let mut seen = std::collections::BTreeSet::new();
    for taint in spec.get("taints").items() {
        let key = taint.get("key");
        if key.is_empty() {
            faults.push(Cause::required(key.path.clone(), ""));
        } else {
            let wrong = label_key_faults(key.text());
            faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
        }
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
        if !is_range(range.text()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            faults.push(Cause::invalid(range.path.clone(), range.text(), detail));
        }
    }
    let single = spec.get("podCIDR");
    if !single.is_empty() && !is_range(single.text()) && ranges.is_empty() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        faults.push(Cause::invalid(single.path.clone(), single.text(), detail));
    }
}

fn is_range(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= most)
}
