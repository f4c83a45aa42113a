//! Joining namespaces, and doing one thing inside one.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Runs `act` in the network namespace that `path` names, on a thread of its own that ends with it: the
/// caller's threads never leave theirs. A socket made inside stays a socket of that namespace.
pub fn in_netns<T: Send>(path: &Path, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("netns".into()).stack_size(64 << 10);
        let thread = builder.spawn_scoped(scope, move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            act()
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_own_namespace_is_left_alone() {
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let (pin, wait) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            pin.send(nix::unistd::gettid()).unwrap();
            let _ = released.recv();
        });
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), wait.recv().unwrap());
        let inside = in_netns(Path::new(&path), || std::fs::read_link("/proc/thread-self/ns/net")).unwrap();
        assert_eq!(inside, std::fs::read_link(&path).unwrap());
        assert_ne!(inside, before);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
        drop(release);
        other.join().unwrap();
    }
}
