//! Capabilities: their names, and reducing this thread's sets to what a container may have.

use std::io;

use crate::process::{check, prctl};

/// A set of capabilities, one bit each, as `/proc/PID/status` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps(pub u64);

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Caps {
    pub const NONE: Caps = Caps(0);
    /// What containerd gives a container that asks for nothing.
    pub const DEFAULT: Caps = Caps(
        1 | 1 << 1
            | 1 << 3
            | 1 << 4
            | 1 << 5
            | 1 << 6
            | 1 << 7
            | 1 << 8
            | 1 << 10
            | 1 << 13
            | 1 << 18
            | 1 << 27
            | 1 << 29
            | 1 << 31,
    );

    /// `NET_ADMIN`, `CAP_NET_ADMIN` or `cap_net_admin`.
    pub fn named(name: &str) -> Option<Caps> {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        NAMES.iter().position(|known| *known == name).map(|bit| Caps(1 << bit))
    }

    pub fn with(self, other: Caps) -> Caps {
        Caps(self.0 | other.0)
    }

    pub fn without(self, other: Caps) -> Caps {
        Caps(self.0 & !other.0)
    }

    pub fn contains(self, other: Caps) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of its members, without `CAP_`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(bit, _)| self.0 & 1 << bit != 0).map(|(_, name)| *name)
    }
}

/// The capabilities this thread could pass on to a program: its bounding set.
pub fn bounding() -> io::Result<Caps> {
    let mut set = 0;
    for bit in 0..64 {
        // SAFETY: asks about one number; EINVAL beyond the kernel's last.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, bit as libc::c_ulong, 0, 0, 0) } {
            1 => set |= 1 << bit,
            0 => {}
            _ => break,
        }
    }
    Ok(Caps(set))
}

/// The capabilities this thread holds (its permitted set).
pub fn permitted() -> io::Result<Caps> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 fills two data records.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(Caps(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32))
}

/// Takes everything outside `keep` from the bounding set, for good.
pub fn limit_bounding(keep: Caps) -> io::Result<()> {
    let now = bounding()?;
    for bit in 0..64 {
        if now.0 & 1 << bit != 0 && keep.0 & 1 << bit == 0 {
            prctl(libc::PR_CAPBSET_DROP, bit)?;
        }
    }
    Ok(())
}

/// Sets this thread's effective and permitted capabilities, and leaves the inheritable and ambient sets
/// empty (inheritable ones would revive through a file's inheritable capabilities, CVE-2022-24769).
pub fn set(effective: Caps, permitted: Caps) -> io::Result<()> {
    // SAFETY: integers only.
    let cleared = unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0)
    };
    check(cleared.into())?;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift| Data {
        effective: (effective.0 >> shift) as u32,
        permitted: (permitted.0 >> shift) as u32,
        inheritable: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data records.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_default_set_as_the_kernel_prints_it() {
        assert_eq!(format!("{:016x}", Caps::DEFAULT.0), "00000000a80425fb");
    }

    #[test]
    fn names_with_and_without_prefix() {
        assert_eq!(Caps::named("cap_net_admin"), Some(Caps(1 << 12)));
        assert_eq!(Caps::named("CHECKPOINT_RESTORE"), Some(Caps(1 << 40)));
        assert_eq!(Caps::named("NET"), None);
        assert_eq!(Caps(1 << 12 | 1).names().collect::<Vec<_>>(), ["CHOWN", "NET_ADMIN"]);
    }

    #[test]
    fn the_bounding_set_holds_the_permitted_one() {
        assert!(bounding().unwrap().contains(permitted().unwrap()));
    }
}
