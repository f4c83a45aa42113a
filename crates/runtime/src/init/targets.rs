//! What a volume may be mounted over, by runc's rules and in its words.
//!
//! A program that believes `/proc` must find the kernel there: a volume inside it could show programs of the
//! image, and the masks, what the pod likes (CVE-2019-16884). Judged is where a path leads, not how it is
//! spelled.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use skiff_sys::mount::open_without_links;

use super::masks::is_proc;
use super::root::{Root, doing};
use crate::protocol::Failure;
use crate::types::Mount;

const PROC: &str = "/proc";
/// What may be shown otherwise, as lxcfs does to tell of the container's limits.
const SHOWN_OTHERWISE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// The places in a container's root.
pub(super) struct Inside<'a> {
    pub(super) root: &'a Root,
    /// See [`crate::types::Weakness::mounts_into_proc`].
    pub(super) open: bool,
}

impl Inside<'_> {
    /// Where the kernel's own file systems go the image may have a directory, but no link.
    pub(super) fn ordinary_directory(&self, kind: &str, path: &str) -> Result<(), Failure> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        match open_without_links(self.root.fd.as_fd(), Path::new(path), flags) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::new(128, format!("filesystem {kind:?} must be mounted on ordinary directory")))
            }
            _ => Ok(()),
        }
    }

    /// The place of a volume, made if missing, unless it is none. A link may be swapped meanwhile, so that
    /// what was opened is judged again.
    pub(super) fn mount_point(
        &self,
        mount: &Mount,
        tree: BorrowedFd<'_>,
        is_dir: bool,
    ) -> Result<OwnedFd, Failure> {
        let path = &mount.target;
        if self.open {
            return self.root.mount_point(path, is_dir);
        }
        let at = self.leads_to(path).map_err(doing("open the mount point", path))?;
        judge(mount, tree, &at)?;
        let target = self.root.mount_point(path, is_dir)?;
        judge(mount, tree, &self.place(&target).map_err(doing("look at", path))?)?;
        Ok(target)
    }

    /// The path without links; what of it does not exist is as it is spelled.
    fn leads_to(&self, path: &Path) -> io::Result<PathBuf> {
        let mut above = path;
        let found = loop {
            match self.root.open(above) {
                Ok(found) => break found,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                    above = above.parent().ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        };
        let rest = path.strip_prefix(above).unwrap_or(path);
        let found = self.place(&found)?;
        Ok(if rest.as_os_str().is_empty() { found } else { found.join(rest) })
    }

    /// Where a descriptor is open on. With links followed out of the root it lies elsewhere, and not inside.
    fn place(&self, fd: &OwnedFd) -> io::Result<PathBuf> {
        let shown = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (top, found) = (shown(&self.root.fd)?, shown(fd)?);
        Ok(found.strip_prefix(&top).map_or_else(|_| found.clone(), |below| Path::new("/").join(below)))
    }
}

fn judge(mount: &Mount, tree: BorrowedFd<'_>, at: &Path) -> Result<(), Failure> {
    let is_proc = || is_proc(tree).map_err(doing("look at", &mount.source));
    let Some(why) = refusal(at, is_proc)? else { return Ok(()) };
    let (source, target) = (&mount.source, mount.target.display());
    Err(Failure::new(
        128,
        format!(
            "error mounting {source:?} to rootfs at \"{target}\": check proc-safety of {target} mount: {why}"
        ),
    ))
}

/// Why nothing may be mounted there.
fn refusal<E>(at: &Path, is_proc: impl FnOnce() -> Result<bool, E>) -> Result<Option<String>, E> {
    if at == Path::new("/") {
        return Ok(Some("mountpoint is on the top of rootfs volume".to_owned()));
    }
    if !at.starts_with(PROC) || SHOWN_OTHERWISE.iter().any(|path| at == Path::new(path)) {
        return Ok(None);
    }
    if at == Path::new(PROC) {
        let refused = !is_proc()?;
        return Ok(refused.then(|| format!("{at:?} cannot be mounted because it is not of type proc")));
    }
    Ok(Some(format!("{at:?} cannot be mounted because it is inside /proc")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_the_kernels() {
        let why =
            |at: &str, is_proc| refusal::<()>(Path::new(at), || Ok(is_proc)).unwrap().unwrap_or_default();
        for fine in ["/data", "/process", "/host/proc/sys", "/sys/kernel", "/proc/uptime", "/proc/net/dev"] {
            assert_eq!(why(fine, false), "", "{fine}");
        }
        assert_eq!(why("/proc", true), "");
        assert_eq!(why("/proc", false), "\"/proc\" cannot be mounted because it is not of type proc");
        for inside in ["/proc/sys", "/proc/uptime/x", "/proc/1/attr", "/proc/keys"] {
            let expected = format!("{inside:?} cannot be mounted because it is inside /proc");
            assert_eq!(why(inside, true), expected);
        }
        assert_eq!(why("/", false), "mountpoint is on the top of rootfs volume");
    }
}
