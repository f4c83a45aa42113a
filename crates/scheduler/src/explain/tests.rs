//! For every filter a pod that fails it: what is said, and what would let the pod in.

use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use skiff_explain::pending::PendingExplanation;

use super::explain;
use crate::snapshot::Snapshot;
use crate::testing::{info, node, pod, three_nodes};
use crate::verdicts::Verdicts;

fn place(snapshot: &mut Snapshot, name: &str, spec: Value, on: &str) {
    snapshot.place(Arc::new(info(name, spec)), on);
}

fn told(snapshot: &Snapshot, spec: Value) -> PendingExplanation {
    explain(snapshot, &Verdicts::default(), Arc::new(pod("p", spec)))
}

/// The refusals on each node, and the change.
fn check(snapshot: &Snapshot, spec: Value, expected: Expect) {
    let told = told(snapshot, spec);
    let mut text = format!("{}\n", told.summary);
    for node in &told.nodes {
        for filter in node.filters.iter().filter(|filter| !filter.passes) {
            text += &format!("{}: {}: {}\n", node.node, filter.filter, filter.compared);
            for used in &filter.used_by {
                text += &format!("  {} takes {}\n", used.pod, used.amount);
            }
        }
    }
    match &told.smallest_change {
        Some(change) => {
            text += &format!("{} on {}: {}\n{}\n", change.of, change.node, change.text, change.how)
        }
        None => text += "no change\n",
    }
    if let Some(preemption) = &told.preemption {
        let victims = preemption.victims.join(" ");
        text += &format!("considered {}: {} {victims}", preemption.considered, preemption.why);
    }
    expected.assert_eq(&format!("{}\n", text.trim_end()));
}

#[test]
fn a_taint() {
    let mut snapshot = Snapshot::default();
    let taint = json!({"taints": [{"key": "for", "value": "db", "effect": "NoSchedule"}]});
    snapshot.set_node(node("n", taint, json!({})));
    check(
        &snapshot,
        json!({}),
        expect![[r#"
            it waits for a node; the one node refuses it
            n: TaintToleration: taint for=db:NoSchedule is not tolerated; this toleration would do: {key: for, value: db, effect: NoSchedule}
            pod on n: let the pod tolerate taint for=db:NoSchedule
            kubectl -n default patch pod p --type=json -p '[{"op":"add","path":"/spec/tolerations","value":[{"effect":"NoSchedule","key":"for","value":"db"}]}]'
            considered true: 0/1 nodes are available: 1 Preemption is not helpful for scheduling
        "#]],
    );
}

#[test]
fn several_taints_of_a_node_are_tolerated_together() {
    let mut snapshot = Snapshot::default();
    let taints = json!({"taints": [{"key": "for", "value": "db", "effect": "NoSchedule"}, {"key": "old", "effect": "NoExecute"}]});
    snapshot.set_node(node("n", taints, json!({})));
    let change = told(&snapshot, json!({})).smallest_change.unwrap();
    assert_eq!(change.text, "let the pod tolerate taints for=db:NoSchedule and old:NoExecute");
    // One that has tolerations already keeps them.
    let own = json!({"tolerations": [{"key": "for", "operator": "Exists"}]});
    let change = told(&snapshot, own).smallest_change.unwrap();
    assert_eq!(change.text, "let the pod tolerate taint old:NoExecute");
    assert!(change.how.contains(r#""path":"/spec/tolerations/-""#), "{}", change.how);
}

#[test]
fn of_several_tainted_nodes_a_well_one_is_chosen() {
    let mut snapshot = Snapshot::default();
    let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
    snapshot.set_node(node("a", taint("node.kubernetes.io/not-ready"), json!({})));
    snapshot.set_node(node("b", taint("for-b"), json!({})));
    snapshot.set_node(node("c", taint("for-c"), json!({})));
    let told = told(&snapshot, json!({}));
    let texts: Vec<&str> = told
        .nodes
        .iter()
        .filter_map(|node| node.change.as_ref())
        .map(|change| change.text.as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "let the pod tolerate taint node.kubernetes.io/not-ready:NoSchedule",
            "let the pod tolerate taint for-b:NoSchedule",
            "let the pod tolerate taint for-c:NoSchedule"
        ]
    );
    assert_eq!(told.smallest_change.unwrap().node, "b");
}

#[test]
fn a_port_that_is_held() {
    let mut snapshot = three_nodes();
    let port = json!({"containers": [{"name": "main", "ports": [{"containerPort": 8080, "hostPort": 8080, "protocol": "TCP"}]}]});
    place(&mut snapshot, "one", port.clone(), "w1");
    place(&mut snapshot, "two", port.clone(), "w2");
    check(
        &snapshot,
        port,
        expect![[r#"
            it waits for a node; all 3 nodes refuse it
            cp: TaintToleration: taint node-role.kubernetes.io/control-plane:NoSchedule is not tolerated; this toleration would do: {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
            w1: NodePorts: 0.0.0.0:8080/TCP is held by pod default/one (on 0.0.0.0)
            w2: NodePorts: 0.0.0.0:8080/TCP is held by pod default/two (on 0.0.0.0)
            pod on cp: let the pod tolerate taint node-role.kubernetes.io/control-plane:NoSchedule
            kubectl -n default patch pod p --type=json -p '[{"op":"add","path":"/spec/tolerations","value":[{"effect":"NoSchedule","key":"node-role.kubernetes.io/control-plane","operator":"Exists"}]}]'
            considered true: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod
        "#]],
    );
}

#[test]
fn what_is_asked_and_what_is_free() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({})));
    let asks = |cpu: &str| json!({"priority": 5, "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]});
    place(&mut snapshot, "big", asks("3"), "n");
    place(&mut snapshot, "small", asks("500m"), "n");
    check(
        &snapshot,
        asks("2"),
        expect![[r#"
            it waits for a node; the one node refuses it
            n: NodeResourcesFit: cpu: asks 2, free 500m of 4; memory: asks 1Gi, free 6Gi of 8Gi; pods: 2 of 110
              default/big takes 3 of cpu
              default/small takes 500m of cpu
            pod on n: let container main ask for 500m of cpu
            kubectl -n default patch pod p --type=json -p '[{"op":"replace","path":"/spec/containers/0/resources/requests/cpu","value":"500m"}]' --dry-run=client -o json | kubectl -n default replace --force -f -
            considered true: 0/1 nodes are available: 1 No preemption victims found for incoming pod
        "#]],
    );
}

#[test]
fn lower_pods_would_end() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({})));
    let asks = |priority: i32| json!({"priority": priority, "containers": [{"name": "main", "resources": {"requests": {"cpu": "3"}}}]});
    place(&mut snapshot, "low", asks(1), "n");
    let told = told(&snapshot, asks(9));
    let preemption = told.preemption.unwrap();
    assert!(preemption.considered);
    assert_eq!(preemption.victims, ["default/low"]);
}

#[test]
fn labels_that_the_node_lacks() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({"disk": "hdd"})));
    check(
        &snapshot,
        json!({"nodeSelector": {"disk": "ssd"}}),
        expect![[r#"
            it waits for a node; the one node refuses it
            n: NodeAffinity: label disk must be "ssd", the node has "hdd"
            node on n: label n with disk=ssd
            kubectl label node n --overwrite disk=ssd
            considered true: 0/1 nodes are available: 1 Preemption is not helpful for scheduling
        "#]],
    );
    let zone = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]);
    check(
        &snapshot,
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zone}}}}),
        expect![[r#"
            it waits for a node; the one node refuses it
            n: NodeAffinity: zone must be one of "a", "b", the node has none
            node on n: label n with zone=a
            kubectl label node n --overwrite zone=a
            considered true: 0/1 nodes are available: 1 Preemption is not helpful for scheduling
        "#]],
    );
}

#[test]
fn a_cordoned_node() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({"unschedulable": true}), json!({})));
    check(
        &snapshot,
        json!({}),
        expect![[r#"
            it waits for a node; the one node refuses it
            n: NodeUnschedulable: the node is cordoned; a toleration of node.kubernetes.io/unschedulable:NoSchedule would do
            node on n: uncordon n
            kubectl uncordon n
            considered true: 0/1 nodes are available: 1 Preemption is not helpful for scheduling
        "#]],
    );
}

#[test]
fn other_pods() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({"kubernetes.io/hostname": "n"})));
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}]}}});
    place(&mut snapshot, "here", json!({}), "n");
    let told_apart = told(&snapshot, apart);
    let change = told_apart.smallest_change.unwrap();
    assert_eq!((change.text.as_str(), change.checked), ("drop the pod's podAntiAffinity", true));
    let compared = &told_apart.nodes[0].filters.iter().find(|filter| !filter.passes).unwrap().compared;
    assert_eq!(
        compared,
        "it wants to be apart from all pods, and pod default/here is at kubernetes.io/hostname=n"
    );
    let shy = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}]}}});
    let mut alone = Snapshot::default();
    alone.set_node(node("n", json!({}), json!({"kubernetes.io/hostname": "n"})));
    place(&mut alone, "shy", shy, "n");
    let shunned = told(&alone, json!({}));
    let compared = |told: &PendingExplanation| {
        let mut filters = told.nodes[0].filters.iter();
        filters.find(|filter| !filter.passes).unwrap().compared.clone()
    };
    assert_eq!(
        compared(&shunned),
        "pod default/shy is at kubernetes.io/hostname=n and wants to be apart from all pods, as this one is"
    );
    assert_eq!(shunned.smallest_change.unwrap().of, "cluster");
    let together = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "absent"}}}]}}});
    let told_together = told(&snapshot, together);
    assert_eq!(
        compared(&told_together),
        "it wants to be with pods with app=absent, and none is at kubernetes.io/hostname=n"
    );
    let change = told_together.smallest_change.unwrap();
    assert_eq!(change.text, "drop the pod's podAffinity");
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]});
    let change = told(&snapshot, spread).smallest_change.unwrap();
    assert_eq!(change.text, "label n with zone=a");
}

#[test]
fn two_faults_have_no_single_cure() {
    let mut snapshot = Snapshot::default();
    let taint = json!({"taints": [{"key": "for", "effect": "NoSchedule"}]});
    snapshot.set_node(node("n", taint, json!({})));
    let told = told(&snapshot, json!({"nodeSelector": {"disk": "ssd"}}));
    assert_eq!(told.smallest_change, None);
    assert_eq!(told.nodes[0].filters.iter().filter(|filter| !filter.passes).count(), 2);
}

#[test]
fn a_pod_that_fits_waits_for_the_scheduler_alone() {
    let told = told(&three_nodes(), json!({}));
    assert_eq!(told.summary, "2 of 3 nodes take it; the scheduler has yet to try it again");
    assert_eq!((told.smallest_change, told.preemption), (None, None));
}

#[test]
fn a_preemption_that_is_under_way_is_told_as_done() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({})));
    let asks = |priority: i32, cpu: &str| json!({"priority": priority, "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]});
    let mut victim = pod("victim", asks(1, "3"));
    victim.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    snapshot.place(Arc::new(crate::snapshot::PodInfo::new(Arc::new(victim.clone()))), "n");
    snapshot.nominate(Arc::new(info("p", asks(9, "2"))), "n");
    let by_hand = told(&snapshot, asks(9, "2")).preemption.unwrap();
    assert!(!by_hand.why.starts_with("it was done"), "that one ends was not for it: {by_hand:?}");
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
    victim.status = serde_json::from_value(json!({"conditions": [condition]})).unwrap();
    snapshot.place(Arc::new(crate::snapshot::PodInfo::new(Arc::new(victim))), "n");
    let told = told(&snapshot, asks(9, "2"));
    assert_eq!(
        told.summary,
        "it goes to n as soon as it fits there; pod default/victim of lower priority ends"
    );
    let preemption = told.preemption.unwrap();
    assert!(preemption.considered && preemption.why.starts_with("it was done: "), "{preemption:?}");
    assert_eq!(preemption.victims, ["default/victim"]);
    // Another pod is told that what takes its room is not there yet.
    let other = explain(&snapshot, &Verdicts::default(), Arc::new(pod("other", asks(5, "2"))));
    let fit = other.nodes[0].filters.iter().find(|filter| !filter.passes).unwrap();
    assert_eq!(
        fit.compared,
        "cpu: asks 2, free -1 of 4; pods: 2 of 110; counted in: 1 pod that will come here once others have ended"
    );
    assert_eq!(fit.used_by[1].pod, "default/p");
    assert_eq!(fit.used_by[1].amount, "2 of cpu, not there yet: it is nominated to this node");
}

#[test]
fn labels_of_the_kubelet_are_never_offered() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("w1", json!({}), json!({"kubernetes.io/hostname": "w1"})));
    for label in ["kubernetes.io/hostname", "kubernetes.io/arch", "topology.kubernetes.io/zone"] {
        let change = told(&snapshot, json!({"nodeSelector": {label: "w2"}})).smallest_change.unwrap();
        assert_eq!(
            (change.of.as_str(), change.text.as_str()),
            ("pod", "let the pod select no nodes"),
            "{label}"
        );
    }
    let role = json!({"nodeSelector": {"node-role.kubernetes.io/db": ""}});
    let change = told(&snapshot, role).smallest_change.unwrap();
    assert_eq!(change.of, "node", "those that people write are");
}

fn ports(ports: Value) -> Value {
    json!({"containers": [{"name": "main", "ports": ports}]})
}

fn held(protocol: &str, number: i32, ip: &str) -> Value {
    json!({"containerPort": number, "hostPort": number, "protocol": protocol, "hostIP": ip})
}

#[test]
fn a_port_that_is_held_moves_to_the_next_free_one() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({})));
    let others = json!([held("TCP", 8080, ""), held("TCP", 8081, ""), held("UDP", 8083, "")]);
    place(&mut snapshot, "one", ports(others), "n");
    let own =
        [held("TCP", 8080, ""), held("TCP", 8082, ""), held("UDP", 8080, ""), held("TCP", 9, "10.0.0.1")];
    let change = |spec: Value| told(&snapshot, spec).smallest_change.unwrap();
    let moved = change(ports(own.clone().into()));
    assert_eq!(
        (moved.of.as_str(), moved.text.as_str()),
        ("pod", "let the pod take host port 8083 in place of 8080")
    );
    let edit = r#"'[{"op":"replace","path":"/spec/containers/0/ports/0/hostPort","value":8083}]'"#;
    assert!(moved.how.contains(edit), "{}", moved.how);
    // In the node's network the container's port is the same one.
    let mut on_node = ports(own.into());
    on_node["hostNetwork"] = true.into();
    let moved = change(on_node);
    assert!(moved.text.ends_with("8083 in place of 8080, and its program listen there"), "{}", moved.text);
    assert!(moved.how.contains(r#""path":"/spec/containers/0/ports/0/containerPort""#), "{}", moved.how);
    // Two that clash have no single cure but the other pod's end.
    let two = ports(json!([held("TCP", 8080, ""), held("TCP", 8081, "")]));
    assert_eq!(change(two).text, "end pod default/one");
}

#[test]
fn a_requirement_is_fulfilled_by_one_label() {
    let fulfilment = |operator: &str, values: &[&str]| {
        let own = json!({"key": "k", "operator": operator, "values": values});
        super::change::fulfilment(&serde_json::from_value(own).unwrap())
    };
    let label = |value: Option<&str>| Some(("k".to_owned(), value.map(str::to_owned)));
    assert_eq!(fulfilment("In", &["a", "b"]), label(Some("a")));
    assert_eq!(fulfilment("In", &[]), None);
    assert_eq!(fulfilment("Exists", &[]), label(Some("")));
    assert_eq!(fulfilment("NotIn", &["a"]), label(None));
    assert_eq!(fulfilment("DoesNotExist", &[]), label(None));
    assert_eq!(fulfilment("Gt", &["7"]), label(Some("8")));
    assert_eq!(fulfilment("Lt", &["7"]), label(Some("6")));
    assert_eq!(fulfilment("Gt", &["x"]), None);
}

#[test]
fn amounts_are_shown_as_manifests_write_them() {
    for (name, value, text) in [
        ("cpu", 2_000, "2"),
        ("cpu", 1_500, "1500m"),
        ("memory", 0, "0"),
        ("memory", 3 << 30, "3Gi"),
        ("memory", 3 << 20, "3Mi"),
        ("memory", 3 << 10, "3Ki"),
        ("ephemeral-storage", 1_000, "1000"),
        ("example.com/device", 1 << 30, "1073741824"),
    ] {
        assert_eq!(super::compared::shown(name, value), text, "{name} {value}");
    }
}

#[test]
fn users_of_what_lacks_are_named_and_nobody_else() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({})));
    let asks =
        |requests: Value| json!({"containers": [{"name": "main", "resources": {"requests": requests}}]});
    place(&mut snapshot, "cpus", asks(json!({"cpu": "3"})), "n");
    place(&mut snapshot, "memory", asks(json!({"memory": "6Gi"})), "n");
    place(&mut snapshot, "nothing", json!({}), "n");
    let used = |requests: Value| {
        let told = told(&snapshot, asks(requests));
        let users = told.nodes[0].filters.iter().flat_map(|filter| filter.used_by.clone());
        users.map(|user| user.pod).collect::<Vec<_>>()
    };
    // All that is free is not too much.
    assert_eq!(used(json!({"cpu": "1", "memory": "3Gi"})), ["default/memory"]);
    assert_eq!(used(json!({"cpu": "2", "memory": "2Gi"})), ["default/cpus"]);
    assert_eq!(used(json!({"cpu": "1", "memory": "2Gi"})), Vec::<String>::new());
}

#[test]
fn a_pods_own_verdict_is_told_and_not_its_predecessors() {
    let verdicts = Verdicts::default();
    let verdict = |uid: &str| crate::verdicts::Verdict {
        pod_uid: uid.into(),
        node: None,
        message: Some("0/3 nodes are available".into()),
        refused: Vec::new(),
    };
    let key = skiff_client::ObjectKey::new("default", "p");
    let message = |verdicts: &Verdicts| {
        explain(&three_nodes(), verdicts, Arc::new(pod("p", json!({"nodeSelector": {"x": "y"}})))).message
    };
    verdicts.put(&key, verdict("before"));
    assert_eq!(message(&verdicts), "");
    verdicts.put(&key, verdict("p"));
    assert_eq!(message(&verdicts), "0/3 nodes are available");
}

/// The smallest change alone.
fn change_of(snapshot: &Snapshot, spec: Value) -> String {
    let change = told(snapshot, spec).smallest_change;
    change.map_or_else(|| "none".to_owned(), |change| format!("{}: {}", change.of, change.text))
}

#[test]
fn less_is_asked_of_whoever_asks_for_it() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({})));
    let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let spec = json!({
        "initContainers": [{"name": "i", "image": "x", "resources": asks("50")}],
        "containers": [{"name": "c", "image": "x", "resources": asks("10m")}],
    });
    assert_eq!(change_of(&snapshot, spec), "pod: let init container i ask for 4 of cpu");
    let spec = json!({
        "resources": asks("50"),
        "containers": [{"name": "c", "image": "x", "resources": asks("10m")}],
    });
    assert_eq!(change_of(&snapshot, spec), "pod: let the pod as a whole ask for 4 of cpu");
}

#[test]
fn no_more_is_taken_from_a_pods_choice_than_is_needed() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("n", json!({}), json!({"team": "a"})));
    let spec = json!({"nodeSelector": {"kubernetes.io/hostname": "gone", "team": "a"}});
    assert_eq!(change_of(&snapshot, spec), "pod: let the pod not select nodes by kubernetes.io/hostname");
    let arch = json!([{"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["riscv64"]}]}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": arch}}});
    let spec = json!({"nodeSelector": {"team": "a"}, "affinity": affinity});
    assert_eq!(change_of(&snapshot, spec), "pod: drop the pod's nodeAffinity");
    // A label of the node is less than a pod made anew.
    let spread = json!([{"maxSkew": 1, "topologyKey": "nozone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "p"}}}]);
    assert_eq!(
        change_of(&snapshot, json!({"topologySpreadConstraints": spread})),
        "node: label n with nozone=a"
    );
}

#[test]
fn a_cordon_goes_with_its_taint_alone() {
    let change = |taints: Value| {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("n", json!({"unschedulable": true, "taints": taints}), json!({})));
        told(&snapshot, json!({})).smallest_change.map(|change| change.text)
    };
    let own = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    assert_eq!(change(json!([own])).as_deref(), Some("uncordon n"));
    let both = change(json!([own, {"key": "for", "effect": "NoSchedule"}])).unwrap_or_default();
    assert!(both.starts_with("let the pod tolerate taints"), "the other one would stay: {both}");
}

#[test]
fn what_passes_is_told_too() {
    let told = told(&three_nodes(), json!({}));
    let compared = |name: &str| {
        let of = told.nodes[1].filters.iter().find(|filter| filter.filter == name).unwrap();
        assert!(of.passes && of.used_by.is_empty(), "{name}");
        of.compared.clone()
    };
    assert_eq!(compared("NodeName"), "the pod names no node");
    assert_eq!(compared("PodTopologySpread"), "the pod has no spread constraints");
    assert_eq!(compared("InterPodAffinity"), "the pod has no terms of affinity or anti-affinity");
}
