//! What somebody does while the tour runs: Enter, `q`, Ctrl-C, or closing the terminal.
//!
//! Two threads listen, one for signals and one for lines; both end with the process. A signal does not end
//! the process itself, so that there is time to clean up.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Enter.
    On,
    /// `q` and Enter, the end of input, or a signal.
    Leave,
}

pub(super) struct Events {
    leaving: Arc<AtomicBool>,
    events: Receiver<Event>,
    asked: Sender<()>,
}

/// An error where nobody could press Enter.
pub(super) fn somebody_is_there() -> anyhow::Result<()> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    bail!("nobody can press Enter here: --yes goes on without")
}

impl Events {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let (sender, events) = channel();
        let leaving = Arc::new(AtomicBool::new(false));
        signals(leaving.clone(), sender.clone())?;
        let (asked, wanted) = channel();
        std::thread::spawn(move || lines(&wanted, &sender));
        Ok(Self { leaving, events, asked })
    }

    /// Whether a signal has come.
    pub(super) fn interrupted(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Waits for Enter or for what ends the tour.
    pub(super) fn wait(&self) -> Event {
        // Whoever listens ends with the process alone; if not, there is nobody to wait for.
        match self.asked.send(()) {
            Ok(()) => self.events.recv().unwrap_or(Event::Leave),
            Err(_) => Event::Leave,
        }
    }
}

fn signals(leaving: Arc<AtomicBool>, sender: Sender<Event>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot listen for signals")?;
    let listen = || {
        let _context = runtime.enter();
        let on = |kind| signal(kind);
        io::Result::Ok((
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ))
    };
    let (mut interrupt, mut terminate, mut hangup) = listen().context("cannot listen for signals")?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            loop {
                // Receiving a signal is cancel-safe.
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                leaving.store(true, Ordering::SeqCst);
                if sender.send(Event::Leave).is_err() {
                    return;
                }
            }
        });
    });
    Ok(())
}

/// Reads a line each time that one is asked for.
fn lines(wanted: &Receiver<()>, sender: &Sender<Event>) {
    while wanted.recv().is_ok() {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        if sender.send(meant(&line, read.is_ok_and(|bytes| bytes > 0))).is_err() {
            return;
        }
    }
}

fn meant(line: &str, is_line: bool) -> Event {
    if is_line && !matches!(line.trim(), "q" | "Q") { Event::On } else { Event::Leave }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_goes_on_and_q_or_the_end_of_input_leaves() {
        assert_eq!(meant("\n", true), Event::On);
        assert_eq!(meant("go on\n", true), Event::On);
        assert_eq!(meant("q\n", true), Event::Leave);
        assert_eq!(meant(" Q\r\n", true), Event::Leave);
        assert_eq!(meant("", false), Event::Leave);
    }
}
