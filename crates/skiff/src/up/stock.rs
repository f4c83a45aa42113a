//! What the machine had before a cluster, a server or an agent was started.
//!
//! Read off the kernel as text, one fact a line, so that two stocks are compared line by line. What changes
//! by itself (counters, ages, kernel threads) is no fact.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skiff_runtime::facts;
use skiff_sys::netlink;
use skiff_sys::netlink::route::Connection;
use skiff_sys::nft::tables::{self, Table};

use super::cgroups;
use super::held::{self, Held};

/// How much of a digest is written down: nobody forges what it is there to tell.
const DIGEST_BYTES: usize = 8;

/// One kind of facts.
pub(crate) type Facts = BTreeSet<String>;

/// Who is in each namespace, by PID and start time.
pub(crate) type Members = BTreeMap<String, Facts>;

/// The machine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stock {
    pub(crate) links: Facts,
    pub(crate) addresses: Facts,
    pub(crate) routes: Facts,
    /// Routing policy.
    pub(crate) rules: Facts,
    /// Tables: family and name, and in short what is in them.
    pub(crate) nftables: Facts,
    pub(crate) mounts: Facts,
    pub(crate) cgroups: Facts,
    /// `net:[4026531840]`: all that a process is in, has open, or that is mounted.
    pub(crate) namespaces: Facts,
    /// Who has those open that nobody need be in; of this moment alone.
    #[serde(skip)]
    pub(crate) held: Held,
    /// PID, start time and command.
    pub(crate) processes: Facts,
    pub(crate) sysctls: Facts,
    pub(crate) files: Facts,
}

impl Stock {
    /// What is there now; `own` are directories to be looked at besides those that every machine has.
    pub(crate) fn take(own: &[PathBuf]) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut directories = Facts::new();
        for hierarchy in cgroups::hierarchies().unwrap_or_default() {
            descend(&hierarchy.mount_point, &mut directories);
        }
        let (processes, mut namespaces, held) = processes();
        namespaces.extend(held.keys().cloned());
        let mut sysctls = Facts::new();
        parameters(Path::new("/proc/sys/net"), &mut sysctls);
        let mut files = Facts::new();
        for (dir, depth) in [("/run", 1), ("/run/skiff", 3), ("/etc", 1), ("/var/lib/skiff", 2)] {
            list(Path::new(dir), depth, &mut files);
        }
        for dir in own.iter().filter(|dir| dir.is_dir()) {
            files.insert(format!("{}/", dir.display()));
            list(dir, 1, &mut files);
        }
        Self {
            links: links(),
            addresses: addresses(),
            routes: read("/proc/net/route")
                .lines()
                .skip(1)
                .map(route)
                .chain(read("/proc/net/ipv6_route").lines().filter_map(route_six))
                .collect(),
            // Linux knows IPv4 as 2 and IPv6 as 10.
            rules: [2, 10].into_iter().flat_map(|family| rules(family).unwrap_or_default()).collect(),
            nftables: tables::read().unwrap_or_default().iter().map(table).collect(),
            mounts: read("/proc/self/mountinfo").lines().filter_map(mount).collect(),
            cgroups: directories,
            namespaces,
            held,
            processes,
            sysctls,
            files,
        }
    }

    /// All kinds, by name.
    pub(crate) fn kinds(&self) -> [(&'static str, &Facts); 11] {
        [
            ("links", &self.links),
            ("addresses", &self.addresses),
            ("routes", &self.routes),
            ("rules", &self.rules),
            ("nftables", &self.nftables),
            ("mounts", &self.mounts),
            ("cgroups", &self.cgroups),
            ("namespaces", &self.namespaces),
            ("processes", &self.processes),
            ("sysctls", &self.sysctls),
            ("files", &self.files),
        ]
    }
}

/// By the kernel's own list: `/sys` may show another network than this process is in.
fn links() -> Facts {
    let Ok(kernel) = Connection::open() else { return Facts::new() };
    kernel.links().unwrap_or_default().into_iter().map(|link| link.name).collect()
}

fn addresses() -> Facts {
    let Ok(kernel) = Connection::open() else { return Facts::new() };
    let links = kernel.links().unwrap_or_default();
    let name = |index: u32| {
        links.iter().find(|link| link.index == index).map(|link| link.name.clone()).unwrap_or_default()
    };
    let four = kernel.addresses().unwrap_or_default();
    let four = four.iter().map(|own| format!("{} {}/{}", name(own.link), own.ip, own.prefix));
    let six = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let six = six.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(format!("{} {}/{}", fields.get(5)?, fields.first()?, fields.get(2)?))
    });
    four.chain(six.collect::<Vec<_>>()).collect()
}

/// Link, destination, gateway and mask; the counters beside them change by themselves.
fn route(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let part = |index: usize| fields.get(index).copied().unwrap_or_default();
    format!("{} {} {} {}", part(0), part(1), part(2), part(7))
}

/// The same of IPv6, where an address is 32 digits.
fn route_six(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some(format!("{} {}/{} {}", fields.get(9)?, fields.first()?, fields.get(1)?, fields.get(4)?))
}

/// The routing policy's rules of an address family (linux/fib_rules.h).
fn rules(family: u8) -> std::io::Result<Facts> {
    const GET_RULE: u16 = 34;
    const HEADER_BYTES: usize = 12;
    const PRIORITY: u16 = 6;
    const TABLE: u16 = 15;
    let mut header = [0; HEADER_BYTES];
    header[0] = family;
    let mut request = netlink::Writer::new();
    request.message(GET_RULE, netlink::DUMP, 1, &header).end();
    let mut found = Facts::new();
    netlink::Socket::open(netlink::Family::Route, 0)?.dump(request.as_bytes(), |message| {
        let attributes = message.body.get(HEADER_BYTES..).unwrap_or_default();
        let number = |kind| {
            let value = netlink::attribute(attributes, kind)?;
            Some(u32::from_ne_bytes(value.try_into().ok()?))
        };
        let (priority, table) = (number(PRIORITY).unwrap_or(0), number(TABLE).unwrap_or(0));
        let version = if family == 2 { 4 } else { 6 };
        found.insert(format!("IPv{version} priority {priority} table {table}"));
    })?;
    Ok(found)
}

/// What a table is called and holds; the digest differs whenever a rule was changed, put elsewhere or made anew.
fn table(table: &Table) -> String {
    let Table { family, name, chains, rules, sets, content } = table;
    let digest: String =
        Sha256::digest(content).iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("{family} {name}: {chains} chains, {rules} rules, {sets} sets, digest {digest}")
}

/// Mount point, type and source; IDs change with each boot.
fn mount(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    Some(format!("{} {} {}", left.split(' ').nth(4)?, right.next()?, right.next()?))
}

fn descend(dir: &Path, found: &mut Facts) {
    found.insert(dir.display().to_string());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), found);
        }
    }
}

/// All processes but this one and the kernel's own threads, the namespaces that they are in, and those that are
/// held besides.
fn processes() -> (Facts, Facts, Held) {
    let (mut found, mut namespaces) = (Facts::new(), Facts::new());
    let all = facts::processes().unwrap_or_default();
    let held = held::held(&all);
    for process in all {
        namespaces.extend(self::namespaces(&process));
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        if process.pid == std::process::id() || line.is_empty() {
            continue;
        }
        let command = facts::command(process.pid);
        found.insert(format!("{} {command}", started(process.pid)));
    }
    (found, namespaces, held)
}

/// When a process started, in the kernel's ticks since the boot: with the PID it names a process for good.
pub(crate) fn start_time(pid: u32) -> String {
    facts::stat(pid).map(|stat| stat.start_ticks.to_string()).unwrap_or_default()
}

/// PID and start time.
pub(crate) fn started(pid: u32) -> String {
    format!("{pid} {}", start_time(pid))
}

/// The names of the namespaces that a process is in, but those that it ended before it told.
pub(crate) fn namespaces(process: &facts::ProcessFact) -> impl Iterator<Item = String> {
    let numbers = process.namespaces.into_iter().zip(facts::NAMESPACES);
    numbers.filter(|(inode, _)| *inode != 0).map(|(inode, kind)| format!("{kind}:[{inode}]"))
}

/// Who of these processes is in which namespace.
pub(crate) fn members(processes: &[facts::ProcessFact]) -> Members {
    let mut members = Members::new();
    for process in processes {
        let started = started(process.pid);
        for name in namespaces(process) {
            members.entry(name).or_default().insert(started.clone());
        }
    }
    members
}

/// Parameters with their values, but those that count something.
fn parameters(dir: &Path, found: &mut Facts) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            parameters(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path)
            && !path.ends_with("nf_conntrack_count")
        {
            let name = path.strip_prefix("/proc/sys").unwrap_or(&path).display().to_string();
            found.insert(format!("{name} = {}", value.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
}

/// Names, and the sizes of files, so many levels deep. Locks of Skiff's commands come and go with them.
fn list(dir: &Path, depth: usize, found: &mut Facts) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        let ours = path.starts_with("/run/skiff");
        if path == Path::new("/run/skiff") || (ours && path.extension().is_some_and(|own| own == "lock")) {
            continue;
        }
        match metadata.is_dir() {
            true => {
                // What comes and goes with the first and the last link in it says no more than they do.
                if path != Path::new(super::kept::LINKS) {
                    found.insert(format!("{}/", path.display()));
                }
                if depth > 1 {
                    list(&path, depth - 1, found);
                }
            }
            false => drop(found.insert(format!("{} {}", path.display(), metadata.size()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_has_what_every_machine_has() {
        let own = std::env::temp_dir().join(format!("skiff-stock-{}", std::process::id()));
        fs::create_dir_all(own.join("below")).expect("a directory");
        let stock = Stock::take(std::slice::from_ref(&own));
        fs::remove_dir_all(&own).expect("it is there");
        assert!(stock.files.contains(&format!("{}/below/", own.display())), "{:?}", stock.files);
        assert!(stock.rules.contains("IPv4 priority 32766 table 254"), "{:?}", stock.rules);
        assert!(stock.links.contains("lo"));
        assert!(stock.mounts.iter().any(|mount| mount.starts_with("/proc proc")));
        assert!(stock.sysctls.iter().any(|own| own.starts_with("net/ipv4/ip_forward = ")));
        assert!(stock.namespaces.iter().any(|own| own.starts_with("net:[")));
        assert_eq!(mount("30 20 0:26 / /sys rw shared:7 - sysfs sysfs rw"), Some("/sys sysfs sysfs".into()));
        let six = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
                   00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0";
        let zero = "0".repeat(32);
        assert_eq!(route_six(six), Some(format!("eth0 fe800000000000000000000000000000/40 {zero}")));
        assert_eq!(route("eth0\t0\t1\t3\t0\t7\t0\tFF"), "eth0 0 1 FF");
    }

    #[test]
    fn a_table_is_told_by_what_it_holds() {
        let of = |content: &[u8]| {
            let (family, name) = ("ip6".to_owned(), "filter".to_owned());
            super::table(&Table { family, name, chains: 2, rules: 7, sets: 1, content: content.to_vec() })
        };
        assert_eq!(of(b"abc"), "ip6 filter: 2 chains, 7 rules, 1 sets, digest ba7816bf8f01cfea");
        assert_ne!(of(b"abd"), of(b"abc"));
    }
}
