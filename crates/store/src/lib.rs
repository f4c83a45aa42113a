//! A revisioned key-value log with watch. Knows keys and bytes, no kinds.
//!
//! Every committed write gets a revision of its own; revisions only grow, and never repeat, also after a
//! crash. A [`Store`] reports each write to every [`Store::watch`] in revision order, without gaps, and
//! only once it is durable.
//!
//! [`MemoryStore`] is for tests; [`SqliteStore`] keeps the writes in one file. In both the state lives in
//! memory, so that reading never waits for a disk.

mod history;
mod memory;
mod sqlite;
mod state;
#[cfg(feature = "suite")]
pub mod suite;

pub use history::Limits;
pub use memory::MemoryStore;
pub use sqlite::{OpenError, SqliteStore};

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

/// A position in the log of writes. 0 is before the first write.
pub type Revision = u64;

/// A live key with its last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision of the write that made the key.
    pub create_revision: Revision,
    /// The revision of the last write to it.
    pub mod_revision: Revision,
}

/// All that lives at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub revision: Revision,
    /// The oldest revision after which [`Store::watch`] still works.
    pub compacted: Revision,
    /// Sorted by key.
    pub entries: Vec<Entry>,
}

/// What a write demands of the key's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    /// The key does not live.
    Absent,
    /// The key lives and its `mod_revision` is this.
    Revision(Revision),
}

/// One independent compare-and-set.
#[derive(Debug, Clone)]
pub struct Write {
    pub key: Arc<str>,
    pub expect: Expect,
    /// `None` deletes; to delete a key that does not live is a [`CommitError::Conflict`].
    pub value: Option<Bytes>,
    /// May be lost by a crash (node leases, heartbeats): causes no disk write by itself. The revision it
    /// got is never given out again all the same.
    pub volatile: bool,
}

/// Why a write did not happen. Nothing of it was applied.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("key {key} is not in the expected state")]
    Conflict {
        key: Arc<str>,
        /// The key's present state; `None` when it does not live.
        current: Option<Entry>,
    },
    #[error("cannot write to the store")]
    Io(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A change, in revision order.
#[derive(Debug, Clone)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    /// The entry after the write; `None` for a delete.
    pub entry: Option<Entry>,
    /// The entry before the write; `None` for a creation.
    pub previous: Option<Entry>,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("revision {requested} has been compacted; the oldest that can be watched from is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} is in the future; the store is at {current}")]
    Future { requested: Revision, current: Revision },
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the store")]
pub struct ReadError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Events in order. Ends only when the store closes, or (with an `Err`) when the watcher was too slow.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, WatchError>> + Send>>;

/// The revisioned log. One suite of tests runs against every implementation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Everything that lives, at one revision.
    async fn load(&self) -> Result<Snapshot, ReadError>;

    /// Carries out independent compare-and-sets in order, each with its own result; returns when those
    /// that succeeded are durable (volatile ones: applied).
    async fn commit(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>>;

    /// Whether writes are kept. While the last one that touched the disk failed, this tries another, so that
    /// room that was made is found without somebody's write.
    async fn writable(&self) -> Result<(), CommitError> {
        Ok(())
    }

    /// All changes after `after`, then live ones. Gapless, in order, only durable ones.
    fn watch(&self, after: Revision) -> Result<EventStream, WatchError>;

    /// Forgets the history up to `before`, never what lives.
    async fn compact(&self, before: Revision) -> Result<(), ReadError>;

    /// The current revision, linearizable.
    async fn barrier(&self) -> Result<Revision, ReadError>;
}
