//! Writing a volume's files so that a reader sees either all of the old ones or all of the new.
//!
//! The files lie in a directory of their own, `..data` is a symbolic link to it that is swapped by
//! rename, and each visible name is a link through `..data`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use skiff_runtime::tree;

use super::content::{Files, Owner};
use crate::time::timestamp;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
const NAMES_TRIED_MAX: u32 = 100;

/// Makes `dir` hold `files`. Returns whether anything changed.
pub(crate) fn write(dir: &Path, files: &Files) -> io::Result<bool> {
    make_root(dir)?;
    let former = fs::read_link(dir.join(DATA)).ok();
    if let Some(former) = &former
        && same(&dir.join(former), files)?
    {
        link_names(dir, files)?;
        return Ok(false);
    }
    let name = new_directory(dir, SystemTime::now())?;
    let fresh = dir.join(&name);
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        // The process's umask has no say in what the pod asked for.
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        if file.owner != Owner::default() {
            chown(&path, file.owner.user, file.owner.group)?;
        }
    }
    let next = dir.join(DATA_NEXT);
    remove(&next)?;
    symlink(&name, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    link_names(dir, files)?;
    remove_stale_names(dir, files)?;
    if let Some(former) = former {
        remove(&dir.join(former))?;
    }
    Ok(true)
}

/// The volume's own directory is as an empty one of upstream's: everybody's, were it not mounted read-only.
/// One that is there already may be a mount or a group's.
fn make_root(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

/// Makes a directory named by the time and a number that is free, as upstream's are:
/// `..2006_01_02_15_04_05.1234567890`.
fn new_directory(dir: &Path, now: SystemTime) -> io::Result<String> {
    let time = timestamp(now).strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let first = now.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    for attempt in 0..NAMES_TRIED_MAX {
        let name = format!("{time}.{}", first.wrapping_add(attempt));
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    for path in files.keys() {
        let name = top(path);
        let link = dir.join(name);
        let target = PathBuf::from(DATA).join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            remove(&link)?;
            symlink(&target, &link)?;
        }
    }
    Ok(())
}

fn remove_stale_names(dir: &Path, files: &Files) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !files.keys().any(|path| top(path) == name) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match tree::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn same(dir: &Path, files: &Files) -> io::Result<bool> {
    fn count(dir: &Path) -> io::Result<usize> {
        let mut total = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            total += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
        }
        Ok(total)
    }
    for (path, file) in files {
        let path = dir.join(path);
        match fs::metadata(&path) {
            Ok(metadata)
                if metadata.permissions().mode() & 0o7777 == file.mode
                    && file.owner.user.is_none_or(|user| metadata.uid() == user)
                    && file.owner.group.is_none_or(|group| metadata.gid() == group) => {}
            _ => return Ok(false),
        }
        if fs::read(&path)? != file.bytes {
            return Ok(false);
        }
    }
    Ok(dir.is_dir() && count(dir)? == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::content::File;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { bytes: text.into(), mode: 0o640, owner: Owner::default() };
        list.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn swaps_all_files_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        assert!(write(dir, &files(&[("a", "1"), ("sub/b", "2")])).expect("writes"));
        assert_eq!(fs::read_to_string(dir.join("sub/b")).expect("is there"), "2");
        assert_eq!(fs::metadata(dir.join("a")).expect("is there").permissions().mode() & 0o777, 0o640);
        let open = fs::read_link(dir.join(DATA)).expect("a link");
        assert!(!write(dir, &files(&[("a", "1"), ("sub/b", "2")])).expect("nothing to do"));
        assert_eq!(fs::read_link(dir.join(DATA)).expect("a link"), open);
        assert!(write(dir, &files(&[("a", "3")])).expect("writes"));
        assert_eq!(fs::read_to_string(dir.join("a")).expect("is there"), "3");
        assert!(!dir.join("sub").exists(), "a file that is gone leaves no name");
        assert!(!dir.join(open).exists(), "nor its old directory");
    }

    #[test]
    fn directories_are_named_and_opened_as_upstreams() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", "1")])).expect("writes");
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o7777;
        assert_eq!((mode(&volume), mode(&volume.join(DATA))), (0o777, 0o755));
        let at = UNIX_EPOCH + std::time::Duration::new(1_767_323_045, 7);
        for expected in ["..2026_01_02_03_04_05.7", "..2026_01_02_03_04_05.8"] {
            assert_eq!(new_directory(&volume, at).expect("makes it"), expected);
        }
    }

    #[test]
    fn empty_volumes_exist() {
        let dir = tempfile::tempdir().expect("a directory");
        write(&dir.path().join("v"), &Files::new()).expect("writes");
        assert!(dir.path().join("v").join(DATA).is_dir());
    }
}
