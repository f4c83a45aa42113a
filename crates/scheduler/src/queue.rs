//! The pods that wait for a node.
//!
//! *Active* pods are tried in turn, by priority, then by age. Pods whose attempt went wrong *back off* from
//! 1 s to 10 s. Pods that no node can take are *parked* until something happens that could let them in; should
//! nobody have seen that it could, they are tried again after five minutes all the same.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use skiff_client::ObjectKey;
use tokio::time::Instant;

use crate::snapshot::PodInfo;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a pod is parked at most, as upstream's are (`podMaxInUnschedulablePodsDuration`).
const PARKED_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    /// Until then.
    Backoff(Instant),
    /// Until then at the latest.
    Parked(Instant),
    /// Being tried or bound; a wake-up meanwhile is noted.
    Taken {
        woken: bool,
    },
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    /// Its turn among pods of one priority.
    ticket: u64,
}

type Turn = (Reverse<i32>, u64, ObjectKey);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeSet<Turn>,
    backing_off: BTreeSet<(Instant, ObjectKey)>,
    parked: BTreeSet<(Instant, ObjectKey)>,
    tickets: u64,
}

impl Queue {
    /// A pod that wants a node is new or changed. A changed one is tried again.
    pub(crate) fn put(&mut self, pod: Arc<PodInfo>) {
        let key = pod.key.clone();
        match self.entries.get_mut(&key) {
            Some(entry) if entry.pod.uid() == pod.uid() => {
                let changed = entry.pod.pod.spec != pod.pod.spec
                    || entry.pod.pod.metadata.labels != pod.pod.metadata.labels;
                let was_active = self.active.remove(&turn(entry));
                entry.pod = pod;
                if was_active {
                    self.active.insert(turn(entry));
                } else if changed {
                    self.wake(&key);
                }
            }
            _ => {
                self.remove(&key);
                self.tickets += 1;
                let entry = Entry { pod, place: Place::Active, attempts: 0, ticket: self.tickets };
                self.active.insert(turn(&entry));
                self.entries.insert(key, entry);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let entry = self.entries.remove(key)?;
        self.leave(&entry);
        Some(entry.pod)
    }

    /// The next pod to try. It stays known as taken until it is parked, put off or removed.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        for waiting in [&mut self.backing_off, &mut self.parked] {
            let mut due = Vec::new();
            while waiting.first().is_some_and(|(until, _)| *until <= now) {
                due.extend(waiting.pop_first().map(|(_, key)| key));
            }
            for key in due {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.place = Place::Active;
                    self.active.insert(turn(entry));
                }
            }
        }
        let (_, _, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Taken { woken: false };
        entry.attempts = entry.attempts.saturating_add(1);
        Some(entry.pod.clone())
    }

    /// When the next pod's back-off ends, or the time of the one that is parked longest.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let first = |waiting: &BTreeSet<(Instant, ObjectKey)>| waiting.first().map(|(until, _)| *until);
        first(&self.backing_off).into_iter().chain(first(&self.parked)).min()
    }

    /// No node can take it: wait for news, unless news came meanwhile.
    pub(crate) fn park(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.place == (Place::Taken { woken: true }) {
            return self.put_off(key, now);
        }
        let until = now + PARKED_MAX;
        entry.place = Place::Parked(until);
        self.parked.insert((until, key.clone()));
    }

    /// What was done to let a parked pod in went wrong: it is tried again after its back-off.
    pub(crate) fn retry(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(Place::Parked(until)) = self.entries.get(key).map(|entry| entry.place) {
            self.parked.remove(&(until, key.clone()));
            self.put_off(key, now);
        }
    }

    /// The attempt went wrong for another reason: try again after its back-off.
    pub(crate) fn put_off(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let until = now + backoff(entry.attempts);
        entry.place = Place::Backoff(until);
        self.backing_off.insert((until, key.clone()));
    }

    /// The parked pods, for whoever decides which of them some news concerns.
    pub(crate) fn parked(&self) -> Vec<Arc<PodInfo>> {
        self.parked
            .iter()
            .filter_map(|(_, key)| self.entries.get(key))
            .map(|entry| entry.pod.clone())
            .collect()
    }

    /// Tries a pod at once: what kept it out is gone.
    pub(crate) fn wake(&mut self, key: &ObjectKey) {
        match self.entries.get_mut(key) {
            Some(Entry { place: Place::Taken { woken }, .. }) => *woken = true,
            Some(entry @ Entry { place: Place::Parked(_) | Place::Backoff(_), .. }) => {
                match entry.place {
                    Place::Parked(until) => drop(self.parked.remove(&(until, key.clone()))),
                    Place::Backoff(until) => drop(self.backing_off.remove(&(until, key.clone()))),
                    Place::Active | Place::Taken { .. } => {}
                }
                entry.place = Place::Active;
                self.active.insert(turn(entry));
            }
            Some(_) | None => {}
        }
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, key: &ObjectKey) -> bool {
        self.entries.contains_key(key)
    }

    pub(crate) fn keys(&self) -> Vec<ObjectKey> {
        self.entries.keys().cloned().collect()
    }

    fn leave(&mut self, entry: &Entry) {
        let key = &entry.pod.key;
        match entry.place {
            Place::Active => drop(self.active.remove(&turn(entry))),
            Place::Backoff(until) => drop(self.backing_off.remove(&(until, key.clone()))),
            Place::Parked(until) => drop(self.parked.remove(&(until, key.clone()))),
            Place::Taken { .. } => {}
        }
    }
}

fn turn(entry: &Entry) -> Turn {
    (Reverse(entry.pod.priority), entry.ticket, entry.pod.key.clone())
}

fn backoff(attempts: u32) -> Duration {
    (BACKOFF_MIN * (1 << attempts.saturating_sub(1).min(4))).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::info;

    #[test]
    fn pods_take_turns_by_priority_then_age() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            queue.put(Arc::new(info(name, serde_json::json!({"priority": priority}))));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take(now)).map(|pod| pod.key.name.clone()).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn parked_pods_wait_for_news_and_failed_ones_back_off() {
        let mut queue = Queue::default();
        let pod = Arc::new(info("a", serde_json::json!({})));
        let key = pod.key.clone();
        let mut now = Instant::now();
        queue.put(pod.clone());
        assert!(queue.take(now).is_some() && queue.take(now).is_none());
        queue.park(&key, now);
        now += Duration::from_secs(299);
        assert!(queue.take(now).is_none());
        queue.wake(&key);
        assert!(queue.take(now).is_some(), "at once, whatever its back-off");
        for seconds in [2, 4, 8, 10, 10] {
            queue.put_off(&key, now);
            assert_eq!(queue.next_wake(), Some(now + Duration::from_secs(seconds)));
            assert!(queue.take(now).is_none());
            now += Duration::from_secs(seconds);
            assert!(queue.take(now).is_some());
        }
        queue.wake(&key);
        queue.park(&key, now);
        let soon = queue.next_wake().is_some_and(|at| at <= now + BACKOFF_MAX);
        assert!(soon, "news during the attempt are not lost");
        queue.remove(&key);
        assert!(queue.next_wake().is_none() && !queue.contains(&key));
    }

    #[test]
    fn who_is_parked_is_tried_again_after_five_minutes_all_the_same() {
        let mut queue = Queue::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let pods = ["a", "b"].map(|name| Arc::new(info(name, serde_json::json!({}))));
        pods.iter().for_each(|pod| queue.put(pod.clone()));
        for seconds in [0, 10] {
            let pod = queue.take(at(seconds)).expect("two are there");
            queue.park(&pod.key, at(seconds));
        }
        assert_eq!(queue.next_wake(), Some(at(300)), "one time for all of them: the oldest one's");
        assert!(queue.take(at(299)).is_none());
        assert_eq!(queue.take(at(300)).map(|pod| pod.key.name.clone()).as_deref(), Some("a"));
        assert_eq!(queue.next_wake(), Some(at(310)));
        queue.park(&pods[0].key, at(300));
        queue.retry(&pods[1].key, at(301));
        assert_eq!(queue.next_wake(), Some(at(302)), "what was tried for it went wrong");
        assert!(queue.take(at(301)).is_none());
        assert_eq!(queue.take(at(302)).map(|pod| pod.key.name.clone()).as_deref(), Some("b"));
        queue.remove(&pods[1].key);
        assert_eq!(queue.next_wake(), Some(at(600)));
        queue.remove(&pods[0].key);
        assert_eq!(queue.next_wake(), None);
    }
}
