//! Who uses a data directory: whoever holds the lock of a file in it.
//!
//! `skiff up`, `server` and `agent` take it before they change anything and hand it on to those processes that
//! work on the data, and to no others, so that it is held for as long as any of these lives, whichever dies.
//! The shims of pods don't get it, since they outlive an agent by design.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use skiff_runtime::{facts, private};

use crate::lockfile;

/// The lock's name begins as that of the marker: both say that a directory is ours.
const LOCK: &str = "skiff-data.lock";

/// A child that was forked and has not executed its program yet has what its parent has: it uses nothing.
const MOMENT: Duration = Duration::from_secs(1);

/// How long the kernel may take to end processes that were killed, and whoever only looks may look.
const LAST_BREATH: Duration = Duration::from_secs(20);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A data directory is this process's, and that of those that it is handed on to.
pub(crate) struct InUse {
    lock: File,
}

impl InUse {
    /// What this command starts has the data directory too, until it ends.
    pub(crate) fn hand_on(&self, command: &mut Command) -> anyhow::Result<()> {
        let copy: OwnedFd = self.lock.try_clone().context("cannot hand the lock on")?.into();
        skiff_sys::process::hand_on(command, copy);
        Ok(())
    }

    /// What this process executes in its own place has the data directory.
    pub(crate) fn keep_over_exec(&self) -> anyhow::Result<()> {
        fcntl(&self.lock, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).context("cannot hand the lock on")
    }
}

/// Takes a data directory, making it where it is not there yet, for root alone, or says who has it.
pub(crate) fn take(data_dir: &Path) -> anyhow::Result<InUse> {
    take_within(data_dir, MOMENT)
}

/// As [`take`], where who had it was killed and takes along those that it was handed on to.
pub(crate) fn inherit(data_dir: &Path) -> anyhow::Result<InUse> {
    take_within(data_dir, LAST_BREATH)
}

fn take_within(data_dir: &Path, patience: Duration) -> anyhow::Result<InUse> {
    private::make_dir(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
    let path = lock_path(data_dir);
    let asked = Instant::now();
    loop {
        if let Some(lock) = lockfile::try_lock(&path)? {
            return Ok(InUse { lock });
        }
        // Who only looks shares it with others who do.
        let patience = if lockfile::is_locked(&path)? { patience } else { LAST_BREATH };
        if asked.elapsed() > patience {
            return Err(refusal(data_dir));
        }
        // Nobody tells of the end of a lock that is only tried for.
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Fails where somebody has a data directory; makes nothing.
pub(crate) fn check(data_dir: &Path) -> anyhow::Result<()> {
    let asked = Instant::now();
    while lockfile::is_locked(&lock_path(data_dir))? {
        if asked.elapsed() > MOMENT {
            return Err(refusal(data_dir));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
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
    use std::process::{Child, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn sleeper(own: Option<&InUse>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::null());
        if let Some(own) = own {
            own.hand_on(&mut command).expect("it can be handed on");
        }
        command.spawn().expect("it starts")
    }

    fn end(mut child: Child) {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }

    #[test]
    fn a_directory_is_taken_until_the_last_that_it_was_handed_on_to_has_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        check(&data).expect("nobody has it");
        assert!(!data.exists(), "to look makes nothing");
        let own = take(&data).expect("nobody has it");
        let mode = fs::metadata(&data).expect("it is there").mode();
        assert_eq!(mode & 0o7777, 0o700);
        let heir = sleeper(Some(&own));
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
        end(heir);
        check(&data).expect("nobody has it");
        assert_eq!(user(&data), None);
    }

    /// As when clusters are started side by side: the processes of one would keep the other's data from it.
    #[test]
    fn what_else_is_started_meanwhile_does_not_keep_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let (own, its) = (take(&one).expect("free"), take(&other).expect("free"));
        let (heir, stranger) = (sleeper(Some(&its)), sleeper(None));
        drop((own, its));
        take(&one).expect("nobody has it any more");
        assert_eq!(user(&other), Some(User(Some(heir.id()))));
        end(stranger);
        end(heir);
    }

    /// To look takes the lock for a moment.
    #[test]
    fn who_only_looks_keeps_nobody_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let done = AtomicBool::new(false);
        drop(take(&data).expect("nobody has it"));
        let taken: anyhow::Result<()> = std::thread::scope(|scope| {
            let look = || {
                while !done.load(Ordering::Relaxed) {
                    let _ = lockfile::is_locked(&lock_path(&data));
                }
            };
            let lookers = [scope.spawn(look), scope.spawn(look)];
            let taken = (0..500).try_for_each(|_| take(&data).map(drop));
            done.store(true, Ordering::Relaxed);
            lookers.into_iter().for_each(|looker| looker.join().expect("it looks on"));
            taken
        });
        taken.expect("nobody uses it");
    }
}
