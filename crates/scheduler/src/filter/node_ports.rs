//! Host ports of one node's pods may not clash.

use super::Refusal;
use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn refuses(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    if pod.host_ports.is_empty() {
        return None;
    }
    let (holder, port) = node.pods.values().find_map(|other| {
        let clash = other.host_ports.iter().find(|taken| pod.host_ports.iter().any(|own| own.clashes(taken)));
        clash.map(|port| (&other.key, port))
    })?;
    let ip = if port.ip.is_empty() { "0.0.0.0" } else { &port.ip };
    let detail = format!("{ip}:{}/{} is held by pod {holder}", port.port, port.protocol);
    let reason = "node(s) didn't have free ports for the requested pod ports";
    Refusal::of("NodePorts", reason, true, detail)
}
