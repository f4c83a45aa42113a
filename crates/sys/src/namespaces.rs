//! Joining namespaces, doing one thing inside one, and user namespaces of one range of IDs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use crate::process::{Fork, exit_now, fork};

/// Runs `act` in the network namespace that `path` names, on a thread of its own that ends with it: the
/// caller's threads never leave theirs. A socket made inside stays a socket of that namespace.
pub fn in_netns<T: Send>(path: &Path, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("netns".into()).stack_size(64 << 10);
        let thread = builder.spawn_scoped(scope, move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            act()
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// All mounts of the mount namespace that `path` names, as `proc_pid_mountinfo(5)` has them: a process tells of
/// those below its own root alone. Read on a thread of its own, which ends with it.
pub fn mounts_of(path: &Path) -> io::Result<String> {
    let (namespace, proc) = (File::open(path)?, File::open("/proc")?);
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("mounts".into()).stack_size(64 << 10);
        let thread = builder.spawn_scoped(scope, move || {
            // Its root and directory are the whole process's, which must not move.
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
            // By the /proc of before: there may be none here.
            let found =
                openat(&proc, "thread-self/mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            let mut text = Vec::new();
            File::from(found).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A new user namespace, whose users and groups from 0 on are the `length` ones from `first` on here. It
/// lasts as long as its descriptor, or somebody in it. Refused beside other threads, as [`fork`] is.
pub fn new_users(first: u32, length: u32) -> io::Result<OwnedFd> {
    let (mut said, mut say) = io::pipe()?;
    let (mut wait, hold) = io::pipe()?;
    match fork()? {
        // Somebody has to be in it while it gets its maps.
        Fork::Child => {
            drop((said, hold));
            let made = unshare(CloneFlags::CLONE_NEWUSER);
            let code = made.err().map_or(0, |error| error as i32);
            if say.write_all(&code.to_le_bytes()).is_ok() {
                let _ = wait.read(&mut [0]);
            }
            exit_now(0);
        }
        Fork::Parent(child) => {
            drop((say, wait));
            let mut make = || {
                let mut code = [0; 4];
                said.read_exact(&mut code)?;
                match i32::from_le_bytes(code) {
                    0 => {}
                    code => return Err(io::Error::from_raw_os_error(code)),
                }
                for map in ["uid_map", "gid_map"] {
                    fs::write(format!("/proc/{child}/{map}"), format!("0 {first} {length}\n"))?;
                }
                File::open(format!("/proc/{child}/ns/user")).map(OwnedFd::from)
            };
            let made = make();
            drop(hold);
            let _ = waitpid(Pid::from_raw(child as i32), None);
            made
        }
    }
}

/// Joins a user namespace as its root.
pub fn become_root_of(users: BorrowedFd<'_>) -> io::Result<()> {
    setns(users, CloneFlags::CLONE_NEWUSER)?;
    take_root()
}

/// Becomes root of the user namespace that this process has joined: nobody is who they were outside.
pub fn take_root() -> io::Result<()> {
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_own_namespace_is_left_alone() {
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let (pin, wait) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            pin.send(nix::unistd::gettid()).unwrap();
            let _ = released.recv();
        });
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), wait.recv().unwrap());
        let inside = in_netns(Path::new(&path), || std::fs::read_link("/proc/thread-self/ns/net")).unwrap();
        assert_eq!(inside, std::fs::read_link(&path).unwrap());
        assert_ne!(inside, before);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
        drop(release);
        other.join().unwrap();
    }
}
