//! DaemonSets: one pod of a template on every node that it may run on.
//!
//! A pod is pinned to its node by a required affinity to the node's name, so that the scheduler binds it
//! like any other and says why where it can't.

mod backoff;
mod plan;
mod revisions;

use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::selector::Selector;
use skiff_client::{
    Change, DeleteOptions, Error, EventType, ObjectKey, Requeue, WorkQueue, now, reference, work,
};
use tokio::time::Instant;

use self::backoff::Backoff;
use crate::context::{Context, feed, feed_own};
use crate::expectations::Expectations;
use crate::owners::{self, controller_key, uid};
use crate::replica_sets::{claim_pods, delete};

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let expectations = Arc::new(Expectations::default());
    let backoff = Arc::new(Backoff::default());
    let of_revision =
        |revision: &ControllerRevision| controller_key::<DaemonSet>(&revision.metadata).into_iter().collect();
    let (reconciler, seen) = (context.clone(), expectations.clone());
    let all = context.caches.daemon_sets.clone();
    tokio::join!(
        feed_own(context.caches.daemon_sets.clone(), queue.clone()),
        feed(context.caches.controller_revisions.clone(), queue.clone(), of_revision, move || all.keys()),
        feed_nodes(&context, queue.clone()),
        feed_pods(&context, queue.clone(), &expectations),
        work("daemonset", queue, context.config.workers, move |key| {
            let (context, expectations, backoff) = (reconciler.clone(), seen.clone(), backoff.clone());
            async move { reconcile(&context, &expectations, &backoff, &key).await }
        }),
    );
}

/// All sets look at a node that is new, gone, or other than before; a heartbeat concerns nobody.
async fn feed_nodes(context: &Context, queue: WorkQueue<ObjectKey>) {
    let mut changes = context.caches.nodes.subscribe();
    loop {
        let concerns = match changes.next().await {
            Change::Applied { old: Some(old), new } => matters(&old) != matters(&new),
            Change::Applied { old: None, .. } | Change::Deleted(_) | Change::Resync => true,
        };
        if concerns {
            context.caches.daemon_sets.keys().into_iter().for_each(|key| queue.add(key));
        }
    }
}

/// What of a node decides whether a set runs there.
fn matters(node: &Node) -> impl PartialEq {
    let spec = node.spec.clone().unwrap_or_default();
    (node.metadata.labels.clone(), spec.taints, spec.unschedulable)
}

async fn feed_pods(context: &Context, queue: WorkQueue<ObjectKey>, expectations: &Expectations) {
    let mut changes = context.caches.pods.subscribe();
    loop {
        match changes.next().await {
            Change::Applied { old, new } => {
                let own = controller_key::<DaemonSet>(&new.metadata);
                if let Some(key) = &own {
                    match &old {
                        None => expectations.created(key, 1),
                        Some(_) if owners::is_deleting(&new.metadata) => {
                            expectations.deleted(key, uid(&new.metadata));
                        }
                        Some(_) => {}
                    }
                }
                let orphan = owners::adopters(&new, &context.caches.daemon_sets, selector);
                own.into_iter().chain(orphan).for_each(|key| queue.add(key));
            }
            Change::Deleted(pod) => {
                if let Some(key) = controller_key::<DaemonSet>(&pod.metadata) {
                    expectations.deleted(&key, uid(&pod.metadata));
                    queue.add(key);
                }
            }
            Change::Resync => {
                expectations.forget_all();
                context.caches.daemon_sets.keys().into_iter().for_each(|key| queue.add(key));
            }
        }
    }
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    owners::selecting(set.spec.as_ref().map(|spec| &spec.selector))
}

async fn reconcile(
    context: &Context,
    expectations: &Expectations,
    backoff: &Backoff,
    key: &ObjectKey,
) -> Result<Requeue, Error> {
    let Some(set) = context.caches.daemon_sets.get(key) else {
        expectations.forget(key);
        return Ok(Requeue::Never);
    };
    let Some(selector) = selector(&set) else { return Ok(Requeue::Never) };
    if !expectations.are_met(key) {
        return Ok(Requeue::Never);
    }
    let all = context.caches.pods.list_namespace(&key.namespace);
    let own = claim_pods(&context.client, &*set, &selector, &all).await?;
    let nodes = context.caches.nodes.list();
    let mut hash = None;
    let mut failed_pods_end = None;
    let mut result = Ok(());
    if !owners::is_deleting(&set.metadata) {
        let current = current_revision(context, &set).await?;
        let at = Instant::now();
        let plan = plan::plan(&set, &current, &nodes, &own, |node| backoff.left(&set, node, at), now());
        for (node, pod) in &plan.ended {
            let pod_key = ObjectKey::of(&**pod);
            if crate::pods::phase(pod) == "Failed" {
                backoff.failed(&set, node, at);
                let message =
                    format!("Found failed daemon pod {pod_key} on node {node}, will try to kill it");
                context.events.record(reference(&*set), EventType::Warning, "FailedDaemonPod", message);
            } else {
                let message =
                    format!("Found succeeded daemon pod {pod_key} on node {node}, will try to delete it");
                context.events.record(reference(&*set), EventType::Normal, "SucceededDaemonPod", message);
            }
        }
        failed_pods_end = plan.look_again;
        result = execute(context, expectations, key, &set, &current, &plan).await;
        clean_history(context, &set, &current, &own).await?;
        hash = Some(current);
    }
    let (status, look_again) = plan::status(&set, hash.as_deref(), &nodes, &own, now());
    if set.status.as_ref() != Some(&status) {
        let mut changed = (*set).clone();
        changed.status = Some(status);
        match context.client.update_status(&changed).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    result?;
    Ok(look_again.into_iter().chain(failed_pods_end).min().map_or(Requeue::Never, Requeue::After))
}

/// The hash of the revision that holds the set's template, which is made or made the newest if need be.
async fn current_revision(context: &Context, set: &DaemonSet) -> Result<String, Error> {
    let all = own_revisions(context, set);
    match revisions::plan(set, &all) {
        revisions::Plan::Keep(hash) => Ok(hash),
        revisions::Plan::Renumber(revision) => {
            let hash = revisions::hash_of(&revision).to_owned();
            context.client.update(&*revision).await?;
            Ok(hash)
        }
        revisions::Plan::Create(revision) => {
            let hash = revisions::hash_of(&revision).to_owned();
            match context.client.create(&*revision).await {
                Ok(_) => Ok(hash),
                Err(error) if error.is_already_exists() => {
                    let name = owners::name(&revision.metadata);
                    let namespace = owners::namespace(&revision.metadata);
                    let present = context.client.get::<ControllerRevision>(namespace, name).await?;
                    if present.data == revision.data && owners::is_controlled_by(&present.metadata, set) {
                        // Our own, which the copy doesn't show yet.
                        return Ok(hash);
                    }
                    let mut changed = set.clone();
                    let status = changed.status.get_or_insert_default();
                    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    context.client.update_status(&changed).await?;
                    Err(error)
                }
                Err(error) => Err(error),
            }
        }
    }
}

fn own_revisions(context: &Context, set: &DaemonSet) -> Vec<Arc<ControllerRevision>> {
    let mut all = context.caches.controller_revisions.list_namespace(owners::namespace(&set.metadata));
    all.retain(|revision| owners::is_controlled_by(&revision.metadata, set));
    all
}

async fn clean_history(
    context: &Context,
    set: &DaemonSet,
    current: &str,
    pods: &[Arc<Pod>],
) -> Result<(), Error> {
    for revision in revisions::superfluous(set, current, &own_revisions(context, set), pods) {
        let (namespace, name) = (owners::namespace(&revision.metadata), owners::name(&revision.metadata));
        match context.client.delete::<ControllerRevision>(namespace, name, &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn execute(
    context: &Context,
    expectations: &Expectations,
    key: &ObjectKey,
    set: &DaemonSet,
    hash: &str,
    plan: &plan::Plan,
) -> Result<(), Error> {
    if plan.create.is_empty() && plan.delete.is_empty() {
        return Ok(());
    }
    let deletions = plan.delete.iter().map(|pod| uid(&pod.metadata).to_owned());
    expectations.expect(key, plan.create.len(), deletions);
    let about = || reference(set);
    let mut failure = None;
    let mut left = plan.create.as_slice();
    let mut batch = 1;
    while !left.is_empty() && failure.is_none() {
        let (now, later) = left.split_at(batch.min(left.len()));
        let pods: Vec<Pod> = now.iter().map(|node| plan::pod_for(set, node, hash)).collect();
        for result in join_all(pods.iter().map(|pod| context.client.create(pod))).await {
            match result {
                Ok(pod) => {
                    let message = format!("Created pod: {}", owners::name(&pod.metadata));
                    context.events.record(about(), EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) => {
                    expectations.created(key, 1);
                    let message = format!("Error creating: {error}");
                    context.events.record(about(), EventType::Warning, "FailedCreate", message);
                    failure = Some(error);
                }
            }
        }
        left = later;
        batch *= 2;
    }
    expectations.created(key, left.len());
    let deletions = plan.delete.iter().map(|pod| async {
        let deleted = delete(&context.client, pod).await;
        if deleted.is_err() {
            expectations.deleted(key, uid(&pod.metadata));
        }
        (owners::name(&pod.metadata), deleted)
    });
    for (name, deleted) in join_all(deletions).await {
        match deleted {
            Ok(()) => {
                let message = format!("Deleted pod: {name}");
                context.events.record(about(), EventType::Normal, "SuccessfulDelete", message);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if crate::service_accounts::is_namespace_end(&error) => Ok(()),
        Some(error) => Err(error),
        None => Ok(()),
    }
}
