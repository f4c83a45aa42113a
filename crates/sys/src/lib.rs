//! Safe Linux: namespaces, mounts, cgroups, capabilities, seccomp, terminals, netlink, nftables. The only
//! library crate with `unsafe`.
#![allow(unsafe_code, reason = "the kernel's interfaces are C's; everything public here is safe")]

pub mod attached;
pub mod caps;
pub mod cgroup;
pub mod descriptors;
pub mod devices;
pub mod fdpass;
pub mod memory;
pub mod modules;
pub mod mount;
pub mod namespaces;
pub mod netlink;
pub mod nft;
pub mod oom;
pub mod packets;
pub mod private;
pub mod process;
pub mod seccomp;
mod syscalls;
pub mod tree;
pub mod tty;
pub mod xtables;
