//! What a controller gets to work with, and how changes become keys in its queue.

use std::hash::Hash;
use std::sync::Arc;

use skiff_client::{Cache, Change, Client, EventRecorder, Object, ObjectKey, WorkQueue};

use crate::caches::Caches;
use crate::run::Config;

/// Who the controllers are to the API.
#[derive(Clone)]
pub struct Clients {
    /// Follows all kinds, for the copies that all controllers read.
    pub shared: Client,
    /// A client with the identity of an account of `kube-system`: each controller writes under its own.
    pub of_account: Arc<dyn Fn(&str) -> Client + Send + Sync>,
}

#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) clients: Clients,
    /// Of the controller's own account.
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) events: EventRecorder,
    pub(crate) config: Arc<Config>,
}

impl Context {
    /// The same for another account: a module that does the work of two of upstream's controllers has both.
    pub(crate) fn of_account(&self, account: &str) -> Self {
        Self { client: (self.clients.of_account)(account), ..self.clone() }
    }
}

/// Queues the keys that each change concerns, by the object's state before and after. All keys are queued
/// at the start and whenever changes were missed. Never returns.
pub(crate) async fn feed<K: Object, T: Clone + Eq + Hash + Ord>(
    cache: Cache<K>,
    queue: WorkQueue<T>,
    keys: impl Fn(&K) -> Vec<T>,
    all: impl Fn() -> Vec<T>,
) {
    let mut changes = cache.subscribe();
    all().into_iter().for_each(|key| queue.add(key));
    loop {
        match changes.next().await {
            Change::Applied { old, new } => {
                old.iter().chain([&new]).flat_map(|object| keys(object)).for_each(|key| queue.add(key));
            }
            Change::Deleted(object) => keys(&object).into_iter().for_each(|key| queue.add(key)),
            Change::Resync => all().into_iter().for_each(|key| queue.add(key)),
        }
    }
}

/// As [`feed`], for the kind that the keys name.
pub(crate) async fn feed_own<K: Object>(cache: Cache<K>, queue: WorkQueue<ObjectKey>) {
    let listed = cache.clone();
    feed(cache, queue, |object| vec![ObjectKey::of(object)], move || listed.keys()).await;
}
