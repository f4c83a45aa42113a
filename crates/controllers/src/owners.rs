//! Owner references: who controls an object, and how an object is marked as controlled.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use skiff_api::selector::Selector;
use skiff_client::{Cache, Object, ObjectKey};

/// The reference that makes `owner` an object's controller.
pub(crate) fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    let metadata = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to an object's controller, if it has one.
pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` is the object's controller: by UID, since names come again.
pub(crate) fn is_controlled_by<K: Object>(metadata: &ObjectMeta, owner: &K) -> bool {
    controller_of(metadata).is_some_and(|reference| Some(&reference.uid) == owner.metadata().uid.as_ref())
}

/// The key of an object's controller, if that is of kind `K`.
pub(crate) fn controller_key<K: Object>(metadata: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(metadata).filter(|owner| owner.kind == K::KIND)?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (group == K::GROUP)
        .then(|| ObjectKey::new(metadata.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

pub(crate) fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn is_deleting(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

/// A strategic merge patch that makes `owner` the controller of the object with that UID.
pub(crate) fn adoption<K: Object>(owner: &K, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [controller_reference(owner)], "uid": uid}})
}

/// A strategic merge patch that ends `owner`'s control of the object with that UID.
pub(crate) fn release<K: Object>(owner: &K, uid: &str) -> Value {
    let reference = json!({"$patch": "delete", "uid": owner.metadata().uid});
    json!({"metadata": {"ownerReferences": [reference], "uid": uid}})
}

/// What to do with the objects that a controller's selector or references concern.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the controller's own.
    Own,
    /// Nobody's, and the selector matches: adopt it.
    Adopt,
    /// The controller's own, but the selector matches no more: let it go.
    Release,
    /// Somebody else's, or nobody's business.
    Ignore,
}

/// Decides about one object. `matches` is the selector's word.
pub(crate) fn claim<K: Object>(owner: &K, object: &ObjectMeta, matches: bool) -> Claim {
    let owner_leaves = is_deleting(owner.metadata());
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.metadata().uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Own,
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || owner_leaves || is_deleting(object) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// What an owner's selector selects; nothing where it is broken, or would select everything.
pub(crate) fn selecting(selector: Option<&LabelSelector>) -> Option<Selector> {
    let selector = Selector::from_object(selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

/// Who would adopt a pod: of those in its namespace the ones that select it, if nobody controls it yet.
pub(crate) fn adopters<K: Object>(
    pod: &Pod,
    owners: &Cache<K>,
    selector: impl Fn(&K) -> Option<Selector>,
) -> Vec<ObjectKey> {
    if controller_of(&pod.metadata).is_some() || pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let all = owners.list_namespace(namespace(&pod.metadata));
    all.iter()
        .filter(|owner| {
            selector(owner).is_some_and(|selector| selector.matches(pod.metadata.labels.as_ref()))
        })
        .map(|owner| ObjectKey::of(&**owner))
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

    use super::*;

    fn set(deleting: bool) -> ReplicaSet {
        let deleted = deleting.then_some("2020-01-01T00:00:00Z");
        let metadata = json!({"name": "s", "namespace": "a", "uid": "u", "deletionTimestamp": deleted});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"selector": {}, "template": {}}}))
            .unwrap()
    }

    /// A pod that this owner has, controls, or neither.
    fn object(owner: Option<(&str, bool)>, deleting: bool) -> ObjectMeta {
        let owners = owner.map(|(uid, controller)| {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": uid, "controller": controller}])
        });
        let deleted = deleting.then_some("2020-01-01T00:00:00Z");
        serde_json::from_value(json!({"name": "p", "namespace": "a", "uid": "p", "ownerReferences": owners,
            "deletionTimestamp": deleted}))
        .unwrap()
    }

    #[test]
    fn an_object_is_claimed_by_its_controller_and_by_the_selector() {
        use Claim::{Adopt, Ignore, Own, Release};
        let own = || object(Some(("u", true)), false);
        for (owner_leaves, object, matches, expected) in [
            (false, own(), true, Own),
            (true, own(), true, Own),
            (false, own(), false, Release),
            (true, own(), false, Ignore),
            (false, object(Some(("other", true)), false), true, Ignore),
            (false, object(Some(("other", true)), false), false, Ignore),
            (false, object(Some(("u", false)), false), true, Adopt),
            (false, object(None, false), true, Adopt),
            (false, object(None, false), false, Ignore),
            (true, object(None, false), true, Ignore),
            (false, object(None, true), true, Ignore),
        ] {
            assert_eq!(claim(&set(owner_leaves), &object, matches), expected, "{object:?} {matches}");
        }
        assert!(is_controlled_by(&own(), &set(false)));
        assert!(!is_controlled_by(&object(Some(("other", true)), false), &set(false)));
        assert!(!is_controlled_by(&object(Some(("u", false)), false), &set(false)));
    }

    #[test]
    fn a_controller_is_known_by_kind_and_group() {
        let object = object(Some(("u", true)), false);
        assert_eq!(controller_key::<ReplicaSet>(&object), Some(ObjectKey::new("a", "s")));
        assert_eq!(controller_key::<Deployment>(&object), None);
        let mut foreign = object.clone();
        foreign.owner_references.as_mut().unwrap()[0].api_version = "example.com/v1".into();
        assert_eq!(controller_key::<ReplicaSet>(&foreign), None);
        assert_eq!(controller_key::<ReplicaSet>(&self::object(Some(("u", false)), false)), None);
    }

    #[test]
    fn a_claim_is_written_with_the_uid_that_it_is_of() {
        let reference = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "u",
            "controller": true, "blockOwnerDeletion": true});
        assert_eq!(
            adoption(&set(false), "p"),
            json!({"metadata": {"ownerReferences": [reference], "uid": "p"}})
        );
        assert_eq!(
            release(&set(false), "p"),
            json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "u"}], "uid": "p"}})
        );
    }
}
