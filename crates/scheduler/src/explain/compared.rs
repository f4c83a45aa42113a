//! What a filter compared, in words: both sides of every comparison, whatever came of it.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Taint};
use skiff_client::ObjectKey;
use skiff_explain::pending::Use;

use crate::filter::Refusal;
use crate::filter::taints::{describe, tolerates, tolerations};
use crate::resources::Resources;
use crate::snapshot::{NodeInfo, PodInfo};

/// Pods that are named as users of what lacks.
const USERS_MAX: usize = 5;

/// The comparison of the filter of that name.
pub(super) fn compared(filter: &str, pod: &PodInfo, node: &NodeInfo, refusal: Option<&Refusal>) -> String {
    match filter {
        "NodeUnschedulable" => unschedulable(pod, node),
        "NodeName" => match pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            None | Some("") => "the pod names no node".into(),
            Some(name) => format!("the pod names {name}, this is {}", node.name),
        },
        "TaintToleration" => taints(pod, node),
        "NodeAffinity" => affinity(pod, node),
        "NodePorts" => ports(pod, node),
        "NodeResourcesFit" => resources(pod, node),
        "PodTopologySpread" => neighbours(refusal, pod.requires.spreads(), "spread constraints"),
        _ => {
            let of_pod = pod.requires.affinities();
            neighbours(refusal, of_pod, "terms of affinity or anti-affinity")
        }
    }
}

fn neighbours(refusal: Option<&Refusal>, count: usize, what: &str) -> String {
    match (refusal, count) {
        (Some(refusal), _) => refusal.detail.clone(),
        (None, 0) => format!("the pod has no {what}"),
        (None, count) => format!("its {count} required {what} hold here"),
    }
}

fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> String {
    if !node.is_unschedulable() {
        return "the node is not cordoned".into();
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    match tolerates(tolerations(pod), &taint) {
        true => "the node is cordoned, and the pod tolerates that".into(),
        false => format!("the node is cordoned; a toleration of {} would do", describe(&taint)),
    }
}

fn taints(pod: &PodInfo, node: &NodeInfo) -> String {
    if node.taints().is_empty() {
        return "the node has no taint".into();
    }
    let tolerations = tolerations(pod);
    let told = node.taints().iter().map(|taint| {
        let name = describe(taint);
        if tolerates(tolerations, taint) {
            format!("taint {name} is tolerated")
        } else if taint.effect == "PreferNoSchedule" {
            format!("taint {name} only counts against the node")
        } else {
            format!("taint {name} is not tolerated; this toleration would do: {}", toleration(taint))
        }
    });
    told.collect::<Vec<_>>().join("; ")
}

/// A toleration of that taint, as in a manifest.
fn toleration(taint: &Taint) -> String {
    match taint.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => format!("{{key: {}, value: {value}, effect: {}}}", taint.key, taint.effect),
        None => format!("{{key: {}, operator: Exists, effect: {}}}", taint.key, taint.effect),
    }
}

fn affinity(pod: &PodInfo, node: &NodeInfo) -> String {
    let Some(spec) = &pod.pod.spec else { return String::new() };
    let label = |key: &str| match node.labels().and_then(|labels| labels.get(key)) {
        Some(value) => format!("has {value:?}"),
        None => "has none".to_owned(),
    };
    let mut told: Vec<String> = spec
        .node_selector
        .iter()
        .flatten()
        .map(|(key, value)| format!("label {key} must be {value:?}, the node {}", label(key)))
        .collect();
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
    for (index, term) in required.iter().flat_map(|own| &own.node_selector_terms).enumerate() {
        let labels = term.match_expressions.iter().flatten().map(|own| (own, label(&own.key)));
        let fields = term.match_fields.iter().flatten().map(|own| (own, format!("is {}", node.name)));
        let parts: Vec<String> = labels
            .chain(fields)
            .map(|(own, has)| format!("{} must be {}, the node {has}", own.key, wanted(own)))
            .collect();
        told.push(format!("{}{}", if index == 0 { "" } else { "or " }, parts.join(" and ")));
    }
    if told.is_empty() { "the pod selects no nodes".into() } else { told.join("; ") }
}

fn wanted(own: &NodeSelectorRequirement) -> String {
    let values = own.values.iter().flatten().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
    match own.operator.as_str() {
        "In" => format!("one of {values}"),
        "NotIn" => format!("none of {values}"),
        "Exists" => "there".into(),
        "DoesNotExist" => "absent".into(),
        "Gt" => format!("greater than {values}"),
        "Lt" => format!("less than {values}"),
        other => format!("{other} {values}"),
    }
}

fn ports(pod: &PodInfo, node: &NodeInfo) -> String {
    let told = pod.host_ports.iter().map(|port| {
        let ip = if port.ip.is_empty() { "0.0.0.0" } else { &port.ip };
        let name = format!("{ip}:{}/{}", port.port, port.protocol);
        let mut holders: Vec<String> = node
            .pods
            .values()
            .filter(|other| other.host_ports.iter().any(|taken| port.clashes(taken)))
            .map(|other| {
                let own = other.host_ports.iter().find(|taken| port.clashes(taken));
                let ip = own.map(|own| own.ip.as_str()).filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
                format!("pod {} (on {ip})", other.key)
            })
            .collect();
        holders.sort();
        match holders.as_slice() {
            [] => format!("{name} is held by no pod here"),
            some => format!("{name} is held by {}", some.join(", ")),
        }
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "the pod asks for no port of the node".into() } else { told.join("; ") }
}

fn resources(pod: &PodInfo, node: &NodeInfo) -> String {
    let mut told = Vec::new();
    for (name, asked) in named(&pod.request).into_iter().filter(|(_, asked)| *asked > 0) {
        let (used, all) = (amount(&node.requested, &name), amount(&node.allocatable, &name));
        let shown = |value| shown(&name, value);
        told.push(format!(
            "{name}: asks {}, free {} of {}",
            shown(asked),
            shown(all.saturating_sub(used)),
            shown(all)
        ));
    }
    told.push(format!("pods: {} of {}", node.pods.len(), node.pods_max));
    let expected = node.pods.keys().filter(|key| is_expected(node, key)).count();
    if expected > 0 {
        let pods = if expected == 1 { "pod" } else { "pods" };
        told.push(format!("counted in: {expected} {pods} that will come here once others have ended"));
    }
    told.join("; ")
}

/// Whether the pod is counted on the node because it is nominated to it, and is not there yet.
fn is_expected(node: &NodeInfo, key: &ObjectKey) -> bool {
    node.nominated.contains_key(key)
}

/// The pods that have most of what the pod lacks.
pub(super) fn used_by(pod: &PodInfo, node: &NodeInfo) -> Vec<Use> {
    let lacking = named(&pod.request).into_iter().find(|(name, asked)| {
        *asked > 0 && *asked > amount(&node.allocatable, name).saturating_sub(amount(&node.requested, name))
    });
    let Some((name, _)) = lacking else { return Vec::new() };
    let mut users: Vec<(i64, &ObjectKey)> = node
        .pods
        .values()
        .map(|other| (amount(&other.request, &name), &other.key))
        .filter(|(amount, _)| *amount > 0)
        .collect();
    users.sort_by(|a, b| (Reverse(a.0), a.1).cmp(&(Reverse(b.0), b.1)));
    let users = users.into_iter().take(USERS_MAX);
    let told = users.map(|(amount, key)| {
        let later = if is_expected(node, key) { ", not there yet: it is nominated to this node" } else { "" };
        Use { pod: key.to_string(), amount: format!("{} of {name}{later}", shown(&name, amount)) }
    });
    told.collect()
}

/// The amounts of a list by name.
pub(super) fn named(resources: &Resources) -> Vec<(String, i64)> {
    let mut all = vec![
        ("cpu".to_owned(), resources.milli_cpu),
        ("memory".to_owned(), resources.memory),
        ("ephemeral-storage".to_owned(), resources.ephemeral_storage),
    ];
    all.extend(resources.extended.iter().cloned());
    all
}

pub(super) fn amount(resources: &Resources, name: &str) -> i64 {
    match name {
        "cpu" => resources.milli_cpu,
        "memory" => resources.memory,
        "ephemeral-storage" => resources.ephemeral_storage,
        name => resources.extended(name),
    }
}

/// An amount as manifests write it, exactly.
pub(super) fn shown(name: &str, value: i64) -> String {
    match name {
        "cpu" if value % 1_000 == 0 => (value / 1_000).to_string(),
        "cpu" => format!("{value}m"),
        "memory" | "ephemeral-storage" => {
            let unit = [(1_i64 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
            let fitting = unit.into_iter().find(|(size, _)| value != 0 && value % size == 0);
            fitting.map_or(value.to_string(), |(size, unit)| format!("{}{unit}", value / size))
        }
        _ => value.to_string(),
    }
}
