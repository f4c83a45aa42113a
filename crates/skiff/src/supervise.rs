//! Keeps a node's own processes running: what a node's PID 1 and `skiff server` do.
//!
//! One thread, no runtime: it starts each child, reaps whatever dies, and starts a died child again within
//! a second. It does nothing else, so that it has no reason to die. If it is killed all the same, the kernel
//! kills its children with it (and of a node's PID 1 everything): nobody would start those again, and they
//! would stand in the way of whoever is started in its place. Pods' shims are no children of it, and live on.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use skiff_runtime::private;
use skiff_sys::process::end_together;
use tracing::{info, warn};

use crate::in_use::InUse;

/// A log is renamed to `.1` when a process starts and finds it larger.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// How long children have to end by themselves when the supervisor is told to end.
const GRACE: Duration = Duration::from_secs(10);

/// A process to keep running.
pub(crate) struct Child {
    /// Such as `server` or `agent`.
    pub(crate) role: &'static str,
    /// What stands first in its command line.
    pub(crate) argv0: &'static str,
    pub(crate) args: Vec<OsString>,
    /// Gets its output.
    pub(crate) log: PathBuf,
    /// A listening socket, for the child's standard input; each start gets it anew.
    pub(crate) listener: Option<OwnedFd>,
}

struct Running {
    child: Child,
    pid: Option<Pid>,
    started: Instant,
    failures: u32,
    next_start: Instant,
}

/// Runs the children until SIGTERM or SIGINT, then ends them. They get the data directory that is in use.
pub(crate) fn run(children: Vec<Child>, in_use: Option<&InUse>) -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    // Children start with an empty mask: std resets it between fork and exec.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).context("cannot block signals")?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot receive signals")?;
    let now = Instant::now();
    let mut running: Vec<Running> = children
        .into_iter()
        .map(|child| Running { child, pid: None, started: now, failures: 0, next_start: now })
        .collect();
    loop {
        let now = Instant::now();
        for process in running.iter_mut().filter(|process| process.pid.is_none() && process.next_start <= now)
        {
            match start(&process.child, in_use) {
                Ok(pid) => {
                    info!(role = process.child.role, pid = pid.as_raw(), "started");
                    process.pid = Some(pid);
                    process.started = now;
                }
                Err(error) => {
                    warn!(role = process.child.role, error = format!("{error:#}"), "cannot start");
                    delay(process, now);
                }
            }
        }
        let next =
            running.iter().filter(|process| process.pid.is_none()).map(|process| process.next_start).min();
        let timeout = match next {
            // One more millisecond, since poll rounds down.
            Some(at) => {
                let millis = at.saturating_duration_since(now).as_millis() + 1;
                PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut [PollFd::new(signal_fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
        let mut ending = false;
        while let Ok(Some(signal)) = signal_fd.read_signal() {
            ending |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        if ending {
            return end(&running);
        }
        reap(&mut running);
    }
}

fn start(child: &Child, in_use: Option<&InUse>) -> anyhow::Result<Pid> {
    if let Some(dir) = child.log.parent() {
        private::make_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    if fs::metadata(&child.log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(&child.log, child.log.with_extension("log.1")).context("cannot rotate the log")?;
    }
    let log = open_log(&child.log)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(child.argv0).args(&child.args).stdin(Stdio::null());
    command.stdout(log.try_clone().context("cannot share the log")?).stderr(log);
    if let Some(listener) = &child.listener {
        command.stdin(listener.try_clone().context("cannot share the listener")?);
    }
    if let Some(in_use) = in_use {
        in_use.hand_on(&mut command)?;
    }
    end_together(&mut command);
    let process = command.spawn().with_context(|| format!("cannot run the {}", child.role))?;
    // Reaped by `reap`, together with the orphans that a PID 1 inherits.
    Ok(Pid::from_raw(i32::try_from(process.id()).context("a PID fits in 31 bits")?))
}

fn open_log(path: &PathBuf) -> anyhow::Result<File> {
    private::open(OpenOptions::new().create(true).append(true), path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn reap(running: &mut [Running]) {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        let Some(pid) = status.pid() else { return };
        let now = Instant::now();
        if let Some(process) = running.iter_mut().find(|process| process.pid == Some(pid)) {
            warn!(role = process.child.role, pid = pid.as_raw(), ?status, "died, starting it again");
            process.pid = None;
            if now - process.started > Duration::from_secs(10) {
                process.failures = 0;
            }
            delay(process, now);
        }
    }
}

/// At once the first time, then 100 ms doubling to a second.
fn delay(process: &mut Running, now: Instant) {
    let millis = match process.failures {
        0 => 0,
        failures => (100u64 << (failures - 1).min(4)).min(1_000),
    };
    process.failures += 1;
    process.next_start = now + Duration::from_millis(millis);
}

fn end(running: &[Running]) -> anyhow::Result<()> {
    for pid in running.iter().rev().filter_map(|process| process.pid) {
        // It may have died this very moment.
        let _ = kill(pid, Signal::SIGTERM);
    }
    let deadline = Instant::now() + GRACE;
    let mut left: Vec<Pid> = running.iter().filter_map(|process| process.pid).collect();
    while !left.is_empty() {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) => match status.pid() {
                Some(pid) => left.retain(|waiting| *waiting != pid),
                None if Instant::now() > deadline => {
                    for pid in &left {
                        let _ = kill(*pid, Signal::SIGKILL);
                    }
                    return Ok(());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            },
            Err(Errno::EINTR) => {}
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
