//! I2: for every filter a pod that fails it. The stated change is applied as it is stated, and then the pod
//! must be scheduled.
//!
//! | filter | what fails it here |
//! |---|---|
//! | NodeUnschedulable | a cordoned node |
//! | TaintToleration | one taint; two at once; another on each of three nodes, one of them NoExecute |
//! | NodeAffinity | nodeSelector; required terms |
//! | NodePorts | a hostPort; the port of a pod in the node's network; an address of its own beside all addresses |
//! | NodeResourcesFit | memory; CPU; ephemeral storage; a resource that no node has |
//! | InterPodAffinity | its own anti-affinity; its own affinity; that of a pod that is there |
//! | PodTopologySpread | a label that the node lacks; too many there already |
//! | NodeName | nothing can: who names a node does not pass the scheduler, and waits for that node |
//! | two at once | no single change, and after the one the other |

use std::process::Command;

use serde_json::Value;
use skiff_tests::{
    Background, Cluster, Namespace, OwnCluster, peer_path, run, skiff_path, wait_for, wait_until,
};

use super::truth::{explain, explained};

/// Runs a command of an explanation in a shell that has kubectl.
fn apply(cluster: &Cluster, how: &str) {
    let kubectl = std::env::var("KUBECTL").expect("KUBECTL");
    let mut command = Command::new("sh");
    let script = format!("kubectl() {{ {kubectl} \"$@\"; }}\nset -e\n{how}");
    command.args(["-c", &script]).env("KUBECONFIG", &cluster.kubeconfig).env("HOME", cluster.data_dir());
    run(&mut command).ok();
}

/// Waits for the verdict on a pod, and returns the explanation.
fn told(namespace: &Namespace, name: &str) -> Value {
    namespace.event(name, "FailedScheduling", "nodes are available");
    explained(namespace, "pending", name)
}

pub(crate) fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  {spec}
  containers: [{{name: main, image: alpine, command: [sleep, '999999'], {container}}}]
---
"
    )
}

/// The filters that refuse the pod on a node.
fn refusing(told: &Value, node: &str) -> Vec<String> {
    let nodes = told["nodes"].as_array().expect("nodes").iter();
    let filters = nodes.filter(|own| own["node"] == node).flat_map(|own| own["filters"].as_array()).flatten();
    filters
        .filter(|filter| filter["passes"] == false)
        .map(|filter| filter["filter"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn i2_the_smallest_change_lets_the_pod_in_for_every_filter() {
    let cluster: OwnCluster = Cluster::start("i2", 1);
    let namespace = cluster.namespace("grid");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let port = "ports: [{containerPort: 8080, hostPort: 18931}]";
    let hostname = "topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels";
    let rows: Vec<(&str, String, String, &str)> = vec![
        (
            "TaintToleration",
            pod("taint", "", ""),
            "kubectl taint node NODE for=db:NoSchedule".into(),
            "kubectl taint node NODE for-",
        ),
        (
            "TaintToleration",
            pod("tainted-twice", "tolerations: [{key: other, operator: Exists}]", ""),
            "kubectl taint node NODE for=db:NoSchedule old:NoSchedule".into(),
            "kubectl taint node NODE for- old-",
        ),
        ("NodeUnschedulable", pod("cordon", "", ""), "kubectl cordon NODE".into(), "kubectl uncordon NODE"),
        ("NodeAffinity", pod("selector", "nodeSelector: {disk: ssd}", ""), String::new(), ""),
        (
            "NodeAffinity",
            pod(
                "affinity",
                "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}]}}}",
                "",
            ),
            String::new(),
            "",
        ),
        ("NodePorts", pod("port", "", port), String::new(), ""),
        (
            "NodePorts",
            pod("port-on-node", "hostNetwork: true", "ports: [{containerPort: 18931}]"),
            String::new(),
            "",
        ),
        (
            "NodePorts",
            pod("port-on-loopback", "", "ports: [{containerPort: 80, hostPort: 18931, hostIP: 127.0.0.1}]"),
            String::new(),
            "",
        ),
        ("NodeResourcesFit", pod("cpu", "", "resources: {requests: {cpu: '9000'}}"), String::new(), ""),
        (
            "NodeResourcesFit",
            pod("disk", "", "resources: {requests: {ephemeral-storage: 900Ti}}"),
            String::new(),
            "",
        ),
        (
            "NodeResourcesFit",
            pod("gpu", "", "resources: {requests: {example.com/gpu: 2}, limits: {example.com/gpu: 2}}"),
            String::new(),
            "",
        ),
        ("NodeResourcesFit", pod("big", "", "resources: {requests: {memory: 900Ti}}"), String::new(), ""),
        (
            "InterPodAffinity",
            pod(
                "apart",
                &format!(
                    "affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{{hostname}: {{app: holder}}}}}}]}}}}"
                ),
                "",
            ),
            String::new(),
            "",
        ),
        (
            "InterPodAffinity",
            pod(
                "together",
                &format!(
                    "affinity: {{podAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{{hostname}: {{app: nowhere}}}}}}]}}}}"
                ),
                "",
            ),
            String::new(),
            "",
        ),
        ("InterPodAffinity", pod("shunned", "", ""), String::new(), ""),
        (
            "PodTopologySpread",
            pod(
                "spread",
                "topologySpreadConstraints: [{maxSkew: 1, topologyKey: nowhere, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: spread}}}]",
                "",
            ),
            String::new(),
            "",
        ),
    ];
    namespace.apply(&pod("holder", "", port)).ok();
    // In a namespace of its own, so that no other pod means it.
    let shy = cluster.namespace("grid-shy");
    shy.apply(&pod(
        "shy",
        &format!(
            "affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{{{hostname}: {{app: shunned}}}}, namespaces: [grid]}}]}}}}"
        ),
        "",
    ))
    .ok();
    namespace.ready("holder");
    shy.ready("shy");
    for (filter, manifest, before, after) in rows {
        let name =
            manifest.split("name: ").nth(1).and_then(|rest| rest.split([',', '}']).next()).expect("a name");
        if !before.is_empty() {
            apply(&cluster, &before.replace("NODE", &node));
        }
        namespace.apply(&manifest).ok();
        let told = told(&namespace, name);
        let refused = refusing(&told, &node);
        assert!(refused.iter().any(|own| own == filter), "{name}: {refused:?}");
        let nodes = told["nodes"].as_array().expect("nodes");
        assert_eq!(nodes[0]["filters"].as_array().map(Vec::len), Some(8), "every filter speaks: {told}");
        let change = &told["smallestChange"];
        assert_eq!(change["checked"], true, "{name}: {told}");
        let shown = explain(&namespace, "pending", name, &[]).ok();
        assert!(shown.lines().all(|line| line.chars().count() <= 100 || line.contains("kubectl")), "{shown}");
        apply(&cluster, change["how"].as_str().expect("a command"));
        wait_until(&format!("{name} is scheduled by: {change}"), || {
            let pod = namespace.kubectl(&["get", "pod", name, "-o", "jsonpath={.spec.nodeName}"]);
            pod.code == 0 && pod.stdout == node
        });
        if !after.is_empty() {
            apply(&cluster, &format!("{} || true", after.replace("NODE", &node)));
        }
        let said = match name {
            "port" | "port-on-node" | "port-on-loopback" => "is held by pod grid/holder (on 0.0.0.0)",
            "apart" => {
                "it wants to be apart from pods with app=holder, and pod grid/holder is at kubernetes.io/hostname="
            }
            "together" => "it wants to be with pods with app=nowhere, and none is at kubernetes.io/hostname=",
            "shunned" => "wants to be apart from pods with app=shunned, as this one is",
            "tainted-twice" => "let the pod tolerate taints for=db:NoSchedule and old:NoSchedule",
            _ => "",
        };
        assert!(told.to_string().contains(said), "{name}: {told}");
    }
}

/// The node where the pod is, once it is on one.
fn node_of(namespace: &Namespace, name: &str) -> String {
    wait_for(&format!("{name} is scheduled"), || {
        let pod = namespace.kubectl(&["get", "pod", name, "-o", "jsonpath={.spec.nodeName}"]);
        (pod.code == 0 && !pod.stdout.is_empty()).then_some(pod.stdout)
    })
}

#[test]
fn i2_several_nodes_that_refuse_for_reasons_of_their_own() {
    let cluster: OwnCluster = Cluster::start("i2-nodes", 3);
    let namespace = cluster.namespace("grid");
    let (first, one, two) = (cluster.control_plane(), cluster.worker(1), cluster.worker(2));
    let change_on = |told: &Value, node: &str| {
        let nodes = told["nodes"].as_array().expect("nodes");
        let own = nodes.iter().find(|own| own["node"] == node).expect("it is told of");
        own["change"].clone()
    };

    // Another taint on each node, each with the toleration that would do, and the change said is enough.
    apply(
        &cluster,
        &format!("kubectl taint node {one} for=db:NoSchedule\nkubectl taint node {two} old:NoExecute"),
    );
    namespace.apply(&pod("tainted", "terminationGracePeriodSeconds: 0", "")).ok();
    let told_tainted = told(&namespace, "tainted");
    for (node, taint) in [
        (&first, "node-role.kubernetes.io/control-plane:NoSchedule"),
        (&one, "for=db:NoSchedule"),
        (&two, "old:NoExecute"),
    ] {
        assert_eq!(refusing(&told_tainted, node), ["TaintToleration"]);
        let change = change_on(&told_tainted, node);
        assert_eq!(change["text"], format!("let the pod tolerate taint {taint}"), "{told_tainted}");
    }
    let change = &told_tainted["smallestChange"];
    apply(&cluster, change["how"].as_str().expect("a command"));
    assert_eq!(node_of(&namespace, "tainted"), change["node"].as_str().expect("a node"));
    // The same of a node that is not the first that comes to mind.
    namespace.apply(&pod("tainted-too", "", "")).ok();
    let change = change_on(&told(&namespace, "tainted-too"), &two);
    apply(&cluster, change["how"].as_str().expect("a command"));
    assert_eq!(node_of(&namespace, "tainted-too"), two);

    // Two filters at once: no single change is enough; once one is gone, the other's change is.
    namespace.apply(&pod("twice", "nodeSelector: {disk: ssd}", "")).ok();
    let both = told(&namespace, "twice");
    assert_eq!(both["smallestChange"], Value::Null, "{both}");
    assert_eq!(refusing(&both, &one), ["TaintToleration", "NodeAffinity"]);
    let shown = explain(&namespace, "pending", "twice", &[]).ok();
    assert!(shown.contains("none: no single change of the kinds that are tried is enough"), "{shown}");
    apply(&cluster, &format!("kubectl taint node {one} for-"));
    let change = wait_for("a single change is enough now", || {
        let told = explained(&namespace, "pending", "twice");
        told["smallestChange"].is_object().then(|| told["smallestChange"].clone())
    });
    assert_eq!(change["node"], one.as_str(), "{change}");
    apply(&cluster, change["how"].as_str().expect("a command"));
    assert_eq!(node_of(&namespace, "twice"), one);
    apply(&cluster, &format!("kubectl taint node {two} old-"));

    // Spread: two of its kind are on one node, and the others have no room for its port.
    let port = "ports: [{containerPort: 80, hostPort: 18939}]";
    let kind = |name: &str, spec: &str, container: &str| {
        pod(name, spec, container).replace(&format!("labels: {{app: {name}}}"), "labels: {app: kin}")
    };
    let on = |node: &str| format!("nodeName: {node}");
    namespace
        .apply(
            &[
                kind("kin-1", &on(&one), ""),
                kind("kin-2", &on(&one), ""),
                pod("port-1", &on(&first), port),
                pod("port-2", &on(&two), port),
            ]
            .concat(),
        )
        .ok();
    ["kin-1", "kin-2", "port-1", "port-2"].iter().for_each(|name| namespace.ready(name));
    let spread = "tolerations: [{operator: Exists}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: kin}}}]";
    namespace.apply(&kind("kin-3", spread, port)).ok();
    let told_spread = told(&namespace, "kin-3");
    assert_eq!(refusing(&told_spread, &one), ["PodTopologySpread"], "{told_spread}");
    assert_eq!(refusing(&told_spread, &two), ["NodePorts"]);
    let says = format!("kubernetes.io/hostname={one} has 2 pods, the least is 0");
    assert!(told_spread.to_string().contains(&says), "{told_spread}");
    let change = change_on(&told_spread, &one);
    assert_eq!(change["text"], "let the pod's spreading over kubernetes.io/hostname be a wish only");
    apply(&cluster, change["how"].as_str().expect("a command"));
    assert_eq!(node_of(&namespace, "kin-3"), one);

    // Who names a node waits for that node alone.
    namespace.apply(&pod("named", "nodeName: nowhere", "")).ok();
    let named = explained(&namespace, "pending", "named");
    assert_eq!(named["summary"], "it is bound to node nowhere, which does not exist", "{named}");
}

/// A process of a node, not of a pod, that listens on a port.
pub(crate) fn listening(cluster: &Cluster, node: &str, port: &str) -> Background {
    let mut command = Command::new(skiff_path());
    command.args(["node", "shell", "--name", &cluster.name, node, "--"]).arg(peer_path()).args(["tcp", port]);
    let process = Background(command.spawn().expect("it starts"));
    let local = format!(":{port} ");
    wait_until("the process listens", || {
        cluster.on_node(node, &["ss", "-H", "-l", "-n", "-t"]).ok().contains(&local)
    });
    process
}

#[test]
fn i2_a_host_process_on_the_port_is_named() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i2-port");
    let node = cluster.worker(1);
    let _holder = listening(&cluster, &node, "18933");
    namespace
        .apply(&pod(
            "wants",
            "nodeSelector: {nowhere: 'yes'}",
            "ports: [{containerPort: 18933, hostPort: 18933}]",
        ))
        .ok();
    let told = told(&namespace, "wants");
    let nodes = told["nodes"].as_array().expect("nodes");
    let own = nodes.iter().find(|own| own["node"] == node.as_str()).expect("it is told of");
    let holder = &own["portHolders"][0];
    assert_eq!((holder["port"].as_u64(), &holder["pod"]), (Some(18933), &Value::Null), "{own}");
    let pid = holder["pid"].to_string();
    let line = cluster.on_node(&node, &["cat", &format!("/proc/{pid}/cmdline")]).ok();
    // Of a long one the program's directory is left out.
    let told = holder["command"].as_str().expect("a command").trim_start_matches('…');
    assert!(told.contains("/peer tcp 18933") && line.replace('\0', " ").contains(told), "{told} {line}");
    let shown = explain(&namespace, "pending", "wants", &[]).ok();
    let words: Vec<&str> = shown.split_whitespace().filter(|word| *word != "…").collect();
    assert!(words.join(" ").contains(&format!("host process {pid} (")), "{shown}");
}

#[test]
fn starts_are_told_phase_by_phase() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i2-start");
    namespace.apply(&pod("p", "", "")).ok();
    namespace.ready("p");
    let told = wait_for("a watcher has heard of it", || {
        let told = explained(&namespace, "start", "p");
        let whole = told["finished"] == true && told["missing"].is_null();
        (whole && told["phases"].to_string().contains("\"watched\"")).then_some(told)
    });
    let phases: Vec<&str> =
        told["phases"].as_array().expect("phases").iter().filter_map(|own| own["phase"].as_str()).collect();
    for phase in [
        "write", "queue", "decision", "bind", "seen", "volumes", "sandbox", "network", "image", "pull",
        "create", "start", "ready", "watched",
    ] {
        assert!(phases.contains(&phase), "{phase}: {phases:?}");
    }
    assert_eq!((told["finished"].as_bool(), &told["missing"]), (Some(true), &Value::Null), "{told}");
    let total = told["totalMs"].as_f64().expect("a number");
    for phase in told["phases"].as_array().expect("phases") {
        let end = phase["beganMs"].as_f64().expect("ms") + phase["tookMs"].as_f64().expect("ms");
        assert!(end <= total + 0.001, "{phase} within {total}");
    }
    let shown = explain(&namespace, "start", "p", &[]).ok();
    assert_eq!(shown.matches("← slowest").count(), 1, "{shown}");
    let node = namespace.pod("p")["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let metrics = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]).ok();
    assert!(
        metrics.contains("skiff_pod_start_phase_seconds_bucket{phase=\"sandbox\",le=\"+Inf\"}"),
        "{metrics}"
    );
}
