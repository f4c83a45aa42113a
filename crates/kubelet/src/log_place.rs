//! Files that pods may have had their hands on: opened only where they lie themselves.
//!
//! A pod that is given the node's directory of logs may put a link to anything in the place of its log,
//! and then ask for the log. So below that directory no part of a name may be a link, and what is opened
//! is a regular file. The directory itself is the node's business.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, fstatat};

/// How deep such files lie: `NAMESPACE_NAME_UID/CONTAINER/0.log`.
const DEPTH: usize = 3;

/// A file's directory, held open, and its name there.
pub(crate) struct Place<'a> {
    directory: OwnedFd,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    pub(crate) fn of(path: &'a Path) -> io::Result<Place<'a>> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let top = path.ancestors().take(DEPTH + 1).last().unwrap_or(path);
        let below = path.parent().and_then(|parent| parent.strip_prefix(top).ok());
        let below =
            below.filter(|below| !below.as_os_str().is_empty()).map_or(PathBuf::from("."), Path::to_owned);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = nix::fcntl::open(top, flags, Mode::empty())?;
        let how = OpenHow::new().flags(flags).resolve(straight());
        Ok(Place { directory: openat2(top.as_fd(), &below, how)?, name })
    }

    /// For reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        // Whoever opens a FIFO waits.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(straight());
        let file = File::from(openat2(self.directory.as_fd(), self.name, how)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(file)
    }

    /// Its size, if it is there.
    pub(crate) fn length(&self) -> Option<u64> {
        let stat = fstatat(&self.directory, self.name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// Within its directory.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.directory, from, &self.directory, to)?)
    }
}

/// Opens such a file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    Place::of(path)?.open()
}

fn straight() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_read_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = dir.path().join("logs");
        let own = logs.join("n_p_u/c");
        fs::create_dir_all(&own).expect("makes it");
        let secret = dir.path().join("secret");
        fs::create_dir(&secret).expect("makes it");
        fs::write(secret.join("0.log"), "secret").expect("writes");
        fs::write(own.join("0.log"), "log").expect("writes");
        let read = |path: &Path| open(path).and_then(io::read_to_string);
        assert_eq!(read(&own.join("0.log")).expect("it is a log"), "log");

        symlink(secret.join("0.log"), own.join("1.log")).expect("links");
        // Whoever follows it gets there.
        assert_eq!(std::fs::read_to_string(own.join("1.log")).expect("it leads there"), "secret");
        assert!(read(&own.join("1.log")).is_err(), "the file");
        symlink(&secret, logs.join("n_p_u/d")).expect("links");
        assert!(read(&logs.join("n_p_u/d/0.log")).is_err(), "its directory");
        fs::create_dir(secret.join("c")).expect("makes it");
        fs::write(secret.join("c/0.log"), "secret").expect("writes");
        symlink(&secret, logs.join("n_q_v")).expect("links");
        assert!(read(&logs.join("n_q_v/c/0.log")).is_err(), "its pod's directory");
        symlink("../../../secret/0.log", own.join("2.log")).expect("links");
        assert!(read(&own.join("2.log")).is_err(), "a relative link");
        nix::unistd::mkfifo(&own.join("3.log"), Mode::S_IRWXU).expect("makes it");
        assert!(read(&own.join("3.log")).is_err(), "a FIFO, at once");
        // Where the node itself keeps its logs elsewhere, that is its own affair.
        symlink(&logs, dir.path().join("elsewhere")).expect("links");
        assert_eq!(read(&dir.path().join("elsewhere/n_p_u/c/0.log")).expect("it is a log"), "log");
    }

    #[test]
    fn nothing_is_renamed_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = dir.path().join("logs/n_p_u");
        fs::create_dir_all(&logs).expect("makes it");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("makes it");
        fs::write(outside.join("0.log"), "x").expect("writes");
        symlink(&outside, logs.join("c")).expect("links");
        assert!(Place::of(&logs.join("c/0.log")).is_err());
        symlink(outside.join("0.log"), logs.join("0.log")).expect("links");
        let path = logs.join("0.log");
        let place = Place::of(&path).expect("its directory is one");
        place.rename(OsStr::new("0.log"), OsStr::new("0.log.1")).expect("the link itself is renamed");
        assert!(outside.join("0.log").exists());
    }
}
