//! A queue of keys to reconcile.
//!
//! A key waits at most once, is worked on by one worker at a time, and comes back after its worker is
//! done if it was added meanwhile. Retries back off from 5 ms to 60 s.

pub(crate) mod metrics;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

/// A key is looked at this much later at the latest.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3_600);

/// When to look at a key again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// When something changes.
    Never,
    After(Duration),
}

struct State<T> {
    ready: VecDeque<T>,
    waiting: HashSet<T>,
    working: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, T)>>,
    /// When each delayed key is due; what the heap says of it besides is out of date.
    due: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
    adds: u64,
    retries: u64,
}

/// Keys to reconcile. Cheap to clone; clones share the queue.
pub struct WorkQueue<T>(Arc<(Mutex<State<T>>, Notify)>);

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Eq + Hash + Ord> Default for WorkQueue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            adds: 0,
            retries: 0,
        };
        Self(Arc::new((Mutex::new(state), Notify::new())))
    }
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// Queues a key now, unless it waits already.
    pub fn add(&self, key: T) {
        let mut state = self.0.0.lock();
        if !state.waiting.insert(key.clone()) {
            return;
        }
        state.adds += 1;
        if !state.working.contains(&key) {
            state.ready.push_back(key);
            self.0.1.notify_one();
        }
    }

    /// Queues a key once `delay` has passed, or earlier if an earlier call asked for that; at the latest after
    /// a day, since an object may ask for more than a clock can show.
    pub fn add_after(&self, key: T, delay: Duration) {
        let mut state = self.0.0.lock();
        let at = Instant::now() + delay.min(DELAY_MAX);
        if state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        state.due.insert(key.clone(), at);
        state.delayed.push(Reverse((at, key)));
        drop(state);
        self.0.1.notify_one();
    }

    /// Queues a key after its own back-off, which grows with each call until [`WorkQueue::forget`].
    pub fn retry(&self, key: T) {
        let failures = {
            let mut state = self.0.0.lock();
            state.retries += 1;
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        let millis = (5u64 << (failures - 1).min(14)).min(60_000);
        self.add_after(key, Duration::from_millis(millis));
    }

    /// Resets a key's back-off.
    pub fn forget(&self, key: &T) {
        self.0.0.lock().failures.remove(key);
    }

    /// The next key. Whoever gets it must call [`WorkQueue::done`]. Cancel-safe.
    pub async fn next(&self) -> T {
        loop {
            let wake_at = {
                let mut state = self.0.0.lock();
                let now = Instant::now();
                while state.delayed.peek().is_some_and(|Reverse((at, _))| *at <= now) {
                    let Some(Reverse((at, key))) = state.delayed.pop() else { break };
                    if state.due.get(&key) != Some(&at) {
                        continue;
                    }
                    state.due.remove(&key);
                    if !state.waiting.insert(key.clone()) {
                        continue;
                    }
                    state.adds += 1;
                    if !state.working.contains(&key) {
                        state.ready.push_back(key);
                    }
                }
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.0.1.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match wake_at {
                Some(at) => tokio::select! {
                    () = self.0.1.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.0.1.notified().await,
            }
        }
    }

    /// Lets others work on the key again.
    pub fn done(&self, key: &T) {
        let mut state = self.0.0.lock();
        state.working.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
            self.0.1.notify_one();
        }
    }

    /// How many keys wait, delayed ones not counted.
    pub fn len(&self) -> usize {
        self.0.0.lock().ready.len()
    }

    fn counts(&self) -> metrics::Counts {
        let state = self.0.0.lock();
        metrics::Counts { depth: state.waiting.len(), adds: state.adds, retries: state.retries }
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Runs `workers` reconcilers over the queue; the queue retries what fails. Never returns.
pub async fn work<T, F, R, E>(name: &'static str, queue: WorkQueue<T>, workers: usize, reconcile: F)
where
    T: Clone + Eq + Hash + Ord + Debug + Display + Send + Sync + 'static,
    F: Fn(T) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Requeue, E>> + Send,
    E: std::error::Error + Send + Sync + 'static,
{
    let times = metrics::register(name, &queue);
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (queue, reconcile, times) = (queue.clone(), reconcile.clone(), Arc::clone(&times));
        tasks.spawn(async move {
            loop {
                let key = queue.next().await;
                let begun = Instant::now();
                match reconcile(key.clone()).await {
                    Ok(requeue) => {
                        queue.forget(&key);
                        if let Requeue::After(delay) = requeue {
                            queue.add_after(key.clone(), delay);
                        }
                    }
                    Err(error) => {
                        let failures = queue.0.0.lock().failures.get(&key).copied().unwrap_or(0);
                        let error = &error as &dyn std::error::Error;
                        if failures >= 5 {
                            warn!(controller = name, %key, error, "cannot reconcile, retrying");
                        } else {
                            debug!(controller = name, %key, error, "reconcile failed, retrying");
                        }
                        queue.retry(key.clone());
                    }
                }
                times.observe(begun.elapsed());
                queue.done(&key);
            }
        });
    }
    // A worker ends only by a panic, which must take the component down.
    while let Some(result) = tasks.join_next().await {
        if let Err(error) = result
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_back_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        assert!(queue.is_empty(), "nobody else may work on it now");
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_delays_counts_once() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        for seconds in [9, 5, 7] {
            queue.add_after("a", Duration::from_secs(seconds));
        }
        let key = queue.next().await;
        queue.done(&key);
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.add_after("b", Duration::from_secs(60));
        assert_eq!(queue.next().await, "b", "nothing is left of the later ones");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_beyond_what_a_clock_shows_ends_after_a_day() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::MAX);
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 24 * 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_and_retries_end() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(5));
        queue.retry("early");
        assert_eq!(queue.next().await, "early");
        assert_eq!(queue.next().await, "late");
        assert!(start.elapsed() >= Duration::from_secs(5));
    }
}
