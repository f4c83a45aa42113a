//! Objects of any kind, by what all of them have: metadata.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_client::{Cache, Change, Client, DeleteOptions, Error, Object, ObjectKey, Patch};

use super::Collector;

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A kind's local copy and its API, whatever the kind.
pub(crate) trait Kind: Send + Sync {
    /// Whether an owner reference means this kind, in any of its versions.
    fn is_named_by(&self, owner: &OwnerReference) -> bool;
    fn is_namespaced(&self) -> bool;
    /// What events about an object of this kind name it by.
    fn reference(&self, metadata: &ObjectMeta) -> ObjectReference;
    fn get(&self, key: &ObjectKey) -> Option<ObjectMeta>;
    /// The object as the server has it now.
    fn fetch<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Option<ObjectMeta>, Error>>;
    fn delete<'a>(&'a self, key: &'a ObjectKey, options: DeleteOptions) -> Pending<'a, Result<(), Error>>;
    fn patch<'a>(&'a self, key: &'a ObjectKey, patch: Patch) -> Pending<'a, Result<(), Error>>;
    /// Tells the collector of every object and change. Never returns.
    fn feed(self: Arc<Self>, index: usize, collector: Arc<Collector>) -> Pending<'static, ()>;
}

/// The one implementation.
pub(crate) struct Kept<K> {
    pub(crate) cache: Cache<K>,
    pub(crate) client: Client,
}

impl<K: Object> Kind for Kept<K> {
    fn is_named_by(&self, owner: &OwnerReference) -> bool {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        owner.kind == K::KIND && group == K::GROUP
    }

    fn is_namespaced(&self) -> bool {
        std::any::TypeId::of::<K::Scope>() != std::any::TypeId::of::<ClusterResourceScope>()
    }

    fn reference(&self, metadata: &ObjectMeta) -> ObjectReference {
        ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        }
    }

    fn get(&self, key: &ObjectKey) -> Option<ObjectMeta> {
        self.cache.get(key).map(|object| object.metadata().clone())
    }

    fn fetch<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Option<ObjectMeta>, Error>> {
        Box::pin(async move {
            let object = self.client.find::<K>(&key.namespace, &key.name).await?;
            Ok(object.map(|object| object.metadata().clone()))
        })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey, options: DeleteOptions) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move { self.client.delete::<K>(&key.namespace, &key.name, &options).await })
    }

    fn patch<'a>(&'a self, key: &'a ObjectKey, patch: Patch) -> Pending<'a, Result<(), Error>> {
        Box::pin(
            async move { self.client.patch::<K>(&key.namespace, &key.name, None, &patch).await.map(drop) },
        )
    }

    fn feed(self: Arc<Self>, index: usize, collector: Arc<Collector>) -> Pending<'static, ()> {
        Box::pin(async move {
            let mut changes = self.cache.subscribe();
            let all = |kept: &Self| -> Vec<ObjectMeta> {
                kept.cache.list().iter().map(|object| object.metadata().clone()).collect()
            };
            collector.resync(index, &all(&self));
            loop {
                match changes.next().await {
                    Change::Applied { new, .. } => collector.applied(index, new.metadata()),
                    Change::Deleted(object) => collector.gone(object.metadata()),
                    Change::Resync => collector.resync(index, &all(&self)),
                }
            }
        })
    }
}
