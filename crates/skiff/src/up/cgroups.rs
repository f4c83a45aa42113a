//! The control groups of a cluster's nodes: one subtree a node in every hierarchy of the machine.
//!
//! Everything that a node runs lives below its subtree, so that ending a node is killing what is in
//! there, whoever started it and whatever became of its parent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a node may limit and count, where the machine has it.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount_point: PathBuf,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// cgroup v2.
    Unified,
    /// cgroup v1 with these mount options (`cpu,cpuacct`, `name=systemd`).
    V1(String),
}

/// The hierarchies mounted below `/sys/fs/cgroup`.
pub(crate) fn hierarchies() -> anyhow::Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let found = parse(&text);
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted below /sys/fs/cgroup: mount cgroup2 there");
    }
    Ok(found)
}

/// `/proc/self/mountinfo` by proc_pid_mountinfo(5); a mount point that was mounted over counts once.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount_point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), _, Some(options)) = (right.next(), right.next(), right.next()) else { continue };
        if !mount_point.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let kind = match kind {
            "cgroup2" => Kind::Unified,
            "cgroup" => {
                let own = options.split(',').filter(|option| {
                    !["rw", "ro", "xattr", "clone_children", "noprefix"].contains(option)
                        && !option.starts_with("release_agent=")
                });
                Kind::V1(own.collect::<Vec<_>>().join(","))
            }
            _ => continue,
        };
        let hierarchy = Hierarchy { mount_point: mount_point.into(), kind };
        match found.iter_mut().find(|present| present.mount_point == hierarchy.mount_point) {
            Some(present) => *present = hierarchy,
            None => found.push(hierarchy),
        }
    }
    found
}

/// Makes `cluster/node` in every hierarchy and moves the calling process into it.
pub(crate) fn join(cluster: &str, node: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let cluster_dir = hierarchy.mount_point.join(cluster);
        let node_dir = cluster_dir.join(node);
        fs::create_dir_all(&node_dir)
            .with_context(|| format!("cannot create the cgroup {}", node_dir.display()))?;
        match &hierarchy.kind {
            Kind::Unified => {
                enable_controllers(&hierarchy.mount_point)?;
                enable_controllers(&cluster_dir)?;
            }
            Kind::V1(options) if options.split(',').any(|option| option == "cpuset") => {
                for dir in [&cluster_dir, &node_dir] {
                    inherit_cpuset(dir)?;
                }
            }
            Kind::V1(_) => {}
        }
        let procs = node_dir.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("cannot join the cgroup {}", node_dir.display()))?;
    }
    Ok(())
}

/// Moves the calling process to the node's own processes.
pub(crate) fn join_existing(path: &Path) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let node = hierarchy.mount_point.join(path);
        let leaf = node.join("system");
        let dir = if leaf.exists() { leaf } else { node };
        fs::write(dir.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot join the cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// Lets children of a v2 cgroup use the controllers that it has.
pub(crate) fn enable_controllers(dir: &Path) -> anyhow::Result<()> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let (available, enabled) = (words(&available), words(&enabled));
    for controller in CONTROLLERS {
        if available.contains(controller) && !enabled.contains(controller) {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).with_context(|| {
                format!("cannot enable the {controller} controller below {}", dir.display())
            })?;
        }
    }
    Ok(())
}

/// A v1 cpuset takes no process before it has CPUs and memory nodes.
fn inherit_cpuset(dir: &Path) -> anyhow::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
        if own.trim().is_empty() {
            let parent = dir.parent().unwrap_or(dir);
            let value =
                fs::read_to_string(parent.join(file)).with_context(|| format!("cannot read {file}"))?;
            fs::write(dir.join(file), value.trim()).with_context(|| format!("cannot set {file}"))?;
        }
    }
    Ok(())
}

/// Mounts the calling process's cgroup namespace over a fresh `/sys`, in the machine's own layout.
pub(crate) fn mount_fresh(layout: &[Hierarchy]) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let context = |path: &Path| format!("cannot mount the node's cgroups on {}", path.display());
    if layout.iter().any(|hierarchy| hierarchy.mount_point != root) {
        mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("mode=755")).with_context(|| context(root))?;
    }
    for hierarchy in layout {
        let path = &hierarchy.mount_point;
        fs::create_dir_all(path).with_context(|| context(path))?;
        match &hierarchy.kind {
            Kind::Unified => mount(Some("cgroup2"), path, Some("cgroup2"), flags, None::<&str>),
            Kind::V1(options) => {
                let options = match options.starts_with("name=") {
                    true => format!("none,{options}"),
                    false => options.clone(),
                };
                mount(Some("cgroup"), path, Some("cgroup"), flags, Some(options.as_str()))
            }
        }
        .with_context(|| context(path))?;
    }
    Ok(())
}

/// On pure v2 a cgroup that delegates controllers may hold no process itself, so the node's own processes
/// move to a leaf.
pub(crate) fn make_leaf(layout: &[Hierarchy]) -> anyhow::Result<()> {
    for hierarchy in layout.iter().filter(|hierarchy| hierarchy.kind == Kind::Unified) {
        let leaf = hierarchy.mount_point.join("system");
        fs::create_dir_all(&leaf).with_context(|| format!("cannot create the cgroup {}", leaf.display()))?;
        fs::write(leaf.join("cgroup.procs"), "0").context("cannot move into the node's own cgroup")?;
        enable_controllers(&hierarchy.mount_point)?;
    }
    Ok(())
}

/// The processes of a cluster (or of one node: `cluster/node`), as the machine numbers them.
pub(crate) fn processes(path: &Path) -> anyhow::Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        collect(&hierarchy.mount_point.join(path), &mut found);
    }
    Ok(found)
}

fn collect(dir: &Path, found: &mut BTreeSet<i32>) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in children(dir) {
        collect(&child, found);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills all processes below the path and removes its cgroups, in every hierarchy.
pub(crate) fn destroy(path: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut killed = BTreeSet::new();
    loop {
        let alive = processes(path)?;
        killed.extend(alive.iter().copied());
        for pid in &alive {
            // It may be gone already.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let removed = hierarchies()?.iter().all(|hierarchy| remove(&hierarchy.mount_point.join(path)));
        if alive.is_empty() && removed {
            await_reaped(&killed);
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "cannot end the processes {alive:?} in the cgroup {}: they may hang in the kernel",
                path.display()
            );
        }
        // The kernel tells nobody when the last process of a v1 cgroup has gone.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A dead process is listed until its parent has taken note, and that of a node's first process is the
/// machine's. One that never does keeps nothing else, so it is not waited for long.
fn await_reaped(pids: &BTreeSet<i32>) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline && pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove(dir: &Path) -> bool {
    let below = children(dir).iter().all(|child| remove(child));
    below && (fs::remove_dir(dir).is_ok() || !dir.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure_layouts_are_told_apart() {
        let hybrid = "30 20 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      31 20 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 20 0:29 / /mnt rw - ext4 /dev/vda rw";
        let kinds: Vec<_> = parse(hybrid).into_iter().map(|hierarchy| hierarchy.kind).collect();
        assert_eq!(kinds, [Kind::V1("cpu,cpuacct".into()), Kind::V1("name=systemd".into()), Kind::Unified]);
        let pure = "29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(pure), [Hierarchy { mount_point: "/sys/fs/cgroup".into(), kind: Kind::Unified }]);
    }
}
