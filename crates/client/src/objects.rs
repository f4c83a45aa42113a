//! The objects of a copy, by their own key and by another one that each may have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::cache::ObjectKey;

/// The other key that an object is found by, if it has one.
pub type IndexBy<K> = fn(&K) -> Option<ObjectKey>;

pub(crate) struct Objects<K> {
    pub(crate) by_key: BTreeMap<ObjectKey, Arc<K>>,
    index: Option<Index<K>>,
}

struct Index<K> {
    by: IndexBy<K>,
    /// The keys of the objects that have each of the other keys.
    found: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), index: None }
    }
}

impl<K> Objects<K> {
    /// Begins to index, with what is there already.
    pub(crate) fn index(&mut self, by: IndexBy<K>) {
        let mut found: HashMap<ObjectKey, BTreeSet<ObjectKey>> = HashMap::new();
        for (key, object) in &self.by_key {
            if let Some(other) = by(object) {
                found.entry(other).or_default().insert(key.clone());
            }
        }
        self.index = Some(Index { by, found });
    }

    pub(crate) fn indexed(&self, other: &ObjectKey) -> Vec<Arc<K>> {
        let keys = self.index.as_ref().and_then(|index| index.found.get(other));
        keys.into_iter().flatten().filter_map(|key| self.by_key.get(key).cloned()).collect()
    }

    /// Returns the object's former state.
    pub(crate) fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        if let Some(index) = &mut self.index
            && let Some(other) = (index.by)(&object)
        {
            index.found.entry(other).or_default().insert(key.clone());
        }
        let old = self.by_key.insert(key.clone(), object);
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        old
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.by_key.remove(key)?;
        self.unindex(key, &old);
        Some(old)
    }

    /// Takes a former state out of the index, unless the present one is found there too.
    fn unindex(&mut self, key: &ObjectKey, old: &K) {
        let Some(Index { by, found }) = &mut self.index else { return };
        let Some(other) = by(old) else { return };
        if self.by_key.get(key).and_then(|new| by(new)).as_ref() == Some(&other) {
            return;
        }
        if let Some(keys) = found.get_mut(&other) {
            keys.remove(key);
            if keys.is_empty() {
                found.remove(&other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object is the name of what it is found by; the empty one is not found.
    fn by(object: &&str) -> Option<ObjectKey> {
        (!object.is_empty()).then(|| ObjectKey::new("", *object))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("own", name)
    }

    #[test]
    fn an_index_is_as_if_all_were_looked_at() {
        let mut objects = Objects::default();
        objects.insert(key("before"), Arc::new("x"));
        objects.index(by);
        let steps = [
            ("a", Some("x")),
            ("b", Some("x")),
            ("a", Some("x")),
            ("a", Some("y")),
            ("c", Some("")),
            ("c", Some("y")),
            ("b", Some("")),
            ("before", None),
            ("a", None),
            ("a", None),
            ("c", None),
            ("b", None),
        ];
        for (name, object) in steps {
            match object {
                Some(object) => drop(objects.insert(key(name), Arc::new(object))),
                None => drop(objects.remove(&key(name))),
            }
            for other in ["x", "y"] {
                let other = ObjectKey::new("", other);
                let wanted: Vec<_> =
                    objects.by_key.values().filter(|object| by(object).as_ref() == Some(&other)).collect();
                assert_eq!(
                    objects.indexed(&other).iter().collect::<Vec<_>>(),
                    wanted,
                    "after {name} {object:?}"
                );
            }
        }
        assert!(objects.index.is_some_and(|index| index.found.is_empty()), "nothing is left of what is gone");
    }
}
