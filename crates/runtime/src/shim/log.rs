//! A container's log file in the format of the Container Runtime Interface.
//!
//! `2016-10-06T00:17:09.669794202Z stdout F text`: time, stream, `F` for a whole line or `P` for a part of
//! one that goes on in the next entry of its stream, and what was written.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// A line longer than this is logged in parts.
pub(crate) const LINE_MAX: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

pub(crate) struct Log {
    /// Held open, and the name in it never followed: a pod may have been given the directory.
    directory: OwnedFd,
    name: OsString,
    /// `O_NOFOLLOW`, but for a guard that is left out.
    links: OFlag,
    file: Option<File>,
    /// Entries of one read, written at once.
    entries: Vec<u8>,
    /// The line that each stream is in the middle of.
    open: [Vec<u8>; 2],
}

impl Log {
    pub(crate) fn open(path: PathBuf) -> io::Result<Log> {
        Log::open_with(path, OFlag::O_NOFOLLOW)
    }

    /// See [`crate::Weakness::follows_links`].
    pub(crate) fn open_following(path: PathBuf) -> io::Result<Log> {
        Log::open_with(path, OFlag::empty())
    }

    fn open_with(path: PathBuf, links: OFlag) -> io::Result<Log> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | links;
        let directory = nix::fcntl::open(path.parent().unwrap_or(Path::new("/")), flags, Mode::empty())?;
        let (entries, open) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut log = Log { directory, name, links, file: None, entries, open };
        log.reopen()?;
        Ok(log)
    }

    /// Goes on in a new file of the same name, after someone renamed the old one.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
        // Whoever opens a FIFO waits, and a shim must not.
        let flags = flags | self.links | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o640);
        let file = File::from(nix::fcntl::openat(&self.directory, &*self.name, flags, mode)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("the log is not a regular file"));
        }
        self.file = Some(file);
        Ok(())
    }

    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.write_at(SystemTime::now(), stream, bytes)
    }

    fn write_at(&mut self, now: SystemTime, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let head = head(now, stream);
        let open = &mut self.open[stream as usize];
        while !bytes.is_empty() {
            let room = LINE_MAX - open.len();
            let (line, whole) = match bytes.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => (end, true),
                None if bytes.len() > room => (room, false),
                None => {
                    open.extend_from_slice(bytes);
                    break;
                }
            };
            push(&mut self.entries, &head, if whole { b"F " } else { b"P " }, open, &bytes[..line]);
            open.clear();
            bytes = &bytes[line + usize::from(whole)..];
        }
        self.flush()
    }

    /// The stream has ended: what stands in it without a line's end is a line too.
    pub(crate) fn close(&mut self, stream: Stream) -> io::Result<()> {
        let open = std::mem::take(&mut self.open[stream as usize]);
        if !open.is_empty() {
            push(&mut self.entries, &head(SystemTime::now(), stream), b"F ", &open, b"");
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = match &mut self.file {
            Some(file) => file.write_all(&self.entries),
            None => Ok(()),
        };
        self.entries.clear();
        self.entries.shrink_to(LINE_MAX);
        written
    }
}

fn push(entries: &mut Vec<u8>, head: &[u8], tag: &[u8], open: &[u8], rest: &[u8]) {
    for part in [head, tag, open, rest, b"\n"] {
        entries.extend_from_slice(part);
    }
}

fn head(now: SystemTime, stream: Stream) -> Vec<u8> {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    format!("{} {name} ", rfc3339(now)).into_bytes()
}

/// UTC with nine digits of a second.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date in the calendar whose years begin in March, so that a leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, 123)
    }

    #[test]
    fn dates() {
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000000123Z");
        assert_eq!(rfc3339(at(951_827_696)), "2000-02-29T12:34:56.000000123Z");
        assert_eq!(rfc3339(at(4_102_444_799)), "2099-12-31T23:59:59.000000123Z");
    }

    fn logged(writes: &[(Stream, &[u8])]) -> Vec<(String, String, usize)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.clone()).unwrap();
        for (stream, bytes) in writes {
            log.write_at(at(0), *stream, bytes).unwrap();
        }
        log.close(Stream::Stdout).unwrap();
        log.close(Stream::Stderr).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let entry = |line: &str| {
            let fields: Vec<&str> = line.splitn(4, ' ').collect();
            (fields[1].to_owned(), fields[2].to_owned(), fields[3].len())
        };
        text.lines().map(entry).collect()
    }

    #[test]
    fn a_log_is_not_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, log) = (dir.path().join("victim"), dir.path().join("log"));
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &log).unwrap();
        assert!(Log::open(log.clone()).is_err());
        std::fs::remove_file(&log).unwrap();
        let mut open = Log::open(log.clone()).unwrap();
        open.write(Stream::Stdout, b"one\n").unwrap();
        // As a pod does that was given the directory, before the log is rotated.
        std::fs::rename(&log, dir.path().join("log.1")).unwrap();
        std::os::unix::fs::symlink(&victim, &log).unwrap();
        assert!(open.reopen().is_err());
        open.write(Stream::Stdout, b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(std::fs::read_to_string(dir.path().join("log.1")).unwrap().lines().count(), 2);
        // A directory in place of which there is a link is no better.
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("outside", dir.path().join("logs")).unwrap();
        assert!(Log::open(dir.path().join("logs/0.log")).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert!(Log::open(dir.path().join("fifo")).is_err());
    }

    fn entry(stream: &str, tag: &str, length: usize) -> (String, String, usize) {
        (stream.to_owned(), tag.to_owned(), length)
    }

    #[test]
    fn lines_of_two_streams_are_kept_apart() {
        use Stream::{Stderr, Stdout};
        assert_eq!(
            logged(&[(Stdout, b"ab"), (Stderr, b"xyz\n\n"), (Stdout, b"c\nrest")]),
            [
                entry("stderr", "F", 3),
                entry("stderr", "F", 0),
                entry("stdout", "F", 3),
                entry("stdout", "F", 4)
            ]
        );
    }

    #[test]
    fn long_lines_come_in_parts() {
        let long = vec![b'a'; 2 * LINE_MAX + 5];
        let exact = [&vec![b'a'; LINE_MAX][..], b"\n"].concat();
        let parts = [entry("stdout", "P", LINE_MAX), entry("stdout", "P", LINE_MAX), entry("stdout", "F", 5)];
        assert_eq!(logged(&[(Stream::Stdout, &long)]), parts);
        assert_eq!(logged(&[(Stream::Stdout, &exact)]), [entry("stdout", "F", LINE_MAX)]);
        let halves = exact.split_at(LINE_MAX);
        assert_eq!(
            logged(&[(Stream::Stdout, halves.0), (Stream::Stdout, halves.1)]),
            [entry("stdout", "F", LINE_MAX)]
        );
    }
}
