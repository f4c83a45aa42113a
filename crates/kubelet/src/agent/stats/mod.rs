//! `/stats/summary`: what the node and its pods use, in the shape of upstream's Summary.
//!
//! All of it are the kernel's counters, read when somebody asks. A rate of CPU time is that since the
//! question before; files are counted at most once a minute ([`samples`]).

mod samples;
mod shape;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_runtime::usage::{self, DiskUsage};
use skiff_runtime::{Container, ContainerState, ImageDisk, Sandbox, Stats, facts};
use tokio::time::Instant;

pub(crate) use self::samples::Samples;
use self::shape::{
    ContainerStats, Cpu, FileSystem, Interface, Memory, Network, NodeStats, PodRef, PodStats, ProcessStats,
    Processes, Runtime, Summary, VolumeStats,
};
use super::{Answer, internal, json};
use crate::node_context::Context;
use crate::time::api_time;
use crate::{labels, resources, volumes};

/// A running container and what was read of it.
struct Measured {
    container: Container,
    stats: Stats,
    /// Over its image.
    written: DiskUsage,
}

pub(super) async fn summary(context: &Arc<Context>) -> Answer {
    let runtime = &context.runtime;
    let sandboxes = runtime.list_sandboxes().await.map_err(internal)?;
    let containers = runtime.list_containers().await.map_err(internal)?;
    let image_disk = runtime.image_disk().await.map_err(internal)?;
    let now = Instant::now();
    let mut measured = Vec::new();
    for container in containers.into_iter().filter(|each| each.state == ContainerState::Running) {
        // One that ended meanwhile uses nothing.
        let Ok(stats) = runtime.stats(&container.id).await else { continue };
        let counted = context.samples.lock().counted(&container.id.0, now);
        let written = match counted {
            Some(written) => written,
            None => {
                let written = runtime.written(&container.id).await.unwrap_or_default();
                context.samples.lock().count(&container.id.0, written, now);
                written
            }
        };
        measured.push(Measured { container, stats, written });
    }
    let context = context.clone();
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<Summary> {
        let reading = Reading::begin(&context, &image_disk, now)?;
        let ready = sandboxes.iter().filter(|sandbox| sandbox.ready);
        let pods: Vec<PodStats> = ready.map(|sandbox| reading.pod(sandbox, &measured)).collect();
        let summary = Summary { node: reading.node()?, pods };
        let mut there: HashSet<String> = measured.into_iter().map(|each| each.container.id.0).collect();
        there.extend(sandboxes.into_iter().map(|sandbox| sandbox.id.0));
        there.insert(NODE.to_owned());
        context.samples.lock().retain(&there, now);
        Ok(summary)
    });
    json(&read.await.map_err(internal)?.map_err(internal)?)
}

/// The node's own key among samples; no ID is like it.
const NODE: &str = "";

/// One look at everything.
struct Reading<'a> {
    context: &'a Context,
    now: Instant,
    wall: SystemTime,
    time: Time,
    /// The disk of volumes and logs.
    disk: FileSystem,
    image_disk: FileSystem,
}

impl<'a> Reading<'a> {
    fn begin(context: &'a Context, image_disk: &ImageDisk, now: Instant) -> std::io::Result<Self> {
        let wall = SystemTime::now();
        let time = api_time(wall);
        let disk = file_system(&context.config.data_dir, &time)?;
        let image_disk = FileSystem {
            time: time.clone(),
            available_bytes: image_disk.available_bytes,
            capacity_bytes: image_disk.capacity_bytes,
            used_bytes: image_disk.capacity_bytes.saturating_sub(image_disk.free_bytes),
            inodes_free: image_disk.inodes_free,
            inodes: image_disk.inodes,
            inodes_used: image_disk.inodes.saturating_sub(image_disk.inodes_free),
        };
        Ok(Self { context, now, wall, time, disk, image_disk })
    }

    fn pod(&self, sandbox: &Sandbox, measured: &[Measured]) -> PodStats {
        let own: Vec<_> = measured.iter().filter(|each| each.container.sandbox == sandbox.id).collect();
        let label = |name: &str| sandbox.config.labels.get(name).cloned().unwrap_or_default();
        let pod_ref = PodRef {
            name: label(labels::POD_NAME),
            namespace: label(labels::POD_NAMESPACE),
            uid: label(labels::POD_UID),
        };
        let pod = self.context.pods.get(&skiff_client::ObjectKey::new(&*pod_ref.namespace, &*pod_ref.name));
        let pod = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(pod_ref.uid.as_str()));
        let logs = self.context.config.log_dir(&pod_ref.namespace, &pod_ref.name, &pod_ref.uid);
        let containers =
            own.iter().map(|each| self.container(each, pod.as_deref(), &logs)).collect::<Vec<_>>();
        let volumes = pod.as_deref().map(|pod| self.volumes(pod, &pod_ref.uid)).unwrap_or_default();
        let parts = containers.iter().flat_map(|each| [&each.rootfs, &each.logs]);
        let on_disk = volumes.iter().filter(|(_, in_memory)| !in_memory).map(|(volume, _)| &volume.fs);
        let mut ephemeral = together(parts.chain(on_disk));
        let others = volumes::other_files(&self.context.config.pod_dir(&pod_ref.uid));
        ephemeral.bytes += others.bytes;
        ephemeral.inodes += others.inodes;
        let sum = sum(own.iter().map(|each| &each.stats));
        let limit = pod.as_ref().and_then(|pod| pod.spec.as_ref()).map(resources::of_pod);
        let network = sandbox
            .netns
            .is_some()
            .then(|| network(&PathBuf::from(format!("/proc/{}/net/dev", sandbox.pid)), &self.time));
        PodStats {
            start_time: api_time(sandbox.created_at),
            cpu: self.cpu(&sandbox.id.0, sum.cpu_nanoseconds),
            memory: Memory::of(&sum, limit.map_or(0, |limit| limit.memory_bytes), &self.time),
            network: network.flatten(),
            ephemeral_storage: self.disk.part(ephemeral),
            process_stats: ProcessStats { process_count: sum.pids },
            volumes: volumes.into_iter().map(|(volume, _)| volume).collect(),
            pod_ref,
            containers,
        }
    }

    fn container(&self, measured: &Measured, pod: Option<&Pod>, logs: &Path) -> ContainerStats {
        let Measured { container, stats, written } = measured;
        let name = labels::container_name(container);
        let spec = pod.and_then(|pod| pod.spec.as_ref());
        let limit = spec.and_then(|spec| {
            let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let own = all.find(|each| each.name == name)?;
            Some(resources::of_container(spec, own, self.context.capacity.memory_bytes).memory_bytes)
        });
        ContainerStats {
            name: name.to_owned(),
            start_time: api_time(container.started_at.unwrap_or(container.created_at)),
            cpu: self.cpu(&container.id.0, stats.cpu_nanoseconds),
            memory: Memory::of(stats, limit.unwrap_or(0), &self.time),
            rootfs: self.image_disk.part(*written),
            logs: self.disk.part(self.count(&logs.join(name))),
        }
    }

    /// Those that the node made itself, and whether they are in memory.
    fn volumes(&self, pod: &Pod, uid: &str) -> Vec<(VolumeStats, bool)> {
        let dir = self.context.config.pod_dir(uid);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let own = volumes.filter(|volume| volume.host_path.is_none());
        let measured = own.filter_map(|volume| {
            let path = volumes::path(&dir, volume);
            // One that isn't there yet uses nothing.
            let fs = file_system(&path, &self.time).ok()?;
            let in_memory = is_mount(&path, &dir);
            let fs = if in_memory { fs } else { fs.part(self.count(&path)) };
            Some((VolumeStats { fs, name: volume.name.clone() }, in_memory))
        });
        measured.collect()
    }

    /// What a directory of the node's holds; none holds nothing.
    fn count(&self, path: &Path) -> DiskUsage {
        let key = path.to_string_lossy();
        let counted = self.context.samples.lock().counted(&key, self.now);
        counted.unwrap_or_else(|| {
            let found = usage::of(path).unwrap_or_default();
            self.context.samples.lock().count(&key, found, self.now);
            found
        })
    }

    fn cpu(&self, key: &str, nanoseconds: u64) -> Cpu {
        Cpu {
            time: self.time.clone(),
            usage_nano_cores: self.context.samples.lock().cpu_rate(key, nanoseconds, self.now),
            usage_core_nano_seconds: nanoseconds,
        }
    }

    fn node(&self) -> std::io::Result<NodeStats> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let start = self.wall.checked_sub(facts::since_boot()).unwrap_or(self.wall);
        Ok(NodeStats {
            node_name: self.context.config.node_name.clone(),
            start_time: api_time(start),
            cpu: self.cpu(NODE, busy_nanoseconds(&fs::read_to_string("/proc/stat")?)),
            memory: node_memory(&meminfo, &vmstat, self.time.clone()),
            network: network(Path::new("/proc/self/net/dev"), &self.time).unwrap_or(Network {
                time: self.time.clone(),
                default: Interface::default(),
                interfaces: Vec::new(),
            }),
            fs: self.disk.clone(),
            runtime: Runtime { image_fs: self.image_disk.clone(), container_fs: self.disk.clone() },
            rlimit: processes(&pid_max, &load, &self.time),
        })
    }
}

/// What containers use together.
fn sum<'a>(all: impl Iterator<Item = &'a Stats>) -> Stats {
    all.fold(Stats::default(), |sum, stats| Stats {
        cpu_nanoseconds: sum.cpu_nanoseconds + stats.cpu_nanoseconds,
        memory_bytes: sum.memory_bytes + stats.memory_bytes,
        memory_working_set_bytes: sum.memory_working_set_bytes + stats.memory_working_set_bytes,
        memory_anonymous_bytes: sum.memory_anonymous_bytes + stats.memory_anonymous_bytes,
        page_faults: sum.page_faults + stats.page_faults,
        major_page_faults: sum.major_page_faults + stats.major_page_faults,
        pids: sum.pids + stats.pids,
    })
}

fn together<'a>(parts: impl Iterator<Item = &'a FileSystem>) -> DiskUsage {
    parts.fold(DiskUsage::default(), |sum, part| DiskUsage {
        bytes: sum.bytes + part.used_bytes,
        inodes: sum.inodes + part.inodes_used,
    })
}

/// The whole file system that a path is on.
fn file_system(path: &Path, time: &Time) -> std::io::Result<FileSystem> {
    let disk = nix::sys::statvfs::statvfs(path).map_err(std::io::Error::from)?;
    let unit = disk.fragment_size();
    Ok(FileSystem {
        time: time.clone(),
        available_bytes: disk.blocks_available() * unit,
        capacity_bytes: disk.blocks() * unit,
        used_bytes: disk.blocks().saturating_sub(disk.blocks_free()) * unit,
        inodes_free: disk.files_free(),
        inodes: disk.files(),
        inodes_used: disk.files().saturating_sub(disk.files_free()),
    })
}

/// Whether something else is mounted there than at the directory above: volumes in memory are.
fn is_mount(path: &Path, above: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::symlink_metadata(path).map(|data| data.dev()).ok();
    device(path) != device(above)
}

/// Of `/proc/sys/kernel/pid_max` and `/proc/loadavg`, whose fourth field has the running and all tasks.
fn processes(pid_max: &str, load: &str, time: &Time) -> Option<Processes> {
    let all = load.split(' ').nth(3)?.split_once('/')?.1;
    Some(Processes { time: time.clone(), maxpid: pid_max.trim().parse().ok()?, curproc: all.parse().ok()? })
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

fn node_memory(meminfo: &str, vmstat: &str, time: Time) -> Memory {
    let count = |name: &str| {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
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
        rss_bytes: bytes("AnonPages"),
        page_faults: count("pgfault"),
        major_page_faults: count("pgmajfault"),
    }
}

fn network(path: &Path, time: &Time) -> Option<Network> {
    let interfaces = interfaces(&fs::read_to_string(path).ok()?);
    let default = interfaces.iter().find(|each| each.name == "eth0").or(interfaces.first())?.clone();
    Some(Network { time: time.clone(), default, interfaces })
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
        let vmstat = "pgfaults_other 1\npgfault 77\npgmajfault 8\n";
        let memory = node_memory(meminfo, vmstat, api_time(SystemTime::UNIX_EPOCH));
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00Z", "availableBytes": 614_400, "usageBytes": 921_600,
            "workingSetBytes": 409_600, "rssBytes": 256_000, "pageFaults": 77, "majorPageFaults": 8,
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
    fn processes_are_counted_with_their_threads() {
        let time = api_time(SystemTime::UNIX_EPOCH);
        let expected = Processes { time: time.clone(), maxpid: 4_194_304, curproc: 345 };
        assert_eq!(processes("4194304\n", "0.10 0.20 0.30 2/345 6789\n", &time), Some(expected));
        assert_eq!(processes("", "0.10 0.20 0.30 2/345 6789\n", &time), None);
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let stats = |n: u64| Stats {
            cpu_nanoseconds: n,
            memory_bytes: 2 * n,
            memory_working_set_bytes: 3 * n,
            memory_anonymous_bytes: 4 * n,
            page_faults: 5 * n,
            major_page_faults: 6 * n,
            pids: 7 * n,
        };
        assert_eq!(sum([stats(1), stats(10)].iter()), stats(11));
        let time = api_time(SystemTime::UNIX_EPOCH);
        let disk = file_system(Path::new("/"), &time).expect("there is one");
        let parts = [(10, 1), (5, 2)].map(|(bytes, inodes)| disk.part(DiskUsage { bytes, inodes }));
        assert_eq!(together(parts.iter()), DiskUsage { bytes: 15, inodes: 3 });
    }
}
