//! What is asked of a write between defaulting and validation, in upstream's order: namespace
//! lifecycle, service account, priority, default tolerations, labels of the topology; and after validation:
//! Pod Security, host ports.
//!
//! What comes before validation comes before a name is generated, too: it knows the object by its prefix.

mod service_account;
pub(crate) mod topology_labels;

use serde_json::{Value, json};
use skiff_api::status::{GroupResource, StatusError};

use crate::auth::Identity;
use crate::metadata;
use crate::node_access::restriction::{self, Written};
use crate::resources::{Cx, Resource, find};
use crate::server::Inner;
use crate::{external_ips, host_ports, pod_security};

/// How long pods stay on a node that is not ready or not reachable.
const TOLERATION_SECONDS: i64 = 300;

pub(crate) async fn create(
    cx: &Cx<'_>,
    stored: &Resource,
    row: &Resource,
    namespace: &str,
    object: &mut Value,
) -> Result<(), StatusError> {
    if !namespace.is_empty() {
        namespace_takes_content(cx, row, namespace, metadata::known_by(object))?;
    }
    restriction::check(
        cx.server,
        cx.who,
        &Written { row, subresource: cx.subresource, old: None, new: Some(object) },
    )?;
    if stored.storage == "pods" {
        service_account::admit(cx, row, namespace, object).await?;
        priority(cx, row, object)?;
        default_tolerations(object);
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        if !node.is_empty() {
            topology_labels::give(cx.server, &node, object);
        }
    }
    Ok(())
}

pub(crate) fn update(
    cx: &Cx<'_>,
    stored: &Resource,
    row: &Resource,
    object: &mut Value,
    old: &Value,
) -> Result<(), StatusError> {
    let write = Written { row, subresource: cx.subresource, old: Some(old), new: Some(object) };
    restriction::check(cx.server, cx.who, &write)?;
    // A pod replaced as a whole (kubectl replace) may leave out what admission filled in.
    if stored.storage == "pods" {
        for field in ["priority", "preemptionPolicy", "serviceAccountName", "serviceAccount", "tolerations"] {
            if object["spec"].get(field).is_none()
                && let Some(value) = old["spec"].get(field)
                && let Some(spec) = object["spec"].as_object_mut()
            {
                spec.insert(field.into(), value.clone());
            }
        }
    }
    Ok(())
}

/// What is asked of a write once the object is found good: it may be refused, and not changed any more.
pub(crate) fn validate(
    cx: &Cx<'_>,
    row: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), StatusError> {
    pod_security::validate(cx, row, object, old)?;
    host_ports::warn(cx, row, object, old);
    external_ips::warn(cx, row, object, old);
    one_default_priority(cx, row, object)
}

/// Of all priority classes one may be the default.
fn one_default_priority(cx: &Cx<'_>, row: &Resource, object: &Value) -> Result<(), StatusError> {
    if row.storage != "priorityclasses" || object["globalDefault"] != json!(true) {
        return Ok(());
    }
    let name = metadata::text(object, "name");
    match default_priorities(cx.server).find(|other| metadata::text(other, "name") != name) {
        None => Ok(()),
        Some(other) => {
            let other = metadata::text(&other, "name");
            let why =
                format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(StatusError::forbidden(row.group_resource(), name, &why))
        }
    }
}

/// Before a deletion: some namespaces stay, and nodes delete only what is theirs.
pub(crate) fn delete(
    server: &Inner,
    who: &Identity,
    row: &Resource,
    object: &Value,
) -> Result<(), StatusError> {
    let name = metadata::text(object, "name");
    let write = Written { row, subresource: "", old: Some(object), new: None };
    restriction::check(server, who, &write)?;
    let immortal = ["default", "kube-system", "kube-public"];
    if row.storage == "namespaces" && immortal.contains(&name) {
        return Err(StatusError::forbidden(row.group_resource(), name, "this namespace may not be deleted"));
    }
    Ok(())
}

fn namespace_takes_content(
    cx: &Cx<'_>,
    row: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), StatusError> {
    let namespaces = find("", "namespaces").expect("namespaces are in the table");
    let Some(found) = cx.server.caches.of(namespaces).get(&namespaces.key("", namespace)) else {
        return Err(StatusError::not_found(namespaces.group_resource(), namespace));
    };
    if found.deleting {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = StatusError::forbidden(row.group_resource(), name, &why);
        if let Some(details) = &mut error.0.details {
            details.causes = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause {
                field: Some("metadata.namespace".into()),
                message: Some(format!("namespace {namespace} is being terminated")),
                reason: Some("NamespaceTerminating".into()),
            }]);
        }
        return Err(error);
    }
    Ok(())
}

fn priority_classes() -> &'static Resource {
    find("scheduling.k8s.io", "priorityclasses").expect("priority classes are in the table")
}

/// The classes that are marked as the default, the lowest first: should there be several, from two who made one at
/// the same moment, it counts.
fn default_priorities(server: &Inner) -> impl Iterator<Item = Value> {
    let row = priority_classes();
    let view = server.caches.of(row).view(0);
    let mut marked: Vec<Value> = view.objects.values().map(|class| class.value(row)).collect();
    marked.retain(|class| class["globalDefault"] == json!(true));
    marked.sort_by_key(|class| class["value"].as_i64().unwrap_or(0));
    marked.into_iter()
}

/// Turns a priority class into its number.
fn priority(cx: &Cx<'_>, row: &Resource, pod: &mut Value) -> Result<(), StatusError> {
    let classes = priority_classes();
    let cache = cx.server.caches.of(classes);
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let refused = |why: &str| {
        StatusError::forbidden(
            GroupResource { group: row.group, resource: row.plural },
            metadata::known_by(pod),
            why,
        )
    };
    let class = if name.is_empty() {
        default_priorities(cx.server).next()
    } else {
        match cache.get(&classes.key("", &name)) {
            Some(class) => Some(class.value(classes)),
            None => return Err(refused(&format!("no PriorityClass with name {name} was found"))),
        }
    };
    let (name, value, policy) = match &class {
        Some(class) => (
            metadata::text(class, "name").to_owned(),
            class["value"].as_i64().unwrap_or(0),
            class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority").to_owned(),
        ),
        None => (String::new(), 0, "PreemptLowerPriority".to_owned()),
    };
    if let Some(given) = pod["spec"]["priority"].as_i64()
        && given != value
    {
        return Err(refused(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
             controller computed {value} from the given PriorityClass name"
        )));
    }
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str()
        && given != policy
    {
        return Err(refused(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
             admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let Some(spec) = pod["spec"].as_object_mut() {
        if !name.is_empty() {
            spec.insert("priorityClassName".into(), name.into());
        }
        spec.insert("priority".into(), value.into());
        spec.insert("preemptionPolicy".into(), policy.into());
    }
    Ok(())
}

/// A pod stays 300 s on a node that is not ready or unreachable, unless it says otherwise.
fn default_tolerations(pod: &mut Value) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let text = |t: &Value, field: &str| t[field].as_str().unwrap_or_default().to_owned();
        let tolerated = list.iter().any(|t| {
            let named = text(t, "key");
            (named == key || named.is_empty()) && matches!(text(t, "effect").as_str(), "" | "NoExecute")
        });
        if !tolerated {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_unless_covered() {
        let mut pod = json!({"spec": {}});
        default_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        default_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(1));
        let mut pod = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}]}});
        default_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(3));
    }
}
