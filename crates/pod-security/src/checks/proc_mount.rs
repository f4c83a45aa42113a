//! `/proc` stays masked, unless its user is nobody on the host.

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, containers, quoted};

pub(super) fn default_only(pod: Pod<'_>) -> Found {
    let mut kinds = Values::new();
    let names = pod.containers_where(|container| match container.security_context()["procMount"].as_str() {
        None | Some("Default") => false,
        Some(kind) => {
            kinds.insert(kind.to_owned());
            true
        }
    });
    let detail =
        || format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(kinds));
    (!names.is_empty()).then(|| ("procMount".to_owned(), detail()))
}

pub(super) fn default_unless_own_users(pod: Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { default_only(pod) }
}
