//! What of the node a container is shown: detached trees, read-only and propagating as was asked.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use skiff_sys::mount::{
    self, NO_DEV, NO_SUID, READ_ONLY, map_ids, new_filesystem, open_tree, set_attributes,
};

use super::root::doing;
use crate::protocol::Failure;
use crate::types::{Mount, Propagation};

/// A detached tree of what shall be mounted.
pub(super) fn source(wanted: &Mount) -> Result<OwnedFd, Failure> {
    let read_only = if wanted.read_only { READ_ONLY } else { 0 };
    if wanted.source.as_os_str().is_empty() {
        return new_filesystem("tmpfs", &[("mode", Some("1777"))], read_only | NO_SUID | NO_DEV)
            .map_err(doing("make a tmpfs for", &wanted.target));
    }
    let tree = open_tree(&wanted.source, true).map_err(doing("mount", &wanted.source))?;
    let propagation = match wanted.propagation {
        Propagation::Private => mount::Propagation::Private,
        Propagation::HostToContainer => mount::Propagation::Slave,
        Propagation::Bidirectional => {
            if !is_shared(&wanted.source).map_err(doing("look up the mount of", &wanted.source))? {
                let path = wanted.source.display();
                return Err(Failure::new(128, format!("path {path:?} is not on a shared mount")));
            }
            mount::Propagation::Shared
        }
    };
    set_attributes(tree.as_fd(), 0, Some(propagation), true)
        .map_err(doing("set the propagation of", &wanted.source))?;
    // Mounts below the source keep their own setting unless it is asked otherwise, as with every other runtime.
    set_attributes(tree.as_fd(), read_only, None, wanted.recursive_read_only)
        .map_err(doing("make read-only", &wanted.source))?;
    Ok(tree)
}

/// Shows a volume, and whatever is mounted in it, as the users see it whose namespace that is.
pub(super) fn show_to(users: BorrowedFd<'_>, tree: &OwnedFd, wanted: &Mount) -> Result<(), Failure> {
    let Err(error) = map_ids(tree.as_fd(), users, true) else { return Ok(()) };
    // It is all or nothing, and the kernel doesn't say which mount it was: each is tried for itself.
    let refuses = |mounted: &Mounted| {
        open_tree(&mounted.at, false).is_ok_and(|alone| map_ids(alone.as_fd(), users, false).is_err())
    };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let culprit = fs::canonicalize(&wanted.source)
        .ok()
        .and_then(|source| within(&table, &source).into_iter().find(refuses));
    let kernel = nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned());
    Err(Failure::new(128, refusal(wanted, culprit.as_ref(), &error, &kernel.unwrap_or_default())))
}

/// Begins in the words that runc has for it.
fn refusal(wanted: &Mount, culprit: Option<&Mounted>, error: &io::Error, kernel: &str) -> String {
    let source = wanted.source.display();
    let at = culprit.map_or_else(|| source.to_string(), |culprit| culprit.at.display().to_string());
    let name = if wanted.name.is_empty() { source.to_string() } else { format!("\"{}\"", wanted.name) };
    let why = match culprit.map(|culprit| &*culprit.kind) {
        Some("tmpfs") => {
            format!("what is in memory can be shown so from Linux 6.3 on, and this is {kernel}")
        }
        Some(kind) => format!("the file system {kind} can't be shown so by Linux {kernel}"),
        None => "maybe the filesystem used doesn't support idmap mounts on this kernel?".to_owned(),
    };
    format!(
        "failed to set MOUNT_ATTR_IDMAP on {at}: {error}: the volume {name} can't be shown to users of the pod's \
         own ({why})"
    )
}

/// A mount of the node, and what kind of file system it is.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    at: PathBuf,
    kind: String,
}

/// A path as a mount of its own, and the mounts below it, as `/proc/self/mountinfo` has them (proc_pid_mountinfo(5)).
fn within(table: &str, path: &Path) -> Vec<Mounted> {
    let mounts = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let at = before.split(' ').nth(4)?.replace("\\040", " ");
        Some(Mounted { at: at.into(), kind: after.split(' ').next()?.to_owned() })
    });
    let (below, others): (Vec<Mounted>, Vec<Mounted>) =
        mounts.partition(|mounted| mounted.at != path && mounted.at.starts_with(path));
    // The deepest, and of several on one another the last, is the one in sight.
    let on = others.into_iter().filter(|mounted| path.starts_with(&mounted.at));
    let on = on.max_by_key(|mounted| mounted.at.as_os_str().len());
    on.map(|on| Mounted { at: path.to_owned(), ..on }).into_iter().chain(below).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        22 21 0:20 / /srv/with\\040space rw - tmpfs t rw\n\
        23 22 0:21 / /srv/with\\040space/deep rw - proc proc rw\n\
        24 21 0:22 / /srv/with rw - xfs /dev/x rw\n";

    #[test]
    fn a_volume_is_what_it_lies_on_and_all_that_is_mounted_in_it() {
        let check = |path: &str, expected: &[(&str, &str)]| {
            let found = within(TABLE, Path::new(path));
            let found: Vec<_> =
                found.iter().map(|one| (one.at.to_str().unwrap_or_default(), &*one.kind)).collect();
            assert_eq!(found, expected);
        };
        let space = ("/srv/with space", "tmpfs");
        check("/srv/with space", &[space, ("/srv/with space/deep", "proc")]);
        check("/srv/with space/x", &[("/srv/with space/x", "tmpfs")]);
        check("/srv", &[("/srv", "ext4"), space, ("/srv/with space/deep", "proc"), ("/srv/with", "xfs")]);
    }

    #[test]
    fn who_is_refused_is_told_which_volume_and_why() {
        let wanted = Mount { source: "/v".into(), name: "data".into(), ..Mount::default() };
        let refused = io::Error::from_raw_os_error(nix::libc::EINVAL);
        let check = |kind: &str, expected: &str| {
            let culprit = Mounted { at: "/v/below".into(), kind: kind.into() };
            assert_eq!(refusal(&wanted, Some(&culprit), &refused, "6.1.0"), expected);
        };
        check(
            "tmpfs",
            "failed to set MOUNT_ATTR_IDMAP on /v/below: Invalid argument (os error 22): the volume \"data\" can't \
             be shown to users of the pod's own (what is in memory can be shown so from Linux 6.3 on, and this is \
             6.1.0)",
        );
        check(
            "nfs",
            "failed to set MOUNT_ATTR_IDMAP on /v/below: Invalid argument (os error 22): the volume \"data\" can't \
             be shown to users of the pod's own (the file system nfs can't be shown so by Linux 6.1.0)",
        );
        let unnamed = refusal(&Mount { name: String::new(), ..wanted.clone() }, None, &refused, "6.1.0");
        assert!(unnamed.contains("on /v: ") && unnamed.contains("the volume /v can't"), "{unnamed}");
    }
}
