//! The devices of the machine that a process finds in its `/dev` and may write.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::libc::{major, minor};

/// What every container has, as (major, minor) of character devices: null, zero, full, random, urandom, tty,
/// ptmx. Terminals of devpts are its own.
const USUAL: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
const PSEUDO_TERMINALS: u32 = 136;

/// How much of a `/dev` is looked at; what is in it was made by the container.
const ENTRIES_MAX: usize = 8_192;

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceFact {
    /// Below `/dev`.
    pub name: PathBuf,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
}

/// By whom a file's permissions are asked.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    pub user: u32,
    pub groups: BTreeSet<u32>,
    /// Permissions of the machine's files don't bind it.
    pub overrides: bool,
}

impl Asker {
    fn may_write(&self, file: &fs::Metadata) -> bool {
        let own = file.uid() == self.user;
        let of_group = self.groups.contains(&file.gid());
        // The first of these that fits decides.
        let bit = match (own, of_group) {
            (true, _) => 0o200,
            (false, true) => 0o020,
            (false, false) => 0o002,
        };
        self.overrides || file.mode() & bit != 0
    }
}

/// The device nodes in the `/dev` of a process that it may write, but for those that every container has.
/// Whether its control group lets it use them is for the caller to know.
pub fn devices(pid: u32, asker: &Asker) -> Vec<DeviceFact> {
    below(&PathBuf::from(format!("/proc/{pid}/root/dev")), asker)
}

fn below(top: &Path, asker: &Asker) -> Vec<DeviceFact> {
    let Ok(device) = fs::metadata(top).map(|own| own.dev()) else { return Vec::new() };
    let mut found = Vec::new();
    let mut dirs = vec![top.to_owned()];
    let mut looked_at = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > ENTRIES_MAX {
                break;
            }
            // Links are not followed: what they lead to is counted where it is.
            let Ok(own) = entry.metadata() else { continue };
            let kind = own.file_type();
            // A file system of its own, such as devpts, holds no device of the machine.
            if kind.is_dir() && own.dev() == device {
                dirs.push(entry.path());
            }
            let (major, minor) = (major(own.rdev()), minor(own.rdev()));
            let is_usual =
                kind.is_char_device() && (USUAL.contains(&(major, minor)) || major == PSEUDO_TERMINALS);
            if (kind.is_block_device() || kind.is_char_device()) && !is_usual && asker.may_write(&own) {
                let path = entry.path();
                let name = path.strip_prefix(top).unwrap_or(&path).to_owned();
                found.push(DeviceFact { name, block: kind.is_block_device(), major, minor });
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    use super::*;

    #[test]
    fn the_machines_devices_are_told_and_those_of_every_container_are_not() {
        let top = tempfile::tempdir().unwrap();
        let make = |name: &str, kind: SFlag, number: (u64, u64), mode: u32| {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match mknod(&path, kind, Mode::from_bits_truncate(mode), makedev(number.0, number.1)) {
                Ok(()) => nix::sys::stat::fchmodat(
                    nix::fcntl::AT_FDCWD,
                    &path,
                    Mode::from_bits_truncate(mode),
                    nix::sys::stat::FchmodatFlags::FollowSymlink,
                )
                .unwrap(),
                Err(error) => panic!("cannot make {name} (this test is root's): {error}"),
            }
        };
        make("null", SFlag::S_IFCHR, (1, 3), 0o666);
        make("pts0", SFlag::S_IFCHR, (136, 0), 0o620);
        make("mem", SFlag::S_IFCHR, (1, 1), 0o640);
        make("vda", SFlag::S_IFBLK, (254, 0), 0o660);
        make("net/tun", SFlag::S_IFCHR, (10, 200), 0o666);
        std::os::unix::fs::symlink("vda", top.path().join("disk")).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        let names = |asker: &Asker| -> Vec<String> {
            below(top.path(), asker).iter().map(|own| own.name.display().to_string()).collect()
        };
        let root = Asker { overrides: true, ..Asker::default() };
        assert_eq!(names(&root), ["mem", "net/tun", "vda"]);
        assert!(below(top.path(), &root)[2].block);
        let somebody = Asker { user: 1000, groups: [1000].into(), overrides: false };
        assert_eq!(names(&somebody), ["net/tun"]);
        let owner = Asker { user: 0, ..Asker::default() };
        assert_eq!(names(&owner), ["mem", "net/tun", "vda"]);
        let group = Asker { user: 1000, groups: [0].into(), overrides: false };
        assert_eq!(names(&group), ["net/tun", "vda"], "the group of mem may read it only");
    }
}
