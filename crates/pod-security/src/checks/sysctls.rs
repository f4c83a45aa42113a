//! Only sysctls that concern the pod alone. The set has grown with the kernels that isolate them.

use super::Found;
use crate::pod::Pod;

const V0: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
];
const V27: &[&str] = &["net.ipv4.ip_local_reserved_ports"];
const V29: &[&str] = &[
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];
const V32: &[&str] = &["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"];

pub(super) fn v0(pod: Pod<'_>) -> Found {
    check(pod, &[V0])
}

pub(super) fn v27(pod: Pod<'_>) -> Found {
    check(pod, &[V0, V27])
}

pub(super) fn v29(pod: Pod<'_>) -> Found {
    check(pod, &[V0, V27, V29])
}

pub(super) fn v32(pod: Pod<'_>) -> Found {
    check(pod, &[V0, V27, V29, V32])
}

fn check(pod: Pod<'_>, allowed: &[&[&str]]) -> Found {
    let names: Vec<&str> = pod.security_context()["sysctls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|sysctl| sysctl["name"].as_str().unwrap_or_default())
        .filter(|name| !allowed.iter().any(|set| set.contains(name)))
        .collect();
    (!names.is_empty()).then(|| ("forbidden sysctls".to_owned(), names.join(", ")))
}
