//! Nobody asks to be user 0.

use serde_json::Value;

use super::Found;
use crate::pod::Pod;
use crate::wording::setters;

pub(super) fn everywhere(pod: Pod<'_>) -> Found {
    let is_root = |context: &Value| context["runAsUser"].as_i64() == Some(0);
    let names = pod.containers_where(|container| is_root(container.security_context()));
    let who = setters(is_root(pod.security_context()), &names);
    (!who.is_empty()).then(|| ("runAsUser=0".to_owned(), format!("{who} must not set runAsUser=0")))
}

pub(super) fn unless_own_users(pod: Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { everywhere(pod) }
}
