//! F: pods in their node's PID and IPC namespaces.

use skiff_tests::{Background, Cluster, pod_on, wait_for, wait_until};

#[test]
fn f1_host_pid_shows_the_node_s_processes_the_agent_among_them() {
    let cluster = Cluster::shared();
    for node in [cluster.control_plane(), cluster.worker(1)] {
        let namespace = cluster
            .namespace(&format!("f1-{}", if node == cluster.control_plane() { "first" } else { "other" }));
        namespace
            .apply(&format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: seer}}
spec:
  hostPID: true
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: alpine, command: [/bin/sleep, '999999']}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: blind}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: alpine, command: [/bin/sleep, '999999']}}]
"
            ))
            .ok();
        namespace.ready("seer");
        namespace.ready("blind");
        let seen = namespace.exec("seer", &["ps", "aux"]).ok();
        assert!(seen.lines().any(|line| line.contains("kubelet")), "{seen}");
        let seen = namespace.exec("blind", &["ps", "aux"]).ok();
        assert!(!seen.contains("kubelet") && seen.lines().count() <= 3, "only its own: {seen}");
        // A process that somebody started on the node, and one of another pod.
        let mut command = std::process::Command::new(skiff_tests::skiff_path());
        command.args([
            "node",
            "shell",
            "--name",
            &cluster.name,
            &node,
            "--",
            "/bin/busybox",
            "sleep",
            "4242",
        ]);
        let mut started = Background(command.spawn().expect("it starts"));
        let find = |what: &str| {
            let seen = namespace.exec("seer", &["ps", "-o", "pid,args"]).ok();
            let line = seen.lines().find(|line| line.trim_end().ends_with(what))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let pid = wait_for("the process is seen", || find("/bin/busybox sleep 4242"));
        namespace.exec("seer", &["kill", "-9", &pid]).ok();
        let status = started.0.wait().expect("it ends");
        assert_eq!(status.code(), Some(137));
        namespace.kubectl(&["exec", "blind", "--", "sh", "-c", "sleep 5151 >/dev/null 2>&1 &"]).ok();
        let pid = wait_for("the other pod's process is seen", || find("sleep 5151"));
        namespace.exec("seer", &["kill", "-9", &pid]).ok();
        wait_until("it is gone", || find("sleep 5151").is_none());
    }
}

#[test]
fn f1_the_notes_manifest_lists_the_agent() {
    let namespace = Cluster::shared().namespace("f1-notes");
    assert_eq!(namespace.apply_file("simpleweb-hostpid-hostipc.yaml").ok(), "pod/simpleweb created\n");
    namespace.ready("simpleweb");
    let seen = namespace.exec("simpleweb", &["ps", "aux"]).ok();
    assert!(seen.contains("kubelet"), "{seen}");
    assert_eq!(namespace.apply_file("host-pid-ipc.yaml").ok(), "pod/pod-with-host-pid-and-ipc created\n");
    namespace.ready("pod-with-host-pid-and-ipc");
}

#[test]
fn f2_host_ipc_shares_the_node_s_objects_both_ways() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("f2");
    let node = cluster.worker(2);
    let pod = |name: &str, host: bool| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostIPC: {host}
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: skiff/peer:v1, command: [/bin/sleep, '999999']}}]
---
"
        )
    };
    namespace.apply(&(pod("host", true) + &pod("own", false))).ok();
    namespace.ready("host");
    namespace.ready("own");
    let peer = skiff_tests::peer_path();
    let on_node = |args: &[&str]| {
        let mut all = vec![peer.to_str().expect("UTF-8")];
        all.extend(args);
        cluster.on_node(&node, &all)
    };
    for (put, get) in [("shm-put", "shm-get"), ("msg-put", "msg-get")] {
        on_node(&[put, "8151", "from the node"]).ok();
        assert_ne!(namespace.exec("own", &["peer", get, "8151"]).code, 0, "{get} sees nothing");
        assert_eq!(namespace.exec("host", &["peer", get, "8151"]).ok(), "from the node\n", "{get}");
        namespace.exec("host", &["peer", put, "8152", "from the pod"]).ok();
        assert_eq!(on_node(&[get, "8152"]).ok(), "from the pod\n", "{get}");
    }
    on_node(&["sem-put", "8153", "7"]).ok();
    assert_eq!(namespace.exec("host", &["peer", "sem-get", "8153"]).ok(), "7\n");
    assert_ne!(namespace.exec("own", &["peer", "sem-get", "8153"]).code, 0);
    namespace.exec("host", &["peer", "sem-put", "8154", "9"]).ok();
    assert_eq!(on_node(&["sem-get", "8154"]).ok(), "9\n");
    on_node(&["mq-put", "/f2", "queued"]).ok();
    assert_ne!(namespace.exec("own", &["peer", "mq-get", "/f2"]).code, 0);
    assert_eq!(namespace.exec("host", &["peer", "mq-get", "/f2"]).ok(), "queued\n");
    namespace.exec("host", &["peer", "mq-put", "/f2-pod", "answered"]).ok();
    assert_eq!(on_node(&["mq-get", "/f2-pod"]).ok(), "answered\n");
    cluster.on_node(&node, &["sh", "-c", "echo shared > /dev/shm/f2"]).ok();
    assert_eq!(namespace.exec("host", &["cat", "/dev/shm/f2"]).ok(), "shared\n");
    assert_ne!(namespace.exec("own", &["cat", "/dev/shm/f2"]).code, 0);
    namespace.exec("host", &["sh", "-c", "echo back > /dev/shm/f2-pod"]).ok();
    assert_eq!(cluster.on_node(&node, &["cat", "/dev/shm/f2-pod"]).ok(), "back\n");
    cluster.on_node(&node, &["rm", "/dev/shm/f2", "/dev/shm/f2-pod"]).ok();
    // Another node has an IPC namespace and a /dev/shm of its own.
    let other = cluster.on_node(&cluster.worker(1), &[peer.to_str().expect("UTF-8"), "sem-get", "8153"]);
    assert_ne!(other.code, 0, "{other:?}");
}

/// Each of the eight combinations has those of the node's namespaces that it asks for, and no other.
#[test]
fn f3_all_three_combine_freely() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("f3");
    let node = cluster.worker(1);
    let kinds = ["net", "uts", "pid", "ipc", "mnt"];
    // busybox's readlink takes one at a time.
    let read = |pid: &str| format!("for kind in {}; do readlink /proc/{pid}/ns/$kind; done", kinds.join(" "));
    let of_node = cluster.on_node(&node, &["sh", "-c", &read("1")]).ok();
    let combinations: Vec<[bool; 3]> =
        (0..8u8).map(|bits| [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0]).collect();
    let manifest = |number: usize, [network, pid, ipc]: [bool; 3]| {
        let spec = format!("hostNetwork: {network}\n  hostPID: {pid}\n  hostIPC: {ipc}");
        pod_on(&node, &format!("p{number}"), &spec, "image: alpine, command: [sleep, '999999']")
    };
    let manifests = combinations.iter().enumerate().map(|(number, wanted)| manifest(number, *wanted));
    namespace.apply(&manifests.collect::<String>()).ok();
    for (number, [network, pid, ipc]) in combinations.into_iter().enumerate() {
        let name = format!("p{number}");
        namespace.ready(&name);
        let there = namespace.exec(&name, &["sh", "-c", &read("self")]).ok();
        let shared: Vec<bool> = there.lines().zip(of_node.lines()).map(|(one, other)| one == other).collect();
        // The host name comes with the network.
        assert_eq!(shared, [network, network, pid, ipc, false], "{network} {pid} {ipc}: {there}{of_node}");
    }
}
