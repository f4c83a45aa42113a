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

mod access;
mod archive;
pub mod build;
mod collect;
mod content;
mod digest;
mod lookup;
mod manifest;
mod reference;
mod registry;
mod save;
mod tar;
#[cfg(test)]
mod tests;
mod unpack;
mod uses;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _};

use self::access::Access;
use self::content::{Content, LayerRecord, NameRecord, Temporary, failed};
use self::digest::{Digest, HashingReader};
use self::manifest::{Descriptor, ImageConfig, Manifest};
pub use self::reference::repository;
use self::reference::{Reference, Version};
use crate::types::{Image, ImageError, Loaded, Pulled, RegistryAuth};

/// Blobs fetched at once for one pull.
const FETCHES_MAX: usize = 3;

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
    config: Arc<Config>,
    content: Arc<Content>,
}

impl ImageStore {
    /// Opens the directory, making it if need be, and clears what a killed process left half-made.
    pub fn open(config: Config) -> Result<Self, ImageError> {
        let content = Content::open(&config.dir)?;
        if !content.files("tmp")?.is_empty() {
            content.mark_garbage()?;
        }
        collect::collect(&content)?;
        Ok(ImageStore { config: Arc::new(config), content: Arc::new(content) })
    }

    /// Makes an image available: a loaded one as it is, else what the registry has under that name now.
    /// Fails with [`ImageError::Pull`], the registry's own words in it.
    pub async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Pulled, ImageError> {
        let name = Reference::parse(reference)?;
        let loaded = self.blocking({
            let name = name.clone();
            move |store| {
                let _lock = store.content.lock_shared()?;
                match store.content.record(&name.to_string())? {
                    Some(record) if record.loaded => store.unpacked(&record).map(Some),
                    _ => Ok(None),
                }
            }
        });
        if let Some(image) = loaded.await? {
            return Ok(Pulled { image, unpacking: None });
        }
        let refused = |reason: String| ImageError::Pull { reference: name.to_string(), reason };
        let limit = self.config.pull_timeout;
        let result = match tokio::time::timeout(limit, self.pull_from_registry(&name, auth)).await {
            Ok(result) => result.map_err(refused),
            Err(_) => Err(refused(format!("it took more than {} s", limit.as_secs()))),
        };
        self.blocking(|store| collect::collect(&store.content)).await?;
        result
    }

    /// The image of a name (`alpine`, `alpine@sha256:…`) or of an ID (`sha256:…` or its 64 digits), if it
    /// is present. Never asks a registry. A few small files are read.
    pub fn get(&self, reference_or_id: &str) -> Result<Option<Image>, ImageError> {
        let records = self.content.records()?;
        let Some(record) = find(&records, reference_or_id)? else { return Ok(None) };
        match self.image(record, &records) {
            // Another process removed it between the two looks.
            Err(_) if self.content.record(&record.name)?.is_none() => Ok(None),
            result => result.map(Some),
        }
    }

    /// Whether an image that is present may be used by who has these credentials without the registry's being
    /// asked again. An ID is as open as the most open of its image's names.
    pub fn is_given_to(
        &self,
        reference_or_id: &str,
        credentials: &[RegistryAuth],
    ) -> Result<bool, ImageError> {
        let records = self.content.records()?;
        let Some(record) = find(&records, reference_or_id)? else { return Ok(false) };
        let by_id = Reference::parse(reference_or_id).is_err();
        let same = records.iter().filter(|other| by_id && other.config == record.config);
        Ok(same.chain([record]).any(|record| record.access.is_given_to(credentials)))
    }

    /// All images, ordered by ID. One whose configuration can't be read is left out, with a warning.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let records = self.content.records()?;
        let by_id: BTreeMap<&Digest, &NameRecord> =
            records.iter().map(|record| (&record.config, record)).collect();
        let mut images = Vec::new();
        for record in by_id.into_values() {
            match self.image(record, &records) {
                Ok(image) => images.push(image),
                // Another process may be removing it at this moment.
                Err(error) => tracing::warn!(name = record.name, %error, "left out an image"),
            }
        }
        Ok(images)
    }

    /// Takes in an OCI or docker archive (tar, tar.gz, tar.zst), all of it or nothing.
    pub async fn load(&self, archive: &Path) -> Result<Vec<Loaded>, ImageError> {
        let archive = archive.to_owned();
        self.blocking(move |store| {
            let result = store.load_archive(&archive);
            collect::collect(&store.content)?;
            result
        })
        .await
    }

    /// Writes an OCI archive, with docker's index beside it, that [`ImageStore::load`] and `docker load`
    /// take. It appears under `archive` when it is whole. Given a name, the archive has that one; given an
    /// ID, all tags of the image.
    pub async fn save(&self, reference_or_id: &str, archive: &Path) -> Result<(), ImageError> {
        let (wanted, archive) = (reference_or_id.to_owned(), archive.to_owned());
        self.blocking(move |store| {
            // Held, so that a removal elsewhere deletes nothing under our hands.
            let _lock = store.content.lock_shared()?;
            let records = store.content.records()?;
            let found = find(&records, &wanted)?.ok_or_else(|| ImageError::NotPresent(wanted.clone()))?;
            let names: Vec<String> = match Reference::parse(&wanted) {
                Ok(Reference { version: Version::Tag(_), .. }) => vec![found.name.clone()],
                _ => tags(&records, &found.config).collect(),
            };
            save::save(&store.content, found, &names, &archive)
        })
        .await
    }

    /// The unpacked layers of an image (name or ID), lowest first, each ready to be a lower directory of
    /// an overlay mount (which takes them highest first). They stay until the image is removed; whoever
    /// mounts them first calls [`ImageStore::hold`].
    pub async fn layers(&self, reference_or_id: &str) -> Result<Vec<PathBuf>, ImageError> {
        let wanted = reference_or_id.to_owned();
        self.blocking(move |store| {
            // Held, so that a removal elsewhere happens before the look or after the unpacking.
            let _lock = store.content.lock_shared()?;
            let records = store.content.records()?;
            let found = find(&records, &wanted)?.ok_or_else(|| ImageError::NotPresent(wanted.clone()))?;
            for layer in &found.layers {
                store.unpack(layer)?;
            }
            Ok(found.layers.iter().map(|layer| store.content.layer_path(&layer.diff_id)).collect())
        })
        .await
    }

    /// The directory given at [`ImageStore::open`].
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }

    async fn pull_from_registry(
        &self,
        name: &Reference,
        auth: Option<RegistryAuth>,
    ) -> Result<Pulled, String> {
        let said = |error: ImageError| chain(&error);
        tracing::debug!(image = %name, "resolving");
        let found = registry::resolve(&self.config, name, auth.clone()).await?;
        let lock = self.blocking(|store| store.content.lock_shared()).await.map_err(said)?;
        // Until a name points at them, the fetched parts are garbage.
        self.content.mark_garbage().map_err(said)?;
        let mut wanted: Vec<&Descriptor> = vec![&found.manifest.config];
        wanted.extend(&found.manifest.layers);
        wanted.sort_by(|a, b| a.digest.cmp(&b.digest));
        wanted.dedup_by(|a, b| a.digest == b.digest);
        // Collected first: a closure held across an await would keep the future from being `Send`.
        let fetches: Vec<_> = wanted.into_iter().map(|blob| self.fetch(&found, blob)).collect();
        futures_util::stream::iter(fetches).buffer_unordered(FETCHES_MAX).try_collect::<Vec<()>>().await?;
        let name = name.clone();
        let install = move |store: &ImageStore| -> Result<Pulled, ImageError> {
            let began = SystemTime::now();
            let record = store.install(&found.manifest_bytes, &found.manifest, &found.target)?;
            let unpacking = Some((began, SystemTime::now()));
            store.content.sync()?;
            let record = NameRecord { access: Access::of(auth.as_ref()), ..record };
            Ok(Pulled { image: store.name(&record, &[name], Origin::Registry(auth))?, unpacking })
        };
        let pulled = self.blocking(install).await.map_err(said)?;
        let image = &pulled.image;
        drop(lock);
        tracing::info!(image = image.id, tags = ?image.tags, bytes = image.size_bytes, "pulled");
        Ok(pulled)
    }

    /// Fetches a blob unless it is there; of several who want it, in whatever process, one does.
    async fn fetch(&self, found: &registry::Resolved, blob: &Descriptor) -> Result<(), String> {
        let said = |error: ImageError| chain(&error);
        if self.content.blob_size(&blob.digest).is_some() {
            return Ok(());
        }
        let digest = blob.digest.clone();
        let _lock = self.blocking(move |store| store.content.lock_digest(&digest)).await.map_err(said)?;
        if self.content.blob_size(&blob.digest).is_some() {
            return Ok(());
        }
        let fetched = found.fetch(blob, self.content.new_blob().map_err(said)?).await?;
        self.content.keep(fetched).map_err(said)
    }

    fn load_archive(&self, archive: &Path) -> Result<Vec<Loaded>, ImageError> {
        let refused = |reason: String| ImageError::Load { archive: archive.to_owned(), reason };
        let _lock = self.content.lock_shared()?;
        let mut staged =
            archive::stage(&self.content, archive, self.config.layer_bytes_max).map_err(refused)?;
        let found = staged.images().map_err(refused)?;
        self.content.mark_garbage()?;
        let mut installed = Vec::new();
        for image in &found {
            for blob in std::iter::once(&image.manifest.config).chain(&image.manifest.layers) {
                match staged.take(&blob.digest) {
                    Some(part) => self.content.keep(part)?,
                    None if self.content.blob_size(&blob.digest).is_some() => {}
                    None => return Err(refused(format!("it lacks the blob {}", blob.digest))),
                }
            }
            let record = self.install(&image.manifest_bytes, &image.manifest, &image.target);
            let record = record.map_err(|error| refused(chain(&error)))?;
            installed.push((record, &image.names));
        }
        self.content.sync()?;
        let named = installed.iter().map(|(record, names)| {
            let image = self.name(record, names, Origin::Archive)?;
            Ok(Loaded { image, names: names.iter().map(Reference::to_string).collect() })
        });
        named.collect()
    }

    /// Checks an image whose blobs are there, and unpacks its layers. The record has no name yet.
    fn install(
        &self,
        manifest_bytes: &[u8],
        manifest: &Manifest,
        target: &Digest,
    ) -> Result<NameRecord, ImageError> {
        let config: ImageConfig = self.content.json(&manifest.config.digest)?;
        let wrong = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
        manifest.check(&config).map_err(|reason| failed("take this image".into())(wrong(reason)))?;
        let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let record = NameRecord {
            name: String::new(),
            manifest: self.content.add_blob(manifest_bytes)?,
            target: target.clone(),
            config: manifest.config.digest.clone(),
            layers: pairs
                .map(|(blob, id)| LayerRecord { blob: blob.digest.clone(), diff_id: id.clone() })
                .collect(),
            size_bytes: manifest.size() + manifest_bytes.len() as u64,
            loaded: false,
            access: Access::Everybody,
        };
        for layer in &record.layers {
            self.unpack(layer)?;
        }
        Ok(record)
    }

    /// Unpacks a layer unless it is there; of several who want it, in whatever process, one does.
    fn unpack(&self, layer: &LayerRecord) -> Result<(), ImageError> {
        let content = &self.content;
        if content.has_layer(&layer.diff_id) {
            return Ok(());
        }
        let _lock = content.lock_digest(&layer.diff_id)?;
        if content.has_layer(&layer.diff_id) {
            return Ok(());
        }
        let action = || format!("unpack layer {}", layer.blob);
        let directory = Temporary(content.temporary());
        let unpacked = || -> std::io::Result<()> {
            std::fs::DirBuilder::new().mode(0o755).create(&directory.0)?;
            let mut blob = HashingReader::new(File::open(content.blob_path(&layer.blob))?);
            let diff_id = unpack::unpack(&mut blob, &directory.0, self.config.layer_bytes_max)?;
            // What follows the compressed stream belongs to the digest as well.
            std::io::copy(&mut blob, &mut std::io::sink())?;
            let digest = blob.hasher.finish();
            if digest != layer.blob {
                return Err(std::io::Error::other(format!("the stored blob has the digest {digest}")));
            }
            if diff_id != layer.diff_id {
                let wanted = &layer.diff_id;
                let text = format!("its diff ID is {diff_id}, but the image's configuration says {wanted}");
                return Err(std::io::Error::other(text));
            }
            std::fs::rename(&directory.0, content.layer_path(&layer.diff_id))
        };
        unpacked().map_err(failed(action()))
    }

    /// Points names, and the digest in each of their repositories, at an installed image, and tells it as
    /// it then is.
    fn name(&self, record: &NameRecord, names: &[Reference], origin: Origin) -> Result<Image, ImageError> {
        let _lock = self.content.lock_names()?;
        for name in names {
            for name in [name.at(&record.target), name.clone()] {
                // A digest that was loaded stays so; a tag now means what the registry said.
                let is_digest = matches!(name.version, Version::Digest(_));
                let name = name.to_string();
                let former = self.content.record(&name)?.filter(|former| former.config == record.config);
                let loaded = match &origin {
                    Origin::Archive => true,
                    Origin::Registry(_) => is_digest && former.as_ref().is_some_and(|former| former.loaded),
                };
                let access = match (&origin, former) {
                    (Origin::Registry(auth), Some(former)) => {
                        former.access.with(record.access.clone(), auth.as_ref())
                    }
                    _ => record.access.clone(),
                };
                self.content.put_record(&NameRecord { name, loaded, access, ..record.clone() })?;
            }
        }
        self.image(record, &self.content.records()?)
    }

    /// The image of a record, its layers unpacked again if somebody deleted them.
    fn unpacked(&self, record: &NameRecord) -> Result<Image, ImageError> {
        for layer in &record.layers {
            self.unpack(layer)?;
        }
        self.image(record, &self.content.records()?)
    }

    fn image(&self, record: &NameRecord, records: &[NameRecord]) -> Result<Image, ImageError> {
        let same = records.iter().filter(|other| other.config == record.config);
        let names: Vec<String> = same.map(|record| record.name.clone()).collect();
        let config = self.content.json(&record.config)?;
        Ok(manifest::image(&record.config, &names, record.size_bytes, config))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => Err(failed("finish work on images".into())(std::io::Error::other(error))),
        }
    }
}

/// Where an image came from.
enum Origin {
    Archive,
    Registry(Option<RegistryAuth>),
}

/// The record that a name or ID means.
fn find<'a>(records: &'a [NameRecord], reference_or_id: &str) -> Result<Option<&'a NameRecord>, ImageError> {
    let id = Digest::parse(reference_or_id).or_else(|| Digest::from_hex(reference_or_id));
    if let Some(id) = id {
        return Ok(records.iter().find(|record| record.config == id));
    }
    let name = Reference::parse(reference_or_id)?;
    let text = name.to_string();
    if let Some(record) = records.iter().find(|record| record.name == text) {
        return Ok(Some(record));
    }
    // One may also ask for the manifest within an index, which has no name of its own.
    let Version::Digest(digest) = &name.version else { return Ok(None) };
    let repository =
        |record: &&NameRecord| Reference::parse(&record.name).is_ok_and(|other| other.at(digest) == name);
    Ok(records.iter().filter(|record| record.manifest == *digest).find(repository))
}

fn tags<'a>(records: &'a [NameRecord], id: &'a Digest) -> impl Iterator<Item = String> + 'a {
    records
        .iter()
        .filter(move |record| record.config == *id && !record.name.contains('@'))
        .map(|r| r.name.clone())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
