//! I1: who is in each namespace, what a container finds in it and may write, against all processes of the
//! node and what the pod itself can do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use skiff_tests::{Background, Cluster, Namespace, pod_on, skiff_path, wait_for, wait_until};

use super::truth::{explain, explained};

/// All processes of a node: their namespaces, by kind, and their control groups.
#[derive(Default)]
struct Processes {
    namespaces: BTreeMap<u64, BTreeMap<String, u64>>,
    groups: BTreeMap<u64, String>,
}

impl Processes {
    /// As `ls` and `grep` of the node tell them.
    fn of(cluster: &Cluster, node: &str) -> Self {
        let mut all = Self::default();
        // Of those that end meanwhile both complain.
        let listing = cluster.on_node(node, &["sh", "-c", "ls -l /proc/[0-9]*/ns; true"]).stdout;
        let mut pid = 0;
        for line in listing.lines() {
            if let Some(path) = line.strip_suffix("/ns:") {
                pid = path.trim_start_matches("/proc/").parse().expect("a PID");
            } else if let Some((kind, rest)) =
                line.split_once(" -> ").and_then(|(_, link)| link.split_once(":["))
            {
                // `pid_for_children` is another's business.
                if line.contains(&format!(" {kind} -> ")) {
                    let inode = rest.trim_end_matches(']').parse().expect("a number");
                    all.namespaces.entry(pid).or_default().insert(kind.to_owned(), inode);
                }
            }
        }
        let groups = cluster.on_node(node, &["sh", "-c", "grep -H . /proc/[0-9]*/cgroup; true"]).stdout;
        for line in groups.lines() {
            let Some((path, group)) = line.split_once("/cgroup:") else { continue };
            let pid = path.trim_start_matches("/proc/").parse().expect("a PID");
            all.groups.entry(pid).or_default().push_str(group);
        }
        all
    }

    fn inside(&self, kind: &str, inode: u64) -> BTreeSet<u64> {
        let here = self.namespaces.iter().filter(|(_, own)| own.get(kind) == Some(&inode));
        here.map(|(pid, _)| *pid).collect()
    }

    fn of_pod(&self, uid: &str) -> BTreeSet<u64> {
        let name = format!("/pod{uid}");
        self.groups.iter().filter(|(_, group)| group.contains(&name)).map(|(pid, _)| *pid).collect()
    }
}

/// What is said of each namespace's members, or what is wrong with it.
fn wrong_members(all: &Processes, told: &Value) -> Option<String> {
    let uid = told["metadata"]["uid"].as_str()?;
    let of_pod = all.of_pod(uid);
    let pause = told["sandbox"]["pid"].as_u64()?;
    for own in told["namespaces"].as_array()? {
        let (kind, inode) = (own["namespace"].as_str()?, own["inode"].as_u64()?);
        let inside = all.inside(kind, inode);
        let nodes = all.inside(kind, *all.namespaces.get(&1)?.get(kind)?);
        let outside: BTreeSet<u64> = inside.difference(&of_pod).copied().collect();
        let word = match (inside == nodes, outside.is_empty()) {
            (true, _) => "host",
            (false, true) => "own",
            (false, false) => "shared",
        };
        if own["word"] != word {
            return Some(format!("{own} is {word}: {inside:?}, of the pod {of_pod:?}"));
        }
        let containers = told["containers"].as_array()?.iter().filter(|container| {
            container["process"]["pid"].as_u64().is_some_and(|pid| inside.contains(&pid))
        });
        let containers: Vec<&str> = containers.filter_map(|own| own["name"].as_str()).collect();
        let said: Vec<&str> = own["containers"].as_array()?.iter().filter_map(Value::as_str).collect();
        if said != containers {
            return Some(format!("{own}: {containers:?} are in it"));
        }
        let holder = match (word, inside.contains(&pause)) {
            ("host", _) => None,
            (_, true) => Some("pause"),
            (_, false) => containers.first().copied(),
        };
        if own["holder"].as_str() != holder {
            return Some(format!("{own} is held by {holder:?}"));
        }
        let others: BTreeSet<u64> =
            own["others"].as_array().into_iter().flatten().filter_map(|own| own["pid"].as_u64()).collect();
        if word == "shared" && others != outside {
            return Some(format!("{own}: {outside:?} are in it too"));
        }
        let named = own["sentence"].as_str()?;
        let names_all = containers.iter().all(|name| named.contains(name));
        if word != "host" && !names_all {
            return Some(format!("{own} does not name {containers:?}"));
        }
    }
    None
}

/// Every statement about members, until nothing came or went between the question and the look.
pub(crate) fn check_members(namespace: &Namespace, node: &str, name: &str) {
    wait_until(&format!("{name}'s namespaces have the members that are told"), || {
        let told = explained(namespace, "pod", name);
        let wrong = wrong_members(&Processes::of(&namespace.cluster, node), &told);
        wrong.iter().for_each(|why| eprintln!("{name}: {why}"));
        wrong.is_none()
    });
}

fn sentence(told: &Value, kind: &str) -> String {
    let own = told["namespaces"].as_array().expect("a list").iter().find(|own| own["namespace"] == kind);
    own.and_then(|own| own["sentence"].as_str()).expect("it is told").to_owned()
}

#[test]
fn i1_what_the_node_s_namespaces_expose_is_counted_as_the_pod_sees_it() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-exposed");
    let node = cluster.worker(2);
    let host = "hostNetwork: true\n  hostPID: true\n  hostIPC: true";
    let container = "image: skiff/peer:v1, command: [/bin/sleep, '999999']";
    namespace.apply(&pod_on(&node, "seer", host, container)).ok();
    namespace.ready("seer");
    let count = |script: &str| -> usize {
        namespace.exec("seer", &["sh", "-c", script]).ok().trim().parse().expect("a number")
    };
    // The shell that counts is one of them; others come and go on a node that other tests use.
    wait_until("all processes that it sees are told", || {
        let processes = count("set -- /proc/[0-9]*; echo $#") - 1;
        let told = sentence(&explained(&namespace, "pod", "seer"), "pid");
        eprintln!("{processes}: {told}");
        told == format!("sees and can signal all {processes} processes of {node}, the node agent among them")
    });
    assert!(namespace.exec("seer", &["ps"]).ok().contains("kubelet"));
    wait_until("all interfaces that it uses are told", || {
        let links = count("set -- /sys/class/net/*; echo $#");
        let told = sentence(&explained(&namespace, "pod", "seer"), "net");
        eprintln!("{links}: {told}");
        told == format!("uses {node}'s {links} interfaces, its ports and what listens on its 127.0.0.1")
    });
    namespace.exec("seer", &["peer", "shm-put", "7411", "seen"]).ok();
    wait_until("System V objects are told", || {
        let listed = cluster.on_node(&node, &["ipcs"]).ok();
        let objects = listed.lines().filter(|line| line.starts_with("0x")).count();
        let told = sentence(&explained(&namespace, "pod", "seer"), "ipc");
        eprintln!("{objects}: {told}");
        let many = if objects == 1 { "object" } else { "objects" };
        objects > 0 && told == format!("uses {node}'s {objects} System V {many}, POSIX queues and /dev/shm")
    });
    cluster.on_node(&node, &["ipcrm", "-M", "7411"]).ok();
    let name = namespace.exec("seer", &["hostname"]).ok();
    assert_eq!(name, cluster.on_node(&node, &["hostname"]).ok());
    assert_eq!(sentence(&explained(&namespace, "pod", "seer"), "uts"), format!("has {node}'s host name"));
}

#[test]
fn i1_a_stranger_in_a_pod_s_namespace_is_named() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-stranger");
    let node = cluster.worker(1);
    let container = "image: alpine, command: [sleep, '999999']";
    namespace.apply(&pod_on(&node, "visited", "", container)).ok();
    namespace.ready("visited");
    check_members(&namespace, &node, "visited");
    let told = explained(&namespace, "pod", "visited");
    let pid = told["sandbox"]["pid"].to_string();
    let mut command = Command::new(skiff_path());
    command.args(["node", "shell", "--name", &cluster.name, &node, "--"]);
    command.args(["nsenter", "--net", "--target", &pid, "sleep", "4711"]);
    let _visitor = Background(command.spawn().expect("it starts"));
    let told = wait_for("the visitor is told of", || {
        let told = explained(&namespace, "pod", "visited");
        sentence(&told, "net").contains("(sleep 4711)").then_some(told)
    });
    let said = sentence(&told, "net");
    assert!(said.starts_with("held by pause, used by container main; process "), "{said}");
    assert!(said.ends_with(" (sleep 4711) uses its network too"), "{said}");
    check_members(&namespace, &node, "visited");
    let shown = explain(&namespace, "pod", "visited", &[]).ok();
    let line = shown.lines().find(|line| line.starts_with("net ")).expect("one line a namespace");
    assert!(line.starts_with("net       shared  ") && line.contains(" ! "), "{line}");
}

/// The devices of a pod's `/dev` that not every container has, by `find`.
fn devices(namespace: &Namespace, pod: &str) -> BTreeSet<String> {
    let usual = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];
    let found = namespace.exec(pod, &["find", "/dev", "-type", "b", "-o", "-type", "c"]).ok();
    let names = found.lines().filter_map(|line| line.strip_prefix("/dev/"));
    names.filter(|name| !usual.contains(name) && !name.starts_with("pts/")).map(str::to_owned).collect()
}

#[test]
fn i1_what_of_the_node_a_pod_may_write_is_told() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-write");
    let node = cluster.worker(1);
    let pod = |name: &str, spec: &str, security: &str| {
        let container = format!("image: alpine, command: [sleep, '999999'], securityContext: {{{security}}}");
        pod_on(&node, name, spec, &container)
    };
    let pods = [
        pod("plain", "", ""),
        pod("memory", "hostIPC: true", ""),
        pod("privileged", "", "privileged: true"),
        pod("somebody", "", "privileged: true, runAsUser: 1000"),
        pod("users", "hostUsers: false", "privileged: true"),
    ];
    namespace.apply(&pods.concat()).ok();
    for (name, paths) in [
        ("plain", &[] as &[&str]),
        ("memory", &["/dev/shm"]),
        ("privileged", &["/proc/sys", "/proc/sysrq-trigger", "/sys"]),
        ("somebody", &[]),
        ("users", &[]),
    ] {
        namespace.ready(name);
        let told = explained(&namespace, "pod", name);
        let container = &told["containers"][0];
        let said = container["writableHostPaths"].as_array().expect("a list").iter();
        let said: Vec<&str> = said.filter_map(|own| own["mount"].as_str()).collect();
        // Not every kernel has each of them.
        let paths: Vec<&str> = paths.iter().copied().filter(|own| Path::new(own).exists()).collect();
        assert_eq!(said, paths, "{name}: {told}");
        // The kernel's own word on it: a file that root may write is opened for that, and nothing is written.
        let setting = namespace.exec(name, &["sh", "-c", ": >> /sys/kernel/rcu_expedited"]);
        assert_eq!(setting.code == 0, said.contains(&"/sys"), "{name}: {setting:?}");
        let setting = namespace.exec(name, &["sh", "-c", ": >> /proc/sys/kernel/threads-max"]);
        assert_eq!(setting.code == 0, said.contains(&"/proc/sys"), "{name}: {setting:?}");
        let told_devices = &container["writableDevices"];
        if name != "privileged" {
            assert_eq!(*told_devices, Value::Null, "{name}: {told}");
            continue;
        }
        let found = devices(&namespace, name);
        assert_eq!(told_devices["count"].as_u64(), Some(found.len() as u64), "{told_devices}: {found:?}");
        let named = ["disks", "telling"].iter().filter_map(|list| told_devices[*list].as_array()).flatten();
        for device in named.filter_map(Value::as_str) {
            assert!(found.contains(device), "{device}: {found:?}");
        }
        // One that every kernel of these tests has, opened for writing.
        assert!(told_devices["telling"].to_string().contains("kmsg"), "{told_devices}");
        namespace.exec(name, &["sh", "-c", ": >> /dev/kmsg"]).ok();
        let shown = explain(&namespace, "pod", name, &[]).ok();
        let line = format!("  may write          ! {} devices of the node", found.len());
        assert!(shown.contains(&line), "{shown}");
    }
}
