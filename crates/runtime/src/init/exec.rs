//! A further program in a running container, with all that its first one was given.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sched::CloneFlags;
use skiff_sys::namespaces::take_root;
use skiff_sys::process::set_dumpable;

use super::process::{Setup, load, raise_files_limit, session};
use super::terminal::Terminal;
use super::{join_cgroups, join_namespaces, set_oom_score_adj};
use crate::protocol::{Failure, send};

const EXEC: &str = "OCI runtime exec failed: exec failed: unable to start container process: ";

/// Becomes `command` in the container of `dir`, whose first process that handle is of. The PID namespace has
/// been joined by whoever forked; the user namespace is joined here, with all the others.
pub(crate) fn exec(
    dir: &Path,
    container: BorrowedFd<'_>,
    command: &[String],
    tty: bool,
    socket: &UnixStream,
) -> Result<Infallible, Failure> {
    join(dir, container, command, tty, socket)
        .map_err(|failure| Failure { message: format!("{EXEC}{}", failure.message), ..failure })
}

fn join(
    dir: &Path,
    container: BorrowedFd<'_>,
    command: &[String],
    tty: bool,
    socket: &UnixStream,
) -> Result<Infallible, Failure> {
    let (mut spec, filter) = load(dir)?;
    set_dumpable(false).map_err(Failure::doing("protect the set-up from tracing"))?;
    set_oom_score_adj(spec.oom_score_adj, socket)?;
    // The warning about it was given when the container was created.
    let _ = raise_files_limit();
    join_cgroups(&spec.join)?;
    let mut which = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    which.set(CloneFlags::CLONE_NEWNET, spec.join_net);
    which.set(CloneFlags::CLONE_NEWIPC, spec.join_ipc);
    which.set(CloneFlags::CLONE_NEWUTS, spec.join_uts);
    which.set(CloneFlags::CLONE_NEWUSER, spec.own_users);
    join_namespaces(container, which)?;
    if spec.own_users {
        take_root().map_err(Failure::doing("become root of the user namespace"))?;
    }
    if tty && !spec.env.iter().any(|entry| entry.starts_with("TERM=")) {
        spec.env.push("TERM=xterm".to_owned());
    }
    let setup = Setup::new(&spec)?;
    let terminal = tty.then(Terminal::of_joined).transpose()?;
    session(terminal, socket)?;
    if !tty {
        send(socket, &super::Note::Ready, &[]).map_err(Failure::doing("answer the shim"))?;
    }
    setup.become_program(command, &spec, filter)
}
