//! What of a cluster is on the machine, found without the help of the program under test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use skiff_tests::run;

/// Every trace of a cluster outside its data directory, one a line.
pub(crate) fn traces(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, text: &str| {
        let named = text.lines().filter(|line| line.contains(name));
        found.extend(named.map(|line| format!("{kind}: {line}")));
    };
    let shown = |program: &str, args: &[&str]| run(Command::new(program).args(args)).ok();
    add("link", &shown("ip", &["-o", "link", "show"]));
    add("route", &shown("ip", &["route", "show", "table", "all"]));
    add("table", &shown("nft", &["list", "tables"]));
    add("mount", &fs::read_to_string("/proc/self/mountinfo").expect("mounts"));
    let mut cgroups = Vec::new();
    directories(Path::new("/sys/fs/cgroup"), &mut cgroups);
    add("cgroup", &cgroups.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n"));
    let records = fs::read_dir("/run/skiff").into_iter().flatten().flatten();
    let records = records.map(|entry| entry.path().display().to_string());
    add("record", &records.collect::<Vec<_>>().join("\n"));
    // By its control group, and not by its command line: this test's own has the name too.
    for pid in pids() {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if groups.contains(&format!("skiff-{name}")) {
            add("process", &format!("{pid} of {name}"));
        }
    }
    found
}

/// The processes in a cluster's control groups.
pub(crate) fn members(name: &str) -> Vec<u64> {
    let inside = |pid: &u64| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.contains(&format!("/skiff-{name}"))
    };
    pids().into_iter().filter(inside).collect()
}

fn pids() -> Vec<u64> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

fn directories(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            directories(&entry.path(), found);
        }
    }
}
