//! The end of a server or agent: a signal asks for it, and it comes in bounded time.
//!
//! A thread of its own waits for the signal and for the end. What else there is may be held up for good: the
//! runtime's threads by a computation, a drain by a part that doesn't listen, and the way out of the runtime by
//! what blocks (a call to a file system that is gone, a command that is waited for).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use skiff_sys::process::exit_now;
use tokio_util::sync::CancellationToken;

use crate::tell;

/// From the signal to the end, which whoever started this waits for a little longer.
const BOUND: Duration = Duration::from_secs(9);
/// How long blocking work may go on when everything else has ended.
const BLOCKING: Duration = Duration::from_millis(500);

/// Hears of the signal.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    asked: CancellationToken,
    /// Somebody acts upon it.
    heard: Arc<AtomicBool>,
}

impl Ending {
    /// Waits for SIGTERM and SIGINT from now on. To be called before any thread is started: signals that one of
    /// them lets through would end the process. Children start with an empty mask, by std.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).context("cannot block signals")?;
        let ending = Self::default();
        let of_thread = ending.clone();
        let watching = move || {
            let signal = loop {
                match signals.wait() {
                    Ok(signal) => break signal,
                    Err(nix::errno::Errno::EINTR) => {}
                    // Nothing that it waits for can be wrong; without it the process would never end.
                    Err(_) => exit_now(1),
                }
            };
            of_thread.end(signal, BOUND)
        };
        std::thread::Builder::new()
            .name("ending".into())
            .spawn(watching)
            .context("cannot wait for signals")?;
        Ok(ending)
    }

    fn end(&self, signal: Signal, bound: Duration) -> ! {
        if !self.heard.load(Ordering::SeqCst) {
            // Nothing runs yet that would have to be ended.
            exit_now(128 + signal as i32);
        }
        self.asked.cancel();
        std::thread::sleep(bound);
        tell(format_args!("did not end within {} s of {signal} and is cut off", bound.as_secs()));
        exit_now(1);
    }

    /// Resolves when the end is asked for. Until this is called, a signal ends the process at once.
    pub(crate) async fn asked(&self) {
        self.heard.store(true, Ordering::SeqCst);
        self.asked.cancelled().await;
    }
}

/// Runs a component to its end, and what it left running no further.
pub(crate) fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().context("cannot start the runtime")?;
    let ended = runtime.block_on(work);
    // To drop it would wait for all that blocks.
    runtime.shutdown_timeout(BLOCKING);
    ended
}

#[cfg(test)]
mod tests {
    use std::process::{Command, ExitStatus, Stdio};
    use std::sync::mpsc;

    use super::*;

    const HOW: &str = "SKIFF_TEST_ENDS";
    const LONG: Duration = Duration::from_secs(600);

    /// Ends in the way that its environment names, as a process of its own.
    #[test]
    fn a_process_that_is_held_up_ends_all_the_same() {
        match std::env::var(HOW).ok().as_deref() {
            None => {
                // By the time that is given it, by itself, and before anybody listened.
                for (how, code) in [("held up", 1), ("blocked", 0), ("too early", 128 + 15)] {
                    assert_eq!(run_again(how).code(), Some(code), "{how}");
                }
            }
            Some("too early") => Ending::default().end(Signal::SIGTERM, LONG),
            Some(how) => {
                let ending = Ending::default();
                let (held_up, of_thread) = (how == "held up", ending.clone());
                let (ready, is_ready) = mpsc::channel();
                std::thread::spawn(move || {
                    is_ready.recv().expect("it gets so far");
                    let bound = if held_up { Duration::from_millis(50) } else { LONG };
                    of_thread.end(Signal::SIGTERM, bound)
                });
                let work = async {
                    let mut asked = std::pin::pin!(ending.asked());
                    assert!(futures_util::poll!(&mut asked).is_pending());
                    tokio::task::spawn_blocking(|| std::thread::sleep(LONG));
                    ready.send(()).expect("it is waited for");
                    asked.await;
                    if held_up {
                        std::thread::sleep(LONG);
                    }
                    Ok(())
                };
                run(work).expect("it ends");
                exit_now(0);
            }
        }
    }

    fn run_again(how: &str) -> ExitStatus {
        let mut again = Command::new(std::env::current_exe().expect("it has a name"));
        let test = "ending::tests::a_process_that_is_held_up_ends_all_the_same";
        again.args([test, "--exact", "--nocapture"]).env(HOW, how).stdin(Stdio::null());
        let mut child = again.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a PID"));
        let (ended, waits) = mpsc::channel();
        std::thread::spawn(move || ended.send(child.wait()));
        match waits.recv_timeout(Duration::from_secs(120)) {
            Ok(status) => status.expect("it is ours"),
            Err(_) => {
                nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it is ours, and not waited for");
                panic!("{how}: it does not end")
            }
        }
    }
}
