//! Who may do what, by tables of bindings.

use serde_json::{Value, json};

use super::*;
use crate::object::to_stored;
use crate::resources::find;

const GROUP: &str = "rbac.authorization.k8s.io";

fn object(plural: &str, value: &Value) -> Object {
    let kind = find(GROUP, plural).expect("served");
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
    let key = kind.key(text("namespace"), text("name"));
    Object::from_stored(kind, key.into(), 1, to_stored(value)).expect("readable")
}

fn put(index: &mut Index, plural: &str, old: Option<&Value>, new: Option<&Value>) {
    let (old, new) = (old.map(|v| object(plural, v)), new.map(|v| object(plural, v)));
    index.change(find(GROUP, plural).expect("served"), old.as_ref(), new.as_ref());
}

fn role(namespace: &str, name: &str, verb: &str, resource: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}],
    })
}

fn bound(namespace: &str, name: &str, kind: &str, role: &str, subjects: &Value) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": subjects,
    })
}

fn asks(namespace: &'static str, resource: &'static str) -> Attributes<'static> {
    Attributes { verb: "get", resource, namespace, name: "x", ..Attributes::default() }
}

fn said(index: &Index, who: &Identity, what: &Attributes<'_>) -> String {
    match index.decide(who, what) {
        Verdict::Allowed(grant) => grant.to_string(),
        Verdict::Denied(absent) => absent.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn bindings_of_the_cluster_hold_everywhere_and_those_of_a_namespace_there() {
    let mut index = Index::default();
    let jane = json!([{"kind": "User", "name": "jane"}]);
    put(&mut index, "clusterroles", None, Some(&role("", "reader", "get", "pods")));
    put(&mut index, "roles", None, Some(&role("n", "keeper", "get", "secrets")));
    put(&mut index, "clusterrolebindings", None, Some(&bound("", "all", "ClusterRole", "reader", &jane)));
    put(&mut index, "rolebindings", None, Some(&bound("n", "own", "Role", "keeper", &jane)));
    let who = Identity::new("jane", &[]);
    let everywhere = r#"ClusterRoleBinding "all" of ClusterRole "reader" to User "jane""#;
    assert_eq!(said(&index, &who, &asks("m", "pods")), everywhere);
    assert_eq!(said(&index, &who, &asks("", "pods")), everywhere);
    assert_eq!(
        said(&index, &who, &asks("n", "secrets")),
        r#"RoleBinding "own/n" of Role "keeper" to User "jane""#
    );
    assert_eq!(said(&index, &who, &asks("m", "secrets")), "");
    assert_eq!(said(&index, &Identity::new("joe", &[]), &asks("n", "pods")), "");
}

#[test]
fn groups_and_accounts_are_subjects() {
    let mut index = Index::default();
    put(&mut index, "clusterroles", None, Some(&role("", "reader", "get", "pods")));
    let subjects = json!([{"kind": "Group", "name": "devs"}, {"kind": "ServiceAccount", "name": "robot"}]);
    put(&mut index, "rolebindings", None, Some(&bound("n", "b", "ClusterRole", "reader", &subjects)));
    assert_eq!(
        said(&index, &Identity::new("joe", &["devs"]), &asks("n", "pods")),
        r#"RoleBinding "b/n" of ClusterRole "reader" to Group "devs""#
    );
    assert_eq!(
        said(&index, &Identity::new("system:serviceaccount:n:robot", &[]), &asks("n", "pods")),
        r#"RoleBinding "b/n" of ClusterRole "reader" to ServiceAccount "robot/n""#
    );
    assert_eq!(said(&index, &Identity::new("robot", &[]), &asks("n", "pods")), "");
    assert_eq!(said(&index, &Identity::new("system:serviceaccount:m:robot", &[]), &asks("n", "pods")), "");
}

#[test]
fn a_binding_to_a_role_that_is_not_there_grants_nothing_and_says_so() {
    let mut index = Index::default();
    let jane = json!([{"kind": "User", "name": "jane"}]);
    put(&mut index, "clusterrolebindings", None, Some(&bound("", "b", "ClusterRole", "gone", &jane)));
    put(&mut index, "rolebindings", None, Some(&bound("n", "b", "Role", "too", &jane)));
    assert_eq!(
        said(&index, &Identity::new("jane", &[]), &asks("n", "pods")),
        "clusterrole.rbac.authorization.k8s.io \"gone\" not found; \
         role.rbac.authorization.k8s.io \"too\" not found"
    );
}

#[test]
fn changes_take_back_what_was_granted() {
    let mut index = Index::default();
    let (jane, joe) = (json!([{"kind": "User", "name": "jane"}]), json!([{"kind": "User", "name": "joe"}]));
    let first = role("", "reader", "get", "pods");
    let before = bound("n", "b", "ClusterRole", "reader", &jane);
    let after = bound("n", "b", "ClusterRole", "reader", &joe);
    put(&mut index, "clusterroles", None, Some(&first));
    put(&mut index, "rolebindings", None, Some(&before));
    put(&mut index, "rolebindings", Some(&before), Some(&after));
    assert_eq!(said(&index, &Identity::new("jane", &[]), &asks("n", "pods")), "");
    assert_ne!(said(&index, &Identity::new("joe", &[]), &asks("n", "pods")), "");
    let second = role("", "reader", "get", "services");
    put(&mut index, "clusterroles", Some(&first), Some(&second));
    assert_eq!(said(&index, &Identity::new("joe", &[]), &asks("n", "pods")), "");
    assert_ne!(said(&index, &Identity::new("joe", &[]), &asks("n", "services")), "");
    put(&mut index, "rolebindings", Some(&after), None);
    put(&mut index, "clusterroles", Some(&second), None);
    assert!(index.cluster.is_empty() && index.namespaces.is_empty() && index.cluster_roles.is_empty());
}

#[test]
fn a_decision_among_a_thousand_bindings_of_others_looks_at_one() {
    let mut index = Index::default();
    put(&mut index, "clusterroles", None, Some(&role("", "reader", "get", "pods")));
    for i in 0..1000 {
        let subject = json!([{"kind": "User", "name": format!("u{i}")}]);
        put(
            &mut index,
            "rolebindings",
            None,
            Some(&bound("n", &format!("b{i}"), "ClusterRole", "reader", &subject)),
        );
    }
    let who = Identity::new("u500", &[]);
    assert_eq!(index.grants(&who, "n").count(), 1);
}
