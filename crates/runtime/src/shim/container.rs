//! One container in its shim: from the fork to the recorded exit.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use skiff_sys::cgroup::Group;
use skiff_sys::process::{pidfd_open, pidfd_send_signal};

use super::log::{Log, Stream};
use super::output::{Output, Sink};
use crate::files::write_json;
use crate::init::{self, Birth, ChildPid, Go, Note, Users};
use crate::protocol::{Create, Failure, PidSpace, Progress, Reply, send};

pub(crate) const STATE: &str = "state.json";

pub(super) struct Container {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) pid_space: PidSpace,
    /// 0 unless its process, set-up included, lives.
    pub(super) pid: u32,
    pub(super) phase: Phase,
    pub(super) progress: Progress,
    /// Its caller was told that it exists; before that it leaves no record.
    pub(super) created: bool,
    /// Standard output and error, or the terminal and nothing, until their ends.
    pub(super) outputs: [Option<Output>; 2],
    group: Group,
    tty: bool,
    stdin_once: bool,
    /// The writing end of its standard input, or its terminal.
    input: Option<OwnedFd>,
    log: Option<Log>,
    oom_kills_before: u64,
}

pub(super) enum Phase {
    /// The child prepares; the caller waits.
    Creating {
        setup: UnixStream,
        caller: u64,
    },
    /// Waits for the word to start.
    Created {
        setup: UnixStream,
    },
    /// Has it; the end of the stream is the sign.
    Starting {
        setup: UnixStream,
        caller: u64,
    },
    Running,
    Exited,
}

impl Container {
    pub(super) fn create(
        create: Create,
        group: Group,
        pause: u32,
        users: Option<Users<'_>>,
        caller: u64,
    ) -> Result<Container, Failure> {
        let open = if create.weakness.follows_links { Log::open_following } else { Log::open };
        let log = create.log_path.map(open).transpose().map_err(Failure::doing("open the log"))?;
        let null = || {
            let null = fs::File::options().read(true).write(true).open("/dev/null");
            null.map(OwnedFd::from).map_err(Failure::doing("open /dev/null"))
        };
        let pipe = || {
            let pipe = io::pipe().map_err(Failure::doing("make a pipe"))?;
            Ok::<_, Failure>((OwnedFd::from(pipe.0), OwnedFd::from(pipe.1)))
        };
        // With a terminal the child connects itself.
        let (theirs, ours_out, ours_err) = if create.tty {
            ([null()?, null()?], None, None)
        } else {
            let ((out, out_theirs), (err, err_theirs)) = (pipe()?, pipe()?);
            ([out_theirs, err_theirs], Some(out), Some(err))
        };
        let (stdin, input) = match create.stdin && !create.tty {
            true => pipe().map(|(read, write)| (read, Some(write)))?,
            false => (null()?, None),
        };
        let output = |fd: Option<OwnedFd>, stream| {
            let output = fd.map(|fd| Output::new(fd, stream)).transpose();
            let output = output.map_err(Failure::doing("configure a pipe"))?;
            Ok::<_, Failure>(match create.stdin_once {
                true => output.map(Output::keep_early),
                false => output,
            })
        };
        let outputs = [output(ours_out, Stream::Stdout)?, output(ours_err, Stream::Stderr)?];
        let space = match create.pid {
            PidSpace::Own => ChildPid::New,
            PidSpace::Sandbox => ChildPid::Of(pause),
            PidSpace::Node => ChildPid::Same,
        };
        let streams = [stdin.as_fd(), theirs[0].as_fd(), theirs[1].as_fd()];
        let process = pidfd_open(pause).map_err(Failure::doing("find pause"))?;
        let process = process.as_fd();
        let birth =
            Birth { pid: space, streams, keep: Some(process), users: users.map(|users| users.namespace) };
        let (pid, setup) = init::spawn(
            birth,
            |socket| init::prepare(&create.dir, users, socket),
            |prepared, socket| init::create(prepared, process, socket),
        )?;
        Ok(Container {
            id: create.id,
            dir: create.dir,
            pid_space: create.pid,
            pid,
            phase: Phase::Creating { setup, caller },
            progress: Progress::default(),
            created: false,
            outputs,
            group,
            tty: create.tty,
            stdin_once: create.stdin_once,
            input,
            log,
            oom_kills_before: 0,
        })
    }

    pub(super) fn setup(&self) -> Option<&UnixStream> {
        match &self.phase {
            Phase::Creating { setup, .. } | Phase::Created { setup } | Phase::Starting { setup, .. } => {
                Some(setup)
            }
            Phase::Running | Phase::Exited => None,
        }
    }

    pub(super) fn start(&mut self, caller: u64) -> Result<(), Failure> {
        match std::mem::replace(&mut self.phase, Phase::Exited) {
            Phase::Created { setup } => {
                self.oom_kills_before = self.group.oom_kills();
                let sent = send(&setup, &Go, &[]);
                self.phase = Phase::Starting { setup, caller };
                sent.map_err(Failure::doing("give the word to start"))
            }
            other => {
                self.phase = other;
                Err(Failure::new(128, format!("container {} is not waiting to be started", self.id)))
            }
        }
    }

    /// What its set-up said, as an answer to the caller who waits for it.
    pub(super) fn hear_setup(&mut self) -> Option<(u64, Reply)> {
        let note = crate::protocol::receive::<Note>(self.setup()?);
        if let Ok(Some((Note::Warning(warning), _))) = &note {
            crate::dispatch::complain(format_args!("warning: container {}: {warning}", self.id));
            return None;
        }
        match (std::mem::replace(&mut self.phase, Phase::Exited), note) {
            (Phase::Creating { setup, caller }, Ok(Some((Note::Ready, mut fds)))) => {
                self.phase = Phase::Created { setup };
                self.created = true;
                if let Some(master) = fds.pop().filter(|_| self.tty)
                    && let Err(error) = self.take_terminal(master)
                {
                    return Some((caller, Reply::Failed(Failure::doing("configure the terminal")(error))));
                }
                Some((caller, Reply::Done))
            }
            (Phase::Creating { caller, .. }, Ok(Some((Note::Failed(failure), _)))) => {
                Some((caller, Reply::Failed(failure)))
            }
            (Phase::Creating { caller, .. }, _) => {
                Some((caller, Reply::Failed(Failure::new(128, "the container's set-up was killed"))))
            }
            (Phase::Starting { caller, .. }, Ok(Some((Note::Failed(failure), _)))) => {
                self.progress = Progress {
                    pid: 0,
                    started_at: None,
                    finished_at: Some(SystemTime::now()),
                    exit_code: Some(failure.code),
                    reason: Some("StartError".to_owned()),
                    message: Some(failure.message.clone()),
                };
                self.record();
                Some((caller, Reply::Failed(failure)))
            }
            (Phase::Starting { caller, .. }, _) => {
                self.phase = Phase::Running;
                self.progress.pid = self.pid;
                self.progress.started_at = Some(SystemTime::now());
                self.record();
                Some((caller, Reply::Running { pid: self.pid }))
            }
            // Killed while it waited; the reaper sees it.
            (_, _) => None,
        }
    }

    fn take_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        self.input = Some(master.try_clone()?);
        let output = Output::new(master, Stream::Stdout)?;
        self.outputs[0] = Some(if self.stdin_once { output.keep_early() } else { output });
        Ok(())
    }

    pub(super) fn signal(&self, signal: i32) -> Result<(), Failure> {
        if self.pid == 0 {
            return Ok(());
        }
        // Not reaped yet, so the PID is still its own. The crate's enum lacks the real-time signals.
        match pidfd_open(self.pid).and_then(|pidfd| pidfd_send_signal(pidfd.as_fd(), signal)) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            answer => answer.map_err(Failure::doing(format_args!("send signal {signal}"))),
        }
    }

    /// Records how it ended, and only then lets anyone know.
    pub(super) fn exited(&mut self, code: i32, buffer: &mut [u8]) {
        let was_running = matches!(self.phase, Phase::Running);
        self.phase = Phase::Exited;
        self.pid = 0;
        self.input = None;
        if self.pid_space != PidSpace::Own {
            // Nobody took what it left behind with it.
            self.group.kill();
        }
        for at in 0..self.outputs.len() {
            if let Some(output) = &mut self.outputs[at] {
                if !output.ended {
                    output.drain(buffer, self.log.as_mut());
                }
                output.forget_early();
                if output.is_over() {
                    self.outputs[at] = None;
                }
            }
        }
        if self.progress.finished_at.is_some() || !self.created {
            return;
        }
        let oom = was_running && self.group.oom_kills() > self.oom_kills_before;
        let reason = match code {
            _ if oom => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        self.progress.pid = 0;
        self.progress.finished_at = Some(SystemTime::now());
        self.progress.exit_code = Some(code);
        self.progress.reason = Some(reason.to_owned());
        self.record();
    }

    fn record(&self) {
        let ended = self.progress.finished_at.is_some();
        if let Err(error) = write_json(&self.dir.join(STATE), &self.progress, ended) {
            crate::dispatch::complain(format_args!(
                "warning: cannot record the state of container {}: {error}",
                self.id
            ));
        }
    }

    pub(super) fn pump(&mut self, at: usize, buffer: &mut [u8]) {
        let Some(output) = &mut self.outputs[at] else { return };
        if output.pump(buffer, self.log.as_mut()) {
            return;
        }
        let stream = output.stream;
        output.ended = true;
        if output.is_over() {
            self.outputs[at] = None;
        }
        if let Some(log) = &mut self.log
            && let Err(error) = log.close(stream)
        {
            crate::dispatch::complain(format_args!("warning: cannot write the log: {error}"));
        }
    }

    pub(super) fn flush(&mut self, at: usize, connection: u64) {
        if let Some(output) = &mut self.outputs[at] {
            output.sinks.retain_mut(|sink| sink.connection != connection || sink.flush());
            if output.is_over() {
                self.outputs[at] = None;
            }
        }
    }

    /// Somebody attached has not read all yet.
    pub(super) fn is_read(&self) -> bool {
        self.outputs.iter().flatten().any(|output| output.sinks.iter().any(Sink::waits))
    }

    /// `fds` are where the client reads; its input is answered.
    pub(super) fn attach(
        &mut self,
        client: u64,
        stdin: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Failure> {
        if matches!(self.phase, Phase::Exited) {
            return Err(Failure::new(128, format!("container {} is not running", self.id)));
        }
        for (at, pipe) in (0..self.outputs.len()).zip(fds) {
            if let Some(output) = &mut self.outputs[at] {
                output.attach(Sink::new(client, pipe).map_err(Failure::doing("configure a pipe"))?);
                // It may have closed its output before it ends.
                if output.is_over() {
                    self.outputs[at] = None;
                }
            }
        }
        if !stdin && !self.tty {
            return Ok(None);
        }
        if self.stdin_once && !self.tty {
            // The client's end becomes the only one: when it goes, so does the container's input.
            return Ok(self.input.take());
        }
        self.input.as_ref().map(OwnedFd::try_clone).transpose().map_err(Failure::doing("share the input"))
    }

    /// A client's connection is gone. Once the container has ended that is a client that knows so, and may
    /// still read: its pipe says when it is gone.
    pub(super) fn detach(&mut self, client: u64) {
        if matches!(self.phase, Phase::Exited) {
            return;
        }
        for output in &mut self.outputs {
            if let Some(each) = output {
                each.sinks.retain(|sink| sink.connection != client);
                if each.is_over() {
                    *output = None;
                }
            }
        }
    }

    pub(super) fn reopen_log(&mut self) -> Result<(), Failure> {
        self.log.as_mut().map_or(Ok(()), Log::reopen).map_err(Failure::doing("open the new log"))
    }
}
