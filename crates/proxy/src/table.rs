//! What is in the ruleset on behalf of which service, and the changes from one plan to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use skiff_client::ObjectKey;
use skiff_sys::nft::{Change, Chain, Contents, Datum, Key};

use crate::plan::{Backend, Frontend, Services, Target, Ways};
use crate::schema;

/// The frontends in force.
#[derive(Debug, Default)]
pub(crate) struct Table {
    frontends: HashMap<Frontend, (ObjectKey, Ways)>,
    by_service: HashMap<ObjectKey, BTreeSet<Frontend>>,
    /// Services that asked for a frontend which another one has.
    waiting: BTreeSet<ObjectKey>,
    counts: BTreeSet<u32>,
}

/// A step of the ruleset from one plan to the next.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) chains: Vec<Chain>,
    pub(crate) changes: Vec<Change>,
    /// The frontends that changed, with what they lead to now.
    pub(crate) changed: BTreeMap<Frontend, Vec<Backend>>,
    /// Services to plan again, since what they waited for is free.
    pub(crate) again: BTreeSet<ObjectKey>,
}

impl Table {
    /// Puts a service's plan in place of its former one.
    pub(crate) fn update(&mut self, service: &ObjectKey, mut plan: Services, step: &mut Step) {
        let before = self.by_service.remove(service).unwrap_or_default();
        // Of two services that want the same, the first has it, and neither disturbs the other.
        let wanted = plan.len();
        plan.retain(|frontend, _| self.frontends.get(frontend).is_none_or(|(owner, _)| owner == service));
        if plan.len() < wanted {
            self.waiting.insert(service.clone());
            tracing::warn!(%service, "another service has the same address and port");
        } else {
            self.waiting.remove(service);
        }
        for frontend in &before {
            if !plan.contains_key(frontend)
                && let Some((_, old)) = self.frontends.remove(frontend)
            {
                step.replace(frontend, Some(&old), None);
                step.again.append(&mut self.waiting);
            }
        }
        let after: BTreeSet<Frontend> = plan.keys().copied().collect();
        for (frontend, ways) in plan {
            let old = self.frontends.insert(frontend, (service.clone(), ways.clone()));
            let old = old.map(|(_, ways)| ways);
            if old.as_ref() == Some(&ways) {
                continue;
            }
            for count in schema::counts(&ways).collect::<Vec<_>>() {
                if self.counts.insert(count) {
                    step.chains.extend(schema::chains(count));
                    for (map, elements) in schema::chain_elements(&BTreeSet::from([count])) {
                        step.changes.extend(insertions(map, elements));
                    }
                }
            }
            step.replace(&frontend, old.as_ref(), Some(&ways));
        }
        if !after.is_empty() {
            self.by_service.insert(service.clone(), after);
        }
    }

    /// Everything, for the beginning.
    pub(crate) fn contents(&self) -> Contents {
        let mut maps: HashMap<&'static str, HashMap<Key, Datum>> =
            schema::SERVICE_MAPS.into_iter().map(|map| (map, HashMap::new())).collect();
        for (frontend, (_, ways)) in &self.frontends {
            for (map, key, datum) in schema::elements(frontend, ways) {
                maps.entry(map).or_default().insert(key, datum);
            }
        }
        let elements = schema::chain_elements(&self.counts).into_iter().chain(maps).collect();
        Contents { chains: self.counts.iter().flat_map(|count| schema::chains(*count)).collect(), elements }
    }
}

impl Step {
    fn replace(&mut self, frontend: &Frontend, old: Option<&Ways>, new: Option<&Ways>) {
        let elements = |ways: Option<&Ways>| ways.map(|ways| schema::elements(frontend, ways)).unwrap_or_default();
        let (old, inserted) = (elements(old), elements(new));
        let kept: BTreeSet<(&str, Key)> = inserted.iter().map(|(map, key, _)| (*map, *key)).collect();
        let gone = old.into_iter().filter(|(map, key, _)| !kept.contains(&(*map, *key)));
        self.changes.extend(gone.map(|(map, key, _)| Change::Remove { map, key }));
        self.changes.extend(inserted.into_iter().map(|(map, key, datum)| Change::Insert { map, key, datum }));
        self.changed.insert(*frontend, new.map(backends).unwrap_or_default());
    }
}

fn backends(ways: &Ways) -> Vec<Backend> {
    let targets = [Some(&ways.inside), ways.outside.as_ref()].into_iter().flatten();
    let backends = targets.flat_map(|target| match target {
        Target::Backends(backends) => backends.as_slice(),
        Target::Reject | Target::Drop => &[],
    });
    backends.copied().collect()
}

fn insertions(map: &'static str, elements: HashMap<Key, Datum>) -> impl Iterator<Item = Change> {
    elements.into_iter().map(move |(key, datum)| Change::Insert { map, key, datum })
}
