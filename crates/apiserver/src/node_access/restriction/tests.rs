//! What an agent may write, as single writes and what is said of them.

use serde_json::json;

use super::*;

fn said(group: &str, plural: &str, subresource: &str, old: Option<Value>, new: Option<Value>) -> String {
    let row = find(group, plural).expect("served");
    let write = Written { row, subresource, old: old.as_ref(), new: new.as_ref() };
    let object = || Some(json!({"metadata": {"uid": "u"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}}));
    let pods = "10.244.0.0/16".parse().expect("a range");
    let place = place::Known {
        pods,
        services: "10.96.0.0/16".parse().expect("a range"),
        api: Ipv4Addr::new(10, 0, 0, 1),
        has_api: false,
        comes_from: &Vec::new,
        holder: &|_| None,
    };
    fault(&Own { name: "a", object: &object, pods, place: &place }, &write).unwrap_or_default()
}

fn pod(node: &str) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": []}})
}

#[test]
fn an_agent_writes_status_of_and_deletes_its_own_pods() {
    assert_eq!(said("", "pods", "status", Some(pod("a")), Some(pod("a"))), "");
    assert_eq!(
        said("", "pods", "status", Some(pod("b")), Some(pod("b"))),
        r#"node "a" can only update pod status for pods with spec.nodeName set to itself"#
    );
    assert_eq!(said("", "pods", "", Some(pod("a")), None), "");
    assert_eq!(
        said("", "pods", "", Some(pod("b")), None),
        r#"node "a" can only delete pods with spec.nodeName set to itself"#
    );
    assert_eq!(
        said("", "pods", "eviction", Some(pod("b")), None),
        "node a can only evict pods with spec.nodeName set to itself"
    );
    let mut labelled = pod("a");
    labelled["metadata"]["labels"] = json!({"x": "y"});
    assert_eq!(
        said("", "pods", "status", Some(pod("a")), Some(labelled)),
        r#"node "a" cannot update labels through pod status"#
    );
    assert!(said("", "pods", "binding", None, Some(pod("a"))).starts_with("unexpected pod subresource"));
}

#[test]
fn an_agent_gives_its_pods_addresses_of_its_own_range() {
    let at = |status: Value, host: bool| {
        let mut pod = pod("a");
        pod["status"] = status;
        pod["spec"]["hostNetwork"] = host.into();
        pod
    };
    let said =
        |old: Value, new: Value| said("", "pods", "status", Some(at(old, false)), Some(at(new, false)));
    let one = |ip: &str| json!({"podIP": ip, "podIPs": [{"ip": ip}]});
    assert_eq!(said(json!({}), one("10.244.1.7")), "");
    assert_eq!(said(json!({}), json!({"podIP": ""})), "");
    let foreign = |ip: &str| format!("node \"a\" can only report pod addresses of its own range, not {ip}");
    for ip in ["10.244.2.7", "10.96.0.1", "127.0.0.1", "::ffff:10.244.1.7", "fd00::1", "nothing"] {
        assert_eq!(said(json!({}), one(ip)), foreign(ip));
        assert_eq!(said(one("10.244.1.7"), one(ip)), foreign(ip));
        // In the one field or the other.
        assert_eq!(
            said(one("10.244.1.7"), json!({"podIP": ip, "podIPs": [{"ip": "10.244.1.7"}]})),
            foreign(ip)
        );
        assert_eq!(
            said(one("10.244.1.7"), json!({"podIPs": [{"ip": "10.244.1.7"}, {"ip": ip}]})),
            foreign(ip)
        );
        assert_eq!(said(one(ip), one(ip)), "", "what stands already it need not know");
    }
    let (old, new) = (at(json!({}), true), at(one("192.0.2.1"), true));
    assert_eq!(super::tests::said("", "pods", "status", Some(old), Some(new)), "", "the node's own address");
}

#[test]
fn claims_of_its_pods_are_not_an_agents_to_report() {
    let with = |field: &str, value: Value| {
        let mut pod = pod("a");
        pod["status"][field] = value;
        Some(pod)
    };
    for (field, words) in [
        ("resourceClaimStatuses", "resource claim statues"),
        ("extendedResourceClaimStatus", "extended resource claim status"),
    ] {
        let claims = || json!([{"name": "c", "resourceClaimName": "x"}]);
        let refused = format!("node \"a\" cannot update {words}");
        assert_eq!(said("", "pods", "status", with(field, Value::Null), with(field, claims())), refused);
        assert_eq!(said("", "pods", "status", with(field, claims()), with(field, json!([]))), refused);
        assert_eq!(said("", "pods", "status", with(field, claims()), with(field, claims())), "");
    }
}

#[test]
fn a_node_takes_no_pod_range_beside_the_clusters() {
    let with = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
    let said = |old: Option<Value>, new: Value| said("", "nodes", "", old.map(with), Some(with(new)));
    assert_eq!(said(None, json!({"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]})), "");
    for range in ["10.96.0.0/16", "0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24", "fd00::/64"] {
        let refused =
            format!("node \"a\" is not allowed to take the pod range {range}, which is not of 10.244.0.0/16");
        assert_eq!(said(None, json!({"podCIDR": range})), refused);
        assert_eq!(said(Some(json!({})), json!({"podCIDRs": [range]})), refused);
        let present = json!({"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]});
        let mut both = present.clone();
        both["podCIDR"] = range.into();
        assert_eq!(said(Some(present), both), refused);
        assert_eq!(said(Some(json!({"podCIDR": range})), json!({"podCIDR": range})), "", "as it was given");
    }
}

#[test]
fn an_agent_makes_only_mirrors_of_its_own() {
    let said = |pod: &Value| said("", "pods", "", None, Some(pod.clone()));
    let mut mirror = pod("a");
    assert_eq!(
        said(&mirror),
        "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only create mirror \
         pods"
    );
    mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
    assert_eq!(said(&mirror), r#"node "a" can only create pods with an owner reference set to itself"#);
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
    mirror["metadata"]["ownerReferences"] = json!([owner]);
    assert_eq!(said(&mirror), "");
    mirror["metadata"]["ownerReferences"][0]["uid"] = "v".into();
    assert_eq!(said(&mirror), "node a UID mismatch: expected u got v");
    mirror["metadata"]["ownerReferences"][0] = owner;
    mirror["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    assert_eq!(said(&mirror), r#"node "a" can not create pods that reference secrets"#);
    mirror["spec"]["nodeName"] = "b".into();
    assert_eq!(said(&mirror), r#"node "a" can only create pods with spec.nodeName set to itself"#);
}

fn node(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {}})
}

#[test]
fn an_agent_writes_its_own_node_alone() {
    let (own, other) = (node("a", json!({})), node("b", json!({})));
    assert_eq!(said("", "nodes", "", None, Some(own.clone())), "");
    let why = r#"node "a" is not allowed to modify node "b""#;
    assert_eq!(said("", "nodes", "", None, Some(other.clone())), why);
    assert_eq!(said("", "nodes", "status", Some(other.clone()), Some(other)), why);
    let mut tainted = own.clone();
    tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    assert_eq!(said("", "nodes", "", None, Some(tainted.clone())), "", "it may come with taints");
    assert_eq!(
        said("", "nodes", "", Some(tainted), Some(own)),
        r#"node "a" is not allowed to modify taints"#
    );
}

#[test]
fn no_label_that_others_trust_is_the_agents_to_set() {
    let own = node("a", json!({"kubernetes.io/hostname": "a", "x": "y", "node.kubernetes.io/speed": "1"}));
    assert_eq!(said("", "nodes", "", None, Some(own.clone())), "");
    let trusted = node(
        "a",
        json!({
            "node-restriction.kubernetes.io/team": "x", "my.node-restriction.kubernetes.io/team": "x",
            "node-role.kubernetes.io/control-plane": "", "x.k8s.io/y": "",
        }),
    );
    assert_eq!(
        said("", "nodes", "", None, Some(trusted.clone())),
        "node \"a\" is not allowed to set the following labels: my.node-restriction.kubernetes.io/team, \
         node-restriction.kubernetes.io/team, node-role.kubernetes.io/control-plane, x.k8s.io/y"
    );
    let said = said("", "nodes", "", Some(trusted), Some(own));
    assert!(said.starts_with("is not allowed to modify labels: "), "nor to remove: {said}");
}

#[test]
fn an_agent_has_one_lease() {
    let lease =
        |namespace: &str, name: &str| Some(json!({"metadata": {"namespace": namespace, "name": name}}));
    let said = |new| said("coordination.k8s.io", "leases", "", None, new);
    assert_eq!(said(lease("kube-node-lease", "a")), "");
    assert_eq!(
        said(lease("kube-node-lease", "b")),
        "can only access node lease with the same name as the requesting node"
    );
    assert_eq!(
        said(lease("default", "a")),
        "can only access leases in the \"kube-node-lease\" system namespace"
    );
}

#[test]
fn a_mirrors_owner_is_its_node_and_nothing_else() {
    let said = |owners: Value| {
        let mut mirror = pod("a");
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        mirror["metadata"]["ownerReferences"] = owners;
        said("", "pods", "", None, Some(mirror))
    };
    let owner = |field: &str, value: Value| {
        let mut owner =
            json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
        owner[field] = value;
        owner
    };
    let itself = r#"node "a" can only create pods with an owner reference set to itself"#;
    assert_eq!(said(json!([])), itself);
    for (field, value) in [("apiVersion", "v2"), ("kind", "Pod"), ("name", "b")] {
        assert_eq!(said(json!([owner(field, value.into())])), itself, "{field}");
    }
    let good = owner("blockOwnerDeletion", false.into());
    assert_eq!(said(json!([good])), "");
    assert_eq!(
        said(json!([good, good])),
        r#"node "a" can only create pods with a single owner reference set to itself"#
    );
    assert_eq!(
        said(json!([owner("controller", false.into())])),
        r#"node "a" can only create pods with a controller owner reference set to itself"#
    );
    assert_eq!(
        said(json!([owner("blockOwnerDeletion", true.into())])),
        r#"node "a" must not set blockOwnerDeletion on an owner reference"#
    );
}

#[test]
fn a_mirror_needs_nothing_of_the_api() {
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
    let said = |field: &str, value: Value| {
        let mut mirror = pod("a");
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        mirror["metadata"]["ownerReferences"] = json!([owner]);
        mirror["spec"][field] = value;
        said("", "pods", "", None, Some(mirror))
    };
    assert_eq!(said("hostname", "h".into()), "");
    for (field, value, what) in [
        ("serviceAccountName", json!("s"), "a service account"),
        ("resourceClaims", json!([{"name": "c", "resourceClaimName": "x"}]), "resourceclaims"),
        (
            "volumes",
            json!([{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}]),
            "clustertrustbundles",
        ),
        ("volumes", json!([{"name": "v", "ephemeral": {}}]), "persistentvolumeclaims"),
        ("volumes", json!([{"name": "v", "configMap": {"name": "c"}}]), "configmaps"),
        (
            "volumes",
            json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
            "persistentvolumeclaims",
        ),
    ] {
        assert_eq!(said(field, value), format!("node \"a\" can not create pods that reference {what}"));
    }
}

#[test]
fn what_of_its_pods_an_agent_writes() {
    assert_eq!(said("", "pods", "eviction", Some(pod("a")), None), "");
    assert_eq!(
        said("", "pods", "", Some(pod("a")), Some(pod("a"))),
        "unexpected operation \"UPDATE\", node \"a\" can only create and delete mirror pods"
    );
    // Elsewhere others decide.
    assert_eq!(said("", "services", "", None, Some(json!({"metadata": {"name": "s"}}))), "");
}

#[test]
fn an_agent_gives_its_node_no_new_owners() {
    let owned = |names: &[&str]| {
        let owners: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        let mut node = node("a", json!({}));
        node["metadata"]["ownerReferences"] = json!(owners);
        node
    };
    let said = |old: &[&str], new: &[&str]| said("", "nodes", "", Some(owned(old)), Some(owned(new)));
    let why = r#"node "a" is not allowed to modify ownerReferences"#;
    assert_eq!(said(&[], &["x"]), why);
    assert_eq!(said(&["x"], &["y"]), why);
    assert_eq!(said(&["x"], &["x"]), "");
    assert_eq!(said(&["x"], &[]), "", "they may go");
}

#[test]
fn labels_are_forbidden_by_their_domain() {
    for (label, expected) in [
        ("x", false),
        ("example.com/x", false),
        ("kubernetes.io/os", false),
        ("kubernetes.io/x", true),
        ("a.kubernetes.io/x", true),
        ("notkubernetes.io/x", false),
        ("k8s.io/x", true),
        ("a.k8s.io/x", true),
        ("ak8s.io/x", false),
        ("kubelet.kubernetes.io/x", false),
        ("a.kubelet.kubernetes.io/x", false),
        ("node.kubernetes.io/x", false),
        ("xnode.kubernetes.io/x", true),
        ("node-restriction.kubernetes.io/x", true),
        ("topology.kubernetes.io/zone", false),
        ("topology.kubernetes.io/rack", true),
    ] {
        assert_eq!(is_forbidden(label), expected, "{label}");
    }
    // What stays as it is nobody sets.
    let trusted = || node("a", json!({"node-restriction.kubernetes.io/team": "x"}));
    assert_eq!(said("", "nodes", "", Some(trusted()), Some(trusted())), "");
    let other = node("a", json!({"node-restriction.kubernetes.io/team": "y"}));
    assert_eq!(
        said("", "nodes", "", Some(trusted()), Some(other)),
        "is not allowed to modify labels: node-restriction.kubernetes.io/team"
    );
}

#[test]
fn a_token_is_for_one_audience_that_a_volume_of_the_pod_names() {
    let pod = |audiences: &[Option<&str>]| -> PodSpec {
        let sources: Vec<Value> = audiences
            .iter()
            .map(|audience| json!({"serviceAccountToken": {"path": "t", "audience": audience}}))
            .collect();
        let volumes =
            json!([{"name": "e", "emptyDir": {}}, {"name": "v", "projected": {"sources": sources}}]);
        serde_json::from_value(json!({"containers": [], "volumes": volumes})).expect("a specification")
    };
    let vault = pod(&[Some("vault")]);
    assert_eq!(unasked_audience(&json!(["vault"]), &vault), Ok(()));
    assert_eq!(unasked_audience(&json!(["other"]), &vault), Err(Some("other")));
    assert_eq!(unasked_audience(&json!([]), &vault), Err(Some("")));
    assert_eq!(unasked_audience(&Value::Null, &vault), Err(Some("")));
    assert_eq!(unasked_audience(&json!(["vault", "vault"]), &vault), Err(None));
    for own in [pod(&[None]), pod(&[Some("vault"), Some("")])] {
        assert_eq!(unasked_audience(&json!([]), &own), Ok(()));
        assert_eq!(unasked_audience(&json!([""]), &own), Ok(()));
    }
    assert_eq!(unasked_audience(&json!([""]), &PodSpec::default()), Err(Some("")));
}
