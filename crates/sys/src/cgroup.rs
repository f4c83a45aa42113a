//! Control groups of either version behind one [`Group`]: limits, membership, killing, counting.
//!
//! A node has pure version 2 (`cgroup2` is mounted at the top), or version 1 with one directory for each
//! controller. What a group is called is the same path in every hierarchy.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use crate::devices::{self, Allow};

/// The version 1 controllers that matter here; one that the node lacks is passed over.
const V1_CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];
/// The version 2 controllers that matter here.
const V2_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The control groups that are mounted somewhere.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    mount: PathBuf,
    /// Controller and directory; empty with version 2.
    v1: Vec<(&'static str, PathBuf)>,
}

/// One control group, existing or not.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
    hierarchy: Hierarchy,
}

/// Zero means: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// 2 to 262144, as version 1 counts.
    pub cpu_shares: u64,
    pub cpu_quota_us: i64,
    pub cpu_period_us: u64,
    pub memory_bytes: u64,
    pub pids_max: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// Memory without file pages that nobody has used for a while.
    pub working_set_bytes: u64,
    /// Memory that belongs to no file.
    pub anonymous_bytes: u64,
    pub page_faults: u64,
    /// Those that waited for a disk.
    pub major_page_faults: u64,
    pub pids: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no control groups are mounted at {0}")]
    NotMounted(PathBuf),
    #[error("cannot write {value:?} to {file}")]
    Write { file: PathBuf, value: String, source: io::Error },
    #[error("cannot read {file}")]
    Read { file: PathBuf, source: io::Error },
    #[error("cannot create the control group {dir}")]
    Create { dir: PathBuf, source: io::Error },
    #[error("cannot remove the control group {dir}")]
    Remove { dir: PathBuf, source: io::Error },
    #[error("cannot restrict the devices of {dir}")]
    Devices { dir: PathBuf, source: io::Error },
}

impl Usage {
    /// Adds what `memory.stat` tells. Version 1 counts a group's own under the bare names, and all below it
    /// under `total_…`.
    fn with_memory(self, v2: bool, stat: &str) -> Self {
        let names = match v2 {
            true => ["inactive_file", "anon", "pgfault", "pgmajfault"],
            false => ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"],
        };
        let [inactive, anonymous_bytes, page_faults, major_page_faults] =
            names.map(|name| field(stat, name).unwrap_or(0));
        let working_set_bytes = self.memory_bytes.saturating_sub(inactive);
        Self { working_set_bytes, anonymous_bytes, page_faults, major_page_faults, ..self }
    }
}

impl Hierarchy {
    /// `mount` is `/sys/fs/cgroup`, or wherever else a node has them.
    pub fn open(mount: &Path) -> Result<Hierarchy, Error> {
        let absent = || Error::NotMounted(mount.to_owned());
        let kind = statfs(mount).map_err(|_| absent())?.filesystem_type();
        let mut v1 = Vec::new();
        if kind != CGROUP2_SUPER_MAGIC {
            let mut seen = BTreeSet::new();
            for controller in V1_CONTROLLERS {
                let Some(dir) = v1_dir(mount, controller) else { continue };
                if dir.join("cgroup.procs").exists() && seen.insert(dir.clone()) {
                    v1.push((controller, dir));
                }
            }
            if v1.is_empty() {
                return Err(absent());
            }
        }
        Ok(Hierarchy { mount: mount.to_owned(), v1 })
    }

    pub fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// The group of that path under the top; it need not exist.
    pub fn group(&self, path: impl AsRef<Path>) -> Group {
        let path = path.as_ref();
        Group { path: path.strip_prefix("/").unwrap_or(path).to_owned(), hierarchy: self.clone() }
    }
}

impl Group {
    pub fn child(&self, name: impl AsRef<Path>) -> Group {
        Group { path: self.path.join(name), hierarchy: self.hierarchy.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn exists(&self) -> bool {
        self.dirs().any(|(_, dir)| dir.exists())
    }

    /// Makes it with all groups above it. With version 2 those hand every controller down.
    pub fn create(&self) -> Result<(), Error> {
        if self.hierarchy.is_v2() {
            let mut dir = self.hierarchy.mount.clone();
            for part in &self.path {
                delegate(&dir)?;
                dir.push(part);
                create_dir(&dir)?;
            }
            return Ok(());
        }
        for (_, dir) in self.dirs() {
            fs::create_dir_all(&dir).map_err(|source| Error::Create { dir, source })?;
        }
        Ok(())
    }

    pub fn limit(&self, limits: &Limits) -> Result<(), Error> {
        for (controller, file, value, needed) in settings(self.hierarchy.is_v2(), limits) {
            let Some(dir) = self.dir_of(controller) else { continue };
            let file = dir.join(file);
            match fs::write(&file, &value) {
                Err(error) if !needed && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if !needed && error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
                answer => answer.map_err(|source| Error::Write { file, value, source })?,
            }
        }
        Ok(())
    }

    /// Leaves its processes those devices only.
    pub fn restrict_devices(&self, allow: &[Allow]) -> Result<(), Error> {
        if self.hierarchy.is_v2() {
            let dir = self.hierarchy.mount.join(&self.path);
            let restricted = File::open(&dir).and_then(|file| devices::restrict(file.as_fd(), allow));
            return restricted.map_err(|source| Error::Devices { dir, source });
        }
        let Some(dir) = self.dir_of("devices") else { return Ok(()) };
        let set = |name: &str, value: String| {
            let file = dir.join(name);
            fs::write(&file, &value).map_err(|source| Error::Write { file, value, source })
        };
        set("devices.deny", "a".to_owned())?;
        allow.iter().try_for_each(|rule| set("devices.allow", rule.to_string()))
    }

    /// The files that a process writes `0` to in order to join.
    pub fn join_files(&self) -> Vec<PathBuf> {
        self.dirs().map(|(_, dir)| dir.join("cgroup.procs")).collect()
    }

    /// Its own processes, not those of groups below.
    pub fn processes(&self) -> Vec<u32> {
        let Some((_, dir)) = self.dirs().next() else { return Vec::new() };
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
    }

    /// SIGKILL to everything in it and below it, also to what forks meanwhile.
    pub fn kill(&self) {
        if self.hierarchy.is_v2()
            && fs::write(self.hierarchy.mount.join(&self.path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for group in self.subtree() {
            let state = group.dir_of("freezer").map(|dir| dir.join("freezer.state"));
            let freeze = |value| state.as_ref().map(|file| fs::write(file, value));
            freeze("FROZEN");
            for pid in group.processes() {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
            freeze("THAWED");
        }
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.hierarchy.is_v2() { "memory.events" } else { "memory.oom_control" };
        let Some(dir) = self.dir_of("memory") else { return 0 };
        field(&fs::read_to_string(dir.join(file)).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    pub fn usage(&self) -> Result<Usage, Error> {
        let text = |controller: &str, name: &str| -> Result<String, Error> {
            let Some(dir) = self.dir_of(controller) else { return Ok(String::new()) };
            let file = dir.join(name);
            match fs::read_to_string(&file) {
                // A controller this node doesn't have.
                Err(source) if source.kind() == io::ErrorKind::NotFound && dir.exists() => Ok(String::new()),
                answer => answer.map_err(|source| Error::Read { file, source }),
            }
        };
        let number = |text: String| text.trim().parse().unwrap_or(0);
        let v2 = self.hierarchy.is_v2();
        let (cpu_ns, memory_bytes) = if v2 {
            let cpu = field(&text("cpu", "cpu.stat")?, "usage_usec").unwrap_or(0) * 1000;
            (cpu, number(text("memory", "memory.current")?))
        } else {
            (number(text("cpuacct", "cpuacct.usage")?), number(text("memory", "memory.usage_in_bytes")?))
        };
        let usage =
            Usage { cpu_ns, memory_bytes, pids: number(text("pids", "pids.current")?), ..Usage::default() };
        Ok(usage.with_memory(v2, &text("memory", "memory.stat")?))
    }

    /// Removes it and the groups below it; succeeds where it is gone. What runs in it must have been killed;
    /// this waits for it to have died.
    pub fn remove(&self) -> Result<(), Error> {
        for (_, dir) in self.dirs() {
            let until = Instant::now() + REMOVE_TIMEOUT;
            for dir in subdirectories(&dir).into_iter().rev() {
                loop {
                    match fs::remove_dir(&dir) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                        // The kernel tells nobody when a version 1 group has become empty.
                        Err(error)
                            if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < until =>
                        {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        Err(source) => return Err(Error::Remove { dir, source }),
                        Ok(()) => break,
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes it if nothing is in or below it.
    pub fn remove_if_empty(&self) {
        for (_, dir) in self.dirs() {
            let _ = fs::remove_dir(dir);
        }
    }

    fn subtree(&self) -> Vec<Group> {
        let Some((_, top)) = self.dirs().next() else { return Vec::new() };
        let below = |dir: &PathBuf| self.child(dir.strip_prefix(&top).unwrap_or(Path::new("")));
        subdirectories(&top).iter().map(below).collect()
    }

    fn dirs(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let v2 = self.hierarchy.is_v2().then(|| ("", self.hierarchy.mount.join(&self.path)));
        v2.into_iter().chain(self.hierarchy.v1.iter().map(|(name, dir)| (*name, dir.join(&self.path))))
    }

    fn dir_of(&self, controller: &str) -> Option<PathBuf> {
        if self.hierarchy.is_v2() {
            return Some(self.hierarchy.mount.join(&self.path));
        }
        // Controllers mounted together share one directory, listed under the first.
        let own = self.hierarchy.v1.iter().find(|(name, _)| *name == controller);
        let (_, dir) = own.or_else(|| {
            let dir = v1_dir(&self.hierarchy.mount, controller)?;
            self.hierarchy.v1.iter().find(|(_, known)| *known == dir)
        })?;
        Some(dir.join(&self.path))
    }
}

/// Where a controller is mounted: under its name, a link of that name, or a name such as `cpu,cpuacct`.
fn v1_dir(mount: &Path, controller: &str) -> Option<PathBuf> {
    if let Ok(dir) = fs::canonicalize(mount.join(controller)) {
        return Some(dir);
    }
    let mut entries = fs::read_dir(mount).ok()?.flatten();
    let listed = |name: &str| name.contains(',') && name.split(',').any(|known| known == controller);
    entries.find(|entry| entry.file_name().to_str().is_some_and(listed)).map(|entry| entry.path())
}

/// Controller, file, value, and whether the kernel must take it.
fn settings(v2: bool, limits: &Limits) -> Vec<(&'static str, &'static str, String, bool)> {
    let mut settings = Vec::new();
    let period = if limits.cpu_period_us == 0 { 100_000 } else { limits.cpu_period_us };
    if limits.cpu_shares != 0 {
        let shares = limits.cpu_shares.clamp(2, 262_144);
        // The mapping of both ranges' ends that all runtimes use.
        let weight = 1 + (shares - 2) * 9999 / 262_142;
        settings.push(match v2 {
            true => ("cpu", "cpu.weight", weight.to_string(), true),
            false => ("cpu", "cpu.shares", shares.to_string(), true),
        });
    }
    if limits.cpu_quota_us > 0 {
        if v2 {
            settings.push(("cpu", "cpu.max", format!("{} {period}", limits.cpu_quota_us), true));
        } else {
            settings.push(("cpu", "cpu.cfs_period_us", period.to_string(), true));
            settings.push(("cpu", "cpu.cfs_quota_us", limits.cpu_quota_us.to_string(), true));
        }
    }
    if limits.memory_bytes != 0 {
        let bytes = limits.memory_bytes.to_string();
        if v2 {
            settings.push(("memory", "memory.max", bytes, true));
            settings.push(("memory", "memory.swap.max", "0".to_owned(), false));
            settings.push(("memory", "memory.oom.group", "1".to_owned(), false));
        } else {
            settings.push(("memory", "memory.limit_in_bytes", bytes.clone(), true));
            settings.push(("memory", "memory.memsw.limit_in_bytes", bytes, false));
        }
    }
    if limits.pids_max != 0 {
        settings.push(("pids", "pids.max", limits.pids_max.to_string(), true));
    }
    settings
}

/// Hands the controllers that this group has down to those below it.
fn delegate(dir: &Path) -> Result<(), Error> {
    let read = |name: &str| {
        let file = dir.join(name);
        fs::read_to_string(&file).map_err(|source| Error::Read { file, source })
    };
    let (given, handed) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let listed = |list: &str, name: &str| list.split_whitespace().any(|known| known == name);
    let missing = V2_CONTROLLERS.iter().filter(|name| listed(&given, name) && !listed(&handed, name));
    let value: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    if value.is_empty() {
        return Ok(());
    }
    let (file, value) = (dir.join("cgroup.subtree_control"), value.join(" "));
    match fs::write(&file, &value) {
        // A namespace's top group, in which processes live: they move to a leaf of their own, as a group
        // has either processes or controllers handed down (cgroup-v2.rst, "No Internal Process").
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
            let leaf = dir.join("init");
            create_dir(&leaf)?;
            let procs = dir.join("cgroup.procs");
            for pid in read("cgroup.procs")?.lines() {
                match fs::write(leaf.join("cgroup.procs"), pid) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                    answer => {
                        answer.map_err(|source| Error::Write {
                            file: procs.clone(),
                            value: pid.to_owned(),
                            source,
                        })?;
                    }
                }
            }
            fs::write(&file, &value).map_err(|source| Error::Write { file, value, source })
        }
        answer => answer.map_err(|source| Error::Write { file, value, source }),
    }
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        answer => answer.map_err(|source| Error::Create { dir: dir.to_owned(), source }),
    }
}

/// The directory and all below it, each before its own subdirectories.
fn subdirectories(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    let mut at = 0;
    while at < all.len() {
        let entries = fs::read_dir(&all[at]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        all.extend(below);
        at += 1;
    }
    all
}

/// The number after `name` in lines of a name and a number.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(v2: bool, limits: &Limits) -> Vec<String> {
        settings(v2, limits).iter().map(|(_, file, value, _)| format!("{file}={value}")).collect()
    }

    #[test]
    fn memory_is_told_of_by_each_version_under_its_names() {
        let own = Usage { memory_bytes: 1_000, cpu_ns: 7, pids: 2, ..Usage::default() };
        let expected = Usage {
            working_set_bytes: 900,
            anonymous_bytes: 300,
            page_faults: 40,
            major_page_faults: 5,
            ..own
        };
        let v2 = "anon 300\nfile 500\ninactive_anon 1\ninactive_file 100\npgfault 40\npgmajfault 5\n";
        assert_eq!(own.with_memory(true, v2), expected);
        let v1 = "rss 1\ninactive_file 2\npgfault 3\npgmajfault 4\ntotal_rss 300\ntotal_pgfault 40\n\
                  total_pgmajfault 5\ntotal_inactive_file 100\n";
        assert_eq!(own.with_memory(false, v1), expected);
        let none = Usage { working_set_bytes: 1_000, ..own };
        assert_eq!(own.with_memory(true, ""), none);
    }

    #[test]
    fn limits_as_each_version_writes_them() {
        let limits = Limits {
            cpu_shares: 1024,
            cpu_quota_us: 50_000,
            cpu_period_us: 0,
            memory_bytes: 1 << 20,
            pids_max: 7,
        };
        assert_eq!(
            plan(true, &limits),
            [
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "memory.max=1048576",
                "memory.swap.max=0",
                "memory.oom.group=1",
                "pids.max=7"
            ]
        );
        assert_eq!(
            plan(false, &limits),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=1048576",
                "pids.max=7"
            ]
        );
        assert!(plan(true, &Limits::default()).is_empty());
        assert_eq!(plan(true, &Limits { cpu_shares: 1, ..Limits::default() }), ["cpu.weight=1"]);
        assert_eq!(plan(true, &Limits { cpu_shares: 1 << 30, ..Limits::default() }), ["cpu.weight=10000"]);
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }
}
