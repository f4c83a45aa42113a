//! C: pods in their node's network namespace.

use skiff_tests::{Cluster, fixed_ports, http_get, wait_until};

#[test]
fn c1_host_network_is_the_node_s_network() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("c1");
    assert_eq!(namespace.apply_file("host-network.yaml").ok(), "pod/pod-with-host-network created\n");
    namespace.ready("pod-with-host-network");
    let pod = namespace.pod("pod-with-host-network");
    let node = pod["spec"]["nodeName"].as_str().expect("it is scheduled");
    assert_eq!(namespace.pod_ip("pod-with-host-network"), cluster.node_ip(node));
    let wide = namespace.kubectl(&["get", "po", "-o", "wide"]).ok();
    assert!(wide.contains(&cluster.node_ip(node)), "{wide}");
    let in_pod = namespace.exec("pod-with-host-network", &["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(in_pod, cluster.on_node(node, &["readlink", "/proc/self/ns/net"]).ok());
    let links = |text: String| -> Vec<String> {
        let names = text.lines().filter(|line| !line.starts_with(' ') && !line.is_empty());
        // Other tests' pods come and go.
        names
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .filter(|name| !name.starts_with("veth"))
            .collect()
    };
    let in_pod = links(namespace.exec("pod-with-host-network", &["ifconfig"]).ok());
    let on_node = links(cluster.on_node(node, &["/bin/busybox", "ifconfig"]).ok());
    assert_eq!(in_pod, on_node);
    assert!(in_pod.iter().any(|name| name == "cbr0"), "{in_pod:?}");
    let addresses = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("veth"));
        // Index, device, family, address.
        lines.map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect()
    };
    let show = ["ip", "-o", "-4", "addr", "show"];
    let in_pod = addresses(namespace.exec("pod-with-host-network", &show).ok());
    assert_eq!(in_pod, addresses(cluster.on_node(node, &show).ok()));
    assert!(in_pod.iter().any(|line| line.contains(&cluster.node_ip(node))), "{in_pod:?}");
}

#[test]
fn c2_a_container_port_is_a_host_port_in_pods_never_in_templates() {
    let namespace = Cluster::shared().namespace("c2");
    let spec = "hostNetwork: true, containers: [{name: main, image: alpine, command: [sleep, '9'], ports: [{containerPort: 18080}]}]";
    namespace.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: plain}}, spec: {{nodeSelector: {{none: 'yes'}}, {spec}}}}}")).ok();
    assert_eq!(namespace.pod("plain")["spec"]["containers"][0]["ports"][0]["hostPort"], 18080);
    namespace
        .apply(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{replicas: 0, selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{{spec}}}}}}}}}"
        ))
        .ok();
    let deployment = namespace.cluster.object(&["-n", "c2", "deployment", "d"]);
    let port = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0];
    assert!(port["hostPort"].is_null(), "{port}");
    let differing = spec.replace("containerPort: 18080", "containerPort: 18080, hostPort: 18081");
    let refused = namespace
        .apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: differing}}, spec: {{{differing}}}}}"
        ))
        .err();
    assert!(
        refused.contains("The Pod \"differing\" is invalid: spec.containers[0].ports[0].containerPort: Invalid value: 18080: must match `hostPort` when `hostNetwork` is true"),
        "{refused}"
    );
}

#[test]
fn c3_a_server_in_the_host_network_answers_on_the_node_s_address() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("c3");
    assert_eq!(namespace.apply_file("simpleweb-env.yaml").ok(), "pod/simpleweb created\n");
    namespace.ready("simpleweb");
    let pod = namespace.pod("simpleweb");
    let node = pod["spec"]["nodeName"].as_str().expect("it is scheduled");
    let ip = cluster.node_ip(node);
    wait_until("the server listens", || http_get(&format!("{ip}:9001")).is_ok());
    let answer = http_get(&format!("{ip}:9001")).expect("it answers");
    assert!(
        answer.starts_with(&format!("Host:{node} | IP:")) && answer.ends_with(" | Version:1\n"),
        "{answer}"
    );
    let addresses = answer.split("IP:").nth(1).and_then(|rest| rest.split(' ').next()).expect("addresses");
    let mut addresses: Vec<&str> = addresses.split(',').collect();
    addresses.sort_unstable();
    let table = cluster.on_node(node, &["ip", "-o", "-4", "addr", "show"]).ok();
    let mut all: Vec<&str> = table
        .lines()
        .filter(|line| line.split_whitespace().nth(1) != Some("lo"))
        .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next())
        .collect();
    all.sort_unstable();
    assert!(all.len() >= 2 && all.contains(&ip.as_str()), "{table}");
    assert_eq!(addresses, all, "all that the node has beside its loopback");
    namespace.delete("pod", "simpleweb");
}

#[test]
fn c4_a_pod_whose_host_port_is_taken_everywhere_waits_and_is_scheduled_when_it_frees() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("c4");
    let holder = |number: u32| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: holder-{number}}}
spec:
  hostNetwork: true
  nodeSelector: {{kubernetes.io/hostname: {}}}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: codelieche/simpleweb:v1, ports: [{{containerPort: 8080}}]}}]
---
",
            cluster.worker(number)
        )
    };
    namespace.apply(&(holder(1) + &holder(2))).ok();
    namespace.ready("holder-1");
    namespace.ready("holder-2");
    namespace.apply_file("simpleweb-pending.yaml").ok();
    let expected = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.";
    let message = namespace.event("simpleweb", "FailedScheduling", "0/3 nodes");
    assert_eq!(message, expected);
    let listing = namespace.kubectl(&["get", "pods", "simpleweb"]).ok();
    assert!(listing.contains("0/1") && listing.contains("Pending"), "{listing}");
    let described = namespace.kubectl(&["describe", "pod", "simpleweb"]).ok();
    let last = described.trim_end().lines().last().unwrap_or_default();
    assert!(
        last.contains("Warning") && last.contains("FailedScheduling") && last.trim_end().ends_with(expected),
        "{last}"
    );
    let uid = namespace.pod("simpleweb")["metadata"]["uid"].clone();
    namespace.delete("pod", "holder-1");
    namespace.ready("simpleweb");
    assert_eq!(namespace.pod("simpleweb")["metadata"]["uid"], uid, "it is the same pod");
    namespace.delete("pod", "simpleweb");
    namespace.delete("pod", "holder-2");
}

#[test]
fn c4_a_host_process_on_the_port_makes_no_pod_pending() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("c4-process");
    let node = cluster.worker(1);
    let mut command = std::process::Command::new(skiff_tests::skiff_path());
    command.args([
        "node",
        "shell",
        "--name",
        &cluster.name,
        &node,
        "--",
        "/bin/busybox",
        "nc",
        "-l",
        "-p",
        "18777",
    ]);
    let _holder =
        skiff_tests::Background(command.stdin(std::process::Stdio::piped()).spawn().expect("it starts"));
    wait_until("the process listens", || cluster.on_node(&node, &["ss", "-ltn"]).stdout.contains(":18777 "));
    namespace
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: mapped}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers: [{{name: main, image: luksa/kubia, ports: [{{containerPort: 8080, hostPort: 18777}}]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: direct}}
spec:
  hostNetwork: true
  restartPolicy: Never
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers: [{{name: main, image: skiff/peer:v1, command: [peer, tcp, '18777']}}]
"
        ))
        .ok();
    namespace.ready("mapped");
    let message = namespace.event("mapped", "HostPortConflict", "18777");
    let pid = message.split("process ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a PID");
    let line = cluster.on_node(&node, &["cat", &format!("/proc/{pid}/cmdline")]).ok().replace('\0', " ");
    assert!(line.contains("nc -l -p 18777") && message.contains(line.trim()), "{line:?}: {message}");
    wait_until("the server fails by itself", || namespace.pod("direct")["status"]["phase"] == "Failed");
    let log = namespace.kubectl(&["logs", "direct"]).ok();
    assert!(log.contains("in use"), "{log}");
}
