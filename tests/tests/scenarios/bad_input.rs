//! Bad input: a clear error that names the field; nothing half applied, nothing lost.

use skiff_tests::{Cluster, Namespace, manifest, skiff, wait_for, wait_until};

fn pod(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {spec}}}}}"
    )
}

fn refused(namespace: &Namespace, text: &str, args: &[&str], expected: &str) {
    let mut all = vec!["create", "-f", "-"];
    all.extend(args);
    let error = namespace.pipe(&all, text).err();
    assert!(error.contains(expected), "expected {expected:?}: {error}");
    let pods = namespace.cluster.object(&["-n", &namespace.name, "pods"]);
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(0), "nothing was made");
}

#[test]
fn unknown_and_duplicate_fields() {
    let namespace = Cluster::shared().namespace("bad-fields");
    let unknown = pod("x", "hostNetwrk: true, containers: [{name: main, image: alpine, imge: b}]");
    refused(&namespace, &unknown, &["--validate=strict"], "unknown field \"spec.hostNetwrk\"");
    refused(&namespace, &unknown, &["--validate=strict"], "unknown field \"spec.containers[0].imge\"");
    let warned = namespace.pipe(&["create", "-f", "-", "--validate=warn"], &unknown);
    assert!(
        warned.code == 0 && warned.stderr.contains("Warning: unknown field \"spec.hostNetwrk\""),
        "{warned:?}"
    );
    namespace.delete("pod", "x");
    let ignored = namespace.pipe(&["create", "-f", "-", "--validate=ignore"], &unknown);
    assert!(ignored.code == 0 && !ignored.stderr.contains("unknown"), "{ignored:?}");
    namespace.delete("pod", "x");
    // kubectl turns YAML into JSON and loses duplicate keys, so this one is sent raw.
    let path = namespace.cluster.data_dir().join("duplicate.json");
    std::fs::write(&path, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d","name":"e"}}"#)
        .expect("it is written");
    let url = "/api/v1/namespaces/bad-fields/configmaps?fieldValidation=Strict";
    let error =
        namespace.cluster.kubectl(&["create", "--raw", url, "-f", path.to_str().expect("UTF-8")]).err();
    assert!(error.contains("duplicate field \"metadata.name\""), "{error}");
}

#[test]
fn wrong_types_and_values() {
    let namespace = Cluster::shared().namespace("bad-values");
    let cases = [
        (pod("x", "hostNetwork: 'yes', containers: [{name: main, image: alpine}]"), "spec.hostNetwork"),
        (
            pod("x", "containers: [{name: main, image: alpine, ports: [{containerPort: 70000}]}]"),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            pod(
                "x",
                "containers: [{name: main, image: alpine, ports: [{containerPort: 80, hostPort: 70000}]}]",
            ),
            "spec.containers[0].ports[0].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (pod("x", "containers: []"), "spec.containers: Required value"),
        (pod("x", "containers: [{name: main}]"), "spec.containers[0].image: Required value"),
        (pod("X_x", "containers: [{name: main, image: alpine}]"), "metadata.name: Invalid value: \"X_x\""),
        (
            pod("x", "containers: [{name: main, image: alpine}, {name: main, image: alpine}]"),
            "spec.containers[1].name: Duplicate value: \"main\"",
        ),
        (
            pod("x", "restartPolicy: Sometimes, containers: [{name: main, image: alpine}]"),
            "spec.restartPolicy: Unsupported value: \"Sometimes\"",
        ),
        (
            pod(
                "x",
                "containers: [{name: a, image: alpine, ports: [{containerPort: 80, hostPort: 9000}]}, {name: b, image: alpine, ports: [{containerPort: 81, hostPort: 9000}]}]",
            ),
            "spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//9000\"",
        ),
    ];
    for (text, expected) in &cases {
        refused(&namespace, text, &[], expected);
    }
}

#[test]
fn a_node_whose_pod_range_is_taken_is_refused_naming_both() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("bad-range");
    let node = cluster.worker(1);
    let range = cluster.object(&["node", &node])["spec"]["podCIDR"].as_str().expect("a range").to_owned();
    let text = format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: intruder}}, spec: {{podCIDR: {range}, podCIDRs: [{range}]}}}}"
    );
    let error = namespace.pipe(&["create", "-f", "-"], &text).err();
    assert!(error.contains("intruder") && error.contains(&range) && error.contains(&node), "{error}");
    assert_ne!(cluster.kubectl(&["get", "node", "intruder"]).code, 0);
}

#[test]
fn an_overlapping_range_is_refused_before_anything_is_made() {
    let output = skiff(&[
        "up",
        "--detach",
        "--name",
        "bad-ranges",
        "--port",
        "0",
        "--pod-cidr",
        "10.9.0.0/16",
        "--service-cidr",
        "10.9.128.0/20",
    ]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("10.9.0.0/16") && output.stderr.contains("10.9.128.0/20"), "{output:?}");
    let output =
        skiff(&["up", "--detach", "--name", "bad-ranges", "--port", "0", "--pod-cidr", "10.9.0.1/16"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("10.9.0.1/16") && output.stderr.contains("--pod-cidr"), "{output:?}");
    assert!(!std::path::Path::new("/run/skiff/bad-ranges").exists());
}

fn waiting(namespace: &Namespace, name: &str, reason: &str) -> String {
    wait_for(&format!("{name} waits for {reason}"), || {
        let pod = namespace.pod(name);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn an_image_that_can_not_be_found() {
    let namespace = Cluster::shared().namespace("bad-image");
    namespace.apply(&pod("x", "containers: [{name: main, image: 'nowhere.invalid/none:v1'}]")).ok();
    let message = waiting(&namespace, "x", "ImagePullBackOff");
    assert!(message.contains("nowhere.invalid/none:v1"), "{message}");
    let event = namespace.event("x", "Failed", "Failed to pull image \"nowhere.invalid/none:v1\"");
    assert!(event.contains("nowhere.invalid"), "{event}");
}

#[test]
fn a_command_that_does_not_exist() {
    let namespace = Cluster::shared().namespace("bad-command");
    namespace
        .apply(&pod(
            "x",
            "restartPolicy: Never, containers: [{name: main, image: alpine, command: [/no/such]}]",
        ))
        .ok();
    let terminated = wait_for("it has failed", || {
        let terminated = namespace.pod("x")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        terminated.is_object().then_some(terminated)
    });
    assert_eq!(terminated["reason"], "StartError");
    assert!([127, 128].contains(&terminated["exitCode"].as_i64().unwrap_or(0)), "{terminated}");
    assert!(
        terminated["message"].as_str().is_some_and(|message| message.contains("/no/such")),
        "{terminated}"
    );
}

#[test]
fn a_crash_loop_backs_off() {
    let namespace = Cluster::shared().namespace("bad-loop");
    namespace.apply(&pod("x", "containers: [{name: main, image: alpine, command: [sh, -c, 'exit 3']}]")).ok();
    let message = waiting(&namespace, "x", "CrashLoopBackOff");
    assert!(
        message.starts_with("back-off 10s restarting failed container=main pod=x_bad-loop("),
        "{message}"
    );
    let pod = namespace.pod("x");
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    namespace.event("x", "BackOff", "Back-off restarting failed container main in pod x_bad-loop(");
}

#[test]
fn out_of_memory() {
    let namespace = Cluster::shared().namespace("bad-memory");
    let spec = "restartPolicy: Never, containers: [{name: main, image: skiff/peer:v1, command: [peer, eat, '100'], resources: {limits: {memory: 24Mi}}}]";
    namespace.apply(&pod("x", spec)).ok();
    wait_until("it was killed", || {
        let terminated = namespace.pod("x")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        terminated["reason"] == "OOMKilled" && terminated["exitCode"] == 137
    });
}

#[test]
fn what_is_not_there_yet_is_never_ignored() {
    let namespace = Cluster::shared().namespace("bad-later");
    namespace
        .apply(&pod(
            "x",
            "containers: [{name: main, image: alpine, lifecycle: {preStop: {sleep: {seconds: 1}}}}]",
        ))
        .ok();
    let message = waiting(&namespace, "x", "CreateContainerConfigError");
    assert!(message.contains("spec.containers[0].lifecycle"), "{message}");
}

#[test]
fn an_archive_without_a_name_is_refused() {
    let cluster = Cluster::shared();
    let path = cluster.data_dir().join("nameless.tar");
    std::fs::write(&path, vec![0u8; 1024]).expect("it is written");
    let output = skiff(&["image", "load", "--name", &cluster.name, path.to_str().expect("UTF-8")]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("nameless.tar"), "{output:?}");
    let missing = skiff(&["image", "load", "--name", &cluster.name, &manifest("none.tar")]);
    assert!(missing.code == 1 && missing.stderr.contains("none.tar"), "{missing:?}");
}
