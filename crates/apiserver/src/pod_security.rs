//! Pod Security admission: the decisions of `skiff_pod_security`, fed from the caches.

use std::time::{Duration, Instant};

use serde_json::Value;
use skiff_api::status::StatusError;
use skiff_pod_security::{
    Configuration, Pod, Policy, Subject, admit, exempt_namespace_warning, existing_pods,
    is_significant_update, must_look_at_pods, pod_of,
};

use crate::cache::in_namespace;
use crate::metadata;
use crate::resources::{Cx, Resource, find};

/// Subresources of pods that can't change what their containers may do.
const HARMLESS: &[&str] = &["binding", "eviction", "status"];

/// How long the pods of a namespace are looked through when its label changes.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Judges a write that is otherwise good.
pub(crate) fn validate(
    cx: &Cx<'_>,
    row: &Resource,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), StatusError> {
    if row.storage == "namespaces" && row.group.is_empty() {
        return if cx.subresource.is_empty() { namespace(cx, row, new, old) } else { Ok(()) };
    }
    let Some((subject, pointer)) = pod_of(row.group, row.plural) else { return Ok(()) };
    let skipped = match subject {
        Subject::Pod => {
            HARMLESS.contains(&cx.subresource) || old.is_some_and(|old| !is_significant_update(new, old))
        }
        Subject::Template => !cx.subresource.is_empty(),
    };
    let Some(pod) = new.pointer(pointer).filter(|pod| !skipped && pod.is_object()) else { return Ok(()) };
    let namespaces = find("", "namespaces").expect("namespaces are in the table");
    let name = metadata::text(new, "namespace");
    let Some(found) = cx.server.caches.of(namespaces).get(&namespaces.key("", name)) else {
        return Err(StatusError::internal(format!("failed to lookup namespace {name}")));
    };
    let label = |key: &str| found.labels.get(key).map(String::as_str);
    let outcome = admit(&cx.server.config.pod_security, &cx.who.user, name, label, subject, &Pod::of(pod));
    for (key, value) in outcome.annotations {
        cx.notes.annotate(format!("pod-security.kubernetes.io/{key}"), value);
    }
    for warning in outcome.warnings {
        cx.notes.warn(warning);
    }
    match outcome.refused {
        Some(why) => Err(StatusError::forbidden(row.group_resource(), metadata::text(new, "name"), &why)),
        None => Ok(()),
    }
}

/// A namespace's labels must mean something, and whoever makes them stricter hears of the pods that are
/// there already.
fn namespace(cx: &Cx<'_>, row: &Resource, new: &Value, old: Option<&Value>) -> Result<(), StatusError> {
    let configuration = &cx.server.config.pod_security;
    let name = metadata::text(new, "name");
    let of = |namespace: &Value| {
        let labels = &namespace["metadata"]["labels"];
        Policy::of_labels(|key| labels[key].as_str(), configuration.defaults)
    };
    let (policy, faults) = of(new);
    let (before, old_faults) = old.map_or((Policy::default(), Vec::new()), of);
    if !faults.is_empty() && (old.is_none() || faults != old_faults) {
        return Err(StatusError::invalid(row.group, row.kind, name, &faults));
    }
    if old.is_some() && policy == before {
        return Ok(());
    }
    let labels = &new["metadata"]["labels"];
    if let Some(warning) = exempt_namespace_warning(configuration, name, |key| labels[key].as_str(), &policy)
    {
        cx.notes.warn(warning);
    }
    let exempt = configuration.exemptions.namespaces.iter().any(|exempt| exempt == name);
    if old.is_some() && !exempt && must_look_at_pods(&policy, &before) {
        for warning in refused_pods(cx, configuration, name, &policy) {
            cx.notes.warn(warning);
        }
    }
    Ok(())
}

fn refused_pods(cx: &Cx<'_>, configuration: &Configuration, namespace: &str, policy: &Policy) -> Vec<String> {
    let start = Instant::now();
    let pods = find("", "pods").expect("pods are in the table");
    let view = cx.server.caches.of(pods).view(0);
    // Half of the time for reading, so that something is judged in any case.
    let values: Vec<Value> = in_namespace(&view.objects, pods, namespace, None)
        .take_while(|_| start.elapsed() < LOOK_MAX / 2)
        .map(|pod| pod.value(pods))
        .collect();
    existing_pods(configuration, namespace, policy.enforce, &values, || start.elapsed() < LOOK_MAX)
}
