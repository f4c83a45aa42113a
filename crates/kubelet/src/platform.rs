//! The platform's own processes and what they log: read from `/proc` and from plain files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use skiff_runtime::facts;

/// One of the platform's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub role: &'static str,
    /// As the reader's PID namespace numbers it.
    pub pid: i32,
    pub since_seconds: u64,
    /// Proportional set size: shared pages are divided among those that share them.
    pub memory_bytes: u64,
    pub health: &'static str,
}

/// Device and inode of the file that a process runs.
pub type Executable = (u64, u64);

/// Those of `pids` that are the platform's, by what stands first in their command lines; a pod's process
/// that bears such a name runs another file than `own`.
pub fn processes(pids: impl IntoIterator<Item = i32>, own: Option<Executable>) -> Vec<Process> {
    let now = facts::ticks_now();
    let read = |pid: i32| {
        let role = role(pid).filter(|_| executable(pid) == own)?;
        // One that ended meanwhile has none.
        let stat = facts::stat(u32::try_from(pid).ok()?)?;
        let process = Process {
            role,
            pid,
            since_seconds: now.saturating_sub(stat.start_ticks) / facts::TICKS_PER_SECOND,
            memory_bytes: pss_bytes(pid),
            health: match stat.state {
                'Z' | 'X' => "dead",
                'T' | 't' => "stopped",
                _ => "ok",
            },
        };
        Some((process, stat.parent))
    };
    let mut found = without_forks(pids.into_iter().filter_map(read).collect());
    let order = ["init", "server", "agent", "shim"];
    found.sort_by_key(|process| (order.iter().position(|role| *role == process.role), process.pid));
    found
}

/// Without those that one of the others is in the course of starting: between fork(2) and execve(2) a child
/// bears its parent's name and runs its file.
fn without_forks(found: Vec<(Process, u32)>) -> Vec<Process> {
    let named: BTreeSet<(i32, &str)> = found.iter().map(|(process, _)| (process.pid, process.role)).collect();
    let is_fork = |process: &Process, parent: u32| {
        i32::try_from(parent).is_ok_and(|parent| named.contains(&(parent, process.role)))
    };
    found
        .into_iter()
        .filter(|(process, parent)| !is_fork(process, *parent))
        .map(|(process, _)| process)
        .collect()
}

/// The platform's processes of the node that the caller is the agent of: those of its PID namespace.
pub(crate) fn of_this_node() -> Vec<Process> {
    let namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|found| found.ino());
    let own = namespace("self");
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let pid = name.to_str()?.parse::<i32>().ok()?;
        (namespace(name.to_str()?) == own).then_some(pid)
    });
    let own = fs::metadata("/proc/self/exe").ok().map(|found| (found.dev(), found.ino()));
    processes(pids, own)
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// What a process is for the platform, if it bears one of its names.
pub fn role(pid: i32) -> Option<&'static str> {
    match arguments(pid).first()?.as_str() {
        "skiff-init" => Some("init"),
        "skiff-server" => Some("server"),
        "kubelet" => Some("agent"),
        "skiff-shim" => Some("shim"),
        _ => None,
    }
}

pub fn executable(pid: i32) -> Option<Executable> {
    let metadata = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn pss_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// The logs of a node's platform, `ROLE.log` in one directory, read on from where reading stopped.
pub struct Logs {
    dir: PathBuf,
    files: BTreeMap<PathBuf, BufReader<File>>,
}

impl Logs {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: BTreeMap::new() }
    }

    /// What was added since the last call, by time, each line with the role before it.
    pub fn more(&mut self) -> io::Result<String> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") && !self.files.contains_key(&path)
            {
                let file = BufReader::new(File::open(&path)?);
                self.files.insert(path, file);
            }
        }
        let mut lines = Vec::new();
        for (path, reader) in &mut self.files {
            let role = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                lines.push((String::from_utf8_lossy(&line).into_owned(), role.clone()));
                line.clear();
            }
        }
        // Each line begins with its time.
        lines.sort();
        Ok(lines.into_iter().map(|(line, role)| format!("{role:<6} {line}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read_as_proc_says() {
        let pid = i32::try_from(std::process::id()).expect("a PID");
        assert!(pss_bytes(pid) > 0);
        assert_eq!(role(pid), None);
        assert!(executable(pid).is_some());
        assert_eq!(processes([pid], executable(pid)), [], "it bears no name of the platform's");
    }

    #[test]
    fn a_child_that_runs_its_parent_s_program_yet_is_no_part_of_its_own() {
        let process =
            |role, pid| Process { role, pid, since_seconds: 1, memory_bytes: 1_000_000, health: "ok" };
        let found = vec![
            (process("init", 1), 0),
            (process("agent", 3), 1),
            (process("agent", 40), 3),
            (process("shim", 41), 3),
            (process("shim", 42), 1),
            (process("shim", 43), 42),
        ];
        let pids: Vec<i32> = without_forks(found).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [1, 3, 41, 42]);
    }

    #[test]
    fn logs_are_merged_by_time_and_read_on() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("server.log"), "2026-01-01T00:00:02Z two\n").expect("it is written");
        fs::write(dir.path().join("agent.log"), "2026-01-01T00:00:01Z one\n2026-01-01T00:00:03Z ÿ\n")
            .expect("it is written");
        fs::write(dir.path().join("agent.log.1"), "old\n").expect("it is written");
        let mut logs = Logs::new(dir.path());
        assert_eq!(
            logs.more().expect("they are read"),
            "agent  2026-01-01T00:00:01Z one\nserver 2026-01-01T00:00:02Z two\nagent  2026-01-01T00:00:03Z \u{ff}\n"
        );
        assert_eq!(logs.more().expect("they are read"), "");
        fs::write(dir.path().join("init.log"), "2026-01-01T00:00:04Z four\n").expect("it is written");
        assert_eq!(logs.more().expect("they are read"), "init   2026-01-01T00:00:04Z four\n");
        assert!(Logs::new(&dir.path().join("none")).more().is_err());
    }
}
