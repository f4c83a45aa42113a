//! The root of a container: its image's layers under what it writes itself, and the same as users of its own
//! see it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chdir, setfsgid, setfsuid};
use skiff_sys::caps;
use skiff_sys::mount::{map_ids, move_mount, new_filesystem, open_tree};

use super::failed;
use super::root::{doing, open_path};
use crate::protocol::Failure;
use crate::spec::Rootfs;

/// mount(2) takes a page of options.
const OPTIONS_MAX: usize = 4000;

/// Users of the sandbox's own.
#[derive(Clone, Copy)]
pub(crate) struct Users<'a> {
    pub(crate) namespace: BorrowedFd<'a>,
    /// Who its root is on the node.
    pub(crate) root: u32,
}

pub(super) fn mount_root(rootfs: &Rootfs) -> Result<(), Failure> {
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
pub(super) fn root_for(users: Users<'_>, rootfs: &Rootfs) -> Result<OwnedFd, Failure> {
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

/// In the words that runc has for it.
fn show_to(users: BorrowedFd<'_>, tree: &OwnedFd, path: &Path) -> Result<(), Failure> {
    map_ids(tree.as_fd(), users, false).map_err(|error| {
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
