//! hostPath volumes: what their type demands of the path.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks the path, or makes it where the type says so. The messages are upstream's.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" => return directory(path),
        "FileOrCreate" => return file(path),
        _ => {}
    }
    let metadata = fs::metadata(path);
    let is =
        |test: fn(&fs::FileType) -> bool| metadata.as_ref().is_ok_and(|metadata| test(&metadata.file_type()));
    let (holds, noun) = match kind {
        "Directory" => (is(fs::FileType::is_dir), "directory"),
        "File" => (is(fs::FileType::is_file), "file"),
        "Socket" => (is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if holds { Ok(()) } else { Err(mismatch(path, noun)) }
}

fn mismatch(path: &Path, noun: &str) -> String {
    format!("hostPath type check failed: {} is not a {noun}", path.display())
}

fn directory(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(mismatch(path, "directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(|error| format!("mkdir {}: {error}", path.display()))
        }
        Err(error) => Err(format!("stat {}: {error}", path.display())),
    }
}

fn file(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(mismatch(path, "file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A missing parent is an error here, as upstream has it.
            let make = || {
                fs::File::create_new(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o644))
            };
            make().map_err(|error| format!("open {}: {error}", path.display()))
        }
        Err(error) => Err(format!("stat {}: {error}", path.display())),
    }
}
