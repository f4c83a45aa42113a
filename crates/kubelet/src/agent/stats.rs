//! `/stats/summary`: what the node and its pods use, in the shape of upstream's Summary.
//!
//! CPU is cumulative; who wants a rate reads twice. What this node does not measure is left out, as
//! upstream leaves it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use skiff_runtime::{Container, ContainerState, Sandbox, Stats};

use super::{Answer, internal, json};
use crate::labels;
use crate::node_context::Context;
use crate::time::api_time;

#[derive(Debug, Serialize)]
struct Summary {
    node: NodeStats,
    pods: Vec<PodStats>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats {
    node_name: String,
    start_time: Time,
    cpu: Cpu,
    memory: Memory,
    network: Network,
    fs: FileSystem,
    runtime: Images,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Images {
    image_fs: FileSystem,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    start_time: Time,
    containers: Vec<ContainerStats>,
    cpu: Cpu,
    memory: Memory,
    /// Of pods in the node's own network the node tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PodRef {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats {
    name: String,
    start_time: Time,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Time,
    usage_core_nano_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    time: Time,
    #[serde(flatten)]
    default: Interface,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    name: String,
    rx_bytes: u64,
    rx_errors: u64,
    tx_bytes: u64,
    tx_errors: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileSystem {
    time: Time,
    available_bytes: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    inodes_free: u64,
    inodes: u64,
    inodes_used: u64,
}

pub(super) async fn summary(context: &Arc<Context>) -> Answer {
    let sandboxes = context.runtime.list_sandboxes().await.map_err(internal)?;
    let containers = context.runtime.list_containers().await.map_err(internal)?;
    let mut measured = Vec::new();
    for container in containers.into_iter().filter(|each| each.state == ContainerState::Running) {
        // One that ended meanwhile uses nothing.
        if let Ok(stats) = context.runtime.stats(&container.id).await {
            measured.push((container, stats));
        }
    }
    let (name, dir) = (context.config.node_name.clone(), context.config.data_dir.clone());
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<Summary> {
        let now = SystemTime::now();
        let ready = sandboxes.iter().filter(|sandbox| sandbox.ready);
        let pods = ready.map(|sandbox| pod(sandbox, &measured, now)).collect();
        Ok(Summary { node: node(name, &dir, now)?, pods })
    });
    json(&read.await.map_err(internal)?.map_err(internal)?)
}

fn pod(sandbox: &Sandbox, measured: &[(Container, Stats)], now: SystemTime) -> PodStats {
    let own: Vec<_> = measured.iter().filter(|(container, _)| container.sandbox == sandbox.id).collect();
    let time = api_time(now);
    let label = |name: &str| sandbox.config.labels.get(name).cloned().unwrap_or_default();
    let sum = own.iter().fold(Stats::default(), |sum, (_, stats)| Stats {
        cpu_nanoseconds: sum.cpu_nanoseconds + stats.cpu_nanoseconds,
        memory_bytes: sum.memory_bytes + stats.memory_bytes,
        memory_working_set_bytes: sum.memory_working_set_bytes + stats.memory_working_set_bytes,
        pids: sum.pids + stats.pids,
    });
    let network = sandbox
        .netns
        .is_some()
        .then(|| network(&PathBuf::from(format!("/proc/{}/net/dev", sandbox.pid)), now));
    PodStats {
        pod_ref: PodRef {
            name: label(labels::POD_NAME),
            namespace: label(labels::POD_NAMESPACE),
            uid: label(labels::POD_UID),
        },
        start_time: api_time(sandbox.created_at),
        containers: own
            .iter()
            .map(|(container, stats)| ContainerStats {
                name: labels::container_name(container).to_owned(),
                start_time: api_time(container.started_at.unwrap_or(container.created_at)),
                cpu: cpu(stats, &time),
                memory: memory(stats, &time),
            })
            .collect(),
        cpu: cpu(&sum, &time),
        memory: memory(&sum, &time),
        network: network.flatten(),
    }
}

fn cpu(stats: &Stats, time: &Time) -> Cpu {
    Cpu { time: time.clone(), usage_core_nano_seconds: stats.cpu_nanoseconds }
}

fn memory(stats: &Stats, time: &Time) -> Memory {
    Memory {
        time: time.clone(),
        available_bytes: None,
        usage_bytes: stats.memory_bytes,
        working_set_bytes: stats.memory_working_set_bytes,
        rss_bytes: None,
    }
}

fn node(node_name: String, data_dir: &Path, now: SystemTime) -> std::io::Result<NodeStats> {
    let time = api_time(now);
    let disk = nix::sys::statvfs::statvfs(data_dir).map_err(std::io::Error::from)?;
    let unit = disk.fragment_size();
    let fs = FileSystem {
        time: time.clone(),
        available_bytes: disk.blocks_available() * unit,
        capacity_bytes: disk.blocks() * unit,
        used_bytes: disk.blocks().saturating_sub(disk.blocks_free()) * unit,
        inodes_free: disk.files_free(),
        inodes: disk.files(),
        inodes_used: disk.files().saturating_sub(disk.files_free()),
    };
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    Ok(NodeStats {
        node_name,
        start_time: api_time(now.checked_sub(Duration::from_secs_f64(uptime)).unwrap_or(now)),
        cpu: Cpu {
            time: time.clone(),
            usage_core_nano_seconds: busy_nanoseconds(&fs::read_to_string("/proc/stat")?),
        },
        memory: node_memory(&fs::read_to_string("/proc/meminfo")?, time.clone()),
        network: network(Path::new("/proc/self/net/dev"), now).unwrap_or(Network {
            time,
            default: Interface::default(),
            interfaces: Vec::new(),
        }),
        runtime: Images { image_fs: fs.clone() },
        fs,
    })
}

/// The CPUs' time spent on anything, of `/proc/stat`: all of the first line but idling and waiting for disks.
/// Guests' time, at its end, is part of the users'.
fn busy_nanoseconds(stat: &str) -> u64 {
    const TICK_NANOSECONDS: u64 = 10_000_000;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks = line.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0)).take(8);
    ticks.enumerate().filter(|(field, _)| ![3, 4].contains(field)).map(|(_, ticks)| ticks).sum::<u64>()
        * TICK_NANOSECONDS
}

fn node_memory(meminfo: &str, time: Time) -> Memory {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kibibytes.unwrap_or(0) * 1_024
    };
    let total = bytes("MemTotal");
    let available = bytes("MemAvailable");
    Memory {
        time,
        available_bytes: Some(available),
        usage_bytes: total.saturating_sub(bytes("MemFree")),
        working_set_bytes: total.saturating_sub(available),
        rss_bytes: Some(bytes("AnonPages")),
    }
}

fn network(path: &Path, now: SystemTime) -> Option<Network> {
    let interfaces = interfaces(&fs::read_to_string(path).ok()?);
    let default = interfaces.iter().find(|each| each.name == "eth0").or(interfaces.first())?.clone();
    Some(Network { time: api_time(now), default, interfaces })
}

/// All of `/proc/net/dev` but the loopback.
fn interfaces(dev: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().map_while(|text| text.parse().ok()).collect();
        Some(Interface {
            name: name.trim().to_owned(),
            rx_bytes: *counters.first()?,
            rx_errors: *counters.get(2)?,
            tx_bytes: *counters.get(8)?,
            tx_errors: *counters.get(10)?,
        })
    };
    dev.lines().filter_map(line).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_all_but_idle_and_disk_waits() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1\n";
        assert_eq!(busy_nanoseconds(stat), (100 + 20 + 30 + 6 + 7 + 8) * 10_000_000);
        assert_eq!(busy_nanoseconds(""), 0);
    }

    #[test]
    fn a_nodes_memory_is_what_is_not_available() {
        let meminfo = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 600 kB\nAnonPages: 250 kB\n";
        let memory = node_memory(meminfo, api_time(SystemTime::UNIX_EPOCH));
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00Z", "availableBytes": 614_400, "usageBytes": 921_600,
            "workingSetBytes": 409_600, "rssBytes": 256_000,
        });
        assert_eq!(serde_json::to_value(memory).expect("JSON"), expected);
    }

    #[test]
    fn links_are_told_with_what_went_through_them() {
        let dev = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 700 7 2 0 0 0 0 0 900 9 3 0 0 0 0 0\n";
        let eth0 =
            Interface { name: "eth0".into(), rx_bytes: 700, rx_errors: 2, tx_bytes: 900, tx_errors: 3 };
        assert_eq!(interfaces(dev), [eth0]);
    }

    #[test]
    fn this_machine_is_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = node("n".into(), dir.path(), SystemTime::now()).expect("it is read");
        assert!(node.cpu.usage_core_nano_seconds > 0 && node.memory.working_set_bytes > 0, "{node:?}");
        assert!(node.fs.used_bytes <= node.fs.capacity_bytes && node.fs.capacity_bytes > 0, "{node:?}");
        let value = serde_json::to_value(&node).expect("JSON");
        assert!(value["nodeName"] == "n" && value["runtime"]["imageFs"]["capacityBytes"].is_u64(), "{value}");
    }
}
