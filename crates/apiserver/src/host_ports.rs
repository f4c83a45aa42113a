//! The preflight of host ports: whose port of its node a pod asks for belongs to the platform, or may be
//! given to a Service, is told so at once.
//!
//! Only what is known here is said. What else listens on a node its agent knows, and says in an event.

use serde_json::Value;
use skiff_pod_security::pod_of;

use crate::config::Config;
use crate::resources::{Cx, Resource};

/// Upstream's port of a node's agent.
const AGENT_PORT: u16 = 10250;
const DNS_PORT: u16 = 53;

/// Warns of ports in a new pod, or a new or changed template.
pub(crate) fn warn(cx: &Cx<'_>, row: &Resource, new: &Value, old: Option<&Value>) {
    let Some((_, pointer)) = pod_of(row.group, row.plural) else { return };
    if !cx.subresource.is_empty() {
        return;
    }
    let Some(spec) = new.pointer(pointer).map(|pod| &pod["spec"]) else { return };
    if old.and_then(|old| old.pointer(pointer)).is_some_and(|old| old["spec"] == *spec) {
        return;
    }
    let path = format!("{}.spec", pointer.replace('/', ".")).trim_start_matches('.').to_owned();
    for warning in warnings(&cx.server.config, &path, spec) {
        cx.notes.warn(warning);
    }
}

/// What is to be said of a pod's host ports; `path` is where its specification stands.
fn warnings(config: &Config, path: &str, spec: &Value) -> Vec<String> {
    let host_network = spec["hostNetwork"] == true;
    let mut warnings = Vec::new();
    for list in ["initContainers", "containers"] {
        for (at, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            for (nth, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
                // In the host's network every port is the host's.
                let field = match (port["hostPort"].as_u64(), host_network) {
                    (Some(1..), _) => "hostPort",
                    (_, true) => "containerPort",
                    (_, false) => continue,
                };
                let Some(number) = port[field].as_u64().and_then(|number| u16::try_from(number).ok()) else {
                    continue;
                };
                let protocol = port["protocol"].as_str().unwrap_or("TCP");
                if let Some(whose) = owner(config, number, protocol) {
                    warnings.push(format!(
                        "{path}.{list}[{at}].ports[{nth}].{field}: {number}/{protocol} {whose}"
                    ));
                }
            }
        }
    }
    warnings
}

/// Whose a port of every node is, or may become.
fn owner(config: &Config, number: u16, protocol: &str) -> Option<String> {
    let (first, last) = config.node_ports;
    match (number, protocol) {
        (number, "TCP") if number == config.advertise.1 => {
            Some("is the API server's on the nodes that run it; the pod can't have it there".to_owned())
        }
        (AGENT_PORT, "TCP") => Some("is the agent's on every node; the pod can't have it".to_owned()),
        (DNS_PORT, "TCP" | "UDP") => {
            Some("is the cluster DNS's on every node; the pod can't have it on all addresses".to_owned())
        }
        (number, _) if (first..=last).contains(&number) => Some(format!(
            "is in the range of node ports ({first}-{last}); a Service that is given it takes it from the pod"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(spec: &Value) -> Vec<String> {
        warnings(&Config::default(), "spec", spec)
    }

    fn pod(port: Value) -> Value {
        json!({"containers": [{"name": "a", "ports": [port]}]})
    }

    #[test]
    fn the_platform_s_own_ports_are_named() {
        let at = "spec.containers[0].ports[0].hostPort:";
        let check = |port: Value, whose: &str| {
            let found = said(&pod(port.clone()));
            assert!(
                found.len() == 1 && found[0].starts_with(at) && found[0].contains(whose),
                "{port}: {found:?}"
            );
        };
        check(json!({"hostPort": 6443, "containerPort": 1}), "6443/TCP is the API server's");
        check(json!({"hostPort": 10250, "containerPort": 1, "protocol": "TCP"}), "10250/TCP is the agent's");
        check(json!({"hostPort": 53, "containerPort": 1, "protocol": "UDP"}), "53/UDP is the cluster DNS's");
        check(
            json!({"hostPort": 30000, "containerPort": 1}),
            "30000/TCP is in the range of node ports (30000-32767)",
        );
        check(json!({"hostPort": 32767, "containerPort": 1, "protocol": "UDP"}), "32767/UDP is in the range");
    }

    #[test]
    fn other_ports_are_the_pod_s() {
        for port in [
            json!({"containerPort": 6443}),
            json!({"hostPort": 0, "containerPort": 10250}),
            json!({"hostPort": 6443, "containerPort": 1, "protocol": "UDP"}),
            json!({"hostPort": 29999, "containerPort": 1}),
            json!({"hostPort": 32768, "containerPort": 1}),
        ] {
            assert_eq!(said(&pod(port)), [""; 0]);
        }
    }

    #[test]
    fn in_the_host_s_network_container_ports_are_host_ports() {
        let mut spec = pod(json!({"containerPort": 10250}));
        spec["hostNetwork"] = true.into();
        let found = said(&spec);
        assert!(
            found[0].starts_with("spec.containers[0].ports[0].containerPort: 10250/TCP is the agent's"),
            "{found:?}"
        );
    }
}
