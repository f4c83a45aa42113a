//! Pseudo-terminals of a given devpts instance.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::process::check;

/// A new pair of a devpts, which that directory has to be the top of: the master, and the slave without its
/// becoming anyone's controlling terminal. In a devpts only the kernel makes names.
pub fn open_pair(devpts: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::Mode;
    use nix::sys::statfs::{FsType, fstatfs};
    if fstatfs(devpts)?.filesystem_type() != FsType(libc::DEVPTS_SUPER_MAGIC as _) {
        return Err(io::Error::other("there is no devpts"));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let master = openat(devpts, "ptmx", flags, Mode::empty())?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and answers a new descriptor; unlike a path, it can't
    // lead to another instance's slave.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: the call succeeded, and nobody else owns its answer.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave as i32) }))
}

/// Makes the terminal this session's own; the caller leads a session that has none.
pub fn make_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an int by value: 0, don't steal it from another session.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())?;
    Ok(())
}

/// Sets columns and rows; the foreground process group gets SIGWINCH.
pub fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())?;
    Ok(())
}

/// Columns and rows.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into())?;
    Ok((size.ws_col, size.ws_row))
}

/// Lets reads and writes return at once; the setting belongs to the open file, not to the descriptor.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn nothing_but_a_devpts_has_terminals() {
        let refused = open_pair(File::open("/dev").unwrap().as_fd()).unwrap_err();
        assert_eq!(refused.to_string(), "there is no devpts");
    }

    #[test]
    fn a_pair_carries_sizes_and_bytes() {
        let devpts = File::open("/dev/pts").unwrap();
        let (master, slave) = open_pair(devpts.as_fd()).unwrap();
        resize(master.as_fd(), 132, 43).unwrap();
        assert_eq!(size(slave.as_fd()).unwrap(), (132, 43));
        std::io::Write::write_all(&mut File::from(slave), b"hi").unwrap();
        let mut buffer = [0; 2];
        std::io::Read::read_exact(&mut File::from(master), &mut buffer).unwrap();
        assert_eq!(&buffer, b"hi");
    }
}
