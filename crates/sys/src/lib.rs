//! Safe Linux: namespaces, mounts, cgroups, netlink, nftables. The only crate with `unsafe`.
#![allow(unsafe_code)]

pub mod caps;
pub mod cgroup;
pub mod devices;
pub mod fdpass;
pub mod mount;
pub mod namespaces;
pub mod netlink;
pub mod nft;
pub mod process;
pub mod seccomp;
mod syscalls;
pub mod tty;
