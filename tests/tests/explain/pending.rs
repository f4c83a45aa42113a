//! I2: for every filter a pod that fails it. The stated change is applied as it is stated, and then the pod
//! must be scheduled.

use std::process::Command;

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, OwnCluster, run, wait_for, wait_until};

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

fn pod(name: &str, spec: &str, container: &str) -> String {
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
    namespace.ready("holder");
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
        if filter == "NodePorts" {
            assert!(told.to_string().contains("is held by pod grid/holder"), "{told}");
        }
    }
}

#[test]
fn i2_a_host_process_on_the_port_is_named() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i2-port");
    let node = cluster.worker(1);
    let peer = skiff_tests::peer_path();
    let mut command = Command::new(skiff_tests::skiff_path());
    command.args(["node", "shell", "--name", &cluster.name, &node, "--"]).arg(&peer).args(["tcp", "18933"]);
    let _holder = skiff_tests::Background(command.spawn().expect("it starts"));
    wait_until("the process listens", || {
        cluster.on_node(&node, &["ss", "-H", "-l", "-n", "-t"]).ok().contains(":18933 ")
    });
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
fn i2_what_a_bound_pod_waits_for_is_told() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i2-bound");
    let probe = "readinessProbe: {exec: {command: [/bin/false]}, periodSeconds: 1}";
    let volume = "volumes: [{name: v, configMap: {name: absent}}]";
    namespace.apply(&pod("probe", "", probe)).ok();
    namespace.apply(&pod("volume", volume, "volumeMounts: [{name: v, mountPath: /v}]")).ok();
    namespace.apply(&pod("crash", "", "").replace("[sleep, '999999']", "[/bin/false]")).ok();
    namespace
        .apply(&pod("image", "", "imagePullPolicy: Never").replace("image: alpine", "image: absent:v1"))
        .ok();
    for (name, what, clue) in [
        ("probe", "probe", "Readiness probe failed"),
        ("volume", "volume", "absent"),
        ("crash", "container", "exit code 1"),
        ("image", "image", "not present"),
    ] {
        let wait = wait_for(&format!("{name} waits for the {what}, with its error"), || {
            let told = explained(&namespace, "pending", name);
            let wait = told["waits"][0].clone();
            let error = wait["lastError"].as_str().unwrap_or_default().to_owned();
            (wait["what"] == what && error.contains(clue)).then_some(wait)
        });
        assert!(wait["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{wait}");
        if name != "probe" {
            wait_until("the next try is told", || {
                explained(&namespace, "pending", name)["waits"][0]["nextTry"].is_string()
            });
        }
    }
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
