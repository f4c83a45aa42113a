//! `skiff trace` as people use it: its words, its errors, and who may ask.

use skiff_tests::{Cluster, fixed_ports};

use crate::{peer, trace, traced};

#[test]
fn ways_to_one_pod_are_put_side_by_side() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("trace-compare");
    let (one, two) = (cluster.worker(1), cluster.worker(2));
    namespace
        .apply(
            &[
                peer("c1", &one, "", "tcp, '7000'", ""),
                peer("web", &one, "", "tcp, '7000'", "{containerPort: 7000, hostPort: 18955}"),
                "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: nrdy}
spec: {type: NodePort, selector: {app: nrdy}, ports: [{port: 80, targetPort: 7000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nrdy, labels: {app: nrdy}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: skiff/peer:v1, command: [peer, tcp, '7000'], readinessProbe: {exec: {command: ['false']}}}
"
                .into(),
            ]
            .concat(),
        )
        .ok();
    ["c1", "web"].iter().for_each(|pod| namespace.serves(pod));
    skiff_tests::wait_until("nrdy listens, and is not ready", || {
        namespace.kubectl(&["logs", "nrdy"]).stdout.contains("listening")
    });
    // What a controller makes of the service, and then each node's rules of that.
    let told = skiff_tests::wait_for("the service has its endpoint on each node", || {
        let told = traced(&namespace, &["c1", "pod/web", "--compare"]);
        let rows = told["rows"].as_array()?;
        let delivered = rows.iter().all(|row| row["trace"]["ways"][0]["verdict"] == "Delivered");
        (rows.len() == 4 && delivered).then_some(told)
    });
    let row = |by: &str| {
        let mut rows = told["rows"].as_array().expect("rows").iter();
        rows.find(|row| row["by"] == by).unwrap_or_else(|| panic!("{by} in {told:#}")).clone()
    };
    let c1 = namespace.pod_ip("c1");
    let web = format!("{}:7000", namespace.pod_ip("web"));
    for by in ["pod", "hostPort", "ClusterIP", "NodePort"] {
        let way = &row(by)["trace"]["ways"][0];
        assert_eq!(way["verdict"], "Delivered", "{by}: {way:#}");
        assert_eq!(way["destination"], web.as_str(), "{by}");
    }
    assert_eq!(row("hostPort")["opensOn"], one.as_str());
    assert_eq!(row("NodePort")["opensOn"], "every node");
    // By another node's port the connection is masqueraded; by all other ways the sender is seen.
    assert_eq!(
        row("NodePort")["address"].as_str().map(|at| at.starts_with(&cluster.node_ip(&one))),
        Some(false)
    );
    let seen = |by: &str| row(by)["trace"]["ways"][0]["sourceSeen"].as_str().unwrap_or_default().to_owned();
    for by in ["pod", "hostPort", "ClusterIP"] {
        assert_eq!(seen(by), c1, "{by}");
    }
    assert_ne!(seen("NodePort"), c1);
    // A pod that names no port is still one that listens; one whose pod is not ready is a way that is refused.
    let told = traced(&namespace, &["pod/web", "pod/c1", "--compare"]);
    let ways: Vec<_> = told["rows"].as_array().expect("rows").iter().map(|row| &row["address"]).collect();
    assert_eq!(ways, [&serde_json::json!(format!("{c1}:7000"))], "{told:#}");
    assert_eq!(told["rows"][0]["trace"]["ways"][0]["verdict"], "Delivered", "{told:#}");
    let told = skiff_tests::wait_for("the pod that is not ready is behind its service", || {
        let told = traced(&namespace, &["c1", "pod/nrdy", "--compare"]);
        let of = |by: &str| told["rows"].as_array()?.iter().find(|row| row["by"] == by).cloned();
        Some((of("pod")?, of("ClusterIP")?, of("NodePort")?))
    });
    assert_eq!(told.0["trace"]["ways"][0]["verdict"], "Delivered", "{told:#?}");
    assert_eq!(told.1["trace"]["ways"][0]["verdict"], "Refused", "{told:#?}");
    assert_eq!(told.2["trace"]["ways"][0]["verdict"], "Refused", "{told:#?}");
    // The same as text, within 100 columns.
    let text = trace(&namespace, &["c1", "pod/web", "--compare"]).ok();
    assert!(text.contains("WAY") && text.contains("hostPort"), "{text}");
    let text = trace(&namespace, &["c1", "svc/web"]).ok();
    assert!(text.contains("rule dnat to "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    // A name that is both.
    let error = trace(&namespace, &["c1", "web"]).err();
    assert!(error.contains("web is a pod and a service"), "{error}");
    let _ = two;
}

#[test]
fn what_makes_no_sense_is_one_sentence() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("trace-words");
    namespace.apply(&peer("c1", &cluster.worker(1), "", "tcp, '7000'", "")).ok();
    namespace.serves("c1");
    for (from, to, says) in [
        ("c1", "pod/nobody", "there is no pod nobody in namespace trace-words"),
        ("pod/c2", "10.0.0.1:80", "did you mean c1?"),
        ("c1", "svc/nothing", "there is no service nothing in namespace trace-words"),
        ("c1", "node/nowhere:80", "there is no node nowhere"),
        ("c1", "10.0.0.1:http", "is no port"),
        ("c1", "10.0.0.1", "say which port"),
        ("c1", "external", "can begin a connection, but not be its goal"),
    ] {
        let output = trace(&namespace, &[from, to]);
        assert_eq!(output.code, 1, "{from} {to}: {output:?}");
        let error = output.stderr.trim();
        assert!(error.contains(says), "{from} {to}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // Outside, without an uplink: it is said, and nothing is sent.
    let told = traced(&namespace, &["c1", "192.0.2.1:80", "--live"]);
    let summary = told["ways"][0]["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("no uplink") && summary.contains("--uplink"), "{told:#}");
    assert!(told["live"].is_null(), "{told:#}");
    assert!(told["missing"][0]["why"].as_str().unwrap_or_default().contains("nothing is sent"), "{told:#}");
    // The machine itself is no stranger, and an address that nobody has is not outside.
    let machine = machine_address(&cluster.node_ip(&cluster.worker(1)));
    let told = traced(&namespace, &["c1", &format!("{machine}:9")]);
    let summary = told["ways"][0]["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("the machine that the nodes run on"), "{told:#}");
    let told = traced(&namespace, &["192.0.2.1", "pod/c1:7000"]);
    assert_eq!(told["ways"][0]["verdict"], "Unreachable", "{told:#}");
    let told = traced(&namespace, &["external", "pod/c1:7000"]);
    assert_eq!(told["ways"][0]["sourceSeen"], machine.as_str(), "{told:#}");
}

/// What this machine sends to a node from.
fn machine_address(node: &str) -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Connecting a datagram socket sends nothing.
    socket.connect((node, 9)).expect("a route");
    socket.local_addr().expect("an address").ip().to_string()
}
