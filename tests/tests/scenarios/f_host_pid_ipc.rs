//! F: pods in their node's PID and IPC namespaces.

use skiff_tests::{Background, Cluster, wait_for, wait_until};

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
    on_node(&["mq-put", "/f2", "queued"]).ok();
    assert_ne!(namespace.exec("own", &["peer", "mq-get", "/f2"]).code, 0);
    assert_eq!(namespace.exec("host", &["peer", "mq-get", "/f2"]).ok(), "queued\n");
    cluster.on_node(&node, &["sh", "-c", "echo shared > /dev/shm/f2"]).ok();
    assert_eq!(namespace.exec("host", &["cat", "/dev/shm/f2"]).ok(), "shared\n");
    assert_ne!(namespace.exec("own", &["cat", "/dev/shm/f2"]).code, 0);
    cluster.on_node(&node, &["rm", "/dev/shm/f2"]).ok();
    // Another node has an IPC namespace and a /dev/shm of its own.
    let other = cluster.on_node(&cluster.worker(1), &[peer.to_str().expect("UTF-8"), "sem-get", "8153"]);
    assert_ne!(other.code, 0, "{other:?}");
}

#[test]
fn f3_all_three_combine() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("f3");
    namespace
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: all}, spec: {hostNetwork: true, hostPID: true, hostIPC: true, terminationGracePeriodSeconds: 1, containers: [{name: main, image: alpine, command: [sleep, '999999']}]}}")
        .ok();
    namespace.ready("all");
    let node = namespace.pod("all")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    for kind in ["net", "pid", "ipc", "uts"] {
        let link = format!("/proc/1/ns/{kind}");
        let own = format!("/proc/self/ns/{kind}");
        assert_eq!(
            namespace.exec("all", &["readlink", &own]).ok(),
            cluster.on_node(&node, &["readlink", &link]).ok(),
            "{kind}"
        );
    }
    let link = "/proc/self/ns/mnt";
    assert_ne!(
        namespace.exec("all", &["readlink", link]).ok(),
        cluster.on_node(&node, &["readlink", link]).ok()
    );
}
