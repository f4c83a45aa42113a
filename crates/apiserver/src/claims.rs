//! Values that at most one object may hold (cluster IPs, node ports), and who holds them.
//!
//! A claim is taken before the write that needs it and given back when the write fails or its object
//! goes; the caches decide what is claimed at start.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

pub(crate) struct Claims<V>(Mutex<HashMap<V, Arc<str>>>);

impl<V: Eq + Hash + Copy> Claims<V> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Takes a value for `holder`; `false` when another holds it.
    pub(crate) fn take(&self, value: V, holder: &str) -> bool {
        let mut held = self.0.lock();
        match held.get(&value) {
            Some(by) => **by == *holder,
            None => {
                held.insert(value, holder.into());
                true
            }
        }
    }

    /// Takes the first free one of `candidates`.
    pub(crate) fn take_any(&self, candidates: impl Iterator<Item = V>, holder: &str) -> Option<V> {
        let mut held = self.0.lock();
        for value in candidates {
            if let std::collections::hash_map::Entry::Vacant(slot) = held.entry(value) {
                slot.insert(holder.into());
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn holds(&self, value: V, holder: &str) -> bool {
        self.0.lock().get(&value).is_some_and(|by| **by == *holder)
    }

    /// Gives a value back, if it is this holder's.
    pub(crate) fn give_back(&self, value: V, holder: &str) {
        let mut held = self.0.lock();
        if held.get(&value).is_some_and(|by| **by == *holder) {
            held.remove(&value);
        }
    }
}
