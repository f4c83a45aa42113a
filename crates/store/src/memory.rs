//! The store that forgets everything when it is dropped: for tests, and honest in all but durability.

use async_trait::async_trait;
use std::collections::BTreeMap;

use crate::state::Log;
use crate::{CommitError, EventStream, Limits, ReadError, Revision, Snapshot, Store, WatchError, Write};

pub struct MemoryStore {
    log: Log,
}

impl MemoryStore {
    pub fn new(limits: Limits) -> Self {
        Self { log: Log::new(limits, 0, BTreeMap::new()) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        Ok(self.log.snapshot())
    }

    async fn commit(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        self.log.commit(writes)
    }

    fn watch(&self, after: Revision) -> Result<EventStream, WatchError> {
        self.log.watch(after)
    }

    async fn compact(&self, before: Revision) -> Result<(), ReadError> {
        self.log.compact(before);
        Ok(())
    }

    async fn barrier(&self) -> Result<Revision, ReadError> {
        Ok(self.log.read(|state| state.revision))
    }
}
