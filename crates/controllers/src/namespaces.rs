//! A deleted namespace is emptied, pods first, and then let go.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, now, work};

use crate::context::{Context, feed, feed_own};
use crate::owners::is_deleting;
use crate::raw::{self, Served};

const FINALIZER: &str = "kubernetes";
/// Pods tell when they are gone; for all else this is how long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let namespaces = context.caches.namespaces.clone();
    // A pod's end may be the last thing that its namespace waits for.
    let of_pod = move |pod: &Pod| {
        let key = ObjectKey::new("", pod.metadata.namespace.clone().unwrap_or_default());
        let ends = namespaces.get(&key).is_some_and(|namespace| is_deleting(&namespace.metadata));
        if ends { vec![key] } else { Vec::new() }
    };
    let reconciler = context.clone();
    let all = context.caches.namespaces.clone();
    tokio::join!(
        feed_own(context.caches.namespaces.clone(), queue.clone()),
        feed(context.caches.pods.clone(), queue.clone(), of_pod, move || all.keys()),
        work("namespace", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(namespace) = context.caches.namespaces.get(key) else { return Ok(Requeue::Never) };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !is_deleting(&namespace.metadata) || !finalizers.iter().any(|own| own == FINALIZER) {
        return Ok(Requeue::Never);
    }
    let mut kinds = raw::namespaced(&context.client).await?;
    // Pods first: what they use (secrets, services) stays until they have ended.
    kinds.sort_by_key(|kind| (kind.plural != "pods", kind.clone()));
    let mut left = Contents::default();
    for kind in &kinds {
        let pods_end = kind.plural == "pods";
        empty(context, kind, &key.name, &mut left).await?;
        if pods_end && !left.counts.is_empty() {
            break;
        }
    }
    if left.is_empty() {
        let rest: Vec<_> = finalizers.into_iter().filter(|own| own != FINALIZER).collect();
        let body = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": key.name, "resourceVersion": namespace.metadata.resource_version},
            "spec": {"finalizers": rest},
        });
        let path = format!("/api/v1/namespaces/{}/finalize", key.name);
        match raw::json(&context.client, Method::PUT, &path, Some(&body)).await {
            Ok(_) => return Ok(Requeue::Never),
            Err(error) if error.is_not_found() => return Ok(Requeue::Never),
            Err(error) => return Err(error),
        }
    }
    let conditions = conditions(&namespace, &left, now());
    if namespace.status.as_ref().and_then(|status| status.conditions.as_ref()) != Some(&conditions) {
        let mut changed = (*namespace).clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        match context.client.update_status(&changed).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(Requeue::Never),
            // Someone else's change is as good a reason to look again.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Requeue::After(LOOK_AGAIN))
}

/// What a namespace still holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// By resource, as `pods.` or `deployments.apps`.
    counts: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    fn add(&mut self, kind: &Served, items: &[Value]) {
        if items.is_empty() {
            return;
        }
        *self.counts.entry(format!("{}.{}", kind.plural, kind.group)).or_default() += items.len();
        for item in items {
            for finalizer in item["metadata"]["finalizers"].as_array().into_iter().flatten() {
                let finalizer = finalizer.as_str().unwrap_or_default().to_owned();
                *self.finalizers.entry(finalizer).or_default() += 1;
            }
        }
    }
}

/// Deletes what there is of one kind, and notes what remains.
async fn empty(context: &Context, kind: &Served, namespace: &str, left: &mut Contents) -> Result<(), Error> {
    let path = kind.path(namespace);
    let listed = raw::json(&context.client, Method::GET, &path, None).await?;
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        return Ok(());
    }
    for item in &items {
        if !item["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": item["metadata"]["uid"]},
        });
        let deleted =
            raw::json(&context.client, Method::DELETE, &format!("{path}/{name}"), Some(&options)).await;
        match deleted {
            Ok(_) => {}
            // It is gone already, or another of that name has come: the next look tells.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    let listed = raw::json(&context.client, Method::GET, &path, None).await?;
    left.add(kind, listed["items"].as_array().map(Vec::as_slice).unwrap_or_default());
    Ok(())
}

/// Upstream's five conditions, with the times of those that stay as they were.
fn conditions(namespace: &Namespace, left: &Contents, at: Timestamp) -> Vec<NamespaceCondition> {
    let list = |counts: &BTreeMap<String, usize>, suffix: &str| {
        let parts: Vec<_> =
            counts.iter().map(|(what, count)| format!("{what} has {count} {suffix}")).collect();
        parts.join(", ")
    };
    let remaining = format!("Some resources are remaining: {}", list(&left.counts, "resource instances"));
    let finalizers = format!(
        "Some content in the namespace has finalizers remaining: {}",
        list(&left.finalizers, "resource instances").replace(" has ", " in ")
    );
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        match left.counts.is_empty() {
            true => (
                "NamespaceContentRemaining",
                "False",
                "ContentRemoved",
                "All content successfully removed".to_owned(),
            ),
            false => ("NamespaceContentRemaining", "True", "SomeResourcesRemain", remaining),
        },
        match left.finalizers.is_empty() {
            true => (
                "NamespaceFinalizersRemaining",
                "False",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            ),
            false => ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", finalizers),
        },
    ];
    let known = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    rows.into_iter()
        .map(|(type_, status, reason, message)| {
            let before = known.into_iter().flatten().find(|condition| condition.type_ == type_);
            let since = before
                .filter(|condition| condition.status == status)
                .and_then(|condition| condition.last_transition_time.clone());
            NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(since.unwrap_or(Time(whole))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_remains() {
        let pods = Served { base: "/api/v1".into(), group: String::new(), plural: "pods".into() };
        let mut left = Contents::default();
        left.add(&pods, &[json!({"metadata": {"finalizers": ["x.io/a"]}}), json!({"metadata": {}})]);
        let at = Timestamp::from_second(100).unwrap();
        let mut namespace = Namespace::default();
        let told = conditions(&namespace, &left, at);
        let text: Vec<_> = told
            .iter()
            .skip(3)
            .map(|condition| {
                format!("{} {}: {}", condition.type_, condition.status, condition.message.as_deref().unwrap())
            })
            .collect();
        assert_eq!(
            text,
            [
                "NamespaceContentRemaining True: Some resources are remaining: pods. has 2 resource instances",
                "NamespaceFinalizersRemaining True: Some content in the namespace has finalizers remaining: x.io/a in 1 resource instances",
            ]
        );
        namespace.status.get_or_insert_default().conditions = Some(told.clone());
        let later = Timestamp::from_second(200).unwrap();
        assert_eq!(conditions(&namespace, &left, later), told, "nothing new, nothing to write");
        let empty = conditions(&namespace, &Contents::default(), later);
        assert_eq!(empty[3].last_transition_time, Some(Time(later)));
        assert_eq!(empty[0].last_transition_time, Some(Time(at)));
    }
}
