//! The watch cache: all reads are served from here, and a write answers once its revision is here.
//!
//! Per storage, one immutable ordered map (a snapshot costs a clone of its root) and a bounded ring of
//! the last events. Watchers hold no queue, only a position in the ring: one that falls behind the ring
//! gets 410, so a slow reader costs no memory. Events are applied in revision order by one task, which
//! publishes the revision that all caches have reached.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::{Mutex, RwLock};
use rpds::RedBlackTreeMapSync;
use skiff_store::{Entry, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::at_rest::{AtRest, Chain, Opened, Unreadable};
use crate::object::{Object, StoredObjectError};
use crate::resources::{self, RESOURCES, Resource};

pub(crate) type Objects = RedBlackTreeMapSync<Arc<str>, Arc<Object>>;

/// Events kept per storage: so many, of so many bytes of objects, and for so long.
const RING_MAX: usize = 8192;
const RING_BYTES_MAX: usize = 64 << 20;
/// As many stay for longer, if they are small.
const RING_MIN: usize = 256;
const RING_BYTES_MIN: usize = 1 << 20;
const RING_AGE: Duration = Duration::from_secs(90);
/// How often it is looked for events that are too old, while nothing is written.
const TRIM_EVERY: Duration = Duration::from_secs(30);
/// Snapshots kept for continue tokens, per storage, and for how long.
const PAGES_MAX: usize = 64;
const PAGES_AGE: Duration = Duration::from_secs(300);

/// One change of one object.
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) change: Change,
    /// Rendered watch frames by type, for the JSON of the stored version.
    frames: [OnceLock<Bytes>; 3],
    /// The previous state named by this event's revision, for who sees it leave its selector.
    departed: OnceLock<Arc<Object>>,
}

pub(crate) enum Change {
    Put {
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    },
    Delete {
        /// The last state, with the deletion's revision.
        last: Arc<Object>,
        previous: Arc<Object>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Added = 0,
    Modified = 1,
    Deleted = 2,
}

impl EventType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Event {
    fn new(revision: u64, change: Change) -> Self {
        Self { revision, change, frames: Default::default(), departed: OnceLock::new() }
    }

    /// What a watcher whose selector is `matches` sees of this event.
    pub(crate) fn seen_by(&self, matches: impl Fn(&Object) -> bool) -> Option<(EventType, &Arc<Object>)> {
        match &self.change {
            Change::Delete { last, .. } => matches(last).then_some((EventType::Deleted, last)),
            Change::Put { object, previous: None } => matches(object).then_some((EventType::Added, object)),
            Change::Put { object, previous: Some(previous) } => match (matches(previous), matches(object)) {
                (true, true) => Some((EventType::Modified, object)),
                (false, true) => Some((EventType::Added, object)),
                (true, false) => {
                    let departed = self.departed.get_or_init(|| Arc::new(previous.at(self.revision)));
                    Some((EventType::Deleted, departed))
                }
                (false, false) => None,
            },
        }
    }

    /// What it keeps in memory, about: the state that it replaced, and as much again for frames of its own.
    fn bytes(&self) -> usize {
        const OVERHEAD: usize = 512;
        let (now, before) = match &self.change {
            Change::Put { object, previous } => (object, previous.as_ref()),
            Change::Delete { last, previous } => (last, Some(previous)),
        };
        OVERHEAD + now.body.len() + before.map_or(0, |before| before.body.len())
    }

    /// The frame of this type, rendered once for all watchers.
    pub(crate) fn frame(&self, kind: EventType, render: impl FnOnce() -> Bytes) -> Bytes {
        self.frames[kind as usize].get_or_init(render).clone()
    }
}

/// One storage's objects and recent events.
pub(crate) struct StorageCache {
    pub(crate) resource: &'static Resource,
    /// How its objects are encrypted in the store, if they are.
    chain: RwLock<Option<Arc<Chain>>>,
    state: RwLock<State>,
    pages: Mutex<VecDeque<(u64, Instant, Objects)>>,
    /// The sequence number after the last event, for watchers to wait on.
    end: watch::Sender<u64>,
}

struct State {
    objects: Objects,
    /// The revision of the last event here.
    revision: u64,
    ring: VecDeque<(Instant, Arc<Event>)>,
    /// What the states in the ring come to.
    ring_bytes: usize,
    /// The sequence number of the ring's first event.
    first: u64,
    /// All events after this revision are in the ring.
    floor: u64,
}

impl State {
    fn has_too_much(&self, now: Instant) -> bool {
        let is_old = || self.ring.front().is_some_and(|(at, _)| now - *at > RING_AGE);
        self.ring.len() > RING_MAX
            // The last one stays, whatever its size: it is what watchers wait for.
            || (self.ring_bytes > RING_BYTES_MAX && self.ring.len() > 1)
            || ((self.ring.len() > RING_MIN || self.ring_bytes > RING_BYTES_MIN) && is_old())
    }

    fn trim(&mut self, now: Instant) {
        while self.has_too_much(now) {
            let Some((_, gone)) = self.ring.pop_front() else { return };
            self.ring_bytes -= gone.bytes();
            self.first += 1;
            self.floor = gone.revision;
        }
        // A burst's memory is not kept for the next one.
        if self.ring.capacity() > 4 * self.ring.len().max(RING_MIN) {
            self.ring.shrink_to(2 * self.ring.len().max(RING_MIN));
        }
    }
}

/// A consistent state with the revision that names it.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) objects: Objects,
    pub(crate) revision: u64,
}

/// A watcher fell out of the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) oldest: u64,
}

impl StorageCache {
    fn new(resource: &'static Resource, revision: u64, chain: Option<Chain>) -> Self {
        Self {
            resource,
            chain: RwLock::new(chain.map(Arc::new)),
            state: RwLock::new(State {
                objects: Objects::new_sync(),
                revision: 0,
                ring: VecDeque::new(),
                ring_bytes: 0,
                first: 0,
                floor: revision,
            }),
            pages: Mutex::default(),
            end: watch::Sender::new(0),
        }
    }

    /// The bytes to store for an object of this storage.
    pub(crate) fn seal(&self, key: &str, body: &Bytes) -> Bytes {
        let chain = self.chain.read().clone();
        chain.map_or_else(|| body.clone(), |chain| chain.seal(key, body))
    }

    /// Stores by this from now on, and still reads what is stored. The keys that are to be written anew.
    fn store_by(&self, chain: Option<Chain>) -> Vec<Arc<str>> {
        let mut present = self.chain.write();
        if present.is_none() && chain.is_none() {
            return Vec::new();
        }
        *present = Some(Arc::new(chain.unwrap_or_default().reading_also(present.as_deref())));
        drop(present);
        self.state.read().objects.keys().cloned().collect()
    }

    /// What the store holds of an object, and whether it should be written anew.
    fn read(&self, key: &Arc<str>, revision: u64, stored: Bytes) -> Result<(Object, bool), CacheError> {
        let chain = self.chain.read().clone();
        let Opened { plain, stale } = match chain {
            None => Opened { plain: stored, stale: false },
            Some(chain) => chain
                .open(key, stored)
                .map_err(|source| CacheError::Encrypted { key: Arc::clone(key), source })?,
        };
        let object = Object::from_stored(self.resource, Arc::clone(key), revision, plain)?;
        Ok((object, stale))
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    /// The present state; `applied` must have been read from [`Caches::applied`] before.
    pub(crate) fn view(&self, applied: u64) -> View {
        let state = self.state.read();
        View { objects: state.objects.clone(), revision: state.revision.max(applied) }
    }

    /// Keeps a view for the continue tokens that name its revision.
    pub(crate) fn keep_for_pages(&self, view: &View) {
        let mut pages = self.pages.lock();
        let now = Instant::now();
        while pages.front().is_some_and(|(_, at, _)| now - *at > PAGES_AGE) || pages.len() >= PAGES_MAX {
            pages.pop_front();
        }
        if !pages.iter().any(|(revision, ..)| *revision == view.revision) {
            pages.push_back((view.revision, now, view.objects.clone()));
        }
    }

    /// The state at exactly this revision, if it was kept or can be had by undoing recent events.
    pub(crate) fn at(&self, revision: u64) -> Option<View> {
        let now = Instant::now();
        let pages = self.pages.lock();
        if let Some((_, _, objects)) =
            pages.iter().find(|(r, at, _)| *r == revision && now - *at <= PAGES_AGE)
        {
            return Some(View { objects: objects.clone(), revision });
        }
        drop(pages);
        let state = self.state.read();
        if revision < state.floor {
            return None;
        }
        let mut objects = state.objects.clone();
        for (_, event) in state.ring.iter().rev().take_while(|(_, event)| event.revision > revision) {
            match &event.change {
                Change::Put { object, previous: None } => {
                    objects.remove_mut(&object.key);
                }
                Change::Put { previous: Some(previous), .. } | Change::Delete { previous, .. } => {
                    objects.insert_mut(Arc::clone(&previous.key), Arc::clone(previous));
                }
            }
        }
        Some(View { objects, revision })
    }

    /// The position after all events up to `revision`.
    pub(crate) fn position_after(&self, revision: u64) -> Result<u64, Behind> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(Behind { oldest: state.floor });
        }
        let before = state.ring.partition_point(|(_, event)| event.revision <= revision);
        Ok(state.first + before as u64)
    }

    /// A state together with the position after it.
    pub(crate) fn view_with_position(&self, applied: u64) -> (View, u64) {
        let state = self.state.read();
        let view = View { objects: state.objects.clone(), revision: state.revision.max(applied) };
        (view, state.first + state.ring.len() as u64)
    }

    /// At most `max` events from `position` on.
    pub(crate) fn events_from(&self, position: u64, max: usize) -> Result<Vec<Arc<Event>>, Behind> {
        let state = self.state.read();
        if position < state.first {
            return Err(Behind { oldest: state.floor });
        }
        let skip = usize::try_from(position - state.first).unwrap_or(usize::MAX).min(state.ring.len());
        Ok(state.ring.range(skip..).take(max).map(|(_, event)| Arc::clone(event)).collect())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    fn insert_loaded(&self, object: Object) {
        let mut state = self.state.write();
        state.objects.insert_mut(Arc::clone(&object.key), Arc::new(object));
    }

    fn apply(&self, revision: u64, key: &Arc<str>, entry: Option<Entry>) -> Result<(), CacheError> {
        let object = match entry {
            Some(entry) => Some(Arc::new(self.read(key, revision, entry.value)?.0)),
            None => None,
        };
        let mut state = self.state.write();
        let previous = state.objects.get(key).cloned();
        let change = match (object, previous) {
            (Some(object), previous) => {
                state.objects.insert_mut(Arc::clone(key), Arc::clone(&object));
                Change::Put { object, previous }
            }
            (None, Some(previous)) => {
                state.objects.remove_mut(key);
                Change::Delete { last: Arc::new(previous.at(revision)), previous }
            }
            (None, None) => return Ok(()),
        };
        let now = Instant::now();
        state.revision = revision;
        let event = Event::new(revision, change);
        state.ring_bytes += event.bytes();
        state.ring.push_back((now, Arc::new(event)));
        state.trim(now);
        Ok(())
    }

    /// Drops what is too old to be asked for, also where nothing is written any more.
    fn trim(&self) {
        let now = Instant::now();
        // Most have nothing old, and a look disturbs nobody.
        if self.state.read().has_too_much(now) {
            self.state.write().trim(now);
        }
        self.pages.lock().retain(|(_, at, _)| now - *at <= PAGES_AGE);
    }

    fn announce(&self) {
        let state = self.state.read();
        let end = state.first + state.ring.len() as u64;
        drop(state);
        self.end.send_if_modified(|e| std::mem::replace(e, end) != end);
    }
}

/// The objects of one namespace, or of all.
pub(crate) fn in_namespace<'a>(
    objects: &'a Objects,
    resource: &Resource,
    namespace: &str,
    after: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let prefix = match namespace {
        "" => format!("/{}/", resource.storage),
        namespace => format!("/{}/{namespace}/", resource.storage),
    };
    let start: Bound<Arc<str>> = match after {
        Some(key) => Bound::Excluded(key.into()),
        None => Bound::Included(prefix.as_str().into()),
    };
    objects
        .range::<Arc<str>, (Bound<Arc<str>>, Bound<Arc<str>>)>((start, Bound::Unbounded))
        .map(|(_, object)| object)
        .take_while(move |object| object.key.starts_with(&prefix))
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::to_stored;

    fn entry(key: &Arc<str>, revision: u64, label: &str) -> Entry {
        let value = to_stored(&json!({"metadata": {"name": "x", "labels": {"l": label}}}));
        Entry { key: Arc::clone(key), value, create_revision: 1, mod_revision: revision }
    }

    /// `a` made at 11, changed at 12, deleted at 14; `b` made at 13.
    fn cache() -> StorageCache {
        let maps = resources::find("", "configmaps").expect("in the table");
        let cache = StorageCache::new(maps, 10, None);
        let (a, b): (Arc<str>, Arc<str>) = ("/configmaps/n/a".into(), "/configmaps/n/b".into());
        cache.apply(11, &a, Some(entry(&a, 11, "1"))).expect("readable");
        cache.apply(12, &a, Some(entry(&a, 12, "2"))).expect("readable");
        cache.apply(13, &b, Some(entry(&b, 13, "1"))).expect("readable");
        cache.apply(14, &a, None).expect("readable");
        cache
    }

    fn state(cache: &StorageCache, revision: u64) -> Option<Vec<(String, u64)>> {
        let view = cache.at(revision)?;
        Some(view.objects.values().map(|o| (o.name().to_owned(), o.revision)).collect())
    }

    #[test]
    fn past_states_are_had_by_undoing_events() {
        let cache = cache();
        let own =
            |list: &[(&str, u64)]| Some(list.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect::<Vec<_>>());
        assert_eq!(state(&cache, 14), own(&[("b", 13)]));
        assert_eq!(state(&cache, 13), own(&[("a", 12), ("b", 13)]));
        assert_eq!(state(&cache, 11), own(&[("a", 11)]));
        assert_eq!(state(&cache, 10), own(&[]));
        assert_eq!(state(&cache, 9), None);
    }

    fn put(cache: &StorageCache, revision: u64, bytes: usize) {
        let key: Arc<str> = "/configmaps/n/a".into();
        cache.apply(revision, &key, Some(entry(&key, revision, &"x".repeat(bytes)))).expect("readable");
    }

    #[tokio::test(start_paused = true)]
    async fn the_ring_is_bounded_by_bytes_and_who_is_behind_is_told_so() {
        let cache = cache();
        let position = cache.position_after(14).expect("in the ring");
        let bytes = 1 << 20;
        for revision in 15..115 {
            put(&cache, revision, bytes);
        }
        let held = cache.state.read().ring_bytes;
        assert!((RING_BYTES_MAX / 2..=RING_BYTES_MAX).contains(&held), "{held}");
        assert!(matches!(cache.events_from(position, 10), Err(Behind { oldest }) if oldest > 80));
        // The last event is there, however large it is.
        put(&cache, 115, RING_BYTES_MAX);
        let position = cache.position_after(114).expect("in the ring");
        assert_eq!(cache.events_from(position, 10).expect("in the ring").len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_burst_took_is_given_back_while_nothing_is_written() {
        let cache = cache();
        for revision in 15..65 {
            put(&cache, revision, 900_000);
        }
        for revision in 65..8000 {
            put(&cache, revision, 1);
        }
        cache.trim();
        assert!(cache.state.read().ring.len() > 7000, "they may be asked for yet");
        tokio::time::advance(RING_AGE + Duration::from_secs(1)).await;
        cache.trim();
        let state = cache.state.read();
        assert!(state.ring.len() <= RING_MIN && state.ring_bytes <= RING_BYTES_MIN, "{}", state.ring_bytes);
        assert!(state.ring.capacity() <= 4 * RING_MIN);
        drop(state);
        assert_eq!(cache.position_after(15), Err(Behind { oldest: 7999 - RING_MIN as u64 }));
    }

    #[test]
    fn a_watcher_goes_on_where_it_says_or_is_told_that_it_is_late() {
        let cache = cache();
        assert_eq!(cache.position_after(9), Err(Behind { oldest: 10 }));
        let position = cache.position_after(12).expect("in the ring");
        let events = cache.events_from(position, 10).expect("in the ring");
        assert_eq!(events.iter().map(|e| e.revision).collect::<Vec<_>>(), [13, 14]);
    }

    #[test]
    fn a_selector_sees_entering_changing_and_leaving() {
        let cache = cache();
        let events = cache.events_from(0, 10).expect("in the ring");
        let seen = |label: &str| {
            events
                .iter()
                .map(|e| e.seen_by(|o| o.labels["l"] == label).map(|(kind, o)| (kind, o.revision)))
                .collect::<Vec<_>>()
        };
        use EventType::{Added, Deleted};
        assert_eq!(seen("1"), [Some((Added, 11)), Some((Deleted, 12)), Some((Added, 13)), None]);
        assert_eq!(seen("2"), [None, Some((Added, 12)), None, Some((Deleted, 14))]);
    }
}
