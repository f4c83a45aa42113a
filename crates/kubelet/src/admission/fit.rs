//! Whether the node has room for a pod and is one that the pod means: what upstream's agent checks of the
//! scheduler's filters, for pods that name their node themselves.

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use skiff_api::quantity;
use skiff_api::selector::node_selector_matches;

use crate::plan::Waiting;
use crate::resources::requests;

/// What pods can have of the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room<'a> {
    pub(crate) pods: u32,
    pub(crate) cpu_milli: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    /// For its labels and for resources of other kinds.
    pub(crate) node: Option<&'a Node>,
}

/// Why the pod does not fit beside `others`; the first reason in upstream's order.
pub(super) fn misfit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    room: &Room<'_>,
) -> Option<Waiting> {
    let spec = pod.spec.as_ref()?;
    let count = i64::try_from(others.clone().count()).unwrap_or(i64::MAX);
    let most = i64::from(room.pods);
    if count >= most {
        return Some(lacking("pods", 1, count, most));
    }
    let specs = others.filter_map(|other| other.spec.as_ref());
    let lacks = |name: &str, capacity: i64| {
        let asked = request(spec, name);
        let used = specs.clone().map(|other| request(other, name)).fold(0, i64::saturating_add);
        (asked > 0 && asked > capacity.saturating_sub(used)).then(|| lacking(name, asked, used, capacity))
    };
    let known =
        [("cpu", room.cpu_milli), ("memory", room.memory_bytes), ("ephemeral-storage", room.disk_bytes)];
    known
        .into_iter()
        .find_map(|(name, capacity)| lacks(name, capacity))
        .or_else(|| {
            // Of other kinds only those that the node has count: some belong to the cluster.
            let allocatable = room.node?.status.as_ref()?.allocatable.as_ref()?;
            let mut others = allocatable.iter().filter(|(name, _)| {
                *name != "pods" && known.iter().all(|(known, _)| *known != name.as_str())
            });
            others.find_map(|(name, amount)| lacks(name, quantity::of(Some(amount)).value()))
        })
        .or_else(|| {
            let meant = room.node.is_none_or(|node| is_meant(spec, node));
            (!meant).then(|| predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
        })
}

/// A rejection as upstream tells it of a scheduler's filter.
pub(super) fn predicate(name: &str, why: &str) -> Waiting {
    Waiting {
        reason: name.into(),
        message: Some(format!("Pod was rejected: Predicate {name} failed: {why}")),
    }
}

fn lacking(name: &str, requested: i64, used: i64, capacity: i64) -> Waiting {
    Waiting {
        reason: format!("OutOf{name}"),
        message: Some(format!(
            "Pod was rejected: Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        )),
    }
}

/// CPU in thousandths, all else in units.
fn request(spec: &PodSpec, name: &str) -> i64 {
    let amount = |list: Option<&std::collections::BTreeMap<_, _>>| {
        let amount = quantity::of(list.and_then(|list| list.get(name)));
        if name == "cpu" { amount.milli_value() } else { amount.value() }
    };
    let of = |container: &Container| amount(requests(container));
    let sum = spec.containers.iter().map(of).fold(0, i64::saturating_add);
    let peak = spec.init_containers.iter().flatten().map(of).fold(sum, i64::max);
    peak.saturating_add(amount(spec.overhead.as_ref()))
}

fn is_meant(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    selected && required.is_none_or(|required| node_selector_matches(required, labels, name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(requests: Value) -> Pod {
        let resources = json!({"requests": requests});
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
            .expect("a pod")
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "9", "pods": "9", "example.com/gpu": "2"}},
        }))
        .expect("a node")
    }

    fn check(pod: &Pod, others: &[Pod], expected: Option<(&str, &str)>) {
        let node = node();
        let room =
            Room { pods: 3, cpu_milli: 2_000, memory_bytes: 1 << 30, disk_bytes: 1 << 30, node: Some(&node) };
        let found = misfit(pod, others.iter(), &room);
        let found =
            found.as_ref().map(|found| (found.reason.as_str(), found.message.as_deref().unwrap_or_default()));
        let expected = expected.map(|(reason, message)| (reason, format!("Pod was rejected: {message}")));
        assert_eq!(found, expected.as_ref().map(|(reason, message)| (*reason, message.as_str())));
    }

    #[test]
    fn what_the_node_lacks_is_named_with_amounts() {
        let one = pod(json!({"cpu": "1500m", "memory": "512Mi"}));
        check(&one, &[], None);
        check(
            &one,
            std::slice::from_ref(&one),
            Some((
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000",
            )),
        );
        check(
            &pod(json!({"memory": "1Gi"})),
            std::slice::from_ref(&one),
            Some((
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 1073741824, used: 536870912, capacity: 1073741824",
            )),
        );
        check(
            &pod(json!({"ephemeral-storage": "2Gi"})),
            &[],
            Some((
                "OutOfephemeral-storage",
                "Node didn't have enough resource: ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824",
            )),
        );
        let none = pod(json!({}));
        check(
            &none,
            &[none.clone(), none.clone(), none.clone()],
            Some(("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3")),
        );
        // A node that is overfull takes what asks for nothing.
        check(&none, &[one.clone(), one], None);
    }

    #[test]
    fn resources_of_other_kinds_count_where_the_node_has_them() {
        check(&pod(json!({"example.com/gpu": "2", "example.com/license": "5"})), &[], None);
        check(
            &pod(json!({"example.com/gpu": "3"})),
            &[],
            Some((
                "OutOfexample.com/gpu",
                "Node didn't have enough resource: example.com/gpu, requested: 3, used: 0, capacity: 2",
            )),
        );
    }

    #[test]
    fn init_containers_and_overhead_count() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "100m"},
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1950m"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        }}))
        .expect("a pod");
        check(
            &pod,
            &[],
            Some((
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 2050, used: 0, capacity: 2000",
            )),
        );
    }

    #[test]
    fn the_node_must_be_one_that_is_meant() {
        let mismatch = Some((
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
        let with = |spec: Value| -> Pod {
            let mut spec = spec;
            spec["containers"] = json!([{"name": "c"}]);
            serde_json::from_value(json!({ "spec": spec })).expect("a pod")
        };
        check(&with(json!({"nodeSelector": {"disk": "ssd"}})), &[], None);
        check(&with(json!({"nodeSelector": {"disk": "tape"}})), &[], mismatch);
        let affinity = |value: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}],
            }}}})
        };
        check(&with(affinity("ssd")), &[], None);
        check(&with(affinity("tape")), &[], mismatch);
    }
}
