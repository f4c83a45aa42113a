//! The same container under this runtime and under runc, as Debian has it: what it may do is the same.
//!
//! The specification for runc is written here by containerd's rules, not by the code under test.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use skiff_runtime::*;

use crate::node::Node;

/// What a program finds out about itself. Programs that fail say so, and go on. Nothing here may change
/// the machine even if it is allowed: what is the whole machine's is opened and not written.
const LOOK: &str = r"
grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status
echo $(id -u) $(id -G | tr ' ' '\n' | sort -n) $(pwd) $HOME $(ls /dev | sort)
awk '{ split($6, flags, /,/); print $5, flags[1] }' /proc/self/mountinfo | sort -u
stat -c '%n %F %a' /proc/timer_list /proc/interrupts /dev/null /dev/ptmx /dev/fd
try() { if said=$(sh -c $1 2>&1 >/dev/null); then echo $1: works; else echo $1: $(echo $said | sed 's/.*: //' | head -n1); fi; }
IFS=@
for what in 'true >> /proc/sys/vm/swappiness' 'true >> /proc/sysrq-trigger' 'cat /proc/timer_list' 'touch /x' \
    'touch /sys/x' 'touch /sys/fs/cgroup/x' 'mknod /tmp/n c 1 3' 'cat < /dev/zero | head -c1' 'mount -t tmpfs t /tmp' \
    'unshare -m true' 'unshare -U true' 'chroot / true' 'hostname x' 'chown 5 /tmp' 'mkdir /tmp/d' \
    'su -s /bin/sh web -c id' 'nice -n -5 true' 'ip addr add 10.1.1.1/32 dev lo'; do
  try $what
done
";

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEFAULT_CAPS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// One row: what is asked of this runtime, and what containerd would make of it.
struct Row {
    name: &'static str,
    security: Security,
    user: (u32, u32, Vec<u32>),
    caps: Vec<&'static str>,
}

fn row(name: &'static str, security: Security) -> Row {
    Row { name, security, user: (0, 0, vec![0]), caps: DEFAULT_CAPS.to_vec() }
}

fn rows(profile: &Path) -> Vec<Row> {
    let user = |user: &str| Some(user.to_owned());
    let caps = |add: &[&str], drop: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Security { capabilities_add: list(add), capabilities_drop: list(drop), ..Security::default() }
    };
    vec![
        row("plain", Security::default()),
        Row {
            user: (33, 34, vec![34, 4, 2000]),
            ..row(
                "a user of the image",
                Security { user: user("web"), supplemental_groups: vec![2000], ..Security::default() },
            )
        },
        Row {
            user: (1000, 7, vec![7, 8]),
            ..row(
                "a user of nobody's",
                Security {
                    user: user("1000"),
                    group: Some(7),
                    supplemental_groups: vec![8],
                    strict_groups: true,
                    no_new_privileges: true,
                    ..Security::default()
                },
            )
        },
        Row { caps: vec![], ..row("no capability", caps(&[], &["ALL"])) },
        Row {
            caps: vec!["NET_ADMIN", "SYS_TIME"],
            ..row("two capabilities", caps(&["NET_ADMIN", "SYS_TIME"], &["ALL"]))
        },
        Row {
            caps: DEFAULT_CAPS.into_iter().filter(|cap| *cap != "CHOWN").chain(["SYS_ADMIN"]).collect(),
            ..row("one more and one less", caps(&["SYS_ADMIN"], &["CHOWN"]))
        },
        row("a root that is read", Security { read_only_rootfs: true, ..Security::default() }),
        row("a filter", Security { seccomp: Seccomp::Profile(profile.to_owned()), ..Security::default() }),
        Row {
            user: (33, 34, vec![34, 4]),
            ..row(
                "a filter and no way up",
                Security {
                    seccomp: Seccomp::Profile(profile.to_owned()),
                    no_new_privileges: true,
                    user: user("web"),
                    ..Security::default()
                },
            )
        },
        row("nothing masked", Security { unmasked_proc: true, ..Security::default() }),
    ]
}

/// By the rules of containerd's CRI plugin.
fn specification(row: &Row, profile: &Value, cgroup: &str) -> Value {
    let caps: Vec<String> = row.caps.iter().map(|name| format!("CAP_{name}")).collect();
    let (uid, gid, groups) = &row.user;
    let device = |path: &str, minor: i64, major: i64| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm", "path": path});
    let mut linux = json!({
        "cgroupsPath": format!("/{cgroup}"),
        "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
        "resources": {"devices": [
            {"allow": false, "access": "rwm"}, device("", 3, 1), device("", 8, 1), device("", 7, 1), device("", 0, 5), device("", 5, 1), device("", 9, 1),
        ]},
    });
    if !row.security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    if matches!(row.security.seccomp, Seccomp::Profile(_)) {
        linux["seccomp"] = profile.clone();
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": uid, "gid": gid, "additionalGids": groups},
            "args": ["sh", "-c", LOOK],
            "env": ["PATH=/bin", "HOSTNAME=podname"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": row.security.no_new_privileges,
        },
        "root": {"path": "rootfs", "readonly": row.security.read_only_rootfs},
        "hostname": "podname",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": linux,
    })
}

/// A directory with what the tests' image has.
fn make_root(root: &Path) {
    for dir in ["bin", "etc", "root", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    use std::os::unix::fs::{PermissionsExt, symlink};
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), crate::node::PASSWD).unwrap();
    fs::write(root.join("etc/group"), crate::node::GROUP).unwrap();
}

fn under_runc(dir: &Path, row: &Row, profile: &Value, number: usize) -> String {
    let name = format!("skiff-rt-runc-{}-{number}", std::process::id());
    let bundle = dir.join(&name);
    make_root(&bundle.join("rootfs"));
    let specification = specification(row, profile, &name);
    fs::write(bundle.join("config.json"), serde_json::to_vec(&specification).unwrap()).unwrap();
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(dir.join("runc")).args(args).stdin(std::process::Stdio::null());
        command.output().expect("runc, of Debian's package runc")
    };
    let output = runc(&["run", "--bundle", bundle.to_str().unwrap(), &name]);
    // Gone already, unless it failed.
    runc(&["delete", "--force", &name]);
    assert!(output.status.success(), "{}: {}", row.name, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Each runtime in its own way: which mounts a mask needs depends on what the machine has, and where the
/// machine has no device at all there is none to look at.
fn comparable(output: &str) -> Vec<String> {
    let lines = output.lines().map(str::trim_end).filter(|line| {
        !line.starts_with("/sys/devices/system/cpu") && !line.contains("/sys/fs/cgroup") && !line.is_empty()
    });
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_same_as_under_runc() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let path = node.dir.path().join("profile.json");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
        {"names": ["unshare"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    ]});
    fs::write(&path, serde_json::to_vec(&profile).unwrap()).unwrap();
    let mut differences = Vec::new();
    for (number, row) in rows(&path).iter().enumerate() {
        let own = node
            .output_with(&sandbox, LOOK, |config| {
                config.security = row.security.clone();
                config.env = vec![("PATH".into(), "/bin".into())];
            })
            .await;
        let theirs = under_runc(node.dir.path(), row, &profile, number);
        let (own, theirs) = (comparable(&own), comparable(&theirs));
        let only = |these: &[String], those: &[String], whose: &str| -> Vec<String> {
            let more = these.iter().filter(|line| !those.contains(line));
            more.map(|line| format!("{}: {whose}: {line}", row.name)).collect()
        };
        differences.extend(only(&own, &theirs, "here"));
        differences.extend(only(&theirs, &own, "runc"));
        assert!(own.len() > 30, "{}: {own:?}", row.name);
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}
