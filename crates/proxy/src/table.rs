//! What is in the ruleset on behalf of which service, and the changes from one plan to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use skiff_client::ObjectKey;
use skiff_sys::nft::{Chain, Change, Contents, Datum, Key};

use crate::plan::{Backend, Frontend, Services, Sources, Target, Ways};
use crate::schema;

/// The frontends in force.
#[derive(Debug, Default)]
pub(crate) struct Table {
    frontends: HashMap<Frontend, (ObjectKey, Ways)>,
    by_service: HashMap<ObjectKey, BTreeSet<Frontend>>,
    /// Services that asked for a frontend which another one has.
    waiting: BTreeSet<ObjectKey>,
    /// The numbers of endpoints that occur, and how often.
    counts: BTreeMap<u32, usize>,
    /// The sets of ranges that alone may connect somewhere, and how often.
    sources: BTreeMap<Sources, usize>,
}

/// What chains are there for.
#[derive(Debug, Default)]
struct Needed {
    counts: BTreeSet<u32>,
    sources: BTreeSet<Sources>,
}

/// A step of the ruleset from one plan to the next.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) chains: Vec<Chain>,
    pub(crate) changes: Vec<Change>,
    /// The names of chains that nothing leads to after the changes.
    pub(crate) idle: Vec<String>,
    /// The frontends that changed, with what they lead to now.
    pub(crate) changed: BTreeMap<Frontend, Vec<Backend>>,
    /// Services to plan again, since what they waited for is free.
    again: BTreeSet<ObjectKey>,
}

impl Table {
    /// Puts the present plans of these services in place of their former ones.
    pub(crate) fn step(
        &mut self,
        mut services: BTreeSet<ObjectKey>,
        plan: impl Fn(&ObjectKey) -> Services,
    ) -> Step {
        let (before, mut step) = (self.needed(), Step::default());
        while let Some(service) = services.pop_first() {
            self.update(&service, plan(&service), &mut step);
            services.append(&mut step.again);
        }
        self.complete(&mut step, &before);
        step
    }

    fn update(&mut self, service: &ObjectKey, mut plan: Services, step: &mut Step) {
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
                self.give_back(&old);
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
            schema::counts(&ways).for_each(|count| *self.counts.entry(count).or_default() += 1);
            if let Some(sources) = &ways.sources {
                *self.sources.entry(sources.clone()).or_default() += 1;
            }
            step.replace(&frontend, old.as_ref(), Some(&ways));
            if let Some(old) = &old {
                self.give_back(old);
            }
        }
        if !after.is_empty() {
            self.by_service.insert(service.clone(), after);
        }
    }

    /// Adds the chains that the step's changes lead to, and removes those that nothing leads to now.
    fn complete(&mut self, step: &mut Step, before: &Needed) {
        self.counts.retain(|_, users| *users > 0);
        self.sources.retain(|_, users| *users > 0);
        let after = self.needed();
        let name = |chain: Chain| chain.name;
        for count in after.counts.difference(&before.counts) {
            step.chains.extend(schema::chains(*count));
        }
        for count in before.counts.difference(&after.counts) {
            step.idle.extend(schema::chains(*count).into_iter().map(name));
        }
        step.chains.extend(after.sources.difference(&before.sources).map(schema::guard));
        step.idle.extend(before.sources.difference(&after.sources).map(schema::guard).map(name));
    }

    /// What there have to be chains for.
    fn needed(&self) -> Needed {
        Needed {
            counts: self.counts.keys().copied().collect(),
            sources: self.sources.keys().cloned().collect(),
        }
    }

    fn give_back(&mut self, ways: &Ways) {
        for count in schema::counts(ways) {
            if let Some(users) = self.counts.get_mut(&count) {
                *users -= 1;
            }
        }
        if let Some(users) = ways.sources.as_ref().and_then(|sources| self.sources.get_mut(sources)) {
            *users -= 1;
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
        let picks = self.counts.keys().flat_map(|count| schema::chains(*count));
        let chains = picks.chain(self.sources.keys().map(schema::guard)).collect();
        Contents { chains, elements: maps.into_iter().collect() }
    }
}

impl Step {
    fn replace(&mut self, frontend: &Frontend, old: Option<&Ways>, new: Option<&Ways>) {
        let elements =
            |ways: Option<&Ways>| ways.map(|ways| schema::elements(frontend, ways)).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Range;
    use crate::plan::Protocol;

    fn web(address: &str, backends: u8) -> Services {
        let frontend = Frontend { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        let backends = (0..backends).map(|last| ([10, 244, 1, last].into(), 8080)).collect();
        Services::from([(
            frontend,
            Ways { inside: Target::Backends(backends), outside: None, sources: None },
        )])
    }

    /// Ranges told apart by a number.
    fn sources(numbers: &[u8]) -> Sources {
        numbers.iter().map(|number| Range { address: [203, 0, *number, 0].into(), prefix: 24 }).collect()
    }

    #[test]
    fn one_chain_serves_all_who_take_connections_from_the_same_ranges() {
        let mut table = Table::default();
        let guarded = |address: &str, numbers: &[u8]| {
            let mut plan = web(address, 1);
            plan.values_mut().for_each(|ways| ways.sources = Some(sources(numbers)));
            plan
        };
        let first = step(&mut table, "a", guarded("198.51.100.1", &[1, 2]));
        assert_eq!(summary(&first), (5, 3, 0, 0), "four to pick, and one");
        assert_eq!(summary(&step(&mut table, "b", guarded("198.51.100.2", &[2, 1]))), (0, 3, 0, 0));
        let other = step(&mut table, "b", guarded("198.51.100.2", &[1]));
        assert_eq!(summary(&other), (1, 3, 0, 0), "all elements of what changed are written");
        let gone = step(&mut table, "a", Services::new());
        assert_eq!(summary(&gone), (0, 0, 3, 1));
        assert_eq!(gone.idle[0], first.chains[4].name);
        assert!(gone.idle[0].starts_with("pick-from-"), "{}", gone.idle[0]);
        assert_eq!(table.contents().chains.len(), 5);
    }

    fn key(service: &str) -> ObjectKey {
        ObjectKey::new("default", service)
    }

    fn step(table: &mut Table, service: &str, plan: Services) -> Step {
        table.step(BTreeSet::from([key(service)]), |_| plan.clone())
    }

    fn summary(step: &Step) -> (usize, usize, usize, usize) {
        let inserted = step.changes.iter().filter(|change| matches!(change, Change::Insert { .. })).count();
        (step.chains.len(), inserted, step.changes.len() - inserted, step.idle.len())
    }

    #[test]
    fn chains_come_with_the_first_number_and_go_with_the_last() {
        let mut table = Table::default();
        assert_eq!(summary(&step(&mut table, "a", web("10.96.0.1", 2))), (4, 3, 0, 0));
        assert_eq!(summary(&step(&mut table, "b", web("10.96.0.2", 2))), (0, 3, 0, 0));
        assert_eq!(summary(&step(&mut table, "b", web("10.96.0.2", 2))), (0, 0, 0, 0));
        assert_eq!(summary(&step(&mut table, "b", web("10.96.0.2", 1))), (4, 2, 1, 0));
        assert_eq!(summary(&step(&mut table, "a", Services::new())), (0, 0, 3, 4));
        assert_eq!(summary(&step(&mut table, "b", Services::new())), (0, 0, 2, 4));
        assert!(table.frontends.is_empty() && table.by_service.is_empty() && table.counts.is_empty());
    }

    #[test]
    fn what_changed_is_told_with_all_that_it_leads_to_now() {
        let mut table = Table::default();
        let frontend = *web("10.96.0.1", 1).keys().next().unwrap();
        let mut plan = web("10.96.0.1", 2);
        let outside = vec![([10, 244, 2, 9].into(), 8080)];
        plan.get_mut(&frontend).unwrap().outside = Some(Target::Backends(outside));
        let changed = step(&mut table, "a", plan.clone()).changed;
        let all = [[10, 244, 1, 0], [10, 244, 1, 1], [10, 244, 2, 9]].map(|ip| (ip.into(), 8080)).to_vec();
        assert_eq!(changed, BTreeMap::from([(frontend, all)]));
        assert!(step(&mut table, "a", plan).changed.is_empty());
        assert_eq!(step(&mut table, "a", Services::new()).changed, BTreeMap::from([(frontend, Vec::new())]));
    }

    #[test]
    fn who_asks_second_gets_it_when_the_first_is_gone() {
        let mut table = Table::default();
        step(&mut table, "a", web("198.51.100.7", 1));
        assert_eq!(summary(&step(&mut table, "b", web("198.51.100.7", 2))), (0, 0, 0, 0));
        let plan = |service: &ObjectKey| match service.name.as_str() {
            "b" => web("198.51.100.7", 2),
            _ => Services::new(),
        };
        assert_eq!(summary(&table.step(BTreeSet::from([key("a")]), plan)), (4, 3, 2, 4));
        assert_eq!(table.by_service.keys().collect::<Vec<_>>(), [&key("b")]);
    }

    proptest::proptest! {
        /// Services ask for some of four addresses, with up to three endpoints or none.
        #[test]
        fn steps_lead_where_a_new_beginning_would(
            history in proptest::collection::vec((0u8..4, proptest::collection::btree_map(0u8..4, 0u8..4, 0..3)), 1..30)
        ) {
            let (mut table, mut wanted) = (Table::default(), HashMap::<ObjectKey, Services>::new());
            let (mut chains, mut elements) = (BTreeSet::new(), HashMap::new());
            for (service, addresses) in history {
                let service = key(&service.to_string());
                let plan = addresses.iter().flat_map(|(last, backends)| {
                    let mut plan = web(&format!("10.96.0.{last}"), *backends);
                    plan.values_mut().for_each(|ways| match (backends, last) {
                        (0, _) => ways.inside = Target::Reject,
                        (_, 3) => ways.outside = Some(Target::Drop),
                        (2.., 2) => ways.sources = Some(sources(&[*backends])),
                        _ => {}
                    });
                    plan
                });
                wanted.insert(service.clone(), plan.collect());
                let plan = |service: &ObjectKey| wanted.get(service).cloned().unwrap_or_default();
                let step = table.step(BTreeSet::from([service]), plan);
                chains.extend(step.chains.into_iter().map(|chain| chain.name));
                for change in step.changes {
                    match change {
                        Change::Insert { map, key, datum } => drop(elements.insert((map, key), datum)),
                        Change::Remove { map, key } => drop(elements.remove(&(map, key))),
                    }
                }
                for name in &step.idle {
                    proptest::prop_assert!(chains.remove(name));
                }
            }
            let whole = table.contents();
            let whole_chains: BTreeSet<_> = whole.chains.into_iter().map(|chain| chain.name).collect();
            let whole_elements: HashMap<_, _> = whole
                .elements
                .into_iter()
                .flat_map(|(map, elements)| elements.into_iter().map(move |(key, datum)| ((map, key), datum)))
                .collect();
            proptest::prop_assert_eq!(chains, whole_chains);
            proptest::prop_assert_eq!(elements, whole_elements);
            // Every address that somebody wants, somebody has.
            let asked: BTreeSet<Frontend> = wanted.values().flat_map(|plan| plan.keys().copied()).collect();
            proptest::prop_assert_eq!(asked, table.frontends.keys().copied().collect());
        }
    }
}
