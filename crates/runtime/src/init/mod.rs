//! What a forked child of the shim does until it executes the container's program.
//!
//! The shim has one thread, so its child may do as it likes: it joins and leaves namespaces, mounts, and
//! becomes the user that the program shall run as. It answers over a socket which execve closes: the end of
//! the stream is the success.

mod exec;
mod pause;
mod process;
mod rootfs;
mod users;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};
use skiff_sys::process::{Fork, close_others, dup_onto, exit_now, fork, pidfd_open};

use crate::protocol::Failure;

pub(crate) use exec::exec;
pub(crate) use pause::pause;
pub(crate) use process::create;

/// From child to shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// All but executing the program is done. With a terminal, its master comes along.
    Ready,
    Failed(Failure),
}

/// From shim to child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go;

/// The PID namespace of a new child.
pub(crate) enum ChildPid {
    New,
    Of(u32),
    Same,
}

/// Forks. The child keeps the standard streams and its end of the socket, and runs `act`, which answers
/// only if it failed. Its PID is that of the caller's namespace.
pub(crate) fn spawn(
    pid: ChildPid,
    streams: [BorrowedFd<'_>; 3],
    act: impl FnOnce(&UnixStream) -> Result<Infallible, Failure>,
) -> Result<(u32, UnixStream), Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(Failure::doing("make a socket pair"))?;
    let own = fs::File::open("/proc/self/ns/pid").map_err(Failure::doing("open the PID namespace"))?;
    // Both only say where the next child goes.
    match pid {
        ChildPid::Same => {}
        ChildPid::New => unshare(CloneFlags::CLONE_NEWPID)
            .map_err(|e| Failure::new(128, format!("cannot make a PID namespace: {e}")))?,
        ChildPid::Of(pid) => fs::File::open(format!("/proc/{pid}/ns/pid"))
            .and_then(|namespace| Ok(setns(namespace, CloneFlags::CLONE_NEWPID)?))
            .map_err(Failure::doing(format_args!("join the PID namespace of process {pid}")))?,
    }
    let forked = fork();
    if let Ok(Fork::Child) = &forked {
        let done = catch_unwind(AssertUnwindSafe(|| {
            for (at, stream) in streams.iter().enumerate() {
                dup_onto(*stream, at as i32).map_err(Failure::doing("connect the standard streams"))?;
            }
            close_others(&[theirs.as_fd()]).map_err(Failure::doing("close inherited files"))?;
            act(&theirs)
        }));
        let failure = match done {
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new(128, "the container's set-up panicked"),
        };
        let _ = crate::protocol::send(&theirs, &Note::Failed(failure), &[]);
        exit_now(128);
    }
    let back = setns(own, CloneFlags::CLONE_NEWPID);
    let Fork::Parent(child) = forked.map_err(Failure::doing("fork"))? else {
        return Err(Failure::new(128, "a child went astray"));
    };
    back.map_err(|e| Failure::new(128, format!("cannot return to the own PID namespace: {e}")))?;
    Ok((child, ours))
}

/// Puts this process into control groups.
fn join_cgroups(files: &[PathBuf]) -> Result<(), Failure> {
    files.iter().try_for_each(|file| {
        fs::write(file, "0").map_err(Failure::doing(format_args!("join {}", file.display())))
    })
}

/// Joins the namespaces of another process, but not its PID namespace.
fn join_namespaces(pid: u32, which: CloneFlags) -> Result<(), Failure> {
    if which.is_empty() {
        return Ok(());
    }
    let join = |pidfd: OwnedFd| Ok(setns(pidfd, which)?);
    pidfd_open(pid)
        .and_then(join)
        .map_err(Failure::doing(format_args!("join the namespaces of process {pid}")))
}

/// A user without CAP_SYS_RESOURCE can't lower the value below its own: then it stays as it is.
fn set_oom_score_adj(value: i32) -> Result<(), Failure> {
    match fs::write("/proc/self/oom_score_adj", value.to_string()) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EACCES) => {
            eprintln!("warning: oom_score_adj cannot be lowered to {value} without CAP_SYS_RESOURCE");
            Ok(())
        }
        answer => answer.map_err(Failure::doing(format_args!("set oom_score_adj to {value}"))),
    }
}

/// Short for an error of `nix` while doing something.
fn failed(action: impl std::fmt::Display) -> impl FnOnce(nix::Error) -> Failure {
    move |error| Failure::doing(action)(io::Error::from(error))
}
