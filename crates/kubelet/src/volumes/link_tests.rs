//! Pods that turn parts of their volumes into links while the node looks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{host_path, mounts, sub_path};
use crate::made_paths::{For, MadePaths};

/// Pins the path and answers what is then found in it; a pin that fails is an answer too.
fn pinned(volume: &Path, path: &str, place: &Path) -> Option<Vec<String>> {
    sub_path::pin(volume, Path::new(path), place, None).ok()?;
    let names = fs::read_dir(place).map(|entries| {
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    });
    let names = names.unwrap_or_else(|_| vec![fs::read_to_string(place).unwrap_or_default()]);
    mounts::unmount_below(place).expect("it is unmounted");
    Some(names)
}

/// A directory outside with a secret, and a volume.
fn scene() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["outside/sub", "volume/real"] {
        fs::create_dir_all(dir.path().join(name)).expect("makes it");
    }
    fs::write(dir.path().join("outside/secret"), "secret").expect("writes");
    fs::write(dir.path().join("volume/real/own"), "own").expect("writes");
    dir
}

#[test]
fn links_in_a_volume_end_at_its_root() {
    let dir = scene();
    let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    for (name, target) in [
        ("absolute", outside.to_str().expect("it is text")),
        ("relative", "../outside"),
        ("far", "../../../../../../../../etc"),
        ("proc", "/proc/self/root/etc"),
        ("secret", "../outside/secret"),
    ] {
        symlink(target, volume.join(name)).expect("links");
    }
    symlink("real", volume.join("fine")).expect("links");
    // Whoever follows them gets there.
    for path in ["absolute/secret", "relative/secret", "secret"] {
        assert_eq!(fs::read_to_string(volume.join(path)).expect("it leads there"), "secret", "{path}");
    }
    let place = dir.path().join("place");
    for path in
        ["absolute", "relative", "far", "proc", "secret", "absolute/sub", "relative/sub", "real/../absolute"]
    {
        let found = pinned(&volume, path, &place);
        let leaks =
            |names: &Vec<String>| names.iter().any(|name| name.contains("secret") || name == "passwd");
        assert!(!found.as_ref().is_some_and(leaks), "{path}: {found:?}");
        let _ = fs::remove_file(&place);
    }
    assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 2, "nothing was made there");
    assert_eq!(pinned(&volume, "fine", &dir.path().join("other")), Some(vec!["own".to_owned()]));
    for path in ["..", "../outside", "real/../../outside"] {
        assert!(sub_path::pin(&volume, Path::new(path), &place, None).is_err(), "{path}");
    }
}

#[test]
fn swapping_a_directory_for_a_link_wins_nothing() {
    let dir = scene();
    let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    symlink(&outside, volume.join("link")).expect("links");
    fs::create_dir(volume.join("door")).expect("makes it");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Now a directory, now a link, exchanged in one step.
            let (a, b) = (volume.join("door"), volume.join("link"));
            while !done.load(Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, flags)
                    .expect("swaps");
            }
        });
        for round in 0..400 {
            let path = if round % 2 == 0 { "door" } else { "door/sub" };
            let found = pinned(&volume, path, &dir.path().join(format!("place{round}")));
            let leaks = |names: &Vec<String>| names.iter().any(|name| name.contains("secret"));
            if found.as_ref().is_some_and(leaks) {
                done.store(true, Ordering::Relaxed);
                panic!("round {round}: {found:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(outside.join("sub")).expect("it is there").count(), 0);
}

#[test]
fn host_paths_are_of_the_type_they_should_be() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("dir")).expect("makes it");
    fs::write(path("file"), "").expect("writes");
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("binds");
    symlink("file", path("link")).expect("links");
    let made = MadePaths::new(dir.path());
    let made = For { made: &made, whose: "n/p" };
    let says = |name: &str, kind: &str| {
        let text = host_path::check(&path(name), kind, made).err().unwrap_or_default();
        text.replace(dir.path().to_str().expect("it is text"), "")
    };
    for (name, kind) in [
        ("dir", "Directory"),
        ("file", "File"),
        ("link", "File"),
        ("socket", "Socket"),
        ("none", ""),
        ("dir", "DirectoryOrCreate"),
        ("made/deep", "DirectoryOrCreate"),
        ("dir/made", "FileOrCreate"),
    ] {
        assert_eq!(says(name, kind), "", "{name} {kind}");
    }
    assert!(host_path::check(Path::new("/dev/null"), "CharDevice", made).is_ok());
    // What they made is written down, with what is above it, and nothing else.
    let written: Vec<_> = crate::made_paths(dir.path()).into_iter().map(|own| own.path).collect();
    assert_eq!(written, [path("dir/made"), path("made"), path("made/deep")]);
    assert!(crate::made_paths(dir.path()).iter().all(crate::MadePath::is_there));
    for (name, kind, expected) in [
        ("file", "Directory", "hostPath type check failed: /file is not a directory"),
        ("dir", "File", "hostPath type check failed: /dir is not a file"),
        ("none", "Directory", "hostPath type check failed: /none is not a directory"),
        ("file", "Socket", "hostPath type check failed: /file is not a socket file"),
        ("file", "CharDevice", "hostPath type check failed: /file is not a character device"),
        ("file", "BlockDevice", "hostPath type check failed: /file is not a block device"),
        ("file", "DirectoryOrCreate", "hostPath type check failed: /file is not a directory"),
        ("dir", "FileOrCreate", "hostPath type check failed: /dir is not a file"),
        ("dir", "Anything", "Anything is an invalid volume type"),
    ] {
        assert_eq!(says(name, kind), expected);
    }
}

#[test]
fn a_place_is_pinned_anew_over_what_was_there() {
    let dir = scene();
    let (volume, place) = (dir.path().join("volume"), dir.path().join("place"));
    for sub in ["real", "other", "real"] {
        sub_path::pin(&volume, Path::new(sub), &place, None).expect("it is pinned");
    }
    // As a start that was interrupted leaves it.
    mounts::bind(&volume, &place).expect("it is mounted over");
    sub_path::pin(&volume, Path::new("real"), &place, None).expect("it is pinned");
    let mounted =
        mounts::mount_points().expect("they are read").iter().filter(|point| **point == place).count();
    let names = fs::read_dir(&place).expect("it is there").map(|entry| entry.expect("its name").file_name());
    let names: Vec<_> = names.collect();
    mounts::unmount(&place).expect("it is unmounted");
    assert_eq!((mounted, names), (1, vec!["own".into()]));
    assert_eq!(fs::read_dir(&place).expect("it is there").count(), 0);
    mounts::unmount(&place).expect("nothing is mounted there");
    mounts::unmount(&dir.path().join("none")).expect("nothing is there");
}
