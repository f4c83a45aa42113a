//! What a pod requests must be left on the node.

use std::borrow::Cow;

use super::Refusal;
use crate::snapshot::{NodeInfo, PodInfo};

pub(super) fn refuses(pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut detail = Vec::new();
    // More than the whole node has can't be helped by removing pods.
    let mut resolvable = true;
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if pods + 1 > node.pods_max {
        reasons.push(Cow::Borrowed("Too many pods"));
        detail.push(format!("{pods} of {} pods", node.pods_max));
    }
    let (request, used, all) = (&pod.request, &node.requested, &node.allocatable);
    let mut check = |name: &str, reason: fn(&str) -> Cow<'static, str>, request: i64, used: i64, all: i64| {
        if request > 0 && request > all.saturating_sub(used) {
            reasons.push(reason(name));
            detail.push(format!("{name}: {request} wanted, {} of {all} left", all.saturating_sub(used)));
            resolvable &= request <= all;
        }
    };
    check("cpu", |_| Cow::Borrowed("Insufficient cpu"), request.milli_cpu, used.milli_cpu, all.milli_cpu);
    check("memory", |_| Cow::Borrowed("Insufficient memory"), request.memory, used.memory, all.memory);
    check(
        "ephemeral-storage",
        |_| Cow::Borrowed("Insufficient ephemeral-storage"),
        request.ephemeral_storage,
        used.ephemeral_storage,
        all.ephemeral_storage,
    );
    for (name, amount) in &request.extended {
        let insufficient = |name: &str| Cow::Owned(format!("Insufficient {name}"));
        check(name, insufficient, *amount, used.extended(name), all.extended(name));
    }
    if reasons.is_empty() {
        return None;
    }
    Some(Refusal { plugin: "NodeResourcesFit", reasons, resolvable, detail: detail.join("; ") })
}
