//! Containers say that they are not root.

use super::Found;
use crate::pod::Pod;
use crate::wording::{containers, setters};

pub(super) fn everywhere(pod: Pod<'_>) -> Found {
    const REASON: &str = "runAsNonRoot != true";
    let by_pod = pod.security_context()["runAsNonRoot"].as_bool();
    let set = |value: Option<bool>| {
        pod.containers_where(|container| container.security_context()["runAsNonRoot"].as_bool() == value)
    };
    let who = setters(by_pod == Some(false), &set(Some(false)));
    if !who.is_empty() {
        return Some((REASON.to_owned(), format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    let silent = if by_pod == Some(true) { Vec::new() } else { set(None) };
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
    (!silent.is_empty()).then(|| (REASON.to_owned(), detail()))
}

pub(super) fn unless_own_users(pod: Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { everywhere(pod) }
}
