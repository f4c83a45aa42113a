//! The packet filter before nftables (`iptables-legacy`), of the calling thread's network namespace: which tables
//! there are, where packets meet them, and whether they do anything.
//!
//! Their rules are not read: they are programs of modules, each with a format of its own. But a table that only
//! lets everything pass, as each does from when somebody looks at it first, is told from one that has rules.
//! Layouts are those of linux/netfilter_ipv4/ip_tables.h and linux/netfilter/x_tables.h.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::nft::Point;

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, …
    pub name: String,
    /// Where packets come by.
    pub points: Vec<Point>,
    /// It has no rule, and all its policies accept.
    pub idle: bool,
}

const POINTS: [Point; 5] =
    [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];

/// The tables that IPv4 packets meet. Of one that can't be looked into it is said that it may do anything.
pub fn ipv4() -> Vec<Table> {
    names("ip_tables_names").into_iter().map(|name| of(&name).unwrap_or_else(|_| unknown(name))).collect()
}

/// Those that questions for neighbours meet (`arptables-legacy`), by name.
pub fn neighbours() -> Vec<String> {
    names("arp_tables_names")
}

/// Those of `ebtables-legacy` that frames on bridges may meet, by name: whose modules are there, built in or loaded.
/// Which network namespaces have them is not known this way.
pub fn bridges() -> Vec<String> {
    let loaded = fs::read_to_string("/proc/modules").unwrap_or_default();
    let builtin = nix::sys::utsname::uname().ok().and_then(|name| {
        fs::read_to_string(format!("/lib/modules/{}/modules.builtin", name.release().to_str()?)).ok()
    });
    bridge_tables(&loaded, &builtin.unwrap_or_default())
}

fn bridge_tables(loaded: &str, builtin: &str) -> Vec<String> {
    let first = |line: &str| line.split([' ', '.']).next().unwrap_or_default().to_owned();
    let file = |line: &str| first(line.rsplit('/').next().unwrap_or_default());
    let all = loaded.lines().map(first).chain(builtin.lines().map(file));
    let mut tables: Vec<String> =
        all.filter_map(|module| module.strip_prefix("ebtable_").map(str::to_owned)).collect();
    tables.sort();
    tables.dedup();
    tables
}

/// The thread's own namespace, whichever the process is in. Without the file there are no such tables.
fn names(file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn unknown(name: String) -> Table {
    Table { name, points: POINTS.to_vec(), idle: false }
}

const NAME: usize = 32;
/// `struct ipt_getinfo`: name, hooks, the offset of each one's first entry and of its policy, entries, their bytes.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// `struct ipt_get_entries` before its entries.
const ENTRIES: usize = 40;
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// More than any sane table has.
const BYTES_MAX: usize = 16 << 20;

fn of(name: &str) -> io::Result<Table> {
    let mut info = vec![0u8; INFO];
    info[..name.len().min(NAME - 1)].copy_from_slice(&name.as_bytes()[..name.len().min(NAME - 1)]);
    ask(GET_INFO, &mut info)?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let hooks: Vec<usize> = (0..5).filter(|hook| word(NAME) >> hook & 1 == 1).collect();
    let policies: Vec<usize> = hooks.iter().map(|hook| word(NAME + 24 + 4 * hook) as usize).collect();
    let (count, bytes) = (word(INFO - 8) as usize, word(INFO - 4) as usize);
    let points = hooks.iter().map(|hook| POINTS[*hook]).collect();
    // Each policy is an entry, and the last entry is none.
    let mut idle = count == hooks.len() + 1 && bytes <= BYTES_MAX;
    if idle {
        let mut entries = vec![0u8; ENTRIES + bytes];
        entries[..NAME].copy_from_slice(&info[..NAME]);
        entries[NAME..NAME + 4].copy_from_slice(&info[INFO - 4..]);
        ask(GET_ENTRIES, &mut entries)?;
        idle = policies.iter().all(|policy| accepts(&entries[ENTRIES..], *policy));
    }
    Ok(Table { name: name.to_owned(), points, idle })
}

/// Whether the entry at this offset is a plain `ACCEPT`.
fn accepts(entries: &[u8], at: usize) -> bool {
    /// Where `struct ipt_entry` has the offset of its target; the target's header; NF_ACCEPT as a verdict.
    const TARGET: usize = 88;
    const HEADER: usize = 32;
    const ACCEPT: i32 = -2;
    let found = || {
        let entry = entries.get(at..)?;
        let target = u16::from_ne_bytes(entry.get(TARGET..TARGET + 2)?.try_into().ok()?) as usize;
        let target = entry.get(target..)?;
        // The standard target, which is a verdict, has no name.
        let verdict = i32::from_ne_bytes(target.get(HEADER..HEADER + 4)?.try_into().ok()?);
        Some(*target.get(2)? == 0 && verdict == ACCEPT)
    };
    found().unwrap_or(false)
}

/// One question, whose answer takes its place.
fn ask(option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .or_else(|_| socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))?;
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the buffer is writable for `length` bytes, which is its own length, and both live until the call
    // returns; the kernel writes no further than that.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_table_that_lets_everything_pass_is_told_from_others() {
        let told = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let before = ipv4();
            // Whoever asks for a table that the kernel knows makes it.
            (before, of("filter"), ipv4())
        });
        let (before, made, after) = told.join().unwrap();
        assert_eq!(before, [], "nobody has asked for one");
        let Ok(made) = made else {
            // A kernel without them has none that could be in the way.
            return assert_eq!(after, []);
        };
        assert_eq!(after, std::slice::from_ref(&made));
        assert_eq!(made.points, [Point::Input, Point::Forward, Point::Output]);
        assert!(made.idle && made.name == "filter", "{made:?}");
    }

    #[test]
    fn tables_of_bridges_are_modules() {
        let loaded = "ebtable_nat 16384 0 - Live 0x0\nebtables 45056 1 ebtable_nat, Live 0x0\nbridge 1 0\n";
        let builtin = "kernel/net/bridge/netfilter/ebtable_filter.ko\nkernel/net/bridge/bridge.ko\n";
        assert_eq!(bridge_tables(loaded, builtin), ["filter", "nat"]);
        assert_eq!(bridge_tables("", ""), [""; 0]);
    }

    #[test]
    fn a_policy_is_read_off_its_entry() {
        let entry = |name: u8, verdict: i32| {
            let mut bytes = vec![0u8; 152];
            bytes[88..90].copy_from_slice(&112u16.to_ne_bytes());
            bytes[114] = name;
            bytes[144..148].copy_from_slice(&verdict.to_ne_bytes());
            bytes
        };
        assert!(accepts(&entry(0, -2), 0));
        assert!(!accepts(&entry(0, -1), 0), "it drops");
        assert!(!accepts(&entry(b'E', -2), 0), "another target");
        assert!(accepts(&[vec![0; 8], entry(0, -2)].concat(), 8) && !accepts(&entry(0, -2), 8));
        assert!(!accepts(&[], 0) && !accepts(&[0; 89], 0));
    }
}
