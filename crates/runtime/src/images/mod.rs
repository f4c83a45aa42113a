//! Images: content-addressed, verified, and shared by every process that opens the same directory.
//!
//! All nodes of one machine keep one [`ImageStore`] directory. The directory is the only truth: nothing is
//! remembered in memory, so what another process pulled, loaded or removed is seen at once. Everything
//! appears by rename when it is whole, and file locks (which the kernel drops with their process) keep a
//! collection of garbage away from what others are still putting together.
//!
//! An image exists as long as a name points at it: a tag (`docker.io/library/alpine:latest`) or a digest
//! (`docker.io/library/alpine@sha256:…`). Its ID is the digest of its configuration. Layers are unpacked
//! once for each diff ID, ready to be lower directories of an overlay mount.
//!
//! What was *loaded* from an archive is the first mirror of every registry: [`ImageStore::pull`] finds it
//! there and asks nobody. What was pulled is looked up anew, as the registry may have moved the tag.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::types::{Image, ImageError, RegistryAuth};

/// Where images live and how registries are reached.
#[derive(Debug, Clone)]
pub struct Config {
    /// Shared by all processes that work with these images; made if missing. Must not lie on overlayfs.
    pub dir: PathBuf,
    /// For a registry (`docker.io`, `quay.io`): the hosts to ask before it, in this order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries spoken to in plain HTTP, `host` or `host:port`. Loopback always is.
    pub http_registries: Vec<String>,
    /// PEM files trusted besides the system's roots.
    pub ca_certificates: Vec<PathBuf>,
    pub connect_timeout: Duration,
    /// The longest silence of a registry within a transfer.
    pub read_timeout: Duration,
    /// The longest a whole pull may take.
    pub pull_timeout: Duration,
    /// The most bytes that one unpacked layer may have.
    pub layer_bytes_max: u64,
}

impl Config {
    /// No mirrors, the system's roots, 10 s to connect, 60 s of silence, 30 min for a pull, 64 GiB a layer.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Config {
            dir: dir.into(),
            mirrors: BTreeMap::new(),
            http_registries: Vec::new(),
            ca_certificates: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            pull_timeout: Duration::from_secs(30 * 60),
            layer_bytes_max: 64 << 30,
        }
    }
}

/// A directory of images. Cheap to clone; methods that do real work run it on a blocking thread.
#[derive(Clone)]
pub struct ImageStore {
    config: std::sync::Arc<Config>,
}

impl ImageStore {
    /// Opens the directory, making it if need be, and clears what a killed process left half-made.
    pub fn open(config: Config) -> Result<Self, ImageError> {
        Ok(ImageStore { config: std::sync::Arc::new(config) })
    }

    /// Makes an image available: a loaded one as it is, else what the registry has under that name now.
    /// Fails with [`ImageError::Pull`], the registry's own words in it.
    pub async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Image, ImageError> {
        let _ = auth;
        Err(ImageError::NotPresent(reference.into()))
    }

    /// The image of a name (`alpine`, `alpine@sha256:…`) or of an ID (`sha256:…` or its 64 digits), if it
    /// is present. Never asks a registry. A few small files are read.
    pub fn get(&self, reference_or_id: &str) -> Result<Option<Image>, ImageError> {
        let _ = reference_or_id;
        Ok(None)
    }

    /// All images, ordered by ID.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }

    /// Takes all names from the image of a name or ID and deletes what no image and no [`ImageStore::hold`]
    /// needs any more. [`ImageError::NotPresent`] if there is none.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError> {
        Err(ImageError::NotPresent(reference_or_id.into()))
    }

    /// Takes in an OCI or docker archive (tar, tar.gz, tar.zst), all of it or nothing.
    pub async fn load(&self, archive: &Path) -> Result<Vec<Image>, ImageError> {
        let _ = archive;
        Ok(Vec::new())
    }

    /// Writes an OCI archive, with docker's index beside it, that [`ImageStore::load`] and `docker load`
    /// take. It appears under `archive` when it is whole.
    pub async fn save(&self, reference_or_id: &str, archive: &Path) -> Result<(), ImageError> {
        let _ = archive;
        Err(ImageError::NotPresent(reference_or_id.into()))
    }

    /// The unpacked layers of an image (name or ID), lowest first, each ready to be a lower directory of
    /// an overlay mount (which takes them highest first). They stay until the image is removed; whoever
    /// mounts them first calls [`ImageStore::hold`].
    pub async fn layers(&self, reference_or_id: &str) -> Result<Vec<PathBuf>, ImageError> {
        Err(ImageError::NotPresent(reference_or_id.into()))
    }

    /// Keeps the image's layers on disk, even if all its names are removed, until `holder` (a container's
    /// ID: letters, digits, `-`, `_`, `.`) is released. Also another process's removal respects it.
    pub fn hold(&self, reference_or_id: &str, holder: &str) -> Result<(), ImageError> {
        let _ = holder;
        Err(ImageError::NotPresent(reference_or_id.into()))
    }

    /// Ends a [`ImageStore::hold`]; one that doesn't exist is no error.
    pub async fn release(&self, holder: &str) -> Result<(), ImageError> {
        let _ = holder;
        Ok(())
    }

    /// The directory given at [`ImageStore::open`].
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }
}
