//! What a deployment's status says, as `kubectl rollout status` and `kubectl wait` read it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::plan::{unavailable, wanted};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) all: i32,
    pub(super) updated: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    pub(super) terminating: i32,
}

pub(super) fn counts(sets: &[Arc<ReplicaSet>], current: Option<&ReplicaSet>) -> Counts {
    let mut counts = Counts::default();
    for status in sets.iter().filter_map(|set| set.status.as_ref()) {
        counts.all += status.replicas;
        counts.ready += status.ready_replicas.unwrap_or(0);
        counts.available += status.available_replicas.unwrap_or(0);
        counts.terminating += status.terminating_replicas.unwrap_or(0);
    }
    let current = current.and_then(|current| {
        sets.iter().find(|set| set.metadata.uid == current.metadata.uid)?.status.as_ref()
    });
    counts.updated = current.map_or(0, |status| status.replicas);
    counts
}

/// All wanted pods are of the current template and available, and no other is left.
pub(super) fn is_complete(deployment: &Deployment, counts: &Counts) -> bool {
    let wanted = wanted(deployment);
    counts.updated == wanted && counts.all == wanted && counts.available == wanted
}

/// The status, and when to look at it again although nothing changes.
pub(super) fn status(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    current: Option<&ReplicaSet>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = deployment.status.clone().unwrap_or_default();
    let counts = counts(sets, current);
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let mut conditions = Conditions { list: before.conditions.clone().unwrap_or_default(), now };
    let look_again = progress(&mut conditions, deployment, &before, &counts, current, now);
    if counts.available >= wanted(deployment) - unavailable(deployment) {
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        conditions.set(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        );
    }
    let failure = sets
        .iter()
        .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        Some(failure) => conditions.set(
            REPLICA_FAILURE,
            "True",
            failure.reason.as_deref().unwrap_or_default(),
            failure.message.as_deref().unwrap_or_default(),
        ),
        None => conditions.list.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(counts.all),
        updated_replicas: some(counts.updated),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        unavailable_replicas: some((counts.all.max(wanted(deployment)) - counts.available).max(0)),
        terminating_replicas: match before.terminating_replicas {
            Some(_) => Some(counts.terminating),
            None => some(counts.terminating),
        },
        collision_count: before.collision_count,
        conditions: Some(conditions.list),
    };
    (status, look_again)
}

/// The condition `Progressing`, and when its deadline is.
fn progress(
    conditions: &mut Conditions,
    deployment: &Deployment,
    before: &DeploymentStatus,
    counts: &Counts,
    current: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<Duration> {
    let spec = deployment.spec.as_ref();
    let deadline = spec.and_then(|spec| spec.progress_deadline_seconds).unwrap_or(600);
    if deadline == i32::MAX {
        return None;
    }
    let known = conditions.get(PROGRESSING).cloned();
    let reason = known.as_ref().and_then(|known| known.reason.clone()).unwrap_or_default();
    if spec.and_then(|spec| spec.paused).unwrap_or(false) {
        conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused");
        return None;
    }
    let set = current.and_then(|set| set.metadata.name.as_deref()).unwrap_or_default();
    let told = before.observed_generation == deployment.metadata.generation;
    if is_complete(deployment, counts) && current.is_some() {
        let message = format!("ReplicaSet \"{set}\" has successfully progressed.");
        if reason != NEW_SET_AVAILABLE || !told {
            conditions.set(PROGRESSING, "True", NEW_SET_AVAILABLE, &message);
        }
        return None;
    }
    // What was complete stays so while no other template's pods are there: losing a pod is no rollout.
    if reason == NEW_SET_AVAILABLE && counts.all == counts.updated && current.is_some() {
        return None;
    }
    let old = |counts: i32, updated: i32| counts - updated;
    let moved = counts.updated > before.updated_replicas.unwrap_or(0)
        || old(counts.all, counts.updated)
            < old(before.replicas.unwrap_or(0), before.updated_replicas.unwrap_or(0))
        || counts.ready > before.ready_replicas.unwrap_or(0)
        || counts.available > before.available_replicas.unwrap_or(0);
    let resumed = reason == "DeploymentPaused";
    if known.is_none() {
        match current {
            Some(_) => {
                let message = format!("Created new replica set \"{set}\"");
                conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", &message);
            }
            None => conditions.set(PROGRESSING, "True", "ReplicaSetUpdated", "Deployment is progressing."),
        }
    } else if moved || resumed || !told {
        let message = format!("ReplicaSet \"{set}\" is progressing.");
        conditions.set(PROGRESSING, "True", "ReplicaSetUpdated", &message);
        conditions.touch(PROGRESSING);
    }
    let since = conditions.get(PROGRESSING)?.last_update_time.as_ref().map_or(now, |time| time.0);
    let left = i64::from(deadline) - (now.as_second() - since.as_second());
    if left > 0 {
        return u64::try_from(left).ok().map(|left| Duration::from_secs(left + 1));
    }
    if conditions.get(PROGRESSING).and_then(|known| known.reason.as_deref()) != Some(TIMED_OUT) {
        let message = format!("ReplicaSet \"{set}\" has timed out progressing.");
        conditions.set(PROGRESSING, "False", TIMED_OUT, &message);
    }
    None
}

/// The set could not be created.
pub(super) fn note_create_failure(deployment: &mut Deployment, message: &str, now: Timestamp) {
    let status = deployment.status.get_or_insert_default();
    let mut conditions = Conditions { list: status.conditions.take().unwrap_or_default(), now };
    conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", message);
    status.conditions = Some(conditions.list);
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == type_)
    }

    fn time(&self) -> Time {
        Time(Timestamp::from_second(self.now.as_second()).unwrap_or(self.now))
    }

    /// Says something, keeping the times of what was said before.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let time = self.time();
        let known = self.get(type_).cloned();
        if let Some(known) = &known
            && known.status == status
            && known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(message)
        {
            return;
        }
        let since = known.filter(|known| known.status == status).and_then(|known| known.last_transition_time);
        self.list.retain(|condition| condition.type_ != type_);
        self.list.push(DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(since.unwrap_or_else(|| time.clone())),
            last_update_time: Some(time),
        });
    }

    fn touch(&mut self, type_: &str) {
        let time = self.time();
        if let Some(condition) = self.list.iter_mut().find(|condition| condition.type_ == type_) {
            condition.last_update_time = Some(time);
        }
    }
}

#[cfg(test)]
mod tests;
