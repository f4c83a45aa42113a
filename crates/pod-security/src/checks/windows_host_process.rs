//! No processes of a Windows host's.

use serde_json::Value;

use super::Found;
use crate::pod::Pod;
use crate::wording::setters;

pub(super) fn check(pod: Pod<'_>) -> Found {
    let asks = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = pod.containers_where(|container| asks(container.security_context()));
    let who = setters(asks(pod.security_context()), &names);
    let detail = || format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    (!who.is_empty()).then(|| ("hostProcess".to_owned(), detail()))
}
