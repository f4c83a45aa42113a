//! The node's own mounts for volumes: tmpfs, binds, and their end.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs on `path` with those options, unless one is there.
pub(crate) fn tmpfs(path: &Path, options: Option<&str>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if mount_points()?.iter().any(|point| point == path) {
        return Ok(());
    }
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options)?;
    Ok(())
}

/// Binds `source` on `target`, which exists and is of the same type.
pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Unmounts what lies on `place`, with all below that. The table of mounts is not asked: it may be long, and a
/// pod may have many such places.
pub(crate) fn unmount(place: &Path) -> io::Result<()> {
    loop {
        match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // One may lie on another.
            Ok(()) => {}
            // Nothing is mounted, or nothing is there.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Unmounts all at and below `dir`, and fails rather than leave one: who calls removes the directory next.
pub(crate) fn unmount_below(dir: &Path) -> io::Result<()> {
    let mut points: Vec<PathBuf> =
        mount_points()?.into_iter().filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Gone with what it lay on.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match mount_points()?.into_iter().find(|point| point.starts_with(dir)) {
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

/// Mount points in the order they were made.
pub(crate) fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let field = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    Ok(table.split(|byte| *byte == b'\n').filter_map(field).collect())
}

/// `\040` and its like, as proc(5) has them.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
