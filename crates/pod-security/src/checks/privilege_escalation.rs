//! No process gets more privileges than its parent has.

use super::Found;
use crate::pod::Pod;
use crate::wording::containers;

pub(super) fn everywhere(pod: Pod<'_>) -> Found {
    let names =
        pod.containers_where(|container| container.security_context()["allowPrivilegeEscalation"] != false);
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    (!names.is_empty()).then(|| ("allowPrivilegeEscalation != false".to_owned(), detail()))
}

pub(super) fn but_windows(pod: Pod<'_>) -> Found {
    if pod.is_windows() { None } else { everywhere(pod) }
}
