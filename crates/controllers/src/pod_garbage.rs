//! Pods that nobody will end any more: those of nodes that are gone, those that were deleted before they
//! had a node, and ended ones beyond a bound.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use skiff_client::{Change, DeleteOptions, Error, Patch, now};
use tracing::{info, warn};

use crate::caches::Caches;
use crate::context::Context;
use crate::owners::{is_deleting, name, namespace, uid};
use crate::pods::{has_ended, node_name};

const LOOK_EVERY: Duration = Duration::from_secs(20);
/// A node's pods stay for so long after it: it may have been registered anew.
const QUARANTINE: Duration = Duration::from_secs(40);

pub(crate) async fn run(context: Context) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut nodes = context.caches.nodes.subscribe();
    let mut suspects = std::collections::HashMap::new();
    loop {
        // Both are cancel-safe; a node's end starts its quarantine at once.
        tokio::select! {
            _ = ticks.tick() => {}
            change = nodes.next() => if !matches!(change, Change::Deleted(_)) { continue },
        }
        for gone in missing_nodes(&context.caches) {
            suspects.entry(gone).or_insert_with(tokio::time::Instant::now);
        }
        let missing = missing_nodes(&context.caches);
        suspects.retain(|node, _| missing.contains(node));
        let mut gone = Vec::new();
        for (node, since) in &suspects {
            if since.elapsed() >= QUARANTINE && is_gone(&context, node).await {
                gone.push(node.clone());
            }
        }
        for (pod, why) in collectable(&context.caches.pods.list(), &gone, context.config.ended_pods_max) {
            if let Err(error) = collect(&context, &pod, why).await {
                warn!(
                    pod = name(&pod.metadata),
                    error = &error as &dyn std::error::Error,
                    "cannot collect a pod"
                );
            }
        }
    }
}

/// Nodes that pods name and the local copy doesn't have.
fn missing_nodes(caches: &Caches) -> Vec<String> {
    let mut names: Vec<String> = caches
        .pods
        .list()
        .iter()
        .map(|pod| node_name(pod).to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    let known = |name: &String| caches.nodes.get(&skiff_client::ObjectKey::new("", &**name)).is_some();
    names.retain(|name| !known(name));
    names
}

async fn is_gone(context: &Context, node: &str) -> bool {
    matches!(context.client.find::<Node>("", node).await, Ok(None))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Its node is gone: it is marked failed first, for who counts on it.
    NodeGone,
    /// Deleted before it had a node.
    NeverBound,
    /// Ended, and there are too many of those.
    Ended,
}

fn collectable(pods: &[Arc<Pod>], gone: &[String], ended_max: usize) -> Vec<(Arc<Pod>, Why)> {
    let mut found = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        let node = node_name(pod);
        if gone.iter().any(|gone| gone == node) {
            found.push((pod.clone(), Why::NodeGone));
        } else if node.is_empty() && is_deleting(&pod.metadata) {
            found.push((pod.clone(), Why::NeverBound));
        } else if has_ended(pod) && !is_deleting(&pod.metadata) {
            ended.push(pod.clone());
        }
    }
    let age = |pod: &Arc<Pod>| pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    ended.sort_by_key(age);
    let superfluous = ended.len().saturating_sub(ended_max);
    found.extend(ended.into_iter().take(superfluous).map(|pod| (pod, Why::Ended)));
    found
}

async fn collect(context: &Context, pod: &Pod, why: Why) -> Result<(), Error> {
    let (namespace, name) = (namespace(&pod.metadata), name(&pod.metadata));
    if why == Why::NodeGone && !has_ended(pod) {
        let at = now();
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        let patch = json!({"metadata": {"uid": uid(&pod.metadata)}, "status": {"phase": "Failed", "conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": at.to_string(),
        }]}});
        context.client.patch::<Pod>(namespace, name, Some("status"), &Patch::Strategic(patch)).await?;
    }
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteOptions::default()
    };
    match context.client.delete::<Pod>(namespace, name, &options).await {
        Ok(()) => info!(pod = name, namespace, why = ?why, "pod collected"),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn what_nobody_ends_is_collected() {
        let deleted = json!({"deletionTimestamp": "2020-01-01T00:00:00Z"});
        let ended = |name: &str, at: &str| {
            pod(
                name,
                json!({"metadata": {"creationTimestamp": at}, "spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}}),
            )
        };
        let pods = [
            pod("fine", json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}})),
            pod("lost", json!({"spec": {"nodeName": "n2"}, "status": {"phase": "Running"}})),
            pod("waits", json!({})),
            pod("unborn", json!({"metadata": deleted})),
            pod("ends", json!({"metadata": deleted, "spec": {"nodeName": "n1"}})),
            ended("new", "2020-01-02T00:00:00Z"),
            ended("old", "2020-01-01T00:00:00Z"),
        ];
        let show = |max: usize| -> Vec<String> {
            let found = collectable(&pods, &["n2".to_owned()], max);
            found.iter().map(|(pod, why)| format!("{} {why:?}", name(&pod.metadata))).collect()
        };
        assert_eq!(show(2), ["lost NodeGone", "unborn NeverBound"]);
        assert_eq!(show(1), ["lost NodeGone", "unborn NeverBound", "old Ended"]);
    }
}
