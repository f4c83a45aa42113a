//! The store of one server: an append-only log of revisions in one SQLite file.
//!
//! One thread writes. While it waits for the disk, the writes of other callers queue; it takes all of
//! them into its next transaction, so that many callers share one fsync. The state lives in memory, the
//! file is only read when it is opened. An idle store writes nothing, but once after a burst, when what that
//! left has become old and is deleted.
//!
//! Volatile writes stay in memory. So that their revisions do not come again after a crash, revisions are
//! reserved in blocks in the file before the first volatile write of the block gets one; who opens the
//! file after a crash goes on behind the block.

mod disk;
mod room;
mod wait;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::disk::Disk;
pub use self::disk::OpenError;
use self::writer::{Failing, Request, Writer};
use crate::state::Log;
use crate::{CommitError, EventStream, Limits, ReadError, Revision, Snapshot, Store, WatchError, Write};

/// Callers that may queue for the writer before others wait to queue.
const QUEUE_REQUESTS: usize = 1024;

pub struct SqliteStore {
    log: Arc<Log>,
    /// `None` only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    failing: Failing,
}

impl SqliteStore {
    /// Opens the log at `path`, or makes it. Blocks while it reads what lives. At most one process can
    /// have a log open.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let (disk, recovered) = Disk::open(path)?;
        let log = Arc::new(Log::new(limits, recovered.revision, recovered.live));
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS);
        let failing = Failing::default();
        let (revision, reserved) = (recovered.revision, recovered.reserved);
        let writer = Writer::new(log.clone(), disk, revision, reserved, Arc::clone(&failing));
        let last = Last(log.clone());
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                // Also when it panics: a store that nobody writes to is no store, and who follows it must
                // learn that.
                let _last = last;
                writer.run(queue);
            })
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Self { log, requests: Some(requests), writer: Some(thread), failing })
    }
}

/// Closes the log when the writer ends, however it does.
struct Last(Arc<Log>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.close();
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

impl SqliteStore {
    /// Has the writer carry out writes; none ask whether it could.
    async fn ask(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        let count = writes.len();
        let stopped = || (0..count).map(|_| Err(CommitError::Io(Box::new(Stopped)))).collect();
        let Some(requests) = &self.requests else { return stopped() };
        let (reply, results) = oneshot::channel();
        if requests.send(Request { writes, reply }).await.is_err() {
            return stopped();
        }
        results.await.unwrap_or_else(|_| stopped())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        Ok(self.log.snapshot())
    }

    async fn commit(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        match writes.is_empty() {
            true => Vec::new(),
            false => self.ask(writes).await,
        }
    }

    async fn writable(&self) -> Result<(), CommitError> {
        if self.failing.lock().is_some() {
            // The writer clears it when the disk takes this. Which write is answered says nothing.
            let _ = self.ask(Vec::new()).await;
        }
        if let Some(failure) = &*self.failing.lock() {
            return Err(CommitError::Io(Box::new(failure.clone())));
        }
        match self.writer.as_ref().is_none_or(JoinHandle::is_finished) {
            true => Err(CommitError::Io(Box::new(Stopped))),
            false => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    /// What an earlier version left open to everybody, too.
    #[tokio::test]
    async fn files_are_their_owners_alone() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let modes = || {
            let names = ["store.db", "store.db-wal"].map(|name| directory.path().join(name));
            names.map(|name| fs::metadata(name).unwrap().permissions().mode() & 0o777)
        };
        let store = SqliteStore::open(&path, Limits::default()).unwrap();
        let value = Some(bytes::Bytes::from_static(b"x"));
        let write = Write { key: "/a".into(), expect: crate::Expect::Absent, value, volatile: false };
        store.commit(vec![write]).await.remove(0).unwrap();
        assert_eq!(modes(), [0o600; 2]);
        for name in ["store.db", "store.db-wal"] {
            fs::set_permissions(directory.path().join(name), Permissions::from_mode(0o644)).unwrap();
        }
        disk::keep_private(&path).unwrap();
        assert_eq!(modes(), [0o600; 2]);
    }

    #[tokio::test]
    async fn history_goes_by_time_though_nobody_writes() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { age_max: std::time::Duration::from_millis(5), ..Limits::default() };
        let store = SqliteStore::open(&directory.path().join("store.db"), limits).unwrap();
        let value = Some(bytes::Bytes::from_static(b"x"));
        let write = Write { key: "/a".into(), expect: crate::Expect::Absent, value, volatile: false };
        let revision = store.commit(vec![write]).await.remove(0).unwrap();
        let forgotten = async {
            while store.load().await.unwrap().compacted < revision {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), forgotten).await.expect("it goes");
    }

    #[tokio::test]
    async fn a_writer_that_panics_ends_the_watches() {
        let log = Arc::new(Log::new(Limits::default(), 0, std::collections::BTreeMap::new()));
        let mut watch = log.watch(0).unwrap();
        let last = Last(log.clone());
        let thread = std::thread::spawn(move || {
            let _last = last;
            std::panic::resume_unwind(Box::new("a fault of ours"));
        });
        assert!(watch.next().await.is_none());
        assert!(thread.join().is_err());
    }
}
