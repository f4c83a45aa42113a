//! Which ReplicaSet holds which revision of a deployment's template.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::owners::{controller_reference, is_deleting};
use crate::pods::template_hash;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations of a deployment that are its own and not its sets'.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

fn template(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}

/// Whether the set's template is the deployment's, its hash label aside.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(mut own) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else { return false };
    let mut wanted = template(deployment);
    for template in [&mut own, &mut wanted] {
        let metadata = template.metadata.get_or_insert_default();
        let labels = metadata.labels.get_or_insert_default();
        labels.remove(HASH);
        if metadata.annotations.as_ref().is_some_and(BTreeMap::is_empty) {
            metadata.annotations = None;
        }
        metadata.creation_timestamp = None;
    }
    own == wanted
}

/// The set of the deployment's template; the oldest, should there be several.
pub(super) fn current(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let same = sets.iter().filter(|set| same_template(deployment, set));
    same.min_by_key(|set| created(set)).cloned()
}

/// By age, then by name.
pub(super) fn created(set: &ReplicaSet) -> (Option<i64>, Option<String>) {
    let metadata = &set.metadata;
    (metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()), metadata.name.clone())
}

pub(super) fn revision(metadata: &ObjectMeta) -> i64 {
    let text = metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn next_revision(sets: &[Arc<ReplicaSet>], besides: Option<&ReplicaSet>) -> i64 {
    let others =
        sets.iter().filter(|set| besides.is_none_or(|besides| besides.metadata.uid != set.metadata.uid));
    others.map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1
}

/// The current set as it should be marked, if it isn't, and its revision. A set that becomes current again
/// by `rollout undo` gets a new number and remembers the old one.
pub(super) fn marked(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    set: &ReplicaSet,
) -> (Option<ReplicaSet>, String) {
    let mut marked = set.clone();
    let old = revision(&set.metadata);
    let next = next_revision(sets, Some(set));
    let number = old.max(next);
    copy_annotations(deployment, &mut marked.metadata);
    let annotations = marked.metadata.annotations.get_or_insert_default();
    if old < next {
        annotations.insert(REVISION.to_owned(), next.to_string());
        if old > 0 {
            let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            *history = if history.is_empty() { old.to_string() } else { format!("{history},{old}") };
        }
    }
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    let spec = marked.spec.get_or_insert_default();
    if spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0) {
        spec.min_ready_seconds = wanted;
    }
    ((marked != *set).then_some(marked), number.to_string())
}

fn copy_annotations(deployment: &Deployment, metadata: &mut ObjectMeta) {
    let annotations = metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
}

/// Notes on a set how big the deployment is, so that a later change of size is shared in proportion.
pub(super) fn note_size(deployment: &Deployment, set: &mut ReplicaSet) {
    let wanted = super::plan::wanted(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), wanted.to_string());
    annotations.insert(MAX.to_owned(), (wanted + super::plan::surge(deployment)).to_string());
}

/// A set for the deployment's template, and its revision.
pub(super) fn new_set(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    replicas: i32,
) -> (ReplicaSet, String) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH.to_owned(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template.clone();
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels = with_hash(metadata.labels.take());
    let labels = metadata.labels.clone();
    let selector = LabelSelector { match_labels: with_hash(spec.selector.match_labels), ..spec.selector };
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let revision = next_revision(sets, None).to_string();
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    copy_annotations(deployment, &mut set.metadata);
    note_size(deployment, &mut set);
    set.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision.clone());
    (set, revision)
}

/// Old sets beyond the history's limit, oldest revision first; those with pods are kept.
pub(super) fn superfluous(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let mut empty: Vec<_> = old
        .iter()
        .filter(|set| {
            let status = set.status.as_ref().map_or(0, |status| status.replicas);
            let observed = set.status.as_ref().and_then(|status| status.observed_generation);
            status == 0
                && super::plan::replicas(set) == 0
                && observed >= set.metadata.generation
                && !is_deleting(&set.metadata)
        })
        .cloned()
        .collect();
    empty.sort_by_key(|set| (revision(&set.metadata), created(set)));
    empty.truncate(old.len().saturating_sub(limit).min(empty.len()));
    empty
}

#[cfg(test)]
mod tests;
