//! H2: namespaces say which pods they let in, by labels, in upstream's words.

use skiff_tests::{Cluster, Namespace};

fn labelled(name: &str, labels: &[&str]) -> Namespace {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace(name);
    let mut args = vec!["label", "namespace", name];
    args.extend(labels);
    assert_eq!(cluster.kubectl(&args).ok(), format!("namespace/{name} labeled\n"));
    namespace
}

const BASELINE: &str = "pod-security.kubernetes.io/enforce=baseline";

/// A pod that no node takes, so that nothing of it runs.
fn pod(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeSelector: {{none: 'yes'}}, {spec}}}}}"
    )
}

#[test]
fn h2_what_shares_the_node_is_refused_in_a_baseline_namespace() {
    let namespace = labelled("h2-enforce", &[BASELINE]);
    for (file, pod, details) in [
        ("host-network.yaml", "pod-with-host-network", "host namespaces (hostNetwork=true)"),
        ("host-pid-ipc.yaml", "pod-with-host-pid-and-ipc", "host namespaces (hostPID=true, hostIPC=true)"),
        ("host-port.yaml", "kubia-hostport", "hostPort (container \"kubia\" uses hostPort 9000)"),
    ] {
        let refused = namespace.apply_file(file).err();
        let expected =
            format!("pods {pod:?} is forbidden: violates PodSecurity \"baseline:latest\": {details}\n");
        assert!(
            refused.starts_with("Error from server (Forbidden): error when creating \"")
                && refused.ends_with(&expected),
            "{refused}"
        );
    }
    let privileged = "containers: [{name: main, image: alpine, securityContext: {privileged: true}}]";
    let refused = namespace.apply(&pod("privileged", privileged)).err();
    assert!(
        refused.contains(
            "pods \"privileged\" is forbidden: violates PodSecurity \"baseline:latest\": privileged \
             (container \"main\" must not set securityContext.privileged=true)"
        ),
        "{refused}"
    );
    let all = "hostNetwork: true, hostPID: true, containers: [{name: main, image: alpine, ports: [{containerPort: 9000, hostPort: 9000}]}]";
    let refused = namespace.apply(&pod("all", all)).err();
    assert!(
        refused.contains(
            "violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true, hostPID=true), \
             hostPort (container \"main\" uses hostPort 9000)"
        ),
        "{refused}"
    );
    let pods = namespace.kubectl(&["get", "pods"]);
    assert!(pods.stdout.is_empty(), "nothing was made: {pods:?}");
    namespace.apply(&pod("plain", "containers: [{name: main, image: alpine}]")).ok();
}

#[test]
fn h2_a_restricted_namespace_says_all_that_is_missing_and_takes_what_has_it() {
    let namespace = labelled("h2-restricted", &["pod-security.kubernetes.io/enforce=restricted"]);
    let refused = namespace.apply(&pod("plain", "containers: [{name: main, image: alpine}]")).err();
    assert!(
        refused.contains(
            "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \
             \"main\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
             (container \"main\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != \
             true (pod or container \"main\" must set securityContext.runAsNonRoot=true), seccompProfile \
             (pod or container \"main\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" \
             or \"Localhost\")"
        ),
        "{refused}"
    );
    let strict = "securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}, \
                  containers: [{name: main, image: alpine, securityContext: {allowPrivilegeEscalation: false, \
                  capabilities: {drop: [ALL]}}}]";
    namespace.apply(&pod("strict", strict)).ok();
}

#[test]
fn h2_a_warn_label_warns_and_lets_pass() {
    let namespace = labelled("h2-warn", &["pod-security.kubernetes.io/warn=baseline"]);
    let made = namespace.apply(&pod("shared", "hostPID: true, containers: [{name: main, image: alpine}]"));
    assert_eq!(made.stdout, "pod/shared created\n");
    assert_eq!(
        made.stderr,
        "Warning: would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)\n"
    );
}

#[test]
fn h2_a_deployment_is_warned_of_and_its_pods_are_refused() {
    let namespace = labelled("h2-deployment", &[BASELINE]);
    let made = namespace.apply(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 1, selector: \
         {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {hostNetwork: true, \
         containers: [{name: main, image: alpine}]}}}}",
    );
    assert_eq!(made.stdout, "deployment.apps/d created\n");
    assert_eq!(
        made.stderr,
        "Warning: would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)\n"
    );
    let set = skiff_tests::wait_for("the deployment has a replica set", || {
        let sets = namespace.kubectl(&["get", "replicasets", "-o", "name"]).stdout;
        Some(sets.trim().strip_prefix("replicaset.apps/")?.to_owned())
    });
    let event = namespace.event(&set, "FailedCreate", "is forbidden");
    assert!(
        event.ends_with(
            "is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
        ),
        "{event}"
    );
}

#[test]
fn h2_a_stricter_label_lists_the_pods_it_would_refuse() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("h2-label");
    for name in ["b", "a"] {
        let spec = "hostNetwork: true, containers: [{name: main, image: alpine}]";
        namespace.apply(&pod(name, spec)).ok();
    }
    let labelled = cluster.kubectl(&["label", "namespace", "h2-label", BASELINE]);
    assert_eq!(labelled.stdout, "namespace/h2-label labeled\n");
    assert_eq!(
        labelled.stderr,
        "Warning: existing pods in namespace \"h2-label\" violate the new PodSecurity enforce level \
         \"baseline:latest\"\nWarning: a (and 1 other pod): host namespaces\n"
    );
    let refused = cluster
        .kubectl(&[
            "label",
            "--overwrite",
            "namespace",
            "h2-label",
            "pod-security.kubernetes.io/enforce=strict",
        ])
        .err();
    assert!(
        refused.contains(
            "The Namespace \"h2-label\" is invalid: \
             metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of \
             privileged, baseline, restricted"
        ),
        "{refused}"
    );
}

#[test]
fn h2_a_host_port_of_the_platform_is_warned_of() {
    let namespace = Cluster::shared().namespace("h2-ports");
    let made = namespace.apply(&pod(
        "agent",
        "containers: [{name: main, image: alpine, ports: [{containerPort: 80, hostPort: 10250}]}]",
    ));
    assert_eq!(made.stdout, "pod/agent created\n");
    assert_eq!(
        made.stderr,
        "Warning: spec.containers[0].ports[0].hostPort: 10250/TCP is the agent's on every node; the pod \
         can't have it\n"
    );
}
