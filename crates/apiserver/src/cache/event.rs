//! One change of one object, as watchers see it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::object::Object;

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
    pub(super) fn new(revision: u64, change: Change) -> Self {
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
    pub(super) fn bytes(&self) -> usize {
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
