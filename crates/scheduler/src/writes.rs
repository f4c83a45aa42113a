//! Writes of what was decided: bindings, conditions, nominations, evictions and events.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Preconditions};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_client::{Client, DeleteOptions, Error, EventRecorder, EventType, Patch, now, reference};
use skiff_explain::start::{Phase, Starts};
use tracing::{debug, info, warn};

use crate::run::Done;
use crate::snapshot::PodInfo;
use crate::state::{Action, Nomination};

pub(crate) async fn write(client: Client, events: EventRecorder, starts: Starts, action: Action) -> Done {
    let began = SystemTime::now();
    match action {
        Action::Bind { pod, node } => match bind(&client, &pod, &node).await {
            Ok(()) => {
                starts.mark(pod.uid(), Phase::Bind, began, SystemTime::now());
                let message = format!("Successfully assigned {} to {node}", pod.key);
                events.record(reference(&*pod.pod), EventType::Normal, "Scheduled", message);
                debug!(pod = %pod.key, node, "bound");
                Done::Bound(pod)
            }
            Err(error) => {
                if !error.is_not_found() {
                    warn!(pod = %pod.key, node, error = &error as &dyn std::error::Error, "cannot bind");
                    let message = format!("running Bind plugin \"DefaultBinder\": {error}");
                    events.record(reference(&*pod.pod), EventType::Warning, "FailedScheduling", message);
                }
                Done::BindFailed(pod)
            }
        },
        Action::Fail { pod, message, nomination, victims, .. } => {
            events.record(reference(&*pod.pod), EventType::Warning, "FailedScheduling", message.clone());
            if let Some(patch) = status_patch(&pod.pod, &message, &nomination, now())
                && let Err(error) = patch_status(&client, &pod, patch).await
                && !error.is_not_found()
            {
                warn!(pod = %pod.key, error = &error as &dyn std::error::Error, "cannot write the condition");
            }
            let mut staying = Vec::new();
            if let Nomination::Set(node) = &nomination {
                for victim in victims {
                    if !evict(&client, &events, &pod, &victim, node).await {
                        staying.push(victim);
                    }
                }
            }
            if staying.is_empty() { Done::Written } else { Done::EvictionFailed { pod, staying } }
        }
    }
}

async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name.clone()),
            namespace: Some(pod.key.namespace.clone()),
            uid: pod.pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let (namespace, name) = (&pod.key.namespace, &pod.key.name);
    client.create_subresource::<Pod>(namespace, name, "binding", &binding).await.map(drop)
}

async fn patch_status(client: &Client, pod: &PodInfo, patch: Value) -> Result<(), Error> {
    let (namespace, name) = (&pod.key.namespace, &pod.key.name);
    client.patch::<Pod>(namespace, name, Some("status"), &Patch::Strategic(patch)).await.map(drop)
}

/// Gives a victim its notice: a condition that says why, then a graceful deletion. Whether it will end.
async fn evict(client: &Client, events: &EventRecorder, pod: &PodInfo, victim: &PodInfo, node: &str) -> bool {
    if victim.is_terminating() {
        return true;
    }
    let scheduler = pod.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
    let condition = json!({"status": {"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": now().round(k8s_openapi::jiff::Unit::Second).ok(),
    }]}});
    let deletion = async {
        patch_status(client, victim, condition).await?;
        let options = DeleteOptions {
            preconditions: Some(Preconditions {
                uid: victim.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteOptions::default()
        };
        client.delete::<Pod>(&victim.key.namespace, &victim.key.name, &options).await
    };
    match deletion.await {
        Ok(()) => {
            let message = format!("Preempted by pod {} on node {node}", pod.uid());
            events.record(reference(&*victim.pod), EventType::Normal, "Preempted", message);
            info!(victim = %victim.key, pod = %pod.key, node, "preempted");
            true
        }
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            warn!(victim = %victim.key, error = &error as &dyn std::error::Error, "cannot preempt");
            false
        }
    }
}

/// The status change that tells why the pod waits, if it says anything new.
fn status_patch(pod: &Pod, message: &str, nomination: &Nomination, at: Timestamp) -> Option<Value> {
    let status = pod.status.as_ref();
    let known = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled");
    let mut patch = Map::new();
    let says_so = |condition: &PodCondition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(message)
    };
    if !known.is_some_and(says_so) {
        let since = known
            .filter(|condition| condition.status == "False")
            .and_then(|condition| condition.last_transition_time.as_ref());
        let since = since.map_or(at, |time| time.0);
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": since.round(k8s_openapi::jiff::Unit::Second).unwrap_or(since),
        });
        patch.insert("conditions".to_owned(), json!([condition]));
    }
    let nominated = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
    match nomination {
        Nomination::Set(node) if node != nominated => {
            patch.insert("nominatedNodeName".to_owned(), json!(node));
        }
        Nomination::Clear if !nominated.is_empty() => {
            patch.insert("nominatedNodeName".to_owned(), Value::Null);
        }
        Nomination::Set(_) | Nomination::Clear | Nomination::Keep => {}
    }
    (!patch.is_empty()).then(|| json!({"status": patch}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn the_condition_is_written_once_and_keeps_its_since() {
        let mut waiting = pod("p", json!({}));
        let first = Timestamp::from_second(1000).unwrap();
        let patch = status_patch(&waiting, "why", &Nomination::Keep, first).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:16:40Z");
        assert_eq!(patch["status"].get("nominatedNodeName"), None);
        waiting.status = serde_json::from_value(patch["status"].clone()).unwrap();
        let later = Timestamp::from_second(2000).unwrap();
        assert_eq!(status_patch(&waiting, "why", &Nomination::Clear, later), None);
        let patch = status_patch(&waiting, "other", &Nomination::Set("n".into()), later).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:16:40Z");
        assert_eq!(patch["status"]["nominatedNodeName"], "n");
        waiting.status.as_mut().unwrap().nominated_node_name = Some("n".into());
        let patch = status_patch(&waiting, "why", &Nomination::Clear, later).unwrap();
        assert_eq!(patch, json!({"status": {"nominatedNodeName": null}}));
    }
}
