//! Directories and files that nobody but their owner reaches, whatever the process's umask is, and whatever
//! mode an earlier version gave them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;

/// Makes a directory of mode 0700, and those above it that are missing. One that is there is tightened, those
/// above it are not touched.
pub fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)?;
    tighten(path, DIRECTORY)
}

/// Opens a file with mode 0600 as `options` say; one that is there is tightened.
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(FILE).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(FILE))?;
    }
    Ok(file)
}

/// Makes a file of mode 0600, or empties the one that is there.
pub fn create(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().write(true).create(true).truncate(true), path)
}

/// Only where it is needed: an idle start writes nothing.
fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_and_what_was_there_is_its_owners_alone() {
        let top = tempfile::tempdir().expect("a directory");
        let (above, dir) = (top.path().join("a"), top.path().join("a/b"));
        make_dir(&dir).expect("it is made");
        assert_eq!((mode(&above), mode(&dir)), (0o700, 0o700));
        for path in [&above, &dir] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
        }
        make_dir(&dir).expect("it is there");
        assert_eq!((mode(&above), mode(&dir)), (0o755, 0o700));

        let file = dir.join("f");
        create(&file).expect("it is made");
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("it is ours");
        open(OpenOptions::new().append(true), &file).expect("it is there");
        assert_eq!(mode(&file), 0o600);
        // A directory in the place of one is a file's fault, and a file in the place of a directory too.
        assert!(make_dir(&file).is_err() && create(&dir).is_err());
    }
}
