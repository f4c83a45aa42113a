//! What the shim is asked, and by whom: each caller is a connection with a role, which ends with it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_sys::process::pidfd_open;

use super::container::{Container, Phase};
use super::exec::Running;
use super::{CALLER_TIMEOUT, Connection, LEFT_MAX, Role, Shim};
use crate::init::{self, Birth, ChildPid, Note, Users};
use crate::protocol::Call;
use crate::protocol::{Exec, Failure, PidSpace, Reply, Request, VERSION, receive, send};

impl Shim {
    pub(super) fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let configured = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(CALLER_TIMEOUT)))
            .and_then(|()| stream.set_write_timeout(Some(CALLER_TIMEOUT)));
        if configured.is_ok() {
            self.next += 1;
            self.connections.push(Connection { id: self.next, stream, role: Role::Caller });
        }
    }

    pub(super) fn hear(&mut self, id: u64) {
        let Some(connection) = self.connections.iter().find(|c| c.id == id) else { return };
        match receive::<Call>(&connection.stream) {
            Ok(Some((call, fds))) if connection.role == Role::Caller => {
                let reply = match call.version {
                    VERSION => self.handle(id, call.request, fds),
                    other => {
                        Err(Failure::new(128, format!("this shim speaks version {VERSION}, not {other}")))
                    }
                };
                match reply {
                    Ok(Some(reply)) => self.answer(id, &reply),
                    // It comes later.
                    Ok(None) => {}
                    Err(failure) => self.answer(id, &Reply::Failed(failure)),
                }
            }
            Ok(Some((Call { request: Request::Kill, .. }, _))) if connection.role == Role::Exec => {
                self.execs.iter().filter(|exec| exec.connection == id).for_each(Running::kill);
                self.hang_up(id);
            }
            _ => self.hang_up(id),
        }
    }

    /// The caller has gone: so goes its command, if it is not to survive, and its attachment ends.
    fn hang_up(&mut self, id: u64) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.swap_remove(at);
        match connection.role {
            Role::Exec => {
                let has_room = self.execs.iter().filter(|exec| exec.is_left()).count() < LEFT_MAX;
                for exec in self.execs.iter_mut().filter(|exec| exec.connection == id) {
                    match exec.survives && has_room {
                        true => exec.leave(),
                        false => exec.kill(),
                    }
                }
            }
            Role::Attached(container) => {
                if let Some(container) = self.container(&container) {
                    container.detach(id);
                }
            }
            Role::Caller | Role::Watcher => {}
        }
    }

    pub(super) fn answer(&mut self, id: u64, reply: &Reply) {
        self.answer_with(id, reply, &[]);
    }

    fn answer_with(&mut self, id: u64, reply: &Reply, fds: &[&OwnedFd]) {
        let Some(connection) = self.connections.iter().find(|c| c.id == id) else { return };
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        if send(&connection.stream, reply, &fds).is_err() {
            self.hang_up(id);
        }
    }

    fn handle(&mut self, caller: u64, request: Request, fds: Vec<OwnedFd>) -> Result<Option<Reply>, Failure> {
        let done = Ok(Some(Reply::Done));
        match request {
            Request::Boot(_) => Err(Failure::new(128, "this shim has its sandbox")),
            Request::Create(create) => {
                if self.pause == 0 || self.stopping {
                    return Err(Failure::new(128, "the sandbox has stopped"));
                }
                let group = self.hierarchy.group(&create.cgroup);
                let users = self.users.as_ref();
                let users =
                    users.map(|(namespace, root)| Users { namespace: namespace.as_fd(), root: *root });
                let container = Container::create(create, group, self.pause, users, caller)?;
                self.containers.push(container);
                Ok(None)
            }
            Request::Start { id } => {
                self.known(&id)?.start(caller)?;
                Ok(None)
            }
            Request::Signal { id, signal } => {
                self.known(&id)?.signal(signal)?;
                done
            }
            Request::Exec(exec) => {
                self.exec(caller, exec, fds)?;
                Ok(None)
            }
            Request::Kill => Err(Failure::new(128, "there is no command on this connection")),
            Request::Attach { id, stdin } => {
                let input = self.known(&id)?.attach(caller, stdin, fds)?;
                self.become_role(caller, Role::Attached(id));
                let input: Vec<&OwnedFd> = input.iter().collect();
                self.answer_with(caller, &Reply::Done, &input);
                Ok(None)
            }
            Request::ReopenLog { id } => {
                self.known(&id)?.reopen_log()?;
                done
            }
            Request::Forget { id } => {
                if self.containers.iter().any(|c| c.id == id && c.pid != 0) {
                    return Err(Failure::new(128, format!("container {id} still runs")));
                }
                self.containers.retain(|container| container.id != id);
                done
            }
            Request::Watch => {
                self.become_role(caller, Role::Watcher);
                Ok(Some(Reply::Status(self.status())))
            }
            Request::Stop => {
                self.stopping = true;
                if self.pause != 0 {
                    let _ = kill(Pid::from_raw(self.pause as i32), Signal::SIGKILL);
                }
                done
            }
        }
    }

    fn become_role(&mut self, connection: u64, role: Role) {
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == connection) {
            connection.role = role;
        }
    }

    fn exec(&mut self, caller: u64, exec: Exec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let container = self.known(&exec.id)?;
        if !matches!(container.phase, Phase::Running) {
            return Err(Failure::new(128, format!("container {} is not running", exec.id)));
        }
        let (pid, space, dir) = (container.pid, container.pid_space, container.dir.clone());
        let null = fs::File::options().read(true).write(true).open("/dev/null");
        let null = OwnedFd::from(null.map_err(Failure::doing("open /dev/null"))?);
        let mut given = fds.iter();
        let mut stream = |wanted: bool| if wanted { given.next() } else { None }.unwrap_or(&null).as_fd();
        let streams = [stream(exec.stdin), stream(exec.stdout), stream(exec.stderr)];
        let mut running = Running::new(caller, exec.survives);
        if exec.survives {
            running.read_on(&streams[1..]).map_err(Failure::doing("hold a command's output"))?;
        }
        let child = match space {
            PidSpace::Node => ChildPid::Same,
            PidSpace::Own | PidSpace::Sandbox => ChildPid::Of(pid),
        };
        let process = pidfd_open(pid).map_err(Failure::doing("find the container"))?;
        let process = process.as_fd();
        // It joins the container's namespaces itself, all at once.
        let birth = Birth { pid: child, streams, keep: Some(process), users: None };
        let (child, setup) = init::spawn(
            birth,
            |_| Ok(()),
            |(), socket| init::exec(&dir, process, &exec.command, exec.tty, socket),
        )?;
        self.become_role(caller, Role::Exec);
        (running.pid, running.setup) = (child, Some(setup));
        self.execs.push(running);
        Ok(())
    }

    /// A command's child has got as far as it says, or has executed its program.
    pub(super) fn exec_ready(&mut self, pid: u32) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.pid == pid) else { return };
        let Some(setup) = &exec.setup else { return };
        let caller = exec.connection;
        match receive::<Note>(setup) {
            Ok(Some((Note::Warning(_) | Note::Forked(_), _))) => {}
            Ok(Some((Note::Ready, mut fds))) => exec.master = fds.pop(),
            Ok(Some((Note::Failed(failure), _))) => {
                exec.setup = None;
                self.answer(caller, &Reply::Failed(failure));
            }
            Ok(None) | Err(_) => {
                exec.setup = None;
                let master = exec.given_master();
                let fds: Vec<&OwnedFd> = master.iter().collect();
                self.answer_with(caller, &Reply::Running { pid }, &fds);
            }
        }
    }
}
