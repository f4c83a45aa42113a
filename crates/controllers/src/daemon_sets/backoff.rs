//! How long failed pods of a set stay on their node before they make room for the next: a node that rejects
//! them would otherwise have them made and rejected as fast as the store takes them. A second at first, twice
//! as long each time up to a quarter of an hour, as upstream's daemon controller has it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use tokio::time::Instant;

use crate::owners::uid;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// A failure so long ago counts no more.
const FORGOTTEN: Duration = Duration::from_secs(2 * 15 * 60);

/// A set by its UID, its generation (another template may do better), and a node.
type Place = (String, Option<i64>, String);

#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<HashMap<Place, (Duration, Instant)>>);

impl Backoff {
    /// For how long a failed pod stays there yet.
    pub(super) fn left(&self, set: &DaemonSet, node: &str, now: Instant) -> Duration {
        let known = self.lock().get(&place(set, node)).copied();
        known
            .map_or(Duration::ZERO, |(wait, since)| wait.saturating_sub(now.saturating_duration_since(since)))
    }

    /// A failed pod goes, and the next one that fails there stays for longer.
    pub(super) fn failed(&self, set: &DaemonSet, node: &str, now: Instant) {
        let mut known = self.lock();
        known.retain(|_, (_, since)| now.saturating_duration_since(*since) <= FORGOTTEN);
        let place = place(set, node);
        let wait = known.get(&place).map_or(FIRST, |(wait, _)| (*wait * 2).min(LONGEST));
        known.insert(place, (wait, now));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, (Duration, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(set: &DaemonSet, node: &str) -> Place {
    (uid(&set.metadata).to_owned(), set.metadata.generation, node.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_fails_pods_gets_them_ever_more_seldom() {
        let mut set = DaemonSet::default();
        set.metadata.uid = Some("d".to_owned());
        let backoff = Backoff::default();
        let mut at = Instant::now();
        let mut waited = Vec::new();
        for _ in 0..12 {
            backoff.failed(&set, "n1", at);
            let left = backoff.left(&set, "n1", at);
            waited.push(left.as_secs());
            at += left;
            assert!(backoff.left(&set, "n1", at).is_zero());
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert!(backoff.left(&set, "n2", at).is_zero(), "each node by itself");
        backoff.failed(&set, "n1", at);
        set.metadata.generation = Some(2);
        assert!(backoff.left(&set, "n1", at).is_zero(), "another template may do better");
        set.metadata.generation = None;
        at += FORGOTTEN + Duration::from_secs(1);
        backoff.failed(&set, "n1", at);
        assert_eq!(backoff.left(&set, "n1", at), FIRST);
    }
}
