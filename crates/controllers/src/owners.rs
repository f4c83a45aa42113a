//! Owner references: who controls an object, and how an object is marked as controlled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use skiff_client::{Object, ObjectKey};

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
