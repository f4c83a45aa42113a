//! The one thread that writes: takes what has queued, decides it, makes it durable, publishes it.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::disk::{Disk, Row};
use super::wait::{Heard, hear};
use crate::state::{Batch, Log};
use crate::{CommitError, Event, Revision, Write};

/// Writes, and bytes of values, that share one transaction at most.
const BATCH_WRITES: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// Revisions reserved at once for volatile writes: one disk write in a month for a few idle nodes.
const BLOCK_REVISIONS: Revision = 1 << 20;

pub(crate) struct Request {
    /// Where there are none, it is only asked whether the disk takes any.
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
    /// Why the last write to the disk failed; `None` when it succeeded.
    failing: Failing,
    /// When something was last written to the disk of which nothing has been deleted since.
    written_at: Option<Instant>,
    /// Nothing can be written any more: after a failed fsync nobody knows what is on disk.
    broken: bool,
}

/// Shared with those who ask how it goes.
pub(crate) type Failing = Arc<Mutex<Option<Failure>>>;

/// One failure of the disk, told to every caller of the batch.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log cannot be appended to")]
pub(crate) struct Failure(#[source] Arc<rusqlite::Error>);

impl Writer {
    pub(crate) fn new(
        log: Arc<Log>,
        disk: Disk,
        revision: Revision,
        reserved: Revision,
        failing: Failing,
    ) -> Self {
        // What an earlier run left is as old as this one.
        let written_at = Some(Instant::now());
        Self { log, disk, revision, reserved, unsaved: HashSet::new(), failing, written_at, broken: false }
    }

    /// Runs until all senders of the queue are gone, or until only who opens the file anew knows what it
    /// holds.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while !self.broken {
            // What is full is swept again when something was written.
            let sweeps = self.failing.lock().is_none() && self.disk.wants_sweep();
            let until = if sweeps { Some(Instant::now()) } else { self.quiet_at() };
            match hear(&mut queue, until) {
                Heard::Request(request) => self.commit(gather(request, &mut queue)),
                Heard::Nothing if sweeps => {}
                Heard::Nothing => self.tidy(Instant::now()),
                Heard::End => break,
            }
            if !self.broken && self.failing.lock().is_none() && self.disk.wants_sweep() {
                self.sweep();
            }
            if queue.is_empty() {
                self.disk.prepare_room();
            }
        }
        self.save();
    }

    /// When there is something to clear away, unless something is written before: once after each burst.
    fn quiet_at(&self) -> Option<Instant> {
        let history = self.log.read(|state| state.history.outdated_at());
        [history, self.sweep_at()].into_iter().flatten().min()
    }

    fn sweep_at(&self) -> Option<Instant> {
        let clear = self.failing.lock().is_none() && self.disk.is_worth_a_sweep();
        let written_at = self.written_at.filter(|_| clear)?;
        written_at.checked_add(self.log.read(|state| state.history.age_max()))
    }

    /// Nobody has written for long: what is only kept for a while has no reason to be there any more.
    fn tidy(&mut self, now: Instant) {
        self.log.tidy(now);
        if self.sweep_at().is_some_and(|at| at <= now) {
            self.written_at = None;
            self.disk.begin_sweep();
        }
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let mut batch = Batch::after(self.revision);
        let mut volatile = HashSet::new();
        let mut replies = Vec::with_capacity(requests.len());
        let asked = requests.iter().any(|request| request.writes.is_empty());
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

        if let Err(source) = self.persist(&batch.events, &volatile, asked) {
            let failure = self.failed(source, "cannot write to the store");
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

    /// Makes the events durable that must be. Touches the disk only if there are any, if the reserved block
    /// is used up, or if `asked` whether that is possible.
    fn persist(
        &mut self,
        events: &[Event],
        volatile: &HashSet<Revision>,
        asked: bool,
    ) -> rusqlite::Result<()> {
        let rows: Vec<Row<'_>> = events
            .iter()
            .filter(|event| !volatile.contains(&event.revision))
            .map(|event| Row { revision: event.revision, key: &event.key, entry: event.entry.as_ref() })
            .collect();
        let last_volatile = volatile.iter().max().copied().unwrap_or(0);
        let reserve = match last_volatile > self.reserved {
            true => Some(last_volatile + BLOCK_REVISIONS),
            false => asked.then_some(self.reserved),
        };
        if rows.is_empty() && reserve.is_none() {
            return Ok(());
        }
        self.disk.append(&rows, reserve)?;
        if !rows.is_empty() {
            self.written_at = Some(Instant::now());
        }
        self.reserved = reserve.unwrap_or(self.reserved);
        if self.failing.lock().take().is_some() {
            info!("the store is written to again");
        }
        Ok(())
    }

    fn sweep(&mut self) {
        if let Err(source) = self.disk.sweep() {
            self.failed(source, "cannot compact the store");
        }
    }

    /// Takes note of a failure. A full disk may have room later, and SQLite takes back what it had begun; after
    /// any other failure the file has to be opened anew.
    fn failed(&mut self, source: rusqlite::Error, what: &'static str) -> Failure {
        self.broken = source.sqlite_error_code() != Some(rusqlite::ErrorCode::DiskFull);
        let failure = Failure(Arc::new(source));
        if self.failing.lock().replace(failure.clone()).is_none() || self.broken {
            error!(error = %failure.0, again = !self.broken, "{what}");
        }
        failure
    }

    /// Before an orderly end: what is only in memory, and the end of the revisions really used.
    fn save(&mut self) {
        if self.broken || (self.unsaved.is_empty() && self.reserved <= self.revision) {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt;

    use super::*;
    use crate::{Expect, Limits};

    /// A writer without a thread, over a file in `directory`.
    fn writer(directory: &std::path::Path) -> Writer {
        let (disk, recovered) = Disk::open(&directory.join("store.db")).unwrap();
        let log = Arc::new(Log::new(Limits::default(), recovered.revision, recovered.live));
        Writer::new(log, disk, recovered.revision, recovered.reserved, Failing::default())
    }

    fn write(key: &str, bytes: usize, volatile: bool) -> Write {
        let value = Some(Bytes::from(vec![b'x'; bytes]));
        Write { key: key.into(), expect: Expect::Any, value, volatile }
    }

    fn commit(writer: &mut Writer, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        let (reply, results) = oneshot::channel();
        writer.commit(vec![Request { writes, reply }]);
        results.blocking_recv().unwrap()
    }

    fn is_failing(writer: &Writer) -> bool {
        writer.failing.lock().is_some()
    }

    #[test]
    fn a_full_disk_is_told_until_it_has_room_and_kills_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        assert!(commit(&mut writer, vec![write("a", 10, false)])[0].is_ok());
        writer.disk.limit_pages(1);
        for _ in 0..20 {
            assert!(matches!(
                commit(&mut writer, vec![write("b", 1 << 20, false)])[0],
                Err(CommitError::Io(_))
            ));
            assert!(is_failing(&writer) && !writer.broken);
        }
        // What needs no disk goes on, and says nothing about it.
        writer.reserved = writer.revision + 10;
        assert!(commit(&mut writer, vec![write("lease", 10, true)])[0].is_ok());
        assert!(is_failing(&writer));

        writer.disk.limit_pages(1 << 20);
        assert!(commit(&mut writer, Vec::new()).is_empty());
        assert!(!is_failing(&writer), "who asks finds the room, though nobody writes");
        assert!(commit(&mut writer, vec![write("b", 1 << 20, false)])[0].is_ok());
        let live = writer.log.read(|state| state.live.keys().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(live, ["a", "b", "lease"]);
    }

    #[test]
    fn what_a_burst_left_goes_once_when_nobody_has_written_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        assert_eq!(writer.quiet_at(), None, "there is nothing");
        for _ in 0..3 {
            let burst = (0..1_000).map(|each| write(&format!("k{each}"), 10, false)).collect();
            commit(&mut writer, burst);
        }
        assert_eq!(writer.disk.count(), (3_000, 2_000));
        let age = Limits::default().age_max;
        let quiet = writer.quiet_at().unwrap();
        assert!(quiet <= Instant::now() + age);
        let late = quiet + age;
        // A lease that is renewed keeps its own moment alone, and the disk waits for no lease.
        commit(&mut writer, vec![write("lease", 10, true)]);
        writer.tidy(late);
        while writer.disk.wants_sweep() {
            writer.sweep();
        }
        assert_eq!(writer.disk.count(), (1_000, 0));
        let kept = writer.log.snapshot();
        assert_eq!((kept.compacted, kept.entries.len()), (kept.revision, 1_001));
        assert_eq!(writer.quiet_at(), None, "an idle store writes nothing");
        commit(&mut writer, vec![write("k1", 10, false)]);
        writer.tidy(Instant::now() + 2 * age);
        assert!(!writer.disk.wants_sweep(), "a write now and then is no burst");
        assert_eq!(writer.quiet_at(), None);
    }

    #[test]
    fn a_writer_whose_file_is_in_doubt_ends_for_who_opens_it_anew() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(directory.path());
        writer.disk.break_tables();
        let (requests, queue) = mpsc::channel(2);
        let (reply, results) = oneshot::channel();
        requests.try_send(Request { writes: vec![write("a", 1, false)], reply }).ok().unwrap();
        // Returns although `requests` lives.
        writer.run(queue);
        assert!(matches!(results.blocking_recv().unwrap()[0], Err(CommitError::Io(_))));
    }

    #[tokio::test]
    async fn watches_end_after_all_was_reported_when_the_log_is_closed() {
        let log = Log::new(Limits::default(), 0, std::collections::BTreeMap::new());
        let mut idle = log.watch(0).unwrap();
        log.commit(vec![write("a", 1, false)]);
        log.close();
        assert_eq!(idle.next().await.unwrap().unwrap().revision, 1);
        assert!(idle.next().await.is_none());
    }
}
