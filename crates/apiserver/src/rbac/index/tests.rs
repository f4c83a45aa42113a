//! Who may do what, by tables of bindings.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
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
    assert_eq!(index.held(&who, "n").map(|held| held.grants.len()).sum::<usize>(), 1);
}

/// Whatever is allowed to a user of many bindings is what a walk over them allows, by the same binding.
#[test]
fn a_table_of_many_bindings_says_what_a_walk_over_them_says() {
    let words = |random: &mut StdRng, from: &[&str], least: usize| -> Vec<String> {
        let count = random.random_range(least..=2);
        (0..count).map(|_| from[random.random_range(0..from.len())].to_owned()).collect()
    };
    let verbs = ["get", "list", "delete", "*"];
    let groups = ["", "apps", "*"];
    let resources = ["pods", "pods/log", "jobs", "jobs/scale", "*/scale", "*/log", "*", "pods/"];
    let names = ["a", "b", ""];
    let urls = ["/healthz", "/api/*", "/api", "/a*", "*", "/metrics/é*"];
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let (mut allowed, mut denied) = (0, 0);
    for _ in 0..20 {
        let mut index = Index::default();
        for number in 0..30 {
            let rule = match random.random_range(0..4) {
                0 => json!({"verbs": words(random, &verbs, 1), "nonResourceURLs": words(random, &urls, 1)}),
                _ => json!({
                    "verbs": words(random, &verbs, 1),
                    "apiGroups": words(random, &groups, 1),
                    "resources": words(random, &resources, 1),
                    "resourceNames": words(random, &names, 0),
                }),
            };
            let role = json!({"metadata": {"name": format!("r{number}")}, "rules": [rule]});
            put(&mut index, "clusterroles", None, Some(&role));
        }
        let jane = json!([{"kind": "User", "name": "jane"}]);
        // Some twice, some to roles that are not there.
        for number in 0..40 {
            let role = format!("r{}", random.random_range(0..33));
            let binding = bound("", &format!("b{number}"), "ClusterRole", &role, &jane);
            put(&mut index, "clusterrolebindings", None, Some(&binding));
        }
        let who = Identity::new("jane", &[]);
        for _ in 0..200 {
            let one = |random: &mut StdRng, from: &[&'static str]| from[random.random_range(0..from.len())];
            let verb = one(random, &["get", "delete", "patch", "*"]);
            let what = match random.random_range(0..4) {
                0 => {
                    let path =
                        one(random, &["/healthz", "/api", "/api/v1", "/", "/metrics/éa", "/metrics/è", ""]);
                    Attributes { verb, path, ..Attributes::default() }
                }
                _ => Attributes {
                    verb,
                    group: one(random, &["", "apps", "batch"]),
                    resource: one(random, &["pods", "jobs", "secrets", "*"]),
                    subresource: one(random, &["", "", "log", "scale", "x"]),
                    namespace: one(random, &["", "n"]),
                    name: one(random, &["", "a", "c"]),
                    ..Attributes::default()
                },
            };
            let held = &index.cluster.users["jane"];
            assert!(index.table(held).is_some(), "this many bindings have one");
            let mut absent = Vec::new();
            let by_walk = match index.walk(held, &what, &mut absent) {
                Some(grant) => Verdict::Allowed(Arc::clone(grant)),
                None => Verdict::Denied(absent),
            };
            *if matches!(by_walk, Verdict::Allowed(_)) { &mut allowed } else { &mut denied } += 1;
            assert_eq!(index.decide(&who, &what), by_walk, "{what:?}");
        }
    }
    assert!(allowed > 100 && denied > 100, "both are met: {allowed} and {denied}");
}

/// An index in which `busy` has this many bindings in `n`, each to a role of its own with these names of objects.
fn busy(bindings: usize, names: usize) -> Index {
    let mut index = Index::default();
    let subject = json!([{"kind": "User", "name": "busy"}]);
    for number in 0..bindings {
        let mut role = role("n", &format!("r{number}"), "get", "pods");
        role["rules"][0]["resourceNames"] = (0..names).map(|name| format!("p{number}-{name}")).collect();
        put(&mut index, "roles", None, Some(&role));
        let binding = bound("n", &format!("b{number}"), "Role", &format!("r{number}"), &subject);
        put(&mut index, "rolebindings", None, Some(&binding));
    }
    index
}

fn named(name: &'static str) -> Attributes<'static> {
    Attributes { name, ..asks("n", "pods") }
}

#[test]
fn a_table_is_made_once_and_made_anew_when_a_role_or_a_binding_changes() {
    let mut index = busy(1000, 1);
    let who = Identity::new("busy", &[]);
    let last = r#"RoleBinding "b999/n" of Role "r999" to User "busy""#;
    assert_eq!(said(&index, &who, &named("p999-0")), last);
    let kept = index.tables.kept();
    assert_eq!(kept.0, 1);
    assert_eq!(said(&index, &who, &named("p1000-0")), "");
    assert_eq!(index.tables.kept(), kept, "the same is asked again");

    put(&mut index, "roles", None, Some(&role("m", "other", "get", "pods")));
    assert_eq!(index.tables.kept(), kept, "another namespace's role changes nothing here");
    let (old, new) = (role("n", "r999", "get", "pods"), role("n", "r999", "get", "services"));
    put(&mut index, "roles", Some(&old), Some(&new));
    assert_eq!(index.tables.kept(), (0, 0));
    assert_eq!(said(&index, &who, &named("p999-0")), "");
    assert_eq!(said(&index, &who, &asks("n", "services")), last);

    let subject = json!([{"kind": "User", "name": "busy"}]);
    let binding = bound("n", "b999", "Role", "r999", &subject);
    put(&mut index, "rolebindings", Some(&binding), None);
    assert_eq!(said(&index, &who, &asks("n", "services")), "");
    put(&mut index, "roles", Some(&role("n", "r5", "get", "pods")), None);
    assert_eq!(said(&index, &who, &named("p5-0")), r#"role.rbac.authorization.k8s.io "r5" not found"#);
}

#[test]
fn rules_without_end_are_walked_over_and_keep_nothing() {
    let index = busy(20, 10_000);
    let who = Identity::new("busy", &[]);
    assert_eq!(said(&index, &who, &named("p19-9999")), r#"RoleBinding "b19/n" of Role "r19" to User "busy""#);
    assert_eq!(index.tables.kept(), (1, 1), "it is remembered that there is none");
}

#[test]
fn an_account_of_another_namespace_is_told_by_its_own() {
    let mut index = Index::default();
    put(&mut index, "clusterroles", None, Some(&role("", "reader", "get", "pods")));
    let robots = json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "m"}]);
    put(&mut index, "rolebindings", None, Some(&bound("n", "b", "ClusterRole", "reader", &robots)));
    let who = Identity::new("system:serviceaccount:m:robot", &[]);
    assert_eq!(
        said(&index, &who, &asks("n", "pods")),
        r#"RoleBinding "b/n" of ClusterRole "reader" to ServiceAccount "robot/m""#
    );
    assert_eq!(said(&index, &Identity::new("system:serviceaccount:n:robot", &[]), &asks("n", "pods")), "");
    // In a binding of the cluster an account without a namespace is nobody.
    let nowhere = json!([{"kind": "ServiceAccount", "name": "robot"}]);
    put(&mut index, "clusterrolebindings", None, Some(&bound("", "c", "ClusterRole", "reader", &nowhere)));
    assert!(index.cluster.is_empty());
    let unknown = json!([{"kind": "Robot", "name": "robot"}]);
    put(&mut index, "clusterrolebindings", None, Some(&bound("", "d", "ClusterRole", "reader", &unknown)));
    assert!(index.cluster.is_empty());
}

#[test]
fn all_rules_of_a_user_are_those_of_all_its_bindings() {
    let mut index = Index::default();
    let jane = json!([{"kind": "User", "name": "jane"}]);
    let devs = json!([{"kind": "Group", "name": "devs"}]);
    put(&mut index, "clusterroles", None, Some(&role("", "reader", "get", "pods")));
    put(&mut index, "roles", None, Some(&role("n", "keeper", "get", "secrets")));
    put(&mut index, "clusterrolebindings", None, Some(&bound("", "a", "ClusterRole", "reader", &devs)));
    put(&mut index, "rolebindings", None, Some(&bound("n", "b", "Role", "keeper", &jane)));
    for (name, kind) in [("c", "Role"), ("d", "Role"), ("e", "ClusterRole")] {
        put(&mut index, "rolebindings", None, Some(&bound("n", name, kind, "gone", &jane)));
    }
    let told = |namespace: &str| {
        let (rules, absent) = index.rules_of(&Identity::new("jane", &["devs"]), namespace);
        let resources: Vec<String> = rules.into_iter().flat_map(|rule| rule.resources).collect();
        (resources.join(","), absent.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(told(""), ("pods".to_owned(), vec![]));
    assert_eq!(told("m"), ("pods".to_owned(), vec![]));
    // Each role that is not there is told once.
    assert_eq!(
        told("n"),
        (
            "pods,secrets".to_owned(),
            vec![
                "role.rbac.authorization.k8s.io \"gone\" not found".to_owned(),
                "clusterrole.rbac.authorization.k8s.io \"gone\" not found".to_owned(),
            ]
        )
    );
    assert_eq!(
        said(&index, &Identity::new("jane", &[]), &asks("n", "services")),
        "role.rbac.authorization.k8s.io \"gone\" not found; clusterrole.rbac.authorization.k8s.io \"gone\" not found"
    );
}

#[test]
fn of_two_bindings_of_one_user_each_is_taken_back_alone() {
    let mut index = Index::default();
    let jane = json!([{"kind": "User", "name": "jane"}]);
    put(&mut index, "clusterroles", None, Some(&role("", "reader", "get", "pods")));
    put(&mut index, "roles", None, Some(&role("n", "reader", "get", "secrets")));
    let (first, second) =
        (bound("n", "a", "ClusterRole", "reader", &jane), bound("n", "b", "Role", "reader", &jane));
    put(&mut index, "rolebindings", None, Some(&first));
    put(&mut index, "rolebindings", None, Some(&second));
    let who = Identity::new("jane", &[]);
    let allowed = |index: &Index| ["pods", "secrets"].map(|of| !said(index, &who, &asks("n", of)).is_empty());
    assert_eq!(allowed(&index), [true, true]);
    put(&mut index, "rolebindings", Some(&first), None);
    assert_eq!(allowed(&index), [false, true]);
    put(&mut index, "rolebindings", Some(&second), None);
    assert!(index.namespaces.is_empty());
    assert_eq!(allowed(&index), [false, false]);
}
