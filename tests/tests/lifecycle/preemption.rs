//! A pod that matters more takes the place of one that matters less.

use skiff_tests::{Cluster, wait_for, wait_until};

const CLASSES: &str = "
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: polite}
value: 2000
preemptionPolicy: Never
";

/// A pod that needs port 9000 of its node; the victim takes its time to go, longer than it takes to look.
fn holder(name: &str, class: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!("priorityClassName: {class}, ") };
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{class}terminationGracePeriodSeconds: 15, containers: [{{name: main, image: alpine, command: [sleep, '999999'], ports: [{{containerPort: 80, hostPort: 9000}}]}}]}}}}"
    )
}

#[test]
fn a_pod_of_a_higher_class_preempts_one_of_a_lower() {
    let cluster = Cluster::start("lc-preempt", 1);
    cluster.namespace("classes").apply(CLASSES).ok();
    let namespace = cluster.namespace("p");
    namespace.apply(&holder("low", "")).ok();
    namespace.ready("low");
    assert_eq!(namespace.pod("low")["spec"]["priority"], 0);

    // One that may not preempt waits, though it matters most.
    namespace.apply(&holder("polite", "polite")).ok();
    namespace.event("polite", "FailedScheduling", "didn't have free ports");
    assert_eq!(namespace.pod("polite")["spec"]["preemptionPolicy"], "Never");
    namespace.delete("pod", "polite");
    assert!(namespace.pod("low")["metadata"]["deletionTimestamp"].is_null());

    namespace.apply(&holder("high", "high")).ok();
    let nominated = wait_for("it is told where it will go", || {
        namespace.pod("high")["status"]["nominatedNodeName"].as_str().map(str::to_owned)
    });
    assert_eq!(nominated, "lc-preempt");
    namespace.event("low", "Preempted", "on node lc-preempt");
    namespace.ready("high");
    assert_eq!(namespace.pod("high")["spec"]["priority"], 1000);
    wait_until("the victim is gone", || {
        namespace.kubectl(&["get", "pod", "low"]).stderr.contains("NotFound")
    });
}

/// When its attempt was made no victim could have helped; it is tried again when one can.
#[test]
fn a_node_that_is_uncordoned_takes_who_has_to_preempt_there() {
    let cluster = Cluster::start("lc-preempt-2", 1);
    cluster.namespace("classes").apply(CLASSES).ok();
    let namespace = cluster.namespace("p");
    namespace.apply(&holder("low", "")).ok();
    namespace.ready("low");
    cluster.kubectl(&["cordon", "lc-preempt-2"]).ok();
    namespace.apply(&holder("high", "high")).ok();
    namespace.event("high", "FailedScheduling", "node(s) were unschedulable");
    assert!(namespace.pod("low")["metadata"]["deletionTimestamp"].is_null());
    cluster.kubectl(&["uncordon", "lc-preempt-2"]).ok();
    namespace.event("low", "Preempted", "on node lc-preempt-2");
    namespace.ready("high");
}
