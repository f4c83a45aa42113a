//! B: the pod network.

use skiff_tests::{Cluster, Namespace, http_get, wait_for, wait_until};

fn peer(name: &str, node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: skiff/peer:v1, command: [peer, tcp, '7000']}}
---
"
    )
}

fn three(namespace: &Namespace) -> (String, String, String) {
    let cluster = &namespace.cluster;
    let manifests = [("a", 1), ("b", 1), ("c", 2)].map(|(name, worker)| peer(name, &cluster.worker(worker)));
    namespace.apply(&manifests.concat()).ok();
    ["a", "b", "c"].iter().for_each(|pod| namespace.serves(pod));
    (namespace.pod_ip("a"), namespace.pod_ip("b"), namespace.pod_ip("c"))
}

#[test]
fn b1_a_bridge_owns_the_node_s_range_and_is_the_gateway() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("b1");
    let (a, b, _) = three(&namespace);
    let node = cluster.worker(1);
    let range = cluster.object(&["node", &node])["spec"]["podCIDR"].as_str().expect("a range").to_owned();
    let gateway = range.replace(".0/24", ".1");
    let bridge = cluster.on_node(&node, &["ip", "-o", "-4", "addr", "show", "cbr0"]).ok();
    assert!(bridge.contains(&format!("{gateway}/24")), "{bridge}");
    let routes = namespace.exec("a", &["ip", "route"]).ok();
    assert!(routes.contains(&format!("default via {gateway} dev eth0")), "{routes}");
    // Each pod's eth0 is one end of a link whose other end is a port of the bridge.
    for pod in ["a", "b"] {
        let other_end = namespace.exec(pod, &["cat", "/sys/class/net/eth0/iflink"]).ok();
        let ports = cluster.on_node(&node, &["ip", "-d", "-o", "link", "show", "master", "cbr0"]).ok();
        let begins = format!("{}: ", other_end.trim());
        let port = ports.lines().find(|line| line.starts_with(&begins));
        assert!(port.is_some_and(|line| line.contains(" veth ")), "{pod} at {begins}: {ports}");
    }
    assert_eq!(namespace.exec("a", &["peer", "get", &format!("{b}:7000")]).ok(), format!("b {a}\n"));
}

#[test]
fn b2_pods_of_two_nodes_reach_each_other_unnated() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("b2");
    let (a, _, c) = three(&namespace);
    assert_eq!(namespace.exec("a", &["peer", "get", &format!("{c}:7000")]).ok(), format!("c {a}\n"));
    assert_eq!(namespace.exec("c", &["peer", "get", &format!("{a}:7000")]).ok(), format!("a {c}\n"));
    let nodes = cluster.object(&["nodes"]);
    let nodes = nodes["items"].as_array().expect("a list");
    let routes = cluster.on_node(&cluster.worker(1), &["ip", "route"]).ok();
    for node in nodes.iter().filter(|node| node["metadata"]["name"] != cluster.worker(1).as_str()) {
        let range = node["spec"]["podCIDR"].as_str().expect("a range");
        let ip = cluster.node_ip(node["metadata"]["name"].as_str().expect("a name"));
        assert!(routes.contains(&format!("{range} via {ip} ")), "{range} via {ip}: {routes}");
    }
    let ranges: std::collections::BTreeSet<_> =
        nodes.iter().map(|node| node["spec"]["podCIDR"].to_string()).collect();
    assert_eq!(ranges.len(), nodes.len(), "each node has its own range");
}

#[test]
fn b3_pods_reach_nodes_and_what_is_not_there_fails() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("b3");
    three(&namespace);
    for node in [cluster.worker(1), cluster.worker(2), cluster.control_plane()] {
        let ip = cluster.node_ip(&node);
        namespace.exec("a", &["ping", "-c", "1", "-W", "3", &ip]).ok();
    }
    // The cluster has no uplink, so there is no way out: an error, not silence. A kernel tells only so many
    // errors a second, whoever they are for.
    wait_until("there is no way out", || {
        let outside = namespace.exec("a", &["peer", "get", "192.0.2.1:80", "3000"]);
        assert_ne!(outside.code, 0, "{outside:?}");
        outside.code == 1
    });
}

#[test]
fn b3_the_machine_reaches_pods() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("b3-machine");
    namespace.apply("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: luksa/kubia}]}}").ok();
    namespace.ready("web");
    let address = format!("{}:8080", namespace.pod_ip("web"));
    let answer = wait_for("it answers", || http_get(&address).ok());
    assert_eq!(answer, "You've hit web\n");
}
