//! What controllers ask of pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::owners::is_deleting;

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor on its way out: it counts as a replica.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !has_ended(pod) && !is_deleting(&pod.metadata)
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    condition(pod, "Ready")
}

/// When it was given its node, by the server's clock.
pub(crate) fn bound_at(pod: &Pod) -> Option<Timestamp> {
    let bound = condition(pod, "PodScheduled").filter(|condition| condition.status == "True");
    let bound = bound.and_then(|condition| condition.last_transition_time.as_ref());
    bound.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

/// The patch of a pod's status that tells why it is about to be deleted.
pub(crate) fn disrupted(pod: &Pod, reason: &str, message: &str, at: Timestamp) -> Value {
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": at.to_string(),
    }]}})
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// Since when it is ready, where it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = ready_condition(pod).filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least so long.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready_seconds <= 0
        || ready_since(pod)
            .is_some_and(|since| now.as_second() - since.as_second() >= i64::from(min_ready_seconds))
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// How often its containers have restarted, in all.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// A pod of a template, with the controller's name as the start of its own.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    controller: OwnerReference,
    more_labels: &[(&str, &str)],
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.extend(more_labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Pod {
        metadata: ObjectMeta {
            // A name of 63 characters must remain, 5 of them random.
            generate_name: Some(format!("{}-", controller.name.chars().take(57).collect::<String>())),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels).filter(|labels| !labels.is_empty()),
            annotations: metadata.annotations.filter(|annotations: &BTreeMap<_, _>| !annotations.is_empty()),
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..Pod::default()
    }
}

/// A hash of a pod template that every build of every release computes alike, in the letters that object
/// names may have.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove("pod-template-hash");
        labels.remove("controller-revision-hash");
    }
    // Field order is the type's, maps are sorted: equal templates have equal text.
    let text = serde_json::to_string(&template).unwrap_or_default();
    let mut hash = fnv(text.as_bytes(), FNV_START);
    if collisions > 0 {
        hash = fnv(&collisions.to_le_bytes(), hash);
    }
    letters(hash)
}

pub(crate) const FNV_START: u32 = 0x811c_9dc5;

/// The 32-bit FNV-1a hash.
pub(crate) fn fnv(bytes: &[u8], start: u32) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A number in letters that spell no words, by its decimal digits.
pub(crate) fn letters(number: u32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    number.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn available_is_ready_for_long_enough() {
        let ready = |since: Option<&str>| {
            let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
            pod("p", json!({"status": {"conditions": [condition]}}))
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let since = ready(Some("1970-01-01T00:00:10Z"));
        for (min_ready, now, expected) in
            [(0, 10, true), (-1, 10, true), (5, 14, false), (5, 15, true), (5, 16, true)]
        {
            assert_eq!(is_available(&since, min_ready, at(now)), expected, "{min_ready} at {now}");
        }
        assert!(is_available(&ready(None), 0, at(1)));
        assert!(!is_available(&ready(None), 1, at(1)), "nobody knows since when");
        assert!(!is_available(&pod("p", json!({})), 0, at(1)));
    }

    #[test]
    fn the_container_that_restarted_most_counts() {
        let statuses = json!([
            {"name": "a", "restartCount": 2, "ready": true, "image": "", "imageID": ""},
            {"name": "b", "restartCount": 7, "ready": true, "image": "", "imageID": ""},
        ]);
        assert_eq!(restarts(&pod("p", json!({"status": {"containerStatuses": statuses}}))), 7);
        assert_eq!(restarts(&pod("p", json!({}))), 0);
    }

    #[test]
    fn a_pod_has_all_of_its_template_and_is_its_controllers() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}, "finalizers": ["x.example/hold"]},
            "spec": {"containers": [{"name": "c"}]},
        }))
        .unwrap();
        let controller: OwnerReference =
            serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "name": "s".repeat(63), "uid": "u", "controller": true}))
            .unwrap();
        let made = from_template(&template, "a", controller.clone(), &[("hash", "h")]);
        let metadata = json!({
            "generateName": format!("{}-", "s".repeat(57)), "namespace": "a",
            "labels": {"app": "web", "hash": "h"}, "annotations": {"a": "b"}, "finalizers": ["x.example/hold"],
            "ownerReferences": [controller],
        });
        assert_eq!(serde_json::to_value(&made.metadata).unwrap(), metadata);
        assert_eq!(made.spec, template.spec);
    }

    #[test]
    fn hashes_stay_what_they_are() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}),
        )
        .unwrap();
        let (plain, again) = (template_hash(&template, 0), template_hash(&template, 1));
        let text = serde_json::to_string(&template).unwrap();
        assert_eq!(plain, letters(fnv(text.as_bytes(), FNV_START)), "no collision, nothing more");
        assert_ne!(plain, again);
        assert_ne!(again, template_hash(&template, 2));
        let mut labeled = template.clone();
        let labels = labeled.metadata.as_mut().unwrap().labels.as_mut().unwrap();
        labels.insert("pod-template-hash".into(), plain.clone());
        assert_eq!(template_hash(&labeled, 0), plain);
        // The published test vectors of FNV-1a.
        assert_eq!(fnv(b"", FNV_START), 0x811c_9dc5);
        assert_eq!(fnv(b"a", FNV_START), 0xe40c_292c);
        assert_eq!(fnv(b"foobar", FNV_START), 0xbf9c_f968);
        assert_eq!(letters(1_234_567_890), "56789bcdf4");
    }

    #[test]
    fn who_disrupts_a_pod_says_so_in_its_status() {
        let at = Timestamp::from_millisecond(10_500).unwrap();
        let patch = disrupted(&pod("p", json!({})), "DeletionByTaintManager", "why", at);
        assert_eq!(patch["metadata"]["uid"], "p");
        assert_eq!(
            patch["status"]["conditions"],
            json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "why", "lastTransitionTime": "1970-01-01T00:00:10Z"}])
        );
    }
}
