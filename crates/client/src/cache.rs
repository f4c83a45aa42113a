//! A shared local copy of a collection.
//!
//! [`Cache::run`] lists, then watches, and lists again where the watch can't go on. Readers see each
//! change in the copy before they are told of it. Of an object that can't be read the copy keeps the last state
//! that could, for as long as the object is there: one bad object stops nothing that is about others.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::RwLock;
use tokio::sync::{broadcast, watch};
use tracing::{debug, warn};

use crate::Error;
use crate::WatchEvent;
use crate::client::{Client, ListParams, Object};
use crate::objects::{IndexBy, Objects};

/// How many changes a subscriber may be behind before it is told to look at everything anew.
const CHANGES_BEHIND_MAX: usize = 1024;

/// Namespace and name of an object; the namespace is empty for kinds without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    /// A key of its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Object>(object: &K) -> Self {
        let metadata = object.metadata();
        Self::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => formatter.write_str(&self.name),
            namespace => write!(formatter, "{namespace}/{}", self.name),
        }
    }
}

/// What happened to the copy.
#[derive(Debug)]
pub enum Change<K> {
    /// Created (`old` is `None`) or updated.
    Applied {
        old: Option<Arc<K>>,
        new: Arc<K>,
    },
    Deleted(Arc<K>),
    /// Changes were missed, since the subscriber was too slow: look at the whole copy.
    Resync,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied { old, new } => Self::Applied { old: old.clone(), new: new.clone() },
            Self::Deleted(old) => Self::Deleted(old.clone()),
            Self::Resync => Self::Resync,
        }
    }
}

/// The changes since its creation, in order.
pub struct Changes<K>(broadcast::Receiver<Change<K>>);

impl<K> Changes<K> {
    /// The next change; never returns when the cache is gone. Cancel-safe.
    pub async fn next(&mut self) -> Change<K> {
        match self.0.recv().await {
            Ok(change) => change,
            Err(broadcast::error::RecvError::Lagged(_)) => Change::Resync,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

struct Shared<K> {
    objects: RwLock<Objects<K>>,
    changes: broadcast::Sender<Change<K>>,
    synced: watch::Sender<bool>,
    client: Client,
    params: ListParams,
}

/// A local copy that [`Cache::run`] keeps true. Cheap to clone; clones share the copy.
pub struct Cache<K>(Arc<Shared<K>>);

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Object> Cache<K> {
    /// An empty copy of the objects that `params` selects (its resource version is ignored).
    pub fn new(client: Client, params: ListParams) -> Self {
        let (changes, _) = broadcast::channel(CHANGES_BEHIND_MAX);
        let (synced, _) = watch::channel(false);
        Self(Arc::new(Shared { objects: RwLock::default(), changes, synced, client, params }))
    }

    /// A copy that nothing feeds but [`Cache::apply`] and [`Cache::remove`]: for tests of what reads it.
    pub fn detached(client: Client, objects: impl IntoIterator<Item = K>) -> Self {
        let cache = Self::new(client, ListParams::default());
        objects.into_iter().for_each(|object| cache.apply(Arc::new(object)));
        cache.0.synced.send_replace(true);
        cache
    }

    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.objects.read().by_key.get(key).cloned()
    }

    /// All objects, by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.objects.read().by_key.values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.0.objects.read();
        objects
            .by_key
            .range(ObjectKey::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// From now on objects are also found by another key than their own, with [`Cache::indexed`]. A cache
    /// has one index.
    pub fn index(&self, by: IndexBy<K>) {
        self.0.objects.write().index(by);
    }

    /// The objects whose other key this is, by their own.
    pub fn indexed(&self, other: &ObjectKey) -> Vec<Arc<K>> {
        self.0.objects.read().indexed(other)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.0.objects.read().by_key.keys().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.objects.read().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes from now on. To miss nothing: subscribe first, list after.
    pub fn subscribe(&self) -> Changes<K> {
        Changes(self.0.changes.subscribe())
    }

    /// Returns when the copy has been true once.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the copy has been true once.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Keeps the copy true until it is dropped. Never returns.
    pub async fn run(self) {
        let mut version: Option<String> = None;
        let mut failures = 0u32;
        loop {
            match self.follow(&mut version).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    if error.is_expired() {
                        version = None;
                    }
                    failures = failures.saturating_add(1);
                    if failures > 3 {
                        warn!(
                            kind = K::KIND,
                            error = &error as &dyn std::error::Error,
                            "cannot follow the API server, retrying"
                        );
                    } else {
                        debug!(kind = K::KIND, error = &error as &dyn std::error::Error, "watch ended");
                    }
                    tokio::time::sleep(pause(failures)).await;
                }
            }
        }
    }

    /// Lists if need be, then follows one watch to its end.
    async fn follow(&self, version: &mut Option<String>) -> Result<(), Error> {
        let mut params = self.0.params.clone();
        let from = match version.clone() {
            Some(from) => from,
            None => {
                params.resource_version = None;
                let list = self.0.client.list::<K>(&params).await?;
                self.replace(list.items, &list.unreadable);
                self.0.synced.send_replace(true);
                version.insert(list.resource_version).clone()
            }
        };
        params.resource_version = Some(from);
        let mut events = self.0.client.watch::<K>(&params).await?;
        while let Some(event) = events.next().await {
            let seen = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let seen = object.metadata().resource_version.clone();
                    self.apply(object);
                    seen
                }
                WatchEvent::Deleted(object) => {
                    let seen = object.metadata().resource_version.clone();
                    self.remove(&ObjectKey::of(&*object), Some(object));
                    seen
                }
                WatchEvent::Bookmark { resource_version, .. } => Some(resource_version),
                WatchEvent::Unreadable(object) => {
                    if object.gone {
                        self.remove(&object.key, None);
                    }
                    Some(object.resource_version)
                }
            };
            if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
                *version = Some(seen);
            }
        }
        Ok(())
    }

    fn replace(&self, items: Vec<Arc<K>>, unreadable: &[ObjectKey]) {
        let mut fresh: HashMap<ObjectKey, Arc<K>> =
            items.into_iter().map(|object| (ObjectKey::of(&*object), object)).collect();
        for key in self.keys() {
            match fresh.remove(&key) {
                Some(object) => self.apply(object),
                None if unreadable.contains(&key) => {}
                None => self.remove(&key, None),
            }
        }
        fresh.into_values().for_each(|object| self.apply(object));
    }

    /// Puts an object into the copy and tells subscribers. Its own write may be shown early this way.
    pub fn apply(&self, object: Arc<K>) {
        let old = self.0.objects.write().insert(ObjectKey::of(&*object), object.clone());
        let same = old.as_ref().is_some_and(|old| {
            old.metadata().resource_version.is_some()
                && old.metadata().resource_version == object.metadata().resource_version
                && old.metadata().uid == object.metadata().uid
        });
        if !same {
            // Nobody listening is fine.
            let _ = self.0.changes.send(Change::Applied { old, new: object });
        }
    }

    /// Takes an object out of the copy and tells subscribers, with its last state where that is known.
    pub fn remove(&self, key: &ObjectKey, last: Option<Arc<K>>) {
        let old = self.0.objects.write().remove(key);
        if let Some(old) = old {
            let _ = self.0.changes.send(Change::Deleted(last.unwrap_or(old)));
        }
    }
}

/// 50 ms doubling to 5 s, with jitter, so that a thousand watchers don't come back at once.
fn pause(failures: u32) -> Duration {
    let millis = (50u64 << failures.min(7)).min(5_000);
    Duration::from_millis(millis / 2 + rand::random_range(0..=millis / 2))
}
