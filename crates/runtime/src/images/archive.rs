//! Reading image archives: OCI layouts and what `docker save` writes, in tar, tar.gz or tar.zst.
//!
//! An archive may have its parts in any order, so its files are first staged in the store's `tmp`, hashed
//! on the way; then [`Staged::images`] decides from the small documents alone what is in it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::content::{Content, FinishedBlob, JSON_BYTES_MAX};
use super::digest::Digest;
use super::manifest::{
    CONFIG, Descriptor, DockerImage, INDEX, Index, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST, Manifest,
    NAME_OF_CONTAINERD, NAME_OF_OCI, is_index,
};
use super::reference::Reference;
use super::tar::{Kind, TarReader};
use super::unpack::{Bounded, decompress};

const FILES_MAX: usize = 50_000;
const LINKS_MAX: usize = 16;

/// The files of an archive, each in a temporary file.
pub(crate) struct Staged {
    files: HashMap<String, Part>,
}

enum Part {
    File(FinishedBlob),
    /// To another path of the archive: docker links equal layers.
    Link(String),
}

/// An image of an archive, its manifest not yet checked against its configuration.
#[derive(Debug)]
pub(crate) struct Found {
    pub names: Vec<Reference>,
    pub manifest_bytes: Vec<u8>,
    pub manifest: Manifest,
    pub target: Digest,
}

/// Copies the archive's files into the store's temporary directory and verifies those named by digest.
pub(crate) fn stage(content: &Content, archive: &Path, bytes_max: u64) -> Result<Staged, String> {
    let io = |error: io::Error| error.to_string();
    let file = File::open(archive).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err("it is not a regular file".into());
    }
    let plain = decompress(io::BufReader::with_capacity(1 << 18, file)).map_err(io)?;
    let mut tar = TarReader::new(Bounded { inner: plain, left: bytes_max, max: bytes_max });
    let mut files = HashMap::new();
    while let Some(entry) = tar.next().map_err(io)? {
        if files.len() >= FILES_MAX {
            return Err(format!("it has more than {FILES_MAX} files"));
        }
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let Some(path) = normal(&path) else { continue };
        let part = match &entry.kind {
            Kind::File => {
                let mut blob = content.new_blob().map_err(|error| error.to_string())?;
                io::copy(&mut tar, &mut blob).map_err(io)?;
                let blob = blob.finish();
                if let Some(claimed) = path.strip_prefix("blobs/sha256/")
                    && claimed != blob.digest.hex()
                {
                    return Err(format!("the blob sha256:{claimed} really has the digest {}", blob.digest));
                }
                Part::File(blob)
            }
            Kind::Symlink(target) => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                match normal(&format!("{directory}/{}", String::from_utf8_lossy(target))) {
                    Some(target) => Part::Link(target),
                    None => continue,
                }
            }
            Kind::HardLink(target) => match normal(&String::from_utf8_lossy(target)) {
                Some(target) => Part::Link(target),
                None => continue,
            },
            _ => continue,
        };
        files.insert(path, part);
    }
    Ok(Staged { files })
}

impl Staged {
    /// What images the archive has, with their names. Changes nothing.
    pub(crate) fn images(&self) -> Result<Vec<Found>, String> {
        let nameless = "it gives its image no name: write it with one (docker save NAME, skopeo copy … \
             docker-archive:FILE:NAME, or the annotation org.opencontainers.image.ref.name in index.json)";
        let (oci, docker) = (self.file("index.json"), self.file("manifest.json"));
        let mut found = Vec::new();
        if oci.is_some() {
            found = self.oci_images()?;
        }
        if found.is_empty() && docker.is_some() {
            found = self.docker_images()?;
        }
        match (oci, docker) {
            (None, None) => Err("it is no image archive: it has neither index.json nor manifest.json".into()),
            _ if found.is_empty() => Err(nameless.into()),
            _ => Ok(found),
        }
    }

    /// The staged file that has this content.
    pub(crate) fn take(&mut self, digest: &Digest) -> Option<FinishedBlob> {
        let is_it = |part: &Part| matches!(part, Part::File(blob) if blob.digest == *digest);
        let path = self.files.iter().find(|(_, part)| is_it(part))?.0.clone();
        match self.files.remove(&path)? {
            Part::File(blob) => Some(blob),
            Part::Link(_) => None,
        }
    }

    fn oci_images(&self) -> Result<Vec<Found>, String> {
        let index: Index = self.json("index.json")?;
        let mut by_name: BTreeMap<String, Vec<Descriptor>> = BTreeMap::new();
        for entry in index.manifests {
            let annotation = |key: &str| entry.annotations.get(key).filter(|name| !name.is_empty()).cloned();
            if let Some(name) = annotation(NAME_OF_CONTAINERD).or_else(|| annotation(NAME_OF_OCI)) {
                by_name.entry(name).or_default().push(entry);
            }
        }
        let mut found: Vec<Found> = Vec::new();
        for (name, manifests) in by_name {
            let name = reference(&name)?;
            let platforms = Index { schema_version: 2, media_type: None, manifests };
            let entry = platforms.choose().unwrap_or(&platforms.manifests[0]);
            let target = entry.digest.clone();
            let mut bytes = self.blob(&target)?;
            let document: serde_json::Value = parse("its manifest", &bytes)?;
            if is_index(&entry.media_type) || document.get("manifests").is_some() {
                let inner: Index = parse("its index", &bytes)?;
                let own = super::manifest::own_architecture();
                let chosen = inner.choose().ok_or_else(|| format!("{name} has no image for linux/{own}"))?;
                bytes = self.blob(&chosen.digest)?;
            }
            let manifest = parse("its manifest", &bytes)?;
            match found.iter_mut().find(|other| other.target == target) {
                Some(other) => other.names.push(name),
                None => found.push(Found { names: vec![name], manifest_bytes: bytes, manifest, target }),
            }
        }
        Ok(found)
    }

    /// Docker's format has no manifest in OCI's sense; one is made, always the same for the same image.
    fn docker_images(&self) -> Result<Vec<Found>, String> {
        let images: Vec<DockerImage> = self.json("manifest.json")?;
        let mut found = Vec::new();
        for image in images {
            let names = image.repo_tags.unwrap_or_default();
            let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect::<Result<_, _>>()?;
            if names.is_empty() {
                continue;
            }
            let config = self.file(&image.config).ok_or_else(|| format!("it lacks {:?}", image.config))?;
            if let Some(hex) = image.config.strip_suffix(".json")
                && let Some(claimed) = Digest::from_hex(hex)
                && claimed != config.digest
            {
                return Err(format!("the configuration {claimed} really has the digest {}", config.digest));
            }
            let mut layers = Vec::new();
            for path in &image.layers {
                let layer = self.file(path).ok_or_else(|| format!("it lacks the layer {path:?}"))?;
                layers.push(descriptor(layer_type(layer)?, layer));
            }
            let config = descriptor(CONFIG, config);
            let manifest = Manifest { schema_version: 2, media_type: Some(MANIFEST.into()), config, layers };
            let manifest_bytes = serde_json::to_vec(&manifest).expect("plain data becomes JSON");
            let target = Digest::of(&manifest_bytes);
            found.push(Found { names, manifest_bytes, manifest, target });
        }
        Ok(found)
    }

    fn file(&self, path: &str) -> Option<&FinishedBlob> {
        let mut path = normal(path)?;
        for _ in 0..LINKS_MAX {
            match self.files.get(&path)? {
                Part::File(blob) => return Some(blob),
                Part::Link(target) => path = target.clone(),
            }
        }
        None
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let blob = self.file(&format!("blobs/sha256/{}", digest.hex()));
        small(blob.ok_or_else(|| format!("it lacks the blob {digest}"))?)
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let blob = self.file(path).ok_or_else(|| format!("it lacks {path:?}"))?;
        parse(path, &small(blob)?)
    }
}

/// Like `a/b`; `None` for what leaves the archive or is its root.
fn normal(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn reference(name: &str) -> Result<Reference, String> {
    Reference::parse(name).map_err(|error| error.to_string())
}

fn descriptor(media_type: &str, blob: &FinishedBlob) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: blob.digest.clone(),
        size: blob.size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn layer_type(blob: &FinishedBlob) -> Result<&'static str, String> {
    let mut magic = Vec::new();
    let file = File::open(blob.path()).map_err(|error| error.to_string())?;
    file.take(4).read_to_end(&mut magic).map_err(|error| error.to_string())?;
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => LAYER_ZSTD,
        _ => LAYER_TAR,
    })
}

fn small(blob: &FinishedBlob) -> Result<Vec<u8>, String> {
    if blob.size > JSON_BYTES_MAX {
        return Err(format!("a document of it has {} bytes; {JSON_BYTES_MAX} are the most", blob.size));
    }
    std::fs::read(blob.path()).map_err(|error| error.to_string())
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{what} can't be understood: {error}"))
}

/// The top-level `index.json` for a saved image: one entry for each of its names.
pub(crate) fn index_json(entry: &Descriptor, names: &[String]) -> Vec<u8> {
    let named = |name: &String| {
        let mut entry = entry.clone();
        entry.annotations.insert(NAME_OF_CONTAINERD.into(), name.clone());
        entry.annotations.insert(NAME_OF_OCI.into(), name.clone());
        entry
    };
    let manifests = match names {
        [] => vec![entry.clone()],
        names => names.iter().map(named).collect(),
    };
    let index = Index { schema_version: 2, media_type: Some(INDEX.into()), manifests };
    serde_json::to_vec(&index).expect("plain data becomes JSON")
}

/// Docker's `manifest.json` beside it, for engines that know only that.
pub(crate) fn docker_json(manifest: &Manifest, names: &[String]) -> Vec<u8> {
    let path = |entry: &Descriptor| format!("blobs/sha256/{}", entry.digest.hex());
    let image = DockerImage {
        config: path(&manifest.config),
        repo_tags: Some(names.to_vec()),
        layers: manifest.layers.iter().map(path).collect(),
    };
    serde_json::to_vec(&[image]).expect("plain data becomes JSON")
}
