//! E: services, their names, and NodePorts beside host ports.

use std::collections::BTreeSet;

use skiff_tests::{Cluster, Namespace, refused, wait_until};

const SERVERS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints: []
      containers: [{name: main, image: skiff/peer:v1, command: [peer, tcp, '7000'], readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: main, port: 80, targetPort: 7000}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: main, port: 7000}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: skiff/peer:v1, command: [/bin/sleep, '999999']}]
";

fn serve(namespace: &Namespace) {
    namespace.apply(SERVERS).ok();
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    namespace.ready("client");
}

#[test]
fn e1_services_have_names() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("e1-names");
    serve(&namespace);
    let service = cluster.object(&["-n", "e1-names", "service", "web"]);
    let ip = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    // busybox's nslookup asks dotted names as they are; a program's resolver takes the search list.
    // Each node hears of services and endpoints in its own time.
    for name in ["web", "web.e1-names", "web.e1-names.svc.cluster.local"] {
        wait_until(&format!("{name} answers"), || {
            namespace.exec("client", &["peer", "get", &format!("{name}:80")]).code == 0
        });
    }
    let answer = namespace.exec("client", &["nslookup", "web.e1-names.svc.cluster.local"]).stdout;
    assert!(answer.contains(&ip), "{answer}");
    let pods = cluster.object(&["-n", "e1-names", "pods", "-l", "app=web"]);
    let pods = pods["items"].as_array().expect("a list");
    wait_until("a headless service has its pods' addresses", || {
        let answer = namespace.exec("client", &["nslookup", "headless.e1-names.svc.cluster.local"]).stdout;
        pods.iter().all(|pod| answer.contains(pod["status"]["podIP"].as_str().expect("an address")))
    });
    let api = namespace.exec("client", &["nslookup", "kubernetes.default.svc.cluster.local"]).stdout;
    assert!(api.contains("10.96.0.1") || api.contains(".0.1"), "{api}");
    let missing = namespace.exec("client", &["nslookup", "nobody.e1-names.svc.cluster.local"]);
    assert_ne!(missing.code, 0, "{missing:?}");
}

#[test]
fn e1_a_host_network_pod_keeps_the_node_s_resolver() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("e1-resolver");
    namespace
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: host}, spec: {hostNetwork: true, containers: [{name: main, image: alpine, command: [sleep, '999999']}]}}")
        .ok();
    namespace.ready("host");
    let node = namespace.pod("host")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let servers = |text: String| {
        text.lines().filter(|line| line.starts_with("nameserver")).map(str::to_owned).collect::<Vec<_>>()
    };
    let in_pod = servers(namespace.exec("host", &["cat", "/etc/resolv.conf"]).ok());
    assert_eq!(in_pod, servers(cluster.on_node(&node, &["cat", "/etc/resolv.conf"]).ok()));
}

#[test]
fn e1_a_node_port_opens_on_every_node_and_spreads() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("e1-ports");
    serve(&namespace);
    let service = cluster.object(&["-n", "e1-ports", "service", "web"]);
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    assert!((30000..=32767).contains(&port));
    for node in [cluster.control_plane(), cluster.worker(1), cluster.worker(2)] {
        let address = format!("{}:{port}", cluster.node_ip(&node));
        let mut answered = BTreeSet::new();
        wait_until(&format!("both servers answer at {node}"), || {
            let output = skiff_tests::run(
                std::process::Command::new(skiff_tests::peer_path()).args(["get", &address]),
            );
            // Before the node knows of the endpoints, it refuses.
            if output.code == 0 {
                answered.insert(output.stdout.split(' ').next().unwrap_or_default().to_owned());
            }
            answered.len() == 2
        });
        // As upstream's nftables mode: not on the node's loopback.
        let peer = skiff_tests::peer_path();
        let loopback =
            cluster.on_node(&node, &[peer.to_str().expect("UTF-8"), "get", &format!("127.0.0.1:{port}")]);
        assert_ne!(loopback.code, 0, "{loopback:?}");
    }
    // The nodes know of both by now.
    let ip = service["spec"]["clusterIP"].as_str().expect("an address");
    namespace.exec("client", &["peer", "get", &format!("{ip}:80")]).ok();
    let peer = skiff_tests::peer_path();
    cluster.on_node(&cluster.worker(1), &[peer.to_str().expect("UTF-8"), "get", &format!("{ip}:80")]).ok();
    // A server reaches itself by its service.
    let pods = cluster.object(&["-n", "e1-ports", "pods", "-l", "app=web"]);
    let pod = pods["items"][0]["metadata"]["name"].as_str().expect("a name");
    let mut answered = BTreeSet::new();
    wait_until("a server reaches both by the service", || {
        let answer = namespace.exec(pod, &["peer", "get", &format!("{ip}:80")]).ok();
        answered.insert(answer.split(' ').next().unwrap_or_default().to_owned());
        answered.len() == 2
    });
}

#[test]
fn e1_a_service_without_endpoints_refuses() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("e1-empty");
    serve(&namespace);
    let service = cluster.object(&["-n", "e1-empty", "service", "web"]);
    let ip = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    namespace.kubectl(&["scale", "deployment/web", "--replicas=0"]).ok();
    wait_until("the service refuses", || {
        let output = namespace.exec("client", &["peer", "get", &format!("{ip}:80")]);
        output.code != 0 && output.stderr.contains("refused")
    });
    wait_until("the node port refuses", || {
        refused(&format!("{}:{port}", cluster.node_ip(&cluster.worker(1))))
    });
}

#[test]
fn e1_the_api_is_reached_from_pods() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("e1-api");
    serve(&namespace);
    let environment = namespace.exec("client", &["env"]).ok();
    assert!(
        environment.contains("KUBERNETES_SERVICE_HOST=")
            && environment.contains("KUBERNETES_SERVICE_PORT=443"),
        "{environment}"
    );
    // A plain-text request to a TLS port: an answer of any kind shows that somebody is there.
    let output = namespace
        .exec(
            "client",
            &[
                "sh",
                "-c",
                "timeout 5 nc $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo connected",
            ],
        )
        .ok();
    assert!(output.contains("connected"), "{output}");
    let endpoints = cluster.object(&["-n", "default", "endpoints", "kubernetes"]);
    assert_eq!(
        endpoints["subsets"][0]["addresses"][0]["ip"],
        cluster.node_ip(&cluster.control_plane()).as_str()
    );
}
