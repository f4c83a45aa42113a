//! What a pod shares: the agent's facts, less what the asker may not see, and the Pod Security level.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::Value;
use skiff_api::status::StatusError;
use skiff_explain::node::ListMetadata;
use skiff_explain::pod::{PodExplanation, PodExplanationList, PodSecurity};
use skiff_explain::{API_VERSION, Missing, redact};
use skiff_pod_security::{Level, Pod, Version, standing};

use super::around::Around;
use super::{Question, metadata, node_of};
use crate::cache::in_namespace;

pub(super) async fn one(question: &Question<'_>) -> Result<PodExplanation, StatusError> {
    let pod = question.pod()?;
    let path = format!("pods/{}/{}", question.address.namespace, question.address.name);
    let mut told = match node_of(&pod) {
        None => without(&pod, "", "facts of a node", "the pod has no node yet: `explain pending` says why"),
        Some(node) => match question.agent::<PodExplanation>(node, &path).await {
            Ok(told) => match question.may_see_node(node) {
                true => told,
                false => redact::pod(told),
            },
            Err(why) => without(&pod, node, "facts of its node", &why),
        },
    };
    told.pod_security = level(&pod);
    Around::of(question, &question.address.namespace).complete(&mut told, &pod);
    Ok(told)
}

/// Every pod of a namespace, or of all; each node is asked once.
pub(super) async fn list(question: &Question<'_>) -> Result<PodExplanationList, StatusError> {
    let row = Question::row();
    let namespace = question.address.namespace.as_str();
    let caches = &question.server.caches;
    let view = caches.of(row).view(caches.applied());
    let mut pods: BTreeMap<(String, String), Value> = BTreeMap::new();
    for object in in_namespace(&view.objects, row, namespace, None) {
        let value = object.value(row);
        let own = metadata(&value);
        pods.insert((own.namespace, own.name), value);
    }
    let mut nodes: Vec<String> = pods.values().filter_map(node_of).map(str::to_owned).collect();
    nodes.sort();
    nodes.dedup();
    let path = match namespace {
        "" => "pods".to_owned(),
        namespace => format!("pods?namespace={namespace}"),
    };
    let asked = nodes.iter().map(|node| question.agent::<Vec<PodExplanation>>(node, &path));
    let mut told: BTreeMap<(String, String), PodExplanation> = BTreeMap::new();
    let mut missing = Vec::new();
    for (node, answer) in nodes.iter().zip(join_all(asked).await) {
        match answer {
            Err(why) => missing.push(Missing::new(format!("facts of node {node}"), why)),
            Ok(all) => {
                let whole = question.may_see_node(node);
                for pod in all {
                    let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
                    told.insert(key, if whole { pod } else { redact::pod(pod) });
                }
            }
        }
    }
    let around = Around::of(question, namespace);
    let items = pods.iter().map(|(key, pod)| {
        let mut own = told.remove(key).unwrap_or_else(|| match node_of(pod) {
            None => without(pod, "", "facts of a node", "the pod has no node yet"),
            Some(node) => without(pod, node, "facts of its node", "its node told nothing of it"),
        });
        own.pod_security = level(pod);
        around.complete(&mut own, pod);
        own
    });
    Ok(PodExplanationList {
        kind: "PodExplanationList".into(),
        api_version: API_VERSION.into(),
        metadata: ListMetadata::default(),
        items: items.collect(),
        missing,
    })
}

/// What can be said without the node.
fn without(pod: &Value, node: &str, what: &str, why: &str) -> PodExplanation {
    let mut told = PodExplanation::empty(metadata(pod));
    told.node = node.to_owned();
    told.pod_ip = pod["status"]["podIP"].as_str().map(str::to_owned);
    told.missing.push(Missing::new(what, why));
    told
}

fn level(pod: &Value) -> PodSecurity {
    let found = standing(&Pod::of(pod), Version::Latest);
    let next = match found.meets {
        Level::Privileged => Level::Baseline.name(),
        Level::Baseline => Level::Restricted.name(),
        Level::Restricted => "",
    };
    let findings = found.kept_from_next.0.into_iter().map(|finding| match finding.detail.as_str() {
        "" => finding.reason,
        detail => format!("{} ({detail})", finding.reason),
    });
    PodSecurity { level: found.meets.name().into(), next: next.into(), kept_from_it_by: findings.collect() }
}
