//! Every score, by values: a pod, some nodes, and the points of each.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::testing::{info, node};

/// A node of 4 CPUs and 8 GiB, of which pods request this much.
fn used(name: &str, requests: Value) -> NodeInfo {
    let mut on = NodeInfo::new(node(name, json!({}), json!({})));
    on.add_pod(Arc::new(asks("there", requests)));
    on
}

fn asks(name: &str, requests: Value) -> PodInfo {
    info(name, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
}

/// A node with this much to give.
fn of_size(name: &str, allocatable: Value) -> NodeInfo {
    let mut object = (*node(name, json!({}), json!({}))).clone();
    object.status.as_mut().unwrap().allocatable = serde_json::from_value(allocatable).unwrap();
    NodeInfo::new(Arc::new(object))
}

/// A node that has these images, with their sizes in MiB.
fn with_images(name: &str, images: &[(&str, i64)]) -> NodeInfo {
    let mut object = (*node(name, json!({}), json!({}))).clone();
    let list: Vec<Value> = images
        .iter()
        .map(|(name, mebibytes)| json!({"names": [name], "sizeBytes": mebibytes * 1024 * 1024}))
        .collect();
    object.status.as_mut().unwrap().images = serde_json::from_value(json!(list)).unwrap();
    NodeInfo::new(Arc::new(object))
}

type Of = fn(&PodInfo, &[&NodeInfo]) -> Option<Vec<i64>>;

#[track_caller]
fn check(of: Of, pod: &PodInfo, nodes: &[NodeInfo], expected: Option<&[i64]>) {
    let nodes: Vec<&NodeInfo> = nodes.iter().collect();
    assert_eq!(of(pod, &nodes).as_deref(), expected);
}

#[test]
fn least_allocated_is_the_mean_share_of_cpu_and_memory_that_is_left() {
    let pod = asks("p", json!({"cpu": "1", "memory": "2Gi"}));
    let nodes = [
        NodeInfo::new(node("empty", json!({}), json!({}))),
        used("half", json!({"cpu": "1", "memory": "2Gi"})),
        used("no-memory", json!({"cpu": "1", "memory": "6Gi"})),
        used("too-little-cpu", json!({"cpu": "3500m", "memory": "2Gi"})),
    ];
    check(least_allocated::score, &pod, &nodes, Some(&[75, 50, 25, 25]));
    // Who asks for nothing is counted with 0.1 CPU and 200 MiB.
    let nothing = info("p", json!({}));
    check(least_allocated::score, &nothing, &nodes[..2], Some(&[97, 72]));
    // A resource that a node has none of doesn't count.
    let sizes = [
        of_size("cpu-only", json!({"cpu": "2"})),
        of_size("memory-only", json!({"memory": "8Gi"})),
        of_size("neither", json!({})),
    ];
    check(least_allocated::score, &pod, &sizes, Some(&[50, 75, 0]));
}

#[test]
fn balanced_is_how_near_the_requested_shares_of_cpu_and_memory_are() {
    let pod = asks("p", json!({"cpu": "1", "memory": "2Gi"}));
    let nodes = [
        NodeInfo::new(node("empty", json!({}), json!({}))),
        used("much-memory", json!({"memory": "4Gi"})),
        used("much-cpu", json!({"cpu": "2"})),
        used("all-cpu", json!({"cpu": "8"})),
    ];
    // Shares: ¼ and ¼; ¼ and ¾; ¾ and ¼; more than all counts as all.
    check(balanced::score, &pod, &nodes, Some(&[100, 75, 75, 62]));
    // Only what is requested counts, not what is assumed of those that request nothing.
    let mut crowded = NodeInfo::new(node("crowded", json!({}), json!({})));
    for index in 0..10 {
        crowded.add_pod(Arc::new(info(&format!("idle{index}"), json!({}))));
    }
    check(balanced::score, &pod, &[crowded], Some(&[100]));
    let sizes = [of_size("cpu-only", json!({"cpu": "2"})), of_size("memory-only", json!({"memory": "8Gi"}))];
    check(balanced::score, &pod, &sizes, Some(&[100, 100]));
}

#[test]
fn balance_is_nothing_to_a_pod_that_requests_neither_cpu_nor_memory() {
    let nodes = [NodeInfo::new(node("n", json!({}), json!({})))];
    check(balanced::score, &info("p", json!({})), &nodes, None);
    check(balanced::score, &asks("p", json!({"ephemeral-storage": "1Gi"})), &nodes, None);
    check(balanced::score, &asks("p", json!({"cpu": "1"})), &nodes, Some(&[87]));
    check(balanced::score, &asks("p", json!({"memory": "4Gi"})), &nodes, Some(&[75]));
}

#[test]
fn images_count_from_23_to_1000_mebibytes_a_container_by_how_many_nodes_have_them() {
    let on = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|image| json!({"name": "c", "image": image})).collect();
        info("p", json!({"containers": containers}))
    };
    let web = "docker.io/library/web:latest";
    let one = |mebibytes| [with_images("n", &[(web, mebibytes)])];
    check(image_locality::score, &on(&["web"]), &one(23), Some(&[0]));
    check(image_locality::score, &on(&["web"]), &one(1), Some(&[0]));
    // 100 × (500 − 23) / (1000 − 23).
    check(image_locality::score, &on(&["web"]), &one(500), Some(&[48]));
    check(image_locality::score, &on(&["web"]), &one(1000), Some(&[100]));
    check(image_locality::score, &on(&["web"]), &one(5000), Some(&[100]));
    // Two containers may bring twice as much, each its own image.
    check(image_locality::score, &on(&["web", "other"]), &one(1000), Some(&[49]));
    let both = [with_images("n", &[(web, 800), ("docker.io/library/other:latest", 200)])];
    check(image_locality::score, &on(&["web", "other"]), &both, Some(&[49]));
    // What one of two nodes has counts half.
    let two = [with_images("has", &[(web, 1000)]), with_images("has-not", &[("x", 1)])];
    check(image_locality::score, &on(&["web"]), &two, Some(&[48, 0]));
    let three =
        [with_images("a", &[(web, 900)]), with_images("b", &[(web, 900)]), with_images("c", &[("x", 1)])];
    check(image_locality::score, &on(&["web"]), &three, Some(&[59, 59, 0]));
    // Init containers' images are pulled, too.
    let mut init = on(&["other"]).pod.as_ref().clone();
    init.spec.as_mut().unwrap().init_containers =
        serde_json::from_value(json!([{"name": "i", "image": "web"}])).unwrap();
    check(image_locality::score, &PodInfo::new(Arc::new(init)), &one(1000), Some(&[49]));
    // Nodes that have none say nothing.
    check(image_locality::score, &on(&["web"]), &[with_images("n", &[])], None);
}

#[test]
fn images_are_found_by_their_whole_name() {
    let score = |image: &str, on_node: &str| {
        let pod = info("p", json!({"containers": [{"name": "c", "image": image}]}));
        let node = with_images("n", &[(on_node, 1000)]);
        image_locality::score(&pod, &[&node]).unwrap() == [100]
    };
    for (image, full) in [
        ("web", "docker.io/library/web:latest"),
        ("web:1", "docker.io/library/web:1"),
        ("team/web", "docker.io/team/web:latest"),
        ("registry.example/web", "registry.example/web:latest"),
        ("registry:5000/web", "registry:5000/web:latest"),
        ("localhost/web", "localhost/web:latest"),
        ("registry:5000/team/web:2", "registry:5000/team/web:2"),
        ("web@sha256:0a", "docker.io/library/web@sha256:0a"),
    ] {
        assert!(score(image, full), "{image} is {full}");
        assert!(!score(image, "docker.io/library/other:latest"), "{image} is not another");
    }
}

#[test]
fn preferred_terms_add_up_and_the_best_node_gets_all_points() {
    let prefers = info(
        "p",
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 30, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}},
            {"weight": 10, "preference": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}}]}}}),
    );
    let labelled = |name: &str, labels: Value| NodeInfo::new(node(name, json!({}), labels));
    let nodes = [
        labelled("both", json!({"disk": "", "gpu": ""})),
        labelled("disk", json!({"disk": ""})),
        labelled("gpu", json!({"gpu": ""})),
        labelled("none", json!({})),
    ];
    check(node_affinity::score, &prefers, &nodes, Some(&[100, 75, 25, 0]));
    check(node_affinity::score, &prefers, &nodes[3..], Some(&[0]));
    check(node_affinity::score, &info("p", json!({})), &nodes, None);
}

#[test]
fn fewer_untolerated_soft_taints_are_better() {
    let tainted = |name: &str, keys: &[&str], effect: &str| {
        let taints: Vec<Value> = keys.iter().map(|key| json!({"key": key, "effect": effect})).collect();
        NodeInfo::new(node(name, json!({"taints": taints}), json!({})))
    };
    let soft = "PreferNoSchedule";
    let nodes = [
        tainted("none", &[], soft),
        tainted("one", &["a"], soft),
        tainted("two", &["a", "b"], soft),
        tainted("hard", &["a", "b", "c"], "NoSchedule"),
    ];
    check(taints::score, &info("p", json!({})), &nodes, Some(&[100, 50, 0, 100]));
    let tolerant = info("p", json!({"tolerations": [{"key": "a", "operator": "Exists"}]}));
    check(taints::score, &tolerant, &nodes, Some(&[100, 100, 0, 100]));
    // Where no node has any there is nothing to say.
    check(taints::score, &info("p", json!({})), &nodes[..1], None);
    check(taints::score, &tolerant, &nodes[..2], None);
}

#[test]
fn a_controllers_pods_are_spread() {
    let owned = |name: &str, controller: &str| {
        let mut pod = crate::testing::pod(name, json!({}));
        pod.metadata.owner_references = serde_json::from_value(json!([
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": controller, "controller": true}]))
        .unwrap();
        PodInfo::new(Arc::new(pod))
    };
    let holding = |controllers: &[&str]| {
        let mut on = NodeInfo::new(node("n", json!({}), json!({})));
        for (index, controller) in controllers.iter().enumerate() {
            on.add_pod(Arc::new(owned(&format!("p{index}"), controller)));
        }
        on
    };
    let nodes = [holding(&["r", "r", "r", "r"]), holding(&["r", "other"]), holding(&["other"])];
    check(spread::score, &owned("new", "r"), &nodes, Some(&[0, 75, 100]));
    check(spread::score, &owned("new", "first"), &nodes, None);
    check(spread::score, &info("p", json!({})), &nodes, None);
}

#[test]
fn totals_are_weighted_sums() {
    // Soft taints weigh 3, preferred terms and spreading 2, everything else 1.
    let pod = info(
        "p",
        json!({"containers": [{"name": "c", "image": "web", "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}),
    );
    let plain = NodeInfo::new(node("plain", json!({}), json!({})));
    let disk = NodeInfo::new(node("disk", json!({}), json!({"disk": ""})));
    let taint = json!({"taints": [{"key": "a", "effect": "PreferNoSchedule"}]});
    let tainted = NodeInfo::new(node("tainted", taint, json!({})));
    // Each has half of both left, in balance.
    assert_eq!(totals(&pod, &[&plain, &disk]), [150, 350]);
    assert_eq!(totals(&pod, &[&plain, &disk, &tainted]), [450, 650, 150]);
}
