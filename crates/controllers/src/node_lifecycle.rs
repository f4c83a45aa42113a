//! A node that is silent is unknown, is tainted, and loses its pods once they tolerate that no longer.
//!
//! Being silent is judged by this controller's own clock: a node is heard whenever its lease or its Ready
//! condition changes, so that nodes' clocks don't matter.

mod zones;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Preconditions, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use skiff_client::{
    Change, DeleteOptions, Error, EventType, ObjectKey, Patch, Requeue, WorkQueue, now, reference, work,
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::context::{Context, feed};
use crate::owners::{is_deleting, name, uid};
use crate::pods;
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

/// `taints` are those that evict. Deletes the node's pods whose time is up, marks the others of a node that isn't ready, and tells when
/// the next one's time is up.
async fn evict(
    context: &Context,
    node: &str,
    taints: &[Taint],
    ready: bool,
    at: Timestamp,
) -> Result<Option<Duration>, Error> {
    let executing: Vec<&Taint> = taints.iter().collect();
    if executing.is_empty() && ready {
        return Ok(None);
    }
    let mut next: Option<Duration> = None;
    let on_node = context.caches.pods.list().into_iter().filter(|pod| pods::node_name(pod) == node);
    for pod in on_node.filter(|pod| !pods::has_ended(pod)) {
        if !ready && pods::is_ready(&pod) {
            mark_pod_not_ready(context, &pod, at).await?;
        }
        if is_deleting(&pod.metadata) {
            continue;
        }
        match tolerated_for(&pod, &executing, at) {
            Tolerated::Always => {}
            Tolerated::For(left) if left > Duration::ZERO => {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
            Tolerated::For(_) => delete(context, &pod, at).await?,
        }
    }
    Ok(next)
}

/// Says in the pod's status why it goes, and deletes it.
async fn delete(context: &Context, pod: &Pod, at: Timestamp) -> Result<(), Error> {
    let key = ObjectKey::of(pod);
    let patch = Patch::Strategic(pods::disrupted(
        pod,
        "DeletionByTaintManager",
        "Taint manager: deleting due to NoExecute taint",
        at,
    ));
    match context.client.patch::<Pod>(&key.namespace, &key.name, Some("status"), &patch).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
        Err(error) => return Err(error),
    }
    let options = DeleteOptions {
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteOptions::default()
    };
    match context.client.delete::<Pod>(&key.namespace, &key.name, &options).await {
        Ok(()) => {
            let message = format!("Marking for deletion Pod {key}");
            context.events.record(reference(pod), EventType::Normal, "TaintManagerEviction", message);
            info!(pod = %key, "evicted from a tainted node");
            Ok(())
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Its endpoints must not be used while nobody answers for them.
async fn mark_pod_not_ready(context: &Context, pod: &Pod, at: Timestamp) -> Result<(), Error> {
    let key = ObjectKey::of(pod);
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::from_second(at.as_second()).unwrap_or(at))}]}});
    let patch = Patch::Strategic(patch);
    match context.client.patch::<Pod>(&key.namespace, &key.name, Some("status"), &patch).await {
        Ok(_) => {
            context.events.record(reference(pod), EventType::Warning, "NodeNotReady", "Node is not ready");
            Ok(())
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Tolerated {
    Always,
    /// Until this much from now.
    For(Duration),
}

fn tolerated_for(pod: &Pod, taints: &[&Taint], at: Timestamp) -> Tolerated {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let came = pods::bound_at(pod).unwrap_or(Timestamp::MIN);
    let mut least: Option<i64> = None;
    for taint in taints {
        let matching = tolerations.iter().filter(|toleration| {
            let unset_or = |own: &Option<String>, wanted: &str| {
                own.as_deref().is_none_or(|own| own.is_empty() || own == wanted)
            };
            let value = toleration.value.as_deref().unwrap_or_default();
            unset_or(&toleration.effect, &taint.effect)
                && unset_or(&toleration.key, &taint.key)
                && (toleration.operator.as_deref() == Some("Exists")
                    || value == taint.value.as_deref().unwrap_or_default())
        });
        let matching: Vec<_> = matching.collect();
        if matching.is_empty() {
            return Tolerated::For(Duration::ZERO);
        }
        let bounded: Vec<i64> =
            matching.iter().filter_map(|toleration| toleration.toleration_seconds).collect();
        // The shortest of its tolerations counts; without any bound the taint is tolerated for good.
        let Some(seconds) = bounded.into_iter().min() else { continue };
        // Who came later tolerates it from then on.
        let since = taint.time_added.as_ref().map_or(at, |time| time.0).max(came);
        let left = seconds.max(0) - (at.as_second() - since.as_second());
        least = Some(least.map_or(left, |least| least.min(left)));
    }
    match least {
        None => Tolerated::Always,
        Some(left) => Tolerated::For(Duration::from_secs(u64::try_from(left).unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn taints(value: serde_json::Value, outage: bool) -> String {
        taints_at(value, if outage { &Turn::Outage } else { &Turn::Now })
    }

    fn taints_at(value: serde_json::Value, turn: &Turn) -> String {
        let at = Timestamp::from_second(50).unwrap();
        let (taints, _) = wanted_taints(&node(value), turn, at);
        let text: Vec<_> = taints
            .iter()
            .map(|taint| {
                let at = taint.time_added.as_ref().map_or(0, |time| time.0.as_second());
                format!("{}:{}@{at}", taint.key, taint.effect)
            })
            .collect();
        text.join(" ")
    }

    #[test]
    fn taints_follow_conditions() {
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        assert_eq!(taints(json!({"metadata": {}, "status": {"conditions": ready("True")}}), false), "");
        assert_eq!(
            taints(json!({"metadata": {}, "status": {"conditions": ready("False")}}), false),
            "node.kubernetes.io/not-ready:NoSchedule@50 node.kubernetes.io/not-ready:NoExecute@50"
        );
        assert_eq!(
            taints(json!({"metadata": {}}), false),
            "node.kubernetes.io/unreachable:NoSchedule@50 node.kubernetes.io/unreachable:NoExecute@50"
        );
        assert_eq!(taints(json!({"metadata": {}}), true), "node.kubernetes.io/unreachable:NoSchedule@50");
        let present = json!([
            {"key": "mine", "effect": "NoExecute"},
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:07Z"},
            {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(
            taints(
                json!({"metadata": {}, "spec": {"taints": present, "unschedulable": true},
                "status": {"conditions": ready("Unknown")}}),
                false
            ),
            "mine:NoExecute@0 node.kubernetes.io/unreachable:NoSchedule@50 \
             node.kubernetes.io/unreachable:NoExecute@7 node.kubernetes.io/unschedulable:NoSchedule@50"
        );
    }

    #[test]
    fn a_node_is_given_up_when_it_is_its_turn() {
        let failed = json!({"metadata": {}});
        let waits = "node.kubernetes.io/unreachable:NoSchedule@50";
        for turn in [Turn::Held, Turn::In(Duration::from_secs(1)), Turn::Outage] {
            assert_eq!(taints_at(failed.clone(), &turn), waits, "{turn:?}");
            assert!(!wanted_taints(&node(failed.clone()), &turn, Timestamp::UNIX_EPOCH).1);
        }
        assert!(wanted_taints(&node(failed), &Turn::Now, Timestamp::UNIX_EPOCH).1);
        // Whose turn has been keeps its taint, also as another one.
        let given_up = json!({"metadata": {}, "spec": {"taints": [
            {"key": NOT_READY, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:07Z"}]}});
        let stays =
            "node.kubernetes.io/unreachable:NoSchedule@50 node.kubernetes.io/unreachable:NoExecute@50";
        assert_eq!(taints_at(given_up.clone(), &Turn::Held), stays);
        assert_eq!(taints_at(given_up.clone(), &Turn::Outage), waits);
        assert!(!wanted_taints(&node(given_up), &Turn::Now, Timestamp::UNIX_EPOCH).1, "it takes no turn");
    }

    #[test]
    fn a_taint_that_does_not_say_when_it_was_put_evicts_all_the_same() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let taint = |value: &str, effect: &str| -> Taint {
            serde_json::from_value(json!({"key": "dedicated", "value": value, "effect": effect})).unwrap()
        };
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": [
            {"key": "dedicated", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}}))
            .unwrap();
        let mut seen = Seen::default();
        let mut look = |taints: &[Taint], second| {
            let dated = dated(&mut seen, taints, at(second));
            tolerated_for(&pod, &dated.iter().collect::<Vec<_>>(), at(second))
        };
        let x = [taint("x", "NoExecute"), taint("x", "NoSchedule")];
        assert_eq!(look(&x, 100), Tolerated::For(Duration::from_secs(5)));
        assert_eq!(look(&x, 103), Tolerated::For(Duration::from_secs(2)));
        assert_eq!(look(&x, 105), Tolerated::For(Duration::ZERO));
        // Taken off and put again, or another one: from the beginning.
        assert_eq!(look(&[taint("y", "NoExecute")], 106), Tolerated::For(Duration::from_secs(5)));
        assert_eq!(look(&[], 107), Tolerated::Always);
        assert_eq!(look(&[taint("y", "NoExecute")], 108), Tolerated::For(Duration::from_secs(5)));
    }

    #[test]
    fn a_pod_tolerates_from_its_own_start_on() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "1970-01-01T00:00:10Z"},
            "spec": {"containers": [], "tolerations": [{"operator": "Exists", "tolerationSeconds": 30}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True",
                "lastTransitionTime": "1970-01-01T00:01:30Z"}]}}))
        .unwrap();
        let taint: Taint = serde_json::from_value(
            json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"}),
        )
        .unwrap();
        let left = tolerated_for(&pod, &[&taint], Timestamp::from_second(100).unwrap());
        assert_eq!(left, Tolerated::For(Duration::from_secs(20)));
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let taint = |key: &str, since: i64| Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            value: None,
            time_added: Some(Time(Timestamp::from_second(since).unwrap())),
        };
        let at = Timestamp::from_second(100).unwrap();
        let left = |tolerations: serde_json::Value, taints: &[Taint]| {
            let pod = json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            tolerated_for(&pod, &taints.iter().collect::<Vec<_>>(), at)
        };
        let seconds = |seconds: u64| Tolerated::For(Duration::from_secs(seconds));
        let usual = json!([
            {"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
        assert_eq!(left(usual.clone(), &[taint(UNREACHABLE, 90)]), seconds(50));
        assert_eq!(left(usual.clone(), &[taint(UNREACHABLE, 90), taint(NOT_READY, 0)]), seconds(50));
        assert_eq!(left(usual.clone(), &[taint(UNREACHABLE, 10)]), seconds(0));
        assert_eq!(left(usual, &[taint("other", 100)]), seconds(0));
        assert_eq!(left(json!([{"operator": "Exists"}]), &[taint("other", 0)]), Tolerated::Always);
        assert_eq!(left(json!([]), &[]), Tolerated::Always);
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let mut silent = node(json!({"metadata": {}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}));
        assert!(has_unheard_condition(&silent));
        mark_unknown(&mut silent, Timestamp::from_second(9).unwrap());
        assert!(!has_unheard_condition(&silent));
        let ready = condition(&silent, "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        let pressure = condition(&silent, "DiskPressure").unwrap();
        assert_eq!(pressure.reason.as_deref(), Some("NodeStatusNeverUpdated"));
    }

    #[tokio::test]
    async fn a_node_is_heard_by_its_lease_or_its_heartbeat() {
        tokio::time::pause();
        let heard = Heard::default();
        let lease = |at: &str| -> Lease {
            serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": at}})).unwrap()
        };
        let mut ready = node(json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2020-01-01T00:00:00Z"}]}}));
        let first = lease("2020-01-01T00:00:00.000000Z");
        assert_eq!(silence(&heard, &ready, Some(&first)), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(silence(&heard, &ready, Some(&first)), Duration::from_secs(30));
        mark_unknown(&mut ready, Timestamp::from_second(9).unwrap());
        assert_eq!(silence(&heard, &ready, Some(&first)), Duration::from_secs(30), "that wasn't the node");
        let second = lease("2020-01-01T00:00:10.000000Z");
        assert_eq!(silence(&heard, &ready, Some(&second)), Duration::ZERO);
    }
}
