//! What a forked child of the shim does until it executes the container's program.
//!
//! The shim has one thread, so its child may do as it likes: it joins and leaves namespaces, mounts, and
//! becomes the user that the program shall run as. It answers over a socket which execve closes: the end of
//! the stream is the success.

mod devices;
mod exec;
mod masks;
mod overlay;
mod pause;
mod process;
mod root;
mod rootfs;
mod targets;
mod terminal;
mod users;
mod volumes;

use std::convert::Infallible;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};
use skiff_sys::namespaces::become_root_of;
use skiff_sys::process::{Fork, close_others, dup_onto, exit_now, fork};

use crate::protocol::Failure;

pub(crate) use exec::exec;
pub(crate) use overlay::Users;
pub(crate) use pause::{OOM_SCORE_ADJ, pause, prepare as prepare_pause};
pub(crate) use process::{create, prepare};

/// From child to shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// Something was not possible, and the container can do without.
    Warning(String),
    /// The child has made a child, which goes on in its place.
    Forked(u32),
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

/// What a new child is given.
pub(crate) struct Birth<'a> {
    pub(crate) pid: ChildPid,
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// What else stays open in it.
    pub(crate) keep: Option<BorrowedFd<'a>>,
    /// The user namespace whose root it becomes between its two acts.
    pub(crate) users: Option<BorrowedFd<'a>>,
}

/// Forks. The child keeps the standard streams, its end of the socket and what else it is given. It runs
/// `outside` with the node's rights, then `inside` with those that the container will have at most; that
/// answers only if it failed. The PID is that of the caller's namespace.
pub(crate) fn spawn<T>(
    birth: Birth<'_>,
    outside: impl FnOnce(&UnixStream) -> Result<T, Failure>,
    inside: impl FnOnce(T, &UnixStream) -> Result<Infallible, Failure>,
) -> Result<(u32, UnixStream), Failure> {
    let Birth { pid, streams, keep, users } = birth;
    // A PID namespace belongs to the user namespace of who makes it, which this process must not leave.
    let twice = users.is_some() && matches!(pid, ChildPid::New);
    let pid = if twice { ChildPid::Same } else { pid };
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
            let kept: Vec<_> = keep.into_iter().chain(users).chain([theirs.as_fd()]).collect();
            close_others(&kept).map_err(Failure::doing("close inherited files"))?;
            let prepared = outside(&theirs)?;
            if let Some(users) = users {
                become_root_of(users).map_err(Failure::doing("join the user namespace"))?;
            }
            if twice {
                fork_again(&theirs)?;
            }
            inside(prepared, &theirs)
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
    if !twice {
        return Ok((child, ours));
    }
    let grandchild = await_grandchild(&ours);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child as i32), None);
    Ok((grandchild?, ours))
}

/// Goes on in a child, the first of a PID namespace that the present user namespace owns.
fn fork_again(socket: &UnixStream) -> Result<(), Failure> {
    let (mut orphaned, parent) = io::pipe().map_err(Failure::doing("make a pipe"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(failed("make a PID namespace"))?;
    match fork().map_err(Failure::doing("fork"))? {
        Fork::Parent(child) => {
            let told = crate::protocol::send(socket, &Note::Forked(child), &[]);
            // Without the shim's knowledge of it the child would outlive its container.
            if told.is_err() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child as i32),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            exit_now(0)
        }
        Fork::Child => {
            drop(parent);
            // The end of the stream is the parent's: from then on the shim is the parent.
            let _ = orphaned.read(&mut [0]);
            Ok(())
        }
    }
}

fn await_grandchild(socket: &UnixStream) -> Result<u32, Failure> {
    loop {
        match crate::protocol::receive::<Note>(socket) {
            Ok(Some((Note::Forked(pid), _))) => return Ok(pid),
            Ok(Some((Note::Warning(warning), _))) => {
                crate::dispatch::complain(format_args!("warning: {warning}"))
            }
            Ok(Some((Note::Failed(failure), _))) => return Err(failure),
            _ => return Err(Failure::new(128, "the set-up was killed")),
        }
    }
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
