//! Deployments: from one revision of a template to the next, by scaling ReplicaSets.
//!
//! [`plan`] says what the sets' sizes should become, [`revisions`] which set is which, [`status`] what to
//! tell about it.

mod plan;
mod revisions;
mod status;

pub(crate) use plan::share;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use skiff_api::selector::Selector;
use skiff_client::{
    DeleteOptions, Error, EventType, ObjectKey, Patch, Requeue, WorkQueue, now, reference, work,
};

use crate::context::{Context, feed, feed_own};
use crate::owners::{self, Claim, claim, controller_key, is_deleting};
use crate::pods;

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let deployments = context.caches.deployments.clone();
    let of_set = {
        let deployments = deployments.clone();
        move |set: &ReplicaSet| match owners::controller_of(&set.metadata) {
            Some(_) => controller_key::<Deployment>(&set.metadata).into_iter().collect(),
            None => deployments
                .list_namespace(owners::namespace(&set.metadata))
                .iter()
                .filter(|deployment| {
                    selector(deployment)
                        .is_some_and(|selector| selector.matches(set.metadata.labels.as_ref()))
                })
                .map(|deployment| ObjectKey::of(&**deployment))
                .collect(),
        }
    };
    // Recreate waits for the old pods' end, which their sets' counts don't tell.
    let sets = context.caches.replica_sets.clone();
    let of_pod = move |pod: &Pod| {
        let set = controller_key::<ReplicaSet>(&pod.metadata).and_then(|key| sets.get(&key));
        set.and_then(|set| controller_key::<Deployment>(&set.metadata)).into_iter().collect()
    };
    let reconciler = context.clone();
    let all = move || deployments.keys();
    tokio::join!(
        feed_own(context.caches.deployments.clone(), queue.clone()),
        feed(context.caches.replica_sets.clone(), queue.clone(), of_set, all.clone()),
        feed(context.caches.pods.clone(), queue.clone(), of_pod, all),
        work("deployment", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    owners::selecting(deployment.spec.as_ref().map(|spec| &spec.selector))
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(deployment) = context.caches.deployments.get(key) else { return Ok(Requeue::Never) };
    let Some(selector) = selector(&deployment) else { return Ok(Requeue::Never) };
    let sets = claim_sets(context, &deployment, &selector).await?;
    if is_deleting(&deployment.metadata) {
        return sync_status(context, &deployment, &sets).await;
    }
    let current = revisions::current(&deployment, &sets);
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    // A paused deployment is scaled and told about; a new template waits.
    let current = match current {
        Some(set) => Some(mark_current(context, &deployment, &sets, &set).await?),
        None if paused => None,
        None => {
            let running = old_pods(context, &deployment, &sets, None);
            if plan::is_recreate(&deployment) && has_replicas(&sets) {
                return recreate_down(context, &deployment, &sets).await;
            }
            if plan::is_recreate(&deployment) && running > 0 {
                return sync_status(context, &deployment, &sets).await;
            }
            Some(create_set(context, &deployment, &sets).await?)
        }
    };
    let mut sets = sets;
    if let Some(current) = &current {
        sets.retain(|set| set.metadata.uid != current.metadata.uid);
        sets.push(current.clone());
    }
    let old = sets
        .iter()
        .filter(|set| current.as_ref().is_none_or(|current| current.metadata.uid != set.metadata.uid));
    let old: Vec<Arc<ReplicaSet>> = old.cloned().collect();
    let waiting = old_pods(context, &deployment, &sets, current.as_deref());
    let sizes = plan::sizes(&deployment, current.as_deref(), &old, waiting > 0);
    for size in sizes {
        let Some(set) = sets.iter().find(|set| owners::name(&set.metadata) == size.set) else { continue };
        let scaled = resize(context, &deployment, set, &size).await?;
        if let Some(slot) = sets.iter_mut().find(|set| set.metadata.uid == scaled.metadata.uid) {
            *slot = scaled;
        }
    }
    if !paused && status::is_complete(&deployment, &status::counts(&sets, current.as_deref())) {
        for set in revisions::superfluous(&deployment, &old) {
            let (namespace, name) = (owners::namespace(&set.metadata), owners::name(&set.metadata));
            match context.client.delete::<ReplicaSet>(namespace, name, &DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    sync_status(context, &deployment, &sets).await
}

fn has_replicas(sets: &[Arc<ReplicaSet>]) -> bool {
    sets.iter().any(|set| plan::replicas(set) > 0)
}

/// The deployment's own sets: matching orphans are adopted, own ones that match no more are let go.
async fn claim_sets(
    context: &Context,
    deployment: &Deployment,
    selector: &Selector,
) -> Result<Vec<Arc<ReplicaSet>>, Error> {
    let mut own = Vec::new();
    let namespace = owners::namespace(&deployment.metadata);
    for set in context.caches.replica_sets.list_namespace(namespace) {
        let metadata = &set.metadata;
        let patch = match claim(deployment, metadata, selector.matches(metadata.labels.as_ref())) {
            Claim::Ignore => continue,
            Claim::Own => {
                own.push(set);
                continue;
            }
            Claim::Adopt => owners::adoption(deployment, owners::uid(metadata)),
            Claim::Release => owners::release(deployment, owners::uid(metadata)),
        };
        let adopting = owners::controller_of(metadata).is_none();
        let patch = Patch::Strategic(patch);
        match context.client.patch::<ReplicaSet>(namespace, owners::name(metadata), None, &patch).await {
            Ok(set) if adopting => own.push(set),
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(own)
}

/// Pods of the deployment's other sets that have not ended, those on their way out included.
fn old_pods(
    context: &Context,
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    current: Option<&ReplicaSet>,
) -> usize {
    let old = |uid: &str| {
        sets.iter().any(|set| {
            owners::uid(&set.metadata) == uid
                && current.is_none_or(|current| current.metadata.uid != set.metadata.uid)
        })
    };
    let pods = context.caches.pods.list_namespace(owners::namespace(&deployment.metadata));
    pods.iter()
        .filter(|pod| !pods::has_ended(pod))
        .filter(|pod| owners::controller_of(&pod.metadata).is_some_and(|owner| old(&owner.uid)))
        .count()
}

/// Recreate, before the new set exists: everything goes first.
async fn recreate_down(
    context: &Context,
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> Result<Requeue, Error> {
    for set in sets.iter().filter(|set| plan::replicas(set) > 0) {
        let size = plan::Size { set: owners::name(&set.metadata).to_owned(), replicas: 0 };
        resize(context, deployment, set, &size).await?;
    }
    sync_status(context, deployment, sets).await
}

/// Gives the current set its revision and the deployment the same, as `rollout history` and `undo` read it.
async fn mark_current(
    context: &Context,
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    set: &Arc<ReplicaSet>,
) -> Result<Arc<ReplicaSet>, Error> {
    let (marked, revision) = revisions::marked(deployment, sets, set);
    let set = match marked {
        Some(marked) => context.client.update(&marked).await?,
        None => set.clone(),
    };
    mark_deployment(context, deployment, &revision).await?;
    Ok(set)
}

async fn mark_deployment(context: &Context, deployment: &Deployment, revision: &str) -> Result<(), Error> {
    let known = deployment.metadata.annotations.as_ref().and_then(|own| own.get(revisions::REVISION));
    if known.is_some_and(|known| known == revision) {
        return Ok(());
    }
    let mut marked = deployment.clone();
    let annotations = marked.metadata.annotations.get_or_insert_default();
    annotations.insert(revisions::REVISION.to_owned(), revision.to_owned());
    context.client.update(&marked).await.map(drop)
}

async fn create_set(
    context: &Context,
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> Result<Arc<ReplicaSet>, Error> {
    let replicas = plan::first_size(deployment, sets);
    let (set, revision) = revisions::new_set(deployment, sets, replicas);
    let set = match context.client.create(&set).await {
        Ok(created) => {
            if replicas > 0 {
                let name = owners::name(&created.metadata);
                let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                context.events.record(reference(deployment), EventType::Normal, "ScalingReplicaSet", message);
            }
            created
        }
        Err(error) if error.is_already_exists() => {
            let name = owners::name(&set.metadata);
            let present = context.client.get::<ReplicaSet>(owners::namespace(&set.metadata), name).await?;
            if owners::is_controlled_by(&present.metadata, deployment)
                && revisions::same_template(deployment, &present)
            {
                // Our own, which the copy doesn't show yet.
                present
            } else {
                // Another template has the same hash: count it, and the next try has another name.
                let mut changed = deployment.clone();
                let status = changed.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                context.client.update_status(&changed).await?;
                return Err(error);
            }
        }
        Err(error) => {
            let message =
                format!("Failed to create new replica set {:?}: {error}", owners::name(&set.metadata));
            let mut changed = deployment.clone();
            status::note_create_failure(&mut changed, &message, now());
            if changed.status != deployment.status {
                context.client.update_status(&changed).await?;
            }
            context.events.record(
                reference(deployment),
                EventType::Warning,
                "ReplicaSetCreateError",
                message,
            );
            return Err(error);
        }
    };
    mark_deployment(context, deployment, &revision).await?;
    Ok(set)
}

async fn resize(
    context: &Context,
    deployment: &Deployment,
    set: &Arc<ReplicaSet>,
    size: &plan::Size,
) -> Result<Arc<ReplicaSet>, Error> {
    let from = plan::replicas(set);
    let mut changed = (**set).clone();
    revisions::note_size(deployment, &mut changed);
    changed.spec.get_or_insert_default().replicas = Some(size.replicas);
    if changed == **set {
        return Ok(set.clone());
    }
    let updated = context.client.update(&changed).await?;
    if from != size.replicas {
        let direction = if size.replicas > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {from} to {}", size.set, size.replicas);
        context.events.record(reference(deployment), EventType::Normal, "ScalingReplicaSet", message);
    }
    Ok(updated)
}

async fn sync_status(
    context: &Context,
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> Result<Requeue, Error> {
    let current = revisions::current(deployment, sets);
    let (told, look_again) = status::status(deployment, sets, current.as_deref(), now());
    if deployment.status.as_ref() != Some(&told) {
        let mut changed = deployment.clone();
        changed.status = Some(told);
        match context.client.update_status(&changed).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(Requeue::Never),
            Err(error) => return Err(error),
        }
    }
    Ok(look_again.map_or(Requeue::Never, Requeue::After))
}
