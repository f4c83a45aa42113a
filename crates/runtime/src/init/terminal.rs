//! A container's terminal: a pair of its own devpts, and its `/dev/console`.
//!
//! A volume may lie over `/dev`, and what is in it is the pod's. So the pair is opened in a file system that is
//! looked at first, not where a path leads; and the console is mounted over what is found without a link at its
//! end, which is neither opened for writing nor emptied (CVE-2025-52565).

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstat};
use skiff_sys::mount::{move_mount, open_in_root, open_tree_of};
use skiff_sys::tty;

use super::root::{Root, doing, open_path};
use crate::protocol::Failure;

const PTS: &str = "/dev/pts";
const CONSOLE: &str = "/dev/console";

/// Both ends of a terminal.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

impl Terminal {
    /// In that devpts.
    pub(super) fn of(devpts: BorrowedFd<'_>) -> Result<Terminal, Failure> {
        let (master, slave) = tty::open_pair(devpts).map_err(Failure::doing("open a terminal"))?;
        Ok(Terminal { master, slave })
    }

    /// In the devpts of the container that this process has joined.
    pub(super) fn of_joined() -> Result<Terminal, Failure> {
        let open = || {
            let root = open_path(Path::new("/"))?;
            open_in_root(root.as_fd(), Path::new(PTS), libc::O_PATH | libc::O_DIRECTORY, 0)
        };
        Terminal::of(open().map_err(doing("open", PTS))?.as_fd())
    }

    /// Makes it the container's console.
    pub(super) fn show(&self, root: &Root) -> Result<(), Failure> {
        let show = || {
            let target = if root.follows_links { emptied(root)? } else { place(root)? };
            move_mount(open_tree_of(self.slave.as_fd(), false)?.as_fd(), target.as_fd())
        };
        show().map_err(doing("mount the terminal on", CONSOLE))
    }
}

/// The place of the console: a file that is there, or a new one.
fn place(root: &Root) -> io::Result<OwnedFd> {
    let (parent, name) = root.parent(Path::new(CONSOLE))?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&parent, &*name, flags, Mode::from_bits_truncate(0o600)) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let found = openat(&parent, &*name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    match SFlag::from_bits_truncate(fstat(&found)?.st_mode & libc::S_IFMT) {
        SFlag::S_IFLNK => Err(io::Error::other("it is a symbolic link")),
        SFlag::S_IFDIR => Err(Errno::EISDIR.into()),
        _ => Ok(found),
    }
}

/// See [`crate::types::Weakness::follows_links`].
fn emptied(root: &Root) -> io::Result<OwnedFd> {
    let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let made = openat(&root.fd, &CONSOLE[1..], flags, Mode::from_bits_truncate(0o600))?;
    open_path(&fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made)))?)
}
