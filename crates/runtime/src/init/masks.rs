//! What of `/proc` and `/sys` a container can't read or write.
//!
//! A mask is the null device mounted over a file, so that it is only as good as that device: it is taken
//! from the new `/dev` before a volume can cover it, it is looked at, and from then on only its descriptor
//! is used (CVE-2025-31133). What is masked is found without following a link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use skiff_sys::mount::{
    NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, move_mount, new_filesystem, open_in_root, open_tree_of,
    open_without_links, set_attributes,
};

use super::failed;
use super::root::{Root, doing, open_path};
use crate::protocol::Failure;
use crate::spec::Spec;

/// What a container can't read (containerd's list).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What it can't write.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const CPUS: &str = "/sys/devices/system/cpu";

const NULL: &str = "/dev/null";
const NULL_NUMBER: (u64, u64) = (1, 3);
/// The number that the top of every procfs has.
const PROC_TOP: u64 = 1;

/// The null device, as the container was given it.
pub(super) struct Null {
    /// None: whatever is there later. See [`crate::types::Weakness::trusts_volumes`].
    fd: Option<OwnedFd>,
}

impl Null {
    /// Before any volume is mounted.
    pub(super) fn of(root: &Root, trusts_volumes: bool) -> Result<Null, Failure> {
        if trusts_volumes {
            return Ok(Null { fd: None });
        }
        let open = || {
            let fd = open_in_root(root.fd.as_fd(), Path::new(NULL), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            if is_null(&fstat(&fd)?) { Ok(fd) } else { Err(io::Error::other("it is not the null device")) }
        };
        Ok(Null { fd: Some(open().map_err(doing("open", NULL))?) })
    }

    fn copy(&self) -> io::Result<OwnedFd> {
        match &self.fd {
            Some(fd) => open_tree_of(fd.as_fd(), false),
            None => open_tree_of(open_path(Path::new(NULL))?.as_fd(), false),
        }
    }
}

fn is_null(stat: &FileStat) -> bool {
    let number = (u64::from(libc::major(stat.st_rdev)), u64::from(libc::minor(stat.st_rdev)));
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && number == NULL_NUMBER
}

/// Whether it is the top of a procfs: what `/proc` may be.
pub(super) fn is_proc(fd: impl AsFd + Copy) -> io::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC && fstat(fd)?.st_ino == PROC_TOP)
}

/// Masks what must not be seen and makes read-only what must not be written: the last step, after the
/// working directory has been made.
pub(super) fn seal(spec: &Spec, null: Null) -> Result<(), Failure> {
    if !spec.unmasked {
        let own = Sealed { root: open_path(Path::new("/")).map_err(doing("open", "/"))?, null };
        own.check_proc()?;
        for path in READ_ONLY_PATHS {
            own.make_read_only(Path::new(path)).map_err(doing("make read-only", path))?;
        }
        for path in MASKED.iter().map(PathBuf::from).chain(thermal_throttle_dirs()) {
            own.mask(&path).map_err(doing("mask", &path))?;
        }
    }
    if spec.rootfs.read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .map_err(failed("make the root read-only"))?;
    }
    Ok(())
}

struct Sealed {
    root: OwnedFd,
    null: Null,
}

impl Sealed {
    /// A mask over anything else would hide nothing.
    fn check_proc(&self) -> Result<(), Failure> {
        let is_proc = open_without_links(self.root.as_fd(), Path::new("/proc"), libc::O_PATH)
            .and_then(|fd| is_proc(&fd))
            .map_err(doing("look at", "/proc"))?;
        if is_proc { Ok(()) } else { Err(Failure::new(128, "/proc is not a procfs")) }
    }

    /// None if there is no such thing: not every kernel has all of them. What another mount on the node's own
    /// `/proc` hides there is found as it is shown here, and covered once more.
    fn find(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match open_without_links(self.root.as_fd(), path, libc::O_PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn mask(&self, path: &Path) -> io::Result<()> {
        let Some(target) = self.find(path)? else { return Ok(()) };
        let is_dir = fstat(&target)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let tree = if is_dir {
            new_filesystem("tmpfs", &[("size", Some("0"))], READ_ONLY | NO_SUID | NO_DEV | NO_EXEC)
        } else {
            self.null.copy()
        };
        move_mount(tree?.as_fd(), target.as_fd())
    }

    fn make_read_only(&self, path: &Path) -> io::Result<()> {
        let Some(target) = self.find(path)? else { return Ok(()) };
        let tree = open_tree_of(target.as_fd(), true)?;
        set_attributes(tree.as_fd(), READ_ONLY | NO_SUID | NO_DEV | NO_EXEC, None, true)?;
        move_mount(tree.as_fd(), target.as_fd())
    }
}

/// Where CPUs tell of their temperature, which differs with the neighbours' load (containerd masks it too).
fn thermal_throttle_dirs() -> Vec<PathBuf> {
    let cpus = fs::read_dir(CPUS).into_iter().flatten().flatten();
    cpus.map(|cpu| cpu.path().join("thermal_throttle")).filter(|dir| dir.exists()).collect()
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;

    use super::*;

    #[test]
    fn only_one_device_is_null() {
        let open = |path: &str| {
            nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, nix::sys::stat::Mode::empty()).unwrap()
        };
        assert!(is_null(&fstat(open(NULL)).unwrap()));
        for other in ["/dev/zero", "/proc/self", "/proc/version", "/dev"] {
            assert!(!is_null(&fstat(open(other)).unwrap()), "{other}");
        }
        assert!(is_proc(&open("/proc")).unwrap());
        assert!(!is_proc(&open("/proc/sys")).unwrap());
        assert!(!is_proc(&open("/")).unwrap());
    }
}
