//! Removing a directory with all below it that somebody else has made, as deep as it may be.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::NixPath;
use nix::dir::{Dir, Entry};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Names that are read at once.
const NAMES_MAX: usize = 1024;
/// Names of directories that are held of each level.
const DIRECTORIES_MAX: usize = 16;

/// Removes what is there: a file, a link, or a directory with all below it. Links are not followed, and no
/// mount point below is entered: one is an error, and what is mounted there stays as it is.
///
/// A stack frame and a descriptor for each level would be up to whoever made the tree: a container makes sixty
/// thousand levels in seconds. So the way up is `..`, and two descriptors are enough for all. What is left
/// after an error or a crash is removed by the next call.
pub fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let mut here = open(AT_FDCWD, path, ResolveFlag::empty())?;
    let mut levels = vec![Level { name: CString::default(), place: place(&here)?, left: Vec::new() }];
    while let Some(level) = levels.last_mut() {
        if level.left.is_empty() {
            level.left = remove_files(&mut here)?;
        }
        if let Some(name) = level.left.pop() {
            here = open(&here, &*name, ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS)?;
            levels.push(Level { name, place: place(&here)?, left: Vec::new() });
            continue;
        }
        let name = std::mem::take(&mut level.name);
        levels.pop();
        let Some(above) = levels.last() else { break };
        here = open(&here, c"..", ResolveFlag::RESOLVE_NO_XDEV)?;
        if place(&here)? != above.place {
            return Err(io::Error::other(format!("{} is changed meanwhile", path.display())));
        }
        unlinkat(&here, &*name, UnlinkatFlags::RemoveDir)?;
    }
    fs::remove_dir(path)
}

/// A directory on the way down.
struct Level {
    name: CString,
    place: Place,
    /// Some of the directories in it.
    left: Vec<CString>,
}

/// Device and inode.
type Place = (u64, u64);

fn place(dir: &Dir) -> io::Result<Place> {
    let found = fstat(dir)?;
    Ok((found.st_dev, found.st_ino))
}

fn open(parent: impl AsFd, name: &(impl NixPath + ?Sized), resolve: ResolveFlag) -> nix::Result<Dir> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).mode(Mode::empty()).resolve(resolve);
    Dir::from_fd(openat2(parent, name, how)?)
}

/// Removes files of a directory until it finds directories: some of these. None: it is empty.
fn remove_files(dir: &mut Dir) -> io::Result<Vec<CString>> {
    loop {
        let is_own = |entry: &Entry| !matches!(entry.file_name().to_bytes(), b"." | b"..");
        let names = dir.iter().filter(|entry| entry.as_ref().map_or(true, is_own)).take(NAMES_MAX);
        let names = names.map(|entry| Ok(entry?.file_name().to_owned())).collect::<nix::Result<Vec<_>>>()?;
        if names.is_empty() {
            return Ok(names);
        }
        let mut directories = Vec::new();
        for name in names {
            match unlinkat(&*dir, &*name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) => {}
                Err(Errno::EISDIR) => directories.push(name),
                Err(error) => return Err(error.into()),
            }
        }
        if !directories.is_empty() {
            directories.truncate(DIRECTORIES_MAX);
            return Ok(directories);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// As a container does it: no path of that length can be named, so it goes down by steps.
    fn deepen(top: &Path, levels: usize) {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut here = nix::fcntl::open(top, flags, Mode::empty()).expect("it is there");
        for _ in 0..levels {
            nix::sys::stat::mkdirat(&here, "d", Mode::S_IRWXU).expect("it is made");
            here = nix::fcntl::openat(&here, "d", flags, Mode::empty()).expect("it is there");
        }
    }

    #[test]
    fn a_tree_is_removed_however_deep_and_wide_it_is_on_a_small_stack() {
        // In memory: a disk may take a millisecond for each.
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).expect("they are made");
        for n in 0..NAMES_MAX + 10 {
            fs::write(top.join(format!("a/b/{n}")), "").expect("it is written");
        }
        for n in 0..DIRECTORIES_MAX * 3 {
            fs::create_dir_all(top.join(format!("a/{n}/x"))).expect("they are made");
        }
        deepen(&top.join("a/b/c"), 30_000);
        let path = top.clone();
        let small = std::thread::Builder::new().stack_size(64 << 10);
        let removing = small.spawn(move || remove(&path)).expect("a thread");
        removing.join().expect("the stack is large enough").expect("it is removed");
        assert!(!top.exists());
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn links_and_files_are_removed_and_what_links_lead_to_is_not() {
        let (dir, elsewhere) = tempfile::tempdir().and_then(|a| Ok((a, tempfile::tempdir()?))).expect("both");
        let kept = elsewhere.path().join("kept");
        fs::write(&kept, "").expect("it is written");
        fs::create_dir(dir.path().join("top")).expect("it is made");
        symlink(elsewhere.path(), dir.path().join("top/away")).expect("a link");
        symlink(elsewhere.path(), dir.path().join("link")).expect("a link");
        fs::write(dir.path().join("file"), "").expect("it is written");
        for name in ["top", "link", "file"] {
            remove(&dir.path().join(name)).expect(name);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0);
        assert!(kept.exists());
        assert!(remove(&dir.path().join("none")).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn what_is_mounted_below_stays() {
        // In a mount namespace that ends with this thread.
        let tried = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
            let dir = tempfile::tempdir().expect("a directory");
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("root may");
            let (elsewhere, point) = (dir.path().join("elsewhere"), dir.path().join("top/a/point"));
            fs::create_dir_all(&elsewhere).and_then(|()| fs::create_dir_all(&point)).expect("they are made");
            fs::write(elsewhere.join("kept"), "").expect("it is written");
            let bind = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some(&elsewhere), &point, None::<&str>, bind, None::<&str>).expect("root may");
            assert!(remove(&dir.path().join("top")).is_err());
            assert!(elsewhere.join("kept").exists());
            nix::mount::umount(&point).expect("it is mounted");
            remove(&dir.path().join("top")).expect("it is removed");
            assert!(elsewhere.join("kept").exists());
        });
        tried.join().expect("it holds");
    }
}
