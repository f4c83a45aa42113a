//! subPath: a part of a volume, found without ever leaving the volume.
//!
//! A pod can turn any directory of its volume into a symbolic link, also while we look. So the kernel
//! resolves the path below the volume (`RESOLVE_IN_ROOT`), and what it found is pinned by a bind mount of
//! the open descriptor, not by its name.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::mounts;
use crate::made_paths::{For, Identity};

/// Makes `place` name `volume`/`sub_path`, which is made a directory if it does not exist. What is made of a volume
/// that is the node's own is written down.
pub(super) fn pin(volume: &Path, sub_path: &Path, place: &Path, made: Option<For<'_>>) -> io::Result<()> {
    if sub_path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must not contain '..'"));
    }
    let root = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let found = match open_in(&root, sub_path) {
        Err(nix::errno::Errno::ENOENT) => {
            make(&root, sub_path, volume, made)?;
            open_in(&root, sub_path)?
        }
        found => found?,
    };
    let is_dir = fs::metadata(format!("/proc/self/fd/{}", found.as_raw_fd()))?.is_dir();
    mounts::unmount(place)?;
    if is_dir {
        fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(place)?;
    }
    mounts::bind(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), place)
}

fn open_in(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), path, how)
}

fn make(root: &OwnedFd, path: &Path, volume: &Path, made: Option<For<'_>>) -> io::Result<()> {
    let mut at = root.try_clone()?;
    let mut whole = volume.to_owned();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let name = Path::new(name);
        whole.push(name);
        let open = || {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
            openat2(at.as_fd(), name, how)
        };
        at = match open() {
            Err(nix::errno::Errno::ENOENT) => {
                let make = || {
                    mkdirat(at.as_fd(), name, Mode::from_bits_truncate(0o755))?;
                    Ok(Identity::of(&fs::File::from(open()?).metadata()?))
                };
                match made {
                    Some(made) => made.make(&whole, make)?,
                    None => drop(make()?),
                }
                open()?
            }
            opened => opened?,
        };
    }
    Ok(())
}
