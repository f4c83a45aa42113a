//! Taints keep pods off that don't tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::Refusal;
use crate::snapshot::{NodeInfo, PodInfo};

pub(crate) fn refuses(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    let tolerations = tolerations(pod);
    let taint = node.taints().iter().find(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(tolerations, taint)
    })?;
    let detail = format!("taint {}", describe(taint));
    Refusal::of("TaintToleration", "node(s) had untolerated taint(s)", false, detail)
}

pub(crate) fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let unset_or = |own: &Option<String>, wanted: &str| {
            own.as_deref().is_none_or(|own| own.is_empty() || own == wanted)
        };
        if !unset_or(&toleration.effect, &taint.effect) || !unset_or(&toleration.key, &taint.key) {
            return false;
        }
        let value = toleration.value.as_deref().unwrap_or_default();
        let tainted = taint.value.as_deref().unwrap_or_default();
        let numbers = || value.parse::<i64>().ok().zip(tainted.parse::<i64>().ok());
        match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => value == tainted,
            "Exists" => true,
            "Gt" => numbers().is_some_and(|(bound, tainted)| tainted > bound),
            "Lt" => numbers().is_some_and(|(bound, tainted)| tainted < bound),
            _ => false,
        }
    })
}

pub(crate) fn describe(taint: &Taint) -> String {
    match taint.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => format!("{}={value}:{}", taint.key, taint.effect),
        None => format!("{}:{}", taint.key, taint.effect),
    }
}
