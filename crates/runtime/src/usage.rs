//! How much of a disk a directory uses, as du(1) counts it: the blocks of every file once.
//!
//! What lies below may be a container's, and change meanwhile: links are not followed, other file systems
//! are left out, and a tree that is absurdly large is not read to its end. However deep it is, one descriptor
//! is open at a time.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const ENTRIES_MAX: u64 = 1_000_000;
/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub bytes: u64,
    pub inodes: u64,
}

/// Of the directory and all below it. Files that vanish meanwhile don't count; beyond a million files the rest
/// doesn't either.
pub fn of(path: &Path) -> io::Result<DiskUsage> {
    of_all_but(path, &[])
}

/// The same without what bears one of these names in the directory itself.
pub fn of_all_but(path: &Path, left_out: &[&CStr]) -> io::Result<DiskUsage> {
    let top = open(CWD, path)?;
    let found = rustix::fs::fstat(&top)?;
    let mut walk = Walk { device: found.st_dev, linked: HashSet::new(), sum: DiskUsage::default() };
    walk.count(&found);
    walk.all_below(top, found.st_ino, left_out)?;
    Ok(walk.sum)
}

fn open(parent: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

struct Walk {
    device: u64,
    /// Files of several names that were counted.
    linked: HashSet<u64>,
    sum: DiskUsage,
}

/// A directory on the way down.
struct Level {
    inode: u64,
    /// The directories in it that were not entered yet.
    left: Vec<CString>,
}

impl Walk {
    fn count(&mut self, found: &Stat) {
        self.sum.inodes += 1;
        self.sum.bytes += u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK_BYTES;
    }

    fn all_below(&mut self, top: OwnedFd, inode: u64, left_out: &[&CStr]) -> io::Result<()> {
        let mut levels = vec![Level { inode, left: self.read(&top, left_out)? }];
        let mut here = top;
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.left.pop() {
                let child = match open(&here, &*name) {
                    // Gone, or replaced by something else.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    answer => answer?,
                };
                let inode = rustix::fs::fstat(&child)?.st_ino;
                levels.push(Level { inode, left: self.read(&child, &[])? });
                here = child;
                continue;
            }
            levels.pop();
            let Some(above) = levels.last() else { break };
            here = open(&here, c"..")?;
            // Moved meanwhile: the way back leads to where nobody asked for.
            let found = rustix::fs::fstat(&here)?;
            if (found.st_dev, found.st_ino) != (self.device, above.inode) {
                break;
            }
        }
        Ok(())
    }

    /// Counts what is in a directory, and tells the directories among it.
    fn read(&mut self, dir: &OwnedFd, left_out: &[&CStr]) -> io::Result<Vec<CString>> {
        let mut below = Vec::new();
        let mut entries = Dir::read_from(dir)?;
        while let Some(entry) = entries.read() {
            if self.sum.inodes >= ENTRIES_MAX {
                break;
            }
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || left_out.contains(&name) {
                continue;
            }
            let found = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                answer => answer?,
            };
            let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            let again = !is_directory && found.st_nlink > 1 && !self.linked.insert(found.st_ino);
            if found.st_dev != self.device || again {
                continue;
            }
            self.count(&found);
            if is_directory {
                below.push(name.to_owned());
            }
        }
        Ok(below)
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
    fn what_is_deep_counts_as_what_is_not_and_what_is_left_out_does_not() {
        let dir = tempfile::tempdir().unwrap();
        for branch in ["a", "b", "volumes"] {
            let deep = (0..300).fold(dir.path().join(branch), |path, _| path.join("d"));
            fs::create_dir_all(&deep).unwrap();
            fs::write(deep.join("file"), "").unwrap();
        }
        assert_eq!(of(dir.path()).unwrap().inodes, 1 + 3 * 302);
        assert_eq!(of_all_but(dir.path(), &[c"volumes", c"none"]).unwrap().inodes, 1 + 2 * 302);
    }
}
