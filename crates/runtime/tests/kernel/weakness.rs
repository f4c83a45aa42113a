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
