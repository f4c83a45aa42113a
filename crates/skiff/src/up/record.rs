//! What is known of a running cluster: a small file under `/run/skiff` that outlives every process of it.
//!
//! It is written before anything else is made, so that `down` finds what to remove whenever `up` ended.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::private_file;
use skiff_runtime::private;

use super::ranges::Ranges;
use crate::{config, lockfile, tell};

/// Where records, sockets and name spaces of running clusters are.
const RUN_DIR: &str = "/run/skiff";

/// One cluster of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    /// Holds an admin's credentials; what was merged elsewhere is named by `merged_kubeconfig`.
    pub(crate) kubeconfig: PathBuf,
    pub(crate) merged_kubeconfig: Option<PathBuf>,
    /// Directories on the way to that which were not there before, inner ones first.
    #[serde(default)]
    pub(crate) kubeconfig_dirs: Vec<PathBuf>,
    /// Which was current there before.
    #[serde(default)]
    pub(crate) previous_context: Option<String>,
    /// On the machine's 127.0.0.1.
    pub(crate) port: u16,
    pub(crate) uplink: bool,
    /// The network namespace that `up` was run in, by its inode: that of the machine, unless somebody gave the
    /// command another. 0 in what an earlier version wrote.
    #[serde(default)]
    pub(crate) network: u64,
    /// Whether the machine forwarded packets before any cluster made it.
    #[serde(default)]
    pub(crate) forwarded_before: bool,
    pub(crate) ranges: Ranges,
    pub(crate) nodes: Vec<NodeRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) pods: skiff_network::Cidr,
}

impl Record {
    /// The machine's directory for a cluster of that name.
    pub(crate) fn dir(name: &str) -> PathBuf {
        Path::new(RUN_DIR).join(name)
    }

    fn path(name: &str) -> PathBuf {
        Self::dir(name).join("cluster.json")
    }

    /// The record of that name, if the cluster is up (or was left half up or half down).
    pub(crate) fn find(name: &str) -> anyhow::Result<Option<Self>> {
        let path = Self::path(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("the record {} is damaged: remove it", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// As [`Record::find`]; a cluster that is not up is an error that names those that are.
    pub(crate) fn get(name: &str) -> anyhow::Result<Self> {
        if let Some(record) = Self::find(name)? {
            return Ok(record);
        }
        let others: Vec<String> = Self::all()?.into_iter().map(|record| record.name).collect();
        match others.as_slice() {
            [] => bail!("no cluster {name:?} is up: start one with `skiff up`"),
            others => bail!("no cluster {name:?} is up (up: {}): choose one with --name", others.join(", ")),
        }
    }

    /// All clusters of this machine.
    ///
    /// A damaged record is told of and passed over: it is one cluster's trouble, not every command's.
    pub(crate) fn all() -> anyhow::Result<Vec<Self>> {
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("cannot read /run/skiff"),
        };
        let mut records = Vec::new();
        // Locks lie beside the directories.
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            match Self::find(&entry.file_name().to_string_lossy()) {
                Ok(record) => records.extend(record),
                Err(error) => tell(format_args!("skiff: warning: {error:#}")),
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// As [`Record::all`]; who may not look finds none.
    pub(crate) fn visible() -> anyhow::Result<Vec<Self>> {
        let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        match fs::read_dir(RUN_DIR) {
            Err(error) if denied(&error) => Ok(Vec::new()),
            _ => Self::all(),
        }
    }

    /// Whether both hang on the same network.
    pub(crate) fn shares_network(&self, network: u64) -> bool {
        [0, network].contains(&self.network)
    }

    /// Writes the record, whole or not at all.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        config::write(&Self::path(&self.name), self)
    }

    /// The name of the machine's end of the link to the router; link names have at most 15 characters.
    pub(crate) fn machine_link(name: &str) -> String {
        link_name("skf", name)
    }

    /// The name of the cluster's cgroup below each hierarchy's root.
    pub(crate) fn cgroup(name: &str) -> String {
        format!("skiff-{name}")
    }

    /// Where a name space of this cluster is kept by a bind mount: `router` or a node's name.
    pub(crate) fn netns(name: &str, of: &str) -> PathBuf {
        Self::dir(name).join("netns").join(of)
    }

    /// Sockets of a node. Short, since a socket's path has at most 107 bytes.
    pub(crate) fn node_run_dir(&self, node: usize) -> PathBuf {
        Self::dir(&self.name).join("n").join(node.to_string())
    }

    pub(crate) fn node_data_dir(&self, node: &str) -> PathBuf {
        self.data_dir.join("nodes").join(node)
    }

    /// Shared by all nodes.
    pub(crate) fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// The control plane's own data.
    pub(crate) fn server_dir(&self) -> PathBuf {
        self.data_dir.join("server")
    }
}

/// The network namespace that this command is run in, by its inode.
pub(crate) fn own_network() -> u64 {
    fs::metadata("/proc/self/ns/net").map(|found| found.ino()).unwrap_or(0)
}

/// A link's name of a prefix and as much of a cluster's name as fits, made unique by a hash where it does not.
pub(crate) fn link_name(prefix: &str, name: &str) -> String {
    let whole = format!("{prefix}-{name}");
    if whole.len() <= 15 {
        return whole;
    }
    // FNV-1a: stable between versions, unlike the standard library's hasher.
    let hash =
        name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{prefix}-{hash:08x}")
}

/// A cluster's name, as a flag has it. Names become link names, host names and cgroups: a DNS label of at
/// most 40 characters fits all.
pub(crate) fn cluster_name(name: &str) -> Result<String, String> {
    let fits = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    match fits {
        true => Ok(name.to_owned()),
        false => Err("use at most 40 lower-case letters, digits and inner dashes".to_owned()),
    }
}

/// Only one command at a time changes a cluster.
pub(crate) struct Lock {
    path: PathBuf,
    file: fs::File,
}

impl Lock {
    /// Removes the lock's file, while it is held, when there is nothing left to lock.
    pub(crate) fn remove(self) {
        // A leftover is harmless.
        let _ = fs::remove_file(&self.path);
        drop(self.file);
        // The one that all clusters share goes with the last of them.
        let left = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
        if left.into_iter().all(|entry| entry.file_name() == RANGES_LOCK)
            && let Ok(ranges) = lock_ranges()
        {
            let _ = fs::remove_file(Path::new(RUN_DIR).join(RANGES_LOCK));
            drop(ranges);
        }
    }
}

/// Takes the lock of a cluster or says that another command has it.
pub(crate) fn lock(name: &str) -> anyhow::Result<Lock> {
    private::make_dir(Path::new(RUN_DIR)).with_context(|| format!("cannot create {RUN_DIR}"))?;
    let path = Path::new(RUN_DIR).join(format!("{name}.lock"));
    match lockfile::try_lock(&path)? {
        Some(file) => Ok(Lock { path, file }),
        None => bail!("another skiff command is changing the cluster {name:?}: wait for it to end"),
    }
}

/// The name of the lock that all clusters share.
const RANGES_LOCK: &str = ".ranges.lock";

/// Held from looking which ranges are taken until the record that takes some is written: of two commands
/// at once, the second sees what the first took. Waits for others, who hold it for milliseconds.
pub(crate) fn lock_ranges() -> anyhow::Result<fs::File> {
    private::make_dir(Path::new(RUN_DIR)).with_context(|| format!("cannot create {RUN_DIR}"))?;
    lockfile::wait(&Path::new(RUN_DIR).join(RANGES_LOCK))
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    private_file::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_everywhere() {
        for name in ["skiff", "a", "a-b-1"] {
            cluster_name(name).expect(name);
        }
        for name in ["", "-a", "a-", "A", "a_b", "a/b", "..", &"x".repeat(41)] {
            assert!(cluster_name(name).is_err(), "{name}");
        }
        assert_eq!(Record::machine_link("skiff"), "skf-skiff");
        assert_eq!(Record::machine_link(&"x".repeat(40)).len(), 12);
    }
}
