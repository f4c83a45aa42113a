//! Sets and their revisions, by values.

use serde_json::{Value, json};

use super::*;

fn deployment(more: Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d"},
        "spec": {"replicas": 4, "revisionHistoryLimit": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
    });
    for part in ["metadata", "spec"] {
        for (key, value) in more[part].as_object().into_iter().flatten() {
            object[part][key] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

fn set(name: &str, revision: i64, more: Value) -> Arc<ReplicaSet> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "generation": 2,
            "annotations": {REVISION: revision.to_string()}},
        "spec": {"replicas": 0, "selector": {}, "template": {}},
        "status": {"replicas": 0, "observedGeneration": 2},
    });
    for part in ["metadata", "spec", "status"] {
        for (key, value) in more[part].as_object().into_iter().flatten() {
            object[part][key] = value.clone();
        }
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

#[test]
fn a_new_set_is_the_deployments_with_its_annotations_and_sizes() {
    let notes = json!({"team": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}", REVISION: "9",
        MAX: "99"});
    let deployment = deployment(json!({"metadata": {"annotations": notes}}));
    let (made, revision) = new_set(&deployment, &[set("old", 4, json!({}))], 2);
    assert_eq!(revision, "5");
    let hash = made.metadata.labels.as_ref().unwrap()[HASH].clone();
    assert_eq!(
        serde_json::to_value(&made.metadata).unwrap(),
        json!({
            "name": format!("web-{hash}"), "namespace": "a", "labels": {"app": "web", HASH: hash},
            "annotations": {"team": "x", REVISION: "5", DESIRED: "4", MAX: "7"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d",
                "controller": true, "blockOwnerDeletion": true}],
        })
    );
    let spec = made.spec.unwrap();
    assert_eq!((spec.replicas, spec.selector.match_labels.unwrap()[HASH].as_str()), (Some(2), hash.as_str()));
}

#[test]
fn the_oldest_of_several_sets_of_the_template_is_current() {
    let at = |name: &str, second: u8| {
        let template =
            json!({"metadata": {"labels": {"app": "web", HASH: name}}, "spec": {"containers": []}});
        let created = format!("2020-01-01T00:00:{second:02}Z");
        set(name, 1, json!({"metadata": {"creationTimestamp": created}, "spec": {"template": template}}))
    };
    let name = |sets: &[Arc<ReplicaSet>]| {
        current(&deployment(json!({})), sets).and_then(|set| set.metadata.name.clone()).unwrap_or_default()
    };
    assert_eq!(name(&[at("a", 9), at("b", 3), at("c", 5)]), "b");
    assert_eq!(name(&[at("b", 3), at("a", 3)]), "a", "of the same age the first by name");
    assert_eq!(name(&[set("other", 1, json!({}))]), "");
}

#[test]
fn a_set_gets_the_next_revision_and_remembers_its_former_ones() {
    let plain = || set("new", 0, json!({"metadata": {"annotations": {}}}));
    let history = |set: &ReplicaSet| {
        let notes = set.metadata.annotations.clone().unwrap_or_default();
        (revision(&set.metadata), notes.get(REVISION_HISTORY).cloned())
    };
    let deployment = deployment(json!({"spec": {"minReadySeconds": 5}}));
    let (first, number) = marked(&deployment, &[], &plain());
    let first = first.expect("it changes");
    assert_eq!((history(&first), number.as_str()), ((1, None), "1"));
    assert_eq!(first.spec.as_ref().unwrap().min_ready_seconds, Some(5));
    assert_eq!(marked(&deployment, &[], &first), (None, "1".to_owned()), "once is enough");
    let (again, _) = marked(&deployment, &[set("other", 2, json!({}))], &first);
    let again = again.expect("it is the newest anew");
    assert_eq!(history(&again), (3, Some("1".into())));
    let (third, _) = marked(&deployment, &[set("other", 4, json!({}))], &again);
    assert_eq!(history(&third.expect("and anew")), (5, Some("1,3".into())));
    // None and zero are alike.
    let none = self::deployment(json!({}));
    let zero = set("new", 1, json!({"spec": {"minReadySeconds": 0}}));
    assert_eq!(marked(&none, &[], &zero).0, None);
}

#[test]
fn only_empty_sets_that_nobody_touches_are_superfluous() {
    let gone = |sets: &[Arc<ReplicaSet>]| {
        let gone = superfluous(&deployment(json!({})), sets);
        gone.iter().filter_map(|set| set.metadata.name.clone()).collect::<Vec<_>>()
    };
    let empty = |name: &str, revision: i64| set(name, revision, json!({}));
    assert_eq!(gone(&[empty("c", 3), empty("a", 1), empty("b", 2)]), ["a", "b"]);
    assert_eq!(gone(&[empty("a", 1)]), Vec::<String>::new());
    for kept in [
        json!({"status": {"replicas": 1}}),
        json!({"spec": {"replicas": 1}}),
        json!({"status": {"observedGeneration": 1}}),
        json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}}),
    ] {
        assert_eq!(gone(&[set("a", 1, kept.clone()), empty("b", 2)]), ["b"], "{kept}");
    }
}
