//! Commands on nodes, on a cluster of their own: other tests' pods must not be evicted.

use skiff_tests::{Cluster, wait_until};

use crate::deployment;

#[test]
fn cordon_drain_taint_and_back() {
    let cluster = Cluster::start("drain", 2);
    let worker = cluster.worker(1);
    let namespace = cluster.namespace("n-drain");
    namespace.apply(&deployment("d", 2)).ok();
    namespace.kubectl(&["rollout", "status", "deployment/d", "--timeout=120s"]).ok();
    let kubectl = |args: &[&str]| cluster.kubectl(args);
    assert_eq!(kubectl(&["cordon", &worker]).ok(), format!("node/{worker} cordoned\n"));
    assert_eq!(kubectl(&["cordon", &worker]).ok(), format!("node/{worker} already cordoned\n"));
    assert!(kubectl(&["get", "node", &worker]).ok().contains("Ready,SchedulingDisabled"));
    namespace
        .kubectl(&[
            "run",
            "bare",
            "--image=alpine",
            "--overrides",
            &format!(r#"{{"spec":{{"nodeName":"{worker}"}}}}"#),
            "--",
            "sleep",
            "999999",
        ])
        .ok();
    let refused = kubectl(&["drain", &worker]).err();
    assert!(
        refused.contains(
            "cannot delete Pods that declare no controller (use --force to override): n-drain/bare"
        ),
        "{refused}"
    );
    let drained = kubectl(&["drain", &worker, "--force", "--grace-period=1", "--timeout=120s"]).ok();
    assert!(
        drained.ends_with(&format!("node/{worker} drained\n")) && drained.contains("pod/bare evicted"),
        "{drained}"
    );
    wait_until("the new pods wait", || {
        let pods = cluster.object(&["-n", "n-drain", "pods"]);
        let phases: Vec<_> =
            pods["items"].as_array().expect("a list").iter().map(|pod| &pod["status"]["phase"]).collect();
        phases == ["Pending", "Pending"]
    });
    assert_eq!(kubectl(&["uncordon", &worker]).ok(), format!("node/{worker} uncordoned\n"));
    namespace.kubectl(&["rollout", "status", "deployment/d", "--timeout=120s"]).ok();
    assert_eq!(
        kubectl(&["taint", "node", &worker, "a=b:NoExecute"]).ok(),
        format!("node/{worker} tainted\n")
    );
    wait_until("pods that do not tolerate it go", || {
        let pods = cluster.object(&[
            "-n",
            "n-drain",
            "pods",
            "--field-selector",
            &format!("spec.nodeName={worker}"),
        ]);
        pods["items"].as_array().is_some_and(Vec::is_empty)
    });
    let twice = kubectl(&["taint", "node", &worker, "a=b:NoExecute"]).err();
    assert_eq!(
        twice,
        format!("error: node {worker} already has a taint(s) with same effect(s) and --overwrite is false\n")
    );
    assert_eq!(kubectl(&["taint", "node", &worker, "a-"]).ok(), format!("node/{worker} untainted\n"));
    namespace.kubectl(&["rollout", "status", "deployment/d", "--timeout=120s"]).ok();
}
