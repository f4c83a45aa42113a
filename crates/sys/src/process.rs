//! Making processes and ending them: fork, pidfds, what a process must shed before it executes another.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Which side of [`fork`] one is on.
pub enum Fork {
    Child,
    /// With the child's PID in the caller's own PID namespace.
    Parent(u32),
}

/// Copies this process. Refused in a process that has other threads: a lock one of them held would stay
/// locked in the child for ever.
pub fn fork() -> io::Result<Fork> {
    if threads()? != 1 {
        return Err(io::Error::other("fork in a process with several threads"));
    }
    // SAFETY: this is the only thread, so the child's copy of every lock and of the heap is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as u32)),
    }
}

/// How many threads this process has.
pub fn threads() -> io::Result<u64> {
    // A directory's link count is the number of its subdirectories and two.
    Ok(std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata("/proc/self/task")?) - 2)
}

/// Ends this process without running destructors or exit handlers, as a forked child should.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit touches no memory of ours and doesn't return.
    unsafe { libc::_exit(code) }
}

/// A handle on a process that outlives its PID.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers; its answer, if not negative, is a new descriptor nobody owns.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Sends a signal to the process of that handle; a process already gone is `ESRCH`.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo means the kernel fills in kill(2)'s own.
    unsafe {
        let info = std::ptr::null::<libc::siginfo_t>();
        check(libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0))?;
    }
    Ok(())
}

/// Makes orphaned descendants children of this process instead of PID 1's.
pub fn set_child_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Execution never gains privileges from here on, in this process and its descendants.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Whether others with the same user may trace this process and look into it.
pub fn set_dumpable(yes: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, yes.into())
}

/// Keeps the permitted capabilities when all user IDs become non-zero.
pub fn set_keep_caps(yes: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, yes.into())
}

/// The name `ps -o comm` shows, cut at 15 bytes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel copies at most 16 bytes up to the terminating zero that a CStr has.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }.into())?;
    Ok(())
}

pub(crate) fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only options that take integers come here; unused arguments must be zero.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) }.into())?;
    Ok(())
}

/// Gives every signal its default action and blocks none: what a program expects to start with. (Rust
/// ignores SIGPIPE, and ignored signals stay ignored across execve.)
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || signal == 32 || signal == 33 {
            continue;
        }
        // SAFETY: SIG_DFL runs no code of ours.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Closes every descriptor but the standard streams and those to keep. For a forked child, which must not
/// hold its parent's ends of pipes: what the parent's values own is closed under them, so the child never
/// drops or uses those, and ends in execve or [`exit_now`].
pub fn close_others(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for last in keep.into_iter().map(Some).chain([None]) {
        let end = last.map_or(u32::MAX, |fd| fd - 1);
        if first <= end {
            // SAFETY: closing is safe for memory; that nobody uses the closed ones is the contract above.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) })?;
        }
        first = last.map_or(0, |fd| fd + 1);
    }
    Ok(())
}

/// What the caller's parent left open beside the standard streams is not handed on to programs executed.
pub fn hand_on_nothing_inherited() -> io::Result<()> {
    // SAFETY: only marks descriptors; all stay open for whoever owns them.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// The program that a command starts gets this descriptor, by its number, and hands it on in turn unless it
/// does something about it. No other program that this process starts meanwhile gets it.
pub fn hand_on(command: &mut Command, fd: OwnedFd) {
    // SAFETY: between fork and exec it makes one system call, which is async-signal-safe; the descriptor is
    // open, as the closure owns it and the child has a copy of all that its parent has open.
    unsafe {
        command.pre_exec(move || check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0).into()).map(drop));
    }
}

/// The program that a command starts is killed when this process ends, however it ends. (To be exact: when
/// the thread ends that starts it.) What that program starts in turn is not.
pub fn end_together(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec it makes two system calls, which are async-signal-safe, and neither
    // touches memory nor a lock of the parent's.
    unsafe {
        command.pre_exec(move || {
            prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
            // One that ended before sends no signal any more.
            match libc::getppid() as u32 == parent {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        });
    }
}

/// Puts a copy of `from` at the descriptor number `to` (0, 1 or 2), inherited by programs executed.
pub fn dup_onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&to), "only the standard streams are addressed by number");
    if from.as_raw_fd() == to {
        // SAFETY: clears close-on-exec of a descriptor that is open, as `from` borrows it.
        check(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }.into())?;
        return Ok(());
    }
    // SAFETY: the standard streams are owned by no value, only borrowed by number.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into())?;
    Ok(())
}

/// The descriptor that a parent left open at this number.
///
/// Taken once, at the start of a program that knows what it was started with; `None` if it is not open.
pub fn inherited_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only asks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: a copy with a number of its own, which nobody else owns.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: as above; it is open because the call succeeded.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Replaces this process's program by an open file.
pub fn execveat(file: BorrowedFd<'_>, args: &[&CStr], env: &[&CStr]) -> io::Error {
    let pointers = |strings: &[&CStr]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and point to strings that live until the call returns, if it does.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

pub(crate) fn check(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn fork_is_refused_beside_other_threads() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(fork().is_err());
        drop(stop);
        let _ = other.join();
    }

    const MIDDLE: &str = "SKIFF_TEST_STARTS_ONE_THAT_ENDS_WITH_IT";

    /// Runs itself once more as the parent that is killed.
    #[test]
    fn who_is_to_end_with_its_parent_does_when_that_is_killed_and_others_live_on() {
        use std::io::BufRead;
        if std::env::var_os(MIDDLE).is_some() {
            let start = |bound: bool| {
                let mut command = Command::new("sleep");
                command.arg("300").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
                if bound {
                    end_together(&mut command);
                }
                command.spawn().unwrap().id()
            };
            // A PID that a test prints among other things; the end of the line is the end of the news.
            println!("\nstarted {} {}", start(true), start(false));
            loop {
                std::thread::park();
            }
        }
        let test =
            "process::tests::who_is_to_end_with_its_parent_does_when_that_is_killed_and_others_live_on";
        let mut middle = Command::new(std::env::current_exe().unwrap());
        middle.args([test, "--exact", "--nocapture"]).env(MIDDLE, "1");
        let mut middle = middle.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let lines = io::BufReader::new(middle.stdout.take().unwrap()).lines();
        let told = lines.map(Result::unwrap).find(|line| line.starts_with("started ")).unwrap();
        let pids: Vec<u32> = told.split(' ').skip(1).map(|pid| pid.parse().unwrap()).collect();
        let [bound, free] = [pids[0], pids[1]].map(|pid| pidfd_open(pid).unwrap());
        let ended = |pidfd: &OwnedFd, timeout: u16| {
            let mut wanted = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut wanted, timeout).unwrap() == 1
        };
        assert!(!ended(&bound, 0) && !ended(&free, 0));
        middle.kill().unwrap();
        middle.wait().unwrap();
        assert!(ended(&bound, 60_000));
        assert!(!ended(&free, 0));
        pidfd_send_signal(free.as_fd(), libc::SIGKILL).unwrap();
    }

    #[test]
    fn a_descriptor_is_handed_on_to_the_one_command_that_is_to_have_it() {
        let (out, own) = nix::unistd::pipe().unwrap();
        nix::fcntl::fcntl(&own, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).unwrap();
        let number = own.as_raw_fd();
        let mut without = Command::new("test");
        assert!(!without.args(["-e", &format!("/proc/self/fd/{number}")]).status().unwrap().success());
        let mut with = Command::new("sh");
        with.args(["-c", &format!("echo here > /proc/self/fd/{number}")]);
        hand_on(&mut with, own);
        assert!(with.status().unwrap().success());
        // With the command goes the last writer.
        drop(with);
        assert_eq!(io::read_to_string(std::fs::File::from(out)).unwrap(), "here\n");
    }

    #[test]
    fn a_pidfd_names_a_process_until_it_is_reaped() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
        let error = pidfd_send_signal(pidfd.as_fd(), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
