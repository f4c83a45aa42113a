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
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};
use skiff_sys::process::{Fork, close_others, dup_onto, exit_now, fork};

use crate::protocol::Failure;

pub(crate) use exec::exec;
pub(crate) use pause::pause;
pub(crate) use process::create;

/// From child to shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// Something was not possible, and the container can do without.
    Warning(String),
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

/// Forks. The child keeps the standard streams, its end of the socket and `keep`, and runs `act`, which
/// answers only if it failed. The PID is that of the caller's namespace.
pub(crate) fn spawn(
    pid: ChildPid,
    streams: [BorrowedFd<'_>; 3],
    keep: Option<BorrowedFd<'_>>,
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
            let kept: Vec<_> = keep.into_iter().chain([theirs.as_fd()]).collect();
            close_others(&kept).map_err(Failure::doing("close inherited files"))?;
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

/// Joins namespaces of another process. By a handle, as PIDs mean something else in a namespace of one's
/// own.
fn join_namespaces(process: BorrowedFd<'_>, which: CloneFlags) -> Result<(), Failure> {
    if which.is_empty() {
        return Ok(());
    }
    setns(process, which).map_err(failed("join the sandbox's namespaces"))
}

/// For the shim's log: the standard streams are the container's.
fn warn(socket: &UnixStream, warning: String) -> Result<(), Failure> {
    crate::protocol::send(socket, &Note::Warning(warning), &[]).map_err(Failure::doing("warn"))
}

/// Without CAP_SYS_RESOURCE nobody can lower the value below the lowest that it ever inherited: then it
/// stays as it is.
fn set_oom_score_adj(value: i32, socket: &UnixStream) -> Result<(), Failure> {
    match fs::write("/proc/self/oom_score_adj", value.to_string()) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EACCES) => {
            warn(socket, format!("oom_score_adj cannot be lowered to {value} without CAP_SYS_RESOURCE"))
        }
        answer => answer.map_err(Failure::doing(format_args!("set oom_score_adj to {value}"))),
    }
}

/// Short for an error of `nix` while doing something.
fn failed(action: impl std::fmt::Display) -> impl FnOnce(nix::Error) -> Failure {
    move |error| Failure::doing(action)(io::Error::from(error))
}
