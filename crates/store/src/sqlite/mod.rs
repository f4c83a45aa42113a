//! The store of one server: an append-only log of revisions in one SQLite file.
//!
//! One thread writes. While it waits for the disk, the writes of other callers queue; it takes all of
//! them into its next transaction, so that many callers share one fsync. The state lives in memory, the
//! file is only read when it is opened. An idle store writes nothing.
//!
//! Volatile writes stay in memory. So that their revisions do not come again after a crash, revisions are
//! reserved in blocks in the file before the first volatile write of the block gets one; who opens the
//! file after a crash goes on behind the block.

mod disk;
mod room;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::disk::Disk;
pub use self::disk::OpenError;
use self::writer::{Request, Writer};
use crate::state::Log;
use crate::{CommitError, EventStream, Limits, ReadError, Revision, Snapshot, Store, WatchError, Write};

/// Callers that may queue for the writer before others wait to queue.
const QUEUE_REQUESTS: usize = 1024;

pub struct SqliteStore {
    log: Arc<Log>,
    /// `None` only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the log at `path`, or makes it. Blocks while it reads what lives. At most one process can
    /// have a log open.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let (disk, recovered) = Disk::open(path)?;
        let log = Arc::new(Log::new(limits, recovered.revision, recovered.live));
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS);
        let writer = Writer::new(log.clone(), disk, recovered.revision, recovered.reserved);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Self { log, requests: Some(requests), writer: Some(thread) })
    }
}

impl Drop for SqliteStore {
    /// Waits until the last writes, volatile ones too, are on disk: some milliseconds.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the store's writer has stopped")]
struct Stopped;

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        Ok(self.log.snapshot())
    }

    async fn commit(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        let count = writes.len();
        let stopped = || (0..count).map(|_| Err(CommitError::Io(Box::new(Stopped)))).collect();
        let Some(requests) = &self.requests else { return stopped() };
        let (reply, results) = oneshot::channel();
        if requests.send(Request { writes, reply }).await.is_err() {
            return stopped();
        }
        results.await.unwrap_or_else(|_| stopped())
    }

    fn watch(&self, after: Revision) -> Result<EventStream, WatchError> {
        self.log.watch(after)
    }

    /// Only the history in memory: what is dead in the file goes by itself.
    async fn compact(&self, before: Revision) -> Result<(), ReadError> {
        self.log.compact(before);
        Ok(())
    }

    async fn barrier(&self) -> Result<Revision, ReadError> {
        Ok(self.log.read(|state| state.revision))
    }
}
