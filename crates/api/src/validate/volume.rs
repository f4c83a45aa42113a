//! Volumes and their mounts.

use std::collections::BTreeSet;

use super::container::choice;
use super::cursor::At;
use super::{downward, names};
use crate::quantity::Quantity;
use crate::status::Cause;

const HOST_PATH_TYPES: &[&str] =
    &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

pub(super) fn check(volumes: &At<'_>, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for volume in volumes.items() {
        let name = volume.get("name");
        if name.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if let Some(fault) = names::label(name.text()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        } else if !seen.insert(name.text()) {
            faults.push(Cause::duplicate(name.path.clone(), name.text()));
        }
        let sources: Vec<(&str, &serde_json::Value)> = volume
            .value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| key.as_str() != "name" && !value.is_null())
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        if sources.is_empty() {
            faults.push(Cause::required(volume.path.clone(), "must specify a volume type"));
        }
        for (extra, _) in sources.iter().skip(1) {
            faults.push(Cause::forbidden(volume.child(extra), "may not specify more than 1 volume type"));
        }
        if let Some((kind, _)) = sources.first() {
            source(&volume.get(kind), kind, faults);
        }
    }
}

fn source(source: &At<'_>, kind: &str, faults: &mut Vec<Cause>) {
    match kind {
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if limit.text().parse::<Quantity>().is_ok_and(Quantity::is_negative) {
                faults
                    .push(Cause::forbidden(limit.path, "SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => {
            let path = source.get("path");
            if path.is_empty() {
                faults.push(Cause::required(path.path.clone(), ""));
            } else if path.text().split('/').any(|part| part == "..") {
                faults.push(Cause::invalid(path.path.clone(), path.text(), "must not contain '..'"));
            }
            choice(&source.get("type"), HOST_PATH_TYPES, faults);
        }
        "configMap" => keyed(source, "name", faults),
        "secret" => keyed(source, "secretName", faults),
        "downwardAPI" => {
            mode(&source.get("defaultMode"), faults);
            downward(source, faults);
        }
        "projected" => projected(source, faults),
        "persistentVolumeClaim" => required(&source.get("claimName"), faults),
        "nfs" => {
            required(&source.get("server"), faults);
            let path = source.get("path");
            required(&path, faults);
            if !path.is_empty() && !path.text().starts_with('/') {
                faults.push(Cause::invalid(path.path.clone(), path.text(), "must be an absolute path"));
            }
        }
        _ => {}
    }
}

fn required(place: &At<'_>, faults: &mut Vec<Cause>) {
    if place.is_empty() {
        faults.push(Cause::required(place.path.clone(), ""));
    }
}

fn downward(source: &At<'_>, faults: &mut Vec<Cause>) {
    for item in source.get("items").items() {
        relative(&item.get("path"), faults);
        mode(&item.get("mode"), faults);
        let count = ["fieldRef", "resourceFieldRef"].iter().filter(|kind| item.get(kind).is_there()).count();
        if count == 0 {
            faults
                .push(Cause::required(item.path.clone(), "one of fieldRef and resourceFieldRef is required"));
        } else if count == 2 {
            faults.push(Cause::invalid(
                item.path.clone(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ));
        }
        downward::field(&item.get("fieldRef"), downward::FIELDS_OF_VOLUMES, faults);
        downward::resource(&item.get("resourceFieldRef"), true, faults);
    }
}

/// Several sources in one directory, where each path is one source's.
fn projected(volume: &At<'_>, faults: &mut Vec<Cause>) {
    mode(&volume.get("defaultMode"), faults);
    let mut paths = BTreeSet::new();
    for source in volume.get("sources").items() {
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"];
        let given: Vec<&str> = kinds.into_iter().filter(|kind| source.get(kind).is_there()).collect();
        if given.len() > 1 {
            faults.push(Cause::forbidden(source.path.clone(), "may not specify more than 1 volume type"));
        }
        for kind in given {
            let part = source.get(kind);
            match kind {
                "secret" | "configMap" => keyed(&part, "name", faults),
                "downwardAPI" => downward(&part, faults),
                "serviceAccountToken" => token(&part, faults),
                _ => {}
            }
            let own = part.get("path");
            let own = (!own.is_empty()).then_some(own);
            for path in own.into_iter().chain(part.get("items").items().map(|item| item.get("path"))) {
                if !path.is_empty() && !paths.insert(path.text().to_owned()) {
                    let detail = "conflicting duplicate paths";
                    faults.push(Cause::invalid(part.path.clone(), path.text(), detail));
                }
            }
        }
    }
}

fn token(token: &At<'_>, faults: &mut Vec<Cause>) {
    const SECONDS_MIN: i64 = 600;
    let seconds = token.get("expirationSeconds");
    if let Some(number) = seconds.number() {
        if number < SECONDS_MIN {
            let detail = "may not specify a duration less than 10 minutes";
            faults.push(Cause::invalid(seconds.path, number, detail));
        } else if number > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            faults.push(Cause::invalid(seconds.path, number, detail));
        }
    }
    relative(&token.get("path"), faults);
}

fn keyed(source: &At<'_>, name: &str, faults: &mut Vec<Cause>) {
    let name = source.get(name);
    if name.is_empty() {
        faults.push(Cause::required(name.path.clone(), ""));
    }
    mode(&source.get("defaultMode"), faults);
    for item in source.get("items").items() {
        if item.get("key").is_empty() {
            faults.push(Cause::required(item.child("key"), ""));
        }
        relative(&item.get("path"), faults);
        mode(&item.get("mode"), faults);
    }
}

fn mode(mode: &At<'_>, faults: &mut Vec<Cause>) {
    if let Some(number) = mode.number().filter(|number| !(0..=0o777).contains(number)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        faults.push(Cause::invalid(mode.path.clone(), number, detail));
    }
}

/// A path that stays below where it starts.
fn relative(path: &At<'_>, faults: &mut Vec<Cause>) {
    let text = path.text();
    if text.is_empty() {
        faults.push(Cause::required(path.path.clone(), ""));
    } else if text.starts_with('/') {
        faults.push(Cause::invalid(path.path.clone(), text, "must be a relative path"));
    } else if text.split('/').any(|part| part == "..") {
        faults.push(Cause::invalid(path.path.clone(), text, "must not contain '..'"));
    } else if text.starts_with("..") {
        faults.push(Cause::invalid(path.path.clone(), text, "must not start with '..'"));
    }
}

pub(super) fn mounts(mounts: &At<'_>, volumes: &BTreeSet<&str>, privileged: bool, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for mount in mounts.items() {
        let name = mount.get("name");
        if name.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if !volumes.contains(name.text()) {
            faults.push(Cause::not_found(name.path.clone(), name.text()));
        }
        let path = mount.get("mountPath");
        if path.is_empty() {
            faults.push(Cause::required(path.path.clone(), ""));
        } else if !seen.insert(path.text()) {
            faults.push(Cause::invalid(path.path.clone(), path.text(), "must be unique"));
        }
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        for place in [&sub, &expression] {
            if !place.is_empty() {
                if place.text().starts_with('/') {
                    faults.push(Cause::invalid(place.path.clone(), place.text(), "must be a relative path"));
                } else if place.text().split('/').any(|part| part == "..") {
                    faults.push(Cause::invalid(place.path.clone(), place.text(), "must not contain '..'"));
                }
            }
        }
        if !sub.is_empty() && !expression.is_empty() {
            faults.push(Cause::invalid(
                expression.path.clone(),
                expression.text(),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        let propagation = mount.get("mountPropagation");
        choice(&propagation, &["Bidirectional", "HostToContainer", "None"], faults);
        if propagation.text() == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            faults.push(Cause::forbidden(propagation.path.clone(), detail));
        }
        recursive_read_only(&mount, faults);
    }
}

/// Volumes that are there as devices.
pub(super) fn devices(devices: &At<'_>, volumes: &BTreeSet<&str>, faults: &mut Vec<Cause>) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        required(&name, faults);
        if !name.is_empty() {
            if !names.insert(name.text()) {
                faults.push(Cause::invalid(name.path.clone(), name.text(), "must be unique"));
            }
            if !volumes.contains(name.text()) {
                faults.push(Cause::not_found(name.path.clone(), name.text()));
            }
        }
        required(&path, faults);
        if !path.is_empty() && !paths.insert(path.text()) {
            faults.push(Cause::invalid(path.path.clone(), path.text(), "must be unique"));
        }
        if path.text().split('/').any(|part| part == "..") {
            faults.push(Cause::invalid(path.path.clone(), path.text(), "must not contain '..'"));
        }
    }
}

/// That mounts below the volume are read-only as well says who has it read-only, and lets none come later.
fn recursive_read_only(mount: &At<'_>, faults: &mut Vec<Cause>) {
    let place = mount.get("recursiveReadOnly");
    choice(&place, &["Disabled", "Enabled", "IfPossible"], faults);
    if !["Enabled", "IfPossible"].contains(&place.text()) {
        return;
    }
    if !mount.get("readOnly").is_true() {
        faults.push(Cause::forbidden(place.path.clone(), "may only be specified when readOnly is true"));
    }
    if !["", "None"].contains(&mount.get("mountPropagation").text()) {
        let detail = "may only be specified when mountPropagation is None or not specified";
        faults.push(Cause::forbidden(place.path.clone(), detail));
    }
}
