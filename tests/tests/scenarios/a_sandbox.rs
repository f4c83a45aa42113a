//! A: pods and their sandbox.

use skiff_tests::{Cluster, Namespace, pod_on, skiff, wait_until};

/// The inode of a namespace of a pod's first container, as the container sees it.
fn inode(namespace: &Namespace, pod: &str, container: &str, kind: &str) -> String {
    let link = format!("/proc/self/ns/{kind}");
    namespace.kubectl(&["exec", pod, "-c", container, "--", "readlink", &link]).ok().trim().to_owned()
}

const TWO_CONTAINERS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: one, image: skiff/peer:v1, imagePullPolicy: IfNotPresent, command: [peer, tcp, '7001'], volumeMounts: [{name: shared, mountPath: /shared}]}
  - {name: other, image: skiff/peer:v1, command: [/bin/sleep, '999999'], volumeMounts: [{name: shared, mountPath: /shared}]}
  volumes: [{name: shared, emptyDir: {}}]
";

#[test]
fn a1_a_pod_has_namespaces_of_its_own_held_by_pause() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("a1");
    namespace.apply(TWO_CONTAINERS).ok();
    namespace.ready("two");
    let node = namespace.pod("two")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    for kind in ["net", "ipc", "uts"] {
        let one = inode(&namespace, "two", "one", kind);
        assert_eq!(one, inode(&namespace, "two", "other", kind), "{kind} is the pod's");
        let link = format!("/proc/1/ns/{kind}");
        let host = cluster.on_node(&node, &["readlink", &link]).ok().trim().to_owned();
        assert_ne!(one, host, "{kind} is not the node's");
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(
            inode(&namespace, "two", "one", kind),
            inode(&namespace, "two", "other", kind),
            "{kind} is the container's"
        );
    }
    let listing = skiff(&["ps", "--name", &cluster.name, "--node", &node, "-o", "json"]).ok();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listing).expect("JSON");
    let own: Vec<_> = rows.iter().filter(|row| row["namespace"] == "a1" && row["pod"] == "two").collect();
    let pauses: Vec<_> = own.iter().filter(|row| row["name"] == "pause").collect();
    assert_eq!((own.len(), pauses.len()), (3, 1), "one pause and two containers: {own:?}");
    // What the listing calls pause is a process of that name on the node, in the pod's network namespace.
    let pid = pauses[0]["pid"].as_u64().expect("a PID").to_string();
    let command = cluster.on_node(&node, &["cat", &format!("/proc/{pid}/cmdline")]).ok();
    assert!(command.contains("pause"), "{command:?}");
    for kind in ["net", "ipc", "uts"] {
        let held = cluster.on_node(&node, &["readlink", &format!("/proc/{pid}/ns/{kind}")]).ok();
        assert_eq!(held.trim(), inode(&namespace, "two", "one", kind), "{kind}");
    }
    // It does nothing else: one thread, no file, and it sleeps.
    let status = cluster.on_node(&node, &["cat", &format!("/proc/{pid}/status")]).ok();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!((field("State").as_str(), field("Threads").as_str()), ("S (sleeping)", "1"), "{status}");
}

/// The network, IPC and UTS namespaces of a container, and the PID of the process that holds them.
fn held(namespace: &Namespace, pod: &str, container: &str) -> (Vec<String>, u64) {
    let inodes = ["net", "ipc", "uts"].map(|kind| inode(namespace, pod, container, kind));
    let listing = skiff(&["ps", "--name", &namespace.cluster.name, "-o", "json"]).ok();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listing).expect("JSON");
    let mut pauses =
        rows.iter().filter(|row| row["namespace"] == namespace.name.as_str() && row["name"] == "pause");
    let pid = pauses.next().and_then(|row| row["pid"].as_u64()).expect("a PID");
    (inodes.to_vec(), pid)
}

#[test]
fn a1_killing_a_container_leaves_address_and_namespaces_alone() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("a1-kill");
    namespace.apply(TWO_CONTAINERS).ok();
    namespace.ready("two");
    let before = (namespace.pod_ip("two"), held(&namespace, "two", "other"));
    let node = namespace.pod("two")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let listing = skiff(&["ps", "--name", &cluster.name, "--node", &node, "-o", "json"]).ok();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listing).expect("JSON");
    let row = rows.iter().find(|row| row["namespace"] == "a1-kill" && row["name"] == "one").expect("it runs");
    cluster.on_node(&node, &["kill", "-9", &row["pid"].to_string()]).ok();
    wait_until("the container is restarted", || {
        let pod = namespace.pod("two");
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        statuses.iter().any(|status| {
            status["name"] == "one"
                && status["restartCount"] == 1
                && status["lastState"]["terminated"]["exitCode"] == 137
                && status["state"]["running"].is_object()
        })
    });
    for container in ["one", "other"] {
        assert_eq!(before, (namespace.pod_ip("two"), held(&namespace, "two", container)), "{container}");
    }
}

#[test]
fn a1_share_process_namespace() {
    let namespace = Cluster::shared().namespace("a1-share");
    namespace.apply(&TWO_CONTAINERS.replace("spec:\n", "spec:\n  shareProcessNamespace: true\n")).ok();
    namespace.ready("two");
    assert_eq!(inode(&namespace, "two", "one", "pid"), inode(&namespace, "two", "other", "pid"));
    let processes = namespace.exec("two", &["ps"]).ok();
    assert!(processes.contains("pause") && processes.contains("sleep 999999"), "{processes}");
}

#[test]
fn a2_containers_of_a_pod_share_localhost_volumes_and_ipc() {
    let namespace = Cluster::shared().namespace("a2");
    namespace.apply(TWO_CONTAINERS).ok();
    namespace.serves("two");
    let other = |command: &[&str]| {
        let mut args = vec!["exec", "two", "-c", "other", "--"];
        args.extend(command);
        namespace.kubectl(&args)
    };
    assert_eq!(other(&["peer", "get", "127.0.0.1:7001"]).ok(), "two 127.0.0.1\n");
    namespace.exec("two", &["sh", "-c", "echo written > /shared/file; echo segment > /dev/shm/file"]).ok();
    assert_eq!(other(&["cat", "/shared/file", "/dev/shm/file"]).ok(), "written\nsegment\n");
    for (put, get) in [("shm-put", "shm-get"), ("msg-put", "msg-get")] {
        namespace.exec("two", &["peer", put, "4711", "hello"]).ok();
        assert_eq!(other(&["peer", get, "4711"]).ok(), "hello\n", "{put}");
    }
    namespace.exec("two", &["peer", "sem-put", "4711", "42"]).ok();
    assert_eq!(other(&["peer", "sem-get", "4711"]).ok(), "42\n");
    namespace.exec("two", &["peer", "mq-put", "/queue", "hello"]).ok();
    assert_eq!(other(&["peer", "mq-get", "/queue"]).ok(), "hello\n");
    let filesystem = other(&["stat", "-f", "-c", "%T", "/dev/shm"]).ok();
    assert_eq!(filesystem.trim(), "tmpfs");
    // Another pod of the same node has another one, and other semaphores.
    let node = namespace.pod("two")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    namespace
        .apply(&pod_on(&node, "stranger", "", "image: skiff/peer:v1, command: [/bin/sleep, '999999']"))
        .ok();
    namespace.ready("stranger");
    assert_ne!(namespace.exec("stranger", &["cat", "/dev/shm/file"]).code, 0);
    assert_ne!(namespace.exec("stranger", &["peer", "sem-get", "4711"]).code, 0);
    let second = other(&["peer", "tcp", "7001"]);
    assert!(second.stderr.contains("in use"), "{second:?}");
}

#[test]
fn a3_a_pod_has_an_address_of_its_node_s_range_and_nothing_of_the_host() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("a3");
    namespace.apply(TWO_CONTAINERS).ok();
    namespace.ready("two");
    let ip = namespace.pod_ip("two");
    let node = namespace.pod("two")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let range = cluster.object(&["node", &node])["spec"]["podCIDR"].as_str().expect("a range").to_owned();
    let network = range.rsplit_once('.').expect("a /24").0.to_owned();
    assert!(ip.starts_with(&format!("{network}.")), "{ip} is in {range}");
    let wide = namespace.kubectl(&["get", "pods", "-o", "wide"]).ok();
    assert!(wide.contains(&ip) && wide.contains(&node), "{wide}");
    let interfaces = namespace.exec("two", &["ifconfig"]).ok();
    assert!(interfaces.contains("eth0") && interfaces.contains(&format!("inet addr:{ip} ")), "{interfaces}");
    assert!(!interfaces.contains("cbr0") && !interfaces.contains(&cluster.node_ip(&node)), "{interfaces}");
    let links = namespace.exec("two", &["ip", "-o", "link"]).ok();
    assert_eq!(links.lines().count(), 2, "lo and eth0: {links}");
}
