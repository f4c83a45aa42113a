//! Decides about one object from its owners' and dependents' state.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_client::ObjectKey;

use crate::owners::{is_deleting, namespace, uid};

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// What is known of an owner that an object names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Present,
    /// Present, but only until its dependents are gone.
    Waiting,
    Absent,
    /// Of a kind that nobody here knows: it counts as present.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    /// Delete it, with this propagation policy.
    Delete(&'static str),
    /// Drop its references to these owners; it lives on by others.
    DropOwners(Vec<String>),
    /// Nothing holds its foreground deletion any more.
    FinishForeground,
    /// These dependents have to go first.
    Await(Vec<String>),
    /// Cut these dependents loose, then finish.
    Orphan(Vec<String>),
}

pub(super) fn has_finalizer(metadata: &ObjectMeta, wanted: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|own| own == wanted)
}

/// Whether it is deleted, but waits for its dependents to go first.
pub(super) fn waits_for_dependents(metadata: &ObjectMeta) -> bool {
    is_deleting(metadata) && has_finalizer(metadata, FOREGROUND)
}

/// `owners` are in the order of the object's references.
pub(super) fn plan(metadata: &ObjectMeta, owners: &[Owner], dependents: &[ObjectMeta]) -> Plan {
    let uids = |dependents: &[ObjectMeta]| dependents.iter().map(|one| uid(one).to_owned()).collect();
    if is_deleting(metadata) && has_finalizer(metadata, ORPHAN) {
        return Plan::Orphan(uids(dependents));
    }
    if waits_for_dependents(metadata) {
        let blocking: Vec<ObjectMeta> =
            dependents.iter().filter(|dependent| blocks(dependent, uid(metadata))).cloned().collect();
        return if blocking.is_empty() { Plan::FinishForeground } else { Plan::Await(uids(&blocking)) };
    }
    if is_deleting(metadata) || owners.is_empty() {
        return Plan::Nothing;
    }
    if owners.iter().any(|owner| matches!(owner, Owner::Present | Owner::Unknown)) {
        let references = metadata.owner_references.iter().flatten();
        let useless: Vec<String> = references
            .zip(owners)
            .filter(|(_, owner)| matches!(owner, Owner::Absent | Owner::Waiting))
            .map(|(reference, _)| reference.uid.clone())
            .collect();
        return if useless.is_empty() { Plan::Nothing } else { Plan::DropOwners(useless) };
    }
    if owners.contains(&Owner::Waiting) && !dependents.is_empty() {
        // The owner waits for it, and so it waits for its own dependents.
        return Plan::Delete("Foreground");
    }
    Plan::Delete(if has_finalizer(metadata, ORPHAN) {
        "Orphan"
    } else if has_finalizer(metadata, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    })
}

/// Where the owner is that a reference means: beside its dependent, if it is of a namespaced kind. `None`
/// where that is nowhere, as for a dependent that is in no namespace.
pub(super) fn owner_key(
    reference: &OwnerReference,
    is_namespaced: bool,
    dependent: &ObjectMeta,
) -> Option<ObjectKey> {
    let own = namespace(dependent);
    match is_namespaced {
        true if own.is_empty() => None,
        true => Some(ObjectKey::new(own, reference.name.clone())),
        false => Some(ObjectKey::new("", reference.name.clone())),
    }
}

/// What is said of a reference to who is in another namespace; `None` if its owner isn't.
pub(super) fn foreign(
    reference: &OwnerReference,
    owner: &ObjectKey,
    dependent: &ObjectMeta,
) -> Option<String> {
    let own = namespace(dependent);
    (!owner.namespace.is_empty() && owner.namespace != own).then(|| {
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        format!(
            "ownerRef [{api_version}/{kind}, namespace: {own}, name: {name}, uid: {uid}] does not exist in \
             namespace {own:?}"
        )
    })
}

/// Whether a dependent keeps its owner until it is gone itself.
fn blocks(dependent: &ObjectMeta, owner: &str) -> bool {
    dependent
        .owner_references
        .iter()
        .flatten()
        .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    fn owned(name: &str, owners: &[(&str, bool)]) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(uid, block)| {
                json!({"apiVersion": "v1", "kind": "X", "name": uid, "uid": uid, "blockOwnerDeletion": block})
            })
            .collect();
        meta(json!({"name": name, "uid": name, "ownerReferences": owners}))
    }

    fn deleted(mut metadata: ObjectMeta, finalizers: &[&str]) -> ObjectMeta {
        metadata.deletion_timestamp = serde_json::from_value(json!("2020-01-01T00:00:00Z")).unwrap();
        metadata.finalizers = Some(finalizers.iter().map(|one| (*one).to_owned()).collect());
        metadata
    }

    #[test]
    fn an_object_lives_as_long_as_one_of_its_owners() {
        use Owner::{Absent, Present, Unknown, Waiting};
        let two = owned("x", &[("a", true), ("b", true)]);
        for (owners, expected) in [
            ([Present, Present], Plan::Nothing),
            ([Present, Unknown], Plan::Nothing),
            ([Present, Absent], Plan::DropOwners(vec!["b".into()])),
            ([Waiting, Unknown], Plan::DropOwners(vec!["a".into()])),
            ([Absent, Absent], Plan::Delete("Background")),
            ([Waiting, Absent], Plan::Delete("Background")),
        ] {
            assert_eq!(plan(&two, &owners, &[]), expected, "{owners:?}");
        }
        assert_eq!(plan(&two, &[Waiting, Absent], &[owned("y", &[("x", true)])]), Plan::Delete("Foreground"));
        assert_eq!(plan(&two, &[Absent, Absent], &[owned("y", &[("x", true)])]), Plan::Delete("Background"));
        assert_eq!(plan(&meta(json!({"uid": "x"})), &[], &[]), Plan::Nothing);
        assert_eq!(plan(&deleted(two, &[]), &[Absent, Absent], &[]), Plan::Nothing, "it goes already");
    }

    #[test]
    fn an_owner_is_where_its_reference_says() {
        let reference: OwnerReference =
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "X", "name": "o", "uid": "u"}))
                .unwrap();
        let dependent = |namespace: Option<&str>| meta(json!({"name": "d", "namespace": namespace}));
        let key = |is_namespaced, namespace| owner_key(&reference, is_namespaced, &dependent(namespace));
        assert_eq!(key(true, Some("b")), Some(ObjectKey::new("b", "o")));
        assert_eq!(key(false, Some("b")), Some(ObjectKey::new("", "o")));
        assert_eq!(key(false, None), Some(ObjectKey::new("", "o")));
        assert_eq!(key(true, None), None, "nobody can tell where it would be");
        let said = |owner: &str| foreign(&reference, &ObjectKey::new(owner, "o"), &dependent(Some("b2")));
        assert_eq!(said("b2"), None);
        assert_eq!(said(""), None);
        assert_eq!(
            said("b").as_deref(),
            Some("ownerRef [v1/X, namespace: b2, name: o, uid: u] does not exist in namespace \"b2\"")
        );
    }

    #[test]
    fn finalizers_decide_how_it_goes() {
        let mut orphaning = owned("x", &[("a", true)]);
        orphaning.finalizers = Some(vec![ORPHAN.into()]);
        assert_eq!(plan(&orphaning, &[Owner::Absent], &[]), Plan::Delete("Orphan"));
        let owner = deleted(meta(json!({"uid": "x"})), &[ORPHAN]);
        assert_eq!(plan(&owner, &[], &[owned("y", &[("x", true)])]), Plan::Orphan(vec!["y".into()]));
        assert_eq!(plan(&owner, &[], &[]), Plan::Orphan(vec![]));
    }

    #[test]
    fn foreground_deletion_waits_for_those_that_block() {
        let owner = deleted(meta(json!({"uid": "x"})), &[FOREGROUND]);
        let blocking = owned("y", &[("x", true)]);
        let free = owned("z", &[("x", false)]);
        assert_eq!(plan(&owner, &[], &[blocking, free.clone()]), Plan::Await(vec!["y".into()]));
        assert_eq!(plan(&owner, &[], &[free]), Plan::FinishForeground);
    }
}
