//! Programs (BPF) in the packet filter, Linux 6.4 and later, of the whole machine.
//!
//! The kernel tells where in the packet filter each one is, and not in which network namespace. Where it tells all
//! that is at its hooks, namespace by namespace, [`crate::netlink::hooks`] says more.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::nft::Point;

/// A program that IPv4 packets meet in some network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterProgram {
    pub at: Point,
    /// The number of its link, as `bpftool link` tells it.
    pub link: u32,
}

/// The first two parts of `union bpf_attr` for BPF_LINK_GET_NEXT_ID and BPF_LINK_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct Id {
    id: u32,
    next: u32,
    flags: u32,
}

/// BPF_OBJ_GET_INFO_BY_FD's.
#[repr(C)]
#[derive(Default)]
struct Ask {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info`, of a link in the packet filter.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    family: u32,
    hook: u32,
    priority: i32,
    flags: u32,
}

const _: () = assert!(offset_of!(Info, family) == 16 && size_of::<Info>() == 32 && size_of::<Ask>() == 16);

/// Links come and go while one looks, and no machine has more.
const LINKS_MAX: usize = 10_000;

/// All of them. None in a kernel that has no such programs.
pub fn all() -> io::Result<Vec<FilterProgram>> {
    const IPV4: u32 = 2;
    Ok(infos()?.into_iter().filter(|info| info.family == IPV4).filter_map(read).collect())
}

fn read(info: Info) -> Option<FilterProgram> {
    const POINTS: [Point; 5] =
        [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];
    Some(FilterProgram { at: *POINTS.get(info.hook as usize)?, link: info.id })
}

fn infos() -> io::Result<Vec<Info>> {
    const NETFILTER: u32 = 10;
    const GET_NEXT: libc::c_long = 31;
    const GET_FD: libc::c_long = 30;
    let (mut found, mut last) = (Vec::new(), 0);
    for _ in 0..LINKS_MAX {
        let mut next = Id { id: last, ..Id::default() };
        match bpf(GET_NEXT, &mut next) {
            Ok(_) => last = next.next,
            Err(error) => match error.raw_os_error() {
                // There is no further one, or no such question.
                Some(libc::ENOENT | libc::EINVAL | libc::ENOSYS) => break,
                _ => return Err(error),
            },
        }
        let fd = match bpf(GET_FD, &mut Id { id: last, ..Id::default() }) {
            // SAFETY: the command gave a new file descriptor, which nobody else has.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            // It has gone, or is just being made.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => continue,
            Err(error) => return Err(error),
        };
        let info = info(&fd)?;
        if info.kind == NETFILTER {
            found.push(info);
        }
    }
    Ok(found)
}

fn info(link: &OwnedFd) -> io::Result<Info> {
    const GET_INFO: libc::c_long = 15;
    let mut info = Info::default();
    let place = std::ptr::from_mut(&mut info) as u64;
    let mut ask = Ask { fd: link.as_raw_fd() as u32, length: size_of::<Info>() as u32, info: place };
    bpf(GET_INFO, &mut ask)?;
    Ok(info)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: each caller's attributes are laid out as the beginning of the command's part of the union and have
    // their own size; a place that they point to lives in the caller until the call returns, and is as long as it
    // is said to be.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_program_in_the_packet_filter_is_found_wherever_it_is() {
        // Of IPv6, so that nobody who looks at the same time has it in the way.
        const IPV6: u32 = 10;
        const PRIORITY: i32 = -31_337;
        let of_ours = || {
            let mut all = infos().unwrap();
            all.retain(|info| info.family == IPV6 && info.priority == PRIORITY);
            all.iter().map(|info| info.hook).collect::<Vec<_>>()
        };
        let link = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            testing::in_filter(IPV6, 3, PRIORITY)
        });
        // A kernel may have no such programs.
        let Some(link) = link.join().unwrap() else { return assert_eq!(of_ours(), []) };
        assert_eq!(of_ours(), [3]);
        drop(link);
    }

    #[test]
    fn hooks_have_their_names() {
        let at = |hook| read(Info { hook, id: 7, ..Info::default() }).map(|found| (found.at, found.link));
        assert_eq!(at(2), Some((Point::Forward, 7)));
        assert_eq!(at(4), Some((Point::Postrouting, 7)));
        assert_eq!(at(5), None);
    }
}
