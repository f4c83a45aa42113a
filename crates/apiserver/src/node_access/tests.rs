//! What a node may reach, by what its pods refer to.

use super::*;
use crate::rbac::policy::node_rules;

/// What node `a`, whose only pod `p` in namespace `n` names all that is called `own`, hears.
fn said(verb: &str, resource: &str, namespace: &str, name: &str) -> String {
    asked(&Attributes { verb, namespace, name, ..of(resource) })
}

/// `resource.group/subresource`.
fn of(text: &str) -> Attributes<'_> {
    let (main, subresource) = text.split_once('/').unwrap_or((text, ""));
    let (resource, group) = main.split_once('.').unwrap_or((main, ""));
    Attributes { group, resource, subresource, ..Attributes::default() }
}

fn asked(what: &Attributes<'_>) -> String {
    let answer = opinion("a", &node_rules(), what, |vertex| match (vertex, what.namespace, what.name) {
        (Vertex::Pod, "n", "p") | (_, "n", "own") => Opinion::Yes,
        (_, _, "") => none("No Object name found"),
        _ => none("no relationship found between node 'a' and this object"),
    });
    match answer {
        Opinion::Yes => "yes".to_owned(),
        Opinion::None(why) => why.unwrap_or_default(),
    }
}

const UNRELATED: &str = "no relationship found between node 'a' and this object";

#[test]
fn what_its_pods_name_is_read_one_by_one() {
    for resource in ["secrets", "configmaps"] {
        for verb in ["get", "list", "watch"] {
            assert_eq!(said(verb, resource, "n", "own"), "yes");
            assert_eq!(said(verb, resource, "n", "other"), UNRELATED);
            assert_eq!(said(verb, resource, "n", ""), "No Object name found");
        }
        assert_eq!(said("list", resource, "", ""), "can only read namespaced object of this type");
        assert_eq!(said("delete", resource, "n", "own"), "can only read resources of this type");
    }
    assert_eq!(said("get", "persistentvolumeclaims", "n", "own"), "yes");
    assert_eq!(
        said("list", "persistentvolumeclaims", "n", "own"),
        "can only get individual resources of this type"
    );
}

#[test]
fn tokens_are_made_for_accounts_of_its_pods() {
    assert_eq!(said("create", "serviceaccounts/token", "n", "own"), "yes");
    assert_eq!(said("create", "serviceaccounts/token", "n", "other"), UNRELATED);
    assert_eq!(said("get", "serviceaccounts", "n", "own"), "yes");
    assert_eq!(
        said("list", "serviceaccounts", "n", ""),
        "can only create tokens for individual service accounts"
    );
    assert_eq!(
        said("create", "serviceaccounts", "n", ""),
        "can only create tokens for individual service accounts"
    );
}

#[test]
fn it_knows_its_own_node_and_lease_alone() {
    assert_eq!(said("get", "nodes", "", "a"), "yes");
    assert_eq!(said("get", "nodes", "", "b"), "node 'a' cannot read 'b', only its own Node object");
    assert_eq!(said("list", "nodes", "", ""), "node 'a' cannot read all nodes, only its own Node object");
    assert_eq!(said("patch", "nodes/status", "", "b"), "yes", "which admission refuses, by the object");
    assert_eq!(said("delete", "nodes", "", "a"), "");
    let lease = "leases.coordination.k8s.io";
    assert_eq!(said("update", lease, "kube-node-lease", "a"), "yes");
    assert_eq!(
        said("update", lease, "kube-node-lease", "b"),
        "can only access node lease with the same name as the requesting node"
    );
    assert_eq!(
        said("get", lease, "n", "a"),
        "can only access leases in the \"kube-node-lease\" system namespace"
    );
    assert_eq!(
        said("list", lease, "kube-node-lease", ""),
        "can only get, create, update, patch, or delete a node lease"
    );
}

#[test]
fn it_follows_the_pods_of_its_node() {
    let follow = |field_selector| asked(&Attributes { verb: "watch", field_selector, ..of("pods") });
    assert_eq!(follow("spec.nodeName=a"), "yes");
    assert_eq!(follow("spec.nodeName=b"), "can only list/watch pods with spec.nodeName field selector");
    assert_eq!(follow("spec.nodeName!=a"), "can only list/watch pods with spec.nodeName field selector");
    assert_eq!(follow(""), "can only list/watch pods with spec.nodeName field selector");
    assert_eq!(said("get", "pods", "n", "p"), "yes");
    assert_eq!(said("get", "pods", "n", "q"), UNRELATED);
    assert_eq!(said("patch", "pods", "n", "p"), "");
    assert_eq!(said("create", "pods/exec", "n", "p"), "");
    assert_eq!(said("create", "pods/eviction", "n", "p"), "yes");
}

#[test]
fn for_the_rest_it_has_upstreams_role() {
    assert_eq!(said("list", "services", "", ""), "yes");
    assert_eq!(said("create", "events", "n", ""), "yes");
    assert_eq!(said("list", "endpointslices.discovery.k8s.io", "", ""), "");
    assert_eq!(said("list", "deployments.apps", "", ""), "");
}

#[test]
fn parts_of_what_its_pods_name_are_not_read() {
    assert_eq!(said("get", "secrets/x", "n", "own"), "cannot read subresource");
    assert_eq!(said("get", "persistentvolumeclaims/x", "n", "own"), "cannot get subresource");
    for verb in ["update", "patch"] {
        assert_eq!(said(verb, "persistentvolumeclaims/status", "n", "own"), "yes");
    }
    assert_eq!(
        said("get", "persistentvolumeclaims/status", "n", "own"),
        "can only update the status of PersistentVolumeClaims"
    );
    assert_eq!(
        said("create", "serviceaccounts/x", "n", "own"),
        "can only create token subresource of service account"
    );
    assert_eq!(
        said("get", "serviceaccounts/token", "n", "own"),
        "can only create tokens for individual service accounts"
    );
    assert_eq!(said("get", "serviceaccounts", "n", "other"), UNRELATED);
    assert_eq!(said("get", "persistentvolumeclaims", "n", "other"), UNRELATED);
}

#[test]
fn it_knows_its_own_csi_node_alone() {
    let csi = "csinodes.storage.k8s.io";
    assert_eq!(said("get", csi, "", "a"), "yes");
    assert_eq!(said("create", csi, "", ""), "yes", "its name is in the body");
    assert_eq!(
        said("get", csi, "", "b"),
        "can only access CSINode with the same name as the requesting node"
    );
    assert_eq!(said("list", csi, "", ""), "can only get, create, update, patch, or delete a CSINode");
    assert_eq!(
        said("update", "csinodes.storage.k8s.io/status", "", "a"),
        "cannot authorize CSINode subresources"
    );
    assert_eq!(said("create", "leases.coordination.k8s.io", "kube-node-lease", ""), "yes");
}

#[test]
fn what_it_writes_of_nodes_and_pods_admission_looks_at() {
    for verb in ["create", "update", "patch"] {
        assert_eq!(said(verb, "nodes", "", "b"), "yes");
    }
    assert_eq!(said("update", "nodes/status", "", "a"), "yes");
    assert_eq!(said("get", "nodes/status", "", "a"), "");
    for verb in ["create", "delete"] {
        assert_eq!(said(verb, "pods", "n", "q"), "yes");
    }
    for verb in ["update", "patch"] {
        assert_eq!(said(verb, "pods/status", "n", "q"), "yes");
    }
    let one = Attributes { verb: "watch", namespace: "n", name: "p", ..of("pods") };
    assert_eq!(asked(&one), "yes", "one that is of its node");
    assert_eq!(asked(&Attributes { name: "q", ..one }), UNRELATED);
}
