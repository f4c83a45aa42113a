//! Live streams: commands, attachments and forwarded ports.
//!
//! A command's pipes lead straight to this process, so the shim copies nothing. Its life hangs on the
//! connection that asked for it: when nobody waits for the exit code any more, the connection goes, and the
//! shim kills the command, unless that is to survive. Then the shim reads on what it writes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use skiff_sys::tty;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::shims::{next, unexpected};
use super::{Inner, doing};
use crate::protocol::{Call, Exec, Reply, Request, VERSION, frame};
use crate::types::*;

/// Of each stream of a command run to its end; the rest is read and dropped.
const OUTPUT_MAX: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What can be asked of a terminal before its size has been set.
const SIZES_MAX: usize = 4;

impl Inner {
    pub(super) async fn exec(
        self: &Arc<Self>,
        id: &ContainerId,
        config: ExecConfig,
    ) -> Result<Process, Error> {
        let sandbox = self.running(id)?;
        let pipe = |wanted: bool| {
            let pipe =
                if wanted && !config.tty { Some(io::pipe().map_err(doing("make a pipe"))?) } else { None };
            Ok::<_, Error>(pipe.map(|(read, write)| (OwnedFd::from(read), OwnedFd::from(write))).unzip())
        };
        let ((stdin_theirs, stdin), (stdout, stdout_theirs), (stderr, stderr_theirs)) =
            (pipe(config.stdin)?, pipe(config.stdout)?, pipe(config.stderr)?);
        let request = Request::Exec(Exec {
            id: id.0.clone(),
            command: config.command.clone(),
            tty: config.tty,
            stdin: stdin_theirs.is_some(),
            stdout: stdout_theirs.is_some(),
            stderr: stderr_theirs.is_some(),
            survives: config.survives,
        });
        let inner = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let theirs = [stdin_theirs, stdout_theirs, stderr_theirs];
            let fds: Vec<_> = theirs.iter().flatten().map(|fd| fd.as_fd()).collect();
            inner.call(&sandbox, request, &fds)
        });
        let (connection, reply, fds) = joined(asked.await)??;
        let Reply::Running { .. } = reply else { return Err(unexpected(&reply)) };
        let mut process = self.process(connection, fds.into_iter().next().filter(|_| config.tty))?;
        process.kill = process.kill.filter(|_| config.survives);
        if config.tty {
            process.stdin = process.stdin.filter(|_| config.stdin);
            return Ok(process);
        }
        process.stdin = stdin.map(writer).transpose()?;
        process.stdout = stdout.map(reader).transpose()?;
        process.stderr = stderr.map(reader).transpose()?;
        Ok(process)
    }

    pub(super) async fn attach(self: &Arc<Self>, id: &ContainerId, stdin: bool) -> Result<Process, Error> {
        let record = self.known(id)?;
        let pipe =
            || io::pipe().map(|(r, w)| (OwnedFd::from(r), OwnedFd::from(w))).map_err(doing("make a pipe"));
        let ((stdout, stdout_theirs), (stderr, stderr_theirs)) = (pipe()?, pipe()?);
        let (inner, own, tty) = (self.clone(), record.id.clone(), record.tty);
        let asked = tokio::task::spawn_blocking(move || {
            let theirs = [stdout_theirs.as_fd(), stderr_theirs.as_fd()];
            let theirs = if tty { &theirs[..1] } else { &theirs[..] };
            inner.call(&record.sandbox, Request::Attach { id: own, stdin }, theirs)
        });
        let (connection, reply, fds) = joined(asked.await)?.map_err(|error| match error {
            Error::Start { .. } => Error::NotRunning(id.clone()),
            error => error,
        })?;
        let Reply::Done = reply else { return Err(unexpected(&reply)) };
        let input = fds.into_iter().next();
        let (input, master) = if tty { (None, input) } else { (input, None) };
        let mut process = self.process(connection, master)?;
        process.kill = None;
        if tty && !stdin {
            process.stdin = None;
        }
        if let Some(input) = input.filter(|_| stdin) {
            process.stdin = Some(writer(input)?);
        }
        process.stdout = Some(reader(stdout)?);
        process.stderr = if tty { None } else { Some(reader(stderr)?) };
        Ok(process)
    }

    /// The exit code, by the connection that asked for the process, and its terminal.
    fn process(&self, connection: UnixStream, master: Option<OwnedFd>) -> Result<Process, Error> {
        let connection = connection
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(connection))
            .map_err(doing("configure a connection"))?;
        let (exit, exit_receiver) = oneshot::channel();
        let terminal = master.map(Terminal::new).transpose().map_err(doing("configure a terminal"))?;
        let (sizes, sizes_receiver) = mpsc::channel(SIZES_MAX);
        let (kill, killed) = oneshot::channel();
        let tasks = self.tasks.upgrade();
        if let Some(tasks) = tasks {
            let mut tasks = tasks.lock();
            while tasks.try_join_next().is_some() {}
            tasks.spawn(wait(connection, exit, killed, terminal.clone(), sizes_receiver));
        }
        Ok(Process {
            stdin: terminal.clone().map(|terminal| Box::new(terminal) as _),
            resize: terminal.is_some().then_some(sizes),
            stdout: terminal.map(|terminal| Box::new(terminal) as _),
            stderr: None,
            exit: exit_receiver,
            kill: Some(kill),
        })
    }

    pub(super) async fn exec_sync(
        self: &Arc<Self>,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        let until = Instant::now() + timeout;
        let config =
            ExecConfig { command: command.to_vec(), stdout: true, stderr: true, ..ExecConfig::default() };
        let process = match tokio::time::timeout_at(until, self.exec(id, config)).await {
            Ok(process) => process?,
            Err(_) => return Ok(ExecOutput { timed_out: true, exit_code: -1, ..ExecOutput::default() }),
        };
        let mut output = ExecOutput::default();
        let reading = async {
            tokio::join!(
                collect(process.stdout, &mut output.stdout),
                collect(process.stderr, &mut output.stderr)
            );
        };
        let mut exit = process.exit;
        let finished = async {
            // Whatever it left running may hold its pipes; the time limit is for that too.
            let ((), code) = tokio::join!(reading, &mut exit);
            code
        };
        match tokio::time::timeout_at(until, finished).await {
            Ok(code) => output.exit_code = code.map_err(|_| Error::NotRunning(id.clone()))?,
            Err(_) => match exit.try_recv() {
                Ok(code) => output.exit_code = code,
                Err(_) => (output.timed_out, output.exit_code) = (true, -1),
            },
        }
        Ok(output)
    }

    pub(super) async fn port_forward(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        port: u16,
    ) -> Result<tokio::net::TcpStream, Error> {
        let netns = {
            let state = self.state.lock();
            let entry = state.sandboxes.get(&sandbox.0).ok_or_else(|| Error::NoSandbox(sandbox.clone()))?;
            self.sandbox(entry).netns
        };
        let make = move || {
            let make = || {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
            };
            match netns {
                Some(netns) => skiff_sys::namespaces::in_netns(&netns, make),
                None => make(),
            }
        };
        let made = joined(tokio::task::spawn_blocking(make).await)?;
        let socket = made.map_err(doing("make a socket in the sandbox's network"))?;
        let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
        let connecting = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        connected.map_err(doing(format_args!("connect to port {port} in the sandbox")))
    }

    /// The sandbox of a container that runs.
    fn running(&self, id: &ContainerId) -> Result<String, Error> {
        let state = self.state.lock();
        let entry = state.containers.get(&id.0).ok_or_else(|| Error::NoContainer(id.clone()))?;
        match entry.state() {
            ContainerState::Running => Ok(entry.record.sandbox.clone()),
            _ => Err(Error::NotRunning(id.clone())),
        }
    }
}

/// How the wait for a process ends.
enum Waited {
    Exited(i32),
    /// Nobody waits any more, or there is nothing to wait for.
    LetGo,
    Killed,
}

/// Holds the connection until the process has ended or nobody asks any more.
async fn wait(
    mut connection: tokio::net::UnixStream,
    mut exit: oneshot::Sender<i32>,
    mut killed: oneshot::Receiver<()>,
    terminal: Option<Terminal>,
    mut sizes: mpsc::Receiver<(u16, u16)>,
) {
    let (mut resizes, mut killable) = (terminal.is_some(), true);
    let waited = {
        // Reading a frame is not cancel-safe, so one future does it throughout.
        let ended = next(&mut connection);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                // Who kills a process waits for it no more: that comes first.
                biased;
                killed = &mut killed, if killable => match killed {
                    Ok(()) => break Waited::Killed,
                    Err(_) => killable = false,
                },
                reply = &mut ended => match reply {
                    Ok(Reply::Exited { code }) => break Waited::Exited(code),
                    _ => break Waited::LetGo,
                },
                () = exit.closed() => break Waited::LetGo,
                size = sizes.recv(), if resizes => match (size, &terminal) {
                    (Some((columns, rows)), Some(terminal)) => {
                        // The terminal may be gone already; the exit code is on its way then.
                        let _ = tty::resize(terminal.0.get_ref().as_fd(), columns, rows);
                    }
                    _ => resizes = false,
                },
            }
        }
    };
    match waited {
        // Nobody may wait any more.
        Waited::Exited(code) => drop(exit.send(code)),
        Waited::LetGo => {}
        Waited::Killed => {
            // Where the shim is gone, so is the process.
            if let Ok(request) = frame(&Call { version: VERSION, request: Request::Kill }) {
                let _ = connection.write_all(&request).await;
            }
        }
    }
}

async fn collect(stream: Option<Box<dyn AsyncRead + Send + Unpin>>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_MAX - into.len();
        into.extend_from_slice(&buffer[..length.min(room)]);
    }
}

fn reader(fd: OwnedFd) -> Result<Box<dyn AsyncRead + Send + Unpin>, Error> {
    Ok(Box::new(pipe::Receiver::from_owned_fd(fd).map_err(doing("configure a pipe"))?))
}

fn writer(fd: OwnedFd) -> Result<Box<dyn AsyncWrite + Send + Unpin>, Error> {
    Ok(Box::new(pipe::Sender::from_owned_fd(fd).map_err(doing("configure a pipe"))?))
}

fn joined<T>(answer: Result<T, tokio::task::JoinError>) -> Result<T, Error> {
    answer.map_err(|error| doing("finish")(io::Error::other(error)))
}

/// The master of a pseudo-terminal, to read from and to write to.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<std::fs::File>>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Terminal> {
        tty::set_nonblocking(&master)?;
        #[expect(deprecated, reason = "the file owns its descriptor for as long as it is registered")]
        let file = AsyncFd::new(master.into())?;
        Ok(Terminal(Arc::new(file)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|file| file.get_ref().read(unfilled)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other end open any more: that is how a terminal's stream ends.
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|file| file.get_ref().write(bytes)) {
                Ok(answer) => return Poll::Ready(answer),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
