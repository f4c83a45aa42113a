//! Who owns whom, by UID.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::ObjectKey;

use crate::owners::{name, namespace, uid};

/// Where an object is found: its kind's place in the table, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: usize,
    pub(super) key: ObjectKey,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<String, Place>,
    owners: HashMap<String, Vec<String>>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub(super) fn place(&self, uid: &str) -> Option<&Place> {
        self.objects.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<String> {
        let mut dependents: Vec<_> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        dependents.sort_unstable();
        dependents
    }

    /// Notes an object and returns the UIDs of owners that it had before and has no more.
    pub(super) fn apply(&mut self, kind: usize, metadata: &ObjectMeta) -> Vec<String> {
        let uid = uid(metadata).to_owned();
        let key = ObjectKey::new(namespace(metadata), name(metadata));
        self.objects.insert(uid.clone(), Place { kind, key });
        let owners: Vec<String> =
            metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect();
        let before = if owners.is_empty() {
            self.owners.remove(&uid)
        } else {
            self.owners.insert(uid.clone(), owners.clone())
        };
        let mut before = before.unwrap_or_default();
        before.retain(|owner| !owners.contains(owner));
        for owner in &before {
            self.unlink(owner, &uid);
        }
        for owner in owners {
            self.dependents.entry(owner).or_default().insert(uid.clone());
        }
        before
    }

    /// Forgets an object and returns its owners' UIDs.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.objects.remove(uid);
        let owners = self.owners.remove(uid).unwrap_or_default();
        for owner in &owners {
            self.unlink(owner, uid);
        }
        owners
    }

    /// The objects of one kind.
    pub(super) fn of_kind(&self, kind: usize) -> Vec<String> {
        self.objects.iter().filter(|(_, place)| place.kind == kind).map(|(uid, _)| uid.clone()).collect()
    }

    fn unlink(&mut self, owner: &str, uid: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(uid);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
