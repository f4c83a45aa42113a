//! A node that is silent is unknown, is tainted, and loses its pods once they tolerate that no longer.
//!
//! Being silent is judged by this controller's own clock: a node is heard whenever its lease or its Ready
//! condition changes, so that nodes' clocks don't matter.

mod evict;
mod zones;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use skiff_client::{Change, Error, EventType, ObjectKey, Patch, Requeue, WorkQueue, now, reference, work};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::context::{Context, feed};
use crate::owners::{name, uid};
use crate::pods;
use evict::evict;
use zones::{Turn, Zones};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taint keys that stand for conditions: only this controller puts and takes them.
const OWN_TAINTS: [&str; 6] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
];

/// When each node was heard last, and what it said.
type Heard = Arc<Mutex<HashMap<String, (String, Instant)>>>;

/// Since when each taint is seen on a node, for those that don't say when they were put: key and value.
type Seen = HashMap<(String, Option<String>), Timestamp>;

/// What the controller knows beside the objects.
#[derive(Clone, Default)]
struct Memory {
    heard: Heard,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    zones: Arc<Mutex<Zones>>,
}

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let memory = Memory::default();
    // A pod matters where its node is in trouble; everywhere else nothing would come of it.
    let nodes = context.caches.nodes.clone();
    let of_pod = move |pod: &Pod| {
        let key = ObjectKey::new("", pods::node_name(pod));
        let troubled = |node: &Node| !is_ready(node) || has_no_execute_taint(node);
        let matters = !key.name.is_empty() && nodes.get(&key).is_some_and(|node| troubled(&node));
        if matters { vec![key] } else { Vec::new() }
    };
    let all = context.caches.nodes.clone();
    let (reconciler, known) = (context.clone(), memory.clone());
    tokio::join!(
        feed_nodes(&context, queue.clone(), &memory),
        feed(context.caches.pods.clone(), queue.clone(), of_pod, move || all.keys()),
        hear_leases(context.clone(), queue.clone()),
        work("node-lifecycle", queue, context.config.workers, move |key| {
            let (context, memory) = (reconciler.clone(), known.clone());
            async move { reconcile(&context, &memory, &key).await }
        }),
    );
}

/// Queues nodes, and keeps count of the zones.
async fn feed_nodes(context: &Context, queue: WorkQueue<ObjectKey>, memory: &Memory) {
    let nodes = &context.caches.nodes;
    let mut changes = nodes.subscribe();
    let mut known: HashMap<String, (String, bool)> = HashMap::new();
    let all = |known: &mut HashMap<String, (String, bool)>| {
        let nodes = nodes.list();
        *known = nodes.iter().map(|node| (name(&node.metadata).to_owned(), in_zone(node))).collect();
        nodes.iter().for_each(|node| queue.add(ObjectKey::of(&**node)));
    };
    all(&mut known);
    loop {
        let changed = lock(&memory.zones).set(zones::paces(known.values().cloned()));
        if changed {
            nodes.keys().into_iter().for_each(|key| queue.add(key));
        }
        match changes.next().await {
            Change::Applied { new, .. } => {
                known.insert(name(&new.metadata).to_owned(), in_zone(&new));
                queue.add(ObjectKey::of(&*new));
            }
            Change::Deleted(node) => {
                known.remove(name(&node.metadata));
                queue.add(ObjectKey::of(&*node));
            }
            Change::Resync => all(&mut known),
        }
    }
}

/// The node's zone, and whether it is ready.
fn in_zone(node: &Node) -> (String, bool) {
    (zones::of(node), is_ready(node))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A renewed lease matters at once only where its node was unknown; otherwise the next look sees it.
async fn hear_leases(context: Context, queue: WorkQueue<ObjectKey>) {
    let mut changes = context.caches.leases.subscribe();
    loop {
        let (Change::Applied { new: lease, .. } | Change::Deleted(lease)) = changes.next().await else {
            continue;
        };
        let node = ObjectKey::new("", lease.metadata.name.clone().unwrap_or_default());
        let unknown = |node: &Node| condition(node, "Ready").is_none_or(|ready| ready.status == "Unknown");
        if lease.metadata.namespace.as_deref() == Some("kube-node-lease")
            && context.caches.nodes.get(&node).is_some_and(|node| unknown(&node))
        {
            queue.add(node);
        }
    }
}

async fn reconcile(context: &Context, memory: &Memory, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(node) = context.caches.nodes.get(key) else {
        lock(&memory.heard).remove(&key.name);
        lock(&memory.seen).remove(&key.name);
        return Ok(Requeue::Never);
    };
    let lease = context.caches.leases.get(&ObjectKey::new("kube-node-lease", &*key.name));
    let silent_for = silence(&memory.heard, &node, lease.as_deref());
    let grace = context.config.node_grace;
    let at = now();
    if silent_for >= grace && has_unheard_condition(&node) {
        let mut silent = (*node).clone();
        mark_unknown(&mut silent, at);
        context.client.update_status(&silent).await?;
        warn!(node = %key.name, seconds = silent_for.as_secs(), "node is silent");
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        context.events.record(reference(&*node), EventType::Normal, "NodeNotReady", message);
        // The change comes back as the node's next state, whose taints are decided then.
        return Ok(Requeue::Never);
    }
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let zone = zones::of(&node);
    let turn = lock(&memory.zones).turn(&zone, Instant::now());
    let (taints, gives_up) = wanted_taints(&node, &turn, at);
    if !same_taints(&taints, &present) {
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        if gives_up {
            lock(&memory.zones).took(&zone, Instant::now());
        }
        context.client.patch::<Node>("", &key.name, None, &Patch::Merge(patch)).await?;
        info!(node = %key.name, taints = taints.len(), "node's taints changed");
        return Ok(Requeue::Never);
    }
    let present = dated(lock(&memory.seen).entry(key.name.clone()).or_default(), &present, at);
    let next_eviction = evict(context, &key.name, &present, is_ready(&node), at).await?;
    let look_again = grace.saturating_sub(silent_for).max(Duration::from_secs(1));
    // A silent node is looked at again when it speaks, or when its turn has come.
    let look_again = (silent_for < grace).then_some(look_again);
    let turn = match turn {
        Turn::In(left) if !is_ready(&node) && !is_given_up(&present) => Some(left),
        _ => None,
    };
    Ok(look_again.into_iter().chain(turn).chain(next_eviction).min().map_or(Requeue::Never, Requeue::After))
}

/// The taints that evict, each with the time from which on it does: who puts one may not say it, as kubectl
/// doesn't, and then it is when it was seen first.
fn dated(seen: &mut Seen, taints: &[Taint], at: Timestamp) -> Vec<Taint> {
    let evicting = || taints.iter().filter(|taint| taint.effect == "NoExecute");
    let same = |taint: &Taint| (taint.key.clone(), taint.value.clone());
    seen.retain(|known, _| evicting().any(|taint| same(taint) == *known));
    let dated = evicting().map(|taint| {
        let first = *seen.entry(same(taint)).or_insert(at);
        Taint { time_added: Some(taint.time_added.clone().unwrap_or(Time(first))), ..taint.clone() }
    });
    dated.collect()
}

fn is_given_up(taints: &[Taint]) -> bool {
    taints
        .iter()
        .any(|taint| taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()))
}

/// For how long nothing was heard of a node.
fn silence(heard: &Heard, node: &Node, lease: Option<&Lease>) -> Duration {
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    let beat = condition(node, "Ready").filter(|ready| ready.status != "Unknown");
    let beat = beat.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    let says = format!("{renewed:?} {beat:?} {}", uid(&node.metadata));
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let known = heard.entry(name(&node.metadata).to_owned()).or_insert_with(|| (says.clone(), now));
    // Becoming unknown takes the heartbeat out of the text; that is not the node's voice.
    let silenced = beat.is_none() && known.0.starts_with(&format!("{renewed:?} "));
    if known.0 != says && !silenced {
        *known = (says, now);
    }
    now.saturating_duration_since(known.1)
}

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

fn has_no_execute_taint(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.effect == "NoExecute")
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

const HEARD_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

fn has_unheard_condition(node: &Node) -> bool {
    HEARD_CONDITIONS
        .iter()
        .any(|type_| condition(node, type_).is_none_or(|condition| condition.status != "Unknown"))
}

fn mark_unknown(node: &mut Node, at: Timestamp) {
    let time = Time(Timestamp::from_second(at.as_second()).unwrap_or(at));
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for type_ in HEARD_CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                known.status = "Unknown".to_owned();
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(time.clone());
            }
            None => conditions.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(time.clone()),
            }),
        }
    }
}

/// The node's taints as its conditions ask for: others' are kept, own ones keep their time. In an outage of
/// all nodes none evicts, and otherwise only of nodes whose turn it is or has been. Also tells whether this is
/// the node's turn.
fn wanted_taints(node: &Node, turn: &Turn, at: Timestamp) -> (Vec<Taint>, bool) {
    let spec = node.spec.as_ref();
    let present = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let ready = condition(node, "Ready").map_or("Unknown", |ready| ready.status.as_str());
    let mut wanted = Vec::new();
    match ready {
        "True" => {}
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    let evicts = |(_, effect): &(&str, &str)| *effect == "NoExecute";
    let is_new = wanted.iter().any(evicts) && !is_given_up(present);
    if *turn == Turn::Outage || is_new && *turn != Turn::Now {
        wanted.retain(|taint| !evicts(taint));
    }
    let gives_up = is_new && wanted.iter().any(evicts);
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (type_, key) in [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ] {
        if condition(node, type_).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    let others = present.iter().filter(|taint| !OWN_TAINTS.contains(&taint.key.as_str())).cloned();
    let mut taints: Vec<Taint> = others.collect();
    for (key, effect) in wanted {
        let known = present.iter().find(|taint| taint.key == key && taint.effect == effect).cloned();
        taints.push(known.unwrap_or_else(|| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            value: None,
            time_added: Some(Time(Timestamp::from_second(at.as_second()).unwrap_or(at))),
        }));
    }
    (taints, gives_up)
}

fn same_taints(a: &[Taint], b: &[Taint]) -> bool {
    a.len() == b.len() && a.iter().all(|taint| b.contains(taint))
}

#[cfg(test)]
mod tests;
