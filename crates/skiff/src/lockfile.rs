//! Lock files that who holds one may remove.
//!
//! A lock is flock(2)'s: it belongs to the open file, ends with the last process that has it open, and is
//! never left behind by one that was killed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

/// Locks a file, making it where it is missing, and waits for whoever has it.
pub(crate) fn wait(path: &Path) -> anyhow::Result<File> {
    loop {
        let file = open(path)?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Locks a file, making it where it is missing; `None` if somebody has it.
pub(crate) fn try_lock(path: &Path) -> anyhow::Result<Option<File>> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Whether somebody has it. Nothing is made.
pub(crate) fn is_locked(path: &Path) -> anyhow::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Its last holder may have removed it between the opening and the locking; then it locks nothing.
fn is_at(file: &File, path: &Path) -> anyhow::Result<bool> {
    let own = file.metadata().context("cannot read the lock")?;
    Ok(fs::metadata(path).is_ok_and(|present| present.ino() == own.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_a_removed_file_locks_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        assert!(!is_locked(&path).expect("it can be seen") && !path.exists());
        let first = try_lock(&path).expect("it can be locked").expect("nobody has it");
        assert!(is_locked(&path).expect("it can be seen"));
        assert!(try_lock(&path).expect("it can be tried").is_none());
        fs::remove_file(&path).expect("it is there");
        let second = try_lock(&path).expect("it can be locked").expect("nobody has the new one");
        drop(first);
        assert!(is_locked(&path).expect("it can be seen"));
        drop(second);
        assert!(!is_locked(&path).expect("it can be seen"));
    }

    /// As between processes: the lock is the open file's.
    #[test]
    fn who_waits_gets_it_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let first = wait(&path).expect("nobody has it");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&path).expect("it is free in the end"));
            // It is removed while the other may wait for it already: that one gets the file that is there.
            fs::remove_file(&path).expect("it is there");
            drop(first);
            let second = waiting.join().expect("it ends");
            assert!(is_at(&second, &path).expect("it can be seen"));
        });
    }
}
