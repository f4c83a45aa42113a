//! The revisions of a DaemonSet's template, as `kubectl rollout history` and `undo` read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::owners::controller_reference;
use crate::pods::template_hash;

pub(super) const HASH: &str = "controller-revision-hash";

#[derive(Debug)]
pub(super) enum Plan {
    /// The newest revision is the template's; with its hash.
    Keep(String),
    /// An older revision is the template's again.
    Renumber(Box<ControllerRevision>),
    Create(Box<ControllerRevision>),
}

pub(super) fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(HASH)).map(String::as_str).unwrap_or_default()
}

pub(super) fn plan(set: &DaemonSet, all: &[Arc<ControllerRevision>]) -> Plan {
    let data = patch(set);
    let newest = all.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let same = all
        .iter()
        .filter(|revision| revision.data.as_ref().is_some_and(|own| own.0 == data))
        .max_by_key(|revision| revision.revision);
    match same {
        Some(revision) if revision.revision == newest => Plan::Keep(hash_of(revision).to_owned()),
        Some(revision) => {
            let mut revision = (**revision).clone();
            revision.revision = newest + 1;
            Plan::Renumber(Box::new(revision))
        }
        None => Plan::Create(Box::new(new(set, data, newest + 1))),
    }
}

/// The part of the set that a revision holds, as a strategic merge patch that brings it back.
fn patch(set: &DaemonSet) -> Value {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn new(set: &DaemonSet, data: Value, number: i64) -> ControllerRevision {
    let spec = set.spec.clone().unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let template = spec.template.metadata.unwrap_or_default();
    let mut labels: BTreeMap<String, String> = template.labels.unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let name = set.metadata.name.clone().unwrap_or_default();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name.chars().take(223).collect::<String>())),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// Revisions beyond the history's limit, oldest first; those that pods run are kept.
pub(super) fn superfluous(
    set: &DaemonSet,
    current: &str,
    all: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let runs = |hash: &str| {
        let labels = pods.iter().filter_map(|pod| pod.metadata.labels.as_ref());
        labels.into_iter().any(|labels| labels.get(HASH).is_some_and(|own| own == hash))
    };
    let mut old: Vec<_> =
        all.iter().filter(|one| hash_of(one) != current && !runs(hash_of(one))).cloned().collect();
    old.sort_by_key(|revision| revision.revision);
    let count = old.len().saturating_sub(limit);
    old.truncate(count);
    old
}
