//! One output stream of a container: into the log, and to whoever is attached.
//!
//! The container never waits for a reader. Someone attached who doesn't keep up has a bounded backlog, and
//! is dropped when it overflows. The first to attach to a container that reads its input once (`kubectl run
//! -i`) is its user: what it printed before is kept for them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::log::{Log, Stream};

const BACKLOG_MAX: usize = 1 << 20;
/// The newest of what a container printed before its user attached.
const EARLY_MAX: usize = 64 << 10;

pub(crate) struct Output {
    source: File,
    pub(crate) stream: Stream,
    pub(crate) sinks: Vec<Sink>,
    /// What was printed so far, until somebody attaches, where that is kept.
    early: Option<VecDeque<u8>>,
    /// Nothing more comes; who is attached may still have to read.
    pub(crate) ended: bool,
}

/// Where one attached client reads.
pub(crate) struct Sink {
    /// The client's connection.
    pub(crate) connection: u64,
    pipe: File,
    backlog: VecDeque<u8>,
}

impl Output {
    pub(crate) fn new(source: OwnedFd, stream: Stream) -> io::Result<Output> {
        skiff_sys::tty::set_nonblocking(&source)?;
        Ok(Output { source: source.into(), stream, sinks: Vec::new(), early: None, ended: false })
    }

    /// Keeps what is printed for the first who attaches.
    pub(crate) fn keep_early(mut self) -> Output {
        self.early = Some(VecDeque::new());
        self
    }

    /// Lets a client read, what was kept first.
    pub(crate) fn attach(&mut self, mut sink: Sink) {
        let early = self.early.take().unwrap_or_default();
        let (front, back) = early.as_slices();
        if sink.push(front) && sink.push(back) {
            self.sinks.push(sink);
        }
    }

    /// Whoever attaches from now on is told from the log.
    pub(crate) fn forget_early(&mut self) {
        self.early = None;
    }

    /// Nothing comes and nobody has to read, nor may come to.
    pub(crate) fn is_over(&self) -> bool {
        let is_kept = self.early.as_ref().is_some_and(|early| !early.is_empty());
        self.ended && !is_kept && !self.sinks.iter().any(Sink::waits)
    }

    /// Takes one buffer full. `false` at the end of the stream.
    pub(crate) fn pump(&mut self, buffer: &mut [u8], log: Option<&mut Log>) -> bool {
        let length = match self.source.read(buffer) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return true;
            }
            // A terminal whose last user has gone answers EIO.
            Err(_) => return false,
        };
        if let Some(log) = log
            && let Err(error) = log.write(self.stream, &buffer[..length])
        {
            // A full disk must not stop the container; the entries are lost.
            crate::dispatch::complain(format_args!("warning: cannot write the log: {error}"));
        }
        self.sinks.retain_mut(|sink| sink.push(&buffer[..length]));
        if let Some(early) = &mut self.early {
            early.extend(&buffer[..length]);
            early.drain(..early.len().saturating_sub(EARLY_MAX));
        }
        true
    }

    /// All that is there already.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], mut log: Option<&mut Log>) {
        // What a container can leave in a pipe or terminal is bounded; what a survivor of it goes on
        // writing isn't.
        for _ in 0..64 {
            let before = self.readable();
            if !before || !self.pump(buffer, log.as_deref_mut()) {
                break;
            }
        }
    }

    fn readable(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.source.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl Sink {
    pub(crate) fn new(connection: u64, pipe: OwnedFd) -> io::Result<Sink> {
        skiff_sys::tty::set_nonblocking(&pipe)?;
        Ok(Sink { connection, pipe: pipe.into(), backlog: VecDeque::new() })
    }

    pub(crate) fn waits(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// `false`: the client has gone or is too slow.
    fn push(&mut self, bytes: &[u8]) -> bool {
        if self.backlog.len() + bytes.len() > BACKLOG_MAX {
            return false;
        }
        self.backlog.extend(bytes);
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match self.pipe.write(self.backlog.as_slices().0) {
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        self.backlog = VecDeque::new();
        true
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
