//! The one thread that writes: takes what has queued, decides it, makes it durable, publishes it.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::disk::{Disk, Row};
use crate::state::{Batch, Log};
use crate::{CommitError, Event, Revision, Write};

/// Writes, and bytes of values, that share one transaction at most.
const BATCH_WRITES: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// Revisions reserved at once for volatile writes: one disk write in a month for a few idle nodes.
const BLOCK_REVISIONS: Revision = 1 << 20;

pub(crate) struct Request {
    pub(crate) writes: Vec<Write>,
    pub(crate) reply: oneshot::Sender<Vec<Result<Revision, CommitError>>>,
}

pub(crate) struct Writer {
    log: Arc<Log>,
    disk: Disk,
    /// The last revision given out, also to writes that then failed.
    revision: Revision,
    /// Volatile writes may take revisions up to and with this one.
    reserved: Revision,
    /// Keys whose state in memory is not the one on disk.
    unsaved: HashSet<Arc<str>>,
    /// Why nothing can be written any more: after a failed fsync nobody knows what is on disk.
    broken: Option<Failure>,
}

/// One failure of the disk, told to every caller of the batch.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log cannot be appended to")]
struct Failure(#[source] Arc<rusqlite::Error>);

impl Writer {
    pub(crate) fn new(log: Arc<Log>, disk: Disk, revision: Revision, reserved: Revision) -> Self {
        Self { log, disk, revision, reserved, unsaved: HashSet::new(), broken: None }
    }

    /// Runs until all senders of the queue are gone.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            let first = if self.broken.is_none() && self.disk.wants_sweep() {
                match queue.try_recv() {
                    Ok(request) => Some(request),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            } else {
                match queue.blocking_recv() {
                    Some(request) => Some(request),
                    None => break,
                }
            };
            if let Some(first) = first {
                self.commit(gather(first, &mut queue));
            }
            if self.broken.is_none() && self.disk.wants_sweep() {
                self.sweep();
            }
            if queue.is_empty() {
                self.disk.prepare_room();
            }
        }
        self.save();
    }

    fn commit(&mut self, requests: Vec<Request>) {
        if let Some(failure) = &self.broken {
            return requests.into_iter().for_each(|request| refuse(request, failure));
        }

        let mut batch = Batch::after(self.revision);
        let mut volatile = HashSet::new();
        let mut replies = Vec::with_capacity(requests.len());
        self.log.read(|state| {
            for Request { writes, reply } in requests {
                let mut results = Vec::with_capacity(writes.len());
                for write in writes {
                    let is_volatile = write.volatile;
                    let result = batch.write(state, write);
                    if let (Ok(revision), true) = (&result, is_volatile) {
                        volatile.insert(*revision);
                    }
                    results.push(result);
                }
                replies.push((reply, results));
            }
        });
        self.revision = batch.revision;

        if let Err(source) = self.persist(&batch.events, &volatile) {
            let failure = Failure(Arc::new(source));
            error!(error = %failure.0, "cannot write to the store");
            if failure.0.sqlite_error_code() != Some(rusqlite::ErrorCode::DiskFull) {
                self.broken = Some(failure.clone());
            }
            for (reply, results) in replies {
                let failed = results.into_iter().map(|result| match result {
                    Ok(_) => Err(CommitError::Io(Box::new(failure.clone()))),
                    refused => refused,
                });
                let _ = reply.send(failed.collect());
            }
            return;
        }

        for event in &batch.events {
            if volatile.contains(&event.revision) {
                self.unsaved.insert(event.key.clone());
            } else {
                self.unsaved.remove(&event.key);
            }
        }
        self.log.publish(batch.events);
        for (reply, results) in replies {
            // A caller that has gone away does not undo its write.
            let _ = reply.send(results);
        }
    }

    /// Makes the events durable that must be. Touches the disk only if there are any, or if the reserved
    /// block is used up.
    fn persist(&mut self, events: &[Event], volatile: &HashSet<Revision>) -> rusqlite::Result<()> {
        let rows: Vec<Row<'_>> = events
            .iter()
            .filter(|event| !volatile.contains(&event.revision))
            .map(|event| Row { revision: event.revision, key: &event.key, entry: event.entry.as_ref() })
            .collect();
        let last_volatile = volatile.iter().max().copied().unwrap_or(0);
        let reserve = (last_volatile > self.reserved).then_some(last_volatile + BLOCK_REVISIONS);
        if rows.is_empty() && reserve.is_none() {
            return Ok(());
        }
        self.disk.append(&rows, reserve)?;
        self.reserved = reserve.unwrap_or(self.reserved);
        Ok(())
    }

    fn sweep(&mut self) {
        if let Err(source) = self.disk.sweep() {
            warn!(error = %source, "cannot compact the store");
            if source.sqlite_error_code() != Some(rusqlite::ErrorCode::DiskFull) {
                self.broken = Some(Failure(Arc::new(source)));
            }
        }
    }

    /// Before an orderly end: what is only in memory, and the end of the revisions really used.
    fn save(&mut self) {
        if self.broken.is_some() || (self.unsaved.is_empty() && self.reserved <= self.revision) {
            return;
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        let mut states: Vec<_> = self
            .log
            .read(|state| unsaved.into_iter().map(|key| (state.live.get(&key).cloned(), key)).collect());
        states.sort_by_key(|(entry, _)| entry.as_ref().map_or(Revision::MAX, |entry| entry.mod_revision));
        let mut revision = self.revision;
        let rows: Vec<Row<'_>> = states
            .iter()
            .map(|(entry, key)| Row {
                // A deletion's own revision is not kept anywhere: it takes a new one.
                revision: entry.as_ref().map_or_else(
                    || {
                        revision += 1;
                        revision
                    },
                    |entry| entry.mod_revision,
                ),
                key,
                entry: entry.as_ref(),
            })
            .collect();
        if let Err(source) = self.disk.append(&rows, Some(revision)) {
            warn!(error = %source, "cannot save volatile writes; a crash would have lost them too");
        }
    }
}

/// The request with all that have queued behind it, as far as one transaction should hold.
fn gather(first: Request, queue: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let weigh = |request: &Request| {
        let bytes: usize = request.writes.iter().map(|w| w.value.as_ref().map_or(0, |v| v.len())).sum();
        (request.writes.len(), bytes)
    };
    let (mut writes, mut bytes) = weigh(&first);
    let mut requests = vec![first];
    while writes < BATCH_WRITES
        && bytes < BATCH_BYTES
        && let Ok(request) = queue.try_recv()
    {
        let (more_writes, more_bytes) = weigh(&request);
        writes += more_writes;
        bytes += more_bytes;
        requests.push(request);
    }
    requests
}

fn refuse(request: Request, failure: &Failure) {
    let refused = request.writes.iter().map(|_| Err(CommitError::Io(Box::new(failure.clone())))).collect();
    let _ = request.reply.send(refused);
}
