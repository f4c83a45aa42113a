//! Removing without a trace: mounts, control groups and directories.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use skiff_sys::tree;
use tracing::warn;

use super::records::SandboxRecord;
use super::specs::SPECS;
use super::{Inner, cgroup_error, doing};
use crate::shim::{NETNS, SHM};
use crate::types::Error;

impl Inner {
    /// All that a sandbox has beside its containers. What isn't there is no error.
    pub(super) fn clear_sandbox(&self, record: &SandboxRecord) -> Result<(), Error> {
        let run = self.run_dir(&record.id);
        for name in [NETNS, SHM, SPECS] {
            unmount(&run.join(name)).map_err(doing(format_args!("unmount the sandbox's {name}")))?;
        }
        remove_dir(&run)?;
        let pause = self.pause_group(record);
        pause.kill();
        pause.remove().map_err(cgroup_error)?;
        let _alone = self.groups.lock();
        let root = self.hierarchy.group(&self.config.cgroup_root);
        let mut above = pause.path().parent();
        // The groups above go with the last one in them.
        while let Some(path) = above.filter(|path| *path != root.path() && path.starts_with(root.path())) {
            self.hierarchy.group(path).remove_if_empty();
            above = path.parent();
        }
        remove_dir(&self.sandbox_dir(&record.id))
    }

    /// Half a record is what a crash leaves of something that nobody was told of yet.
    pub(super) fn discard(&self, dir: &Path) {
        if let Err(error) = remove_dir(dir) {
            warn!(dir = %dir.display(), error = &error as &dyn std::error::Error, "cannot remove what a crash left");
        }
    }
}

fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted, or not there.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match tree::remove(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        answer => answer.map_err(doing(format_args!("remove {}", dir.display()))),
    }
}
