//! The watch cache: all reads are served from here, and a write answers once its revision is here.
//!
//! Per storage, one immutable ordered map (a snapshot costs a clone of its root) and a bounded ring of
//! the last events. Watchers hold no queue, only a position in the ring: one that falls behind the ring
//! gets 410, so a slow reader costs no memory. Events are applied in revision order by one task, which
//! publishes the revision that all caches have reached.

mod all;
mod event;

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rpds::RedBlackTreeMapSync;
use skiff_store::Entry;
use tokio::sync::watch;
use tokio::time::Instant;

pub use all::CacheError;
pub(crate) use all::{Caches, Loaded};
pub(crate) use event::{Change, Event, EventType};

use crate::at_rest::{Chain, Opened};
use crate::object::Object;
use crate::resources::Resource;

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

/// What the keys of one namespace's objects, or of all, begin with.
pub(crate) fn range_of(resource: &Resource, namespace: &str) -> String {
    match namespace {
        "" => format!("/{}/", resource.storage),
        namespace => format!("/{}/{namespace}/", resource.storage),
    }
}

/// The objects of one namespace, or of all; those from a key on that goes on from there.
pub(crate) fn in_namespace<'a>(
    objects: &'a Objects,
    resource: &Resource,
    namespace: &str,
    from: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let prefix = range_of(resource, namespace);
    let start = Bound::Included(Arc::from(format!("{prefix}{}", from.unwrap_or_default())));
    objects
        .range::<Arc<str>, (Bound<Arc<str>>, Bound<Arc<str>>)>((start, Bound::Unbounded))
        .map(|(_, object)| object)
        .take_while(move |object| object.key.starts_with(&prefix))
}

#[cfg(test)]
mod tests;
