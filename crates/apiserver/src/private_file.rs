//! Files for their owner's eyes only, written whole or not at all: keys, certificates, and what the platform
//! knows of itself.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes a file of mode 0600 in the place of whatever has its name; makes the directory, for its owner alone, if
/// there is none.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file =
        fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Makes a directory of mode 0700; one that is there is given that mode.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Whether [`write`] could write there, as far as that can be told: nothing is changed.
pub fn check(path: &Path) -> io::Result<()> {
    // Directories that are missing would be made in the nearest that is not.
    let mut place = path.to_owned();
    while let Some(dir) = place.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
        place = dir.to_owned();
    }
    let probe = place.with_extension(format!("probe{}", std::process::id()));
    fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&probe)?;
    fs::remove_file(&probe)
}

/// As [`write`], and its name outlives a power cut: for keys, whose loss after they were used is a disaster.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes)?;
    path.parent().map(fs::File::open).transpose()?.map_or(Ok(()), |dir| dir.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/key.pem");
        for text in ["a long first text", "short"] {
            write_durably(&path, text.as_bytes()).expect("it is written");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        }
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        let deep = dir.path().join("deep");
        let mode = || fs::metadata(&deep).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o755)).expect("it is ours");
        make_dir(&deep).expect("it is there");
        assert_eq!(mode(), 0o700);
        let left = fs::read_dir(dir.path().join("deep")).expect("it is there").count();
        assert_eq!(left, 1, "nothing else is left");
        let blocked = path.join("below-a-file");
        assert!(write(&blocked, b"").is_err());
        for fine in [&path, &dir.path().join("new/and/deep.pem")] {
            check(fine).expect("it can be written");
        }
        assert!(check(&blocked).is_err() && check(&blocked.join("deeper")).is_err());
        assert!(check(Path::new("/proc/nope")).is_err());
        assert!(!dir.path().join("new").exists());
        assert_eq!(fs::read_dir(dir.path().join("deep")).expect("it is there").count(), 1);
    }
}
