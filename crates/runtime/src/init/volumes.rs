//! What of the node a container is shown: detached trees, read-only and propagating as was asked.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use skiff_sys::mount::{self, NO_DEV, NO_SUID, READ_ONLY, new_filesystem, open_tree, set_attributes};

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
