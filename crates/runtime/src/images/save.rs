//! Writing an image as an archive.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use tar::{Builder, Header};

use super::archive::{docker_json, index_json};
use super::content::{Content, NameRecord, Temporary, failed};
use super::digest::Digest;
use super::manifest::{Descriptor, MANIFEST, Manifest};
use crate::types::ImageError;

/// Writes the image beside `archive` and renames it when it is whole.
pub(crate) fn save(
    content: &Content,
    record: &NameRecord,
    names: &[String],
    archive: &Path,
) -> Result<(), ImageError> {
    let manifest: Manifest = content.json(&record.manifest)?;
    let media_type = manifest.media_type.clone().unwrap_or_else(|| MANIFEST.to_owned());
    let entry = Descriptor {
        media_type,
        digest: record.manifest.clone(),
        size: content.blob_size(&record.manifest).unwrap_or(0),
        platform: None,
        annotations: BTreeMap::new(),
    };
    let documents: [(&str, Vec<u8>); 3] = [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json", index_json(&entry, names)),
        ("manifest.json", docker_json(&manifest, names)),
    ];
    let write = || -> io::Result<()> {
        let file_name = archive.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
        let hidden = format!(".{}.{}", file_name.to_string_lossy(), uuid::Uuid::new_v4().simple());
        let temporary = Temporary(archive.with_file_name(hidden));
        let mut tar = Builder::new(BufWriter::with_capacity(1 << 18, File::create_new(&temporary.0)?));
        for (path, bytes) in &documents {
            tar.append_data(&mut header(bytes.len() as u64), path, bytes.as_slice())?;
        }
        let mut written = HashSet::new();
        for part in std::iter::once(&entry).chain(std::iter::once(&manifest.config)).chain(&manifest.layers) {
            if written.insert(&part.digest) {
                append_blob(&mut tar, content, &part.digest)?;
            }
        }
        let mut file = tar.into_inner()?;
        file.flush()?;
        file.get_ref().sync_data()?;
        std::fs::rename(&temporary.0, archive)
    };
    write().map_err(failed(format!("save {} to {}", record.config, archive.display())))
}

fn append_blob(tar: &mut Builder<impl io::Write>, content: &Content, digest: &Digest) -> io::Result<()> {
    let file = File::open(content.blob_path(digest))?;
    let size = file.metadata()?.len();
    tar.append_data(&mut header(size), format!("blobs/sha256/{}", digest.hex()), file)
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
