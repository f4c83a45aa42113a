//! Talking to shims: starting one, asking it, listening to it, and finding the living ones again.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fs, io};

use skiff_sys::private;
use tokio::io::AsyncReadExt;
use tracing::{info, warn};

use super::records::RECORD;
use super::{ContainerEntry, Inner, SandboxEntry, doing};
use crate::dispatch::SHIM;
use crate::files::read_json;
use crate::protocol::{self, Boot, Call, Failure, Progress, Reply, Request, Status, VERSION};
use crate::shim::SOCKET;
use crate::types::{ContainerId, Error, Event, SandboxId};

/// Mounting and starting takes milliseconds; this is for a machine that stands still.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a shim is asked whether it is there: one that is dying may take a connection and close it.
const LOOKS: usize = 3;

/// The sandboxes that a runtime with this data directory made and has not removed, each of which may have a
/// shim called [`SHIM`] with the sandbox as its argument. Reads the directory, and needs no runtime.
pub fn recorded_sandboxes(data_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(data_dir.join("sandboxes")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

impl Inner {
    /// Starts a sandbox's shim and answers the PID of its `pause`.
    pub(super) fn boot(&self, boot: Boot) -> Result<u32, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(doing("make a socket pair"))?;
        let log = private::create(&boot.dir.join("shim.log")).map_err(doing("open the shim's log"))?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.shim.as_raw_fd()));
        command.arg0(SHIM).arg(&boot.id).env_clear().current_dir("/");
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().map_err(doing("start a shim"))?;
        drop(command);
        // It forks at once: the shim proper is nobody's child here.
        let request = Request::Boot(boot);
        let asked = protocol::send(&ours, &Call { version: VERSION, request }, &[]);
        child.wait().map_err(doing("wait for the shim to leave"))?;
        asked.map_err(doing("tell the shim about its sandbox"))?;
        match answer(&ours)? {
            (Reply::Running { pid }, _) => Ok(pid),
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub(super) fn ask(&self, sandbox: &str, request: Request) -> Result<Reply, Error> {
        let (_, reply, _) = self.call(sandbox, request, &[])?;
        Ok(reply)
    }

    /// Keeps the connection, for requests that live as long as it does.
    pub(super) fn call(
        &self,
        sandbox: &str,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(UnixStream, Reply, Vec<OwnedFd>), Error> {
        let connection = self.connect(sandbox)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(doing("configure a connection"))?;
        protocol::send(&connection, &Call { version: VERSION, request }, fds).map_err(doing("ask a shim"))?;
        let (reply, fds) = answer(&connection)?;
        Ok((connection, reply, fds))
    }

    fn connect(&self, sandbox: &str) -> Result<UnixStream, Error> {
        let socket = self.run_dir(sandbox).join(SOCKET);
        UnixStream::connect(&socket).map_err(doing(format_args!("reach the shim at {}", socket.display())))
    }

    /// Takes up all that is recorded: the living shims and what the dead ones left.
    pub(super) fn adopt(self: &Arc<Self>) -> Result<(), Error> {
        let mut state = super::State::default();
        for id in self.recorded("sandboxes")? {
            let path = self.sandbox_dir(&id).join(RECORD);
            match read_json(&path).map_err(doing(format_args!("read {}", path.display())))? {
                Some(record) => {
                    state.sandboxes.insert(id, SandboxEntry { record, pause_pid: 0, shim_lives: false });
                }
                None => self.discard(&self.sandbox_dir(&id)),
            }
        }
        for id in self.recorded("containers")? {
            let dir = self.container_dir(&id);
            let path = dir.join(RECORD);
            let record: Option<super::ContainerRecord> =
                read_json(&path).map_err(doing(format_args!("read {}", path.display())))?;
            let Some(record) = record.filter(|record| state.sandboxes.contains_key(&record.sandbox)) else {
                self.discard(&dir);
                continue;
            };
            let progress = self.recorded_progress(&id);
            state.containers.insert(id, ContainerEntry { record, progress, lost: true });
        }
        let sandboxes: Vec<String> = state.sandboxes.keys().cloned().collect();
        *self.state.lock() = state;
        for id in sandboxes {
            let lives = self.resume(&id);
            if lives {
                info!(sandbox = id, "adopted");
            } else {
                self.lose(&id);
            }
            for container in self.containers_of(&id) {
                if let Err(error) = self.take_spec_off_the_disk(&id, &container, lives) {
                    warn!(container, error = &error as &dyn std::error::Error, "it stays there");
                }
            }
        }
        Ok(())
    }

    fn containers_of(&self, sandbox: &str) -> Vec<String> {
        let state = self.state.lock();
        let own = state.containers.iter().filter(|(_, entry)| entry.record.sandbox == sandbox);
        own.map(|(id, _)| id.clone()).collect()
    }

    /// Listens to a shim that isn't listened to, if there is one. What a dead one left is killed before
    /// anybody hears of its death: it may write and listen where its replacement will.
    fn resume(self: &Arc<Self>, sandbox: &str) -> bool {
        for _ in 0..LOOKS {
            let Err(error) = self.listen(sandbox) else { return true };
            let fate = fate(&error);
            if fate == Fate::Dying {
                continue;
            }
            warn!(sandbox, error = &error as &dyn std::error::Error, "its shim is gone");
            if fate == Fate::Dead {
                self.end_orphans(sandbox);
            }
            break;
        }
        false
    }

    fn recorded(&self, kind: &str) -> Result<Vec<String>, Error> {
        let dir = self.config.data_dir.join(kind);
        let entries = fs::read_dir(&dir).map_err(doing(format_args!("read {}", dir.display())))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Follows a shim's changes from now on; its first word is here before this returns.
    pub(super) fn listen(self: &Arc<Self>, sandbox: &str) -> Result<(), Error> {
        let connection = self.connect(sandbox)?;
        connection.set_read_timeout(Some(ADOPT_TIMEOUT)).map_err(doing("configure a connection"))?;
        protocol::send(&connection, &Call { version: VERSION, request: Request::Watch }, &[])
            .map_err(doing("ask a shim"))?;
        match answer(&connection)? {
            (Reply::Status(status), _) => {
                self.update(|state| {
                    if let Some(entry) = state.sandboxes.get_mut(sandbox) {
                        entry.shim_lives = true;
                    }
                });
                self.take(sandbox, status);
            }
            (other, _) => return Err(unexpected(&other)),
        }
        let connection = connection
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(connection))
            .map_err(doing("configure a connection"))?;
        let Some(tasks) = self.tasks.upgrade() else { return Ok(()) };
        let mut tasks = tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(follow(Arc::downgrade(self), sandbox.to_owned(), connection));
        Ok(())
    }

    /// What a shim says is so.
    fn take(&self, sandbox: &str, status: Status) {
        let mut events = Vec::new();
        self.update(|state| {
            let Some(entry) = state.sandboxes.get_mut(sandbox) else { return };
            if entry.pause_pid != 0 && status.pause_pid == 0 {
                events.push(Event::SandboxStopped(SandboxId(sandbox.to_owned())));
            }
            entry.pause_pid = status.pause_pid;
            for (id, progress) in status.containers {
                let Some(entry) =
                    state.containers.get_mut(&id).filter(|entry| entry.record.sandbox == sandbox)
                else {
                    continue;
                };
                entry.lost = false;
                events.extend(changes(&id, sandbox, &entry.progress, &progress));
                entry.progress = progress;
            }
        });
        for event in events {
            let _ = self.events.send(event);
        }
    }

    /// The shim has gone: what is recorded is the last that is known.
    pub(super) fn lose(&self, sandbox: &str) {
        let mut events = Vec::new();
        self.update(|state| {
            let Some(entry) = state.sandboxes.get_mut(sandbox) else { return };
            entry.shim_lives = false;
            if std::mem::take(&mut entry.pause_pid) != 0 {
                events.push(Event::SandboxStopped(SandboxId(sandbox.to_owned())));
            }
            for (id, entry) in
                state.containers.iter_mut().filter(|(_, entry)| entry.record.sandbox == sandbox)
            {
                if entry.progress.finished_at.is_some() {
                    continue;
                }
                entry.progress = self.recorded_progress(id);
                entry.lost = true;
                events.push(Event::ContainerExited(ContainerId(id.clone()), SandboxId(sandbox.to_owned())));
            }
        });
        for event in events {
            let _ = self.events.send(event);
        }
    }
}

/// What became of a shim that doesn't tell.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody holds its socket.
    Dead,
    /// It closed a connection, as it does when it ends.
    Dying,
    /// Something else is wrong, and it may well live: nothing is killed on suspicion.
    Unknown,
}

/// Why a shim could not be listened to says what became of it.
fn fate(error: &Error) -> Fate {
    match error {
        Error::Io { source, .. } => match source.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Fate::Dead,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Fate::Dying
            }
            _ => Fate::Unknown,
        },
        _ => Fate::Unknown,
    }
}

/// What is to be told about a container's progress.
fn changes(id: &str, sandbox: &str, before: &Progress, after: &Progress) -> Option<Event> {
    let (id, sandbox) = (ContainerId(id.to_owned()), SandboxId(sandbox.to_owned()));
    if before.finished_at.is_none() && after.finished_at.is_some() {
        return Some(Event::ContainerExited(id, sandbox));
    }
    (before.started_at.is_none() && after.started_at.is_some())
        .then_some(Event::ContainerStarted(id, sandbox))
}

async fn follow(inner: Weak<Inner>, sandbox: String, mut connection: tokio::net::UnixStream) {
    loop {
        let status = next(&mut connection).await;
        let Some(inner) = inner.upgrade() else { return };
        match status {
            Ok(Reply::Status(status)) => inner.take(&sandbox, status),
            _ => {
                let look = move || {
                    if !inner.resume(&sandbox) {
                        inner.lose(&sandbox);
                    }
                };
                // Its end is the task's own; a panic in it was reported where it happened.
                let _ = tokio::task::spawn_blocking(look).await;
                return;
            }
        }
    }
}

/// The next message without files.
pub(super) async fn next(connection: &mut tokio::net::UnixStream) -> io::Result<Reply> {
    let mut length = [0; 4];
    connection.read_exact(&mut length).await?;
    let mut bytes = vec![0; protocol::frame_length(length)?];
    connection.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn answer(connection: &UnixStream) -> Result<(Reply, Vec<OwnedFd>), Error> {
    match protocol::receive::<Reply>(connection).map_err(doing("hear a shim's answer"))? {
        None => Err(doing("hear a shim's answer")(io::ErrorKind::UnexpectedEof.into())),
        Some((Reply::Failed(Failure { code, message }), _)) => Err(Error::Start { exit_code: code, message }),
        Some(answer) => Ok(answer),
    }
}

pub(super) fn unexpected(reply: &Reply) -> Error {
    Error::Invalid(format!("the shim answered {reply:?} to something else"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shim_whose_socket_nobody_holds_is_dead() {
        let check = |kind: io::ErrorKind| fate(&doing("reach the shim")(kind.into()));
        assert_eq!(check(io::ErrorKind::ConnectionRefused), Fate::Dead);
        assert_eq!(check(io::ErrorKind::NotFound), Fate::Dead);
        assert_eq!(check(io::ErrorKind::UnexpectedEof), Fate::Dying);
        assert_eq!(check(io::ErrorKind::WouldBlock), Fate::Unknown, "it took too long to answer");
        assert_eq!(fate(&Error::Invalid("what".into())), Fate::Unknown);
    }
}
