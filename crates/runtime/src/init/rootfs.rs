//! The container's view of the file system.
//!
//! The node's directories that it shall see are copied as detached trees first, while they still belong to
//! the node's peer groups; then this process's mounts are cut loose, the layers are mounted, and everything
//! is attached below them by descriptors that were resolved *inside* the new root: a symbolic link in an
//! image can't lead a mount outside.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, chdir, fchdir, fchownat, pivot_root, setfsgid, setfsuid};
use skiff_sys::caps;
use skiff_sys::mount::{
    NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, map_ids, move_mount, new_filesystem, open_in_root, open_tree,
    set_attributes,
};

use super::failed;
use super::masks::Null;
use super::targets::Inside;
use crate::protocol::Failure;
use crate::spec::{DeviceNode, Rootfs, Spec};
use crate::types::{Mount, Propagation};

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
/// The group of terminals, on every distribution.
const TTY_GROUP: &str = "5";
/// mount(2) takes a page of options.
const OPTIONS_MAX: usize = 4000;

/// Users of the sandbox's own.
#[derive(Clone, Copy)]
pub(crate) struct Users<'a> {
    pub(crate) namespace: BorrowedFd<'a>,
    /// Who its root is on the node.
    pub(crate) root: u32,
}

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
        let tree = source(wanted)?;
        if let Some(users) = users {
            show_to(users.namespace, &tree, &wanted.source)?;
        }
        mounts.push(tree);
    }
    let shm = open_tree(&spec.shm, false).map_err(doing("copy the mount", &spec.shm))?;
    let Some(users) = users else { return Ok(Parts { mounts, shm, theirs: None }) };
    // Before Linux 6.3 a tmpfs can't; its top then belongs to nobody, and works.
    let _ = map_ids(shm.as_fd(), users.namespace);
    let mut devices = Vec::new();
    for node in wanted_devices(spec) {
        let source = if node.source.as_os_str().is_empty() { &node.path } else { &node.source };
        let tree = open_tree(source, false).map_err(doing("copy the device", source))?;
        devices.push((node, tree));
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    make_private()?;
    let root = overlay_for(users, &spec.rootfs)?;
    Ok(Parts { mounts, shm, theirs: Some((root, devices)) })
}

/// Builds the root and makes it this process's. Answers what its masks are made of.
pub(super) fn enter(spec: &Spec, parts: Parts) -> Result<Null, Failure> {
    let Parts { mounts, shm, theirs } = parts;
    make_private()?;
    let (root, given) = match theirs {
        Some((root, devices)) => {
            cover(&root).map_err(Failure::doing("mount the container's root"))?;
            (root, Some(devices))
        }
        None => {
            overlay(&spec.rootfs)?;
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
    root.attach_new("devpts", &pts, NO_SUID | NO_EXEC, "/dev/pts")?;
    root.attach_new("mqueue", &[], NO_SUID | NO_DEV | NO_EXEC, "/dev/mqueue")?;
    root.attach(shm, "/dev/shm")?;
    let sysfs = if spec.privileged { 0 } else { READ_ONLY };
    inside.ordinary_directory("sysfs", "/sys")?;
    root.attach_new("sysfs", &[], sysfs | NO_SUID | NO_DEV | NO_EXEC, "/sys")?;
    cgroups(&root, sysfs)?;
    devices(&root, spec, given)?;
    let null = Null::of(&root, spec.weakness.trusts_volumes)?;
    for (wanted, tree) in spec.mounts.iter().zip(mounts) {
        let is_dir = wanted.source.as_os_str().is_empty() || wanted.source.is_dir();
        let target = inside.mount_point(wanted, tree.as_fd(), is_dir)?;
        move_mount(tree.as_fd(), target.as_fd()).map_err(doing("mount on", &wanted.target))?;
    }
    fchdir(&root.fd).map_err(failed("enter the container's root"))?;
    pivot_root(".", ".").map_err(failed("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leave the node's mounts"))?;
    chdir("/").map_err(failed("enter /"))?;
    Ok(null)
}

/// Attaches a tree on top of this process's root, which goes on to see what is below.
pub(super) fn cover(tree: &OwnedFd) -> io::Result<()> {
    move_mount(tree.as_fd(), open_path(Path::new("/"))?.as_fd())
}

fn make_private() -> Result<(), Failure> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("make mounts private"))
}

/// In the words that runc has for it.
fn show_to(users: BorrowedFd<'_>, tree: &OwnedFd, path: &Path) -> Result<(), Failure> {
    map_ids(tree.as_fd(), users).map_err(|error| {
        let path = path.display();
        Failure::new(
            128,
            format!(
                "failed to set MOUNT_ATTR_IDMAP on {path}: {error} (maybe the filesystem used doesn't support \
                 idmap mounts on this kernel?)"
            ),
        )
    })
}

/// The container's terminal is also its console.
pub(super) fn bind_console(slave: &str) -> Result<(), Failure> {
    fs::File::create("/dev/console").map_err(Failure::doing("make /dev/console"))?;
    mount(Some(slave), "/dev/console", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(failed("mount /dev/console"))
}

/// A detached tree of what shall be mounted.
fn source(wanted: &Mount) -> Result<OwnedFd, Failure> {
    let read_only = if wanted.read_only { READ_ONLY } else { 0 };
    if wanted.source.as_os_str().is_empty() {
        return new_filesystem("tmpfs", &[("mode", Some("1777"))], read_only | NO_SUID | NO_DEV)
            .map_err(doing("make a tmpfs for", &wanted.target));
    }
    let tree = open_tree(&wanted.source, true).map_err(doing("mount", &wanted.source))?;
    let propagation = match wanted.propagation {
        Propagation::Private => skiff_sys::mount::Propagation::Private,
        Propagation::HostToContainer => skiff_sys::mount::Propagation::Slave,
        Propagation::Bidirectional => {
            if !is_shared(&wanted.source).map_err(doing("look up the mount of", &wanted.source))? {
                let path = wanted.source.display();
                return Err(Failure::new(128, format!("path {path:?} is not on a shared mount")));
            }
            skiff_sys::mount::Propagation::Shared
        }
    };
    set_attributes(tree.as_fd(), 0, Some(propagation), true)
        .map_err(doing("set the propagation of", &wanted.source))?;
    // Mounts below the source keep their own setting, as with every other runtime.
    set_attributes(tree.as_fd(), read_only, None, false).map_err(doing("make read-only", &wanted.source))?;
    Ok(tree)
}

/// Whether the mount that a path is on propagates.
fn is_shared(path: &Path) -> io::Result<bool> {
    let path = fs::canonicalize(path)?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let at = fields.get(4)?.replace("\\040", " ");
        path.starts_with(&at).then(|| {
            (at.len(), fields[6..].iter().take_while(|f| **f != "-").any(|f| f.starts_with("shared:")))
        })
    });
    // The deepest, and of several on one another the last, is the one in sight.
    Ok(mounts.max_by_key(|(depth, _)| *depth).is_some_and(|(_, shared)| shared))
}

fn overlay(rootfs: &Rootfs) -> Result<(), Failure> {
    let text = |path: &Path| {
        let text =
            path.to_str().ok_or_else(|| Failure::new(128, format!("{} is not UTF-8", path.display())))?;
        Ok::<_, Failure>(text.to_owned())
    };
    let escaped = |path: &Path| {
        Ok::<_, Failure>(text(path)?.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,"))
    };
    let layers: Vec<String> =
        rootfs.layers.iter().rev().map(|layer| escaped(layer)).collect::<Result<_, _>>()?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        layers.join(":"),
        escaped(&rootfs.upper)?,
        escaped(&rootfs.work)?
    );
    let complain = "mount the image's layers (the runtime's data directory must not lie on overlayfs itself)";
    if options.len() < OPTIONS_MAX {
        let none = MsFlags::empty();
        return mount(Some("overlay"), &rootfs.target, Some("overlay"), none, Some(options.as_str()))
            .map_err(failed(complain));
    }
    // Many layers: one option for each, which Linux takes since 6.8.
    let layers: Vec<String> =
        rootfs.layers.iter().rev().map(|layer| text(layer)).collect::<Result<_, _>>()?;
    let (upper, work) = (text(&rootfs.upper)?, text(&rootfs.work)?);
    let mut options: Vec<(&str, Option<&str>)> =
        layers.iter().map(|l| ("lowerdir+", Some(l.as_str()))).collect();
    options.extend([("upperdir", Some(upper.as_str())), ("workdir", Some(work.as_str()))]);
    let tree = new_filesystem("overlay", &options, 0).map_err(Failure::doing(complain))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let target =
        nix::fcntl::open(&rootfs.target, flags, Mode::empty()).map_err(failed("open the root's place"))?;
    move_mount(tree.as_fd(), target.as_fd()).map_err(Failure::doing(complain))
}

/// The same for users of the container's own: layers, and what is written over them, are shown to these
/// users. The layers are mounted below the target first, so that the options stay short.
fn overlay_for(users: Users<'_>, rootfs: &Rootfs) -> Result<OwnedFd, Failure> {
    let target = &rootfs.target;
    let none = MsFlags::empty();
    mount(Some("tmpfs"), target, Some("tmpfs"), none, Some("size=1m"))
        .map_err(failed("mount a place for the image's layers"))?;
    chdir(target).map_err(failed("enter the place for the image's layers"))?;
    let attach = |path: &Path, name: &str| {
        let tree = open_tree(path, false).map_err(doing("copy the mount", path))?;
        show_to(users.namespace, &tree, path)?;
        let act = || {
            fs::create_dir(name)?;
            move_mount(tree.as_fd(), open_path(Path::new(name))?.as_fd())
        };
        act().map_err(doing("mount", path))
    };
    let mut lower = Vec::new();
    for (number, layer) in rootfs.layers.iter().enumerate().rev() {
        let name = number.to_string();
        attach(layer, &name)?;
        lower.push(name);
    }
    let own = rootfs.upper.parent().unwrap_or(Path::new("/"));
    attach(own, "own")?;
    let options = format!("lowerdir={},upperdir=own/upper,workdir=own/work", lower.join(":"));
    // The overlay makes things of its own as who mounts it, who has to be somebody to the mapped layers.
    let held = caps::permitted().map_err(Failure::doing("ask for capabilities"))?;
    let act_as = |id: u32| {
        setfsgid(Gid::from_raw(id));
        setfsuid(Uid::from_raw(id));
        // The capabilities about files went with root's ID.
        caps::set(held, held).map_err(Failure::doing("set capabilities"))
    };
    act_as(users.root)?;
    let mounted = mount(Some("overlay"), target, Some("overlay"), none, Some(options.as_str()));
    act_as(0)?;
    mounted.map_err(failed("mount the image's layers"))?;
    chdir("/").map_err(failed("enter /"))?;
    open_tree(target, false).map_err(doing("copy the mount", target))
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

fn devices(root: &Root, spec: &Spec, given: Option<Vec<(DeviceNode, OwnedFd)>>) -> Result<(), Failure> {
    match given {
        None => wanted_devices(spec).iter().try_for_each(|node| root.device(node))?,
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
fn wanted_devices(spec: &Spec) -> Vec<DeviceNode> {
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
    let mut seen = std::collections::BTreeSet::new();
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

pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The new root while this process still has its old one. Every path is the container's.
pub(super) struct Root {
    pub(super) fd: OwnedFd,
    /// See [`crate::types::Weakness`].
    follows_links: bool,
}

impl Root {
    pub(super) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        if self.follows_links {
            let relative = path.strip_prefix("/").unwrap_or(path);
            let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            return Ok(nix::fcntl::openat(&self.fd, relative, flags, Mode::empty())?);
        }
        open_in_root(self.fd.as_fd(), path, nix::libc::O_PATH, 0)
    }

    fn attach_new(
        &self,
        kind: &str,
        options: &[(&str, Option<&str>)],
        attributes: u64,
        path: &str,
    ) -> Result<(), Failure> {
        let tree =
            new_filesystem(kind, options, attributes).map_err(doing(&format!("make the {kind} of"), path))?;
        self.attach(tree, path)
    }

    fn attach(&self, tree: OwnedFd, path: &str) -> Result<(), Failure> {
        let target = self.mount_point(Path::new(path), true)?;
        move_mount(tree.as_fd(), target.as_fd()).map_err(doing("mount on", path))
    }

    /// The place of a mount, made if missing; in the container's own layer.
    pub(super) fn mount_point(&self, path: &Path, is_dir: bool) -> Result<OwnedFd, Failure> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => return answer.map_err(doing("open the mount point", path)),
        }
        let make = || {
            let (parent, name) = self.parent(path)?;
            if is_dir {
                mkdirat(&parent, &*name, Mode::from_bits_truncate(0o755))?;
            } else {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                nix::fcntl::openat(&parent, &*name, flags, Mode::from_bits_truncate(0o644))?;
            }
            self.open(path)
        };
        make().map_err(doing("make the mount point", path))
    }

    /// The directory of a path, made if missing, and the last name. Paths are clean: no `..`.
    fn parent(&self, path: &Path) -> io::Result<(OwnedFd, CString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let name = CString::new(name.as_encoded_bytes())?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        match self.open(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => return Ok((answer?, name)),
        }
        let (above, own) = self.parent(parent)?;
        match mkdirat(&above, &*own, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((self.open(parent)?, name))
    }

    fn link(&self, target: &str, path: &str) -> Result<(), Failure> {
        let make = || {
            let (parent, name) = self.parent(Path::new(path))?;
            nix::unistd::symlinkat(target, &parent, &*name).or_else(|error| match error {
                nix::Error::EEXIST => Ok(()),
                error => Err(io::Error::from(error)),
            })
        };
        make().map_err(doing("make the link", path))
    }

    fn device(&self, node: &DeviceNode) -> Result<(), Failure> {
        let make = || -> io::Result<()> {
            let (parent, name) = self.parent(&node.path)?;
            let kind = if node.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            let number = makedev(node.major.into(), node.minor.into());
            match mknodat(&parent, &*name, kind, Mode::empty(), number) {
                Err(nix::Error::EEXIST) => return Ok(()),
                // A node that is itself in a container may use a device and not make it.
                Err(nix::Error::EPERM) => return self.borrow_device(node),
                answer => answer?,
            }
            fchmodat(&parent, &*name, Mode::from_bits_truncate(node.mode), FchmodatFlags::FollowSymlink)?;
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            fchownat(&parent, &*name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
            Ok(())
        };
        make().map_err(doing("make the device", &node.path))
    }

    fn borrow_device(&self, node: &DeviceNode) -> io::Result<()> {
        let source = if node.source.as_os_str().is_empty() { &node.path } else { &node.source };
        let tree = open_tree(source, false)?;
        let target =
            self.mount_point(&node.path, false).map_err(|failure| io::Error::other(failure.message))?;
        move_mount(tree.as_fd(), target.as_fd())
    }
}

pub(super) fn doing(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failure {
    Failure::doing(format!("{action} {}", path.as_ref().display()))
}
