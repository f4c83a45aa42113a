//! What a container is kept from, and what it shares.

use std::fs;
use std::path::PathBuf;

use skiff_runtime::*;

use crate::node::{LONG, Node, is_version_2};

pub(crate) fn namespace(pid: u32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

pub(crate) fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap().trim().to_owned()
}

#[tokio::test]
async fn namespaces_of_a_plain_sandbox() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let (a, b) = (node.run(&sandbox, "sleep 1000").await, node.run(&sandbox, "sleep 1000").await);
    let (a_pid, b_pid) = (node.get(&a).await.pid, node.get(&b).await.pid);
    let own = std::process::id();
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(a_pid, kind), namespace(sandbox.pid, kind), "{kind}");
        assert_eq!(namespace(b_pid, kind), namespace(sandbox.pid, kind), "{kind}");
        assert_ne!(namespace(a_pid, kind), namespace(own, kind), "{kind}");
    }
    for kind in ["mnt", "pid", "cgroup"] {
        assert_ne!(namespace(a_pid, kind), namespace(b_pid, kind), "{kind}");
        assert_ne!(namespace(a_pid, kind), namespace(own, kind), "{kind}");
    }
    let netns = sandbox.netns.unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(netns).unwrap()),
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(format!("/proc/{}/ns/net", sandbox.pid)).unwrap())
    );
    assert_eq!(
        node.exec(&a, "hostname; echo $HOSTNAME; ps -o pid,args | grep -v ps").await.lines().count(),
        4
    );
    assert_eq!(node.exec(&a, "hostname").await, "podname");
    // One /dev/shm for the sandbox.
    node.exec(&a, "echo shared > /dev/shm/x").await;
    assert_eq!(
        node.exec(&b, "cat /dev/shm/x; df -k /dev/shm | tail -n1 | awk '{print $2}'").await,
        "shared\n65536"
    );
    assert_eq!(status(sandbox.pid, "CapBnd"), "0000000000000000");
    assert_eq!(status(sandbox.pid, "CapEff"), "0000000000000000");
}

#[tokio::test]
async fn a_shared_pid_namespace() {
    let node = Node::new().await;
    let sandbox = node.sandbox_with(|config| config.pid = NamespaceMode::Pod).await;
    let (a, b) = (node.run(&sandbox, "sleep 1001").await, node.run(&sandbox, "sleep 1002").await);
    let list = node.exec(&a, "ps -o pid,args").await;
    assert!(
        list.contains("1 /pause") && list.contains("sleep 1001") && list.contains("sleep 1002"),
        "{list}"
    );
    // An orphan is reaped by pause.
    node.exec(&a, "sh -c 'sleep 0.05 &'").await;
    while node.exec(&b, "ps -o pid,stat,args | grep -c '0.0[5]' || true").await != "0" {
        tokio::task::yield_now().await;
    }
    // What a container leaves behind goes with its first process.
    node.exec(&a, "setsid sleep 1003 > /dev/null 2>&1 &").await;
    node.runtime.stop_container(&a, std::time::Duration::ZERO).await.unwrap();
    while node.exec(&b, "ps -o args | grep -c 'sleep 100[13]' || true").await != "0" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_nodes_namespaces() {
    let node = Node::new().await;
    let all = |config: &mut SandboxConfig| {
        config.pid = NamespaceMode::Node;
        config.ipc = NamespaceMode::Node;
        config.network = NamespaceMode::Node;
    };
    let sandbox = node.sandbox_with(all).await;
    assert_eq!(sandbox.netns, None);
    let id = node.run(&sandbox, "sleep 1000").await;
    let pid = node.get(&id).await.pid;
    for kind in ["net", "ipc", "uts", "pid"] {
        assert_eq!(namespace(pid, kind), namespace(std::process::id(), kind), "{kind}");
    }
    assert_eq!(node.exec(&id, &format!("test -d /proc/{} && echo seen", std::process::id())).await, "seen");
    let shm = format!("skiff-rt-{}", std::process::id());
    fs::write(format!("/dev/shm/{shm}"), "node").unwrap();
    assert_eq!(node.exec(&id, &format!("cat /dev/shm/{shm}; rm /dev/shm/{shm}")).await, "node");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn capabilities_as_the_kernel_has_them() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let sets = |pid| ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status(pid, set));
    let zero = "0000000000000000".to_owned();
    let expect = |bits: &str| [zero.clone(), bits.to_owned(), bits.to_owned(), bits.to_owned(), zero.clone()];
    let id = node.run(&sandbox, "sleep 1000").await;
    assert_eq!(sets(node.get(&id).await.pid), expect("00000000a80425fb"));
    let caps = "grep -E 'Cap(Eff|Bnd)' /proc/self/status";
    assert_eq!(node.exec(&id, caps).await, "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb");
    let drop_all = |config: &mut ContainerConfig| {
        config.security.capabilities_drop = vec!["ALL".into()];
        config.security.capabilities_add = vec!["NET_BIND_SERVICE".into()];
        config.security.no_new_privileges = true;
    };
    let id = node.run_with(&sandbox, "sleep 1000", drop_all).await;
    let pid = node.get(&id).await.pid;
    assert_eq!(sets(pid), expect("0000000000000400"));
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    // Another user than root has none at all, yet they stay within reach of its set-uid programs.
    let id = node.run_with(&sandbox, "sleep 1000", |config| config.security.user = Some("web".into())).await;
    let pid = node.get(&id).await.pid;
    let expected = [&zero, &zero, &zero, "00000000a80425fb", &zero].map(|set: &str| set.to_owned());
    assert_eq!(sets(pid), expected);
    assert_eq!(status(pid, "Uid"), "33\t33\t33\t33");
    assert_eq!(status(pid, "Gid"), "34\t34\t34\t34");
    assert_eq!(status(pid, "Groups"), "4 34");
    assert_eq!(node.exec(&id, "id -u; echo $HOME; pwd").await, "33\n/srv\n/");
    let id = node.run_with(&sandbox, "sleep 1000", |config| config.security.privileged = true).await;
    assert_eq!(status(node.get(&id).await.pid, "CapEff"), status(std::process::id(), "CapEff"));
}

#[tokio::test]
async fn devices() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "ls /dev | grep -v core | tr '\\n' ' '; echo; head -c1 /dev/zero | wc -c; mknod /tmp/tun c 10 200; \
                  cat /tmp/tun 2>&1 | head -n1; stat -c %F:%a /dev/null";
    assert_eq!(
        node.output(&sandbox, script).await,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n1\n\
         cat: can't open '/tmp/tun': Operation not permitted\ncharacter special file:666"
    );
    let give = |config: &mut ContainerConfig| {
        config.devices = vec![Device {
            path: "/dev/net/tun".into(),
            target: "/dev/given".into(),
            permissions: "r".into(),
        }];
    };
    let script = "exec 3</dev/given && echo open; echo x 2>/dev/null >/dev/given || echo refused";
    assert_eq!(node.output_with(&sandbox, script, give).await, "open\nrefused");
    let script = "test -e /dev/net/tun && echo all; mount -t tmpfs x /tmp && echo mounted; \
                  mknod /tmp/tun c 10 200 && exec 3</tmp/tun && echo open";
    let all = |config: &mut ContainerConfig| config.security.privileged = true;
    assert_eq!(node.output_with(&sandbox, script, all).await, "all\nmounted\nopen");
}

/// A hybrid hierarchy has an empty version 2 group: enough for its device program, killing and counting of
/// processes.
#[tokio::test]
async fn devices_and_killing_on_cgroup_version_2() {
    let mount = if is_version_2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
    let node = Node::with_cgroups(mount).await;
    let sandbox = node.sandbox_with(|config| config.pid = NamespaceMode::Node).await;
    let script = "mknod /tmp/tun c 10 200; cat /tmp/tun 2>&1 | head -n1; echo x >/dev/null && echo ok";
    assert_eq!(
        node.output(&sandbox, script).await,
        "cat: can't open '/tmp/tun': Operation not permitted\nok"
    );
    let id = node.run(&sandbox, "setsid sleep 1004 & wait").await;
    let pid = node.get(&id).await.pid;
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = membership.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    assert!(own.ends_with(&id.0), "{own}");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
    assert!(!fs::exists(format!("{mount}{own}")).unwrap());
}

#[tokio::test]
async fn masked_and_read_only_paths() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "wc -c < /proc/interrupts; wc -c < /proc/timer_list; ls /sys/firmware | wc -l; \
                  for f in /proc/sys/kernel/panic /sys/kernel/mm/lru_gen/enabled /proc/sysrq-trigger; do \
                  (true >> $f) 2>&1 | sed 's/.*: //'; done";
    let output = node.output(&sandbox, script).await;
    assert!(output.starts_with("0\n0\n0"), "{output}");
    let read_only = "touch /x 2>&1 | sed 's/.*: //'; (true >> /proc/sys/vm/swappiness) 2>&1 | sed 's/.*: //'; touch /sys/x 2>&1 | sed 's/.*: //'; \
                     touch /sys/fs/cgroup/x 2>&1 | sed 's/.*: //'; touch /dev/shm/x && echo ok";
    let ro = |config: &mut ContainerConfig| config.security.read_only_rootfs = true;
    assert_eq!(
        node.output_with(&sandbox, read_only, ro).await,
        "Read-only file system\nRead-only file system\nRead-only file system\nRead-only file system\nok"
    );
    let script =
        "wc -c < /proc/interrupts; cat /proc/sys/kernel/hostname > /proc/sys/kernel/hostname && echo ok";
    let all = |config: &mut ContainerConfig| config.security.privileged = true;
    let output = node.output_with(&sandbox, script, all).await;
    assert!(output.ends_with("ok") && !output.starts_with("0\n"), "{output}");
}

#[tokio::test]
async fn mounts_stay_inside_and_links_do_not_lead_out() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let given = node.dir.path().join("given");
    fs::create_dir(&given).unwrap();
    fs::write(given.join("file"), "from the node\n").unwrap();
    let mounts = vec![
        Mount { source: given.join("file"), target: "/escape/skiff-was-here/f".into(), ..Mount::default() },
        Mount { source: given.clone(), target: "/a/b".into(), read_only: true, ..Mount::default() },
        Mount { source: given.clone(), target: "/a/b/c/..//rw".into(), ..Mount::default() },
        Mount { source: PathBuf::new(), target: "/scratch".into(), ..Mount::default() },
        Mount { source: given.join("file"), target: "/etc/hosts".into(), ..Mount::default() },
    ];
    fs::create_dir(given.join("rw")).unwrap();
    let script = "cat /etc/skiff-was-here/f /etc/hosts; touch /a/b/x 2>&1 | sed 's/.*: //'; touch /a/b/rw/y && echo ok; \
                  grep -c ' /scratch .*tmpfs' /proc/self/mountinfo; touch /scratch/z && echo ok";
    assert_eq!(
        node.output_with(&sandbox, script, |config| config.mounts = mounts).await,
        "from the node\nfrom the node\nRead-only file system\nok\n1\nok"
    );
    assert!(!fs::exists("/etc/skiff-was-here").unwrap());
    assert!(fs::exists(given.join("y")).unwrap());
    let missing = vec![Mount { source: "/no/such".into(), target: "/x".into(), ..Mount::default() }];
    let config = ContainerConfig { mounts: missing, ..node.container_config("true") };
    let error = node.runtime.create_container(&sandbox.id, config).await.unwrap_err();
    assert!(error.to_string().contains("cannot mount /no/such: No such file or directory"), "{error}");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn seccomp_filters_init_and_commands_alike() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let default = |config: &mut ContainerConfig| {
        config.security.seccomp = Seccomp::RuntimeDefault;
        config.security.capabilities_add = vec!["SYS_BOOT".into()];
    };
    let id = node.run_with(&sandbox, "sleep 1000", default).await;
    let pid = node.get(&id).await.pid;
    assert_eq!((status(pid, "Seccomp"), status(pid, "NoNewPrivs")), ("2".into(), "0".into()));
    let proc = node.exec(&id, "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status").await;
    assert_eq!(proc, "NoNewPrivs:\t0\nSeccomp:\t2");
    let command = ["sh", "-c", "unshare -m true"].map(String::from);
    let output = node.runtime.exec_sync(&id, &command, LONG).await.unwrap();
    assert_ne!(output.exit_code, 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"));

    let profile = node.dir.path().join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;
    fs::write(&profile, text).unwrap();
    let own = |config: &mut ContainerConfig| {
        config.security.seccomp = Seccomp::Profile(profile);
        config.security.no_new_privileges = true;
        config.security.user = Some("1000:1000".into());
    };
    let script = "mkdir /tmp/x 2>&1 | sed 's/.*: //'; touch /tmp/y && echo ok";
    assert_eq!(node.output_with(&sandbox, script, own).await, "Operation not supported\nok");
}

#[tokio::test]
async fn sysctls_of_the_sandbox() {
    let node = Node::new().await;
    let sandbox = node
        .sandbox_with(|config| {
            config.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
            config.sysctls.insert("kernel.msgmax".into(), "12345".into());
        })
        .await;
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    assert_eq!(node.output(&sandbox, script).await, "80\n12345");
    let wrong = SandboxConfig {
        sysctls: [("net.no.such".to_owned(), "1".to_owned())].into(),
        ..sandbox.config.clone()
    };
    let error = node.runtime.run_sandbox(wrong).await.unwrap_err().to_string();
    assert!(error.contains("net.no.such"), "{error}");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn mounts_travel_as_far_as_asked() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let shared = node.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let none = None::<&str>;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    mount(Some("t"), &shared, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, &shared, none, MsFlags::MS_SHARED, none).unwrap();
    for name in ["both", "down", "none"] {
        fs::create_dir(shared.join(name)).unwrap();
    }
    let bind = |target: &str, propagation| Mount {
        source: shared.clone(),
        target: target.into(),
        propagation,
        ..Mount::default()
    };
    let mounts = vec![
        bind("/both", Propagation::Bidirectional),
        bind("/down", Propagation::HostToContainer),
        bind("/none", Propagation::Private),
    ];
    let id = node
        .run_with(&sandbox, "sleep 1000", |config| {
            config.mounts = mounts;
            config.security.privileged = true;
        })
        .await;
    for name in ["both", "down", "none"] {
        node.exec(&id, &format!("mount -t tmpfs t /{name}/{name} && touch /{name}/{name}/file")).await;
    }
    let seen = ["both", "down", "none"].map(|name| shared.join(name).join("file").exists());
    umount2(&shared.join("both"), MntFlags::MNT_DETACH).unwrap();
    mount(Some("t"), &shared.join("both"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::write(shared.join("both/later"), "").unwrap();
    let later = node.exec(&id, "ls -d /*/both/later || true").await;
    umount2(&shared.join("both"), MntFlags::MNT_DETACH).unwrap();
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    umount2(&shared, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(seen, [true, false, false]);
    assert_eq!(later, "/both/both/later\n/down/both/later");
    let private = vec![Mount {
        source: node.dir.path().into(),
        target: "/x".into(),
        propagation: Propagation::Bidirectional,
        ..Mount::default()
    }];
    let sandbox = node.sandbox().await;
    let config = ContainerConfig { mounts: private, ..node.container_config("true") };
    let created = node.runtime.create_container(&sandbox.id, config).await;
    let is_shared = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = is_shared.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    if !root.contains(" shared:") {
        assert!(created.unwrap_err().to_string().contains("is not on a shared mount"));
    }
}

#[tokio::test]
async fn what_is_mounted_below_a_mount_is_read_only_if_asked() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let source = node.dir.path().join("source");
    let below = source.join("below");
    fs::create_dir_all(&below).unwrap();
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    mount(Some("t"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let bind = |target: &str, recursive_read_only| Mount {
        source: source.clone(),
        target: target.into(),
        read_only: true,
        recursive_read_only,
        ..Mount::default()
    };
    let mounts = vec![bind("/top", false), bind("/all", true)];
    let script =
        "for d in top all; do for f in /$d/x /$d/below/x; do touch $f 2>&1 && echo $f; done; done; true";
    let said = node.output_with(&sandbox, script, |config| config.mounts = mounts).await;
    let outside = fs::write(below.join("y"), "");
    umount2(&below, MntFlags::MNT_DETACH).unwrap();
    let refused = |path: &str| format!("touch: {path}: Read-only file system");
    assert_eq!(
        said,
        [refused("/top/x"), "/top/below/x".into(), refused("/all/x"), refused("/all/below/x")].join("\n")
    );
    outside.expect("for the node nothing has changed");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
}
