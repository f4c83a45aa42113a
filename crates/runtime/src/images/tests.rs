//! The whole store: round trips, strangers' archives, several processes, a real registry.

mod hostile;
mod names;
mod registry;
mod sharing;
mod strangers;
mod token;
mod uses;

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::build::{Builder, Layer};
use super::{Config, ImageStore};
use crate::types::Removal;

/// A store in a directory of its own, and room for archives beside it.
struct Fixture {
    store: ImageStore,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = ImageStore::open(Config::new(dir.path().join("images"))).unwrap();
        Fixture { store, dir }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    async fn load(&self, bytes: &[u8]) -> Result<Vec<crate::types::Image>, String> {
        let path = self.file("archive", bytes);
        let loaded = self.store.load(&path).await.map_err(|error| super::chain(&error))?;
        Ok(loaded.into_iter().map(|each| each.image).collect())
    }

    /// How many files or directories the store keeps of a kind.
    fn count(&self, part: &str) -> usize {
        std::fs::read_dir(self.store.dir().join(part)).unwrap().count()
    }

    /// So many layers and blobs are left. A program that another test starts just then has this process's
    /// lock for a moment, and who finds the store locked leaves the sweeping to the next.
    #[track_caller]
    fn swept(&self, layers: usize, blobs: usize) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while (self.count("layers"), self.count("blobs")) != (layers, blobs) {
            assert!(std::time::Instant::now() < end, "{} and {}", self.count("layers"), self.count("blobs"));
            super::collect::collect(&self.store.content).unwrap();
            std::thread::yield_now();
        }
    }
}

fn two_layers(name: &str) -> Builder {
    let base = Layer::new()
        .directory("tmp", 0o1777)
        .directory("etc", 0o755)
        .file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n")
        .file("bin/su", 0o4755, b"#!/bin/sh\n")
        .symlink("bin/sh", "su")
        .hard_link("bin/ash", "bin/su");
    let top = Layer::new().whiteout("etc/passwd").whiteout("etc/.wh..opq").file("greeting", 0o600, b"hello");
    Builder::new(name)
        .layer(base)
        .layer(top)
        .entrypoint(["/bin/su"])
        .cmd(["-c", "id"])
        .env("PATH=/bin")
        .user("1000")
        .working_dir("/tmp")
}

async fn check_two_layers(store: &ImageStore, name: &str) {
    let layers = store.layers(name).await.unwrap();
    assert_eq!(layers.len(), 2);
    let mode = |path: &Path| path.symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(&layers[0].join("tmp")), 0o1777);
    assert_eq!(mode(&layers[0].join("bin/su")), 0o4755);
    assert_eq!(mode(&layers[1].join("greeting")), 0o600);
    assert_eq!(std::fs::read_link(layers[0].join("bin/sh")).unwrap(), Path::new("su"));
    let inode = |path: &str| layers[0].join(path).metadata().unwrap().ino();
    assert_eq!(inode("bin/ash"), inode("bin/su"));
    assert_eq!(layers[0].join("etc/passwd").metadata().unwrap().mtime(), 0);
    let hidden = layers[1].join("etc/passwd").symlink_metadata().unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let mut value = [0; 8];
    let length =
        rustix::fs::getxattr(layers[1].join("etc"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[tokio::test]
async fn every_format_gives_the_same_image() {
    let archives = [
        ("oci", two_layers("app:v1").oci()),
        ("oci of gzip", two_layers("app:v1").gzip().oci()),
        ("docker", two_layers("app:v1").docker()),
        ("oci.gz", gzip(&two_layers("app:v1").oci())),
        ("docker.zst", zstd::encode_all(&two_layers("app:v1").docker()[..], 1).unwrap()),
    ];
    let mut ids = Vec::new();
    for (format, bytes) in archives {
        let fixture = Fixture::new();
        let images = fixture.load(&bytes).await.expect(format);
        assert_eq!(images.len(), 1, "{format}");
        let image = &images[0];
        assert_eq!(image.tags, ["docker.io/library/app:v1"], "{format}");
        assert!(image.digests[0].starts_with("docker.io/library/app@sha256:"), "{format}");
        assert_eq!((image.user.as_deref(), image.working_dir.as_deref()), (Some("1000"), Some("/tmp")));
        assert_eq!(
            (&image.entrypoint[..], &image.cmd[..]),
            (&["/bin/su".into()][..], &["-c".into(), "id".into()][..])
        );
        check_two_layers(&fixture.store, "app:v1").await;
        for name in ["app:v1", "docker.io/app:v1", &image.id, &image.id[7..], &image.digests[0]] {
            assert_eq!(fixture.store.get(name).unwrap().as_ref(), Some(image), "{format}: {name}");
        }
        assert_eq!(fixture.store.get("app").unwrap(), None);
        assert_eq!(fixture.count("tmp"), 0, "{format}");
        ids.push(image.id.clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn the_layers_make_an_overlay_that_hides_what_whiteouts_hide() {
    let fixture = Fixture::new();
    let base = Layer::new()
        .file("gone", 0o644, b"lower")
        .file("kept", 0o644, b"lower")
        .file("replaced/old", 0o644, b"lower")
        .file("opaque/old", 0o644, b"lower");
    // A directory that is hidden and made anew, before and after its whiteout.
    let top = Layer::new()
        .whiteout("gone")
        .whiteout("replaced")
        .directory("replaced", 0o755)
        .file("replaced/new", 0o644, b"upper")
        .directory("opaque", 0o755)
        .whiteout("opaque")
        .file("opaque/new", 0o644, b"upper");
    fixture.load(&Builder::new("app").layer(base).layer(top).oci()).await.unwrap();
    let layers = fixture.store.layers("app").await.unwrap();
    let merged = fixture.dir.path().join("merged");
    std::fs::create_dir(&merged).unwrap();
    // In a mount namespace of its own, which ends with the shell.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={}:{} {merged} && cd {merged} && find . -type f | sort",
        layers[1].display(),
        layers[0].display(),
        merged = merged.display()
    );
    let output =
        std::process::Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout, "./kept\n./opaque/new\n./replaced/new\n", "{stderr}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_is_saved_can_be_loaded_elsewhere() {
    let (here, there) = (Fixture::new(), Fixture::new());
    let image = here.load(&two_layers("quay.io/a/app:v1").gzip().oci()).await.unwrap().remove(0);
    let path = there.dir.path().join("saved.tar");
    for wanted in ["quay.io/a/app:v1", &image.id] {
        here.store.save(wanted, &path).await.unwrap();
        let loaded = there.store.load(&path).await.unwrap().remove(0);
        assert_eq!((&loaded.image, &loaded.names), (&image, &image.tags), "saved as {wanted}");
    }
    check_two_layers(&there.store, "quay.io/a/app:v1").await;
    // An engine that knows only docker's index finds everything by it, too.
    let bytes = std::fs::read(&path).unwrap();
    let mut rewritten = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().as_ref() != Path::new("index.json") {
            let mut header = entry.header().clone();
            let name = entry.path().unwrap().into_owned();
            rewritten.append_data(&mut header, name, &mut entry).unwrap();
        }
    }
    let docker = Fixture::new();
    let loaded = docker.load(&rewritten.into_inner().unwrap()).await.unwrap();
    assert_eq!((&loaded[0].id, &loaded[0].tags), (&image.id, &image.tags));
    assert!(matches!(
        here.store.save("nope", &path).await,
        Err(crate::types::ImageError::NotPresent(name)) if name == "nope"
    ));
}

#[tokio::test]
async fn removing_leaves_what_others_use_and_nothing_else() {
    let fixture = Fixture::new();
    let shared = Layer::new().file("shared", 0o644, b"both").into_bytes();
    let image = |name: &str, own: &[u8]| {
        Builder::new(name).layer_tar(shared.clone()).layer(Layer::new().file("own", 0o644, own))
    };
    fixture.load(&image("one", b"1").oci()).await.unwrap();
    let two = fixture.load(&image("two", b"2").oci()).await.unwrap().remove(0);
    assert_eq!((fixture.count("layers"), fixture.count("blobs")), (3, 7));
    fixture.store.remove("one", Removal::Unused).await.unwrap();
    fixture.swept(2, 4);
    assert_eq!(fixture.store.list().unwrap(), std::slice::from_ref(&two));
    assert!(fixture.store.layers("two").await.unwrap().iter().all(|layer| layer.is_dir()));

    // A mounted layer stays until its holder lets go, whoever removes the image.
    fixture.store.hold("two", "container-1", "node").await.unwrap();
    let elsewhere = ImageStore::open(Config::new(fixture.store.dir())).unwrap();
    let refused = elsewhere.remove(&two.id, Removal::Unused).await;
    assert!(matches!(refused, Err(crate::types::ImageError::InUse { containers: 1, .. })), "{refused:?}");
    assert!(fixture.store.get("two").unwrap().is_some());
    elsewhere.remove(&two.id, Removal::Forced).await.unwrap();
    assert_eq!(fixture.store.get("two").unwrap(), None);
    fixture.swept(2, 0);
    fixture.store.release("container-1").await.unwrap();
    fixture.store.release("container-1").await.unwrap();
    fixture.swept(0, 0);
    for part in ["layers", "blobs", "names", "holds", "tmp"] {
        assert_eq!(fixture.count(part), 0, "{part}");
    }
    assert!(matches!(
        fixture.store.remove("two", Removal::Unused).await,
        Err(crate::types::ImageError::NotPresent(_))
    ));
}

#[tokio::test]
async fn a_loaded_image_is_pulled_without_a_registry() {
    let fixture = Fixture::new();
    let loaded = fixture.load(&two_layers("alpine").oci()).await.unwrap().remove(0);
    assert_eq!(fixture.store.pull("docker.io/library/alpine:latest", None).await.unwrap().image, loaded);
    assert_eq!(fixture.store.pull("alpine", None).await.unwrap().image, loaded);
    // Deleted by a stranger, its layers come back from the blobs.
    for layer in fixture.store.layers("alpine").await.unwrap() {
        std::fs::remove_dir_all(layer).unwrap();
    }
    fixture.store.pull("alpine", None).await.unwrap();
    check_two_layers(&fixture.store, "alpine").await;
}

#[tokio::test]
async fn a_name_moves_to_the_newest_load() {
    let fixture = Fixture::new();
    let old =
        fixture.load(&Builder::new("app").layer(Layer::new().file("a", 0o644, b"1")).oci()).await.unwrap();
    let new =
        fixture.load(&Builder::new("app").layer(Layer::new().file("a", 0o644, b"2")).oci()).await.unwrap();
    assert_ne!(old[0].id, new[0].id);
    assert_eq!(fixture.store.get("app").unwrap().unwrap().id, new[0].id);
    // The former one lost its tag and is still there by its digest.
    assert_eq!(fixture.store.get(&old[0].id).unwrap().unwrap().tags, Vec::<String>::new());
}
