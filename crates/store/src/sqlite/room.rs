//! Room in the write-ahead log before it is needed.
//!
//! To make bytes durable at the end of a file, the file system has to make the file's new length durable as
//! well, which costs a transaction of its own journal. So the log is lengthened by zeros, ahead and while
//! nobody waits, and commits write over those. SQLite reads a log up to the first frame whose checksum is
//! wrong, so that zeros behind the last commit are nothing to it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Zeros that are added at once: some hundred small commits.
const STEP_BYTES: u64 = 4 << 20;

/// Below this a log is that of a store that was just opened, when the disk has other things to do.
const MIN_BYTES: u64 = 256 << 10;

pub(super) struct Room {
    path: PathBuf,
    /// Up to where there is room. A longer file was lengthened by a commit.
    end: u64,
    /// The longest log that gets room: from there on SQLite begins at the front again.
    end_max: u64,
    log: Option<File>,
}

impl Room {
    /// For the log beside the database at `path`.
    pub(super) fn new(path: &Path, end_max: u64) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Self { path: log.into(), end: MIN_BYTES, end_max, log: None }
    }

    /// Lengthens a log that has outgrown its room. Called by who writes the log, between two commits.
    pub(super) fn make(&mut self) -> io::Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            None => match OpenOptions::new().write(true).open(&self.path) {
                Ok(log) => self.log.insert(log),
                // Nothing has been committed yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let length = log.metadata()?.len();
        if length <= self.end || length >= self.end_max {
            return Ok(());
        }
        let zeros = vec![0; 256 << 10];
        let end = (length + STEP_BYTES).min(self.end_max);
        let mut at = length;
        while at < end {
            let part = zeros.len().min((end - at) as usize);
            log.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
        log.sync_data()?;
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn room_is_made_when_a_commit_has_lengthened_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("store.db-wal");
        let max = 6 << 20;
        let mut room = Room::new(&directory.path().join("store.db"), max);
        room.make().unwrap();
        assert!(!log.exists(), "SQLite makes the log, with the first commit");
        std::fs::write(&log, vec![1; MIN_BYTES as usize]).unwrap();
        room.make().unwrap();
        assert_eq!(length(&log), MIN_BYTES, "a short log needs none");
        std::fs::write(&log, vec![1; MIN_BYTES as usize + 1]).unwrap();
        room.make().unwrap();
        let end = MIN_BYTES + 1 + STEP_BYTES;
        assert_eq!(length(&log), end);
        room.make().unwrap();
        assert_eq!(length(&log), end, "there is room");
        let bytes = std::fs::read(&log).unwrap();
        assert!(bytes[..MIN_BYTES as usize + 1].iter().all(|byte| *byte == 1), "nothing is written over");
        File::options().write(true).open(&log).unwrap().set_len(end + 1).unwrap();
        room.make().unwrap();
        assert_eq!(length(&log), max, "no more than a log gets long");
        room.make().unwrap();
        assert_eq!(length(&log), max);
    }
}
