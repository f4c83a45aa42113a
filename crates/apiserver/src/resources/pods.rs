//! Pods: phase and QoS class at creation, grace at deletion, conditions.

use serde_json::{Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::status::StatusError;

use super::{Cx, DeleteMode, Strategy, pod_completion};

pub(crate) struct Pods;

const GRACE_DEFAULT_S: i64 = 30;

impl Strategy for Pods {
    fn prepare_create(&self, cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        pod_completion::complete(new, cx.notes);
        let qos = qos_class(&new["spec"]);
        new["status"] = json!({"phase": "Pending", "qosClass": qos});
        if new["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            new["status"]["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]);
        }
        Ok(())
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        // Some who write a status leave it out; to change it is refused.
        if cx.subresource == "status"
            && new["status"]["qosClass"].as_str().unwrap_or_default().is_empty()
            && let Some(class) = old["status"].get("qosClass")
        {
            new["status"]["qosClass"] = class.clone();
        }
        Ok(())
    }

    fn delete_mode(&self, pod: &Value, grace: Option<i64>) -> DeleteMode {
        let grace = grace
            .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(GRACE_DEFAULT_S);
        let unbound = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
        let over = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let seconds = match grace {
            _ if unbound || over => 0,
            negative if negative < 0 => 1,
            seconds => seconds,
        };
        DeleteMode::Graceful { seconds }
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Sets a condition, with a transition time only when its status changes.
pub(crate) fn condition(pod: &mut Value, wanted: Value, now: &str) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return };
    let mut wanted = wanted;
    let since = conditions
        .iter()
        .find(|c| c["type"] == wanted["type"] && c["status"] == wanted["status"])
        .map_or_else(|| now.into(), |c| c["lastTransitionTime"].clone());
    wanted["lastTransitionTime"] = since;
    match conditions.iter_mut().find(|c| c["type"] == wanted["type"]) {
        Some(condition) => *condition = wanted,
        None => conditions.push(wanted),
    }
}

/// Guaranteed when every container's limits for CPU and memory are given and equal its requests,
/// BestEffort when no container asks for any, else Burstable.
fn qos_class(spec: &Value) -> &'static str {
    let containers =
        ["initContainers", "containers"].iter().filter_map(|list| spec[*list].as_array()).flatten();
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let amount = |kind: &str, resource: &str| -> Option<Quantity> {
            let text = container["resources"][kind][resource].as_str()?;
            text.parse::<Quantity>().ok().filter(|q| *q != Quantity::ZERO)
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", resource), amount("limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.as_ref().is_none_or(|r| Some(r) == limit.as_ref());
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let check = |resources: Value, class: &str| {
            let spec = json!({"containers": [{"resources": resources}]});
            assert_eq!(qos_class(&spec), class, "{resources}");
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}),
            "Guaranteed",
        );
        check(json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}), "Burstable");
    }
}
