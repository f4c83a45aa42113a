//! What the API is told of a pod: its status, again where others wrote over it, and events.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::time::Instant;
use tracing::debug;

use super::{Look, Worker};
use crate::events::Kind;
use crate::plan::{self, Plan};
use crate::status::{OWN_CONDITIONS, status};
use crate::told::{Standing, standing};

impl Worker {
    /// The pod, with the status that was told last in place of one that the copy may have from before.
    pub(super) fn pod_as_told(&self) -> Pod {
        let mut pod = Pod::clone(&self.pod);
        if let Some(sent) = &self.sent {
            let mut status = sent.clone();
            let own = OWN_CONDITIONS;
            let foreign = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let foreign: Vec<_> =
                foreign.filter(|condition| !own.contains(&condition.type_.as_str())).cloned().collect();
            let conditions = status.conditions.get_or_insert_default();
            conditions.retain(|condition| own.contains(&condition.type_.as_str()));
            conditions.extend(foreign);
            pod.status = Some(status);
        }
        pod
    }

    /// The control plane says of a node that was silent that its pods are not ready. Once such a node
    /// speaks again, what it said before has to be said anew, as after any write over it.
    pub(super) fn notice_foreign_status(&mut self) -> Look {
        if self.sent.is_none() || self.seen.removed {
            return Look::WhenRung;
        }
        match standing(&self.writer.told(), &self.pod) {
            Standing::Holds => Look::WhenRung,
            Standing::Open => Look::WhenAnswered,
            Standing::Overwritten => match self.pace.take(Instant::now()) {
                Some(left) => Look::After(left),
                None => {
                    debug!(pod = %self.key, "somebody else wrote the pod's status, telling it anew");
                    self.sent = None;
                    Look::WhenRung
                }
            },
        }
    }

    /// Its sandbox runs and its address is not known yet, mostly since the agent was restarted: what the
    /// API was told before holds until it is. A restart must not make a pod look unready.
    fn is_being_adopted(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        let node_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let ends = self.pod.metadata.deletion_timestamp.is_some();
        !ends
            && !node_network
            && self.seen.ip.is_none()
            && self.seen.sandbox().is_some_and(|sandbox| sandbox.ready)
    }

    /// Writes the status if it changed, and events for new back-offs.
    pub(super) fn tell(&mut self, pod: &Pod, plan: &Plan, now: SystemTime) {
        if self.seen.removed || self.is_being_adopted() {
            return;
        }
        self.context.memory.publish(&self.uid, crate::explain::waits(pod, &self.seen, plan), now);
        let status = status(pod, &self.seen, plan, self.context.config.node_ip(), now);
        if readiness(Some(&status)) == Some("True") {
            self.context.memory.mark_ready(&self.uid);
        }
        let known = self.sent.as_ref().or(self.pod.status.as_ref());
        if known != Some(&status) {
            self.writer.write(status.clone());
            self.sent = Some(status);
        }
        let events = &self.context.events;
        if let Some(verdict) = &plan.verdict {
            let message = verdict.message.clone().unwrap_or_default();
            // A pod that has ended is told of once, also by an agent that was restarted since.
            let ended =
                self.pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"));
            if self.told.insert(String::new(), message.clone()).is_none() && !ended {
                let message = message.trim_start_matches("Pod was rejected: ").to_owned();
                // As upstream has it: the deadline is what the pod asked for.
                let kind = if verdict.reason == "DeadlineExceeded" { Kind::Normal } else { Kind::Warning };
                events.pod(pod, None, kind, &verdict.reason, message);
            }
        }
        for (container, waiting) in &plan.waiting {
            let text = format!("{} {}", waiting.reason, waiting.message.as_deref().unwrap_or_default());
            if self.told.insert(container.clone(), text.clone()).as_deref() == Some(text.as_str()) {
                continue;
            }
            let image = || {
                let containers = pod
                    .spec
                    .iter()
                    .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
                let mut containers = containers.filter(|each| each.name == *container);
                containers.next().and_then(|each| each.image.clone()).unwrap_or_default()
            };
            match waiting.reason.as_str() {
                "CrashLoopBackOff" => {
                    let message = format!(
                        "Back-off restarting failed container {container} in pod {}",
                        plan::full_name(pod)
                    );
                    events.pod(pod, Some(container), Kind::Warning, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    events.pod(
                        pod,
                        Some(container),
                        Kind::Normal,
                        "BackOff",
                        format!("Back-off pulling image \"{}\"", image()),
                    );
                    events.pod(
                        pod,
                        Some(container),
                        Kind::Warning,
                        "Failed",
                        "Error: ImagePullBackOff".into(),
                    );
                }
                "CreateContainerConfigError" => {
                    let message = format!("Error: {}", waiting.message.as_deref().unwrap_or_default());
                    events.pod(pod, Some(container), Kind::Warning, "Failed", message);
                }
                _ => {}
            }
        }
        // The pod's own verdict, which has no container's name, is told once.
        self.told.retain(|container, _| container.is_empty() || plan.waiting.contains_key(container));
    }
}

/// The status of the pod's condition Ready.
fn readiness(status: Option<&PodStatus>) -> Option<&str> {
    let mut conditions = status?.conditions.as_ref()?.iter();
    conditions.find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}
