//! A layer's tar stream becomes a directory that overlayfs can use as a lower one.
//!
//! The stream comes from a stranger and may try to reach outside: with `..`, with absolute names, through
//! links it made before. So no name is ever resolved by the process's own view of the file system: a
//! parent directory is opened with openat2(2) and `RESOLVE_IN_ROOT`, where `/` and `..` end at the layer's
//! root whatever links say, and the last component is only ever made, never followed.
//!
//! Whiteouts (<https://github.com/opencontainers/image-spec/blob/main/layer.md>) become overlayfs's own:
//! a character device 0/0, and `trusted.overlay.opaque` on an opaque directory. Device nodes of the image
//! are left out, as containers get theirs from the runtime.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use skiff_sys::tree;

use super::digest::{Digest, HashingReader};
use super::tar::{Entry, Kind, TarReader};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const ENTRIES_MAX: u64 = 5_000_000;
const DEPTH_MAX: usize = 256;

/// Unpacks `stream` (compressed or not) into the empty directory `root` and returns its diff ID.
pub(crate) fn unpack(stream: impl Read, root: &Path, bytes_max: u64) -> io::Result<Digest> {
    let plain = HashingReader::new(Bounded { inner: decompress(stream)?, left: bytes_max, max: bytes_max });
    let root = fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut tar = TarReader::new(plain);
    let mut layer = Layer { root, directories: Vec::new() };
    let mut entries = 0;
    while let Some(entry) = tar.next()? {
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(invalid(format!("the layer has more than {ENTRIES_MAX} entries")));
        }
        layer.apply(&entry, &mut tar).map_err(|error| {
            io::Error::new(error.kind(), format!("entry {:?}: {error}", String::from_utf8_lossy(&entry.path)))
        })?;
    }
    layer.finish()?;
    Ok(tar.drain()?.hasher.finish())
}

/// By its first bytes, as media types are not always right.
pub(crate) fn decompress<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    (&mut stream).take(4).read_to_end(&mut magic)?;
    let known: &[u8] = &magic;
    let (gzip, zstd) = (known.starts_with(&[0x1f, 0x8b]), known == [0x28, 0xb5, 0x2f, 0xfd]);
    let stream = io::Cursor::new(magic).chain(stream);
    Ok(match (gzip, zstd) {
        (true, _) => {
            Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, stream)))
        }
        (_, true) => Box::new(zstd::stream::read::Decoder::new(stream)?),
        _ => Box::new(stream),
    })
}

/// Fails, rather than ends, when more than `max` bytes come.
pub(crate) struct Bounded<R> {
    pub inner: R,
    pub left: u64,
    pub max: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| invalid(format!("it unpacks to more than {} bytes", self.max)))?;
        Ok(count)
    }
}

struct Layer {
    root: OwnedFd,
    /// Modification times are set at the end, as filling a directory changes its own.
    directories: Vec<(PathBuf, (i64, u32))>,
}

impl Layer {
    fn apply(&mut self, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
        let components = components(&entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            // The root itself: "./".
            if entry.kind == Kind::Directory {
                self.owner_and_mode(self.root.try_clone()?.into(), entry)?;
                self.directories.push((PathBuf::from("."), entry.mtime));
            }
            return Ok(());
        };
        let parent = self.parent(parents)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return whiteout(&parent, name, hidden);
        }
        let name = Path::new(OsStr::from_bytes(name));
        match &entry.kind {
            Kind::Directory => {
                self.directory(&parent, name, entry)?;
                self.directories.push((join(parents).join(name), entry.mtime));
                return Ok(());
            }
            Kind::File => {
                clear(&parent, name)?;
                self.file(&parent, name, entry, data)?;
                return Ok(());
            }
            Kind::Symlink(target) => {
                if target.is_empty() {
                    return Err(invalid("a symbolic link without a target"));
                }
                clear(&parent, name)?;
                fs::symlinkat(OsStr::from_bytes(target), &parent, name)?;
            }
            Kind::HardLink(target) => return self.hard_link(&parent, name, target),
            Kind::Fifo => {
                clear(&parent, name)?;
                fs::mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            }
            Kind::Device => {
                tracing::debug!(path = %String::from_utf8_lossy(&entry.path), "left out a device node");
                return Ok(());
            }
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if entry.kind == Kind::Fifo {
            fs::chmodat(&parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        set_xattrs(&parent, name, &entry.xattrs)?;
        fs::utimensat(&parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// The directory that holds an entry; what is missing on the way is made.
    fn parent(&self, parents: &[&[u8]]) -> io::Result<OwnedFd> {
        if parents.is_empty() {
            return self.root.try_clone();
        }
        match self.open_directory(&join(parents)) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let mut directory = self.root.try_clone()?;
        for depth in 1..=parents.len() {
            directory = match self.open_directory(&join(&parents[..depth])) {
                Err(Errno::NOENT) => {
                    let name = Path::new(OsStr::from_bytes(parents[depth - 1]));
                    fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    fs::openat(&directory, name, flags, Mode::empty())?
                }
                other => other?,
            };
        }
        Ok(directory)
    }

    /// Follows links, but never past the layer's root.
    fn open_directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // The kernel could not exclude a race with a rename elsewhere: openat2(2) says try again.
                Err(Errno::AGAIN) => continue,
                other => return other,
            }
        }
    }

    fn directory(&self, parent: &OwnedFd, name: &Path, entry: &Entry) -> io::Result<()> {
        let replaced_whiteout = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => None,
            Ok(stat) => {
                clear(parent, name)?;
                Some(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
            }
            Err(Errno::NOENT) => Some(false),
            Err(error) => return Err(error.into()),
        };
        if replaced_whiteout.is_some() {
            fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::openat(parent, name, flags, Mode::empty())?;
        if replaced_whiteout == Some(true) {
            set_opaque(&directory)?;
        }
        set_xattrs(parent, name, &entry.xattrs)?;
        self.owner_and_mode(directory.into(), entry)
    }

    fn file(&self, parent: &OwnedFd, name: &Path, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        let written = io::copy(data, &mut file)?;
        if written != entry.size {
            return Err(invalid("the file is shorter than it says"));
        }
        file.flush()?;
        let file: OwnedFd = file.into();
        // Ownership first: changing it clears set-user-ID bits and capabilities.
        self.owner_and_mode(file.try_clone()?.into(), entry)?;
        set_xattrs(parent, name, &entry.xattrs)?;
        fs::futimens(&file, &times(entry.mtime))?;
        Ok(())
    }

    fn hard_link(&self, parent: &OwnedFd, name: &Path, target: &[u8]) -> io::Result<()> {
        let components = components(target)?;
        let Some((target_name, target_parents)) = components.split_last() else {
            return Err(invalid("a hard link to the layer's root"));
        };
        let missing = |error: Errno| match error {
            Errno::NOENT | Errno::NOTDIR => {
                let target = String::from_utf8_lossy(target);
                invalid(format!("a hard link to {target:?}, which the layer doesn't have"))
            }
            other => other.into(),
        };
        let target_parent = match target_parents {
            [] => self.root.try_clone()?,
            parents => self.open_directory(&join(parents)).map_err(missing)?,
        };
        let target_name = Path::new(OsStr::from_bytes(target_name));
        let found = fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if let Ok(present) = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && (present.st_dev, present.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        clear(parent, name)?;
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link is one to the link itself.
        fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty()).map_err(missing)
    }

    fn owner_and_mode(&self, file: File, entry: &Entry) -> io::Result<()> {
        fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        for (path, mtime) in self.directories.iter().rev() {
            match self.open_directory(path) {
                Ok(directory) => fs::futimens(&directory, &times(*mtime))?,
                // A later entry put something else there.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A name in an archive, taken as relative to the root. `..` has no honest use there.
fn components(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    if path.contains(&0) {
        return Err(invalid("a name with a NUL byte"));
    }
    let parts: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(invalid("a name with \"..\", which could leave the image"));
    }
    if parts.len() > DEPTH_MAX {
        return Err(invalid(format!("a name of more than {DEPTH_MAX} directories")));
    }
    Ok(parts)
}

fn join(parts: &[&[u8]]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&parts.join(&b'/')))
}

fn whiteout(parent: &OwnedFd, name: &[u8], hidden: &[u8]) -> io::Result<()> {
    if name == OPAQUE {
        return set_opaque(parent);
    }
    // Bookkeeping of aufs, such as `.wh..wh.plnk`, hides nothing.
    if hidden.starts_with(WHITEOUT) {
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(invalid("a whiteout of nothing"));
    }
    let hidden = Path::new(OsStr::from_bytes(hidden));
    match fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
        // Whiteouts concern lower layers only; a directory of this one hides theirs when it is opaque.
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            set_opaque(&fs::openat(parent, hidden, flags, Mode::empty())?)
        }
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            Ok(fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), fs::makedev(0, 0))?)
        }
        Err(error) => Err(error.into()),
    }
}

fn set_opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
}

/// Attributes that say something about the file itself. Those of `trusted.` would steer overlayfs, and
/// labels of the builder's security modules mean nothing here.
fn set_xattrs(parent: &OwnedFd, name: &Path, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
    for (key, value) in xattrs {
        let kept =
            key.starts_with("user.") || key.starts_with("system.posix_acl_") || key == "security.capability";
        if !kept || key.starts_with("user.overlay.") {
            continue;
        }
        // There is no lsetxattrat before Linux 6.13; the directory's descriptor names it just as safely.
        let path = through_descriptor(parent, name);
        match fs::lsetxattr(&path, key.as_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOTSUP | Errno::PERM) => tracing::debug!(key, "extended attribute not kept"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes what is in the way of a new entry, of whatever type.
fn clear(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => tree::remove(&through_descriptor(parent, name)),
        Err(error) => Err(error.into()),
    }
}

fn through_descriptor(parent: &OwnedFd, name: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}
