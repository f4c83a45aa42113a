//! No privileged containers.

use super::Found;
use crate::pod::Pod;
use crate::wording::containers;

pub(super) fn check(pod: Pod<'_>) -> Found {
    let names = pod.containers_where(|container| container.security_context()["privileged"] == true);
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&names));
    (!names.is_empty()).then(|| ("privileged".to_owned(), detail()))
}
