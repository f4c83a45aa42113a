//! Rollouts, scaling, exposing, and the ways to delete.

use skiff_tests::{Cluster, wait_until};

use crate::{BOTH, deployment, sleeper, with};

#[test]
fn a_rollout_is_followed_undone_and_restarted() {
    let namespace = Cluster::shared().namespace("w-rollout");
    namespace.apply(&deployment("d", 2)).ok();
    for which in BOTH {
        let kubectl = |args: &[&str]| with(&namespace, which, args);
        let status = || kubectl(&["rollout", "status", "deployment/d", "--timeout=120s"]).ok();
        assert!(status().ends_with("deployment \"d\" successfully rolled out\n"));
        let before = kubectl(&["rollout", "history", "deployment/d"]).ok();
        let revision = |text: &str| {
            text.lines()
                .rfind(|line| !line.is_empty())
                .map(|line| line.split(' ').next().unwrap_or_default().parse::<u64>().expect("a revision"))
        };
        assert_eq!(
            kubectl(&["set", "env", "deployment/d", &format!("STEP={which}")]).ok(),
            "deployment.apps/d env updated\n"
        );
        status();
        let after = kubectl(&["rollout", "history", "deployment/d"]).ok();
        assert_eq!(revision(&after), revision(&before).map(|last| last + 1), "{after}");
        assert_eq!(kubectl(&["rollout", "undo", "deployment/d"]).ok(), "deployment.apps/d rolled back\n");
        status();
        let shown =
            kubectl(&["get", "deployment", "d", "-o", "jsonpath={.spec.template.spec.containers[0].env}"])
                .ok();
        assert!(!shown.contains(which), "{shown}");
        assert_eq!(kubectl(&["rollout", "restart", "deployment/d"]).ok(), "deployment.apps/d restarted\n");
        status();
        assert_eq!(kubectl(&["rollout", "pause", "deployment/d"]).ok(), "deployment.apps/d paused\n");
        let paused = kubectl(&["rollout", "pause", "deployment/d"]).err();
        assert_eq!(paused, "error: deployments.apps \"d\" is already paused\n");
        assert_eq!(kubectl(&["rollout", "resume", "deployment/d"]).ok(), "deployment.apps/d resumed\n");
    }
}

#[test]
fn scaling_by_deployment_and_by_replica_set() {
    let namespace = Cluster::shared().namespace("w-scale");
    namespace.apply(&deployment("d", 1)).ok();
    for (which, wanted) in BOTH.into_iter().zip(["3", "2"]) {
        let scaled =
            with(&namespace, which, &["scale", "deployment/d", &format!("--replicas={wanted}")]).ok();
        assert_eq!(scaled, "deployment.apps/d scaled\n");
        namespace.kubectl(&["rollout", "status", "deployment/d", "--timeout=120s"]).ok();
        // Of fewer replicas kubectl says so before the surplus is gone.
        wait_until("as many are ready", || {
            let ready = ["get", "deployment", "d", "-o", "jsonpath={.status.readyReplicas}"];
            namespace.kubectl(&ready).ok() == wanted
        });
    }
    let refused = namespace.kubectl(&["scale", "deployment/d", "--replicas=1", "--current-replicas=9"]).err();
    assert_eq!(refused, "error: Expected replicas to be 9, was 2\n");
}

#[test]
fn exposing_names_the_ports_of_what_is_exposed() {
    let namespace = Cluster::shared().namespace("w-expose");
    namespace.kubectl(&["run", "p", "--image=luksa/kubia", "--port=8080", "--labels=app=p"]).ok();
    assert_eq!(namespace.kubectl(&["expose", "pod", "p"]).ok(), "service/p exposed\n");
    let service = namespace.cluster.object(&["-n", "w-expose", "service", "p"]);
    assert_eq!(service["spec"]["ports"][0]["port"], 8080);
    assert_eq!(service["spec"]["selector"]["app"], "p");
    let again = namespace.kubectl(&["expose", "pod", "p"]).err();
    assert_eq!(again, "Error from server (AlreadyExists): services \"p\" already exists\n");
}

#[test]
fn orphans_stay_and_dependents_go() {
    let namespace = Cluster::shared().namespace("w-cascade");
    let count = |kind: &str| {
        let list = namespace.cluster.object(&["-n", "w-cascade", kind]);
        list["items"].as_array().map_or(0, Vec::len)
    };
    let start = || {
        namespace.apply(&deployment("d", 2)).ok();
        namespace.kubectl(&["rollout", "status", "deployment/d", "--timeout=120s"]).ok();
    };
    start();
    let deleted = namespace.kubectl(&["delete", "deployment", "d", "--cascade=orphan"]).ok();
    assert_eq!(deleted, "deployment.apps \"d\" deleted from w-cascade namespace\n");
    wait_until("the replica set has no owner", || {
        let sets = namespace.cluster.object(&["-n", "w-cascade", "replicasets"]);
        sets["items"][0]["metadata"]["ownerReferences"].is_null()
    });
    assert_eq!((count("replicasets"), count("pods")), (1, 2));
    // A new one of the same shape adopts them.
    start();
    assert_eq!((count("replicasets"), count("pods")), (1, 2));
    namespace.kubectl(&["delete", "deployment", "d", "--cascade=foreground", "--timeout=120s"]).ok();
    assert_eq!((count("replicasets"), count("pods")), (0, 0), "they go first");
    start();
    namespace.kubectl(&["delete", "deployment", "d", "--cascade=background"]).ok();
    wait_until("all are gone", || (count("replicasets"), count("pods")) == (0, 0));
}

#[test]
fn deletion_of_all_by_force_and_by_selector() {
    let namespace = Cluster::shared().namespace("w-delete");
    for which in BOTH {
        for pod in ["a", "b", "c", "d"] {
            namespace.apply(&sleeper(pod)).ok();
        }
        namespace.ready("d");
        let forced = with(&namespace, which, &["delete", "pod", "a", "--force", "--grace-period=0"]);
        assert!(forced.stdout.starts_with("pod \"a\" force deleted"), "{forced:?}");
        assert!(
            forced.stderr.to_lowercase().starts_with("warning: immediate deletion does not wait"),
            "{forced:?}"
        );
        assert!(
            with(&namespace, which, &["delete", "pods", "-l", "app=b", "--now"])
                .ok()
                .starts_with("pod \"b\" deleted")
        );
        let dry = with(&namespace, which, &["delete", "pod", "c", "--dry-run=server"]).ok();
        assert!(dry.ends_with("(server dry run)\n"), "{dry}");
        let all = with(&namespace, which, &["delete", "pods", "--all", "--timeout=120s"]).ok();
        assert!(all.contains("pod \"c\" deleted") && all.contains("pod \"d\" deleted"), "{all}");
        assert!(namespace.kubectl(&["get", "pods"]).stderr.starts_with("No resources found"));
        let missing = with(&namespace, which, &["delete", "pod", "a"]).err();
        assert_eq!(missing, "Error from server (NotFound): pods \"a\" not found\n");
        assert_eq!(with(&namespace, which, &["delete", "pod", "a", "--ignore-not-found"]).code, 0);
    }
}

#[test]
fn a_daemon_set_rolls_out_and_back() {
    let namespace = Cluster::shared().namespace("w-daemons");
    let set =
        crate::deployment("d", 0).replace("kind: Deployment", "kind: DaemonSet").replace("replicas: 0, ", "");
    namespace.apply(&set).ok();
    let status = || {
        let told = namespace.kubectl(&["rollout", "status", "daemonset/d", "--timeout=120s"]).ok();
        assert!(told.ends_with("daemon set \"d\" successfully rolled out\n"), "{told}");
    };
    status();
    namespace.kubectl(&["set", "env", "daemonset/d", "A=b"]).ok();
    status();
    let history = namespace.kubectl(&["rollout", "history", "daemonset/d"]).ok();
    assert_eq!(history, "daemonset.apps/d \nREVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n\n");
    assert_eq!(namespace.kubectl(&["rollout", "undo", "daemonset/d"]).ok(), "daemonset.apps/d rolled back\n");
    status();
    let environment = "jsonpath={.spec.template.spec.containers[0].env}";
    assert_eq!(namespace.kubectl(&["get", "daemonset", "d", "-o", environment]).ok(), "");
}
