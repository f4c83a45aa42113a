//! Decides on which nodes pods of a set come and go, and what its status says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use skiff_api::selector::node_selector_matches;

use super::revisions::HASH;
use crate::deployments::share;
use crate::owners::{controller_reference, is_deleting, name};
use crate::pods::{from_template, has_ended, is_available, is_ready, node_name, phase, ready_since};

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that need a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Those of `delete` that have ended, with their nodes.
    pub(super) ended: Vec<(String, Arc<Pod>)>,
    /// Failed pods stay until then, so that those after them don't fail as fast as they are made.
    pub(super) look_again: Option<Duration>,
}

/// What every daemon tolerates, so that it runs on nodes in trouble too.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

/// The node that a pod is for: the one it is on, or the one it is pinned to.
fn target(pod: &Pod) -> &str {
    let bound = node_name(pod);
    if !bound.is_empty() {
        return bound;
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required
        .into_iter()
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .find_map(|field| field.values.as_ref()?.first())
        .map(String::as_str)
        .unwrap_or_default()
}

fn tolerations(set: &DaemonSet) -> Vec<Toleration> {
    let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let mut tolerations = spec.and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let network = host_network.then_some((NETWORK_UNAVAILABLE, "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let own = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&own) {
            tolerations.push(own);
        }
    }
    tolerations
}

fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let unset_or = |own: &Option<String>, wanted: &str| {
            own.as_deref().is_none_or(|own| own.is_empty() || own == wanted)
        };
        unset_or(&toleration.effect, &taint.effect)
            && unset_or(&toleration.key, &taint.key)
            && (toleration.operator.as_deref() == Some("Exists")
                || toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default())
    })
}

/// Whether a new pod of the set may start on the node, and whether one that is there may stay.
fn runs_on(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return (false, false);
    };
    let node_name = name(&node.metadata);
    let labels = node.metadata.labels.as_ref();
    let named =
        spec.node_name.as_deref().filter(|name| !name.is_empty()).is_none_or(|name| name == node_name);
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let near = required.is_none_or(|required| node_selector_matches(required, labels, node_name));
    if !named || !selected || !near {
        return (false, false);
    }
    let tolerations = tolerations(set);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let kept_out = |effects: &[&str]| {
        taints.iter().any(|taint| effects.contains(&taint.effect.as_str()) && !tolerates(&tolerations, taint))
    };
    (!kept_out(&["NoSchedule", "NoExecute"]), !kept_out(&["NoExecute"]))
}

/// The pods by node, the oldest first.
fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<&str, Vec<&Arc<Pod>>> {
    let mut map: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        map.entry(target(pod)).or_default().push(pod);
    }
    for pods in map.values_mut() {
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
            (created, pod.metadata.name.clone())
        });
    }
    map
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).is_some_and(|own| own == hash)
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// `waits` tells for how long a failed pod of a node stays there yet.
pub(super) fn plan(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    waits: impl Fn(&str) -> Duration,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let map = by_node(pods);
    let places: HashMap<&str, (bool, bool)> =
        nodes.iter().map(|node| (name(&node.metadata), runs_on(set, node))).collect();
    let (surge, unavailable) = bounds(set, places.values().filter(|(run, _)| *run).count());
    for node in nodes {
        let node = name(&node.metadata);
        let (run, stay) = places[node];
        let here = map.get(node).map(Vec::as_slice).unwrap_or_default();
        let alive: Vec<_> = here.iter().filter(|pod| !is_deleting(&pod.metadata)).copied().collect();
        if !run {
            if !stay {
                plan.delete.extend(alive.into_iter().cloned());
            }
            continue;
        }
        // A failed pod gives its place to a new one; while it ends, none is made.
        let (ended, mut active): (Vec<_>, Vec<_>) = alive.into_iter().partition(|pod| has_ended(pod));
        for pod in ended {
            let wait = if phase(pod) == "Failed" { waits(node) } else { Duration::ZERO };
            if wait.is_zero() {
                plan.delete.push(pod.clone());
                plan.ended.push((node.to_owned(), pod.clone()));
            } else {
                plan.look_again = Some(plan.look_again.map_or(wait, |before| before.min(wait)));
            }
        }
        if here.is_empty() {
            plan.create.push(node.to_owned());
            continue;
        }
        // Twins: the oldest stays. With a surge, an old and a new one may stand side by side.
        if surge > 0 {
            let new = active.iter().position(|pod| is_current(pod, hash)).map(|at| active.remove(at));
            let old = active.iter().position(|pod| !is_current(pod, hash)).map(|at| active.remove(at));
            let done = new.is_some_and(|new| is_available(new, min_ready(set), now));
            plan.delete.extend(old.filter(|_| done).cloned());
        } else if !active.is_empty() {
            active.remove(0);
        }
        plan.delete.extend(active.into_iter().cloned());
    }
    if is_rolling(set) && plan.create.is_empty() && plan.delete.is_empty() {
        roll(&mut plan, set, hash, &places, &map, (surge, unavailable), now);
    }
    plan
}

fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

/// `maxSurge` and `maxUnavailable` as counts.
fn bounds(set: &DaemonSet, wanted: usize) -> (usize, usize) {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    let count = |value: Option<&IntOrString>, default: i32| {
        let value = value.map_or(default, |value| share(value, wanted, true));
        usize::try_from(value).unwrap_or(0)
    };
    let surge = count(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
    let unavailable = count(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
    (surge, if surge == 0 { unavailable.max(1) } else { unavailable })
}

/// One step of a rolling update: pods of an old template go (or get a new one beside them) as far as the
/// bounds let them.
fn roll(
    plan: &mut Plan,
    set: &DaemonSet,
    hash: &str,
    places: &HashMap<&str, (bool, bool)>,
    map: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    (surge, unavailable): (usize, usize),
    now: Timestamp,
) {
    let min_ready = min_ready(set);
    let mut missing = 0;
    let mut surging = 0;
    let mut idle: Vec<&Arc<Pod>> = Vec::new();
    let mut candidates: Vec<(&str, &Arc<Pod>)> = Vec::new();
    for (node, _) in places.iter().filter(|(_, (run, _))| *run) {
        let here = map.get(node).map(Vec::as_slice).unwrap_or_default();
        let available =
            here.iter().any(|pod| !is_deleting(&pod.metadata) && is_available(pod, min_ready, now));
        let old = here.iter().find(|pod| !is_current(pod, hash) && !is_deleting(&pod.metadata));
        let new = here.iter().any(|pod| is_current(pod, hash) && !is_deleting(&pod.metadata));
        if new && old.is_some() {
            surging += 1;
        }
        match old {
            // What isn't available anyway costs nothing to replace.
            Some(old) if !available && !new => {
                missing += 1;
                idle.push(old);
            }
            _ if !available => missing += 1,
            Some(old) if !new => candidates.push((node, old)),
            _ => {}
        }
    }
    candidates.sort_by_key(|(node, _)| *node);
    idle.sort_by_key(|pod| target(pod).to_owned());
    plan.delete.extend(idle.into_iter().cloned());
    if surge > 0 {
        let room = surge.saturating_sub(surging);
        plan.create.extend(candidates.into_iter().take(room).map(|(node, _)| node.to_owned()));
    } else {
        let room = unavailable.saturating_sub(missing);
        plan.delete.extend(candidates.into_iter().take(room).map(|(_, pod)| pod.clone()));
    }
}

/// A pod of the set for one node.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let spec = set.spec.clone().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = from_template(&spec.template, namespace, controller_reference(set), &[(HASH, hash)]);
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.tolerations = Some(tolerations(set));
    let pin = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    // The template's own terms have been judged already; the name is what remains.
    let required = NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![pin]),
            match_expressions: None,
        }],
    };
    let affinity: &mut Affinity = pod_spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    node_affinity.required_during_scheduling_ignored_during_execution = Some(required);
    pod
}

/// The status, and when the next ready pod becomes available. Without a hash the set is going.
pub(super) fn status(
    set: &DaemonSet,
    hash: Option<&str>,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (DaemonSetStatus, Option<Duration>) {
    let before = set.status.clone().unwrap_or_default();
    let map = by_node(pods);
    let min_ready = min_ready(set);
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: before.collision_count,
        conditions: before.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available, mut unavailable) = (0, 0, 0);
    let mut next: Option<i64> = None;
    for node in nodes {
        let here = map.get(name(&node.metadata)).map(Vec::as_slice).unwrap_or_default();
        if !runs_on(set, node).0 {
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(first) = here.first() else {
            unavailable += 1;
            continue;
        };
        status.current_number_scheduled += 1;
        // With a surge there may be two: the better one counts.
        let best = here.iter().find(|pod| is_available(pod, min_ready, now)).unwrap_or(first);
        let usable = !is_deleting(&best.metadata) && phase(best) != "Failed";
        status.number_ready += i32::from(usable && is_ready(best));
        if usable && is_available(best, min_ready, now) {
            available += 1;
        } else {
            unavailable += 1;
        }
        if let Some(since) = ready_since(best) {
            let left = i64::from(min_ready) - (now.as_second() - since.as_second());
            if left > 0 {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        let newest = here.iter().any(|pod| hash.is_some_and(|hash| is_current(pod, hash)));
        updated += i32::from(newest);
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(unavailable);
    (status, next.and_then(|next| u64::try_from(next).ok()).map(Duration::from_secs))
}

#[cfg(test)]
mod tests;
