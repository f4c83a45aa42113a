//! Programs that let everything pass, for tests to find.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// BPF_PROG_LOAD's part of `union bpf_attr`, as much as is needed.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    expected: u32,
}

/// BPF_LINK_CREATE's.
#[repr(C)]
#[derive(Default)]
struct Attach {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
    more: [u32; 8],
}

/// At the device with this index, on this side. It goes when it is dropped; `None` in a kernel without.
pub(crate) fn at_device(link: u32, side: u32) -> Option<OwnedFd> {
    const CLASSIFIER: u32 = 3;
    attach(CLASSIFIER, 0, Attach { target: link, kind: side, ..Attach::default() })
}

pub(crate) fn at_cgroup(dir: &File, side: u32) -> Option<OwnedFd> {
    const CGROUP_SKB: u32 = 8;
    attach(CGROUP_SKB, side, Attach { target: dir.as_raw_fd() as u32, kind: side, ..Attach::default() })
}

/// In the packet filter of the calling thread's network namespace.
pub(crate) fn in_filter(family: u32, hook: u32, priority: i32) -> Option<OwnedFd> {
    const NETFILTER: u32 = 32;
    const AT: u32 = 45;
    let more = [family, hook, priority as u32, 0, 0, 0, 0, 0];
    attach(NETFILTER, AT, Attach { kind: AT, more, ..Attach::default() })
}

fn attach(kind: u32, expected: u32, mut how: Attach) -> Option<OwnedFd> {
    // r0 = 1; exit: it passes.
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let mut load = Load {
        kind,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected,
        ..Load::default()
    };
    let program = bpf(5, &mut load)?;
    how.program = program.as_raw_fd() as u32;
    bpf(28, &mut how)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> Option<OwnedFd> {
    // SAFETY: the attributes are laid out as the command's, with their own size, and what they point to lives on.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    // SAFETY: both commands give a new file descriptor, which nobody else has.
    (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result as i32) })
}
