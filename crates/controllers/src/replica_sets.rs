//! ReplicaSets: as many pods of a template as asked for.

mod plan;

use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions;
use skiff_api::selector::Selector;
use skiff_client::{
    Change, Client, DeleteOptions, Error, EventType, ObjectKey, Patch, Requeue, WorkQueue, now, reference,
    work,
};

use crate::context::{Context, feed_own};
use crate::expectations::Expectations;
use crate::owners::{self, Claim, claim, controller_key, controller_reference, uid};
use crate::pods;

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let expectations = Arc::new(Expectations::default());
    let (reconciler, seen) = (context.clone(), expectations.clone());
    tokio::join!(
        feed_own(context.caches.replica_sets.clone(), queue.clone()),
        feed_pods(&context, queue.clone(), &expectations),
        work("replicaset", queue, context.config.workers, move |key| {
            let (context, expectations) = (reconciler.clone(), seen.clone());
            async move { reconcile(&context, &expectations, &key).await }
        }),
    );
}

/// Queues the sets that a pod's change concerns, and notes what was seen.
async fn feed_pods(context: &Context, queue: WorkQueue<ObjectKey>, expectations: &Expectations) {
    let mut changes = context.caches.pods.subscribe();
    loop {
        match changes.next().await {
            Change::Applied { old, new } => {
                let own = controller_key::<ReplicaSet>(&new.metadata);
                if let Some(key) = &own {
                    match &old {
                        None => expectations.created(key, 1),
                        Some(_) if owners::is_deleting(&new.metadata) => {
                            expectations.deleted(key, uid(&new.metadata));
                        }
                        Some(_) => {}
                    }
                }
                let before = old.as_ref().and_then(|old| controller_key::<ReplicaSet>(&old.metadata));
                let orphan = owners::adopters(&new, &context.caches.replica_sets, selector);
                own.into_iter().chain(before).chain(orphan).for_each(|key| queue.add(key));
            }
            Change::Deleted(pod) => {
                if let Some(key) = controller_key::<ReplicaSet>(&pod.metadata) {
                    expectations.deleted(&key, uid(&pod.metadata));
                    queue.add(key);
                }
            }
            Change::Resync => {
                expectations.forget_all();
                context.caches.replica_sets.keys().into_iter().for_each(|key| queue.add(key));
            }
        }
    }
}

fn selector(set: &ReplicaSet) -> Option<Selector> {
    owners::selecting(set.spec.as_ref().map(|spec| &spec.selector))
}

async fn reconcile(
    context: &Context,
    expectations: &Expectations,
    key: &ObjectKey,
) -> Result<Requeue, Error> {
    let Some(set) = context.caches.replica_sets.get(key) else {
        expectations.forget(key);
        return Ok(Requeue::Never);
    };
    let Some(selector) = selector(&set) else { return Ok(Requeue::Never) };
    if !expectations.are_met(key) {
        return Ok(Requeue::Never);
    }
    let all = context.caches.pods.list_namespace(&key.namespace);
    let own = claim_pods(&context.client, &*set, &selector, &all).await?;
    let mut failure = None;
    if !owners::is_deleting(&set.metadata) {
        failure = scale(context, expectations, key, &set, &own).await;
    }
    let failed = failure.as_ref().map(|(reason, error)| (*reason, error.to_string()));
    let status = plan::status(&set, &own, failed, now());
    if set.status.as_ref() != Some(&status) {
        let mut changed = (*set).clone();
        changed.status = Some(status.clone());
        match context.client.update_status(&changed).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    if let Some((_, error)) = failure {
        return Err(error);
    }
    Ok(plan::next_availability(&set, &own, now()).map_or(Requeue::Never, Requeue::After))
}

/// Creates or deletes pods towards the count asked for. What went wrong is told with its condition's reason.
async fn scale(
    context: &Context,
    expectations: &Expectations,
    key: &ObjectKey,
    set: &ReplicaSet,
    own: &[Arc<Pod>],
) -> Option<(&'static str, Error)> {
    match plan::scale(set, own) {
        plan::Scale::Keep => None,
        plan::Scale::Create(count) => {
            expectations.expect(key, count, []);
            create(context, expectations, key, set, count).await.map(|error| ("FailedCreate", error))
        }
        plan::Scale::Delete(victims) => {
            expectations.expect(key, 0, victims.iter().map(|pod| uid(&pod.metadata).to_owned()));
            let deletions = victims.iter().map(|pod| async {
                let deleted = delete(&context.client, pod).await;
                if deleted.is_err() {
                    expectations.deleted(key, uid(&pod.metadata));
                }
                let name = owners::name(&pod.metadata);
                match &deleted {
                    Ok(()) => context.events.record(
                        reference(set),
                        EventType::Normal,
                        "SuccessfulDelete",
                        format!("Deleted pod: {name}"),
                    ),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => context.events.record(
                        reference(set),
                        EventType::Warning,
                        "FailedDelete",
                        format!("Error deleting: {error}"),
                    ),
                }
                deleted
            });
            let failed = join_all(deletions).await.into_iter().filter_map(Result::err);
            failed.filter(|error| !error.is_not_found()).map(|error| ("FailedDelete", error)).next()
        }
    }
}

/// Creates in growing batches, so that what can't work (a quota, say) is refused once and not a hundred
/// times.
async fn create(
    context: &Context,
    expectations: &Expectations,
    key: &ObjectKey,
    set: &ReplicaSet,
    count: usize,
) -> Option<Error> {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        expectations.created(key, count);
        return None;
    };
    let pod = pods::from_template(template, &key.namespace, controller_reference(set), &[]);
    let mut left = count;
    let mut batch = 1;
    while left > 0 {
        let size = batch.min(left);
        let results = join_all((0..size).map(|_| context.client.create(&pod))).await;
        left -= size;
        let mut failure = None;
        for result in results {
            match result {
                Ok(pod) => context.events.record(
                    reference(set),
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {}", owners::name(&pod.metadata)),
                ),
                Err(error) => {
                    expectations.created(key, 1);
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = failure {
            expectations.created(key, left);
            if crate::service_accounts::is_namespace_end(&error) {
                return None;
            }
            context.events.record(
                reference(set),
                EventType::Warning,
                "FailedCreate",
                format!("Error creating: {error}"),
            );
            return Some(error);
        }
        batch *= 2;
    }
    None
}

pub(crate) async fn delete(client: &Client, pod: &Pod) -> Result<(), Error> {
    let options = DeleteOptions {
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteOptions::default()
    };
    client.delete::<Pod>(owners::namespace(&pod.metadata), owners::name(&pod.metadata), &options).await
}

/// The pods that are the owner's: orphans that match are adopted, own ones that match no more are let go.
pub(crate) async fn claim_pods<K: skiff_client::Object>(
    client: &Client,
    owner: &K,
    selector: &Selector,
    pods: &[Arc<Pod>],
) -> Result<Vec<Arc<Pod>>, Error> {
    let mut own = Vec::new();
    let mut checked = false;
    for pod in pods {
        let metadata = &pod.metadata;
        let patch = match claim(owner, metadata, selector.matches(metadata.labels.as_ref())) {
            Claim::Ignore => continue,
            Claim::Own => {
                own.push(pod.clone());
                continue;
            }
            Claim::Adopt if pods::has_ended(pod) => continue,
            Claim::Adopt => {
                // The copy may not show that the owner is going: adopting would then orphan the pod anew.
                if !checked && !still_there(client, owner).await? {
                    return Ok(own);
                }
                checked = true;
                owners::adoption(owner, uid(metadata))
            }
            Claim::Release => owners::release(owner, uid(metadata)),
        };
        let adopting = owners::controller_of(metadata).is_none();
        let (namespace, name) = (owners::namespace(metadata), owners::name(metadata));
        match client.patch::<Pod>(namespace, name, None, &Patch::Strategic(patch)).await {
            Ok(pod) if adopting => own.push(pod),
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(own)
}

async fn still_there<K: skiff_client::Object>(client: &Client, owner: &K) -> Result<bool, Error> {
    let metadata = owner.metadata();
    let fresh = client.find::<K>(owners::namespace(metadata), owners::name(metadata)).await?;
    Ok(fresh
        .is_some_and(|fresh| fresh.metadata().uid == metadata.uid && !owners::is_deleting(fresh.metadata())))
}
