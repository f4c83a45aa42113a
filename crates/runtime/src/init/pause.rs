//! The sandbox's own process: makes the namespaces and becomes `pause`.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{
    Gid, Uid, chdir, execve, fchdir, pivot_root, setgroups, sethostname, setresgid, setresuid, setsid,
};
use skiff_sys::caps::{self, Caps};
use skiff_sys::mount::{NO_DEV, NO_SUID, Propagation, READ_ONLY, open_tree, set_attributes};
use skiff_sys::process::{reset_signals, set_dumpable, set_no_new_privs};

use super::{failed, join_cgroups, set_oom_score_adj};
use crate::protocol::{Boot, Failure};

/// As the kubelet asks of every runtime: `pause` goes last.
pub(crate) const OOM_SCORE_ADJ: i32 = -998;
/// Nobody's, and not 0: what holds the namespaces needs no rights.
const USER: u32 = 65535;

/// The first act, with the node's rights; answers the directory that will be all that `pause` sees.
pub(crate) fn prepare(boot: &Boot, socket: &UnixStream) -> Result<OwnedFd, Failure> {
    set_dumpable(false).map_err(Failure::doing("protect the set-up from tracing"))?;
    set_oom_score_adj(OOM_SCORE_ADJ, socket)?;
    join_cgroups(&boot.join)?;
    let root = || {
        let root = open_tree(&boot.pause_root, false)?;
        set_attributes(root.as_fd(), READ_ONLY | NO_SUID | NO_DEV, Some(Propagation::Private), false)?;
        Ok(root)
    };
    root().map_err(Failure::doing("copy the mount of pause's directory"))
}

/// The second act.
pub(crate) fn pause(boot: &Boot, root: OwnedFd) -> Result<Infallible, Failure> {
    setsid().map_err(failed("lead a session"))?;
    let mut own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    own.set(CloneFlags::CLONE_NEWNET, boot.own_net);
    own.set(CloneFlags::CLONE_NEWIPC, boot.own_ipc);
    own.set(CloneFlags::CLONE_NEWUTS, boot.hostname.is_some());
    unshare(own).map_err(failed("make the sandbox's namespaces"))?;
    if let Some(name) = &boot.hostname {
        sethostname(name).map_err(failed(format_args!("set the host name {name:?}")))?;
    }
    for (name, value) in &boot.sysctls {
        sysctl_file(name)
            .and_then(|file| fs::write(file, value))
            .map_err(Failure::doing(format_args!("set the kernel parameter {name} to {value:?}")))?;
    }
    enter(&root)?;
    caps::limit_bounding(Caps::NONE).map_err(Failure::doing("drop capabilities"))?;
    setgroups(&[]).map_err(failed("leave all groups"))?;
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    setresgid(group, group, group).map_err(failed("change group"))?;
    setresuid(user, user, user).map_err(failed("change user"))?;
    caps::set(Caps::NONE, Caps::NONE).map_err(Failure::doing("drop capabilities"))?;
    set_no_new_privs().map_err(Failure::doing("renounce privileges"))?;
    reset_signals().map_err(Failure::doing("reset signals"))?;
    execve(c"/pause", &[c"/pause"], &[] as &[&std::ffi::CStr]).map_err(failed("execute pause"))
}

/// The file of a parameter whose parts dots separate; a dot inside a part is written as a slash, as
/// sysctl(8) has it.
fn sysctl_file(name: &str) -> io::Result<PathBuf> {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = name.chars().map(swap).collect();
    // Nothing beside /proc/sys is anybody's parameter.
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Path::new("/proc/sys").join(path))
}

/// Makes `root` all that can be seen.
fn enter(root: &OwnedFd) -> Result<(), Failure> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(failed("make mounts private"))?;
    super::rootfs::cover(root).map_err(Failure::doing("mount pause's directory"))?;
    fchdir(root).map_err(failed("enter pause's directory"))?;
    pivot_root(".", ".").map_err(failed("change the root to pause's directory"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leave the node's mounts"))?;
    chdir("/").map_err(failed("enter /"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stay_below_their_directory() {
        let file = |name: &str| sysctl_file(name).map(|path| path.display().to_string()).unwrap_or_default();
        assert_eq!(file("net.ipv4.conf.eth0/1.mtu"), "/proc/sys/net/ipv4/conf/eth0.1/mtu");
        for name in ["", "net.", ".net", "net.//.kernel.core_pattern", "//.x", "net./.x"] {
            assert_eq!(file(name), "", "{name}");
        }
    }
}
