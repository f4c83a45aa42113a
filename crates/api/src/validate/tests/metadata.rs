//! What objects of every kind have, and kinds that have little else.

use serde_json::{Value, json};

use super::super::names;
use super::check_of as check;
use super::create;

#[test]
fn metadata_of_every_kind() {
    let said = |metadata: Value, expected: &[&str]| {
        check("", "Namespace", &json!({"metadata": metadata}), expected);
    };
    let owner = |controller: bool| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": controller});
    said(
        json!({"labels": {"a/b": "c"}, "annotations": {"A": "b c"}, "ownerReferences": [owner(true), owner(false)]}),
        &[],
    );
    said(
        json!({"ownerReferences": [{}]}),
        &[
            "metadata.ownerReferences[0].apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences[0].kind: Invalid value: \"\": kind must not be empty",
            "metadata.ownerReferences[0].name: Invalid value: \"\": name must not be empty",
            "metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty",
        ],
    );
    let two = create("", "Namespace", &json!({"metadata": {"ownerReferences": [owner(true), owner(true)]}}));
    assert!(
        two[0].message.ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for Pod and Pod"
        ),
        "{two:?}"
    );
    let annotations = |bytes: usize| json!({"annotations": {"abc": "x".repeat(bytes - 3)}});
    said(annotations(256 << 10), &[]);
    said(
        annotations((256 << 10) + 1),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    for bad in [
        json!({"labels": {"a b": "c"}}),
        json!({"labels": {"a": "c d"}}),
        json!({"annotations": {"a b": "c"}}),
    ] {
        assert_eq!(create("", "Namespace", &json!({ "metadata": bad })).len(), 1, "{bad}");
    }
}

#[test]
fn names_have_their_lengths_and_letters() {
    let fits = |rule: fn(&str) -> Option<String>, text: &str| rule(text).is_none();
    let a = |count: usize| "a".repeat(count);
    for (text, is_label, is_subdomain) in [
        ("a", true, true),
        ("a-1", true, true),
        ("1", true, true),
        ("", false, false),
        ("-a", false, false),
        ("a-", false, false),
        ("a.b", false, true),
        ("a..b", false, false),
        (".a", false, false),
        ("A", false, false),
        ("a_b", false, false),
    ] {
        assert_eq!(fits(names::label, text), is_label, "{text}");
        assert_eq!(fits(names::subdomain, text), is_subdomain, "{text}");
    }
    assert!(fits(names::label, &a(63)) && !fits(names::label, &a(64)));
    assert!(fits(names::subdomain, &a(253)) && !fits(names::subdomain, &a(254)));
    assert_eq!(names::path_segment("."), Some("may not be '.'".into()));
    assert_eq!(names::path_segment(".."), Some("may not be '..'".into()));
    assert_eq!(names::path_segment("a/b"), Some("may not contain '/'".into()));
    assert_eq!(names::path_segment("a%b"), Some("may not contain '%'".into()));
    assert_eq!(names::path_segment("..."), None);
    for (text, expected) in [
        ("a.B_c-1", None),
        ("..", Some("must not be '..'")),
        (".", Some("must not be '.'")),
        ("..a", Some("must not start with '..'")),
        (".a", None),
    ] {
        assert_eq!(names::config_key(text).as_deref(), expected, "{text}");
    }
    assert!(names::config_key(&a(253)).is_none() && names::config_key(&a(254)).is_some());
    assert!(names::config_key("").is_some() && names::config_key("a b").is_some());
    for (text, is_good) in
        [("A", true), (" ~", true), ("a\u{7f}", false), ("a\n", false), ("é", false), ("=", false)]
    {
        assert_eq!(names::environment(text).is_none(), is_good, "{text:?}");
    }
}

#[test]
fn finalizers_are_named_for_who_takes_them_away() {
    let of = |finalizers: Value| json!({"metadata": {"name": "n", "finalizers": finalizers}});
    let said = |finalizers: Value, expected: &[&str]| check("", "ConfigMap", &of(finalizers), expected);
    said(json!(["example.com/a", "orphan", "kubernetes"]), &[]);
    said(json!(["foregroundDeletion"]), &[]);
    said(
        json!(["example.com/a", "mine"]),
        &[
            "metadata.finalizers[1]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
           qualified",
        ],
    );
    said(
        json!(["orphan", "foregroundDeletion"]),
        &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
           foregroundDeletion cannot be both set"],
    );
    let faults = create("", "ConfigMap", &of(json!(["example.com/a b"])));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].field, "metadata.finalizers");
    let namespace = |own: Value| json!({"metadata": {"name": "n"}, "spec": {"finalizers": own}});
    check("", "Namespace", &namespace(json!(["kubernetes", "example.com/a"])), &[]);
    check(
        "",
        "Namespace",
        &namespace(json!(["mine"])),
        &[
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
}

#[test]
fn events_are_told_where_what_they_are_about_is() {
    let event = |own: &str, about: Value| json!({"metadata": {"name": "e", "namespace": own}, "involvedObject": about});
    let said = |own: &str, about: Value, expected: &[&str]| check("", "Event", &event(own, about), expected);
    said("a", json!({"namespace": "a"}), &[]);
    said("default", json!({"kind": "Node"}), &[]);
    said("kube-system", json!({"kind": "Node"}), &[]);
    let why = |theirs: &str| {
        format!("involvedObject.namespace: Invalid value: \"{theirs}\": does not match event.namespace")
    };
    said("a", json!({"namespace": "b"}), &[&why("b")]);
    said("a", json!({"kind": "Node"}), &[&why("")]);
}

#[test]
fn revisions_count_from_zero() {
    let said = |number: i64, expected: &[&str]| {
        let revision = json!({"metadata": {"name": "r"}, "data": {}, "revision": number});
        check("apps", "ControllerRevision", &revision, expected);
    };
    said(0, &[]);
    said(-1, &["revision: Invalid value: -1: must be greater than or equal to 0"]);
}
