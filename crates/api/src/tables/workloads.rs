//! Deployments, replica sets, daemon sets, revisions.

use serde_json::Value;

use super::format::{NONE, age, labels, list, name, number, selector, text_or};
use super::{AGE, Column, NAME, col, int, wide};

pub(super) static DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME,
    Column { description: "Ready pods of those wanted.", ..col("Ready") },
    col("Up-to-date"),
    col("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) static REPLICA_SET_COLUMNS: &[Column] = &[
    NAME,
    int("Desired"),
    int("Current"),
    int("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) static DAEMON_SET_COLUMNS: &[Column] = &[
    NAME,
    int("Desired"),
    int("Current"),
    int("Ready"),
    int("Up-to-date"),
    int("Available"),
    col("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

/// Names and images of the template's containers.
fn containers(object: &Value) -> [Value; 2] {
    let containers = list(&object["spec"]["template"]["spec"]["containers"]);
    ["name", "image"].map(|field| {
        let texts: Vec<&str> = containers.iter().filter_map(|c| c[field].as_str()).collect();
        texts.join(",").into()
    })
}

pub(super) fn deployment(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [names, images] = containers(object);
    vec![
        name(object),
        format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"])).into(),
        number(&status["updatedReplicas"]).into(),
        number(&status["availableReplicas"]).into(),
        age(object, now).into(),
        names,
        images,
        selector(&spec["selector"]).into(),
    ]
}

pub(super) fn replica_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [names, images] = containers(object);
    vec![
        name(object),
        number(&spec["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age(object, now).into(),
        names,
        images,
        selector(&spec["selector"]).into(),
    ]
}

pub(super) fn scale(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        number(&object["spec"]["replicas"]).into(),
        number(&object["status"]["replicas"]).into(),
        age(object, now).into(),
    ]
}

pub(super) fn daemon_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [names, images] = containers(object);
    vec![
        name(object),
        number(&status["desiredNumberScheduled"]).into(),
        number(&status["currentNumberScheduled"]).into(),
        number(&status["numberReady"]).into(),
        number(&status["updatedNumberScheduled"]).into(),
        number(&status["numberAvailable"]).into(),
        labels(&spec["template"]["spec"]["nodeSelector"]).into(),
        age(object, now).into(),
        names,
        images,
        selector(&spec["selector"]).into(),
    ]
}

pub(super) fn controller_revision(object: &Value, now: i64) -> Vec<Value> {
    let owner = list(&object["metadata"]["ownerReferences"]).iter().find(|o| o["controller"] == true);
    let controller = owner.map_or_else(
        || NONE.to_owned(),
        |o| {
            let kind = text_or(&o["kind"], "").to_lowercase();
            let group = o["apiVersion"].as_str().and_then(|v| v.split_once('/')).map(|(group, _)| group);
            let kind = group.map_or(kind.clone(), |group| format!("{kind}.{group}"));
            format!("{kind}/{}", text_or(&o["name"], ""))
        },
    );
    vec![name(object), controller.into(), number(&object["revision"]).into(), age(object, now).into()]
}
