//! D: ports of the node that lead to one pod.

use skiff_tests::{Cluster, fixed_ports, http_get, pod_on, refused, wait_for, wait_until};

/// What a node says to a pod that names it and asks for a port that another has.
const REJECTED: &str = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";

#[test]
fn d1_a_host_port_leads_to_the_pod_on_its_node_alone() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d1");
    assert_eq!(namespace.apply_file("host-port.yaml").ok(), "pod/kubia-hostport created\n");
    namespace.ready("kubia-hostport");
    let pod = namespace.pod("kubia-hostport");
    let node = pod["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let answer = "You've hit kubia-hostport\n";
    let node_ip = cluster.node_ip(&node);
    wait_until("the server listens", || http_get(&format!("{node_ip}:9000")).is_ok());
    assert_eq!(http_get(&format!("{node_ip}:9000")).expect("by the node"), answer);
    assert_eq!(
        http_get(&format!("{}:8080", namespace.pod_ip("kubia-hostport"))).expect("by the pod"),
        answer
    );
    for other in
        [cluster.control_plane(), cluster.worker(1), cluster.worker(2)].iter().filter(|other| **other != node)
    {
        assert!(refused(&format!("{}:9000", cluster.node_ip(other))), "{other} refuses");
    }
    // From the node itself, by its address and by its loopback, and from another node.
    for target in ["127.0.0.1", &node_ip] {
        let url = format!("http://{target}:9000/");
        assert_eq!(
            cluster.on_node(&node, &["/bin/busybox", "wget", "-q", "-O", "-", &url]).ok(),
            answer,
            "{url}"
        );
    }
    let url = format!("http://{node_ip}:9000/");
    assert_eq!(
        cluster.on_node(&cluster.control_plane(), &["/bin/busybox", "wget", "-q", "-O", "-", &url]).ok(),
        answer
    );
    // Not by force: then the object would go first, and its port some time later.
    namespace.kubectl(&["delete", "pod", "kubia-hostport", "--grace-period=1", "--timeout=120s"]).ok();
    // Without waiting: who sees that the pod is gone may give its port to another.
    assert!(refused(&format!("{node_ip}:9000")), "the port refuses");
    let ports = cluster.on_node(&node, &["nft", "list", "map", "ip", "skiff", "host-ports"]).ok();
    assert!(!ports.contains(". 9000 :"), "no rule is left: {ports}");
}

#[test]
fn d1_a_port_without_a_server_refuses() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d1-nginx");
    assert_eq!(namespace.apply_file("host-port-nginx.yaml").ok(), "pod/nginx-hostport created\n");
    namespace.ready("nginx-hostport");
    let node =
        namespace.pod("nginx-hostport")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    assert!(refused(&format!("{}:9000", cluster.node_ip(&node))));
    let own = format!("{}:80", namespace.pod_ip("nginx-hostport"));
    assert!(wait_for("it listens on 80", || http_get(&own).ok()).contains("nginx"));
    assert!(refused(&format!("{}:9000", cluster.node_ip(&node))), "now that it listens elsewhere, too");
    namespace.delete("pod", "nginx-hostport");
}

#[test]
fn d1_both_addresses_of_simpleweb_answer() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d1-simpleweb");
    namespace.apply_file("simpleweb-hostport.yaml").ok();
    namespace.ready("simpleweb");
    let node = namespace.pod("simpleweb")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let ip = namespace.pod_ip("simpleweb");
    let expected = format!("Host:simpleweb | IP:{ip} | Version:1\n");
    wait_until("the server listens", || http_get(&format!("{ip}:8080")).is_ok());
    assert_eq!(http_get(&format!("{ip}:8080")).expect("by the pod"), expected);
    assert_eq!(http_get(&format!("{}:9001", cluster.node_ip(&node))).expect("by the node"), expected);
    namespace.delete("pod", "simpleweb");
}

#[test]
fn d2_host_ip_and_protocol_are_honoured() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d2");
    let node = cluster.worker(1);
    let node_ip = cluster.node_ip(&node);
    let pod = |name: &str, mode: &str, port: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: skiff/peer:v1, command: [peer, {mode}, '7000'], ports: [{{containerPort: 7000, hostPort: 18900, {port}}}]}}]
---
"
        )
    };
    let manifests = [
        pod("tcp", "tcp", &format!("hostIP: {node_ip}")),
        pod("udp", "udp", "protocol: UDP"),
        pod("loopback", "tcp", "hostIP: 127.0.0.1"),
    ];
    namespace.apply(&manifests.concat()).ok();
    // They differ in address or protocol, so one node takes them all.
    ["tcp", "udp", "loopback"].iter().for_each(|name| namespace.serves(name));
    let on_node = |command: &[&str]| {
        let peer = skiff_tests::peer_path();
        let mut all = vec![peer.to_str().expect("UTF-8")];
        all.extend(command);
        cluster.on_node(&node, &all)
    };
    assert!(on_node(&["get", &format!("{node_ip}:18900")]).ok().starts_with("tcp "));
    assert!(on_node(&["get", "127.0.0.1:18900"]).ok().starts_with("loopback "));
    assert!(on_node(&["ask", &format!("{node_ip}:18900")]).ok().starts_with("udp "));
    let wildcard = pod("wildcard", "tcp", "protocol: TCP");
    namespace.apply(&wildcard).ok();
    let message = namespace.event("wildcard", "FailedScheduling", "free ports");
    assert!(message.contains("1 node(s) didn't have free ports for the requested pod ports"), "{message}");
}

#[test]
fn d2_a_pod_that_names_its_node_gets_no_port_that_is_taken() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d2-named");
    let node = cluster.worker(2);
    let container = "image: luksa/kubia, ports: [{containerPort: 8080, hostPort: 18930}]";
    let pod = |name: &str| pod_on(&node, name, "", container);
    namespace.apply(&pod("first")).ok();
    namespace.ready("first");
    namespace.apply(&pod("second")).ok();
    wait_until("the node refuses it", || namespace.pod("second")["status"]["phase"] == "Failed");
    let status = namespace.pod("second")["status"].clone();
    assert_eq!((status["reason"].as_str(), status["message"].as_str()), (Some("NodePorts"), Some(REJECTED)));
    namespace.event("second", "NodePorts", REJECTED.trim_start_matches("Pod was rejected: "));
    let door = format!("{}:18930", cluster.node_ip(&cluster.worker(2)));
    let answer = wait_for("the first has the port", || http_get(&door).ok());
    assert_eq!(answer, "You've hit first\n");
}

#[test]
fn d3_a_deployment_of_four_on_three_nodes_leaves_one_pending() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d3");
    namespace
        .apply(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: luksa/kubia, ports: [{containerPort: 8080, hostPort: 18950}]}]
",
        )
        .ok();
    wait_until("three run and one waits", || {
        let pods = cluster.object(&["-n", "d3", "pods"]);
        let phases: Vec<_> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| pod["status"]["phase"].clone())
            .collect();
        let count = |phase: &str| phases.iter().filter(|found| **found == phase).count();
        (count("Running"), count("Pending")) == (3, 1)
    });
    let pods = cluster.object(&["-n", "d3", "pods"]);
    let pods = pods["items"].as_array().expect("a list");
    let nodes: std::collections::BTreeSet<_> =
        pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    assert_eq!(nodes.len(), 3, "one a node");
    let waiting = pods.iter().find(|pod| pod["status"]["phase"] == "Pending").expect("one waits");
    let message = namespace.event(
        waiting["metadata"]["name"].as_str().expect("a name"),
        "FailedScheduling",
        "0/3 nodes",
    );
    assert_eq!(
        message,
        "0/3 nodes are available: 3 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
    );
}

#[test]
fn d3_a_daemon_set_with_a_host_port_runs_on_every_node() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("d3-daemons");
    namespace
        .apply(
            "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: luksa/kubia, ports: [{containerPort: 8080, hostPort: 18960}]}]
",
        )
        .ok();
    namespace.kubectl(&["rollout", "status", "daemonset/web", "--timeout=120s"]).ok();
    let nodes = [cluster.control_plane(), cluster.worker(1), cluster.worker(2)];
    for node in &nodes {
        let address = format!("{}:18960", cluster.node_ip(node));
        wait_until("the server listens", || http_get(&address).is_ok());
    }
    namespace.kubectl(&["delete", "daemonset", "web"]).ok();
    for node in &nodes {
        let address = format!("{}:18960", cluster.node_ip(node));
        wait_until("the port refuses", || refused(&address));
    }
}
