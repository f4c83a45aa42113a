//! Baseline does without no filter that there would be; restricted has one for sure.

use serde_json::Value;

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, containers, plural, quoted, setters};

pub(crate) const POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(crate) const CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

const REASON: &str = "seccompProfile";

fn profile(context: &Value) -> Option<&str> {
    let profile = &context["seccompProfile"];
    profile.is_object().then(|| profile["type"].as_str().unwrap_or_default())
}

fn is_filter(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

/// Before there were fields.
pub(super) fn baseline_annotations(pod: Pod<'_>) -> Found {
    let keys = std::iter::once(POD_ANNOTATION.to_owned())
        .chain(pod.containers().map(|container| format!("{CONTAINER_ANNOTATION}{}", container.name())));
    let forbidden: Values = keys
        .filter_map(|key| {
            let value = pod.annotation(&key)?;
            let allowed =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!allowed).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", forbidden.len());
    let forbidden: Vec<String> = forbidden.into_iter().collect();
    Some((REASON.to_owned(), format!("forbidden {what} {}", forbidden.join(", "))))
}

pub(super) fn baseline_fields(pod: Pod<'_>) -> Found {
    let mut bad = Values::new();
    let mut is_bad = |context: &Value| {
        let unfiltered = profile(context).filter(|kind| !is_filter(kind));
        bad.extend(unfiltered.map(str::to_owned));
        unfiltered.is_some()
    };
    let by_pod = is_bad(pod.security_context());
    let names = pod.containers_where(|container| is_bad(container.security_context()));
    let who = setters(by_pod, &names);
    let detail = || format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(bad));
    (!who.is_empty()).then(|| (REASON.to_owned(), detail()))
}

pub(super) fn restricted(pod: Pod<'_>) -> Found {
    if let Some(found) = baseline_fields(pod) {
        return Some(found);
    }
    if profile(pod.security_context()).is_some() {
        return None;
    }
    let silent = pod.containers_where(|container| profile(container.security_context()).is_none());
    let detail = || {
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        )
    };
    (!silent.is_empty()).then(|| (REASON.to_owned(), detail()))
}

pub(super) fn restricted_but_windows(pod: Pod<'_>) -> Found {
    if pod.is_windows() { None } else { restricted(pod) }
}
