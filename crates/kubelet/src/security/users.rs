//! Users of pods with `hostUsers: false`: each such pod has a range of the node's IDs to itself.
//!
//! A range is recorded in the pod's directory before it is used, in upstream's format, and stays the
//! pod's as long as the directory does: an agent that starts again hands out no range twice.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skiff_runtime::{UserRange, private};
use tracing::warn;

/// Every pod's share: what ordinary images use.
const LENGTH: u32 = 65_536;
/// The node's own users are below it.
pub const FIRST: u32 = LENGTH;

const FILE: &str = "userns";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The node's ranges and who has them.
pub(crate) struct UserRanges {
    pods_dir: PathBuf,
    first: u32,
    count: u32,
    /// By pod UID.
    taken: Mutex<BTreeMap<String, u32>>,
}

impl UserRanges {
    /// With what is recorded below `pods_dir`. There are `count` ranges, from the ID `first` on.
    pub(crate) fn read(pods_dir: PathBuf, first: u32, count: u32) -> io::Result<UserRanges> {
        let mut taken = BTreeMap::new();
        for entry in fs::read_dir(&pods_dir)? {
            let entry = entry?;
            let Some(uid) = entry.file_name().to_str().map(str::to_owned) else { continue };
            match recorded(&entry.path()) {
                Ok(Some(start)) => drop(taken.insert(uid, start)),
                Ok(None) => {}
                // Its range is not known, so nobody else may be shut out for it; its sandbox holds it still.
                Err(error) => warn!(uid, %error, "a pod's record of its users is damaged"),
            }
        }
        Ok(UserRanges { pods_dir, first, count, taken: Mutex::new(taken) })
    }

    /// The pod's range: the one it has, or the first free one.
    pub(crate) fn take(&self, uid: &str) -> Result<UserRange, String> {
        let mut taken = self.taken.lock();
        if let Some(first) = taken.get(uid) {
            return Ok(UserRange { first: *first, length: LENGTH });
        }
        let first = free(&taken, self.first, self.count)
            .ok_or("could not find an empty slot to allocate a user namespace")?;
        record(&self.pods_dir.join(uid), first)
            .map_err(|error| format!("cannot record the pod's users: {error}"))?;
        taken.insert(uid.to_owned(), first);
        Ok(UserRange { first, length: LENGTH })
    }

    /// The pod and its directory are gone.
    pub(crate) fn release(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }
}

/// Of ranges made with another start every one that overlaps counts.
fn free(taken: &BTreeMap<String, u32>, first: u32, count: u32) -> Option<u32> {
    let starts = (0..count).map_while(|index| first.checked_add(index.checked_mul(LENGTH)?));
    starts
        .take_while(|start| start.checked_add(LENGTH).is_some())
        .find(|start| taken.values().all(|other| other.abs_diff(*start) >= LENGTH))
}

fn recorded(pod_dir: &Path) -> io::Result<Option<u32>> {
    let bytes = match fs::read(pod_dir.join(FILE)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        bytes => bytes?,
    };
    let record: Record = serde_json::from_slice(&bytes)?;
    match (&record.uid_mappings[..], &record.gid_mappings[..]) {
        ([uids], [gids])
            if uids.host_id == gids.host_id
                && [uids, gids].iter().all(|map| map.container_id == 0 && map.length == LENGTH) =>
        {
            Ok(Some(uids.host_id))
        }
        _ => Err(io::Error::other("not one range of 65536 users and groups")),
    }
}

fn record(pod_dir: &Path, first: u32) -> io::Result<()> {
    let mapping = Mapping { host_id: first, container_id: 0, length: LENGTH };
    let record = Record { uid_mappings: vec![mapping], gid_mappings: vec![mapping] };
    private::make_dir(pod_dir)?;
    let beside = pod_dir.join(format!("{FILE}.new"));
    let mut file = private::create(&beside)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    file.sync_all()?;
    fs::rename(&beside, pod_dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, count: u32) -> UserRanges {
        UserRanges::read(dir.to_owned(), FIRST, count).expect("it is readable")
    }

    #[test]
    fn each_pod_has_one_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let ranges = open(dir.path(), 3);
        assert_eq!(ranges.take("a"), Ok(UserRange { first: 65_536, length: 65_536 }));
        assert_eq!(ranges.take("b").map(|range| range.first), Ok(131_072));
        assert_eq!(ranges.take("a").map(|range| range.first), Ok(65_536));
        let text = fs::read_to_string(dir.path().join("b/userns")).expect("it is recorded");
        let map = "[{\"hostId\":131072,\"containerId\":0,\"length\":65536}]";
        assert_eq!(text, format!("{{\"uidMappings\":{map},\"gidMappings\":{map}}}"));

        let ranges = open(dir.path(), 3);
        assert_eq!(ranges.take("c").map(|range| range.first), Ok(196_608));
        assert_eq!(ranges.take("b").map(|range| range.first), Ok(131_072));
        assert_eq!(
            ranges.take("d"),
            Err("could not find an empty slot to allocate a user namespace".to_owned())
        );
        fs::remove_dir_all(dir.path().join("a")).expect("its pod is gone");
        ranges.release("a");
        assert_eq!(ranges.take("d").map(|range| range.first), Ok(65_536));
    }

    #[test]
    fn damaged_records_and_other_starts() {
        let dir = tempfile::tempdir().expect("a directory");
        for (uid, text) in [("x", "{"), ("y", "{\"uidMappings\":[],\"gidMappings\":[]}")] {
            fs::create_dir(dir.path().join(uid)).expect("makes it");
            fs::write(dir.path().join(uid).join(FILE), text).expect("writes");
        }
        record(&dir.path().join("z"), FIRST + 1).expect("writes");
        let ranges = open(dir.path(), 4);
        // 65537 to 131072 is taken, which reaches into the first two.
        assert_eq!(ranges.take("a").map(|range| range.first), Ok(196_608));
        assert_eq!(free(&BTreeMap::new(), u32::MAX - 10, 5), None);
    }

    #[test]
    fn a_record_is_of_one_whole_range_or_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = |users: (u32, u32, u32), groups: (u32, u32, u32)| {
            let map = |(host, inside, length): (u32, u32, u32)| {
                format!("[{{\"hostId\":{host},\"containerId\":{inside},\"length\":{length}}}]")
            };
            let text = format!("{{\"uidMappings\":{},\"gidMappings\":{}}}", map(users), map(groups));
            fs::write(dir.path().join(FILE), text).expect("writes");
            recorded(dir.path()).ok().flatten()
        };
        let whole = (FIRST, 0, LENGTH);
        assert_eq!(read(whole, whole), Some(FIRST));
        for odd in [(FIRST + LENGTH, 0, LENGTH), (FIRST, 1, LENGTH), (FIRST, 0, LENGTH - 1)] {
            assert_eq!(read(odd, whole), None, "{odd:?}");
            assert_eq!(read(whole, odd), None, "{odd:?}");
        }
        assert_eq!(read((FIRST, 1, LENGTH), (FIRST, 1, LENGTH)), None);
        assert_eq!(read((FIRST, 0, 1), (FIRST, 0, 1)), None);
        // None is no damage.
        assert_eq!(recorded(&dir.path().join("none")).ok(), Some(None));
        assert_eq!(recorded(&dir.path().join(FILE).join("below")).ok(), Some(None));
    }
}
