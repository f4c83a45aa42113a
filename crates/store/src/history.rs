//! The recent events, from which every watch reads with a cursor of its own.
//!
//! A watcher has no queue: a slow one costs nothing, and learns by [`WatchError::Compacted`] that the
//! history has moved on past it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state::State;
use crate::{Event, EventStream, Revision, WatchError};

/// How much history is kept for watches that lag or begin in the past. What exceeds any of these goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub events_max: usize,
    /// Keys and values of the events, in bytes.
    pub bytes_max: usize,
    pub age_max: Duration,
}

impl Default for Limits {
    /// Room for the busiest second of one machine, and the five minutes after which Kubernetes forgets.
    fn default() -> Self {
        Self { events_max: 65_536, bytes_max: 32 << 20, age_max: Duration::from_secs(300) }
    }
}

/// What one event weighs beside its key and value.
const EVENT_OVERHEAD_BYTES: usize = 160;

/// Older than the oldest that is kept.
const TICK: Duration = Duration::from_millis(1);

/// Events between two reads of the lock by one watcher.
const CHUNK_EVENTS: usize = 256;

pub(crate) struct History {
    limits: Limits,
    events: VecDeque<(Instant, Event)>,
    bytes: usize,
    /// The revision up to which events are forgotten.
    compacted: Revision,
}

impl History {
    pub(crate) fn new(limits: Limits, compacted: Revision) -> Self {
        Self { limits, events: VecDeque::new(), bytes: 0, compacted }
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn push(&mut self, now: Instant, event: Event) {
        self.bytes += weight(&event);
        self.events.push_back((now, event));
    }

    /// Forgets what exceeds the limits.
    pub(crate) fn trim(&mut self, now: Instant) {
        while let Some((at, event)) = self.events.front() {
            let over = self.events.len() > self.limits.events_max
                || self.bytes > self.limits.bytes_max
                || now.saturating_duration_since(*at) > self.limits.age_max;
            if !over {
                break;
            }
            self.compacted = event.revision;
            self.pop();
        }
    }

    /// When the last event is too old to be kept, if nothing is written until then. Writes trim by themselves, so
    /// that nobody needs to look before.
    pub(crate) fn outdated_at(&self) -> Option<Instant> {
        let (at, _) = self.events.back()?;
        at.checked_add(self.limits.age_max)?.checked_add(TICK)
    }

    /// Forgets what exceeds the limits when nobody writes, and gives back the room that a burst took.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.trim(now);
        self.events.shrink_to(2 * self.events.len());
    }

    pub(crate) fn age_max(&self) -> Duration {
        self.limits.age_max
    }

    /// Forgets the events up to and with `before`.
    pub(crate) fn compact(&mut self, before: Revision) {
        while self.events.front().is_some_and(|(_, event)| event.revision <= before) {
            self.pop();
        }
        self.compacted = self.compacted.max(before);
    }

    fn pop(&mut self) {
        if let Some((_, event)) = self.events.pop_front() {
            self.bytes -= weight(&event);
        }
    }

    /// Up to `max` events after `after`.
    pub(crate) fn after(&self, after: Revision, max: usize) -> Result<Vec<Event>, WatchError> {
        if after < self.compacted {
            return Err(WatchError::Compacted { requested: after, oldest: self.compacted });
        }
        let from = self.events.partition_point(|(_, event)| event.revision <= after);
        Ok(self.events.range(from..).take(max).map(|(_, event)| event.clone()).collect())
    }
}

fn weight(event: &Event) -> usize {
    EVENT_OVERHEAD_BYTES + event.key.len() + event.entry.as_ref().map_or(0, |entry| entry.value.len())
}

/// One watch: where it has got to, and what it has read but not yet handed out.
struct Watcher {
    state: Arc<RwLock<State>>,
    published: watch::Receiver<Revision>,
    cursor: Revision,
    chunk: VecDeque<Event>,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        loop {
            if let Some(event) = self.chunk.pop_front() {
                return Some(Ok(event));
            }
            // Seen before it is read, so that what is published in between wakes us again.
            self.published.borrow_and_update();
            let closed = match self.read() {
                Ok(closed) => closed,
                Err(compacted) => return Some(Err(compacted)),
            };
            if self.chunk.is_empty() && (closed || self.published.changed().await.is_err()) {
                return None;
            }
        }
    }

    /// Reads on, and tells whether nothing will follow.
    fn read(&mut self) -> Result<bool, WatchError> {
        let state = self.state.read();
        let events = state.history.after(self.cursor, CHUNK_EVENTS)?;
        // A watcher that has seen everything is at the store's revision, also where no event has it, so
        // that a compaction does not hurt it.
        self.cursor = match events.last() {
            Some(last) if events.len() == CHUNK_EVENTS => last.revision,
            _ => state.revision,
        };
        self.chunk = events.into();
        Ok(state.closed)
    }
}

/// The events after `after`, until `published` closes.
pub(crate) fn watch_from(
    state: &Arc<RwLock<State>>,
    published: watch::Receiver<Revision>,
    after: Revision,
) -> Result<EventStream, WatchError> {
    {
        let state = state.read();
        if after > state.revision {
            return Err(WatchError::Future { requested: after, current: state.revision });
        }
        let oldest = state.history.compacted();
        if after < oldest {
            return Err(WatchError::Compacted { requested: after, oldest });
        }
    }
    let watcher = Watcher { state: state.clone(), published, cursor: after, chunk: VecDeque::new() };
    Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await? {
            Ok(event) => Some((Ok(event), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}
