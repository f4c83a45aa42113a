//! A pod that names its node fits no other.

use super::Refusal;
use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn refuses(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    let wanted = pod.pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())?;
    if wanted == node.name {
        return None;
    }
    let detail = format!("the pod asks for node {wanted}");
    Refusal::of("NodeName", "node(s) didn't match the requested node name", false, detail)
}
