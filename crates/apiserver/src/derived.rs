//! What is computed from cached objects and must be as new as they are: brought up to date by the
//! changes since it was last looked at, when it is looked at.
//!
//! So it costs nothing while nobody asks, needs no task of its own, and whoever asks after a write was
//! answered sees that write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::cache::{Caches, Change, StorageCache};
use crate::object::Object;
use crate::resources::{Resource, of_storage};

/// Something made of the objects of some storages, object by object.
pub(crate) trait Derive: Default + Send + Sync {
    const STORAGES: &'static [&'static str];

    /// An object was made (no `old`), changed, or went (no `new`).
    fn change(&mut self, kind: &'static Resource, old: Option<&Object>, new: Option<&Object>);
}

pub(crate) struct Derived<T> {
    caches: Arc<Caches>,
    /// The revision up to which all changes are in.
    seen: AtomicU64,
    state: RwLock<State<T>>,
}

struct State<T> {
    value: T,
    /// Per storage, the position after the last change that is in.
    positions: Vec<u64>,
    made: bool,
}

/// Changes taken at a time, which bounds how many are held at once.
const STEP: usize = 1024;

impl<T: Derive> Derived<T> {
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        let state = State { value: T::default(), positions: vec![0; T::STORAGES.len()], made: false };
        Self { caches, seen: AtomicU64::new(0), state: RwLock::new(state) }
    }

    /// Looks at the present value.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        // Read first: all changes up to it are in the caches, so they are among those taken below.
        let applied = self.caches.applied();
        let state = self.state.read();
        if state.made && self.seen.load(Ordering::Acquire) >= applied {
            return look(&state.value);
        }
        drop(state);
        let mut state = self.state.write();
        if !state.made || self.seen.load(Ordering::Acquire) < applied {
            self.catch_up(&mut state);
            self.seen.store(applied, Ordering::Release);
        }
        look(&parking_lot::RwLockWriteGuard::downgrade(state).value)
    }

    fn catch_up(&self, state: &mut State<T>) {
        for (index, storage) in T::STORAGES.iter().enumerate() {
            let kind = of_storage(storage).expect("what is derived from is in the table");
            let cache = self.caches.of(kind);
            if !state.made || take(cache, kind, &mut state.positions[index], &mut state.value).is_err() {
                return self.make(state);
            }
        }
    }

    /// Anew from all objects: at first, and where changes were missed.
    fn make(&self, state: &mut State<T>) {
        state.value = T::default();
        for (index, storage) in T::STORAGES.iter().enumerate() {
            let kind = of_storage(storage).expect("what is derived from is in the table");
            let (view, position) = self.caches.of(kind).view_with_position(0);
            for object in view.objects.values() {
                state.value.change(kind, None, Some(object));
            }
            state.positions[index] = position;
        }
        state.made = true;
    }
}

/// The ring no longer has the changes that are missing.
struct Missed;

fn take<T: Derive>(
    cache: &StorageCache,
    kind: &'static Resource,
    position: &mut u64,
    value: &mut T,
) -> Result<(), Missed> {
    loop {
        let events = cache.events_from(*position, STEP).map_err(|_| Missed)?;
        for event in &events {
            match &event.change {
                Change::Put { object, previous } => value.change(kind, previous.as_deref(), Some(object)),
                Change::Delete { previous, .. } => value.change(kind, Some(previous), None),
            }
        }
        *position += events.len() as u64;
        if events.len() < STEP {
            return Ok(());
        }
    }
}
