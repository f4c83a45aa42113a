//! Programs (BPF) that packets meet beside the packet filter's rules and traffic control's filters: at devices
//! (`tcx`, Linux 6.6, and `netkit`, 6.7), at the sockets of a cgroup, and in the packet filter ([`filters`]). XDP
//! programs are told with the links ([`crate::netlink::route::Link`]).
//!
//! What they do is not read: they are programs.

pub mod filters;

use std::fs::{self, File};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The part of `union bpf_attr` that BPF_PROG_QUERY has (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// How many programs look at what comes in by the device with this index, and at what goes out, in the calling
/// thread's network namespace. None in a kernel that has no such programs.
pub fn programs(link: u32) -> io::Result<(u32, u32)> {
    const INGRESS: u32 = 46;
    const EGRESS: u32 = 47;
    Ok((count(link, INGRESS, 0)?, count(link, EGRESS, 0)?))
}

/// How many programs look at what passes a pair of devices of the kind `netkit`, one of which this is.
pub fn pair_programs(link: u32) -> io::Result<u32> {
    const PRIMARY: u32 = 54;
    const PEER: u32 = 55;
    Ok(count(link, PRIMARY, 0)? + count(link, PEER, 0)?)
}

/// How many programs look at what sockets receive that this process makes, and at what they send or whom they
/// connect to: those of its cgroup of version 2, and of all above. None where there is no such hierarchy, or
/// the process is gone.
pub fn socket_programs(pid: u32) -> io::Result<(u32, u32)> {
    const INGRESS: u32 = 0;
    const EGRESS: u32 = 1;
    const CONNECT: u32 = 10;
    const SEND: u32 = 14;
    let Some(path) = cgroup_of(pid) else { return Ok((0, 0)) };
    let dir = match File::open(path) {
        Ok(dir) => dir,
        // The process is in a cgroup that can't be seen from here, or was.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let of = |attach_type| count(dir.as_raw_fd() as u32, attach_type, EFFECTIVE);
    Ok((of(INGRESS)?, of(EGRESS)? + of(CONNECT)? + of(SEND)?))
}

/// With what is inherited.
const EFFECTIVE: u32 = 1;

fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Where everybody mounts it: alone, or beside version 1.
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let mount = mounts.into_iter().map(Path::new).find(|mount| mount.join("cgroup.controllers").exists())?;
    Some(mount.join(path))
}

fn count(target: u32, attach_type: u32, query_flags: u32) -> io::Result<u32> {
    const PROG_QUERY: libc::c_long = 16;
    let mut query = Query { target, attach_type, query_flags, ..Query::default() };
    let pointer = std::ptr::from_mut(&mut query);
    // SAFETY: the pointer is to a `Query`, laid out as this command's part of the union, with its own size, and
    // without a place for the programs' numbers none is written.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, pointer, size_of::<Query>()) };
    if result == 0 {
        return Ok(query.count);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(0),
        // There are more than there was room for, and how many was told all the same.
        Some(libc::ENOSPC) => Ok(query.count.max(1)),
        _ => Err(error),
    }
}

const _: () = assert!(offset_of!(Query, count) == 24 && offset_of!(Query, revision) == 56);

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_attached_to_a_device_is_counted_on_its_side() {
        let found = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let before = programs(1).unwrap();
            let link = testing::at_device(1, 46);
            let during = programs(1).unwrap();
            let known = link.is_some();
            drop(link);
            (before, known.then_some(during), programs(1).unwrap(), programs(u32::MAX))
        });
        let (before, during, after, nothing) = found.join().unwrap();
        assert_eq!((before, after), ((0, 0), (0, 0)));
        // A kernel may have no such programs.
        assert!(during.is_none_or(|during| during == (1, 0)), "{during:?}");
        // One that knows them knows that this is no device.
        assert!(nothing.is_err() || nothing.is_ok_and(|found| found == (0, 0)));
    }

    #[test]
    fn what_is_attached_to_a_cgroup_holds_for_processes_below_it() {
        let own = std::process::id();
        let Some(path) = cgroup_of(own) else { return };
        let dir = path.join(format!("skiff-test-attached-{own}"));
        let inner = dir.join("inner");
        if fs::create_dir_all(&inner).is_err() {
            // It may be read here alone.
            return;
        }
        let mut sleeper = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(inner.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        let before = socket_programs(sleeper.id());
        let link = testing::at_cgroup(&File::open(&dir).unwrap(), 1);
        let during = socket_programs(sleeper.id());
        let known = link.is_some();
        drop(link);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        fs::remove_dir(&inner).unwrap();
        fs::remove_dir(&dir).unwrap();
        let (before, during) = (before.unwrap(), during.unwrap());
        let more = u32::from(known);
        assert_eq!(during, (before.0, before.1 + more));
        assert_eq!(socket_programs(sleeper.id()).unwrap(), (0, 0), "it is gone");
    }
}
