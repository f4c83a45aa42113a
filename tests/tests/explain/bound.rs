//! I2: what a pod waits for that has a node: image, volume, container or probe, and who is in its way.

use skiff_tests::{Cluster, wait_for};

use super::pending::{listening, pod};
use super::truth::{explain, explained};

#[test]
fn i2_what_a_bound_pod_waits_for_is_told() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i2-bound");
    let probe = "readinessProbe: {exec: {command: [/bin/false]}, periodSeconds: 1}";
    let volume = "volumes: [{name: v, configMap: {name: absent}}]";
    let startup = "startupProbe: {exec: {command: [/bin/false]}, periodSeconds: 1, failureThreshold: 99999}";
    namespace.apply(&pod("startup", "", startup)).ok();
    let later = "readinessProbe: {exec: {command: [/bin/true]}, initialDelaySeconds: 9999}";
    namespace.apply(&pod("later", "", later)).ok();
    namespace.apply(&pod("unsupported", "", "lifecycle: {postStart: {exec: {command: [/bin/true]}}}")).ok();
    let init = "initContainers: [{name: first, image: alpine, command: [/bin/false]}]";
    namespace.apply(&pod("init", init, "")).ok();
    namespace.apply(&pod("config", "", "envFrom: [{secretRef: {name: absent}}]")).ok();
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
        ("startup", "probe", "Startup probe failed"),
        ("later", "probe", ""),
        ("unsupported", "container", "spec.containers[0].lifecycle is not supported"),
        ("init", "container", "exit code 1"),
        ("config", "container", "absent"),
    ] {
        let wait = wait_for(&format!("{name} waits for the {what}, with its error"), || {
            let told = explained(&namespace, "pending", name);
            let wait = told["waits"][0].clone();
            let error = wait["lastError"].as_str().unwrap_or_default().to_owned();
            (wait["what"] == what && error.contains(clue)).then_some(wait)
        });
        assert!(wait["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{wait}");
        let next = wait_for(&format!("{name}'s next try is told"), || {
            let told = explained(&namespace, "pending", name);
            told["waits"][0]["nextTry"].as_str().map(str::to_owned)
        });
        match name {
            "unsupported" => assert!(next.starts_with("never: "), "{next}"),
            _ => assert!(next.ends_with('Z'), "{name}: {next}"),
        }
        let shown = explain(&namespace, "pending", name, &[]).ok();
        assert!(
            shown.contains("next try") && shown.lines().all(|line| line.chars().count() <= 100),
            "{shown}"
        );
    }
}

#[test]
fn i2_a_server_whose_port_of_the_node_a_host_process_holds_is_told_who() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i2-taken");
    let node = cluster.worker(2);
    let _holder = listening(&cluster, &node, "18937");
    let spec = format!("hostNetwork: true\n  nodeSelector: {{kubernetes.io/hostname: {node}}}");
    let server = pod("server", &spec, "ports: [{containerPort: 18937}]").replace(
        "image: alpine, command: [sleep, '999999']",
        "image: skiff/peer:v1, command: [peer, tcp, '18937']",
    );
    namespace.apply(&server).ok();
    let error = wait_for("the holder of the port is named", || {
        let told = explained(&namespace, "pending", "server");
        let error = told["waits"][0]["lastError"].as_str()?.to_owned();
        error.contains("is held by process").then_some(error)
    });
    let pid =
        error.split("is held by process ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a PID");
    let line = cluster.on_node(&node, &["cat", &format!("/proc/{pid}/cmdline")]).ok();
    assert!(line.replace('\0', " ").contains("tcp 18937"), "{error}: {line}");
    assert!(error.contains(":18937/TCP of the node"), "{error}");
}
