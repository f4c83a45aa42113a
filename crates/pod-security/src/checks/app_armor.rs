//! AppArmor stays as the node has it, or gets a profile of the node: never none.

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, plural, quoted, setters};

const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn annotation_allowed(profile: &str) -> bool {
    profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
}

pub(super) fn check(pod: Pod<'_>) -> Found {
    let mut bad = Values::new();
    let mut is_bad = |context: &serde_json::Value| {
        let profile = &context["appArmorProfile"];
        let kind = profile["type"].as_str().unwrap_or_default();
        let refused = profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if refused {
            bad.insert(kind.to_owned());
        }
        refused
    };
    let by_pod = is_bad(pod.security_context());
    let by_containers = pod.containers_where(|container| is_bad(container.security_context()));
    let mut annotations: Vec<String> = pod
        .annotations()
        .filter(|(key, profile)| key.starts_with(ANNOTATION) && !annotation_allowed(profile))
        .map(|(key, profile)| format!("{key}={profile:?}"))
        .collect();
    annotations.sort();
    let mut who: Vec<String> = vec![setters(by_pod, &by_containers)];
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    who.retain(|setter| !setter.is_empty());
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = bad.into_iter().chain(annotations).collect();
    Some((
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()).to_owned(),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    ))
}
