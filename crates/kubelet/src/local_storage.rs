//! Limits of what a pod keeps on the node's disk: who exceeds one is evicted, as upstream's eviction
//! manager does it and in its words.
//!
//! Files have to be counted for this, so only pods that set a limit are looked at, every ten seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, PodSpec, Volume};
use skiff_api::quantity::{self, Quantity};
use skiff_runtime::{ContainerId, ContainerState, Runtime, usage};

use crate::observed::Observed;
use crate::plan::Waiting;
use crate::{resources, volumes};

/// How often a pod is measured.
const EVERY: Duration = Duration::from_secs(10);
/// What a pod gets that is evicted for what it keeps.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// From here on pods are critical, and stay.
const PRIORITY_CRITICAL: i32 = 2_000_000_000;

/// What a pod keeps on the disk, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Usage {
    /// By volume; those of the node's disk.
    volumes: BTreeMap<String, u64>,
    /// By container: what it wrote over its image, and its log.
    containers: BTreeMap<String, u64>,
    /// Hosts, resolver and messages.
    others: u64,
}

/// Whether anything limits what the pod keeps.
pub(crate) fn is_limited(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let critical = spec.priority.is_some_and(|priority| priority >= PRIORITY_CRITICAL);
    let of_volume = |volume: &Volume| size_limit(volume).is_some();
    !critical && (pod_limit(spec).is_some() || spec.volumes.iter().flatten().any(of_volume))
}

/// The limit of a volume of the node's disk; one in memory is bounded by its own size.
fn size_limit(volume: &Volume) -> Option<Quantity> {
    let source = volume.empty_dir.as_ref().filter(|source| is_on_disk(source))?;
    source.size_limit.as_ref().map(|limit| quantity::of(Some(limit))).filter(|limit| limit.value() > 0)
}

fn is_on_disk(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref().unwrap_or_default().is_empty()
}

fn limit(container: &Container) -> Option<Quantity> {
    let limit = resources::limits(container)?.get("ephemeral-storage")?;
    Some(quantity::of(Some(limit)))
}

/// Of all containers together, of which those without a limit add nothing.
fn pod_limit(spec: &PodSpec) -> Option<Quantity> {
    let sum = spec.containers.iter().filter_map(limit).reduce(|sum, each| sum + each);
    let greatest = spec.init_containers.iter().flatten().filter_map(limit).max();
    sum.into_iter().chain(greatest).max()
}

/// What the pod exceeds.
fn excess(spec: &PodSpec, used: &Usage) -> Option<String> {
    let above = |bytes: u64, limit: Quantity| i64::try_from(bytes).unwrap_or(i64::MAX) > limit.value();
    for volume in spec.volumes.iter().flatten() {
        let bytes = used.volumes.get(&volume.name).copied().unwrap_or_default();
        if let Some(limit) = size_limit(volume).filter(|limit| above(bytes, *limit)) {
            return Some(format!(
                "Usage of EmptyDir volume \"{}\" exceeds the limit \"{limit}\". ",
                volume.name
            ));
        }
    }
    let all = used.volumes.values().chain(used.containers.values()).chain([&used.others]).sum();
    if let Some(limit) = pod_limit(spec).filter(|limit| above(all, *limit)) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    spec.containers.iter().find_map(|container| {
        let bytes = used.containers.get(&container.name).copied().unwrap_or_default();
        let limit = limit(container).filter(|limit| !limit.is_zero() && above(bytes, *limit))?;
        Some(format!("Container {} exceeded its local ephemeral storage limit \"{limit}\". ", container.name))
    })
}

/// When a pod is to be measured.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    next: Option<SystemTime>,
    /// It is being done.
    measuring: bool,
}

/// What a look at the clock says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    At(SystemTime),
    /// A measurement ends first.
    Later,
}

impl Pace {
    pub(crate) fn look(&mut self, now: SystemTime) -> Due {
        if self.measuring {
            return Due::Later;
        }
        // Ten seconds at most, also where the clock was set back.
        let next = self.next.map_or(now + EVERY, |next| next.min(now + EVERY));
        if next <= now {
            self.measuring = true;
            self.next = None;
            return Due::Now;
        }
        self.next = Some(next);
        Due::At(next)
    }

    pub(crate) fn measured(&mut self) {
        self.measuring = false;
    }
}

/// What has to be counted of a pod.
pub(crate) struct Survey {
    runtime: Arc<dyn Runtime>,
    spec: PodSpec,
    volumes: Vec<(String, PathBuf)>,
    /// Name, container that runs, and the directory of its logs.
    containers: Vec<(String, Option<ContainerId>, PathBuf)>,
    pod_dir: PathBuf,
}

impl Survey {
    pub(crate) fn of(
        pod: &Pod,
        seen: &Observed,
        runtime: Arc<dyn Runtime>,
        pod_dir: &Path,
        log_dir: &Path,
    ) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let on_disk = |volume: &&Volume| {
            volume.config_map.is_some()
                || volume.downward_api.is_some()
                || volume.empty_dir.as_ref().is_some_and(is_on_disk)
        };
        let volumes = spec.volumes.iter().flatten().filter(on_disk);
        let volumes = volumes.map(|volume| (volume.name.clone(), volumes::path(pod_dir, volume))).collect();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| {
            let latest = seen.latest(&container.name);
            let running = latest.filter(|latest| latest.state == ContainerState::Running);
            let id = running.map(|running| running.id.clone());
            (container.name.clone(), id, log_dir.join(&container.name))
        });
        Self { runtime, containers: containers.collect(), spec, volumes, pod_dir: pod_dir.to_owned() }
    }

    /// Counts, and says why the pod has to go, if it has to.
    pub(crate) async fn judge(self) -> Option<Waiting> {
        let mut written = BTreeMap::new();
        for (name, id, _) in &self.containers {
            let Some(id) = id else { continue };
            // One that ended meanwhile has left its log alone.
            written.insert(name.clone(), self.runtime.written(id).await.unwrap_or_default().bytes);
        }
        // A disk may be slow, and other pods shall not wait for it.
        let counted = tokio::task::spawn_blocking(move || {
            let count = |path: &Path| usage::of(path).unwrap_or_default().bytes;
            let volumes = self.volumes.iter().map(|(name, path)| (name.clone(), count(path))).collect();
            let containers = self.containers.iter().map(|(name, _, logs)| {
                (name.clone(), written.get(name).copied().unwrap_or_default() + count(logs))
            });
            let others = volumes::other_files(&self.pod_dir).bytes;
            excess(&self.spec, &Usage { volumes, containers: containers.collect(), others })
        });
        let message = counted.await.ok().flatten()?;
        Some(Waiting { reason: "Evicted".into(), message: Some(message) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::*;

    const MEBIBYTE: u64 = 1 << 20;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn container(name: &str, limit: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    fn used(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Usage {
        let map =
            |list: &[(&str, u64)]| list.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        Usage { volumes: map(volumes), containers: map(containers), others: 0 }
    }

    #[test]
    fn only_pods_with_limits_are_looked_at() {
        let volume = |source: Value| json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": source}]});
        for (spec, expected) in [
            (json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1Mi"}}}]}), false),
            (json!({"containers": [container("c", "1Mi")]}), true),
            (json!({"initContainers": [container("i", "1Mi")], "containers": [{"name": "c"}]}), true),
            (json!({"priority": 2_000_000_000, "containers": [container("c", "1Mi")]}), false),
            (volume(json!({})), false),
            (volume(json!({"sizeLimit": "0"})), false),
            (volume(json!({"sizeLimit": "1Mi"})), true),
            (volume(json!({"sizeLimit": "1Mi", "medium": "Memory"})), false),
        ] {
            assert_eq!(is_limited(&pod(spec.clone())), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_exceeded_is_told_in_upstreams_words() {
        let spec = json!({
            "containers": [container("c", "1Mi"), container("d", "2048Ki"), {"name": "e"}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "w", "emptyDir": {}}],
        });
        let spec = pod(spec).spec.expect("has one");
        for (used, expected) in [
            (used(&[], &[]), None),
            (used(&[("v", MEBIBYTE)], &[("c", MEBIBYTE), ("d", MEBIBYTE)]), None),
            (
                used(&[("v", MEBIBYTE + 1)], &[]),
                Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
            ),
            (
                used(&[("w", 2 * MEBIBYTE)], &[("d", MEBIBYTE), ("e", 1)]),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "),
            ),
            (
                used(&[], &[("d", 2 * MEBIBYTE + 1)]),
                Some("Container d exceeded its local ephemeral storage limit \"2Mi\". "),
            ),
            (
                Usage { others: MEBIBYTE + 1, ..used(&[("w", 2 * MEBIBYTE)], &[]) },
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "),
            ),
        ] {
            assert_eq!(excess(&spec, &used).as_deref(), expected, "{used:?}");
        }
    }

    #[test]
    fn a_pod_is_measured_every_ten_seconds_and_never_twice_at_once() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert_eq!(pace.look(at(100)), Due::At(at(110)));
        assert_eq!(pace.look(at(105)), Due::At(at(110)));
        assert_eq!(pace.look(at(110)), Due::Now);
        assert_eq!(pace.look(at(130)), Due::Later);
        pace.measured();
        assert_eq!(pace.look(at(131)), Due::At(at(141)));
        assert_eq!(pace.look(at(50)), Due::At(at(60)), "the clock was set back");
    }
}
