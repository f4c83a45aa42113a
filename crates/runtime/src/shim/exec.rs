//! A command in a container, and what becomes of it when who asked for it goes.
//!
//! Its pipes lead to the agent, and the shim copies nothing. Of a command that survives it holds the other ends
//! too, or the master of the terminal, and reads them when the agent does no more: a command that writes must
//! neither be killed for that nor wait for ever.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use nix::libc::O_NONBLOCK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_sys::tty;

pub(crate) struct Running {
    /// 0 until it is forked.
    pub(crate) pid: u32,
    pub(crate) connection: u64,
    /// Until it has executed its program or failed.
    pub(crate) setup: Option<UnixStream>,
    pub(crate) master: Option<OwnedFd>,
    /// It goes on without its connection.
    pub(crate) survives: bool,
    /// Who asked for it has gone.
    left: bool,
    outputs: Vec<Output>,
}

/// What a command writes, as it can be read.
struct Output {
    file: File,
    ended: bool,
}

impl Running {
    pub(crate) fn new(connection: u64, survives: bool) -> Running {
        let (left, outputs) = (false, Vec::new());
        Running { pid: 0, connection, setup: None, master: None, survives, left, outputs }
    }

    /// Holds what is written to pipes.
    pub(crate) fn read_on(&mut self, streams: &[BorrowedFd<'_>]) -> io::Result<()> {
        for stream in streams {
            // The same pipe, opened anew: its other end is the caller's. What is no pipe leads nowhere.
            let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
            let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
            if nix::sys::stat::fstat(&file)
                .is_ok_and(|stat| stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFIFO)
            {
                self.outputs.push(Output { file, ended: false });
            }
        }
        Ok(())
    }

    /// The terminal for who asked for the command. Of one that survives it stays here as well: it goes with its
    /// last master.
    pub(crate) fn given_master(&mut self) -> Option<OwnedFd> {
        if !self.survives {
            return self.master.take();
        }
        let given = self.master.as_ref().and_then(|master| master.try_clone().ok());
        if self.left {
            self.leave();
        }
        given
    }

    pub(crate) fn kill(&self) {
        // It leads a session, and so a group, unless it is about to.
        let _ = kill(Pid::from_raw(-(self.pid as i32)), Signal::SIGKILL);
        let _ = kill(Pid::from_raw(self.pid as i32), Signal::SIGKILL);
    }

    /// Nobody asks for it any more: what it writes is dropped from now on.
    pub(crate) fn leave(&mut self) {
        self.left = true;
        if let Some(master) = self.master.take()
            // One that blocks would hold up all else here: without anybody to read it, the terminal goes.
            && tty::set_nonblocking(&master).is_ok()
        {
            self.outputs.push(Output { file: master.into(), ended: false });
        }
    }

    pub(crate) fn is_left(&self) -> bool {
        self.left
    }

    /// What is to be read, if that is to be done here.
    pub(crate) fn left(&self) -> impl Iterator<Item = (usize, &File)> {
        let outputs = self.outputs.iter().enumerate().filter(|(_, output)| self.left && !output.ended);
        outputs.map(|(at, output)| (at, &output.file))
    }

    /// Drops one buffer full. An output that has ended is kept, as a terminal would go with it.
    pub(crate) fn drain(&mut self, at: usize, buffer: &mut [u8]) {
        let Some(output) = self.outputs.get_mut(at) else { return };
        match output.file.read(buffer) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // A terminal whose last user has gone answers EIO.
            Ok(0) | Err(_) => output.ended = true,
        }
    }
}
