//! Which of a machine's devices a container may write: how many, and those that tell most.

use serde::{Deserialize, Serialize};

/// Block devices of these drivers (major numbers) are files or memory, no disks: ramdisk, loop, nbd, zram.
const NO_DISKS: [u32; 4] = [1, 7, 43, 252];
/// Devices that give more than themselves away, the worst first.
const TELLING: [&str; 15] = [
    "mem",
    "kmem",
    "port",
    "kmsg",
    "kvm",
    "net/tun",
    "fuse",
    "mapper/control",
    "loop-control",
    "vfio/vfio",
    "uinput",
    "uhid",
    "tpm0",
    "watchdog",
    "hwrng",
];
/// How many are named of each.
const NAMED_MAX: usize = 6;

/// A device that a container may write, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Below `/dev`.
    pub name: String,
    pub block: bool,
    pub major: u32,
}

/// Devices of the node that a container may write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDevices {
    /// Of all nodes in `/dev` that lead to a device which not every container has.
    pub count: usize,
    /// Those with file systems, as they are named below `/dev`; some, if there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Memory, kernel log, virtual machines and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub telling: Vec<String>,
}

/// Sums up what was found; nothing where nothing was.
pub fn summed(found: &[Device]) -> Option<NodeDevices> {
    if found.is_empty() {
        return None;
    }
    let is_disk = |own: &&Device| own.block && !NO_DISKS.contains(&own.major);
    let mut disks: Vec<String> = found.iter().filter(is_disk).map(|own| own.name.clone()).collect();
    // A disk before its partitions, whose names are longer, and links to it elsewhere.
    disks.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    disks.truncate(NAMED_MAX);
    let there = TELLING.into_iter().filter(|name| found.iter().any(|own| own.name == *name));
    let telling = there.take(NAMED_MAX).map(str::to_owned).collect();
    Some(NodeDevices { count: found.len(), disks, telling })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_what_tells_most_are_named() {
        let device = |name: &str, block, major| Device { name: name.into(), block, major };
        assert_eq!(summed(&[]), None);
        let mut found = vec![
            device("loop0", true, 7),
            device("vda1", true, 254),
            device("vda", true, 254),
            device("tty1", false, 4),
            device("kvm", false, 10),
            device("mem", false, 1),
        ];
        let told = summed(&found).unwrap();
        assert_eq!(
            (told.count, told.disks, told.telling),
            (6, vec!["vda".into(), "vda1".into()], vec!["mem".into(), "kvm".into()])
        );
        found.extend((0..20).map(|number| device(&format!("sd{number:02}"), true, 8)));
        let told = summed(&found).unwrap();
        assert_eq!((told.count, told.disks.len()), (26, NAMED_MAX));
        assert_eq!(summed(&[device("tty1", false, 4)]).unwrap().telling, Vec::<String>::new());
    }
}
