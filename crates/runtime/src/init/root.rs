//! A container's root while this process still has its old one: paths that end inside it, whatever its links say,
//! and what is made and mounted there.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};
use skiff_sys::mount::{move_mount, new_filesystem, open_in_root, open_tree};

use crate::protocol::Failure;
use crate::spec::DeviceNode;

pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The new root while this process still has its old one. Every path is the container's.
pub(super) struct Root {
    pub(super) fd: OwnedFd,
    /// See [`crate::types::Weakness`].
    pub(super) follows_links: bool,
}

impl Root {
    pub(super) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        if self.follows_links {
            let relative = path.strip_prefix("/").unwrap_or(path);
            let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            return Ok(nix::fcntl::openat(&self.fd, relative, flags, Mode::empty())?);
        }
        open_in_root(self.fd.as_fd(), path, nix::libc::O_PATH, 0)
    }

    pub(super) fn attach_new(
        &self,
        kind: &str,
        options: &[(&str, Option<&str>)],
        attributes: u64,
        path: &str,
    ) -> Result<(), Failure> {
        let tree =
            new_filesystem(kind, options, attributes).map_err(doing(&format!("make the {kind} of"), path))?;
        self.attach(&tree, path)
    }

    pub(super) fn attach(&self, tree: &OwnedFd, path: &str) -> Result<(), Failure> {
        let target = self.mount_point(Path::new(path), true)?;
        move_mount(tree.as_fd(), target.as_fd()).map_err(doing("mount on", path))
    }

    /// The place of a mount, made if missing; in the container's own layer.
    pub(super) fn mount_point(&self, path: &Path, is_dir: bool) -> Result<OwnedFd, Failure> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => return answer.map_err(doing("open the mount point", path)),
        }
        let make = || {
            let (parent, name) = self.parent(path)?;
            if is_dir {
                mkdirat(&parent, &*name, Mode::from_bits_truncate(0o755))?;
            } else {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                nix::fcntl::openat(&parent, &*name, flags, Mode::from_bits_truncate(0o644))?;
            }
            self.open(path)
        };
        make().map_err(doing("make the mount point", path))
    }

    /// The directory of a path, made if missing, and the last name. Paths are clean: no `..`.
    pub(super) fn parent(&self, path: &Path) -> io::Result<(OwnedFd, CString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let name = CString::new(name.as_encoded_bytes())?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        match self.open(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => return Ok((answer?, name)),
        }
        let (above, own) = self.parent(parent)?;
        match mkdirat(&above, &*own, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((self.open(parent)?, name))
    }

    pub(super) fn link(&self, target: &str, path: &str) -> Result<(), Failure> {
        let make = || {
            let (parent, name) = self.parent(Path::new(path))?;
            nix::unistd::symlinkat(target, &parent, &*name).or_else(|error| match error {
                nix::Error::EEXIST => Ok(()),
                error => Err(io::Error::from(error)),
            })
        };
        make().map_err(doing("make the link", path))
    }

    pub(super) fn device(&self, node: &DeviceNode) -> Result<(), Failure> {
        let make = || -> io::Result<()> {
            let (parent, name) = self.parent(&node.path)?;
            let kind = if node.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            let number = makedev(node.major.into(), node.minor.into());
            match mknodat(&parent, &*name, kind, Mode::empty(), number) {
                Err(nix::Error::EEXIST) => return Ok(()),
                // A node that is itself in a container may use a device and not make it.
                Err(nix::Error::EPERM) => return self.borrow_device(node),
                answer => answer?,
            }
            fchmodat(&parent, &*name, Mode::from_bits_truncate(node.mode), FchmodatFlags::FollowSymlink)?;
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            fchownat(&parent, &*name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
            Ok(())
        };
        make().map_err(doing("make the device", &node.path))
    }

    fn borrow_device(&self, node: &DeviceNode) -> io::Result<()> {
        let source = if node.source.as_os_str().is_empty() { &node.path } else { &node.source };
        let tree = open_tree(source, false)?;
        let target =
            self.mount_point(&node.path, false).map_err(|failure| io::Error::other(failure.message))?;
        move_mount(tree.as_fd(), target.as_fd())
    }
}

pub(super) fn doing(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failure {
    Failure::doing(format!("{action} {}", path.as_ref().display()))
}
