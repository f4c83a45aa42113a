//! The devices of a container: harmless ones, those that it was given, and all of the node's where nothing is
//! kept from it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use skiff_sys::mount::move_mount;

use super::root::{Root, doing};
use crate::protocol::Failure;
use crate::spec::{DeviceNode, Spec};

const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];
/// Not every kernel has it.
const CORE: &str = "/proc/kcore";
pub(super) fn make(
    root: &Root,
    spec: &Spec,
    given: Option<Vec<(DeviceNode, OwnedFd)>>,
) -> Result<(), Failure> {
    match given {
        None => wanted(spec).iter().try_for_each(|node| root.device(node))?,
        Some(given) => {
            for (node, tree) in given {
                let target = root.mount_point(&node.path, false)?;
                move_mount(tree.as_fd(), target.as_fd()).map_err(doing("mount on", &node.path))?;
            }
        }
    }
    LINKS.iter().try_for_each(|(target, path)| root.link(target, path))?;
    if Path::new(CORE).exists() { root.link(CORE, "/dev/core") } else { Ok(()) }
}

/// All devices of the container, each once.
pub(super) fn wanted(spec: &Spec) -> Vec<DeviceNode> {
    let default = DEFAULT_DEVICES.map(|(name, major, minor)| DeviceNode {
        path: Path::new("/dev").join(name),
        source: PathBuf::new(),
        block: false,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let mut wanted: Vec<DeviceNode> = default.into_iter().chain(spec.devices.iter().cloned()).collect();
    if spec.privileged {
        wanted.extend(node_devices(Path::new("/dev")));
    }
    let mut seen = BTreeSet::new();
    wanted.retain(|node| seen.insert(node.path.clone()));
    wanted
}

/// The node's own devices, but for terminals and what containers have anyway.
fn node_devices(top: &Path) -> Vec<DeviceNode> {
    let mut found = Vec::new();
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.metadata() else { continue };
            let name = entry.file_name();
            if kind.is_dir()
                && !["pts", "shm", "fd", "mqueue", ".lxc", ".udev"].iter().any(|skip| name == *skip)
            {
                dirs.push(path);
            } else if kind.file_type().is_char_device() || kind.file_type().is_block_device() {
                if ["ptmx", "console"].iter().any(|skip| name == *skip) {
                    continue;
                }
                found.push(DeviceNode {
                    path,
                    source: PathBuf::new(),
                    block: kind.file_type().is_block_device(),
                    major: nix::libc::major(kind.rdev()),
                    minor: nix::libc::minor(kind.rdev()),
                    mode: kind.mode() & 0o7777,
                    uid: kind.uid(),
                    gid: kind.gid(),
                });
            }
        }
    }
    found
}
