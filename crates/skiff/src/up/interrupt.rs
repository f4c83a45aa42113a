//! The signals that end `skiff up`: while it makes a cluster, and while that stands in the foreground.
//!
//! They are blocked from the beginning, so that none ends the command in the middle of a step. Whoever makes
//! something looks between two steps whether one has come; whoever waits for something waits for one too.

use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A signal came before the cluster was up.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {signal} before the cluster was up: {left}")]
pub(crate) struct Interrupted {
    signal: Signal,
    /// What is left of the cluster, for a person.
    left: String,
}

impl Interrupted {
    /// The same, with what is left of the cluster.
    pub(crate) fn leaving(self, left: String) -> Self {
        Self { left, ..self }
    }

    /// 128 and the signal's number, as shells tell the end of a command that a signal killed.
    pub(crate) fn exit_code(&self) -> ExitCode {
        u8::try_from(128 + self.signal as i32).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// Signals as something to look at, and to wait for.
pub(crate) struct Interrupts {
    pending: SignalFd,
    first: Cell<Option<Signal>>,
}

impl Interrupts {
    /// Blocks them in this thread and in those that it will start. Programs that it will start get them: std
    /// gives a child an empty mask.
    pub(crate) fn block() -> anyhow::Result<Self> {
        let signals: SigSet = SIGNALS.into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let pending = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot receive signals")?;
        Ok(Self { pending, first: Cell::new(None) })
    }

    /// The first that came, if one did.
    fn first(&self) -> Option<Signal> {
        if self.first.get().is_none()
            && let Ok(Some(found)) = self.pending.read_signal()
        {
            self.first.set(i32::try_from(found.ssi_signo).ok().and_then(|number| number.try_into().ok()));
        }
        self.first.get()
    }

    /// Fails once one has come.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        let left = "nothing was made".to_owned();
        self.first().map_or(Ok(()), |signal| Err(Interrupted { signal, left }))
    }

    /// Returns once one has come: the error of [`Interrupts::check`], or why it can't be waited for.
    pub(crate) async fn interrupted(&self) -> anyhow::Error {
        let Err(error) = self.watch().await;
        error
    }

    async fn watch(&self) -> anyhow::Result<Infallible> {
        loop {
            self.check()?;
            let pending = self.pending.as_fd().try_clone_to_owned().context("cannot receive signals")?;
            tokio::task::spawn_blocking(move || await_one(pending.as_fd()))
                .await
                .context("waiting panicked")??;
        }
    }

    /// Waits for one.
    pub(crate) fn wait(&self) -> anyhow::Result<()> {
        while self.first().is_none() {
            await_one(self.pending.as_fd())?;
        }
        Ok(())
    }
}

/// Returns when there may be a signal to read.
fn await_one(pending: BorrowedFd<'_>) -> anyhow::Result<()> {
    match poll(&mut [PollFd::new(pending, PollFlags::POLLIN)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait for signals"),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    /// To the test's own thread, where it is blocked: no other notices.
    fn send(signal: Signal) {
        raise(signal).expect("it is sent");
    }

    #[test]
    fn the_first_signal_counts_and_is_remembered() {
        let interrupts = Interrupts::block().expect("signals are blocked");
        interrupts.check().expect("none has come");
        send(Signal::SIGTERM);
        interrupts.wait().expect("one has come");
        send(Signal::SIGHUP);
        let interrupted = interrupts.check().expect_err("one has come");
        assert_eq!(interrupted.to_string(), "stopped by SIGTERM before the cluster was up: nothing was made");
        assert_eq!(format!("{:?}", interrupted.exit_code()), format!("{:?}", ExitCode::from(143)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        assert!(runtime.block_on(interrupts.interrupted()).is::<Interrupted>());
    }
}
