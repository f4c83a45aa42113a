//! Deployments, replica sets, daemon sets.

use serde_json::{Map, Value, json};

use super::{made, missing, pod, text};

fn template(spec: &mut Map<String, Value>) {
    if let Some(template) = made(spec, "template").and_then(|t| made(t, "spec")) {
        pod::spec(template);
    }
}

pub(super) fn deployment(deployment: &mut Map<String, Value>) {
    let Some(spec) = made(deployment, "spec") else { return };
    template(spec);
    missing(spec, "replicas", 1);
    missing(spec, "revisionHistoryLimit", 10);
    missing(spec, "progressDeadlineSeconds", 600);
    let Some(strategy) = made(spec, "strategy") else { return };
    text(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate"))
        && let Some(rolling) = made(strategy, "rollingUpdate")
    {
        missing(rolling, "maxUnavailable", "25%");
        missing(rolling, "maxSurge", "25%");
    }
}

pub(super) fn replica_set(set: &mut Map<String, Value>) {
    let Some(spec) = made(set, "spec") else { return };
    template(spec);
    missing(spec, "replicas", 1);
}

pub(super) fn daemon_set(set: &mut Map<String, Value>) {
    let Some(spec) = made(set, "spec") else { return };
    template(spec);
    missing(spec, "revisionHistoryLimit", 10);
    let Some(strategy) = made(spec, "updateStrategy") else { return };
    text(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate"))
        && let Some(rolling) = made(strategy, "rollingUpdate")
    {
        missing(rolling, "maxUnavailable", 1);
        missing(rolling, "maxSurge", 0);
    }
}
