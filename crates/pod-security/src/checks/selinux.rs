//! SELinux types for containers only, and no user or role of one's own.

use serde_json::Value;

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, plural, quoted, setters};

const TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t"];
const TYPES_AND_ENGINE: &[&str] =
    &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

pub(super) fn before_engine(pod: Pod<'_>) -> Found {
    check(pod, TYPES)
}

pub(super) fn with_engine(pod: Pod<'_>) -> Found {
    check(pod, TYPES_AND_ENGINE)
}

fn check(pod: Pod<'_>, allowed: &[&str]) -> Found {
    let (mut types, mut user, mut role) = (Values::new(), false, false);
    let mut is_bad = |context: &Value| {
        let text = |field: &str| context["seLinuxOptions"][field].as_str().unwrap_or_default();
        let bad_type = !allowed.contains(&text("type"));
        if bad_type {
            types.insert(text("type").to_owned());
        }
        let (own_user, own_role) = (!text("user").is_empty(), !text("role").is_empty());
        user |= own_user;
        role |= own_role;
        bad_type || own_user || own_role
    };
    let by_pod = is_bad(pod.security_context());
    let names = pod.containers_where(|container| is_bad(container.security_context()));
    let who = setters(by_pod, &names);
    if who.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    Some((
        "seLinuxOptions".to_owned(),
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    ))
}
