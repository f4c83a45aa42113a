//! The sandbox's own process: makes the namespaces and becomes `pause`.

use std::convert::Infallible;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{
    Gid, Uid, chdir, execve, pivot_root, setgroups, sethostname, setresgid, setresuid, setsid,
};
use skiff_sys::caps::{self, Caps};
use skiff_sys::process::{reset_signals, set_dumpable, set_no_new_privs};

use super::{failed, join_cgroups, set_oom_score_adj};
use crate::protocol::{Boot, Failure};

/// As the kubelet asks of every runtime: `pause` goes last.
const OOM_SCORE_ADJ: i32 = -998;
/// Nobody's, and not 0: what holds the namespaces needs no rights.
const USER: u32 = 65535;

pub(crate) fn pause(boot: &Boot, socket: &UnixStream) -> Result<Infallible, Failure> {
    set_dumpable(false).map_err(Failure::doing("protect the set-up from tracing"))?;
    set_oom_score_adj(OOM_SCORE_ADJ, socket)?;
    join_cgroups(&boot.join)?;
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
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&file, value)
            .map_err(Failure::doing(format_args!("set the kernel parameter {name} to {value:?}")))?;
    }
    enter(&boot.pause_root)?;
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

/// Makes `root`, read-only, all that can be seen.
fn enter(root: &Path) -> Result<(), Failure> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(failed("make mounts private"))?;
    mount(Some(root), root, none, MsFlags::MS_BIND, none).map_err(failed("mount pause's directory"))?;
    let flags =
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, root, none, flags, none).map_err(failed("make pause's directory read-only"))?;
    chdir(root).map_err(failed("enter pause's directory"))?;
    pivot_root(".", ".").map_err(failed("change the root to pause's directory"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leave the node's mounts"))?;
    chdir("/").map_err(failed("enter /"))
}
