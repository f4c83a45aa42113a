//! I1: what processes of a pod listen at that left the pod's network: the network that they are in, beside `/proc` and
//! `ss` there.

use std::process::Command;

use serde_json::Value;
use skiff_tests::{Background, Cluster, Namespace, fixed_ports, pod_on, skiff_path, wait_for, wait_until};

use super::truth::{explain, explained, links, text};

/// The one other network that is told of, once that process listens there.
fn other(namespace: &Namespace, pod: &str, port: u64) -> Value {
    wait_for(&format!("{pod}'s other network is told"), || {
        let told = explained(namespace, "pod", pod);
        let all = told["otherNetworks"].as_array().cloned().unwrap_or_default();
        let own = all.into_iter().find(|own| own["listeners"][0]["port"] == port)?;
        assert_eq!(told["otherNetworks"].as_array().map(Vec::len), Some(1), "{told}");
        let within = told["listeners"].as_array().expect("a list");
        assert!(within.iter().all(|own| own["port"] != port), "it is none of the pod's network: {told}");
        Some(own)
    })
}

/// That the network is the one that its process is in, and that the socket is there.
fn check(cluster: &Cluster, node: &str, own: &Value, port: u64) {
    let process = &own["processes"][0];
    let pid = process["pid"].to_string();
    let line = cluster.on_node(node, &["cat", &format!("/proc/{pid}/cmdline")]).ok().replace('\0', " ");
    assert!(line.contains(&format!("peer tcp {port}")), "{own}: {line}");
    assert_eq!(own["inode"].as_u64(), links(cluster, node, &pid).get("net").copied(), "{own}");
    assert_eq!(own["listeners"][0]["process"]["pid"], process["pid"], "{own}");
    assert_eq!(own["listeners"][0]["address"], "0.0.0.0", "{own}");
    let shown =
        cluster.on_node(node, &["nsenter", "--net", "--target", &pid, "ss", "-H", "-l", "-n", "-t", "-p"]);
    let shown = shown.ok();
    let mut lines = shown.lines().filter(|line| line.contains(&format!("0.0.0.0:{port} ")));
    assert!(lines.any(|line| line.contains(&format!("pid={pid},"))), "{shown}");
}

#[test]
fn i1_what_listens_where_a_process_of_the_pod_went_is_told_with_that_network() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-other-net");
    let node = cluster.worker(1);
    let admin = "securityContext: {capabilities: {add: [SYS_ADMIN]}}";
    let leaves = "image: skiff/peer:v1, command: [sh, -c, 'unshare -n peer tcp 7777 & exec peer tcp 7000']";
    let all = "image: skiff/peer:v1, command: [unshare, -n, peer, tcp, '7778']";
    let enters =
        "image: skiff/peer:v1, command: [sh, -c, 'nsenter -t 1 -n peer tcp 18949 & exec peer tcp 7000']";
    namespace
        .apply(
            &[
                pod_on(&node, "stays", "", "image: skiff/peer:v1, command: [peer, tcp, '7000']"),
                pod_on(&node, "leaves", "", &format!("{leaves}, {admin}")),
                pod_on(&node, "whole", "", &format!("{all}, {admin}")),
                pod_on(
                    &node,
                    "enters",
                    "hostPID: true",
                    &format!("{enters}, securityContext: {{privileged: true}}"),
                ),
            ]
            .concat(),
        )
        .ok();
    ["stays", "leaves", "whole", "enters"].iter().for_each(|pod| namespace.ready(pod));
    assert_eq!(explained(&namespace, "pod", "stays")["otherNetworks"], Value::Null);
    // One of several processes, and the container's first.
    for (pod, port) in [("leaves", 7777), ("whole", 7778)] {
        let own = other(&namespace, pod, port);
        check(&cluster, &node, &own, port);
        assert_eq!(own["word"], "own", "{own}");
        assert_eq!(own["processes"][0]["container"], "main", "{own}");
        let told = explained(&namespace, "pod", pod);
        let pause = links(&cluster, &node, &told["sandbox"]["pid"].to_string());
        assert_ne!(own["inode"].as_u64(), pause.get("net").copied(), "{own}");
        let shown = explain(&namespace, "pod", pod, &[]).ok();
        assert!(
            shown.contains("  in another network: peer tcp ") && shown.contains("one that nobody else"),
            "{shown}"
        );
    }
    // Into the node's own: what others have there is none of this pod's.
    let own = other(&namespace, "enters", 18949);
    check(&cluster, &node, &own, 18949);
    assert_eq!((&own["word"], own["listeners"].as_array().map(Vec::len)), (&"host".into(), Some(1)), "{own}");
    assert_eq!(own["inode"].as_u64(), links(&cluster, &node, "1").get("net").copied(), "{own}");
    // And one that somebody joins.
    let pid = other(&namespace, "leaves", 7777)["processes"][0]["pid"].to_string();
    let mut command = Command::new(skiff_path());
    command.args(["node", "shell", "--name", &cluster.name, &node, "--"]);
    command.args(["nsenter", "--net", "--target", &pid, "sleep", "4712"]);
    let _visitor = Background(command.spawn().expect("it starts"));
    wait_until("the visitor is told of", || {
        let own = other(&namespace, "leaves", 7777);
        let others = own["others"].as_array().cloned().unwrap_or_default();
        own["word"] == "shared" && others.iter().any(|own| text(&own["command"]).ends_with("sleep 4712"))
    });
}
