//! Writing one pod's status: the latest wins, none is written twice, and what the API made of it is kept.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use skiff_client::{Client, Patch};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::debug;

use crate::status::OWN_CONDITIONS;
use crate::told::{Stored, Told};

const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the end of a pod waits for its last status to be taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields of the status that are this writer's: absent ones are removed.
const OWNED: [&str; 6] =
    ["reason", "message", "podIP", "podIPs", "initContainerStatuses", "containerStatuses"];

/// A background task that writes what it is given.
pub(crate) struct StatusWriter {
    wanted: watch::Sender<(u64, PodStatus)>,
    /// The newest that was answered, and what the API had then; nothing if it wants no more.
    written: watch::Receiver<(u64, Option<Arc<Stored>>)>,
    task: AbortHandle,
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StatusWriter {
    pub(crate) fn start(client: Client, namespace: String, name: String, uid: String) -> Self {
        let (wanted, mut receiver) = watch::channel((0, PodStatus::default()));
        let (tell, written) = watch::channel((0, None));
        let task = tokio::spawn(async move {
            let mut pause = Duration::from_millis(50);
            while receiver.changed().await.is_ok() {
                loop {
                    let (version, status) = receiver.borrow_and_update().clone();
                    let patch = patch(&uid, &status);
                    match client.patch::<Pod>(&namespace, &name, Some("status"), &patch).await {
                        Ok(pod) => {
                            tell.send_replace((version, Some(Arc::new(Stored::of(&pod)))));
                        }
                        // Gone, or another pod of that name: nobody wants it any more.
                        Err(error) if error.is_not_found() || error.is_conflict() => {
                            tell.send_replace((version, None));
                        }
                        Err(error) => {
                            debug!(
                                pod = name,
                                error = &error as &dyn std::error::Error,
                                "cannot write a pod's status, retrying"
                            );
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(RETRY_MAX);
                            continue;
                        }
                    }
                    pause = Duration::from_millis(50);
                    break;
                }
            }
        });
        Self { wanted, written, task: task.abort_handle() }
    }

    /// Wants this status to be the API's.
    pub(crate) fn write(&self, status: PodStatus) {
        self.wanted.send_modify(|wanted| *wanted = (wanted.0 + 1, status));
    }

    /// What has come of the last one.
    pub(crate) fn told(&self) -> Told {
        let version = self.wanted.borrow().0;
        match &*self.written.borrow() {
            (answered, _) if *answered < version => Told::Asked,
            (_, None) => Told::Nothing,
            (_, Some(stored)) => Told::Stored(stored.clone()),
        }
    }

    /// Waits for the answer to the last one, however long that takes. Cancel-safe.
    pub(crate) async fn answered(&self) {
        let version = self.wanted.borrow().0;
        let mut written = self.written.clone();
        let _ = written.wait_for(|written| written.0 >= version).await;
    }

    /// Waits until the last one is written.
    pub(crate) async fn flush(&self) {
        let version = self.wanted.borrow().0;
        let mut written = self.written.clone();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, written.wait_for(|written| written.0 >= version)).await;
    }
}

/// Conditions that are others' to write are left as they are, also those that came since this node looked.
fn patch(uid: &str, status: &PodStatus) -> Patch {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    if let Value::Object(fields) = &mut status {
        // The scheduler's.
        fields.remove("nominatedNodeName");
        for field in OWNED {
            fields.entry(field).or_insert(Value::Null);
        }
        if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
            conditions.retain(|condition| {
                condition["type"].as_str().is_some_and(|kind| OWN_CONDITIONS.contains(&kind))
            });
            // Conditions are merged by type, so what one says no more has to be taken away.
            for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                for field in ["reason", "message"] {
                    condition.entry(field).or_insert(Value::Null);
                }
            }
        }
        for field in ["hostIPs", "podIPs"] {
            // Merged by address otherwise: a former one would stay.
            if let Some(Value::Array(addresses)) = fields.get_mut(field) {
                addresses.insert(0, json!({"$patch": "replace"}));
            }
        }
    }
    Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_leaves_others_conditions_alone_and_takes_away_what_it_says_no_more() {
        let status = json!({
            "phase": "Running", "nominatedNodeName": "n", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
                {"type": "Initialized", "status": "False", "reason": "ContainersNotInitialized", "message": "m"},
            ],
        });
        let status: PodStatus = serde_json::from_value(status).expect("a status");
        let Patch::Strategic(patch) = patch("u", &status) else { panic!("it merges conditions by type") };
        let expected = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
            "conditions": [
                {"type": "Ready", "status": "True", "reason": null, "message": null},
                {"type": "Initialized", "status": "False", "reason": "ContainersNotInitialized", "message": "m"},
            ],
            "reason": null, "message": null, "initContainerStatuses": null, "containerStatuses": null,
        }});
        assert_eq!(patch, expected);
    }
}
