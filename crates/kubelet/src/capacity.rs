//! What the node has: CPUs, memory, disk.

use std::fs;
use std::path::Path;

/// Whole-node amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu_milli: i64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Capacity {
    /// Reads the machine; `data_dir` says whose disk counts.
    pub(crate) fn read(data_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_total(&text));
        let disk = nix::sys::statvfs::statvfs(data_dir)
            .map(|disk| disk.blocks() * disk.fragment_size())
            .unwrap_or(0);
        Self {
            cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1_000,
            memory_bytes: total.unwrap_or(1 << 30),
            disk_bytes: disk,
        }
    }

    /// As the node tells it, in whole KiB.
    pub(crate) fn disk_told_bytes(&self) -> u64 {
        self.disk_bytes / 1_024 * 1_024
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_disk_is_told_in_whole_kibibytes() {
        let capacity = super::Capacity { cpu_milli: 1, memory_bytes: 1, disk_bytes: 4 * 1_024 + 512 };
        assert_eq!(capacity.disk_told_bytes(), 4 * 1_024);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            super::memory_total("MemTotal:       24682204 kB\nMemFree: 1 kB\n"),
            Some(24_682_204 * 1_024)
        );
    }
}
