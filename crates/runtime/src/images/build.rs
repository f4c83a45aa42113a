//! Making image archives from files in memory: small images for tests and for what a program brings along.
//!
//! ```
//! use skiff_runtime::images::build::{Builder, Layer};
//! let layer = Layer::new().directory("tmp", 0o1777).file("bin/hello", 0o755, b"...");
//! let archive: Vec<u8> = Builder::new("hello:v1").layer(layer).entrypoint(["/bin/hello"]).oci();
//! ```

use std::collections::BTreeMap;
use std::io::Write as _;

use tar::{EntryType, Header};

use super::archive::{docker_json, index_json};
use super::digest::Digest;
use super::manifest::{
    CONFIG, Descriptor, DockerImage, ImageConfig, LAYER_GZIP, LAYER_TAR, MANIFEST, Manifest, RootFs,
    RunConfig, own_architecture,
};

/// The files of one layer. All belong to root and are as old as the epoch, so equal layers are identical.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

/// An image of layers, and the archives it can be written as.
pub struct Builder {
    name: Option<String>,
    layers: Vec<Vec<u8>>,
    run: RunConfig,
    gzip: bool,
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    pub fn new() -> Self {
        Layer { tar: tar::Builder::new(Vec::new()) }
    }

    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(&format!("{path}/"), EntryType::Directory, mode, &[], "")
    }

    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, data, "")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, &[], target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, &[], target)
    }

    /// Hides what a lower layer has at this path.
    pub fn whiteout(self, path: &str) -> Self {
        let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
        self.entry(&format!("{directory}/.wh.{name}"), EntryType::Regular, 0o600, &[], "")
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, data: &[u8], link: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if !link.is_empty() {
            header.set_link_name_literal(link).expect("a link's target has at most 100 bytes");
        }
        self.tar.append_data(&mut header, path, data).expect("a path is relative and memory takes all");
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.tar.into_inner().expect("memory takes all")
    }
}

impl Builder {
    pub fn new(name: &str) -> Self {
        Builder { name: Some(name.to_owned()), ..Builder::nameless() }
    }

    /// An image that [`crate::images::ImageStore::load`] refuses, as it has no name.
    pub fn nameless() -> Self {
        Builder { name: None, layers: Vec::new(), run: RunConfig::default(), gzip: false }
    }

    /// Adds a layer above those there are.
    pub fn layer(self, layer: Layer) -> Self {
        self.layer_tar(layer.into_bytes())
    }

    /// Adds a layer that is a tar archive already.
    pub fn layer_tar(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.run.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.run.cmd = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// `NAME=value`.
    pub fn env(mut self, variable: &str) -> Self {
        self.run.env.get_or_insert_default().push(variable.to_owned());
        self
    }

    pub fn user(mut self, user: &str) -> Self {
        self.run.user = Some(user.to_owned());
        self
    }

    pub fn working_dir(mut self, directory: &str) -> Self {
        self.run.working_dir = Some(directory.to_owned());
        self
    }

    /// Compresses the layers (OCI archives only).
    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    /// An OCI layout in a tar archive, with docker's index beside it.
    pub fn oci(&self) -> Vec<u8> {
        let (config, manifest, mut blobs) = self.documents();
        let manifest_bytes = serde_json::to_vec(&manifest).expect("plain data becomes JSON");
        let names: Vec<String> = self.name.iter().cloned().collect();
        let entry = descriptor(MANIFEST, &manifest_bytes);
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index_json(&entry, &names)),
            ("manifest.json".to_owned(), docker_json(&manifest, &names)),
        ];
        blobs.extend([config, manifest_bytes]);
        for blob in blobs {
            files.push((format!("blobs/sha256/{}", Digest::of(&blob).hex()), blob));
        }
        pack(files)
    }

    /// What `docker save` wrote before version 25.
    pub fn docker(&self) -> Vec<u8> {
        let (config, _, _) = self.documents();
        let config_path = format!("{}.json", Digest::of(&config).hex());
        let mut files = vec![(config_path.clone(), config)];
        let mut layers = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            layers.push(format!("{index:064x}/layer.tar"));
            files.push((layers[index].clone(), layer.clone()));
        }
        let repo_tags = self.name.iter().cloned().collect();
        let image = DockerImage { config: config_path, repo_tags: Some(repo_tags), layers };
        files.push(("manifest.json".into(), serde_json::to_vec(&[image]).expect("plain data becomes JSON")));
        pack(files)
    }

    /// Configuration, manifest, and the layers as they are stored.
    pub(crate) fn documents(&self) -> (Vec<u8>, Manifest, Vec<Vec<u8>>) {
        let config = ImageConfig {
            architecture: own_architecture().to_owned(),
            os: "linux".to_owned(),
            config: Some(self.run.clone()),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: self.layers.iter().map(|l| Digest::of(l)).collect(),
            },
        };
        let config = serde_json::to_vec(&config).expect("plain data becomes JSON");
        let stored: Vec<Vec<u8>> = match self.gzip {
            true => self.layers.iter().map(|layer| gzip(layer)).collect(),
            false => self.layers.clone(),
        };
        let media_type = if self.gzip { LAYER_GZIP } else { LAYER_TAR };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.into()),
            config: descriptor(CONFIG, &config),
            layers: stored.iter().map(|layer| descriptor(media_type, layer)).collect(),
        };
        (config, manifest, stored)
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all")
}

fn pack(files: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = Layer::new();
    for (path, data) in files {
        tar = tar.file(&path, 0o644, &data);
    }
    tar.into_bytes()
}
