//! Who uses a data directory: whoever holds the lock of a file in it.
//!
//! `skiff up`, `server` and `agent` take it before they change anything and hand it on to what they start,
//! so that it is held for as long as any of the platform's processes works on the data, whichever of them
//! dies. The shims of pods don't get it, since they outlive an agent by design.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use skiff_runtime::{facts, private};

use crate::lockfile;

/// The lock's name begins as that of the marker: both say that a directory is ours.
const LOCK: &str = "skiff-data.lock";

/// A data directory is this process's, and that of the processes that it starts from here on.
pub(crate) struct InUse {
    _lock: File,
}

/// Takes a data directory, making it where it is not there yet, for root alone, or says who has it.
pub(crate) fn take(data_dir: &Path) -> anyhow::Result<InUse> {
    private::make_dir(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
    let Some(lock) = lockfile::try_lock(&lock_path(data_dir))? else { return Err(refusal(data_dir)) };
    fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot hand the lock on")?;
    Ok(InUse { _lock: lock })
}

/// Fails where somebody has a data directory; makes nothing.
pub(crate) fn check(data_dir: &Path) -> anyhow::Result<()> {
    match lockfile::is_locked(&lock_path(data_dir))? {
        true => Err(refusal(data_dir)),
        false => Ok(()),
    }
}

fn refusal(data_dir: &Path) -> anyhow::Error {
    let user = User::find(&lock_path(data_dir));
    anyhow::anyhow!(
        "the data directory {} is in use by {user}: end that first, or name another",
        data_dir.display()
    )
}

/// Who has a data directory, if anybody has it.
pub(crate) fn user(data_dir: &Path) -> Option<User> {
    let path = lock_path(data_dir);
    // Where it can't be told, whoever goes on to use it is told why.
    lockfile::is_locked(&path).unwrap_or(false).then(|| User::find(&path))
}

fn lock_path(data_dir: &Path) -> PathBuf {
    data_dir.join(LOCK)
}

/// Who holds a lock: the oldest of the processes that have the file open, which is the one that the others
/// were started by, if it lives. `None`: it is not to be seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User(Option<u32>);

impl User {
    fn find(lock: &Path) -> Self {
        let Ok(file) = fs::metadata(lock) else { return Self(None) };
        let has_it = |pid: &u32| {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            open.map(|fd| fd.path()).any(|fd| {
                // By its name first: to ask for another file may take for ever.
                fs::read_link(&fd).is_ok_and(|target| target.file_name() == lock.file_name())
                    && fs::metadata(&fd)
                        .is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
            })
        };
        let pids = facts::processes().unwrap_or_default().into_iter().map(|process| process.pid);
        let users = pids.filter(|pid| *pid != std::process::id()).filter(has_it);
        Self(users.min_by_key(|pid| (facts::stat(*pid).map(|stat| stat.start_ticks), *pid)))
    }
}

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(out, "process {pid}"),
            None => out.write_str("a process that is not seen from here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const ALONE: &str = "SKIFF_TEST_HANDS_A_LOCK_ON";

    /// Runs itself once more, alone: what other tests start meanwhile would be handed the lock as well.
    #[test]
    fn a_directory_is_taken_until_the_last_that_it_was_handed_on_to_has_ended() {
        if std::env::var_os(ALONE).is_some() {
            return until_the_last_has_ended();
        }
        let test = "in_use::tests::a_directory_is_taken_until_the_last_that_it_was_handed_on_to_has_ended";
        let mut alone = Command::new(std::env::current_exe().expect("this program"));
        alone.args([test, "--exact", "--nocapture"]).env(ALONE, "1").stdin(Stdio::null());
        let output = alone.output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    }

    fn until_the_last_has_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        check(&data).expect("nobody has it");
        assert!(!data.exists(), "to look makes nothing");
        let own = take(&data).expect("nobody has it");
        let mode = fs::metadata(&data).expect("it is there").mode();
        assert_eq!(mode & 0o7777, 0o700);
        let mut heir = Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn().expect("it starts");
        drop(own);
        let refused = take(&data).err().expect("it is taken").to_string();
        let expected = format!(
            "the data directory {} is in use by process {}: end that first, or name another",
            data.display(),
            heir.id()
        );
        assert_eq!(refused, expected);
        assert_eq!(check(&data).expect_err("it is taken").to_string(), expected);
        assert_eq!(user(&data), Some(User(Some(heir.id()))));
        heir.kill().expect("it runs");
        heir.wait().expect("it ends");
        check(&data).expect("nobody has it");
        assert_eq!(user(&data), None);
    }
}
