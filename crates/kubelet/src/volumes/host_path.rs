//! hostPath volumes: what their type demands of the path.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use crate::made_paths::{For, Identity};

/// Checks the path, or makes it where the type says so, and writes that down. The messages are upstream's.
pub(super) fn check(path: &Path, kind: &str, made: For<'_>) -> Result<(), String> {
    match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" => return directory(path, made),
        "FileOrCreate" => return file(path, made),
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

fn directory(path: &Path, made: For<'_>) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(mismatch(path, "directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            directories(path, made).map_err(|error| format!("mkdir {}: {error}", path.display()))
        }
        Err(error) => Err(format!("stat {}: {error}", path.display())),
    }
}

/// With those above it that are missing.
fn directories(path: &Path, made: For<'_>) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|own| !own.exists()).collect();
    for own in missing.into_iter().rev().filter(|own| !own.as_os_str().is_empty()) {
        let make = || {
            fs::create_dir(own)?;
            Ok(Identity::of(&fs::symlink_metadata(own)?))
        };
        match made.make(own, make) {
            // Of another pod, or of somebody, at the same time.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(())
}

fn file(path: &Path, made: For<'_>) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(mismatch(path, "file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A missing parent is an error here, as upstream has it.
            let make = || {
                let file = fs::File::create_new(path)?;
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
                Ok(Identity::of(&file.metadata()?))
            };
            made.make(path, make).map_err(|error| format!("open {}: {error}", path.display()))
        }
        Err(error) => Err(format!("stat {}: {error}", path.display())),
    }
}
