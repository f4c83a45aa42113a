//! The shape of upstream's Summary, `stats.k8s.io/v1alpha1`: what the answer is made of. What isn't known
//! is left out, as upstream leaves it out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use skiff_runtime::Stats;
use skiff_runtime::usage::DiskUsage;

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) node: NodeStats,
    pub(super) pods: Vec<PodStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeStats {
    pub(super) node_name: String,
    pub(super) start_time: Time,
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    pub(super) network: Network,
    pub(super) fs: FileSystem,
    pub(super) runtime: Runtime,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rlimit: Option<Processes>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Runtime {
    pub(super) image_fs: FileSystem,
    /// Where containers write.
    pub(super) container_fs: FileSystem,
}

/// How many processes may be, and are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Processes {
    pub(super) time: Time,
    pub(super) maxpid: u64,
    pub(super) curproc: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStats {
    pub(super) pod_ref: PodRef,
    pub(super) start_time: Time,
    pub(super) containers: Vec<ContainerStats>,
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    /// Of pods in the node's own network the node tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<Network>,
    #[serde(rename = "volume", skip_serializing_if = "Vec::is_empty")]
    pub(super) volumes: Vec<VolumeStats>,
    /// What goes with the pod: written layers, logs and volumes on the node's disk.
    #[serde(rename = "ephemeral-storage")]
    pub(super) ephemeral_storage: FileSystem,
    #[serde(rename = "process_stats")]
    pub(super) process_stats: ProcessStats,
}

#[derive(Debug, Serialize)]
pub(super) struct ProcessStats {
    pub(super) process_count: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PodRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStats {
    pub(super) name: String,
    pub(super) start_time: Time,
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    pub(super) rootfs: FileSystem,
    pub(super) logs: FileSystem,
}

#[derive(Debug, Serialize)]
pub(super) struct VolumeStats {
    #[serde(flatten)]
    pub(super) fs: FileSystem,
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cpu {
    pub(super) time: Time,
    /// From the second question on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage_nano_cores: Option<u64>,
    pub(super) usage_core_nano_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    pub(super) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) available_bytes: Option<u64>,
    pub(super) usage_bytes: u64,
    pub(super) working_set_bytes: u64,
    pub(super) rss_bytes: u64,
    pub(super) page_faults: u64,
    pub(super) major_page_faults: u64,
}

impl Memory {
    /// Of what the kernel counted; `limit_bytes` 0 is none.
    pub(super) fn of(stats: &Stats, limit_bytes: u64, time: &Time) -> Self {
        let working_set_bytes = stats.memory_working_set_bytes;
        Self {
            time: time.clone(),
            available_bytes: (limit_bytes > 0).then(|| limit_bytes.saturating_sub(working_set_bytes)),
            usage_bytes: stats.memory_bytes,
            working_set_bytes,
            rss_bytes: stats.memory_anonymous_bytes,
            page_faults: stats.page_faults,
            major_page_faults: stats.major_page_faults,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    pub(super) time: Time,
    #[serde(flatten)]
    pub(super) default: Interface,
    pub(super) interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) rx_bytes: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_bytes: u64,
    pub(super) tx_errors: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileSystem {
    pub(super) time: Time,
    pub(super) available_bytes: u64,
    pub(super) capacity_bytes: u64,
    pub(super) used_bytes: u64,
    pub(super) inodes_free: u64,
    pub(super) inodes: u64,
    pub(super) inodes_used: u64,
}

impl FileSystem {
    /// A part of this one that uses so much of it.
    pub(super) fn part(&self, used: DiskUsage) -> Self {
        Self { used_bytes: used.bytes, inodes_used: used.inodes, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{json, to_value};

    use super::*;
    use crate::time::api_time;

    #[test]
    fn memory_that_is_left_is_told_where_there_is_a_limit() {
        let time = api_time(SystemTime::UNIX_EPOCH);
        let stats = Stats {
            cpu_nanoseconds: 1,
            memory_bytes: 100,
            memory_working_set_bytes: 80,
            memory_anonymous_bytes: 60,
            page_faults: 5,
            major_page_faults: 1,
            pids: 2,
        };
        let mut expected = json!({
            "time": "1970-01-01T00:00:00Z", "usageBytes": 100, "workingSetBytes": 80, "rssBytes": 60,
            "pageFaults": 5, "majorPageFaults": 1,
        });
        assert_eq!(to_value(Memory::of(&stats, 0, &time)).expect("JSON"), expected);
        expected["availableBytes"] = json!(20);
        assert_eq!(to_value(Memory::of(&stats, 100, &time)).expect("JSON"), expected);
        assert_eq!(Memory::of(&stats, 70, &time).available_bytes, Some(0));
    }

    #[test]
    fn a_volume_is_a_file_system_with_a_name() {
        let fs = FileSystem {
            time: api_time(SystemTime::UNIX_EPOCH),
            available_bytes: 60,
            capacity_bytes: 100,
            used_bytes: 40,
            inodes_free: 6,
            inodes: 10,
            inodes_used: 4,
        };
        let volume = VolumeStats { fs: fs.part(DiskUsage { bytes: 7, inodes: 2 }), name: "v".into() };
        let expected = json!({
            "time": "1970-01-01T00:00:00Z", "name": "v", "availableBytes": 60, "capacityBytes": 100,
            "usedBytes": 7, "inodesFree": 6, "inodes": 10, "inodesUsed": 2,
        });
        assert_eq!(to_value(volume).expect("JSON"), expected);
    }
}
