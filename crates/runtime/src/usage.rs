//! How much of a disk a directory uses, as du(1) counts it: the blocks of every file once.
//!
//! What lies below may be a container's, and change meanwhile: links are not followed, other file systems
//! are left out, and a tree that is absurdly deep or large is not read to its end.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Each level holds a descriptor open.
const DEPTH_MAX: usize = 128;
const ENTRIES_MAX: u64 = 1_000_000;
/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub bytes: u64,
    pub inodes: u64,
}

/// Of the directory and all below it. Files that vanish meanwhile don't count; beyond a depth of 128
/// directories or a million files the rest doesn't either.
pub fn of(path: &Path) -> io::Result<DiskUsage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&top)?;
    let mut walk = Walk { device: found.st_dev, linked: HashSet::new(), sum: DiskUsage::default() };
    walk.count(&found);
    walk.enter(top, 1)?;
    Ok(walk.sum)
}

struct Walk {
    device: u64,
    /// Files of several names that were counted.
    linked: HashSet<u64>,
    sum: DiskUsage,
}

impl Walk {
    fn count(&mut self, found: &rustix::fs::Stat) {
        self.sum.inodes += 1;
        self.sum.bytes += u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK_BYTES;
    }

    fn enter(&mut self, dir: OwnedFd, depth: usize) -> io::Result<()> {
        let mut entries = Dir::read_from(&dir)?;
        while let Some(entry) = entries.read() {
            if self.sum.inodes >= ENTRIES_MAX {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let found = match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                answer => answer?,
            };
            let kind = FileType::from_raw_mode(found.st_mode);
            let again =
                kind != FileType::Directory && found.st_nlink > 1 && !self.linked.insert(found.st_ino);
            if found.st_dev != self.device || again {
                continue;
            }
            self.count(&found);
            if kind == FileType::Directory && depth < DEPTH_MAX {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()) {
                    // Gone, or replaced by something else.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    answer => self.enter(answer?, depth + 1)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn blocks(path: &Path) -> u64 {
        path.symlink_metadata().unwrap().blocks() * BLOCK_BYTES
    }

    #[test]
    fn every_file_counts_once_and_links_lead_nowhere() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        fs::write(elsewhere.path().join("large"), vec![1; 1 << 20]).unwrap();
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), vec![1; 100_000]).unwrap();
        // Some file systems give out blocks only then.
        fs::File::open(at("a/b/file")).unwrap().sync_all().unwrap();
        fs::hard_link(at("a/b/file"), at("a/again")).unwrap();
        symlink(elsewhere.path(), at("a/away")).unwrap();
        symlink("..", at("a/up")).unwrap();
        let own = ["", "a", "a/b", "a/b/file", "a/away", "a/up"];
        let expected = DiskUsage { bytes: own.iter().map(|name| blocks(&at(name))).sum(), inodes: 6 };
        assert_eq!(of(dir.path()).unwrap(), expected);
    }

    #[test]
    fn a_link_or_nothing_is_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        symlink(dir.path(), dir.path().join("link")).unwrap();
        assert!(of(&dir.path().join("link")).is_err());
        assert!(of(&dir.path().join("none")).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_tree_without_end_is_read_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..2 * DEPTH_MAX).fold(dir.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        assert_eq!(of(dir.path()).unwrap().inodes, DEPTH_MAX as u64 + 1);
    }
}
