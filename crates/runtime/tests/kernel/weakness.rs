//! Ways out of the runtime itself: shut, and seen to be open where the guard is left out.

use std::fs;
use std::path::PathBuf;

use skiff_runtime::*;

use crate::node::Node;

/// Descriptors beyond the standard streams, and where they lead.
const DESCRIPTORS: &str =
    "for fd in /proc/self/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && readlink $fd; done; true";

async fn privileged(node: &Node, script: &str) -> (String, String) {
    let sandbox = node.sandbox().await;
    let all = |config: &mut ContainerConfig| config.security.privileged = true;
    let id = node.run_with(&sandbox, "sleep 1000", all).await;
    let exec = node.exec(&id, script).await;
    (node.output_with(&sandbox, script, all).await, exec)
}

#[tokio::test]
async fn no_descriptor_of_the_nodes_is_left_open() {
    // The shell's own of its directory is gone again when it is looked at.
    let is_leak = |text: &str| text.lines().any(|line| !line.is_empty() && !line.starts_with("/proc/"));
    let (init, exec) = privileged(&Node::new().await, DESCRIPTORS).await;
    assert!(!is_leak(&init) && !is_leak(&exec), "{init:?} {exec:?}");
    let node = Node::weak(Weakness { leaks_descriptors: true, ..Weakness::default() }).await;
    let (init, exec) = privileged(&node, DESCRIPTORS).await;
    assert!(is_leak(&init) && is_leak(&exec), "{init:?} {exec:?}");
}

/// Whether a container that sees its shim could write the shim's program, once nobody runs it. Its mode is
/// set to what it is, which takes a mount that can be written and changes nothing.
async fn reaches_the_shims_program(node: &Node) -> bool {
    let sandbox = node.sandbox_with(|config| config.pid = NamespaceMode::Node).await;
    let all = |config: &mut ContainerConfig| config.security.privileged = true;
    let script = "shim=$(awk '/^PPid/ {print $2}' /proc/$$/status); exe=/proc/$shim/exe; \
                  tr '\\0' ' ' < /proc/$shim/cmdline; echo; chmod $(stat -L -c %a $exe) $exe 2>&1 && echo writable";
    let said = node.output_with(&sandbox, script, all).await;
    assert!(said.starts_with("skiff-shim "), "{said}");
    match said.lines().nth(1) {
        Some("writable") => true,
        Some(line) if line.ends_with("Read-only file system") => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_shims_program_is_out_of_reach() {
    assert!(!reaches_the_shims_program(&Node::new().await).await);
    let node = Node::weak(Weakness { writable_program: true, ..Weakness::default() }).await;
    assert!(reaches_the_shims_program(&node).await);
}

#[tokio::test]
async fn links_of_an_image_lead_no_mount_out() {
    let outside = |node: &Node| node.dir.path().join("outside");
    let led_out = async |node: &Node| {
        fs::create_dir(outside(node)).unwrap();
        fs::write(node.dir.path().join("given"), "given").unwrap();
        let sandbox = node.sandbox().await;
        // The image has a link /escape to ../../../../etc; the container makes one to the test's directory.
        let shared = node.dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        std::os::unix::fs::symlink(outside(node), shared.join("link")).unwrap();
        let mounts = vec![
            Mount { source: shared, target: "/shared".into(), ..Mount::default() },
            Mount {
                source: node.dir.path().join("given"),
                target: PathBuf::from("/shared/link/made"),
                ..Mount::default()
            },
        ];
        let config = ContainerConfig { mounts, ..node.container_config("true") };
        // It may as well be refused.
        let made = node.runtime.create_container(&sandbox.id, config).await;
        let refused = made.as_ref().err().map(ToString::to_string);
        assert!(
            refused.as_ref().is_none_or(|why| why.contains("cannot make the mount point")),
            "{refused:?}"
        );
        fs::exists(outside(node).join("made")).unwrap()
    };
    assert!(!led_out(&Node::new().await).await);
    assert!(led_out(&Node::weak(Weakness { follows_links: true, ..Weakness::default() }).await).await);
}

/// What is left of a masked file's text for a container with such a volume at `/dev`.
async fn shown_past_the_mask(node: &Node) -> String {
    let dev = node.dir.path().join("dev");
    fs::create_dir(&dev).unwrap();
    std::os::unix::fs::symlink("/proc/interrupts", dev.join("null")).unwrap();
    let sandbox = node.sandbox().await;
    let volume = Mount { source: dev, target: "/dev".into(), ..Mount::default() };
    node.output_with(&sandbox, "cat /proc/interrupts", |config| config.mounts.push(volume)).await
}

#[tokio::test]
async fn masks_are_not_made_of_what_a_volume_has() {
    assert_eq!(shown_past_the_mask(&Node::new().await).await, "");
    let node = Node::weak(Weakness { trusts_volumes: true, ..Weakness::default() }).await;
    assert!(shown_past_the_mask(&node).await.contains("CPU0"));
}

#[tokio::test]
async fn no_volume_is_mounted_inside_proc() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let (dir, file) = (node.dir.path().join("volume"), node.dir.path().join("file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "given").unwrap();
    std::os::unix::fs::symlink("/proc", dir.join("link")).unwrap();
    let bind = |source: &std::path::Path, target: &str| Mount {
        source: source.to_owned(),
        target: target.into(),
        ..Mount::default()
    };
    let links = bind(&dir, "/links");
    for privileged in [false, true] {
        for (source, target, why) in [
            (&dir, "/proc", "\"/proc\" cannot be mounted because it is not of type proc"),
            (&PathBuf::new(), "/proc", "\"/proc\" cannot be mounted because it is not of type proc"),
            (&PathBuf::from("/proc/sys"), "/proc", "cannot be mounted because it is not of type proc"),
            (&dir, "/links/link", "\"/proc\" cannot be mounted because it is not of type proc"),
            (&dir, "/proc/tty", "\"/proc/tty\" cannot be mounted because it is inside /proc"),
            (&dir, "/proc/made/up", "\"/proc/made/up\" cannot be mounted because it is inside /proc"),
            (&file, "/proc/version", "\"/proc/version\" cannot be mounted because it is inside /proc"),
            (&file, "/links/link/log", "\"/proc/log\" cannot be mounted because it is inside /proc"),
        ] {
            let mut config = node.container_config("true");
            config.mounts = vec![links.clone(), bind(source, target)];
            config.security.privileged = privileged;
            let error = node.runtime.create_container(&sandbox.id, config).await.unwrap_err().to_string();
            let whole = format!("error mounting {source:?} to rootfs at \"{target}\": check proc-safety of");
            assert!(error.contains(&whole) && error.ends_with(why), "{target}: {error}");
        }
    }
    let shows = async |mounts: Vec<Mount>, script: &str| {
        node.output_with(&sandbox, script, |config| config.mounts = mounts).await
    };
    assert_eq!(shows(vec![bind(&file, "/proc/uptime")], "cat /proc/uptime").await, "given");
    assert_eq!(shows(vec![bind(&file, "/process")], "cat /process").await, "given");
    // The node's own, also in the container's place, where it is masked all the same.
    let name = "cat /proc/sys/kernel/ostype; wc -c < /proc/interrupts; (true >> /proc/sys/vm/swappiness) 2>&1 | sed 's/.*: //'";
    let expected = "Linux\n0\nRead-only file system";
    assert_eq!(shows(vec![bind("/proc".as_ref(), "/proc")], name).await, expected);
    assert_eq!(shows(vec![bind("/proc".as_ref(), "/host/proc")], name).await, expected);
    assert_eq!(
        shows(vec![bind("/proc".as_ref(), "/host/proc")], "cat /host/proc/sys/kernel/ostype").await,
        "Linux"
    );
    // Of /sys nothing is refused.
    assert_eq!(shows(vec![bind(&file, "/sys/kernel/notes")], "cat /sys/kernel/notes").await, "given");
    assert_eq!(shows(vec![bind("/sys".as_ref(), "/sys")], "ls /sys/firmware | wc -l").await, "0");
    assert_eq!(shows(vec![bind(&dir, "/sys")], "ls /sys").await, "link");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
