//! What containers' programs are told, which may be secret: kept where no disk is.
//!
//! The runtime's directory for what need not survive a reboot is most often in memory (`/run`). Where it is not,
//! each sandbox gets a small file system of its own in it, which goes with the sandbox. In a container's durable
//! directory there is only a link. What an earlier version left there itself is moved when it is found.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use skiff_sys::private;

use super::{Inner, doing, make_dir};
use crate::files::write_json;
use crate::spec::{FILE, Spec};
use crate::types::Error;

/// Of each sandbox that needs one: far more than is ever told to programs.
const OPTIONS: &str = "mode=700,size=16m";
/// In a sandbox's directory of sockets.
pub(super) const SPECS: &str = "specs";

impl Inner {
    pub(super) fn keep_spec(&self, sandbox: &str, id: &str, spec: &Spec) -> Result<(), Error> {
        let file = self.specs(sandbox)?.join(format!("{id}.json"));
        write_json(&file, spec, false).map_err(doing("keep the container's specification"))?;
        symlink(&file, self.container_dir(id).join(FILE))
            .map_err(doing("link to the container's specification"))
    }

    /// Where those of a sandbox are.
    fn specs(&self, sandbox: &str) -> Result<PathBuf, Error> {
        let specs = self.run_dir(sandbox).join(SPECS);
        let _alone = self.specs.lock();
        make_dir(&specs)?;
        in_memory(&specs).map_err(doing("keep containers' specifications in memory"))?;
        Ok(specs)
    }

    /// Takes off the disk what an earlier version wrote there. Whoever runs a command in the container reads it
    /// by its path, before and after: the link takes the file's place at once. A container whose shim is gone
    /// runs nothing any more, and needs none.
    pub(super) fn take_spec_off_the_disk(&self, sandbox: &str, id: &str, lives: bool) -> Result<(), Error> {
        let old = self.container_dir(id).join(FILE);
        if !fs::symlink_metadata(&old).is_ok_and(|there| there.is_file()) {
            return Ok(());
        }
        let doing = || doing("take a container's specification off the disk");
        if !lives {
            return fs::remove_file(&old).map_err(doing());
        }
        let file = self.specs(sandbox)?.join(format!("{id}.json"));
        let link = old.with_extension("link");
        let text = fs::read(&old).map_err(doing())?;
        private::create(&file).and_then(|mut file| file.write_all(&text)).map_err(doing())?;
        // Left by one who was killed just here.
        let _ = fs::remove_file(&link);
        symlink(&file, &link).and_then(|()| fs::rename(&link, &old)).map_err(doing())
    }

    /// Before the container's directory is removed, which leads to it.
    pub(super) fn forget_spec(&self, id: &str) -> Result<(), Error> {
        let Ok(file) = fs::read_link(self.container_dir(id).join(FILE)) else { return Ok(()) };
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(doing("remove the container's specification")(error))
            }
            _ => Ok(()),
        }
    }
}

fn in_memory(dir: &Path) -> io::Result<()> {
    if statfs(dir)?.filesystem_type() == TMPFS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("specs"), dir, Some("tmpfs"), flags, Some(OPTIONS))?)
}
