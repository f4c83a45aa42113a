//! Kernel parameters of a pod: which a node takes, and what the runtime is told of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use skiff_api::sysctl::{Namespace, namespace};

/// Those that belong to a pod's own namespaces and can't harm another pod: upstream's list of 1.36.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Parameters that the node takes beside the safe ones: names, or beginnings that end in `*`. An error
/// names one that belongs to no namespace, and so would be the whole machine's.
pub fn check_allowed(patterns: &[String]) -> Result<(), String> {
    for pattern in patterns {
        let name = dotted(pattern);
        let (name, noun) = match name.strip_suffix('*') {
            Some(prefix) => (prefix, "sysctls"),
            None => (name.as_str(), "sysctl"),
        };
        if namespace(name).is_none() {
            return Err(format!("the {noun} {pattern:?} are not known to be namespaced"));
        }
    }
    Ok(())
}

/// Why the node doesn't take the pod, in upstream's words.
pub(crate) fn rejection(spec: &PodSpec, allowed: &[String]) -> Option<String> {
    let wanted = spec.security_context.as_ref()?.sysctls.as_ref()?;
    wanted.iter().find_map(|sysctl| {
        let name = dotted(&sysctl.name);
        let is_allowed = SAFE.contains(&name.as_str())
            || allowed.iter().any(|pattern| match dotted(pattern).strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == dotted(pattern),
            });
        let shared = |namespace| match namespace {
            Namespace::Net => spec.host_network == Some(true),
            Namespace::Ipc => spec.host_ipc == Some(true),
        };
        match namespace(&name) {
            Some(namespace) if is_allowed && shared(namespace) => {
                Some(format!("forbidden sysctl: {name:?} not allowed with host {} enabled", namespace.name()))
            }
            Some(_) if is_allowed => None,
            _ => Some(format!("forbidden sysctl: {name:?} not allowlisted")),
        }
    })
}

/// What the sandbox gets, by name with dots.
pub(crate) fn of_pod(spec: &PodSpec) -> BTreeMap<String, String> {
    let wanted = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    wanted.map(|sysctl| (dotted(&sysctl.name), sysctl.value.clone())).collect()
}

/// A name may be written with slashes, which then leave dots to be part of a segment: `sysctl.d(5)`.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(names: &[&str], network: bool, ipc: bool) -> PodSpec {
        let sysctls: Vec<_> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        serde_json::from_value(json!({"containers": [], "hostNetwork": network, "hostIPC": ipc,
            "securityContext": {"sysctls": sysctls}}))
        .expect("a specification")
    }

    #[test]
    fn the_safe_ones_and_those_the_node_allows() {
        let allowed = ["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()];
        let why = |name: &str, network, ipc| rejection(&spec(&[name], network, ipc), &allowed);
        for name in SAFE.iter().chain(&["kernel.msgmax", "net.core.somaxconn", "net/ipv4/tcp_syncookies"]) {
            assert_eq!(why(name, false, false), None, "{name}");
        }
        for name in
            ["kernel.sem", "net.core.rmem_max", "kernel.panic", "vm.swappiness", "kernel.core_pattern"]
        {
            assert_eq!(
                why(name, false, false),
                Some(format!("forbidden sysctl: \"{name}\" not allowlisted"))
            );
        }
        assert_eq!(
            why("net.ipv4.tcp_syncookies", true, false).as_deref(),
            Some("forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled")
        );
        assert_eq!(
            why("kernel.shm_rmid_forced", false, true).as_deref(),
            Some("forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled")
        );
        assert_eq!(why("kernel.shm_rmid_forced", true, false), None);
        assert_eq!(rejection(&PodSpec::default(), &allowed), None);
    }

    #[test]
    fn what_is_the_whole_machines_can_not_be_allowed() {
        let check = |pattern: &str| check_allowed(&[pattern.to_owned()]).is_ok();
        assert!(check("kernel.msg*") && check("net.*") && check("fs.mqueue.*") && check("kernel.sem"));
        assert!(
            !check("*") && !check("kernel.*") && !check("vm.swappiness") && !check("kernel.core_pattern")
        );
        // One that slipped into the configuration all the same is still refused.
        let all = ["*".to_owned()];
        assert!(rejection(&spec(&["kernel.core_pattern"], false, false), &all).is_some());
    }

    #[test]
    fn names_with_slashes_keep_their_dots() {
        assert_eq!(dotted("net.ipv4.conf.eth0/1.mtu"), "net.ipv4.conf.eth0/1.mtu");
        assert_eq!(dotted("net/ipv4/conf/eth0.1/mtu"), "net.ipv4.conf.eth0/1.mtu");
        assert_eq!(
            of_pod(&spec(&["net/ipv4/tcp_rmem"], false, false)).into_keys().next().as_deref(),
            Some("net.ipv4.tcp_rmem")
        );
    }
}
