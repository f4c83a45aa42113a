//! The pods of a node that can't have them any more: how long each tolerates its taints, and its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Preconditions, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use skiff_client::{DeleteOptions, Error, EventType, ObjectKey, Patch, reference};
use tracing::info;

use crate::context::Context;
use crate::owners::is_deleting;
use crate::pods;

/// `taints` are those that evict. Deletes the node's pods whose time is up, marks the others of a node that isn't
/// ready, and tells when the next one's time is up.
pub(super) async fn evict(
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

/// Its endpoints must not be used while nobody answers for them. Of a pod that has changed nothing is written or
/// told: its change is looked at next, and may be this very mark.
async fn mark_pod_not_ready(context: &Context, pod: &Pod, at: Timestamp) -> Result<(), Error> {
    let key = ObjectKey::of(pod);
    let patch = Patch::Strategic(not_ready(pod, at));
    match context.client.patch::<Pod>(&key.namespace, &key.name, Some("status"), &patch).await {
        Ok(_) => {
            context.events.record(reference(pod), EventType::Warning, "NodeNotReady", "Node is not ready");
            Ok(())
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// For this state of the pod alone: of two looks at one state the second writes nothing.
pub(super) fn not_ready(pod: &Pod, at: Timestamp) -> serde_json::Value {
    json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": {"conditions": [{
            "type": "Ready", "status": "False",
            "lastTransitionTime": Time(Timestamp::from_second(at.as_second()).unwrap_or(at)),
        }]},
    })
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tolerated {
    Always,
    /// Until this much from now.
    For(Duration),
}

pub(super) fn tolerated_for(pod: &Pod, taints: &[&Taint], at: Timestamp) -> Tolerated {
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
