//! What a data directory remembers of its cluster while that is down: whose data it holds, and the address
//! ranges that the objects in its store bear addresses of.
//!
//! Wherever such directories are, the machine knows them by links in one directory, so that no other
//! cluster is given their ranges. A link whose data are gone means nothing, and goes with the next change.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::ranges::{Ranges, Taken};
use super::record::Record;
use crate::config;

/// In the data directory.
const FILE: &str = "ranges.json";

/// Links to data directories. No cluster has a name that begins with a dot.
pub(crate) const LINKS: &str = "/var/lib/skiff/.kept";

/// Whose data a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// `None` in what an earlier version wrote.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// How many there were; `None` likewise.
    #[serde(default)]
    pub(crate) nodes: Option<u16>,
    #[serde(flatten)]
    pub(crate) ranges: Ranges,
}

impl Kept {
    /// How many nodes a cluster has on these data. A cluster's only node and the first of several have other
    /// names, and one range of addresses.
    pub(crate) fn nodes(&self, asked: Option<u16>, data: &str) -> anyhow::Result<u16> {
        match (self.nodes, asked) {
            (None, asked) => Ok(asked.unwrap_or(1)),
            (Some(kept), None) => Ok(kept),
            (Some(kept), Some(asked)) if (kept == 1) != (asked == 1) => {
                let nodes = if kept == 1 { "one node".to_owned() } else { format!("{kept} nodes") };
                let other = if kept == 1 { "can't become several" } else { "can't become one" };
                bail!(
                    "--nodes {asked}: {data} are of {nodes}, which {other}: leave it out, or name another --data-dir"
                )
            }
            (Some(_), Some(asked)) => Ok(asked),
        }
    }
}

/// What a data directory remembers, if it holds any data.
pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<Kept>> {
    let path = data_dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("cannot parse {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes down beside the data whose they are, and lets the machine know of the directory.
pub(crate) fn write(record: &Record) -> anyhow::Result<()> {
    let nodes = u16::try_from(record.nodes.len()).ok();
    let kept = Kept { name: Some(record.name.clone()), nodes, ranges: record.ranges };
    config::write(&record.data_dir.join(FILE), &kept)?;
    prune(Path::new(LINKS));
    note(Path::new(LINKS), &record.data_dir).with_context(|| format!("cannot make a link in {LINKS}"))
}

/// Forgets a directory that holds no data any more.
pub(crate) fn forget(data_dir: &Path) {
    // What is left of it leads nowhere.
    let _ = fs::remove_file(link(data_dir));
    let _ = fs::remove_dir(LINKS);
}

/// The link to a data directory. Its name is a hash, as a path may be longer than a name.
pub(crate) fn link(data_dir: &Path) -> PathBuf {
    link_in(Path::new(LINKS), data_dir)
}

fn link_in(links: &Path, data_dir: &Path) -> PathBuf {
    // FNV-1a: stable between versions, unlike the standard library's hasher.
    let bytes = data_dir.as_os_str().as_encoded_bytes().iter();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    links.join(format!("{hash:016x}"))
}

fn note(links: &Path, data_dir: &Path) -> io::Result<()> {
    loop {
        fs::create_dir_all(links)?;
        match symlink(data_dir, link_in(links, data_dir)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // Whoever took the last link away took the directory with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
}

/// Removes the links that lead to no data. One is made only when there are some.
fn prune(links: &Path) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let is_gone = fs::symlink_metadata(entry.path().join(FILE))
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_gone {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The ranges of all data on this machine but those in `but`: directories whose ranges are known otherwise.
pub(crate) fn taken(but: &[&Path]) -> Vec<Taken> {
    taken_in(Path::new(LINKS), but)
}

fn taken_in(links: &Path, but: &[&Path]) -> Vec<Taken> {
    let is_other = |dir: &PathBuf| !but.iter().any(|known| same(known, dir));
    let entries = fs::read_dir(links).into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> =
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(is_other).collect();
    dirs.sort();
    let mut taken = Vec::new();
    for dir in dirs {
        // What can't be read says nothing, and keeps nobody else from starting.
        let Ok(Some(kept)) = read(&dir) else { continue };
        let of = kept.name.map(|name| format!(" of cluster {name:?}")).unwrap_or_default();
        taken.extend(kept.ranges.all().map(|(purpose, range)| Taken {
            by: format!("the {purpose} network{of}, kept in {},", dir.display()),
            range,
        }));
    }
    taken
}

/// Whether two paths name one directory.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

#[cfg(test)]
mod tests {
    use skiff_network::Cidr;

    use super::*;

    fn ranges(first: u8) -> Ranges {
        let range = |second, prefix| Cidr::new([10, second, 0, 0].into(), prefix);
        Ranges { node: range(first, 24), pod: range(first + 1, 16), service: range(first + 2, 16) }
    }

    #[test]
    fn data_reserve_their_ranges_while_they_are_there() {
        let dir = std::env::temp_dir().join(format!("skiff-kept-{}", std::process::id()));
        let links = dir.join("links");
        let kept = |name: &str, owner: Option<&str>, first: u8| {
            let data = dir.join(name);
            fs::create_dir_all(&data).expect("a directory");
            let kept = Kept { name: owner.map(str::to_owned), nodes: None, ranges: ranges(first) };
            fs::write(data.join(FILE), serde_json::to_string(&kept).expect("JSON")).expect("a file");
            assert_eq!(read(&data).expect("it can be read"), Some(kept));
            data
        };
        let (one, two) = (kept("one", Some("a"), 1), kept("two", None, 4));
        for data in [&one, &two, &one] {
            note(&links, data).expect("it is noted");
        }
        let found = |but: &[&Path]| {
            taken_in(&links, but).into_iter().map(|one| (one.by, one.range)).collect::<Vec<_>>()
        };
        let cidr = |text: &str| text.parse::<Cidr>().expect("a range");
        let all = found(&[]);
        assert_eq!(all.len(), 6);
        let by = format!("the pod network of cluster \"a\", kept in {},", one.display());
        assert!(all.contains(&(by, cidr("10.2.0.0/16"))), "{all:?}");
        let by = format!("the node network, kept in {},", two.display());
        assert!(all.contains(&(by, cidr("10.4.0.0/24"))), "{all:?}");
        assert_eq!(found(&[&one, &two]), []);
        // By another way to the same place.
        assert_eq!(found(&[&dir.join("two/../one")]).len(), 3);
        fs::remove_dir_all(&one).expect("it is there");
        assert_eq!(found(&[]).len(), 3);
        prune(&links);
        assert_eq!(fs::read_dir(&links).expect("a directory").count(), 1);
        fs::remove_dir_all(&dir).expect("it is there");
    }

    #[test]
    fn data_of_an_earlier_version_are_read() {
        let text = serde_json::to_string(&ranges(1)).expect("JSON");
        let kept: Kept = serde_json::from_str(&text).expect("it has the ranges");
        assert_eq!(kept, Kept { name: None, nodes: None, ranges: ranges(1) });
    }

    #[test]
    fn a_cluster_comes_back_with_the_nodes_that_it_had() {
        let nodes = |kept: Option<u16>, asked: Option<u16>| {
            let kept = Kept { name: None, nodes: kept, ranges: ranges(1) };
            kept.nodes(asked, "the data in /d").map_err(|error| error.to_string())
        };
        assert_eq!(nodes(None, None), Ok(1));
        assert_eq!(nodes(None, Some(3)), Ok(3));
        assert_eq!(nodes(Some(3), None), Ok(3));
        assert_eq!(nodes(Some(3), Some(4)), Ok(4));
        assert_eq!(nodes(Some(1), Some(1)), Ok(1));
        let refused = nodes(Some(1), Some(2)).expect_err("another name and the same range");
        assert!(refused.starts_with("--nodes 2: the data in /d are of one node, which can't become several"));
        let refused = nodes(Some(3), Some(1)).expect_err("the same");
        assert!(refused.starts_with("--nodes 1: the data in /d are of 3 nodes, which can't become one"));
    }
}
