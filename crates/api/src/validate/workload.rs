//! Deployments, replica sets and daemon sets.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::container::choice;
use super::cursor::At;
use super::{annotations, metadata, pod, selector};
use crate::selector::{Selector, label_selector_faults};
use crate::status::Cause;

pub(super) fn deployment(deployment: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = deployment.get("spec");
    not_negative(&spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], faults);
    selector_and_template(&spec, "ReplicaSet", faults);
    let strategy = spec.get("strategy");
    choice(&strategy.get("type"), &["Recreate", "RollingUpdate"], faults);
    let rolling = strategy.get("rollingUpdate");
    if strategy.get("type").text() == "Recreate" && rolling.is_there() {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        faults.push(Cause::forbidden(rolling.path.clone(), detail));
    } else {
        rolling_update(&rolling, faults);
    }
    let deadline = spec.get("progressDeadlineSeconds");
    let ready = spec.get("minReadySeconds").number().unwrap_or(0);
    if let Some(number) = deadline.number() {
        if number < 0 {
            faults.push(Cause::invalid(deadline.path.clone(), number, "must be greater than or equal to 0"));
        }
        if number <= ready {
            faults.push(Cause::invalid(deadline.path, number, "must be greater than minReadySeconds"));
        }
    }
}

pub(super) fn replica_set(set: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = set.get("spec");
    not_negative(&spec, &["replicas", "minReadySeconds"], faults);
    selector_and_template(&spec, "ReplicaSet", faults);
}

pub(super) fn daemon_set(set: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = set.get("spec");
    not_negative(&spec, &["minReadySeconds", "revisionHistoryLimit"], faults);
    selector_and_template(&spec, "DaemonSet", faults);
    let strategy = spec.get("updateStrategy");
    choice(&strategy.get("type"), &["RollingUpdate", "OnDelete"], faults);
    let rolling = strategy.get("rollingUpdate");
    if !rolling.is_there() {
        return;
    }
    // One pod a node: either the old one goes first, or the new one comes first.
    match rollout_counts(&rolling, faults) {
        (true, true) => {
            let place = rolling.get("maxUnavailable");
            faults.push(Cause::required(place.path, "cannot be 0 when maxSurge is 0"));
        }
        (false, false) => {
            let place = rolling.get("maxSurge");
            let detail = "may not be set when maxUnavailable is non-zero";
            faults.push(Cause::invalid(place.path, place.value.clone(), detail));
        }
        _ => {}
    }
}

pub(super) fn controller_revision(revision: &At<'_>, faults: &mut Vec<Cause>) {
    not_negative(revision, &["revision"], faults);
    let data = revision.get("data");
    if !data.is_there() {
        faults.push(Cause::required(data.path, "data is mandatory"));
    }
}

fn not_negative(spec: &At<'_>, fields: &[&str], faults: &mut Vec<Cause>) {
    for field in fields {
        let place = spec.get(field);
        if let Some(number) = place.number().filter(|number| *number < 0) {
            faults.push(Cause::invalid(place.path, number, "must be greater than or equal to 0"));
        }
    }
}

/// `of` is whose pods upstream calls them.
fn selector_and_template(spec: &At<'_>, of: &str, faults: &mut Vec<Cause>) {
    let place = spec.get("selector");
    let template = spec.get("template");
    match k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::deserialize(place.value) {
        _ if !place.is_there() => faults.push(Cause::required(place.path.clone(), "")),
        Err(error) => faults.push(Cause::invalid(place.path.clone(), place.value.clone(), error.to_string())),
        Ok(given) => {
            let wrong = label_selector_faults(&given, &place.path);
            if place.is_empty() {
                faults.push(Cause::invalid(
                    place.path.clone(),
                    place.value.clone(),
                    "empty selector is invalid for deployment",
                ));
            }
            if wrong.is_empty()
                && let Ok(parsed) = Selector::from_object(Some(&given))
            {
                let labels = template.get("metadata").get("labels");
                let map: BTreeMap<String, String> =
                    labels.entries().map(|(key, value)| (key.to_owned(), value.text().to_owned())).collect();
                if !parsed.matches(Some(&map)) {
                    let detail = "`selector` does not match template `labels`";
                    faults.push(Cause::invalid(labels.path.clone(), labels.value.clone(), detail));
                }
            }
            faults.extend(wrong.into_iter().map(selector::cause));
        }
    }
    metadata::labels(&template.get("metadata").get("labels"), faults);
    annotations::check(&template, faults);
    let pod_spec = template.get("spec");
    pod::spec(&pod_spec, faults);
    let restart = pod_spec.get("restartPolicy");
    if ["OnFailure", "Never"].contains(&restart.text()) {
        faults.push(Cause::not_supported(restart.path.clone(), restart.text(), &["Always"]));
    }
    let deadline = pod_spec.get("activeDeadlineSeconds");
    if deadline.is_there() {
        let detail = format!("activeDeadlineSeconds in {of} is not Supported");
        faults.push(Cause::forbidden(deadline.path, detail));
    }
}

fn rolling_update(rolling: &At<'_>, faults: &mut Vec<Cause>) {
    if rollout_counts(rolling, faults) == (true, true) && rolling.is_there() {
        let place = rolling.get("maxUnavailable");
        faults.push(Cause::invalid(place.path, place.value.clone(), "may not be 0 when `maxSurge` is 0"));
    }
}

/// Whether `maxUnavailable` and `maxSurge` are zero, after each is judged by itself.
fn rollout_counts(rolling: &At<'_>, faults: &mut Vec<Cause>) -> (bool, bool) {
    let mut zero = [false; 2];
    for (zero, field) in zero.iter_mut().zip(["maxUnavailable", "maxSurge"]) {
        let place = rolling.get(field);
        match (place.number(), place.value.as_str()) {
            (Some(number), _) if number < 0 => {
                faults.push(Cause::invalid(place.path, number, "must be greater than or equal to 0"));
            }
            (Some(0), _) => *zero = true,
            (None, Some(text)) => {
                match text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok()) {
                    Some(0) => *zero = true,
                    Some(percent) if percent > 100 && field == "maxUnavailable" => {
                        faults.push(Cause::invalid(place.path, text, "must not be greater than 100%"));
                    }
                    Some(_) => {}
                    None => {
                        *zero = true;
                        faults.push(Cause::invalid(
                    place.path,
                    text,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                    ));
                    }
                }
            }
            _ => {}
        }
    }
    (zero[0], zero[1])
}
