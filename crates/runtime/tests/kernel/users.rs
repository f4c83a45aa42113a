//! Sandboxes with users of their own: what they are outside, and what they may inside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use skiff_runtime::*;

use crate::isolation::{namespace, status};
use crate::node::Node;

const FIRST: u32 = 1_000_000_000;

fn own_users(config: &mut SandboxConfig) {
    config.users = Some(UserRange { first: FIRST, length: 65536 });
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    let node = Node::new().await;
    let sandbox = node.sandbox_with(own_users).await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let pid = node.get(&id).await.pid;
    let own = FIRST.to_string();
    assert_eq!(status(pid, "Uid"), [&*own; 4].join("\t"));
    assert_eq!(status(pid, "Gid"), [&*own; 4].join("\t"));
    assert_eq!(status(pid, "CapEff"), "00000000a80425fb");
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &own, "65536"]);
    for kind in ["user", "net", "ipc", "uts"] {
        assert_eq!(namespace(pid, kind), namespace(sandbox.pid, kind), "{kind}");
        assert_ne!(namespace(pid, kind), namespace(std::process::id(), kind), "{kind}");
    }
    let script = "id -u; id -g; stat -c %u:%g / /etc/passwd /dev/shm /tmp; echo $$; hostname; \
                  cat /proc/self/uid_map | tr -s ' '";
    let seen = format!("0\n0\n0:0\n0:0\n0:0\n0:0\n1\npodname\n 0 {own} 65536");
    assert_eq!(node.output_with(&sandbox, script, |_| {}).await, seen);
    // What the container writes is on the disk as if it had no namespace, but not as root's of the node
    // to run: its layer is reached through the runtime's directory alone.
    let exec =
        "id -u; cat /proc/self/uid_map | tr -s ' '; touch /made; chown 33:34 /made; stat -c %u:%g /made";
    assert_eq!(node.exec(&id, exec).await, format!("0\n 0 {own} 65536\n33:34"));
    let made = node.config.data_dir.join("containers").join(&id.0).join("upper/made");
    let made = fs::metadata(made).unwrap();
    assert_eq!((made.uid(), made.gid()), (33, 34));
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn capabilities_reach_as_far_as_the_namespace() {
    let node = Node::new().await;
    let sandbox = node.sandbox_with(own_users).await;
    let all = |config: &mut ContainerConfig| {
        config.security.capabilities_add = vec!["ALL".into()];
        config.security.unmasked_proc = true;
    };
    let script = "mount -t tmpfs t /mnt 2>/dev/null || { mkdir -p /mnt && mount -t tmpfs t /mnt; }; \
                  grep -c ' /mnt ' /proc/self/mountinfo; hostname inside && hostname; \
                  (true >> /proc/sys/vm/swappiness) 2>&1 | sed 's/.*: //'; \
                  (echo 1 > /proc/sys/net/ipv4/ip_forward) && echo forwards; \
                  mknod /tmp/m b 8 0 2>&1 | sed 's/.*: //'; \
                  dmesg 2>&1 | head -n1 | sed 's/.*: //'; echo x > /dev/null && head -c1 /dev/zero | wc -c";
    assert_eq!(
        node.output_with(&sandbox, script, all).await,
        "1\ninside\nPermission denied\nforwards\nOperation not permitted\nOperation not permitted\n1"
    );
    let privileged = |config: &mut ContainerConfig| config.security.privileged = true;
    let script = "id -u; (true >> /proc/sys/vm/swappiness) 2>&1 | sed 's/.*: //'; test -e /dev/net/tun && echo devices";
    assert_eq!(node.output_with(&sandbox, script, privileged).await, "0\nPermission denied\ndevices");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn volumes_are_shown_as_the_users_inside_see_them() {
    let node = Node::new().await;
    let sandbox = node
        .sandbox_with(|config| {
            own_users(config);
            config.pid = NamespaceMode::Pod;
        })
        .await;
    let volume = node.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("given"), "text\n").unwrap();
    std::os::unix::fs::chown(volume.join("given"), Some(0), Some(2000)).unwrap();
    fs::set_permissions(volume.join("given"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(volume.join("hosts"), "127.0.0.1 localhost\n").unwrap();
    let mounts = vec![
        Mount { source: volume.clone(), target: "/volume".into(), ..Mount::default() },
        Mount { source: volume.join("hosts"), target: "/etc/hosts".into(), ..Mount::default() },
        Mount { target: "/scratch".into(), ..Mount::default() },
    ];
    let user = |config: &mut ContainerConfig| {
        config.mounts = mounts;
        config.security.user = Some("web".into());
        config.security.supplemental_groups = vec![2000];
        config.security.seccomp = Seccomp::RuntimeDefault;
    };
    let script = "id -u; id -G; stat -c %u:%g /volume/given /scratch; cat /volume/given /etc/hosts; ps -o args | grep -c '^/pause'; \
                  touch /scratch/x && echo writes; grep Seccomp: /proc/self/status; touch /volume/y 2>&1 | sed 's/.*: //'";
    assert_eq!(
        node.output_with(&sandbox, script, user).await,
        "33\n34 4 2000\n0:2000\n0:0\ntext\n127.0.0.1 localhost\n1\nwrites\nSeccomp:\t2\nPermission denied"
    );
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// What is mounted in a volume belongs to the same users as the volume.
#[tokio::test]
async fn mounts_in_a_volume_are_shown_to_the_users_too() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let node = Node::new().await;
    let sandbox = node.sandbox_with(own_users).await;
    let volume = node.dir.path().join("volume");
    let (below, none) = (volume.join("below"), None::<&str>);
    fs::create_dir_all(&below).unwrap();
    // A directory of its own as a mount, so that the file system is one that can.
    let other = node.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("given"), "text\n").unwrap();
    std::os::unix::fs::chown(other.join("given"), Some(0), Some(2000)).unwrap();
    mount(Some(&other), &below, none, MsFlags::MS_BIND, none).unwrap();
    let bind = |name: &str| Mount {
        source: volume.clone(),
        target: "/volume".into(),
        name: name.into(),
        ..Mount::default()
    };
    let script = "stat -c %u:%g /volume/below/given; echo more > /volume/below/made && echo writes";
    let seen = node.output_with(&sandbox, script, |config| config.mounts = vec![bind("data")]).await;
    let made = fs::metadata(other.join("made")).map(|made| (made.uid(), made.gid()));
    // One that can't is named.
    fs::create_dir(volume.join("proc")).unwrap();
    mount(Some("/proc"), &volume.join("proc"), none, MsFlags::MS_BIND, none).unwrap();
    let config = ContainerConfig { mounts: vec![bind("data")], ..node.container_config("true") };
    let refused = node.runtime.create_container(&sandbox.id, config).await;
    for name in ["below", "proc"] {
        umount2(&volume.join(name), MntFlags::MNT_DETACH).unwrap();
    }
    assert_eq!(seen, "0:2000\nwrites");
    assert_eq!(made.unwrap(), (0, 0));
    let refused = refused.unwrap_err().to_string();
    let at = volume.join("proc").display().to_string();
    assert!(refused.contains(&format!("failed to set MOUNT_ATTR_IDMAP on {at}: ")), "{refused}");
    assert!(refused.contains("the volume \"data\" can't be shown to users of the pod's own"), "{refused}");
    assert!(refused.contains("the file system proc can't be shown so"), "{refused}");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn what_can_not_be_shown_to_users_is_refused_and_leaves_nothing() {
    let node = Node::new().await;
    let sandbox = node.sandbox_with(own_users).await;
    let proc = vec![Mount { source: "/proc".into(), target: "/host".into(), ..Mount::default() }];
    let config = ContainerConfig { mounts: proc, ..node.container_config("true") };
    let error = node.runtime.create_container(&sandbox.id, config).await.unwrap_err().to_string();
    assert!(error.contains("failed to set MOUNT_ATTR_IDMAP on /proc"), "{error}");
    // A user beyond the range is nobody's.
    let config = ContainerConfig {
        security: Security { user: Some("70000".into()), ..Security::default() },
        ..node.container_config("true")
    };
    let id = node.runtime.create_container(&sandbox.id, config).await.unwrap();
    let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("change user: Invalid argument"), "{error}");
    assert_eq!(node.output(&sandbox, "echo goes on").await, "goes on");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_terminal_and_sysctls_of_ones_own() {
    let node = Node::new().await;
    let sandbox = node
        .sandbox_with(|config| {
            own_users(config);
            config.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
            config.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
        })
        .await;
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; tty; stat -c %u /dev/console";
    let output = node.output_with(&sandbox, script, |config| config.tty = true).await;
    assert_eq!(output.replace('\r', ""), "80\n1\n/dev/pts/0\n0");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
