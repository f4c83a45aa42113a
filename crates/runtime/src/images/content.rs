//! The store's directory: blobs, unpacked layers, names, holds and locks.
//!
//! ```text
//! blobs/<hex>       manifests, configurations and layers as they came, each with this SHA-256
//! layers/<diff id>  unpacked layers, ready for overlayfs
//! names/<encoded>   a record: which manifest a name means
//! holds/<holder>    a record: which layers somebody has mounted
//! tmp/              what is being made; its pieces move to their place by rename
//! locks/            `store`, and one for each blob or layer being made
//! ```
//!
//! Whoever adds holds `locks/store` shared, whoever collects garbage holds it alone. So no collection sees
//! a half-made image, and everything in `tmp` is then garbage. If it is taken, the collection is left to
//! those who hold it, by the marker `garbage`: the last one to finish does it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skiff_sys::tree;

use super::access::Access;
use super::digest::{Digest, HashingWriter};
use crate::types::ImageError;

/// Manifests and configurations; containerd takes at most 8 MiB too.
pub(crate) const JSON_BYTES_MAX: u64 = 8 << 20;

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    pub name: String,
    pub manifest: Digest,
    /// The digest under which the registry offers it: the index's, where there is one.
    pub target: Digest,
    pub config: Digest,
    /// Lowest first.
    pub layers: Vec<LayerRecord>,
    pub size_bytes: u64,
    /// From an archive, not from a registry.
    pub loaded: bool,
    #[serde(default)]
    pub access: Access,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub blob: Digest,
    pub diff_id: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoldRecord {
    /// Who holds; older records don't say.
    #[serde(default)]
    pub holder: String,
    /// Whose holder that is.
    #[serde(default)]
    pub owner: String,
    /// The image's ID; older records don't say.
    #[serde(default)]
    pub image: Option<Digest>,
    pub diff_ids: Vec<Digest>,
}

pub(crate) struct Content {
    dir: PathBuf,
}

/// An flock(2), dropped with its file, also by a process's death.
pub(crate) struct Lock {
    _file: File,
}

impl Content {
    pub(crate) fn open(dir: &Path) -> Result<Content, ImageError> {
        for part in ["blobs", "layers", "names", "holds", "tmp", "locks"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(failed(format!("make {}", path.display())))?;
        }
        // Layers hold set-user-ID programs of strangers: nobody else shall reach them.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir, private).map_err(failed(format!("protect {}", dir.display())))?;
        Ok(Content { dir: dir.to_owned() })
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    pub(crate) fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().map(|data| data.len())
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_path(diff_id).is_dir()
    }

    /// A JSON blob, read with a bound and verified.
    pub(crate) fn json<T: DeserializeOwned>(&self, digest: &Digest) -> Result<T, ImageError> {
        let bytes = self.small_blob(digest).map_err(failed(format!("read blob {digest}")))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            .map_err(failed(format!("understand blob {digest}")))
    }

    pub(crate) fn small_blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.blob_path(digest))?.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > JSON_BYTES_MAX {
            return Err(io::Error::other(format!("it has more than {JSON_BYTES_MAX} bytes")));
        }
        if Digest::of(&bytes) != *digest {
            return Err(io::Error::other(
                "its content doesn't have this digest; the disk or another program changed it",
            ));
        }
        Ok(bytes)
    }

    /// Adds a blob whose bytes are at hand and returns its digest.
    pub(crate) fn add_blob(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        self.write_whole(&self.blob_path(&digest), bytes)?;
        Ok(digest)
    }

    /// A file to write a blob into; [`NewBlob::finish`] verifies it and puts it into its place.
    pub(crate) fn new_blob(&self) -> Result<NewBlob, ImageError> {
        let path = self.temporary();
        let file = File::create_new(&path).map_err(failed(format!("make {}", path.display())))?;
        Ok(NewBlob { path: Temporary(path), writer: HashingWriter::new(file) })
    }

    /// Moves a finished blob to where [`Content::blob_path`] says.
    pub(crate) fn keep(&self, blob: FinishedBlob) -> Result<(), ImageError> {
        let target = self.blob_path(&blob.digest);
        fs::rename(&blob.path.0, &target).map_err(failed(format!("move a blob to {}", target.display())))
    }

    /// A new path in `tmp`, for a file or a directory.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.dir.join("tmp").join(uuid::Uuid::new_v4().simple().to_string())
    }

    pub(crate) fn record(&self, name: &str) -> Result<Option<NameRecord>, ImageError> {
        self.read_record(&self.dir.join("names").join(encode(name)))
    }

    /// All name records, ordered by name. Those that vanish meanwhile are left out.
    pub(crate) fn records(&self) -> Result<Vec<NameRecord>, ImageError> {
        let mut records = Vec::new();
        for file in self.files("names")? {
            records.extend(self.read_record::<NameRecord>(&self.dir.join("names").join(file))?);
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    pub(crate) fn put_record(&self, record: &NameRecord) -> Result<(), ImageError> {
        let json = serde_json::to_vec(record).expect("plain data becomes JSON");
        self.write_whole(&self.dir.join("names").join(encode(&record.name)), &json)
    }

    pub(crate) fn remove_record(&self, name: &str) -> Result<(), ImageError> {
        remove_file(&self.dir.join("names").join(encode(name)))
    }

    /// When a name was written or touched last.
    pub(crate) fn record_time(&self, name: &str) -> Option<SystemTime> {
        fs::metadata(self.dir.join("names").join(encode(name))).and_then(|data| data.modified()).ok()
    }

    /// Sets [`Content::record_time`]. A name that is gone is no error.
    pub(crate) fn touch_record(&self, name: &str, at: SystemTime) -> Result<(), ImageError> {
        let path = self.dir.join("names").join(encode(name));
        match File::options().write(true).open(&path).and_then(|file| file.set_modified(at)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(format!("touch {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn hold(&self, holder: &str) -> Result<Option<HoldRecord>, ImageError> {
        self.read_record(&self.dir.join("holds").join(encode(holder)))
    }

    pub(crate) fn holds(&self) -> Result<Vec<HoldRecord>, ImageError> {
        let mut holds = Vec::new();
        for file in self.files("holds")? {
            holds.extend(self.read_record::<HoldRecord>(&self.dir.join("holds").join(file))?);
        }
        Ok(holds)
    }

    pub(crate) fn put_hold(&self, holder: &str, record: &HoldRecord) -> Result<(), ImageError> {
        let json = serde_json::to_vec(record).expect("plain data becomes JSON");
        self.write_whole(&self.dir.join("holds").join(encode(holder)), &json)
    }

    /// Whether there was one.
    pub(crate) fn remove_hold(&self, holder: &str) -> Result<bool, ImageError> {
        let path = self.dir.join("holds").join(encode(holder));
        let present = path.exists();
        remove_file(&path)?;
        Ok(present)
    }

    /// Held by whoever adds something. Waits while garbage is collected.
    pub(crate) fn lock_shared(&self) -> Result<Lock, ImageError> {
        self.lock_file("store", FlockOperation::LockShared).map(|lock| lock.expect("a blocking lock is had"))
    }

    /// Held while garbage is collected; `None` while anybody adds something.
    pub(crate) fn try_lock_alone(&self) -> Result<Option<Lock>, ImageError> {
        self.lock_file("store", FlockOperation::NonBlockingLockExclusive)
    }

    /// Held by the one that makes the blob or layer of this digest; the others wait and then find it made.
    /// Needs [`Content::lock_shared`] as well, so that the lock's file isn't collected.
    pub(crate) fn lock_digest(&self, digest: &Digest) -> Result<Lock, ImageError> {
        self.lock_file(digest.hex(), FlockOperation::LockExclusive)
            .map(|lock| lock.expect("a blocking lock is had"))
    }

    /// Serialises changes of names, so that reading and writing several is one step.
    pub(crate) fn lock_names(&self) -> Result<Lock, ImageError> {
        self.lock_file("names", FlockOperation::LockExclusive)
            .map(|lock| lock.expect("a blocking lock is had"))
    }

    /// Held by whoever relies on a name staying, while others do so too.
    pub(crate) fn lock_names_shared(&self) -> Result<Lock, ImageError> {
        self.lock_file("names", FlockOperation::LockShared).map(|lock| lock.expect("a blocking lock is had"))
    }

    fn lock_file(&self, name: &str, operation: FlockOperation) -> Result<Option<Lock>, ImageError> {
        let path = self.dir.join("locks").join(name);
        let action = || format!("lock {}", path.display());
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(action()))?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(failed(action())(error.into())),
            }
        }
    }

    /// Brings all that was made to the disk: done before a name points at it.
    pub(crate) fn sync(&self) -> Result<(), ImageError> {
        let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(&self.dir)?)?) };
        sync().map_err(failed(format!("sync {}", self.dir.display())))
    }

    /// Says that there may be garbage.
    pub(crate) fn mark_garbage(&self) -> Result<(), ImageError> {
        let path = self.dir.join("garbage");
        File::create(&path).map(drop).map_err(failed(format!("make {}", path.display())))
    }

    pub(crate) fn is_garbage_marked(&self) -> bool {
        self.dir.join("garbage").exists()
    }

    pub(crate) fn clear_garbage_mark(&self) -> Result<(), ImageError> {
        remove_file(&self.dir.join("garbage"))
    }

    /// The file names in one of the store's directories.
    pub(crate) fn files(&self, part: &str) -> Result<Vec<String>, ImageError> {
        let path = self.dir.join(part);
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        list().map_err(failed(format!("list {}", path.display())))
    }

    /// Deletes a file or tree of one of the store's directories.
    pub(crate) fn delete(&self, part: &str, file: &str) -> Result<(), ImageError> {
        let path = self.dir.join(part).join(file);
        let result = tree::remove(&path);
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(format!("delete {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes an unpacked layer, after moving it out of sight.
    pub(crate) fn discard_layer(&self, file: &str) -> Result<(), ImageError> {
        let aside = Temporary(self.temporary());
        let path = self.dir.join("layers").join(file);
        fs::rename(&path, &aside.0).map_err(failed(format!("delete {}", path.display())))
    }

    fn read_record<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, ImageError> {
        let action = || format!("read {}", path.display());
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(action())(error)),
        };
        let record = serde_json::from_slice(&bytes);
        record.map(Some).map_err(|error| failed(action())(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// A file is there with all its bytes, also after a power failure, or not at all.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let temporary = Temporary(self.temporary());
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&temporary.0)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary.0, path)
        };
        write().map_err(failed(format!("write {}", path.display())))
    }
}

/// Removed when dropped, unless it was moved away.
pub(crate) struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What can't be removed here goes with the next collection.
        let _ = tree::remove(&self.0);
    }
}

pub(crate) struct NewBlob {
    path: Temporary,
    writer: HashingWriter<File>,
}

pub(crate) struct FinishedBlob {
    path: Temporary,
    pub digest: Digest,
    pub size: u64,
}

impl NewBlob {
    pub(crate) fn finish(self) -> FinishedBlob {
        let HashingWriter { inner, hasher } = self.writer;
        drop(inner);
        FinishedBlob { path: self.path, size: hasher.bytes(), digest: hasher.finish() }
    }
}

impl Write for NewBlob {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl FinishedBlob {
    pub(crate) fn path(&self) -> &Path {
        &self.path.0
    }
}

pub(crate) fn failed(action: String) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { action, source }
}

fn remove_file(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("delete {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A name as a file name: its digest, as names may be longer than file names. The record tells the name.
fn encode(name: &str) -> String {
    Digest::of(name.as_bytes()).hex().to_owned()
}
