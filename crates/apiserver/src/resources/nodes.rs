//! Nodes: no two share a pod range; heartbeats need not survive a crash.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use skiff_api::status::{Cause, GroupResource, StatusError};

use super::{Cx, Strategy, find};
use crate::claims::{Claim, Held, Taken};

pub(crate) struct Nodes;

impl Strategy for Nodes {
    fn prepare_create(&self, _cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        one_range(new)
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, _old: &Value) -> Result<(), StatusError> {
        one_range(new)
    }

    fn validate(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        let ranges = ranges(new);
        if ranges.is_empty() || old.is_some_and(|old| self::ranges(old) == ranges) {
            return Vec::new();
        }
        let mut faults = of_services(&ranges, &cx.server.config.service_cidr.to_string());
        let nodes = find("", "nodes").expect("nodes are in the table");
        let view = cx.server.caches.of(nodes).view(0);
        for other in view.objects.values().filter(|o| *o.key != *cx.key) {
            let theirs = stored_ranges(&other.body);
            for (i, range) in ranges.iter().enumerate() {
                if let Some(taken) = theirs.iter().find(|t| overlap(t, range)) {
                    let detail = format!("overlaps the pod range {taken} of node {:?}", other.name());
                    faults.push(Cause::invalid(format!("spec.podCIDRs[{i}]"), range.as_str(), detail));
                }
            }
        }
        faults
    }

    /// Two nodes that ask for one range at the same moment both pass [`Strategy::validate`].
    fn allocate(&self, cx: &Cx<'_>, new: &mut Value, old: Option<&Value>) -> Result<Taken, StatusError> {
        let kept = old.map(spans).unwrap_or_default();
        let mut taken = cx.server.claims.attempt(crate::metadata::text(new, "uid"), cx.key);
        for (first, last) in spans(new).into_iter().filter(|span| !kept.contains(span)) {
            let Err(held) = cx.server.claims.take(&mut taken, Claim::PodRange(first, last)) else { continue };
            let nodes = GroupResource { group: "", resource: "nodes" };
            let name = crate::metadata::text(new, "name");
            let why = "another node is just getting an overlapping pod range";
            return Err(match held {
                Held::ByNamesake => StatusError::already_exists(nodes, name),
                Held::ByAnother => StatusError::conflict(nodes, name, why),
            });
        }
        Ok(taken)
    }

    /// A status that differs only in its heartbeats.
    fn volatile(&self, new: &Value, old: Option<&Value>) -> bool {
        old.is_some_and(|old| without_heartbeats(new) == without_heartbeats(old))
    }
}

/// A pod with an address of a Service's would be reached by nobody.
fn of_services(ranges: &[String], services: &str) -> Vec<Cause> {
    let within = ranges.iter().enumerate().filter(|(_, range)| overlap(range, services));
    let fault = |(i, range): (usize, &String)| {
        let detail = format!("overlaps the service range {services}");
        Cause::invalid(format!("spec.podCIDRs[{i}]"), range.as_str(), detail)
    };
    within.map(fault).collect()
}

/// The older field says the same as the newer one's first element, or the node would have two ranges.
fn one_range(node: &mut Value) -> Result<(), StatusError> {
    let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let one = text(spec.get("podCIDR"));
    let first = text(spec.get("podCIDRs").and_then(|list| list.get(0)));
    match (one.is_empty(), first.is_empty()) {
        (true, true) => {}
        (true, false) => drop(spec.insert("podCIDR".into(), first.into())),
        (false, true) => drop(spec.insert("podCIDRs".into(), serde_json::json!([one]))),
        (false, false) if one != first => {
            let why = "conversion Error: v1.PodCIDR and v1.CIDRs[0] do not match";
            let message = format!("Node in version \"v1\" cannot be handled as a Node: {why}");
            return Err(StatusError::bad_request(message));
        }
        (false, false) => {}
    }
    Ok(())
}

/// First and last address of each of a node's ranges.
pub(crate) fn spans(node: &Value) -> Vec<(u32, u32)> {
    ranges(node).iter().filter_map(|r| span(r)).collect()
}

/// What a node has of the addresses of pods, by either field.
pub(crate) fn ranges(node: &Value) -> Vec<String> {
    read_ranges(node)
}

/// The same of a node's text, of which nothing else is read: each new node asks all others.
fn stored_ranges(body: &[u8]) -> Vec<String> {
    read_ranges(&mut serde_json::Deserializer::from_slice(body))
}

fn read_ranges<'de>(node: impl Deserializer<'de>) -> Vec<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Stored {
        spec: Option<Spec>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        #[serde(rename = "podCIDR")]
        one: Option<String>,
        #[serde(rename = "podCIDRs")]
        all: Option<Vec<String>>,
    }
    let Spec { one, all } = Stored::deserialize(node).unwrap_or_default().spec.unwrap_or_default();
    let mut ranges = all.unwrap_or_default();
    ranges.extend(one.filter(|one| !one.is_empty() && !ranges.contains(one)));
    ranges
}

fn without_heartbeats(node: &Value) -> Value {
    let mut node = node.clone();
    if let Some(conditions) = node["status"]["conditions"].as_array_mut() {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("lastHeartbeatTime");
        }
    }
    node
}

/// First and last address of an IPv4 range.
fn span(range: &str) -> Option<(u32, u32)> {
    let (address, prefix) = range.split_once('/')?;
    let address = u32::from(address.parse::<std::net::Ipv4Addr>().ok()?);
    let prefix: u32 = prefix.parse().ok().filter(|p| *p <= 32)?;
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
    Some((address & mask, address | !mask))
}

fn overlap(a: &str, b: &str) -> bool {
    match (span(a), span(b)) {
        (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_ranges_of_both_fields_once() {
        let check = |spec: Value, expected: &[&str]| {
            let node = serde_json::json!({"metadata": {"name": "a"}, "spec": spec, "status": {"x": [1]}});
            assert_eq!(ranges(&node), expected, "{node}");
            assert_eq!(stored_ranges(node.to_string().as_bytes()), expected, "{node}");
        };
        check(serde_json::json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}), &["10.0.0.0/24"]);
        check(serde_json::json!({"podCIDR": "10.0.0.0/24"}), &["10.0.0.0/24"]);
        check(
            serde_json::json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]}),
            &["10.0.1.0/24", "10.0.0.0/24"],
        );
        check(serde_json::json!({"podCIDR": "", "podCIDRs": null}), &[]);
        check(Value::Null, &[]);
    }

    #[test]
    fn no_range_of_pods_is_within_the_services() {
        let said = |ranges: &[&str]| -> Vec<String> {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let faults = of_services(&ranges, "10.96.0.0/16");
            faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
        };
        assert_eq!(said(&["10.244.0.0/24", "fd00::/64", "10.97.0.0/24"]), [""; 0]);
        for (n, range) in ["10.96.3.0/24", "10.0.0.0/8", "10.96.0.0/16"].into_iter().enumerate() {
            let fault = "overlaps the service range 10.96.0.0/16";
            let ranges: Vec<&str> = std::iter::repeat_n("10.244.0.0/24", n).chain([range]).collect();
            assert_eq!(said(&ranges), [format!("spec.podCIDRs[{n}]: Invalid value: {range:?}: {fault}")]);
        }
    }

    #[test]
    fn ranges_overlap_when_they_share_an_address() {
        assert!(overlap("10.244.1.0/24", "10.244.0.0/16"));
        assert!(overlap("10.244.1.0/24", "10.244.1.128/25"));
        assert!(!overlap("10.244.1.0/24", "10.244.2.0/24"));
        assert!(overlap("0.0.0.0/0", "1.2.3.4/32"));
    }
}
