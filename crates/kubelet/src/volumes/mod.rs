//! A pod's volumes on the node: set up before its sandbox, refreshed while it runs, removed at its end.

pub(crate) mod atomic;
pub(crate) mod content;
mod host_path;
pub(crate) mod mounts;
mod ownership;
mod sub_path;

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EmptyDirVolumeSource, Pod, Secret, Volume, VolumeMount,
};
use skiff_api::quantity;
use skiff_runtime::usage::{self, DiskUsage};
use skiff_runtime::{Mount, Propagation, tree};

use crate::env::{Facts, Sources};
use crate::expansion::expand;
use crate::made_paths::{For, MadePaths};
use crate::resources;
use crate::tokens::{self, Wanted};

/// Why a volume can't be used; the message is the event's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
    SetUp { volume: String, reason: String },
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\"")]
    SubPath {
        volume: String,
        container: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Invalid(String),
}

/// The volumes' directory in a pod's.
const VOLUMES: &CStr = c"volumes";
/// Parts of them, mounted once more.
const SUB_PATHS: &CStr = c"volume-subpaths";

/// Where a volume lies on the node.
pub(crate) fn path(pod_dir: &Path, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(host_path) => PathBuf::from(&host_path.path),
        None => pod_dir.join(OsStr::from_bytes(VOLUMES.to_bytes())).join(kind(volume)).join(&volume.name),
    }
}

/// What the node keeps of a pod beside its volumes: files that its containers share and their messages. They
/// can write into most of them, as much as they like.
pub(crate) fn other_files(pod_dir: &Path) -> DiskUsage {
    usage::of_all_but(pod_dir, &[VOLUMES, SUB_PATHS]).unwrap_or_default()
}

fn kind(volume: &Volume) -> &'static str {
    if volume.config_map.is_some() {
        "configmap"
    } else if volume.secret.is_some() {
        "secret"
    } else if volume.downward_api.is_some() {
        "downward-api"
    } else if volume.projected.is_some() {
        "projected"
    } else {
        "empty-dir"
    }
}

/// Which volumes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// What is missing is told of those with tokens too, but only the others are made: tokens are
    /// fetched while the sandbox is made.
    WithoutTokens,
}

/// Finds objects as those it wraps, and any token, which is empty.
struct NoTokens<'a, S>(&'a S);

impl<S: Sources> Sources for NoTokens<'_, S> {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.0.config_map(name)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.secret(name)
    }

    fn token(&self, _: &Wanted) -> Option<&str> {
        Some("")
    }
}

/// Makes the volumes of the pod, or brings their content up to date.
pub(crate) fn set_up(
    pod_dir: &Path,
    facts: &Facts<'_>,
    sources: &impl Sources,
    part: Part,
    made: &MadePaths,
) -> Result<(), Error> {
    let volumes = facts.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let whose = name(facts.pod);
    let made = For { made, whose: &whose };
    let group = ownership::group(facts.pod);
    for volume in volumes {
        let fail = |reason: String| Error::SetUp { volume: volume.name.clone(), reason };
        let path = path(pod_dir, volume);
        if part == Part::WithoutTokens && tokens::of_volume(volume).next().is_some() {
            content::files(volume, facts, &NoTokens(sources)).map_err(fail)?;
        } else if let Some(source) = &volume.host_path {
            host_path::check(&path, source.type_.as_deref().unwrap_or_default(), made).map_err(fail)?;
        } else if let Some(mut files) = content::files(volume, facts, sources).map_err(fail)? {
            ownership::of_files(&mut files, group);
            if volume.secret.is_some() || volume.projected.is_some() {
                // What is secret is never written to a disk.
                mounts::tmpfs(&path, None).map_err(|error| fail(error.to_string()))?;
            }
            let write = || match atomic::write(&path, &files)? {
                true => ownership::of_directories(&path, group),
                false => Ok(()),
            };
            write().map_err(|error: io::Error| fail(error.to_string()))?;
        } else {
            // A volume without a source is an empty directory; others are refused before this.
            let source = volume.empty_dir.clone().unwrap_or_default();
            let size = memory_size(facts.pod, &source);
            empty_dir(&path, &source, size, group).map_err(|error| fail(error.to_string()))?;
        }
    }
    Ok(())
}

/// How much a directory in memory may hold: as much as it says, and no more than the pod may have, whose
/// memory it takes. `None` leaves it to the kernel, which allows half of the machine's.
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource) -> Option<u64> {
    let own = source.size_limit.as_ref().map(|limit| quantity::of(Some(limit)).value());
    let own = own.and_then(|bytes| u64::try_from(bytes).ok());
    let of_pod = pod.spec.as_ref().map(|spec| resources::of_pod(spec).memory_bytes);
    own.into_iter().chain(of_pod).filter(|bytes| *bytes > 0).min()
}

fn empty_dir(
    path: &Path,
    source: &EmptyDirVolumeSource,
    size: Option<u64>,
    group: Option<u32>,
) -> io::Result<()> {
    if source.medium.as_deref() != Some("Memory") {
        return ownership::new_directory(path, group);
    }
    let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    mounts::tmpfs(path, Some(&format!("{}{size}", ownership::mount_options(group))))
}

/// Unmounts and removes all that [`set_up`] and [`container_mounts`] made.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    mounts::unmount_below(pod_dir)?;
    match tree::remove(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `NAMESPACE/NAME`.
fn name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let part = |own: &Option<String>| own.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

/// A container's mounts, as the runtime takes them.
pub(crate) fn container_mounts(
    pod: &Pod,
    pod_dir: &Path,
    container: &Container,
    env: &[(String, String)],
    made: &MadePaths,
) -> Result<Vec<Mount>, Error> {
    let whose = name(pod);
    let made = For { made, whose: &whose };
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let volumes: Vec<&Volume> = volumes.collect();
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(|| {
            Error::Invalid(format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                mount.name, container.name
            ))
        })?;
        let whole = path(pod_dir, volume);
        let source = match sub_path_of(mount, env)? {
            Some(sub_path) => {
                let place = pod_dir
                    .join(OsStr::from_bytes(SUB_PATHS.to_bytes()))
                    .join(&mount.name)
                    .join(&container.name)
                    .join(index.to_string());
                let made = volume.host_path.is_some().then_some(made);
                sub_path::pin(&whole, Path::new(&sub_path), &place, made).map_err(|source| {
                    Error::SubPath { volume: mount.name.clone(), container: container.name.clone(), source }
                })?;
                place
            }
            None => whole,
        };
        // What the API wrote is not the pod's to change.
        let given = volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.projected.is_some();
        mounts.push(Mount {
            source,
            target: absolute(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false) || given,
            recursive_read_only: is_recursively_read_only(mount),
            name: mount.name.clone(),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    Ok(mounts)
}

/// Every kernel that this runs on can do it, so that it is possible wherever it is asked for.
pub(crate) fn is_recursively_read_only(mount: &VolumeMount) -> bool {
    mount.read_only == Some(true)
        && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn sub_path_of(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, Error> {
    if let Some(text) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        let value_of = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let path = expand(text, value_of)
            .ok_or_else(|| Error::Invalid(format!("subPathExpr of {} is too long", mount.name)))?;
        if path.contains("$(") {
            return Err(Error::Invalid(format!("missing value for {text:?}")));
        }
        return Ok(Some(path));
    }
    Ok(mount.sub_path.clone().filter(|path| !path.is_empty()))
}

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;
