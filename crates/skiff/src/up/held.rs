//! Namespaces that live on without anybody in them: a process has one open, or it is mounted somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use skiff_runtime::facts;

use super::stock::{self, Members};

/// Who holds each namespace without being in it.
pub(crate) type Held = BTreeMap<String, BTreeSet<Holder>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    /// PID and start time, or the mount: the same before and after where it is the same.
    pub(crate) id: String,
    /// For people.
    pub(crate) words: String,
}

/// Looks at what processes have open, and at the mounts of every mount namespace.
pub(crate) fn held(processes: &[facts::ProcessFact]) -> Held {
    let mut found = Held::new();
    let mut looked_at = BTreeSet::new();
    for process in processes.iter().filter(|process| process.pid != std::process::id()) {
        let pid = process.pid;
        let mounts = process.namespaces[MOUNTS];
        if looked_at.insert(mounts) {
            let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            for (name, target) in text.lines().filter_map(mounted) {
                let holder = Holder { id: format!("mount {target}"), words: format!("mounted at {target}") };
                found.entry(name).or_default().insert(holder);
            }
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let Some(name) = link.to_str().filter(|name| is_namespace(name)) else { continue };
            let words = format!("held open by process {pid} ({})", facts::command(pid));
            let holder = Holder { id: stock::started(pid), words };
            found.entry(name.to_owned()).or_default().insert(holder);
        }
    }
    found
}

/// Adds who holds a namespace to who is in it.
pub(crate) fn join(members: &mut Members, held: &Held) {
    for (name, holders) in held {
        let ids = holders.iter().map(|holder| holder.id.clone());
        members.entry(name.clone()).or_default().extend(ids);
    }
}

/// Where `NAMESPACES` has the mount namespace.
const MOUNTS: usize = 4;

/// `net:[4026531840]`.
fn is_namespace(name: &str) -> bool {
    let kind = name.strip_suffix(']').and_then(|name| name.split_once(":["));
    kind.is_some_and(|(kind, number)| {
        facts::NAMESPACES.contains(&kind) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Of a line of mountinfo: the namespace, and where it is mounted.
fn mounted(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, target) = (left.next()?, left.next()?);
    let of_namespaces = right.starts_with("nsfs ") && is_namespace(root);
    of_namespaces.then(|| (root.to_owned(), Path::new(target).display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{ChildStdout, Command, Stdio};

    use super::*;

    #[test]
    fn mounts_of_namespaces_are_told_from_others() {
        let line = "90 30 0:4 net:[4026532263] /tmp/f rw shared:9 - nsfs nsfs rw";
        assert_eq!(mounted(line), Some(("net:[4026532263]".into(), "/tmp/f".into())));
        assert_eq!(mounted("30 20 0:26 / /sys rw - sysfs sysfs rw"), None);
        assert!(is_namespace("uts:[1]") && !is_namespace("socket:[1]") && !is_namespace("/net:[x]"));
        assert_eq!(facts::NAMESPACES[MOUNTS], "mnt");
    }

    #[test]
    fn a_namespace_that_somebody_has_open_is_held_by_him_alone() {
        let started = |command: &mut Command| {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
            let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            (child, stdin, BufReader::new(stdout))
        };
        let heard = |from: &mut BufReader<ChildStdout>| {
            let mut line = String::new();
            from.read_line(&mut line).expect("it speaks");
            line.trim().to_owned()
        };
        let inside = "readlink /proc/self/ns/uts; read x";
        let (mut member, end, mut says) =
            started(Command::new("unshare").args(["--uts", "sh", "-c", inside]));
        let name = heard(&mut says);
        let opens = "exec 8</proc/$0/ns/uts; echo open; read x";
        let (mut holder, end_too, mut says) =
            started(Command::new("sh").args(["-c", opens, &member.id().to_string()]));
        assert_eq!(heard(&mut says), "open");
        drop(end);
        member.wait().expect("it ends");
        let processes = facts::processes().expect("processes");
        let mut members = stock::members(&processes);
        assert!(!members.contains_key(&name), "nobody is in {name}");
        let held = held(&processes);
        let words: Vec<&str> = held[&name].iter().map(|holder| holder.words.as_str()).collect();
        let pid = holder.id();
        assert!(
            words.len() == 1 && words[0].starts_with(&format!("held open by process {pid} (sh -c ")),
            "{words:?}"
        );
        join(&mut members, &held);
        assert_eq!(members[&name], [stock::started(pid)].into());
        drop(end_too);
        holder.wait().expect("it ends");
    }
}
