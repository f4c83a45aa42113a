//! What of a pod its containers are told: its own fields, and what they may use.

use super::container::choice;
use super::cursor::At;
use crate::quantity::Quantity;
use crate::selector::label_key_faults;
use crate::status::Cause;

/// As an environment variable.
pub(super) const FIELDS_OF_ENVIRONMENT: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// As a file.
pub(super) const FIELDS_OF_VOLUMES: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Those that have a name at all.
const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Resources whose names go on.
const HUGE_PAGES: &[&str] = &["limits.hugepages-", "requests.hugepages-"];

const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// A field of the pod, of which these are told there.
pub(super) fn field(reference: &At<'_>, told: &[&str], faults: &mut Vec<Cause>) {
    if !reference.is_there() {
        return;
    }
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    if path.is_empty() {
        faults.push(Cause::required(path.path.clone(), ""));
        return;
    }
    let subscripted = path.text().strip_suffix("']").and_then(|text| text.split_once("['"));
    let (name, key) = subscripted.map_or((path.text(), None), |(name, key)| (name, Some(key)));
    let known =
        if key.is_some() { ["metadata.annotations", "metadata.labels"].contains(&name) } else { true };
    let why = match version.text() {
        "" | "v1" if known && FIELDS.contains(&name) => None,
        "" | "v1" if key.is_some() => {
            Some(format!("field label does not support subscript: {}", path.text()))
        }
        "" | "v1" => Some(format!("field label not supported: {name}")),
        other => Some(format!("unsupported pod version: {other}")),
    };
    if let Some(why) = why {
        let detail = format!("error converting fieldPath: {why}");
        faults.push(Cause::invalid(path.path.clone(), path.text(), detail));
        return;
    }
    match key {
        // Upstream names the reference, not its path; what an annotation is called is read in small letters.
        Some(key) => {
            let read = if name == "metadata.labels" { key.to_owned() } else { key.to_lowercase() };
            let wrong = label_key_faults(&read);
            faults.extend(wrong.into_iter().map(|fault| Cause::invalid(reference.path.clone(), key, fault)));
        }
        None => choice(&path, told, faults),
    }
}

/// What a container may use; in a volume it has to be said which one.
pub(super) fn resource(reference: &At<'_>, of_volume: bool, faults: &mut Vec<Cause>) {
    if !reference.is_there() {
        return;
    }
    let resource = reference.get("resource");
    let name = resource.text();
    if of_volume && reference.get("containerName").is_empty() {
        faults.push(Cause::required(reference.child("containerName"), ""));
    } else if resource.is_empty() {
        faults.push(Cause::required(resource.path, ""));
    } else if !HUGE_PAGES.iter().any(|prefix| name.starts_with(prefix)) {
        choice(&resource, RESOURCES, faults);
    }
    let divisor = reference.get("divisor");
    let Ok(amount) = divisor.text().parse::<Quantity>() else { return };
    let of = name.split_once('.').map_or("", |(_, of)| of);
    let (units, what): (&[&str], _) = match of {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (BYTES, "memory"),
        "ephemeral-storage" => (BYTES, "local ephemeral storage"),
        _ if of.starts_with("hugepages-") => (BYTES, "hugepages"),
        _ => return,
    };
    if !amount.is_zero() && !units.contains(&divisor.text()) {
        let units = match units {
            [first, last] => format!("{first} and {last}"),
            all => all.join(", "),
        };
        // Upstream shows the resource, not the divisor.
        let detail = format!("only divisor's values {units} are supported with the {what} resource");
        faults.push(Cause::invalid(divisor.path, name, detail));
    }
}
