//! What a controller has asked for and the local copy doesn't show yet.
//!
//! A reconciler that acts on a copy which lags behind its own writes would do them twice. So it notes how
//! many creations and which deletions it asks for *before* it asks, the feed notes what it sees, and until
//! both agree the key is left alone. A limit in time keeps a lost event from stopping a key for good.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use skiff_client::ObjectKey;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Expectations(Mutex<HashMap<ObjectKey, Expected>>);

impl Expectations {
    fn with<R>(&self, change: impl FnOnce(&mut HashMap<ObjectKey, Expected>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the copy shows all that was asked for.
    pub(crate) fn are_met(&self, key: &ObjectKey) -> bool {
        self.with(|all| {
            let met = all.get(key).is_none_or(|expected| {
                (expected.creations == 0 && expected.deletions.is_empty())
                    || expected.since.elapsed() >= LIMIT
            });
            if met {
                all.remove(key);
            }
            met
        })
    }

    /// These writes are about to be asked for.
    pub(crate) fn expect(
        &self,
        key: &ObjectKey,
        creations: usize,
        deletions: impl IntoIterator<Item = String>,
    ) {
        let deletions = deletions.into_iter().collect();
        let expected = Expected { creations, deletions, since: Instant::now() };
        self.with(|all| all.insert(key.clone(), expected));
    }

    /// A creation was seen, or failed.
    pub(crate) fn created(&self, key: &ObjectKey, count: usize) {
        self.with(|all| {
            if let Some(expected) = all.get_mut(key) {
                expected.creations = expected.creations.saturating_sub(count);
            }
        });
    }

    /// A deletion was seen (or its start), or failed.
    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str) {
        self.with(|all| {
            if let Some(expected) = all.get_mut(key) {
                expected.deletions.remove(uid);
            }
        });
    }

    /// The object is gone, or events were missed and the copy is fresh.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.with(|all| all.remove(key));
    }

    pub(crate) fn forget_all(&self) {
        self.with(HashMap::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_rests_until_its_writes_are_seen() {
        tokio::time::pause();
        let expectations = Expectations::default();
        let key = ObjectKey::new("a", "b");
        assert!(expectations.are_met(&key));
        expectations.expect(&key, 2, ["u".to_owned()]);
        expectations.created(&key, 1);
        expectations.deleted(&key, "u");
        expectations.deleted(&key, "other");
        assert!(!expectations.are_met(&key));
        expectations.created(&key, 1);
        assert!(expectations.are_met(&key));
        expectations.expect(&key, 1, []);
        assert!(!expectations.are_met(&key));
        tokio::time::advance(LIMIT).await;
        assert!(expectations.are_met(&key), "a lost event stops it only for a while");
    }
}
