//! `fsGroup`: volumes that belong to a group of the pod's.
//!
//! Volumes of the node's own making get it when they are made, so that nothing has to be walked while
//! containers write: `fsGroupChangePolicy`, which is about such walks, says nothing here, as upstream has
//! it for these volumes. Host paths are the host's and stay as they are.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::content::Files;

/// What files that nobody writes are given to the group.
const READ: u32 = 0o440;
/// A directory is entered too, and hands its group down.
const DIRECTORY: u32 = READ | 0o2110;
/// A directory that everybody writes.
const WRITABLE: u32 = 0o777;
const WRITABLE_OF_GROUP: u32 = WRITABLE | 0o2000;

/// The group that the pod's volumes belong to.
pub(crate) fn group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// Files that will be written for the group to read.
pub(super) fn of_files(files: &mut Files, group: Option<u32>) {
    let Some(group) = group else { return };
    for file in files.values_mut() {
        file.owner.group.get_or_insert(group);
        file.mode |= READ;
    }
}

/// The directories of a volume of such files.
pub(super) fn of_directories(dir: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A link is none, wherever it leads.
        if entry.file_type()?.is_dir() {
            of_directories(&entry.path(), Some(group))?;
        } else {
            lchown(entry.path(), None, Some(group))?;
        }
    }
    chown(dir, None, Some(group))?;
    let mode = fs::metadata(dir)?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | DIRECTORY))
}

/// An empty directory of the group's, or of everybody's. It appears as it shall be; one that is there is
/// the containers' by now.
pub(super) fn new_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let beside = path.with_extension("new");
    fs::create_dir_all(&beside)?;
    chown(&beside, None, group)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(writable(group)))?;
    fs::rename(&beside, path)
}

/// The same for the root of a tmpfs, as options of its mount.
pub(super) fn mount_options(group: Option<u32>) -> String {
    let group_option = group.map(|group| format!(",gid={group}")).unwrap_or_default();
    format!("mode={:o}{group_option}", writable(group))
}

fn writable(group: Option<u32>) -> u32 {
    if group.is_some() { WRITABLE_OF_GROUP } else { WRITABLE }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::volumes::content::{File, Owner};

    fn seen(path: &Path) -> String {
        let metadata = fs::metadata(path).expect("is there");
        format!("{}:{} {:o}", metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    }

    #[test]
    fn files_are_given_to_the_group_and_stay_their_users() {
        let file = |mode, owner| File { bytes: Vec::new(), mode, owner };
        let token = Owner { user: Some(7), group: None };
        let mut files: Files =
            [("a".into(), file(0o400, Owner::default())), ("t".into(), file(0o600, token))].into();
        of_files(&mut files, None);
        assert_eq!(files["a"].mode, 0o400);
        of_files(&mut files, Some(2000));
        assert_eq!((files["a"].mode, files["a"].owner), (0o440, Owner { user: None, group: Some(2000) }));
        assert_eq!((files["t"].mode, files["t"].owner), (0o640, Owner { user: Some(7), group: Some(2000) }));
    }

    #[test]
    fn directories_hand_the_group_down() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("v");
        new_directory(&volume, Some(2000)).expect("makes it");
        assert_eq!(seen(&volume), "0:2000 2777");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o700)).expect("as a container does");
        new_directory(&volume, Some(2000)).expect("leaves it");
        assert_eq!(seen(&volume), "0:2000 700");
        new_directory(&dir.path().join("w"), None).expect("makes it");
        assert_eq!(seen(&dir.path().join("w")), "0:0 777");
        fs::create_dir_all(volume.join("..1/sub")).expect("makes it");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("makes it");
        std::os::unix::fs::symlink(&outside, volume.join("link")).expect("makes it");
        of_directories(&volume, Some(2001)).expect("walks");
        assert_eq!(seen(&volume.join("..1/sub")), "0:2001 2755");
        assert_eq!(seen(&outside), "0:0 755", "nothing is done through a link");
    }

    #[test]
    fn options_of_a_tmpfs() {
        assert_eq!(mount_options(None), "mode=777");
        assert_eq!(mount_options(Some(5)), "mode=2777,gid=5");
    }
}
