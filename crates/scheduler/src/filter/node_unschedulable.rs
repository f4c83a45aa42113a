//! A cordoned node takes only pods that tolerate the taint that cordoning stands for.

use k8s_openapi::api::core::v1::Taint;

use super::{Refusal, taints};
use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn refuses(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    if !node.is_unschedulable() {
        return None;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if taints::tolerates(taints::tolerations(pod), &taint) {
        return None;
    }
    Refusal::of("NodeUnschedulable", "node(s) were unschedulable", false, "the node is cordoned".to_owned())
}
