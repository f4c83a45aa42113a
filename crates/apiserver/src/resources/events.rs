//! Events: one storage, two shapes. Core v1 is stored; `events.k8s.io` renames its fields.

use serde_json::{Map, Value};

use super::Strategy;
use crate::object::Partial;

pub(crate) struct Events;

impl Strategy for Events {
    fn creates_on_update(&self) -> bool {
        true
    }
}

pub(super) fn reporting(event: &Partial) -> String {
    event.reporting_component.clone()
}

pub(super) fn source(event: &Partial) -> String {
    match event.source.component.as_str() {
        "" => event.reporting_component.clone(),
        component => component.to_owned(),
    }
}

/// `(core name, events.k8s.io name)` of what differs.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.into(), value);
    }
}

fn rename_in_series(map: &mut Map<String, Value>) {
    // Both shapes name the series' fields alike; an empty series is none.
    if map.get("series").is_some_and(|s| s.as_object().is_some_and(Map::is_empty)) {
        map.remove("series");
    }
}

pub(super) fn from_core(event: &mut Value) {
    let Value::Object(map) = event else { return };
    for (core, new) in NAMES {
        rename(map, core, new);
    }
    rename_in_series(map);
}

pub(super) fn to_core(event: &mut Value) {
    let Value::Object(map) = event else { return };
    for (core, new) in NAMES {
        rename(map, new, core);
    }
    rename_in_series(map);
}
