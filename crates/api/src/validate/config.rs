//! Config maps, secrets, priority classes, leases.

use base64::Engine as _;

use super::cursor::At;
use super::names;
use crate::status::Cause;

const DATA_BYTES_MAX: usize = 1 << 20;
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

pub(super) fn config_map(map: &At<'_>, faults: &mut Vec<Cause>) {
    let (data, binary) = (map.get("data"), map.get("binaryData"));
    let mut bytes = 0;
    for (key, value) in data.entries() {
        key_faults(key, &value, faults);
        if binary.get(key).is_there() {
            faults.push(Cause::invalid(value.path.clone(), key, "duplicate of key present in binaryData"));
        }
        bytes += value.text().len();
    }
    for (key, value) in binary.entries() {
        key_faults(key, &value, faults);
        bytes += decoded_bytes(value.text());
    }
    if bytes > DATA_BYTES_MAX {
        faults.push(Cause::too_long("[]", DATA_BYTES_MAX));
    }
}

pub(super) fn secret(secret: &At<'_>, faults: &mut Vec<Cause>) {
    let data = secret.get("data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        key_faults(key, &value, faults);
        bytes += decoded_bytes(value.text());
    }
    if bytes > DATA_BYTES_MAX {
        faults.push(Cause::too_long("data", DATA_BYTES_MAX));
    }
    let needs = |key: &str, faults: &mut Vec<Cause>| {
        if !data.get(key).is_there() {
            faults.push(Cause::required(format!("data[{key}]"), ""));
        }
    };
    match secret.get("type").text() {
        "kubernetes.io/tls" => {
            needs("tls.crt", faults);
            needs("tls.key", faults);
        }
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if secret.get("metadata").get("annotations").get(account).is_empty() {
                faults.push(Cause::required(format!("metadata.annotations[{account}]"), ""));
            }
        }
        "kubernetes.io/dockerconfigjson" => json_of(&data, ".dockerconfigjson", faults),
        "kubernetes.io/dockercfg" => json_of(&data, ".dockercfg", faults),
        "kubernetes.io/ssh-auth" => needs("ssh-privatekey", faults),
        "kubernetes.io/basic-auth"
            if !data.get("username").is_there() && !data.get("password").is_there() =>
        {
            faults.push(Cause::required("data[username]", ""));
            faults.push(Cause::required("data[password]", ""));
        }
        _ => {}
    }
}

/// A secret that a registry's client reads: a JSON object. What it says is not repeated.
fn json_of(data: &At<'_>, key: &str, faults: &mut Vec<Cause>) {
    let place = data.get(key);
    let path = format!("data[{key}]");
    if !place.is_there() {
        faults.push(Cause::required(path, ""));
        return;
    }
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(place.text()) else { return };
    if let Some(why) = no_json_object(&bytes) {
        faults.push(Cause::invalid(path, "<secret contents redacted>", why));
    }
}

/// Why bytes are no JSON object, in the words of the decoder that upstream has.
fn no_json_object(bytes: &[u8]) -> Option<String> {
    let kind = match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(serde_json::Value::Object(_) | serde_json::Value::Null) => return None,
        Ok(serde_json::Value::Bool(_)) => "bool",
        Ok(serde_json::Value::Number(_)) => "number",
        Ok(serde_json::Value::String(_)) => "string",
        Ok(serde_json::Value::Array(_)) => "array",
        Err(error) if error.is_eof() => return Some("unexpected end of JSON input".to_owned()),
        Err(_) => {
            let first = bytes.trim_ascii_start().first().copied().filter(u8::is_ascii_graphic);
            return Some(match first {
                Some(first) if !b"{[\"-0123456789tfn".contains(&first) => {
                    format!("invalid character '{}' looking for beginning of value", char::from(first))
                }
                _ => "invalid JSON".to_owned(),
            });
        }
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

fn key_faults(key: &str, place: &At<'_>, faults: &mut Vec<Cause>) {
    if let Some(fault) = names::config_key(key) {
        faults.push(Cause::invalid(place.path.clone(), key, fault));
    }
}

/// How many bytes a base64 text stands for.
fn decoded_bytes(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

pub(super) fn priority_class(class: &At<'_>, faults: &mut Vec<Cause>) {
    let value = class.get("value");
    let name = class.get("metadata").get("name").text();
    if name.starts_with("system-") {
        if let Some(why) = not_the_systems(name, value.number().unwrap_or(0), class) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only";
            faults.push(Cause::forbidden("metadata.name", format!("{detail}. error: {why}")));
        }
    } else if value.number().is_some_and(|number| number > USER_PRIORITY_MAX) {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        faults.push(Cause::forbidden(value.path, detail));
    }
    super::container::choice(&class.get("preemptionPolicy"), &["Never", "PreemptLowerPriority"], faults);
}

/// Why a class of this name and value is none that every cluster has.
fn not_the_systems(name: &str, value: i64, class: &At<'_>) -> Option<String> {
    let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
    let Some((_, own)) = known.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *own {
        return Some(format!("value of {name} PriorityClass must be {own}"));
    }
    class
        .get("globalDefault")
        .is_true()
        .then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

pub(super) fn lease(lease: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = lease.get("spec");
    let duration = spec.get("leaseDurationSeconds");
    if let Some(number) = duration.number().filter(|number| *number <= 0) {
        faults.push(Cause::invalid(duration.path, number, "must be greater than 0"));
    }
    let transitions = spec.get("leaseTransitions");
    if let Some(number) = transitions.number().filter(|number| *number < 0) {
        faults.push(Cause::invalid(transitions.path, number, "must be greater than or equal to 0"));
    }
}
