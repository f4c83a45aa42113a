//! Annotations of pods that mean something to the nodes that run them.

use super::cursor::At;
use crate::status::Cause;

/// Marks the API's copy of a pod that a node started by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The profile of a container, whose name follows.
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const DEFAULT_PROFILE: &str = "runtime/default";
const NO_PROFILE: &str = "unconfined";
const LOCAL_PROFILE: &str = "localhost/";

/// Of a pod or a template.
pub(super) fn check(pod: &At<'_>, faults: &mut Vec<Cause>) {
    let mirror = pod.get("metadata").get("annotations").entries().find(|(key, _)| *key == MIRROR);
    if let Some((_, mirror)) = mirror
        && pod.get("spec").get("nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        faults.push(Cause::invalid(mirror.path.clone(), mirror.text(), detail));
    }
    let spec = pod.get("spec");
    for (key, profile) in pod.get("metadata").get("annotations").entries() {
        let Some(name) = key.strip_prefix(APPARMOR) else { continue };
        if containers(&spec).all(|container| container.get("name").text() != name) {
            faults.push(Cause::invalid(profile.path.clone(), name, "container not found"));
        }
        let text = profile.text();
        let known = ["", DEFAULT_PROFILE, NO_PROFILE].contains(&text) || text.starts_with(LOCAL_PROFILE);
        if !known {
            let detail = format!("invalid AppArmor profile name: {text:?}");
            faults.push(Cause::invalid(profile.path, text, detail));
        }
    }
}

fn containers<'a>(spec: &At<'a>) -> impl Iterator<Item = At<'a>> {
    ["initContainers", "containers", "ephemeralContainers"]
        .map(|list| spec.get(list))
        .into_iter()
        .flat_map(|list| list.items().collect::<Vec<_>>())
}

/// Of a new pod: a profile that is asked for both ways is asked for once.
pub(super) fn create(pod: &At<'_>, faults: &mut Vec<Cause>) {
    let (spec, annotations) = (pod.get("spec"), pod.get("metadata").get("annotations"));
    if spec.get("os").get("name").text() == "windows" {
        return;
    }
    let of_pod = spec.get("securityContext").get("appArmorProfile");
    for container in containers(&spec) {
        let own = container.get("securityContext").get("appArmorProfile");
        let place = own.path.clone();
        let wanted = if own.is_there() { &own } else { &of_pod };
        let key = format!("{APPARMOR}{}", container.get("name").text());
        let Some(asked) = annotations.value.get(&key).and_then(|value| value.as_str()) else { continue };
        let local = asked.strip_prefix(LOCAL_PROFILE);
        let (same_type, same_name) = match wanted.get("type").text() {
            "Unconfined" => (asked == NO_PROFILE, true),
            "RuntimeDefault" => (asked == DEFAULT_PROFILE, true),
            "Localhost" => (local.is_some(), local == wanted.get("localhostProfile").value.as_str()),
            _ => continue,
        };
        if !same_type {
            let detail = "apparmor type in annotation and field must match";
            faults.push(Cause::forbidden(format!("{place}.type"), detail));
        } else if !same_name {
            let detail = "apparmor profile in annotation and field must match";
            faults.push(Cause::forbidden(format!("{place}.localhostProfile"), detail));
        }
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
