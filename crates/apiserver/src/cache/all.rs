//! All storages' caches, and the task that follows the store.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use skiff_store::Store;
use tokio::sync::watch;

use super::{StorageCache, TRIM_EVERY};
use crate::at_rest::{AtRest, Unreadable};
use crate::object::StoredObjectError;
use crate::resources::{self, RESOURCES, Resource};

/// All storages' caches.
pub(crate) struct Caches {
    by_storage: HashMap<&'static str, Arc<StorageCache>>,
    applied: watch::Sender<u64>,
}

/// What a store held.
pub(crate) struct Loaded {
    pub(crate) caches: Arc<Caches>,
    /// Must be given to [`Caches::follow`].
    pub(crate) events: skiff_store::EventStream,
    /// What is encrypted otherwise than it would be now.
    pub(crate) stale: Vec<(&'static Resource, Arc<str>)>,
}

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("cannot load the store")]
    Load(#[from] skiff_store::ReadError),
    #[error("cannot follow the store")]
    Watch(#[from] skiff_store::WatchError),
    #[error(transparent)]
    Object(#[from] StoredObjectError),
    #[error("cannot decrypt {}", .key.trim_start_matches('/'))]
    Encrypted {
        key: Arc<str>,
        #[source]
        source: Unreadable,
    },
    #[error("the store ended its stream of changes")]
    Ended,
}

impl Caches {
    /// Loads everything. Nothing is cached, and nothing written, if there is an object that can't be read.
    pub(crate) async fn load(store: &dyn Store, at_rest: &AtRest) -> Result<Loaded, CacheError> {
        let snapshot = store.load().await?;
        let by_storage: HashMap<_, _> = RESOURCES
            .iter()
            .filter_map(|r| resources::of_storage(r.storage))
            .map(|r| (r.storage, Arc::new(StorageCache::new(r, snapshot.revision, at_rest.chain(r)))))
            .collect();
        let mut stale = Vec::new();
        for entry in snapshot.entries {
            let Some(cache) = by_storage.get(storage_of(&entry.key)) else { continue };
            let (object, is_stale) = cache.read(&entry.key, entry.mod_revision, entry.value)?;
            if is_stale {
                stale.push((cache.resource, entry.key));
            }
            cache.insert_loaded(object);
        }
        let events = store.watch(snapshot.revision)?;
        let caches = Self { by_storage, applied: watch::Sender::new(snapshot.revision) };
        Ok(Loaded { caches: Arc::new(caches), events, stale })
    }

    /// Stores by this from now on; answers with what was stored by another configuration, or may have been.
    pub(crate) fn store_by(&self, at_rest: &AtRest) -> Vec<(&'static Resource, Arc<str>)> {
        let stale = |cache: &Arc<StorageCache>| {
            let (resource, keys) = (cache.resource, cache.store_by(at_rest.chain(cache.resource)));
            keys.into_iter().map(move |key| (resource, key))
        };
        self.by_storage.values().flat_map(stale).collect()
    }

    pub(crate) fn of(&self, resource: &Resource) -> &Arc<StorageCache> {
        &self.by_storage[resource.storage]
    }

    /// Each storage's name, with how many objects it has.
    pub(crate) fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<_> =
            self.by_storage.iter().map(|(name, cache)| (*name, cache.state.read().objects.size())).collect();
        counts.sort_unstable();
        counts
    }

    /// The revision that every cache has reached.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until every cache has reached `revision`.
    pub(crate) async fn reached(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        // Ends early only when the server itself is gone.
        let _ = applied.wait_for(|at| *at >= revision).await;
    }

    /// Applies changes in order until the store ends. Returns why it can't go on.
    pub(crate) async fn follow(&self, events: skiff_store::EventStream) -> CacheError {
        let mut batches = events.ready_chunks(512);
        let mut trim = tokio::time::interval(TRIM_EVERY);
        trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Both are cancel-safe: a batch that has not come is asked for again.
            let batch = tokio::select! {
                batch = batches.next() => batch,
                _ = trim.tick() => {
                    self.by_storage.values().for_each(|cache| cache.trim());
                    continue;
                }
            };
            let Some(batch) = batch else { return CacheError::Ended };
            let mut touched: Vec<&Arc<StorageCache>> = Vec::new();
            let mut last = 0;
            for event in batch {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => return error.into(),
                };
                last = event.revision;
                let Some(cache) = self.by_storage.get(storage_of(&event.key)) else { continue };
                if let Err(error) = cache.apply(event.revision, &event.key, event.entry) {
                    return error;
                }
                if !touched.iter().any(|c| Arc::ptr_eq(c, cache)) {
                    touched.push(cache);
                }
            }
            self.applied.send_replace(last);
            for cache in touched {
                cache.announce();
            }
        }
    }
}

fn storage_of(key: &str) -> &str {
    key.split('/').nth(1).unwrap_or_default()
}
