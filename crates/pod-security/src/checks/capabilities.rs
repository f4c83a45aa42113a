//! Baseline adds nothing beyond the usual set; restricted drops all and may add one.

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, containers, quoted};

const USUAL: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add others than these, and which.
fn adding_others<'a>(pod: Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, Values) {
    let mut others = Values::new();
    let names = pod.containers_where(|container| {
        let added = container.capabilities("add").filter(|name| !allowed.contains(name));
        let added: Vec<String> = added.map(str::to_owned).collect();
        let any = !added.is_empty();
        others.extend(added);
        any
    });
    (names, others)
}

fn must_not_add(names: &[&str], others: Values) -> String {
    format!("{} must not include {} in securityContext.capabilities.add", containers(names), quoted(others))
}

pub(super) fn baseline(pod: Pod<'_>) -> Found {
    let (names, others) = adding_others(pod, USUAL);
    (!names.is_empty()).then(|| ("non-default capabilities".to_owned(), must_not_add(&names, others)))
}

pub(super) fn restricted(pod: Pod<'_>) -> Found {
    let mut details = Vec::new();
    let keeping = pod.containers_where(|container| !container.capabilities("drop").any(|name| name == "ALL"));
    if !keeping.is_empty() {
        details
            .push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    let (names, others) = adding_others(pod, &["NET_BIND_SERVICE"]);
    if !names.is_empty() {
        details.push(must_not_add(&names, others));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities".to_owned(), details.join("; ")))
}

pub(super) fn restricted_but_windows(pod: Pod<'_>) -> Found {
    if pod.is_windows() { None } else { restricted(pod) }
}
