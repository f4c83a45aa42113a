//! What a new pod gets that it asks for in other words: expressions for the labels by whose values it wants to
//! be near others, and fields for AppArmor's annotations.

use serde_json::{Value, json};

use crate::notes::Notes;

/// The profile of a container, whose name follows.
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn complete(pod: &mut Value, notes: &Notes) {
    apparmor(pod, notes);
    let labels = pod["metadata"]["labels"].take();
    label_keys(&mut pod["spec"], &labels);
    put_back(pod, labels);
}

fn put_back(pod: &mut Value, labels: Value) {
    match (labels, pod["metadata"].as_object_mut()) {
        (Value::Null, Some(metadata)) => drop(metadata.remove("labels")),
        (labels, Some(metadata)) => drop(metadata.insert("labels".into(), labels)),
        (_, None) => {}
    }
}

/// Selects by the pod's own values of these labels, as they are now: a change of its labels later on changes
/// nothing.
fn label_keys(spec: &mut Value, labels: &Value) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|affinity| affinity.get_mut(kind)) else {
            continue;
        };
        let required = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
        required.iter_mut().for_each(|term| both(term, labels));
        for preferred in list(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = preferred.get_mut("podAffinityTerm") {
                both(term, labels);
            }
        }
    }
    for constraint in list(spec, "topologySpreadConstraints") {
        select(constraint, "matchLabelKeys", "In", labels);
    }
}

fn list<'a>(object: &'a mut Value, field: &str) -> &'a mut [Value] {
    object.get_mut(field).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

fn both(term: &mut Value, labels: &Value) {
    select(term, "matchLabelKeys", "In", labels);
    select(term, "mismatchLabelKeys", "NotIn", labels);
}

fn select(term: &mut Value, keys: &str, operator: &str, labels: &Value) {
    let keys = term.get(keys).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let expressions: Vec<Value> = keys
        .filter_map(|key| Some((key, labels.get(key)?)))
        .map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]}))
        .collect();
    let selector = term.get_mut("labelSelector").and_then(Value::as_object_mut);
    let Some(selector) = selector.filter(|_| !expressions.is_empty()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(present) => present.extend(expressions),
        None => drop(selector.insert("matchExpressions".into(), expressions.into())),
    }
}

/// Annotations are how profiles were asked for before there were fields.
fn apparmor(pod: &mut Value, notes: &Notes) {
    let annotations = pod["metadata"].get("annotations").and_then(Value::as_object);
    let asked: Vec<(String, String)> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.strip_prefix(APPARMOR)?.to_owned(), value.as_str()?.to_owned())))
        .collect();
    if asked.is_empty() || pod["spec"]["os"]["name"] == "windows" {
        return;
    }
    let of_pod = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    for containers in ["initContainers", "containers"] {
        for container in list(&mut pod["spec"], containers) {
            let Some((name, value)) = asked.iter().find(|(name, _)| container["name"] == **name) else {
                continue;
            };
            if container["securityContext"].get("appArmorProfile").is_some_and(|profile| !profile.is_null()) {
                continue;
            }
            let profile = profile(value);
            if profile.as_ref().is_some_and(|profile| *profile == of_pod) {
                continue;
            }
            notes.warn(format!(
                "metadata.annotations[{APPARMOR}{name}]: deprecated since v1.30; use the \"appArmorProfile\" \
                 field instead"
            ));
            if let Some(profile) = profile {
                container["securityContext"]["appArmorProfile"] = profile;
            }
        }
    }
}

/// The field that says the same. What validation would refuse stays an annotation, and is refused as one.
fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/").filter(|name| !name.is_empty())?;
            let fits = name.trim() == name && name.len() <= 4095;
            fits.then(|| json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_body::empty;

    fn completed(mut pod: Value) -> (Value, Vec<String>) {
        let notes = Notes::default();
        complete(&mut pod, &notes);
        let answer = notes.put_on(http::Response::new(empty()));
        let warnings = answer.headers().get_all("warning").iter();
        (pod, warnings.map(|text| text.to_str().expect("text").to_owned()).collect())
    }

    #[test]
    fn the_values_of_its_labels_are_selected() {
        let term = |selector: Value| {
            json!({"topologyKey": "zone", "labelSelector": selector, "matchLabelKeys": ["a", "absent"],
                "mismatchLabelKeys": ["b"]})
        };
        let pod = |selector: Value| {
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
                "affinity": {
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(selector.clone())]},
                    "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "podAffinityTerm": term(selector.clone())}]},
                },
                "topologySpreadConstraints": [term(selector)],
            }})
        };
        let same = json!({"key": "a", "operator": "In", "values": ["1"]});
        let other = json!({"key": "b", "operator": "NotIn", "values": ["2"]});
        let mine = json!({"key": "c", "operator": "Exists"});
        let (made, _) = completed(pod(json!({"matchLabels": {"x": "y"}, "matchExpressions": [mine]})));
        for place in [
            "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0",
            "/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm",
        ] {
            let selector = &made.pointer(place).expect("the term")["labelSelector"];
            assert_eq!(
                selector,
                &json!({"matchLabels": {"x": "y"}, "matchExpressions": [mine, same, other]})
            );
        }
        let spread = &made["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"];
        assert_eq!(spread, &json!([mine, same]));
        assert_eq!(made["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        let (made, _) = completed(pod(json!({})));
        let spread = &made["spec"]["topologySpreadConstraints"][0]["labelSelector"];
        assert_eq!(spread, &json!({"matchExpressions": [same]}));

        // Without a selector nothing is selected, and validation says so.
        let (made, _) = completed(pod(Value::Null));
        assert_eq!(made, pod(Value::Null));
        let bare = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        assert_eq!(completed(bare.clone()), (bare, Vec::new()));
    }

    #[test]
    fn annotations_of_apparmor_become_fields() {
        let pod = |annotation: &str, of_pod: Value, of_container: Value| {
            json!({"metadata": {"annotations": {format!("{APPARMOR}c"): annotation, "x": "y"}}, "spec": {
                "securityContext": of_pod, "initContainers": [{"name": "i"}],
                "containers": [{"name": "c", "securityContext": of_container}],
            }})
        };
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        let warning = format!(
            "299 - \"metadata.annotations[{APPARMOR}c]: deprecated since v1.30; use the \\\"appArmorProfile\\\" field \
             instead\""
        );
        for (annotation, of_pod, of_container, expected, warns) in [
            ("unconfined", json!({}), json!({}), profile("Unconfined"), true),
            ("runtime/default", json!({}), Value::Null, profile("RuntimeDefault"), true),
            (
                "localhost/mine",
                json!({}),
                json!({"runAsUser": 1}),
                json!({"runAsUser": 1, "appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}}),
                true,
            ),
            // Said already, for the container or for all.
            ("unconfined", json!({}), profile("RuntimeDefault"), profile("RuntimeDefault"), false),
            ("unconfined", profile("Unconfined"), json!({}), json!({}), false),
            ("unconfined", profile("RuntimeDefault"), json!({}), profile("Unconfined"), true),
            // What can't be said by a field.
            ("localhost/", json!({}), json!({}), json!({}), true),
            ("mine", json!({}), json!({}), json!({}), true),
            ("localhost/ mine", json!({}), json!({}), json!({}), true),
        ] {
            let (made, warnings) = completed(pod(annotation, of_pod, of_container));
            assert_eq!(made["spec"]["containers"][0]["securityContext"], expected, "{annotation}");
            assert_eq!(made["spec"]["initContainers"][0], json!({"name": "i"}));
            assert_eq!(warnings, if warns { vec![warning.clone()] } else { Vec::new() }, "{annotation}");
        }
        let mut windows = pod("unconfined", json!({}), json!({}));
        windows["spec"]["os"] = json!({"name": "windows"});
        assert_eq!(completed(windows.clone()), (windows, Vec::new()));
    }
}
