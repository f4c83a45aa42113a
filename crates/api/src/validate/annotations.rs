//! Annotations of pods that mean something to the nodes that run them.

use super::cursor::At;
use crate::status::Cause;

/// Marks the API's copy of a pod that a node started by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The profile of a container, whose name follows.
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Of a pod or a template.
pub(super) fn check(pod: &At<'_>, faults: &mut Vec<Cause>) {
    let mirror = pod.get("metadata").get("annotations").entries().find(|(key, _)| *key == MIRROR);
    if let Some((_, mirror)) = mirror
        && pod.get("spec").get("nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        faults.push(Cause::invalid(mirror.path.clone(), mirror.text(), detail));
    }
}

/// What these say holds from the first to the last: whose pod it is, and under which profile it runs.
pub(super) fn update(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (new, old) = (new.get("metadata").get("annotations"), old.get("metadata").get("annotations"));
    let what = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APPARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, before) in old.entries().filter(|(key, before)| new.value.get(key) != Some(before.value)) {
        if let Some(what) = what(key) {
            faults.push(Cause::forbidden(before.path, format!("may not remove or update {what}")));
        }
    }
    for (key, added) in new.entries().filter(|(key, _)| old.value.get(key).is_none()) {
        if let Some(what) = what(key) {
            faults.push(Cause::forbidden(added.path, format!("may not add {what}")));
        }
    }
}
