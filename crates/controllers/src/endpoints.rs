//! Who answers for a service: its `Endpoints` and `EndpointSlice` objects.
//!
//! Both are computed from the service and the pods it selects, by pure functions in [`plan`]. A service
//! without a selector is somebody else's to fill: the Endpoints written for it become slices in [`mirror`].

mod mirror;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::{Cache, Change, DeleteOptions, Error, ObjectKey, Requeue, WorkQueue, work};

use crate::context::{Context, feed};

/// Names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The accounts that slices are written as; endpoints are written as the controller's own.
const SLICES: &str = "endpointslice-controller";
const MIRRORED: &str = "endpointslicemirroring-controller";

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let caches = context.caches.clone();
    caches.endpoint_slices.index(service_of);
    // A service that is gone leaves objects by which it is found again.
    let all = {
        let caches = caches.clone();
        move || {
            let mut keys = caches.services.keys();
            keys.extend(caches.endpoints.keys());
            keys.extend(caches.endpoint_slices.list().iter().filter_map(|slice| service_of(slice)));
            keys
        }
    };
    let services = caches.services.clone();
    let of_pod = move |pod: &Pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        services
            .list_namespace(namespace)
            .iter()
            .filter(|service| selects(service, pod))
            .map(|service| ObjectKey::of(&**service))
            .collect()
    };
    let (slices, mirror) = (context.of_account(SLICES), context.of_account(MIRRORED));
    let reconciler = context.clone();
    tokio::join!(
        feed_moves(caches.nodes, queue.clone(), all.clone()),
        feed(caches.services, queue.clone(), |service: &Service| vec![ObjectKey::of(service)], all.clone()),
        feed(caches.pods, queue.clone(), of_pod, all.clone()),
        feed(caches.endpoints, queue.clone(), |own: &Endpoints| vec![ObjectKey::of(own)], all.clone()),
        feed(
            caches.endpoint_slices,
            queue.clone(),
            |slice: &EndpointSlice| service_of(slice).into_iter().collect(),
            all
        ),
        work("endpoints", queue, context.config.workers, move |key| {
            let (context, slices, mirror) = (reconciler.clone(), slices.clone(), mirror.clone());
            async move { reconcile(&context, &slices, &mirror, &key).await }
        }),
    );
}

/// Where a node's label says that it is.
fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(ZONE).filter(|zone| !zone.is_empty())
}

/// Queues all services when a node is another place: much else of nodes changes often, and concerns none.
async fn feed_moves(nodes: Cache<Node>, queue: WorkQueue<ObjectKey>, all: impl Fn() -> Vec<ObjectKey>) {
    let mut changes = nodes.subscribe();
    loop {
        let moved = match changes.next().await {
            Change::Applied { old, new } => old.as_deref().and_then(zone) != zone(&new),
            Change::Deleted(node) => zone(&node).is_some(),
            Change::Resync => true,
        };
        if moved {
            all().into_iter().for_each(|key| queue.add(key));
        }
    }
}

/// The key of the service that one of our slices is for.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = [plan::MANAGED_BY, mirror::MANAGED_BY].iter().any(|by| is_managed_by(slice, by));
    let name = labels.get(plan::SERVICE_LABEL).filter(|_| ours)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

fn is_managed_by(slice: &EndpointSlice, by: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(plan::MANAGED_BY_LABEL)).is_some_and(|label| label == by)
}

/// Without a selector a service's endpoints are somebody else's to write.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Asked for each service of a namespace, whenever one of its pods changes.
fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(wanted) = selector(service) else { return false };
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

async fn reconcile(
    context: &Context,
    as_slices: &Context,
    as_mirror: &Context,
    key: &ObjectKey,
) -> Result<Requeue, Error> {
    let caches = &context.caches;
    let slices: Vec<Arc<EndpointSlice>> = caches.endpoint_slices.indexed(key);
    let endpoints = caches.endpoints.get(key);
    let Some(service) = caches.services.get(key) else {
        // Slices have an owner reference and are collected; endpoints go by their name.
        if let Some(endpoints) = endpoints.filter(|endpoints| plan::is_generated(endpoints)) {
            delete::<Endpoints>(context, &endpoints.metadata.namespace, &endpoints.metadata.name).await?;
        }
        for slice in slices {
            delete::<EndpointSlice>(as_slices, &slice.metadata.namespace, &slice.metadata.name).await?;
        }
        return Ok(Requeue::Never);
    };
    let spec = service.spec.as_ref();
    let (mirrored, slices): (Vec<_>, Vec<_>) =
        slices.into_iter().partition(|slice| is_managed_by(slice, mirror::MANAGED_BY));
    let external = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    if selector(&service).is_none() || external {
        let endpoints = endpoints.as_deref().filter(|_| !external);
        apply(as_mirror, key, mirror::slices(endpoints, &mirrored)).await?;
        return Ok(Requeue::Never);
    }
    apply(as_mirror, key, mirror::slices(None, &mirrored)).await?;
    let mut selected = caches.pods.list_namespace(&key.namespace);
    selected.retain(|pod| selects(&service, pod));
    let zone_of =
        |node: &str| caches.nodes.get(&ObjectKey::new("", node)).and_then(|node| zone(&node).cloned());
    apply(as_slices, key, plan::slices(&service, &selected, &slices, zone_of)).await?;
    match plan::endpoints(&service, &selected, endpoints.as_deref()) {
        Some(wanted) if endpoints.is_none() => match context.client.create(&wanted).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => return Err(error),
            Err(error) => {
                return crate::service_accounts::unless_there(Err::<(), _>(error)).map(|()| Requeue::Never);
            }
        },
        Some(wanted) => drop(context.client.update(&wanted).await?),
        None => {}
    }
    Ok(Requeue::Never)
}

async fn apply(context: &Context, key: &ObjectKey, changes: Vec<plan::Change>) -> Result<(), Error> {
    for change in changes {
        match change {
            plan::Change::Create(slice) => drop(context.client.create(&*slice).await?),
            plan::Change::Update(slice) => drop(context.client.update(&*slice).await?),
            plan::Change::Delete(name) => {
                delete::<EndpointSlice>(context, &Some(key.namespace.clone()), &Some(name)).await?;
            }
        }
    }
    Ok(())
}

async fn delete<K: skiff_client::Object>(
    context: &Context,
    namespace: &Option<String>,
    name: &Option<String>,
) -> Result<(), Error> {
    let (namespace, name) = (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
    match context.client.delete::<K>(namespace, name, &DeleteOptions::default()).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
