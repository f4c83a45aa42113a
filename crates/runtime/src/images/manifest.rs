//! The JSON documents of images, as far as they are needed here.
//!
//! <https://github.com/opencontainers/image-spec>: index, manifest, configuration; and docker's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::types::Image;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(crate) const NAME_OF_CONTAINERD: &str = "io.containerd.image.name";
pub(crate) const NAME_OF_OCI: &str = "org.opencontainers.image.ref.name";

/// More than any honest image has; overlayfs takes 500 lower directories.
const LAYERS_MAX: usize = 500;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    #[serde(default)]
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An index or a manifest: what they are is told by what they have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: Option<RunConfig>,
    #[serde(default)]
    pub rootfs: RootFs,
}

/// What a container of the image runs as; the names are docker's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// One element of docker's `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

impl Manifest {
    /// Checks manifest and configuration against each other.
    pub(crate) fn check(&self, config: &ImageConfig) -> Result<(), String> {
        let (layers, diff_ids) = (self.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(format!("the manifest has {layers} layers, the configuration {diff_ids} diff IDs"));
        }
        if layers > LAYERS_MAX {
            return Err(format!("the image has {layers} layers; {LAYERS_MAX} are the most"));
        }
        let (os, architecture) = (config.os.as_str(), config.architecture.as_str());
        if !matches!(os, "" | "linux")
            || !matches!(architecture, "" | "unknown") && architecture != own_architecture()
        {
            return Err(format!(
                "the image is for {os}/{architecture}, this machine is linux/{}",
                own_architecture()
            ));
        }
        Ok(())
    }

    /// As containerd counts: what is kept of it, compressed.
    pub(crate) fn size(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

impl Index {
    /// The manifest for this machine: its own platform, else one that names none.
    pub(crate) fn choose(&self) -> Option<&Descriptor> {
        let fits =
            |platform: &Platform| platform.os == "linux" && platform.architecture == own_architecture();
        let own = self.manifests.iter().filter(|entry| entry.platform.as_ref().is_some_and(fits));
        // Of several variants the plainest: a processor may lack what `v3` needs.
        own.min_by_key(|entry| entry.platform.as_ref().and_then(|platform| platform.variant.clone()))
            .or_else(|| self.manifests.iter().find(|entry| entry.platform.is_none()))
    }
}

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_INDEX)
}

/// This machine's architecture in Go's words, which images use.
pub(crate) fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The public view of an image; `names` are full references.
pub(crate) fn image(id: &Digest, names: &[String], size_bytes: u64, config: ImageConfig) -> Image {
    let run = config.config.unwrap_or_default();
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (digests, tags) = names.iter().cloned().partition(|name| name.contains('@'));
    Image {
        id: id.to_string(),
        tags,
        digests,
        size_bytes,
        user: some(run.user),
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        working_dir: some(run.working_dir),
        stop_signal: some(run.stop_signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<(&str, &str)>, byte: u8) -> Descriptor {
        Descriptor {
            media_type: MANIFEST.into(),
            digest: Digest::of(&[byte]),
            size: 1,
            platform: platform.map(|(os, architecture)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: None,
            }),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn an_index_gives_the_own_platform() {
        let other = if own_architecture() == "s390x" { "amd64" } else { "s390x" };
        let index = |manifests| Index { schema_version: 2, media_type: None, manifests };
        let both =
            index(vec![entry(Some(("linux", other)), 1), entry(Some(("linux", own_architecture())), 2)]);
        assert_eq!(both.choose().unwrap().digest, Digest::of(&[2]));
        assert!(index(vec![entry(Some(("linux", other)), 1)]).choose().is_none());
        assert_eq!(index(vec![entry(None, 3)]).choose().unwrap().digest, Digest::of(&[3]));
    }
}
