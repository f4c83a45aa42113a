//! The container's view of the file system.
//!
//! The node's directories that it shall see are copied as detached trees first, while they still belong to
//! the node's peer groups; then this process's mounts are cut loose, the layers are mounted, and everything
//! is attached below them by descriptors that were resolved *inside* the new root: a symbolic link in an
//! image can't lead a mount outside.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{chdir, fchdir, pivot_root};
use skiff_sys::mount::{
    NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, map_ids, move_mount, new_filesystem, open_tree, set_attributes,
};

use super::masks::Null;
use super::overlay::{self, Users};
use super::root::{Root, doing, open_path};
use super::targets::Inside;
use super::terminal::Terminal;
use super::{devices, failed, volumes};
use crate::protocol::Failure;
use crate::spec::{DeviceNode, Spec};

/// The group of terminals, on every distribution.
const TTY_GROUP: &str = "5";

/// What the node gives to the container: detached trees.
pub(super) struct Parts {
    mounts: Vec<OwnedFd>,
    shm: OwnedFd,
    /// For users of the container's own: its root, and the node's devices, which these can't make.
    theirs: Option<(OwnedFd, Vec<(DeviceNode, OwnedFd)>)>,
}

/// Takes hold of all that lies outside of the container. With a user namespace everything is shown as its
/// users see it, and the root is mounted: only the node's root can do either.
pub(super) fn gather(spec: &Spec, users: Option<Users<'_>>) -> Result<Parts, Failure> {
    let mut mounts = Vec::new();
    for wanted in &spec.mounts {
        let tree = volumes::source(wanted)?;
        if let Some(users) = users {
            volumes::show_to(users.namespace, &tree, wanted)?;
        }
        mounts.push(tree);
    }
    let shm = open_tree(&spec.shm, false).map_err(doing("copy the mount", &spec.shm))?;
    let Some(users) = users else { return Ok(Parts { mounts, shm, theirs: None }) };
    // Before Linux 6.3 a tmpfs can't; its top then belongs to nobody, and works.
    let _ = map_ids(shm.as_fd(), users.namespace, false);
    let mut given = Vec::new();
    for node in devices::wanted(spec) {
        let source = if node.source.as_os_str().is_empty() { &node.path } else { &node.source };
        let tree = open_tree(source, false).map_err(doing("copy the device", source))?;
        given.push((node, tree));
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    make_private()?;
    let root = overlay::root_for(users, &spec.rootfs)?;
    Ok(Parts { mounts, shm, theirs: Some((root, given)) })
}

/// What of the container's `/dev` is needed later, whatever a volume shows there.
pub(super) struct Kept {
    /// What masks are made of.
    pub(super) null: Null,
    pub(super) terminal: Option<Terminal>,
}

/// Builds the root and makes it this process's.
pub(super) fn enter(spec: &Spec, parts: Parts) -> Result<Kept, Failure> {
    let Parts { mounts, shm, theirs } = parts;
    make_private()?;
    let (root, given) = match theirs {
        Some((root, given)) => {
            cover(&root).map_err(Failure::doing("mount the container's root"))?;
            (root, Some(given))
        }
        None => {
            overlay::mount_root(&spec.rootfs)?;
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = nix::fcntl::open(&spec.rootfs.target, flags, Mode::empty());
            (root.map_err(failed("open the container's root"))?, None)
        }
    };
    let root = Root { fd: root, follows_links: spec.weakness.follows_links };

    let inside = Inside { root: &root, open: spec.weakness.mounts_into_proc };
    inside.ordinary_directory("proc", "/proc")?;
    root.attach_new("proc", &[], NO_SUID | NO_DEV | NO_EXEC, "/proc")?;
    root.attach_new("tmpfs", &[("mode", Some("755")), ("size", Some("65536k"))], NO_SUID, "/dev")?;
    let pts =
        [("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some(TTY_GROUP))];
    let pts =
        new_filesystem("devpts", &pts, NO_SUID | NO_EXEC).map_err(doing("make the devpts of", "/dev/pts"))?;
    root.attach(&pts, "/dev/pts")?;
    let terminal = spec.tty.then(|| Terminal::of(pts.as_fd())).transpose()?;
    root.attach_new("mqueue", &[], NO_SUID | NO_DEV | NO_EXEC, "/dev/mqueue")?;
    root.attach(&shm, "/dev/shm")?;
    let sysfs = if spec.privileged { 0 } else { READ_ONLY };
    inside.ordinary_directory("sysfs", "/sys")?;
    root.attach_new("sysfs", &[], sysfs | NO_SUID | NO_DEV | NO_EXEC, "/sys")?;
    cgroups(&root, sysfs)?;
    devices::make(&root, spec, given)?;
    let null = Null::of(&root, spec.weakness.trusts_volumes)?;
    for (wanted, tree) in spec.mounts.iter().zip(mounts) {
        // Not by its path, which leads through directories that are the node's root's alone.
        let kind = fstat(&tree).map_err(failed(format_args!("look at {}", wanted.source.display())))?.st_mode;
        let is_dir = SFlag::from_bits_truncate(kind) & SFlag::S_IFMT == SFlag::S_IFDIR;
        let target = inside.mount_point(wanted, tree.as_fd(), is_dir)?;
        move_mount(tree.as_fd(), target.as_fd()).map_err(doing("mount on", &wanted.target))?;
    }
    terminal.iter().try_for_each(|terminal| terminal.show(&root))?;
    fchdir(&root.fd).map_err(failed("enter the container's root"))?;
    pivot_root(".", ".").map_err(failed("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leave the node's mounts"))?;
    chdir("/").map_err(failed("enter /"))?;
    Ok(Kept { null, terminal })
}

/// Attaches a tree on top of this process's root, which goes on to see what is below.
pub(super) fn cover(tree: &OwnedFd) -> io::Result<()> {
    move_mount(tree.as_fd(), open_path(Path::new("/"))?.as_fd())
}

fn make_private() -> Result<(), Failure> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("make mounts private"))
}

/// The node's control groups as this container's: its own is the top of each.
fn cgroups(root: &Root, attributes: u64) -> Result<(), Failure> {
    const AT: &str = "/sys/fs/cgroup";
    let attributes = attributes | NO_SUID | NO_DEV | NO_EXEC;
    let membership =
        fs::read_to_string("/proc/self/cgroup").map_err(Failure::doing("read /proc/self/cgroup"))?;
    let controllers: Vec<&str> = membership.lines().filter_map(|line| line.split(':').nth(1)).collect();
    let v1: Vec<&&str> = controllers.iter().filter(|list| !list.is_empty()).collect();
    if v1.is_empty() {
        return root.attach_new("cgroup2", &[], attributes, AT);
    }
    root.attach_new(
        "tmpfs",
        &[("mode", Some("755")), ("size", Some("64k"))],
        NO_SUID | NO_DEV | NO_EXEC,
        AT,
    )?;
    for list in v1 {
        let name = list.strip_prefix("name=").unwrap_or(list);
        let options: Vec<(&str, Option<&str>)> = match list.strip_prefix("name=") {
            Some(name) => vec![("none", None), ("name", Some(name))],
            None => list.split(',').map(|controller| (controller, None)).collect(),
        };
        root.attach_new("cgroup", &options, attributes, &format!("{AT}/{name}"))?;
        for alias in list.split(',').filter(|alias| *alias != name && !alias.contains('=')) {
            root.link(name, &format!("{AT}/{alias}"))?;
        }
    }
    if controllers.contains(&"") {
        root.attach_new("cgroup2", &[], attributes, &format!("{AT}/unified"))?;
    }
    if attributes & READ_ONLY != 0 {
        let top = root.open(Path::new(AT)).map_err(doing("open", AT))?;
        set_attributes(top.as_fd(), READ_ONLY, None, false).map_err(doing("make read-only", AT))?;
    }
    Ok(())
}
