//! Programs that are attached to a device beside traffic control's filters (`tcx`, Linux 6.6). XDP programs are
//! told with the links ([`crate::netlink::route::Link`]).

use std::io;
use std::mem::{offset_of, size_of};

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
    Ok((count(link, INGRESS)?, count(link, EGRESS)?))
}

fn count(target: u32, attach_type: u32) -> io::Result<u32> {
    const PROG_QUERY: libc::c_long = 16;
    let mut query = Query { target, attach_type, ..Query::default() };
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
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attached_to_a_new_loopback() {
        let found = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            (programs(1), programs(u32::MAX))
        });
        let (lo, nothing) = found.join().unwrap();
        assert_eq!(lo.unwrap(), (0, 0));
        // A kernel that knows such programs knows that this is no device.
        assert!(nothing.is_err() || nothing.is_ok_and(|found| found == (0, 0)));
    }
}
