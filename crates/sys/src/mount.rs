//! The mount API by file descriptors: detached trees that are moved into place, and paths that are
//! resolved inside a root however their symbolic links point.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::process::check;

/// Attributes of a mount, not of its file system.
pub const READ_ONLY: u64 = 0x1;
pub const NO_SUID: u64 = 0x2;
pub const NO_DEV: u64 = 0x4;
pub const NO_EXEC: u64 = 0x8;

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// How mounts and unmounts travel between a mount and its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A copy of the mounts at `path`, attached nowhere yet; with `recursive` those below it too.
pub fn open_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is a string that ends in zero; the answer is a descriptor nobody owns yet.
    unsafe { owned(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)) }
}

/// The same of what a descriptor is open on, whatever a path to it has become.
pub fn open_tree_of(file: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the descriptor is open for as long as it is borrowed, and the path is an empty string.
    unsafe { owned(libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags)) }
}

/// Sets attributes of a detached tree, and its propagation.
pub fn set_attributes(
    tree: BorrowedFd<'_>,
    set: u64,
    propagation: Option<Propagation>,
    recursive: bool,
) -> io::Result<()> {
    let propagation = match propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    change(tree, &MountAttr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 }, recursive)
}

/// Shows the files of a detached mount as the users see them whose namespace that is: what belongs to 0 on the
/// disk belongs to their 0, and the other way round. `recursive`: those of the mounts below it too, all or none.
/// EINVAL: a file system can't do that.
pub fn map_ids(tree: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    change(tree, &attr, recursive)
}

/// mount_setattr(2) on a detached tree. A namespace that `attr` names has to be open meanwhile, or it is refused.
fn change(tree: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is laid out as struct mount_attr, and its size is passed with it; the tree's descriptor is
    // open for as long as it is borrowed, and the path is an empty string.
    unsafe {
        check(libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        ))?;
    }
    Ok(())
}

/// Attaches a detached tree on top of what `target` is open on.
pub fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open for as long as they are borrowed; the paths are empty strings.
    unsafe {
        check(libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        ))?;
    }
    Ok(())
}

/// A new file system, mounted nowhere yet. An option without a value is a flag.
pub fn new_filesystem(kind: &str, options: &[(&str, Option<&str>)], attributes: u64) -> io::Result<OwnedFd> {
    let kind = CString::new(kind)?;
    // SAFETY: the name is a string that ends in zero; the answer is a descriptor nobody owns yet.
    let context = unsafe { owned(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC)) }?;
    for (key, value) in options {
        let (key, value) = (CString::new(*key)?, value.map(CString::new).transpose()?);
        let command = if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG };
        let value = value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
        // SAFETY: key and value end in zero and live until the call returns; a flag has a null value.
        unsafe {
            check(libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key.as_ptr(), value, 0))?;
        }
    }
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: creating takes neither key nor value; the mount's descriptor is a new one.
    unsafe {
        check(libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0))?;
        owned(libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes as libc::c_uint,
        ))
    }
}

/// Opens `path` as if `root` were `/`: neither `..` nor a symbolic link leads out, and the links of
/// `/proc` that lead anywhere are refused.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    open_resolving(root, path, flags, mode, 0)
}

/// The same for a path that shall lead over no link at all: ELOOP if it does.
pub fn open_without_links(root: BorrowedFd<'_>, path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    open_resolving(root, path, flags, 0, libc::RESOLVE_NO_SYMLINKS)
}

fn open_resolving(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: libc::c_int,
    mode: u32,
    more: u64,
) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS | more;
    loop {
        // SAFETY: path and `how` live until the call returns, and its size is passed with it.
        let answer = unsafe {
            owned(libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            ))
        };
        // EAGAIN: something was renamed meanwhile, so that `..` could not be trusted.
        match answer {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            answer => return answer,
        }
    }
}

/// A file of another mount or process that will be executed or read through a read-only mount, so that
/// nobody can reach the writable original through `/proc/PID/exe` (CVE-2019-5736).
pub fn read_only_copy(path: &Path) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    let tree = open_tree(path, false)?;
    set_attributes(tree.as_fd(), READ_ONLY, None, false)?;
    Ok(tree)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// # Safety
/// `answer` comes from a system call that answers a new descriptor or an error.
unsafe fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: by this function's contract nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    #[test]
    fn paths_stay_in_their_root() {
        let root = std::env::temp_dir().join(format!("skiff-sys-root-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/name"), "inside").unwrap();
        std::os::unix::fs::symlink("/../../etc", root.join("link")).unwrap();
        let dir = File::open(&root).unwrap();
        let file = open_in_root(dir.as_fd(), Path::new("/link/../link/name"), libc::O_RDONLY, 0).unwrap();
        assert_eq!(io::read_to_string(File::from(file)).unwrap(), "inside");
        let error = open_in_root(dir.as_fd(), Path::new("/link/passwd"), libc::O_RDONLY, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let without = |path: &str| open_without_links(dir.as_fd(), Path::new(path), libc::O_PATH);
        assert!(without("/etc/../etc/name").is_ok());
        assert_eq!(without("/link").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_copy_of_a_program_cannot_be_written() {
        let copy = read_only_copy(Path::new("/proc/self/exe")).unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let error = File::options().write(true).open(path).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)), "{error}");
    }
}
