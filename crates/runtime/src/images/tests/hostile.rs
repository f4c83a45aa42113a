//! Archives and layers that mean harm, or are merely broken.

use std::io::Read as _;
use std::path::Path;

use tar::{EntryType, Header};

use super::{Fixture, two_layers};
use crate::images::build::{Builder, Layer};
use crate::images::unpack::unpack;

/// A layer written without any of the checks that a writer usually makes.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_device_major(8).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", data)
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, &[])
    }

    fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", &[])
    }
}

/// Unpacks beside a file that must not change, and returns the error's text.
fn unpacked(layer: &Raw, look: impl FnOnce(&Path)) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let result = unpack(&layer.0[..], &root, 1 << 20).map(drop).map_err(|error| error.to_string());
    assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    if result.is_ok() {
        look(&root);
    }
    result
}

#[test]
fn no_name_leaves_the_root() {
    let dots = [
        Raw::default().file("../outside/victim", b"evil"),
        Raw::default().file("a/../../outside/victim", b"evil"),
        Raw::default().directory("..").file("../x", b"evil"),
        Raw::default().file("../outside/.wh.victim", b""),
        Raw::default().entry(EntryType::Link, "x", "../outside/victim", b"").file("x", b"evil"),
    ];
    for (at, layer) in dots.iter().enumerate() {
        let said = unpacked(layer, |_| {}).unwrap_err();
        assert!(said.contains("\"..\""), "{at}: {said}");
    }
    // An absolute name is one inside the root.
    unpacked(&Raw::default().file("/etc/x", b"fine"), |root| {
        assert_eq!(std::fs::read(root.join("etc/x")).unwrap(), b"fine");
    })
    .unwrap();
}

#[test]
fn links_end_at_the_root() {
    // Through a link upwards, the name is one in the root itself.
    let upwards =
        Raw::default().symlink("up", "../../../../outside").directory("outside").file("up/victim", b"evil");
    unpacked(&upwards, |root| assert_eq!(std::fs::read(root.join("outside/victim")).unwrap(), b"evil"))
        .unwrap();
    let absolute = Raw::default().symlink("abs", "/tmp").directory("tmp").file("abs/x-of-a-layer", b"in");
    unpacked(&absolute, |root| assert_eq!(std::fs::read(root.join("tmp/x-of-a-layer")).unwrap(), b"in"))
        .unwrap();
    // A file replaces a link and is not written through it.
    let replaced = Raw::default().symlink("f", "../outside/victim").file("f", b"evil");
    unpacked(&replaced, |root| assert_eq!(std::fs::read(root.join("f")).unwrap(), b"evil")).unwrap();
    // A directory swapped for a link between two entries below it.
    let swapped = Raw::default()
        .file("d/one", b"1")
        .symlink("d", "../outside")
        .directory("outside")
        .file("d/two", b"2");
    unpacked(&swapped, |root| assert_eq!(std::fs::read(root.join("outside/two")).unwrap(), b"2")).unwrap();
    // A directory entry replaces a link; its owner and mode don't go to where that led.
    let directory = Raw::default().symlink("d", "../outside").directory("d").file("d/victim", b"evil");
    unpacked(&directory, |root| assert!(root.join("d").symlink_metadata().unwrap().is_dir())).unwrap();
    // A hard link to a symbolic link is one to the link, wherever that points.
    let hard = Raw::default()
        .symlink("l", "../outside/victim")
        .entry(EntryType::Link, "h", "l", b"")
        .file("h", b"evil");
    unpacked(&hard, |root| assert_eq!(std::fs::read(root.join("h")).unwrap(), b"evil")).unwrap();
    let magic = Raw::default().symlink("p", "/proc/self/root").file("p/x", b"evil");
    assert!(unpacked(&magic, |root| assert!(!root.join("p").is_dir())).is_err());
    let endless = Raw::default().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(unpacked(&endless, |_| {}).is_err());
}

#[test]
fn hard_links_need_a_target_in_the_layer() {
    for target in ["/etc/passwd", "missing", "missing/deeper", "/"] {
        let said = unpacked(&Raw::default().entry(EntryType::Link, "x", target, b""), |_| {}).unwrap_err();
        assert!(said.contains("hard link"), "{said}");
    }
    let outside = Raw::default().symlink("o", "../outside").entry(EntryType::Link, "x", "o/victim", b"");
    assert!(unpacked(&outside, |_| {}).is_err());
}

#[test]
fn extended_headers_reach_no_further_than_plain_ones() {
    let with = |records: &[(&str, &[u8])], name: &str, link: Option<&str>| {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions(records.iter().map(|(key, value)| (*key, *value))).unwrap();
        let mut header = Header::new_gnu();
        header.set_mode(0o4755);
        header.set_size(0);
        header.set_entry_type(if link.is_some() { EntryType::Symlink } else { EntryType::Regular });
        match link {
            Some(link) => tar.append_link(&mut header, name, link).unwrap(),
            None => tar.append_data(&mut header, name, &b""[..]).unwrap(),
        }
        Raw(tar.into_inner().unwrap())
    };
    for path in ["../outside/victim", "a/../../outside/victim", "a\0b"] {
        let said = unpacked(&with(&[("path", path.as_bytes())], "x", None), |_| {});
        assert!(said.is_err(), "{path:?}: {said:?}");
    }
    // Attributes that would steer the overlay or say what only a security module may say.
    let attributes: [(&str, &[u8]); 5] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.selinux", b"root"),
        ("SCHILY.xattr.user.kept", b"1"),
    ];
    unpacked(&with(&attributes, "x", None), |root| {
        use std::os::unix::fs::PermissionsExt;
        let file = root.join("x");
        let mut names = [0u8; 256];
        let length = rustix::fs::llistxattr(&file, &mut names[..]).unwrap();
        assert_eq!(std::str::from_utf8(&names[..length]).unwrap(), "user.kept\0");
        // A program of the image's may be set-user-ID: what that is worth is the container's to say.
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o4755);
    })
    .unwrap();
    // A link is made as it is, wherever it points.
    unpacked(&with(&[("linkpath", b"../../outside/victim")], "l", Some("y")), |root| {
        assert_eq!(std::fs::read_link(root.join("l")).unwrap(), Path::new("../../outside/victim"));
    })
    .unwrap();
}

#[test]
fn devices_are_left_out_and_odd_whiteouts_refused() {
    let devices =
        Raw::default().entry(EntryType::Block, "dev/sda", "", b"").entry(EntryType::Char, "null", "", b"");
    unpacked(&devices, |root| assert!(!root.join("dev/sda").exists() && !root.join("null").exists()))
        .unwrap();
    for name in [".wh.", ".wh...", "d/.wh.."] {
        assert!(unpacked(&Raw::default().file(name, b""), |_| {}).is_err(), "{name}");
    }
    // An aufs bookkeeping file is neither.
    unpacked(&Raw::default().file(".wh..wh.plnk", b""), |root| {
        assert_eq!(root.read_dir().unwrap().count(), 0)
    })
    .unwrap();
}

#[test]
fn a_small_archive_of_much_stops_at_the_bound() {
    let zeros = std::io::repeat(0).take(3 << 20);
    let mut bomb = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(&mut bomb, flate2::Compression::best());
    std::io::copy(&mut std::io::Read::chain(&Raw::default().file("x", b"").0[..512], zeros), &mut encoder)
        .unwrap();
    encoder.finish().unwrap();
    let said = unpacked(&Raw(bomb), |_| {}).unwrap_err();
    assert!(said.contains("more than 1048576 bytes"), "{said}");
    let said = unpacked(&Raw(b"this is no archive at all".repeat(40)), |_| {}).unwrap_err();
    assert!(said.contains("no tar archive"), "{said}");
}

#[tokio::test]
async fn broken_archives_are_refused_and_leave_nothing() {
    let nameless = Builder::nameless().layer(Layer::new().file("a", 0o644, b"1"));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (nameless.oci(), "gives its image no name"),
        (nameless.docker(), "gives its image no name"),
        (Layer::new().file("hello", 0o644, b"").into_bytes(), "neither index.json nor manifest.json"),
        (b"not a tar".to_vec(), "ends within a header"),
        (two_layers("not a name").oci(), "invalid reference format"),
        (wrong_layer(&two_layers("app").docker()), "its diff ID is"),
        (changed(&two_layers("app").oci(), "blobs/"), "really has the digest"),
        (changed(&two_layers("app").docker(), ".json"), "really has the digest"),
        (without(&two_layers("app").oci(), 3), "lacks"),
        (two_layers("app").oci()[..5000].to_vec(), "ends within a file"),
    ];
    for (bytes, want) in table {
        let fixture = Fixture::new();
        let said = fixture.load(&bytes).await.expect_err(want);
        assert!(said.contains(want), "wanted {want:?}: {said}");
        assert!(fixture.store.list().unwrap().is_empty());
        for part in ["names", "layers", "blobs", "tmp"] {
            assert_eq!(fixture.count(part), 0, "{want}: {part}");
        }
    }
    let fixture = Fixture::new();
    assert!(fixture.store.load(Path::new("/nonexistent.tar")).await.is_err());
    assert!(fixture.store.load(Path::new("/dev/zero")).await.is_err());
}

/// Bytes changed, lost and doubled, anywhere or in the small documents alone: refused or loaded, but never a
/// panic, nothing beside the root, and nothing left lying about.
#[tokio::test]
async fn random_damage_is_survived() {
    use rand::{RngExt, SeedableRng};
    let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SKIFF_SEED={seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut spoil = |bytes: &mut Vec<u8>| {
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len().max(1));
            match random.random_range(0..4) {
                _ if bytes.is_empty() => {}
                0 => bytes.truncate(at.max(1)),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[]\",:/.0\0\xff"[random.random_range(0..12)]),
                _ => bytes[at] = random.random(),
            }
        }
    };
    let layer = Raw::default()
        .directory("d")
        .file("d/f", b"1")
        .symlink("d/l", "../f")
        .entry(EntryType::Link, "h", "d/f", b"")
        .file("d/.wh.gone", b"");
    for _ in 0..300 {
        let mut layer = Raw(layer.0.clone());
        spoil(&mut layer.0);
        let _ = unpacked(&layer, |_| {});
    }
    let good = [two_layers("app").oci(), two_layers("app").docker()];
    let fixture = Fixture::new();
    for round in 0..120 {
        let mut archive = good[round % 2].clone();
        if round % 3 == 0 {
            spoil(&mut archive);
        } else {
            archive = rewritten(&archive, |_, path, data| {
                if matches!(path, "index.json" | "manifest.json") {
                    spoil(data);
                }
                true
            });
        }
        let _ = fixture.load(&archive).await;
        assert_eq!(fixture.count("tmp"), 0, "round {round}");
    }
}

/// The same archive with one byte of the last file under a name changed.
fn changed(archive: &[u8], name: &str) -> Vec<u8> {
    rewritten(archive, |_, path, data| {
        if path.contains(name) && !path.contains("manifest.json") && !path.contains("index.json") {
            data[0] ^= 1;
        }
        true
    })
}

/// A layer with another content than its diff ID says.
fn wrong_layer(archive: &[u8]) -> Vec<u8> {
    rewritten(archive, |_, _, data| {
        if let Some(at) = data.windows(5).position(|window| window == b"hello") {
            data[at] = b'j';
        }
        true
    })
}

fn without(archive: &[u8], dropped: usize) -> Vec<u8> {
    rewritten(archive, |index, _, _| index != dropped)
}

fn rewritten(archive: &[u8], mut change: impl FnMut(usize, &str, &mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut result = Layer::new();
    for (index, entry) in tar::Archive::new(archive).entries().unwrap().enumerate() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        if change(index, &path, &mut data) {
            result = result.file(&path, 0o644, &data);
        }
    }
    result.into_bytes()
}
