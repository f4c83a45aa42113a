//! What this server lacks gets the answer that upstream's clients expect of a server that lacks it.

use skiff_tests::{Cluster, run};

use crate::{BOTH, sleeper, with};

#[test]
fn kinds_that_are_not_served() {
    let namespace = Cluster::shared().namespace("l-kinds");
    let get = namespace.kubectl(&["get", "cronjobs"]).err();
    assert_eq!(get, "error: the server doesn't have a resource type \"cronjobs\"\n");
    let job = namespace.kubectl(&["create", "job", "j", "--image=alpine"]).err();
    assert_eq!(
        job,
        "error: failed to create job: the server could not find the requested resource (post jobs.batch)\n"
    );
    let raw = namespace.kubectl(&["get", "--raw", "/nothing"]).err();
    assert_eq!(raw, "Error from server (NotFound): the server could not find the requested resource\n");
}

#[test]
fn a_server_side_apply_is_refused_and_changes_nothing() {
    let namespace = Cluster::shared().namespace("l-apply");
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}}";
    let refused = namespace.pipe(&["apply", "--server-side", "-f", "-"], map).err();
    assert!(refused.starts_with("error: Server-side apply not available on the server"), "{refused}");
    assert_ne!(namespace.kubectl(&["get", "cm", "m"]).code, 0);
}

#[test]
fn there_are_no_metrics() {
    let cluster = Cluster::shared();
    for which in BOTH {
        let top = run(cluster.command(which).args(["top", "nodes"])).err();
        assert_eq!(top, "error: Metrics API not available\n");
    }
}

#[test]
fn an_ephemeral_container_is_refused() {
    let namespace = Cluster::shared().namespace("l-debug");
    namespace.apply(&sleeper("p")).ok();
    namespace.ready("p");
    let refused =
        namespace.kubectl(&["debug", "p", "--image=alpine", "--profile=general", "--", "true"]).err();
    assert!(refused.contains("the server could not find the requested resource"), "{refused}");
    assert!(namespace.pod("p")["spec"]["ephemeralContainers"].is_null());
}

#[test]
fn who_one_is_and_what_one_may() {
    let namespace = Cluster::shared().namespace("l-auth");
    for which in BOTH {
        assert_eq!(with(&namespace, which, &["auth", "can-i", "create", "pods"]).ok(), "yes\n");
        let bob = with(&namespace, which, &["auth", "can-i", "create", "pods", "--as=bob"]);
        assert_eq!((bob.stdout.as_str(), bob.code), ("no\n", 1), "{bob:?}");
        let refused = with(&namespace, which, &["get", "pods", "--as=bob"]).err();
        assert_eq!(
            refused,
            "Error from server (Forbidden): pods is forbidden: User \"bob\" cannot list resource \"pods\" in API \
             group \"\" in the namespace \"l-auth\"\n"
        );
    }
    let whoami = namespace.kubectl(&[
        "auth",
        "whoami",
        "--as=bob",
        "--as-group=crew",
        "-o",
        "jsonpath={.status.userInfo}",
    ]);
    assert_eq!(whoami.ok(), r#"{"groups":["crew","system:authenticated"],"username":"bob"}"#);
}

#[test]
fn a_kind_that_is_misspelt_is_named() {
    let namespace = Cluster::shared().namespace("l-misspelt");
    let manifest = "{apiVersion: v1, kind: Podd, metadata: {name: x}}";
    let refused = namespace.pipe(&["create", "-f", "-"], manifest).err();
    assert!(refused.contains("no matches for kind \"Podd\" in version \"v1\""), "{refused}");
}
