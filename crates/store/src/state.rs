//! What lives, in memory, and the decision whether a write may happen.
//!
//! A [`Batch`] decides writes one after the other against the state and against each other, without
//! changing anything; [`Log::publish`] then applies all of its events at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::history::{History, Limits, watch_from};
use crate::{CommitError, Entry, Event, EventStream, Expect, Revision, Snapshot, WatchError, Write};

pub(crate) struct State {
    pub(crate) live: BTreeMap<Arc<str>, Entry>,
    pub(crate) history: History,
    /// The revision of the last published write.
    pub(crate) revision: Revision,
    /// Nothing will be written any more, so whoever watches has seen the end.
    pub(crate) closed: bool,
}

impl State {
    fn apply(&mut self, events: Vec<Event>) {
        let now = Instant::now();
        for event in events {
            self.revision = event.revision;
            match &event.entry {
                Some(entry) => self.live.insert(event.key.clone(), entry.clone()),
                None => self.live.remove(&event.key),
            };
            self.history.push(now, event);
        }
        self.history.trim(now);
    }
}

/// Writes decided but not yet applied.
pub(crate) struct Batch {
    staged: HashMap<Arc<str>, Option<Entry>>,
    pub(crate) events: Vec<Event>,
    /// The last revision given out.
    pub(crate) revision: Revision,
}

impl Batch {
    /// A batch whose first write gets the revision after `revision`.
    pub(crate) fn after(revision: Revision) -> Self {
        Self { staged: HashMap::new(), events: Vec::new(), revision }
    }

    pub(crate) fn write(&mut self, state: &State, write: Write) -> Result<Revision, CommitError> {
        let Write { key, expect, value, volatile: _ } = write;
        let current = match self.staged.get(&key) {
            Some(staged) => staged.clone(),
            None => state.live.get(&key).cloned(),
        };
        let expected = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Revision(revision) => {
                current.as_ref().is_some_and(|entry| entry.mod_revision == revision)
            }
        };
        let deletes_nothing = value.is_none() && current.is_none();
        if !expected || deletes_nothing {
            return Err(CommitError::Conflict { key, current });
        }

        self.revision += 1;
        let revision = self.revision;
        let create_revision = current.as_ref().map_or(revision, |entry| entry.create_revision);
        let entry =
            value.map(|value| Entry { key: key.clone(), value, create_revision, mod_revision: revision });
        self.staged.insert(key.clone(), entry.clone());
        self.events.push(Event { revision, key, entry, previous: current });
        Ok(revision)
    }
}

/// The state with those who watch it. Watches end when it is closed or dropped.
pub(crate) struct Log {
    state: Arc<RwLock<State>>,
    published: watch::Sender<Revision>,
}

impl Log {
    /// A log that begins at `revision` with what lives there.
    pub(crate) fn new(limits: Limits, revision: Revision, live: BTreeMap<Arc<str>, Entry>) -> Self {
        let state = State { live, history: History::new(limits, revision), revision, closed: false };
        Self { state: Arc::new(RwLock::new(state)), published: watch::Sender::new(revision) }
    }

    pub(crate) fn read<T>(&self, reader: impl FnOnce(&State) -> T) -> T {
        reader(&self.state.read())
    }

    /// Applies decided events and wakes the watches.
    pub(crate) fn publish(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(|event| event.revision) else { return };
        self.state.write().apply(events);
        self.published.send_replace(last);
    }

    /// Decides and applies writes in one step, for who has nothing to do in between.
    pub(crate) fn commit(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        let mut state = self.state.write();
        let mut batch = Batch::after(state.revision);
        let results = writes.into_iter().map(|write| batch.write(&state, write)).collect();
        state.apply(batch.events);
        let revision = state.revision;
        drop(state);
        self.published.send_if_modified(|published| {
            let newer = revision > *published;
            *published = revision.max(*published);
            newer
        });
        results
    }

    /// Ends the watches, once they have reported what there is: nothing more will come.
    pub(crate) fn close(&self) {
        self.state.write().closed = true;
        self.published.send_modify(|_| {});
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.read();
        Snapshot {
            revision: state.revision,
            compacted: state.history.compacted(),
            entries: state.live.values().cloned().collect(),
        }
    }

    pub(crate) fn watch(&self, after: Revision) -> Result<EventStream, WatchError> {
        watch_from(&self.state, self.published.subscribe(), after)
    }

    /// Forgets history that is too old, though nobody writes.
    pub(crate) fn tidy(&self, now: Instant) {
        self.state.write().history.tidy(now);
    }

    pub(crate) fn compact(&self, before: Revision) {
        let mut state = self.state.write();
        let before = before.min(state.revision);
        state.history.compact(before);
    }
}
