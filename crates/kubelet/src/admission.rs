//! Whether the node takes a pod that was given to it.
//!
//! The scheduler gives a node no pod that it has no room for, but a pod may name its node itself. The node
//! sees to it then that its pods fit beside each other, and that no two hold one of its ports.

mod fit;

pub(crate) use fit::Room;
use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use crate::plan::Waiting;
use crate::security::admission::{self as security, Host};

/// Why the node does not take the pod, in upstream's words; `None` if it does. A pod that was started
/// once was taken, and stays so.
pub(crate) fn rejection(
    pod: &Pod,
    others: &[impl AsRef<Pod>],
    host: &Host<'_>,
    room: &Room<'_>,
) -> Option<Waiting> {
    if is_started(pod) {
        return None;
    }
    if let Some(refused) = security::rejection(pod, host) {
        return Some(refused);
    }
    let others = others.iter().map(AsRef::as_ref).filter(|other| comes_before(other, pod));
    if let Some(misfit) = fit::misfit(pod, others.clone(), room) {
        return Some(misfit);
    }
    let own = host_ports(pod);
    let clashes = others.into_iter().any(|other| {
        let theirs = host_ports(other);
        own.iter().any(|port| theirs.iter().any(|taken| clash(port, taken)))
    });
    clashes.then(|| fit::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

/// Whether the pod was taken once.
pub(crate) fn is_started(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Another pod that holds what it asks for: it was started, or it is the older of two that were not.
fn comes_before(other: &Pod, pod: &Pod) -> bool {
    let age =
        |pod: &Pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.uid.clone());
    other.metadata.uid != pod.metadata.uid && !is_over(other) && (is_started(other) || age(other) < age(pod))
}

fn host_ports(pod: &Pod) -> Vec<&ContainerPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0)).collect()
}

/// Same number and protocol, on addresses of which one is the other or all.
fn clash(a: &ContainerPort, b: &ContainerPort) -> bool {
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let address = |port: &ContainerPort| match port.host_ip.as_deref() {
        None | Some("") => "0.0.0.0".to_owned(),
        Some(ip) => ip.to_owned(),
    };
    let (x, y) = (address(a), address(b));
    a.host_port == b.host_port && protocol(a) == protocol(b) && (x == y || x == "0.0.0.0" || y == "0.0.0.0")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn pod(uid: &str, port: serde_json::Value, started: bool) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": uid, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c", "ports": [port]}]},
            "status": {"phase": "Pending"},
        });
        if started {
            pod["status"] = json!({"phase": "Running", "startTime": "2026-01-01T00:00:01Z"});
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn is_rejected(pod: &Pod, others: &[Arc<Pod>]) -> bool {
        let host = Host { apparmor: false, allowed_unsafe_sysctls: &[] };
        let room =
            Room { pods: 110, cpu_milli: 2_000, memory_bytes: 1 << 30, disk_bytes: 1 << 30, node: None };
        rejection(pod, others, &host, &room).is_some()
    }

    #[test]
    fn a_port_has_one_holder_by_address_and_protocol() {
        let wide = json!({"containerPort": 80, "hostPort": 9000, "protocol": "TCP"});
        let narrow = json!({"containerPort": 80, "hostPort": 9000, "protocol": "TCP", "hostIP": "127.0.0.1"});
        let other_address =
            json!({"containerPort": 80, "hostPort": 9000, "protocol": "TCP", "hostIP": "10.0.0.1"});
        let udp = json!({"containerPort": 80, "hostPort": 9000, "protocol": "UDP"});
        let none = json!({"containerPort": 80, "protocol": "TCP"});
        let cases = [
            (&wide, &wide, true),
            (&wide, &narrow, true),
            (&narrow, &other_address, false),
            (&narrow, &narrow, true),
            (&wide, &udp, false),
            (&none, &none, false),
        ];
        for (new, held, rejected) in cases {
            let holder = pod("holder", held.clone(), true);
            assert_eq!(
                is_rejected(&pod("new", new.clone(), false), &[holder]),
                rejected,
                "{new} beside {held}"
            );
        }
    }

    #[test]
    fn what_runs_is_never_rejected_and_of_two_new_ones_the_older_is_taken() {
        let port = json!({"containerPort": 80, "hostPort": 9000, "protocol": "TCP"});
        let (a, b) = (pod("a", port.clone(), false), pod("b", port.clone(), false));
        assert!(!is_rejected(&a, &[a.clone(), b.clone()]));
        assert!(is_rejected(&b, &[a.clone(), b.clone()]));
        let running = pod("running", port.clone(), true);
        assert!(!is_rejected(&running, &[pod("other", port, true)]));
    }

    #[test]
    fn what_has_ended_holds_nothing() {
        let port = json!({"containerPort": 80, "hostPort": 9000, "protocol": "TCP"});
        let mut ended = Pod::clone(&pod("ended", port.clone(), true));
        ended.status.get_or_insert_default().phase = Some("Failed".into());
        assert!(!is_rejected(&pod("new", port, false), &[Arc::new(ended)]));
    }

    #[test]
    fn who_came_before_holds_what_it_asks_for() {
        let port = || json!({"containerPort": 80, "hostPort": 9000});
        let made = |uid: &str, at: &str, phase: &str| {
            let mut pod = Pod::clone(&pod(uid, port(), false));
            pod.metadata.creation_timestamp = serde_json::from_value(json!(at)).unwrap();
            pod.status.get_or_insert_default().phase = Some(phase.into());
            Arc::new(pod)
        };
        let (first, second) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        let new = made("m", first, "Pending");
        assert!(is_rejected(&made("a", second, "Pending"), std::slice::from_ref(&new)));
        assert!(!is_rejected(&new, &[made("a", second, "Pending")]));
        assert!(is_rejected(&new, &[pod("z", port(), true)]), "it was started");
        for phase in ["Failed", "Succeeded"] {
            assert!(!is_rejected(&new, &[made("a", first, phase)]), "{phase}");
        }
        assert!(is_rejected(&new, &[made("a", first, "Running")]));
    }

    #[test]
    fn ports_without_a_number_or_of_another_one_clash_with_nobody() {
        let port = |number: u16, more: serde_json::Value| {
            let mut port = json!({"containerPort": 80, "hostPort": number});
            port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            port
        };
        let plain = |number| port(number, json!({}));
        for (new, held, rejected) in [
            (plain(9000), plain(9001), false),
            (plain(0), plain(0), false),
            (plain(1), plain(1), true),
            (plain(9000), port(9000, json!({"protocol": "TCP"})), true),
            (plain(9000), port(9000, json!({"hostIP": ""})), true),
            (port(9000, json!({"hostIP": "127.0.0.1"})), port(9000, json!({"hostIP": "0.0.0.0"})), true),
            (port(9000, json!({"hostIP": "0.0.0.0"})), port(9000, json!({"hostIP": "127.0.0.1"})), true),
        ] {
            let holder = pod("holder", held.clone(), true);
            assert_eq!(
                is_rejected(&pod("new", new.clone(), false), &[holder]),
                rejected,
                "{new} beside {held}"
            );
        }
    }
}
