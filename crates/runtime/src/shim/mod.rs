//! The shim: one small process a sandbox, parent of `pause` and of all the sandbox's containers.
//!
//! It holds what must outlive the agent: standard streams, logs and exit codes. One thread around poll(2),
//! so that it may fork; it decides nothing. What happened is on disk before anyone is told.

mod calls;
mod container;
mod exec;
mod log;
mod output;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use skiff_sys::cgroup::Hierarchy;
use skiff_sys::namespaces::new_users;
use skiff_sys::private;
use skiff_sys::process::{
    Fork, close_others, dup_onto, exit_now, fork, inherited_fd, set_child_subreaper, set_name,
};

use crate::init::{self, Birth, ChildPid, Note};
use crate::protocol::{Boot, Call, Failure, Reply, Request, Status, receive, send};
use container::Container;
pub(crate) use container::STATE;
use exec::Running;

/// The socket in a sandbox's run directory.
pub(crate) const SOCKET: &str = "s";
/// The bind mount there that keeps the network namespace.
pub(crate) const NETNS: &str = "netns";
/// The sandbox's `/dev/shm`.
pub(crate) const SHM: &str = "shm";
const SHM_OPTIONS: &str = "mode=1777,size=67108864";
const BUFFER: usize = 32 << 10;
/// So many commands may go on without anybody who asked for them; one more ends.
const LEFT_MAX: usize = 256;
/// Whoever calls is trusted, but may be stopped in the middle of a message.
const CALLER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long those who are attached may read when all else has ended.
const READERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs in a process of its own, whose standard input is the socket of [`Request::Boot`].
pub(crate) fn main() -> ExitCode {
    // A process group, session and parent of its own: nothing that happens to the agent reaches it.
    match fork() {
        Ok(Fork::Parent(_)) => return ExitCode::SUCCESS,
        Ok(Fork::Child) => {}
        Err(_) => return ExitCode::FAILURE,
    }
    let Some(boot) = inherited_fd(0) else { return ExitCode::FAILURE };
    let boot = UnixStream::from(boot);
    let run = || -> Result<Shim, Failure> {
        let null = fs::File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(Failure::doing("open /dev/null"))?;
        for stream in 0..=1 {
            dup_onto(null.as_fd(), stream).map_err(Failure::doing("close the standard streams"))?;
        }
        drop(null);
        close_others(&[boot.as_fd()]).map_err(Failure::doing("close inherited files"))?;
        setsid().map_err(|e| Failure::new(128, format!("cannot lead a session: {e}")))?;
        // Like `pause`: the containers of a shim that was killed for want of memory go with it.
        if let Err(error) = skiff_sys::oom::protect(init::OOM_SCORE_ADJ) {
            crate::dispatch::complain(format_args!("warning: cannot set oom_score_adj: {error}"));
        }
        set_name(c"skiff-shim").map_err(Failure::doing("set the process's name"))?;
        set_child_subreaper().map_err(Failure::doing("become a subreaper"))?;
        let call = receive::<Call>(&boot).map_err(Failure::doing("read the first request"))?;
        match call {
            Some((Call { request: Request::Boot(request), .. }, _)) => Shim::boot(request),
            _ => Err(Failure::new(128, "the first request is not about a sandbox")),
        }
    };
    let mut shim = match run() {
        Ok(shim) => shim,
        Err(failure) => {
            let _ = send(&boot, &Reply::Failed(failure), &[]);
            exit_now(1);
        }
    };
    let _ = send(&boot, &Reply::Running { pid: shim.pause }, &[]);
    drop(boot);
    match shim.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::dispatch::complain(format_args!("error: the shim gives up: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Shim {
    hierarchy: Hierarchy,
    listener: UnixListener,
    signals: SignalFd,
    /// 0 once it is gone.
    pause: u32,
    /// The sandbox's own user namespace, and who its root is here.
    users: Option<(OwnedFd, u32)>,
    containers: Vec<Container>,
    execs: Vec<Running>,
    connections: Vec<Connection>,
    next: u64,
    /// The caller wants it all to end.
    stopping: bool,
    /// Since when nothing is left but readers.
    ended: Option<Instant>,
}

struct Connection {
    id: u64,
    stream: UnixStream,
    role: Role,
}

#[derive(Clone, PartialEq)]
enum Role {
    /// Waits for a request or for the answer to one.
    Caller,
    Watcher,
    /// As long as it lives, so does the command, unless that is to survive.
    Exec,
    /// To the container of that ID.
    Attached(String),
}

/// What a descriptor that is polled belongs to.
#[derive(Clone)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    ExecSetup(u32),
    /// What a command writes that nobody asks for any more.
    ExecLeft(u32, usize),
    Setup(String),
    Output(String, usize),
    Sink(String, usize, u64),
}

impl Shim {
    /// Makes the sandbox.
    fn boot(boot: Boot) -> Result<Shim, Failure> {
        let hierarchy =
            Hierarchy::open(&boot.cgroup_mount).map_err(|error| Failure::new(128, error.to_string()))?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|e| Failure::new(128, format!("cannot block signals: {e}")))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|e| Failure::new(128, format!("cannot receive signals: {e}")))?;
        let socket = boot.run.join(SOCKET);
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)
            .map_err(Failure::doing(format_args!("listen on {}", socket.display())))?;
        let owners = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&socket, owners).map_err(Failure::doing("protect the socket"))?;
        listener.set_nonblocking(true).map_err(Failure::doing("configure the socket"))?;
        if boot.own_ipc {
            let shm = boot.run.join(SHM);
            private::make_dir(&shm).map_err(Failure::doing("make the directory of /dev/shm"))?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))
                .map_err(|e| Failure::new(128, format!("cannot mount the sandbox's /dev/shm: {e}")))?;
        }
        let pid = if boot.shared_pid { ChildPid::New } else { ChildPid::Same };
        let null = fs::File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(Failure::doing("open /dev/null"))?;
        let streams = [null.as_fd(); 3];
        let users = boot
            .users
            .map(|range| Ok((new_users(range.first, range.length)?, range.first)))
            .transpose()
            .map_err(Failure::doing("make the sandbox's user namespace"))?;
        let birth = Birth { pid, streams, keep: None, users: users.as_ref().map(|(users, _)| users.as_fd()) };
        let (pause, setup) = init::spawn(
            birth,
            |socket| init::prepare_pause(&boot, socket),
            |root, _| init::pause(&boot, root),
        )?;
        loop {
            match receive::<Note>(&setup) {
                Ok(None) => break,
                Ok(Some((Note::Warning(warning), _))) => {
                    crate::dispatch::complain(format_args!("warning: pause: {warning}"))
                }
                Ok(Some((Note::Failed(failure), _))) => return Err(failure),
                _ => return Err(Failure::new(128, "pause did not answer")),
            }
        }
        if boot.own_net {
            pin(Path::new(&format!("/proc/{pause}/ns/net")), &boot.run.join(NETNS))
                .map_err(Failure::doing("keep the network namespace"))?;
        }
        Ok(Shim {
            hierarchy,
            listener,
            signals,
            pause,
            users,
            containers: Vec::new(),
            execs: Vec::new(),
            connections: Vec::new(),
            next: 0,
            stopping: false,
            ended: None,
        })
    }

    /// Until it has been told to stop and all children are gone.
    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while !self.is_over() {
            for source in self.wait()? {
                match source {
                    Source::Signals => self.reap(&mut buffer),
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.hear(id),
                    Source::ExecSetup(pid) => self.exec_ready(pid),
                    Source::ExecLeft(pid, at) => {
                        if let Some(exec) = self.execs.iter_mut().find(|exec| exec.pid == pid) {
                            exec.drain(at, &mut buffer);
                        }
                    }
                    Source::Setup(id) => self.container_ready(&id),
                    Source::Output(id, at) => {
                        if let Some(container) = self.container(&id) {
                            container.pump(at, &mut buffer);
                        }
                    }
                    Source::Sink(id, at, connection) => {
                        if let Some(container) = self.container(&id) {
                            container.flush(at, connection);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// All has ended; readers have a while for what is left of it.
    fn is_over(&mut self) -> bool {
        if !self.has_ended() {
            return false;
        }
        let since = self.ended.get_or_insert_with(Instant::now);
        since.elapsed() >= READERS_TIMEOUT || !self.containers.iter().any(Container::is_read)
    }

    fn has_ended(&self) -> bool {
        self.stopping
            && self.pause == 0
            && self.execs.is_empty()
            && self.containers.iter().all(|c| c.pid == 0)
    }

    /// What there is to do.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds =
            vec![(self.signals.as_fd(), PollFlags::POLLIN), (self.listener.as_fd(), PollFlags::POLLIN)];
        for connection in &self.connections {
            sources.push(Source::Connection(connection.id));
            fds.push((connection.stream.as_fd(), PollFlags::POLLIN));
        }
        for exec in &self.execs {
            if let Some(setup) = &exec.setup {
                sources.push(Source::ExecSetup(exec.pid));
                fds.push((setup.as_fd(), PollFlags::POLLIN));
            }
            for (at, output) in exec.left() {
                sources.push(Source::ExecLeft(exec.pid, at));
                fds.push((output.as_fd(), PollFlags::POLLIN));
            }
        }
        for container in &self.containers {
            if let Some(setup) = container.setup() {
                sources.push(Source::Setup(container.id.clone()));
                fds.push((setup.as_fd(), PollFlags::POLLIN));
            }
            for (at, output) in container.outputs.iter().enumerate() {
                let Some(output) = output else { continue };
                if !output.ended {
                    sources.push(Source::Output(container.id.clone(), at));
                    fds.push((output.as_fd(), PollFlags::POLLIN));
                }
                for sink in output.sinks.iter().filter(|sink| sink.waits()) {
                    sources.push(Source::Sink(container.id.clone(), at, sink.connection));
                    fds.push((sink.as_fd(), PollFlags::POLLOUT));
                }
            }
        }
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
        let timeout = self.ended.map_or(PollTimeout::NONE, |since| {
            let left = READERS_TIMEOUT.saturating_sub(since.elapsed());
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
        });
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => return Ok(Vec::new()),
            answer => answer?,
        };
        let happened = polled.iter().map(|fd| fd.any().unwrap_or(false));
        Ok(sources
            .into_iter()
            .zip(happened)
            .filter(|(_, happened)| *happened)
            .map(|(source, _)| source)
            .collect())
    }

    fn container_ready(&mut self, id: &str) {
        let Some(container) = self.container(id) else { return };
        if let Some((caller, reply)) = container.hear_setup() {
            self.answer(caller, &reply);
            self.publish();
        }
    }

    fn reap(&mut self, buffer: &mut [u8]) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut changed = false;
        loop {
            let (pid, code) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw() as u32, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw() as u32, 128 + signal as i32),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if pid == self.pause {
                self.pause = 0;
                changed = true;
            } else if let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) {
                // Its last words come before its end.
                while self.execs.get(at).is_some_and(|exec| exec.setup.is_some()) {
                    self.exec_ready(pid);
                }
                let exec = self.execs.swap_remove(at);
                self.answer(exec.connection, &Reply::Exited { code });
            } else if self.containers.iter().any(|container| container.pid == pid) {
                while let Some(container) =
                    self.containers.iter().find(|c| c.pid == pid && c.setup().is_some())
                {
                    let id = container.id.clone();
                    self.container_ready(&id);
                }
                let Some(container) = self.containers.iter_mut().find(|c| c.pid == pid) else { continue };
                container.exited(code, buffer);
                let id = container.id.clone();
                changed = true;
                let attached = self.connections.iter().filter(|c| c.role == Role::Attached(id.clone()));
                for connection in attached.map(|c| c.id).collect::<Vec<_>>() {
                    self.answer(connection, &Reply::Exited { code });
                }
            }
        }
        // Nobody asks for what never came to be.
        self.containers.retain(|container| container.created || container.pid != 0);
        if changed {
            self.publish();
        }
    }

    fn status(&self) -> Status {
        let containers = self.containers.iter().filter(|c| c.created);
        Status {
            pause_pid: self.pause,
            containers: containers.map(|c| (c.id.clone(), c.progress.clone())).collect(),
        }
    }

    fn publish(&mut self) {
        let status = Reply::Status(self.status());
        let watchers = self.connections.iter().filter(|c| c.role == Role::Watcher);
        for watcher in watchers.map(|c| c.id).collect::<Vec<_>>() {
            self.answer(watcher, &status);
        }
    }

    fn container(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.id == id)
    }

    fn known(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.container(id).ok_or_else(|| Failure::new(128, format!("this shim has no container {id}")))
    }
}

/// Keeps a namespace by a bind mount.
fn pin(namespace: &Path, at: &Path) -> io::Result<()> {
    private::create(at)?;
    mount(Some(namespace), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}
