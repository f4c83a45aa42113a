//! Garbage collection: what is owned goes with its owners.
//!
//! A graph of owners and dependents is kept from the local copies; each object is looked at when it, an
//! owner or a dependent changes. Before an owner counts as absent, the server itself is asked. An owner is
//! who has the reference's UID where the reference says: a new object of the same name is not, nor is one of
//! another name, or in another namespace than its dependent.

mod graph;
pub(crate) mod kinds;
mod plan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Preconditions};
use serde_json::json;
use skiff_client::{DeleteOptions, Error, EventRecorder, EventType, Patch, Requeue, WorkQueue, work};
use tracing::{debug, info};

use crate::context::Context;
use crate::owners::{is_deleting, name, uid};
use graph::{Graph, Place};
use kinds::Kind;
use plan::{Owner, Plan};

const WORKERS: usize = 10;

/// What all kinds' feeds and all workers share.
pub(crate) struct Collector {
    graph: Mutex<Graph>,
    queue: WorkQueue<String>,
    kinds: Vec<Arc<dyn Kind>>,
    events: EventRecorder,
}

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<String>::default();
    let kinds = context.caches.kinds(&context.client);
    let collector = Arc::new(Collector {
        graph: Mutex::default(),
        queue: queue.clone(),
        kinds: kinds.clone(),
        events: context.events.clone(),
    });
    let feeds = kinds.into_iter().enumerate().map(|(index, kind)| kind.feed(index, collector.clone()));
    tokio::join!(
        join_all(feeds),
        work("garbage", queue, WORKERS, move |uid| {
            let collector = collector.clone();
            async move { collector.reconcile(&uid).await }
        }),
    );
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object is new or changed.
    fn applied(&self, kind: usize, metadata: &ObjectMeta) {
        let left = self.graph().apply(kind, metadata);
        // An owner that it had may wait for it no more.
        left.into_iter().for_each(|owner| self.queue.add(owner));
        let owned = metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        if owned || is_deleting(metadata) {
            self.queue.add(uid(metadata).to_owned());
        }
    }

    /// An object is gone: its dependents may have to go, its owners may have waited for it.
    fn gone(&self, metadata: &ObjectMeta) {
        self.forget(uid(metadata));
    }

    fn forget(&self, uid: &str) {
        let (owners, dependents) = {
            let mut graph = self.graph();
            let dependents = graph.dependents(uid);
            (graph.remove(uid), dependents)
        };
        owners.into_iter().chain(dependents).for_each(|uid| self.queue.add(uid));
    }

    /// These are all objects of a kind.
    fn resync(&self, kind: usize, all: &[ObjectMeta]) {
        let known = self.graph().of_kind(kind);
        let present: std::collections::HashSet<&str> = all.iter().map(uid).collect();
        known.iter().filter(|uid| !present.contains(uid.as_str())).for_each(|uid| self.forget(uid));
        all.iter().for_each(|metadata| self.applied(kind, metadata));
    }

    /// The object's metadata, as the local copy has it.
    fn find(&self, uid: &str) -> Option<(Place, ObjectMeta)> {
        let place = self.graph().place(uid)?.clone();
        let metadata = self.kinds[place.kind].get(&place.key)?;
        (metadata.uid.as_deref() == Some(uid)).then_some((place, metadata))
    }

    async fn reconcile(&self, uid: &str) -> Result<Requeue, Error> {
        let Some((place, metadata)) = self.find(uid) else { return Ok(Requeue::Never) };
        let mut owners = Vec::new();
        if !is_deleting(&metadata) {
            for reference in metadata.owner_references.iter().flatten() {
                owners.push(self.owner(reference, &metadata).await?);
            }
        }
        let dependents = self.graph().dependents(uid);
        let dependents: Vec<ObjectMeta> =
            dependents.iter().filter_map(|uid| self.find(uid)).map(|(_, metadata)| metadata).collect();
        let plan = plan::plan(&metadata, &owners, &dependents);
        self.tell_of_foreign_owners(&place, &metadata);
        match self.execute(&place, &metadata, plan).await {
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error),
            Ok(()) => Ok(Requeue::Never),
        }
    }

    async fn owner(&self, reference: &OwnerReference, dependent: &ObjectMeta) -> Result<Owner, Error> {
        let present = |owner: &ObjectMeta| match plan::waits_for_dependents(owner) {
            true => Owner::Waiting,
            false => Owner::Present,
        };
        let Some(kind) = self.kinds.iter().find(|kind| kind.is_named_by(reference)) else {
            return Ok(Owner::Unknown);
        };
        let key = match plan::owner_key(reference, kind.is_namespaced(), dependent) {
            Some(key) => key,
            // Nobody can tell in which namespace it would be.
            None => return Ok(Owner::Unknown),
        };
        let is_meant = |owner: &ObjectMeta| owner.uid.as_deref() == Some(&reference.uid);
        if let Some(known) = kind.get(&key).filter(is_meant) {
            return Ok(present(&known));
        }
        let live = kind.fetch(&key).await?;
        Ok(live.filter(is_meant).map_or(Owner::Absent, |live| present(&live)))
    }

    /// Tells of owners that an object names, and that are in a namespace where it can have none.
    fn tell_of_foreign_owners(&self, place: &Place, metadata: &ObjectMeta) {
        for reference in metadata.owner_references.iter().flatten() {
            let Some((owner, _)) = self.find(&reference.uid) else { continue };
            let Some(message) = plan::foreign(reference, &owner.key, metadata) else { continue };
            let about = self.kinds[place.kind].reference(metadata);
            self.events.record(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
        }
    }

    async fn execute(&self, place: &Place, metadata: &ObjectMeta, plan: Plan) -> Result<(), Error> {
        let kind = &self.kinds[place.kind];
        let own = uid(metadata);
        match plan {
            Plan::Nothing => Ok(()),
            Plan::Delete(policy) => {
                let options = DeleteOptions {
                    propagation_policy: Some(policy.to_owned()),
                    // Should its owners have changed meanwhile, it is looked at anew.
                    preconditions: Some(Preconditions {
                        uid: metadata.uid.clone(),
                        resource_version: metadata.resource_version.clone(),
                    }),
                    ..DeleteOptions::default()
                };
                kind.delete(&place.key, options).await?;
                info!(object = %place.key, uid = own, policy, "collected, its owners are gone");
                Ok(())
            }
            Plan::DropOwners(owners) => self.drop_owners(own, &owners).await,
            Plan::FinishForeground => self.drop_finalizer(place, metadata, plan::FOREGROUND).await,
            Plan::Await(dependents) => {
                // They see that their owner waits, and go. This object is looked at when one is gone.
                dependents.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(())
            }
            Plan::Orphan(dependents) => {
                for dependent in dependents {
                    match self.drop_owners(&dependent, &[own.to_owned()]).await {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => debug!(owner = name(metadata), dependent, "orphaned"),
                    }
                }
                self.drop_finalizer(place, metadata, plan::ORPHAN).await
            }
        }
    }

    async fn drop_owners(&self, of: &str, owners: &[String]) -> Result<(), Error> {
        let Some((place, metadata)) = self.find(of) else { return Ok(()) };
        let references: Vec<_> = owners.iter().map(|uid| json!({"$patch": "delete", "uid": uid})).collect();
        let patch = json!({"metadata": {"uid": metadata.uid, "ownerReferences": references}});
        self.kinds[place.kind].patch(&place.key, Patch::Strategic(patch)).await
    }

    async fn drop_finalizer(&self, place: &Place, metadata: &ObjectMeta, which: &str) -> Result<(), Error> {
        if !plan::has_finalizer(metadata, which) {
            return Ok(());
        }
        let rest: Vec<_> = metadata.finalizers.iter().flatten().filter(|own| *own != which).collect();
        let patch = json!({"metadata": {
            "uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": rest}});
        self.kinds[place.kind].patch(&place.key, Patch::Merge(patch)).await
    }
}
