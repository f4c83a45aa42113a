//! The file of the audit log, written by a thread of its own.
//!
//! Requests hand over events by a bounded queue, and wait when it is full: nothing is left out because
//! the disk is slow. When it can't be written (it is full, or the file system is gone), requests go on all
//! the same; the events are lost, how many is logged, and writing is tried again with the next ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::event::{Event, now};

/// Events that wait to be written.
const QUEUE: usize = 1024;
/// Events that are written at once.
const BATCH: usize = 256;
/// How often a trouble that goes on is told of.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Rotated at this size when none is given, as upstream.
const SIZE_DEFAULT_MIB: u64 = 100;

/// Where events go, and how much of them is kept.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// `-` is the standard output, which is not rotated.
    pub path: PathBuf,
    /// The size in MiB after which the file is rotated; 0 for 100.
    pub max_size_mib: u64,
    /// How many rotated files are kept; 0 for all.
    pub max_backups: usize,
    /// How many days rotated files are kept; 0 for ever.
    pub max_age_days: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {path}")]
pub struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

enum Message {
    Event(Box<Event>),
    Flush(oneshot::Sender<()>),
}

/// The queue to the log's thread.
#[derive(Clone)]
pub(crate) struct Log {
    queue: mpsc::Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl Log {
    pub(crate) fn open(config: LogConfig) -> Result<Self, LogError> {
        let (queue, mut events) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let failed = |source| LogError { path: config.path.clone(), source };
        let mut writer = Writer {
            target: Target::open(&config.path).map_err(failed)?,
            config: config.clone(),
            lost: Arc::clone(&lost),
            told: None,
        };
        let write = move || {
            let mut batch = Vec::with_capacity(BATCH);
            while events.blocking_recv_many(&mut batch, BATCH) > 0 {
                writer.write(&mut batch);
            }
        };
        std::thread::Builder::new().name("audit-log".into()).spawn(write).map_err(failed)?;
        Ok(Self { queue, lost })
    }

    pub(crate) async fn write(&self, event: Event) {
        if self.queue.send(Message::Event(Box::new(event))).await.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For where nobody can wait.
    pub(crate) fn write_now(&self, event: Event) {
        if self.queue.try_send(Message::Event(Box::new(event))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was written before is in the file.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // An error is a writer that is gone.
            let _ = written.await;
        }
    }
}

enum Target {
    Stdout,
    File { file: File, size: u64 },
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self::File { file, size })
    }
}

struct Writer {
    config: LogConfig,
    target: Target,
    /// Events that were not written and not told of.
    lost: Arc<AtomicU64>,
    /// When a trouble was last told of; `None` while there is none.
    told: Option<Instant>,
}

impl Writer {
    fn write(&mut self, batch: &mut Vec<Message>) {
        let mut lines = Vec::new();
        let (mut events, mut flushed) = (0, Vec::new());
        for message in batch.drain(..) {
            match message {
                Message::Event(event) => {
                    serde_json::to_writer(&mut lines, &event).expect("an event can be written to memory");
                    lines.push(b'\n');
                    events += 1;
                }
                Message::Flush(done) => flushed.push(done),
            }
        }
        let written = self.append(&lines);
        self.tell(events, written);
        for done in flushed {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let max = match self.config.max_size_mib {
            0 => SIZE_DEFAULT_MIB << 20,
            mib => mib << 20,
        };
        if let Target::File { size, .. } = &self.target
            && *size > 0
            && *size + lines.len() as u64 > max
        {
            self.rotate()?;
        }
        match &mut self.target {
            Target::Stdout => io::stdout().write_all(lines),
            Target::File { file, size } => match file.write_all(lines) {
                Ok(()) => {
                    *size += lines.len() as u64;
                    Ok(())
                }
                Err(error) => {
                    // No half lines: what comes next begins at a line's start.
                    file.set_len(*size)?;
                    Err(error)
                }
            },
        }
    }

    /// The present file gets the time into its name, and a new one begins.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.config.path;
        fs::rename(path, backup(path, now()))?;
        self.target = Target::open(path)?;
        for old in surplus(path, &self.config, SystemTime::now())? {
            fs::remove_file(old)?;
        }
        Ok(())
    }

    fn tell(&mut self, events: u64, written: io::Result<()>) {
        match written {
            Ok(()) if self.told.is_none() && self.lost.load(Ordering::Relaxed) == 0 => {}
            Ok(()) => {
                self.told = None;
                let lost = self.lost.swap(0, Ordering::Relaxed);
                info!(lost, "the audit log is written again");
            }
            Err(error) => {
                let lost = self.lost.fetch_add(events, Ordering::Relaxed) + events;
                if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    self.told = Some(Instant::now());
                    error!(%error, path = %self.config.path.display(), lost, "the audit log can't be written; events are lost");
                }
            }
        }
    }
}

/// `audit.log` rotated at a time is `audit-2006-01-02T15-04-05.000.log`.
fn backup(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    let at = format!("{at:.3}").trim_end_matches('Z').replace(':', "-");
    path.with_file_name(format!("{stem}-{at}{extension}"))
}

fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

/// The rotated files that are to go: all but the newest ones, and old ones.
fn surplus(path: &Path, config: &LogConfig, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut backups: Vec<(String, PathBuf)> = fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let at = name.strip_prefix(&format!("{stem}-"))?.strip_suffix(&extension)?;
            // Only what this log has named so is its own.
            let looks = at.len() == "2006-01-02T15-04-05.000".len() && at.as_bytes()[10] == b'T';
            looks.then(|| (at.to_owned(), entry.path()))
        })
        .collect();
    backups.sort_by(|a, b| b.0.cmp(&a.0));
    let age_max = Duration::from_secs(config.max_age_days.saturating_mul(86_400));
    let is_old = |path: &Path| {
        let modified = fs::metadata(path).and_then(|meta| meta.modified());
        config.max_age_days > 0
            && modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > age_max))
    };
    let kept = if config.max_backups == 0 { usize::MAX } else { config.max_backups };
    Ok(backups
        .into_iter()
        .enumerate()
        .filter(|(at, (_, path))| *at >= kept || is_old(path))
        .map(|(_, (_, path))| path)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_bear_the_time_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.log");
        let at = |seconds: i64| Timestamp::from_second(seconds).expect("a time");
        let first = backup(&path, at(1_000_000_000));
        assert_eq!(first.file_name().and_then(|n| n.to_str()), Some("audit-2001-09-09T01-46-40.000.log"));
        let second = backup(&path, at(1_000_000_001));
        for file in [&first, &second, &dir.path().join("audit-of-something.log")] {
            fs::write(file, "x").expect("it is written");
        }
        let config =
            |max_backups, max_age_days| LogConfig { max_backups, max_age_days, ..LogConfig::default() };
        let gone = |config: &LogConfig, now| surplus(&path, config, now).expect("it is readable");
        let now = SystemTime::now();
        assert_eq!(gone(&config(0, 0), now), [""; 0].map(PathBuf::from));
        assert_eq!(gone(&config(1, 0), now), std::slice::from_ref(&first));
        let later = now + Duration::from_secs(2 * 86_400);
        assert_eq!(gone(&config(0, 3), later), [""; 0].map(PathBuf::from));
        assert_eq!(gone(&config(0, 1), later), [second, first]);
    }

    #[test]
    fn a_disk_that_is_full_loses_events_and_no_lines() {
        // Every write to it fails as on a full disk.
        let mut writer = Writer {
            target: Target::open(Path::new("/dev/full")).expect("it opens"),
            config: LogConfig { path: "/dev/full".into(), ..LogConfig::default() },
            lost: Arc::default(),
            told: None,
        };
        let failed = writer.append(b"line\n").expect_err("it is full");
        writer.tell(1, Err(failed));
        assert_eq!(writer.lost.load(Ordering::Relaxed), 1);
        let dir = tempfile::tempdir().expect("a directory");
        writer.target = Target::open(&dir.path().join("a.log")).expect("it opens");
        let written = writer.append(b"line\n");
        writer.tell(1, written);
        assert_eq!((writer.lost.load(Ordering::Relaxed), writer.told.is_none()), (0, true));
    }
}
