//! What the machine had before a cluster was started.
//!
//! Read off the kernel as text, one fact a line, so that two stocks are compared line by line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cgroups;

/// The machine's links, routes, rules, mounts and cgroups at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stock {
    pub(crate) links: BTreeSet<String>,
    pub(crate) routes: BTreeSet<String>,
    /// nftables tables.
    pub(crate) rules: BTreeSet<String>,
    pub(crate) mounts: BTreeSet<String>,
    pub(crate) cgroups: BTreeSet<String>,
}

impl Stock {
    /// What is there now.
    pub(crate) fn take() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut directories = BTreeSet::new();
        for hierarchy in cgroups::hierarchies().unwrap_or_default() {
            descend(&hierarchy.mount_point, &mut directories);
        }
        Self {
            links: names(Path::new("/sys/class/net")),
            routes: read("/proc/net/route").lines().skip(1).map(route).collect(),
            rules: super::topology::nftables().unwrap_or_default().into_iter().collect(),
            mounts: read("/proc/self/mountinfo").lines().filter_map(mount).collect(),
            cgroups: directories,
        }
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Link, destination, gateway and mask; the counters beside them change by themselves.
fn route(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let part = |index: usize| fields.get(index).copied().unwrap_or_default();
    format!("{} {} {} {}", part(0), part(1), part(2), part(7))
}

/// Mount point, type and source; IDs change with each boot.
fn mount(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    Some(format!("{} {} {}", left.split(' ').nth(4)?, right.next()?, right.next()?))
}

fn descend(dir: &Path, found: &mut BTreeSet<String>) {
    found.insert(dir.display().to_string());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stocks_of_an_unchanged_machine_are_equal() {
        let stock = Stock::take();
        assert!(stock.links.contains("lo"));
        assert!(stock.mounts.iter().any(|mount| mount.starts_with("/proc proc")));
        assert_eq!(mount("30 20 0:26 / /sys rw shared:7 - sysfs sysfs rw"), Some("/sys sysfs sysfs".into()));
        assert_eq!(route("eth0\t0\t1\t3\t0\t7\t0\tFF"), "eth0 0 1 FF");
    }
}
