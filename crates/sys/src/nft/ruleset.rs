//! The owner of the table: what should be in it, and the transactions that make it so.
//!
//! The wanted elements are kept in memory, so a change costs what it changes, and the whole table can be
//! written anew in one transaction whenever someone else touched it. After a restart of the process the
//! table is adopted if its rules are the ones that this program would write: traffic never stops. Where an
//! earlier program's rules were others, the old table stays until all parts are known that this process will
//! have ([`Ruleset::await_parts`]), and is replaced by one transaction: nothing is let through in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::monitor::Monitor;
use super::wire::{self, Batch};
use super::{Chain, Datum, Error, Key, Schema, TABLE};
use crate::netlink::{Family, Socket};

/// A step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Also replaces.
    Insert {
        map: &'static str,
        key: Key,
        datum: Datum,
    },
    Remove {
        map: &'static str,
        key: Key,
    },
}

/// All elements of some maps, by the maps' names.
pub type Elements = Vec<(&'static str, HashMap<Key, Datum>)>;

/// What a part begins with beside its schema.
#[derive(Debug, Default)]
pub struct Contents {
    /// See [`Ruleset::add_chains`].
    pub chains: Vec<Chain>,
    pub elements: Elements,
}

/// A transaction on a part: chains come, elements change, chains go.
#[derive(Debug, Default)]
pub struct Step {
    /// See [`Ruleset::add_chains`].
    pub chains: Vec<Chain>,
    pub changes: Vec<Change>,
    /// The names of chains that nothing but each other leads to after the changes.
    pub idle: Vec<String>,
}

/// The one owner of the table `ip skiff` in the network namespace where it was opened. Parts are named;
/// each is defined once and then changed.
#[derive(Debug)]
pub struct Ruleset {
    inner: Mutex<Inner>,
    monitor: Mutex<Option<Monitor>>,
}

#[derive(Debug)]
struct Inner {
    socket: Socket,
    parts: BTreeMap<&'static str, Part>,
    /// Whether the table is in the kernel, as far as we know.
    installed: bool,
    /// Parts that this process will define or withdraw, and has not yet.
    awaited: BTreeSet<&'static str>,
    /// The whole table is to be written once no part of an earlier process is awaited.
    due: bool,
    /// Parts that are not in the kernel until then.
    stale: BTreeSet<&'static str>,
}

#[derive(Debug)]
struct Part {
    schema: Schema,
    /// Chains that came later, by need.
    extra: BTreeMap<String, Chain>,
    elements: HashMap<&'static str, HashMap<Key, Datum>>,
}

impl Ruleset {
    /// In the calling thread's network namespace. Touches nothing yet.
    pub fn open() -> Result<Arc<Ruleset>, Error> {
        let socket = Socket::open(Family::Netfilter, 0).map_err(Error::Open)?;
        let own = socket.port();
        let inner = Inner {
            socket,
            parts: BTreeMap::new(),
            installed: false,
            awaited: BTreeSet::new(),
            due: false,
            stale: BTreeSet::new(),
        };
        let ruleset = Arc::new(Ruleset { inner: Mutex::new(inner), monitor: Mutex::new(None) });
        let monitor = Monitor::start(own, Arc::downgrade(&ruleset)).map_err(Error::Open)?;
        *ruleset.monitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(monitor);
        Ok(ruleset)
    }

    /// Says which parts this process is going to define or withdraw, each of them sooner or later. What an
    /// earlier process left of them is in force until then, also where the whole table has to be written.
    pub fn await_parts(&self, parts: &[&'static str]) {
        self.lock().awaited.extend(parts);
    }

    /// Puts a part's chains and maps into the table, with these elements. If just such rules are there
    /// already, from before a restart, only elements that differ are changed; otherwise the table is
    /// written anew, in one transaction. That waits for awaited parts of which an earlier process left
    /// rules: until [`Ruleset::is_settled`], the part is not in force.
    pub fn define(&self, part: &'static str, schema: Schema, contents: Contents) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.awaited.remove(part);
        match inner.adopt(part, &schema)? {
            Some(adopted) => {
                inner.stale.remove(part);
                inner.parts.insert(part, adopted);
                let idle = inner.leftover(part, &contents.chains)?;
                let changes = inner.differences(part, contents.elements);
                inner.apply(part, Step { chains: contents.chains, changes, idle })?;
            }
            None => {
                let extra = contents.chains.into_iter().map(|chain| (chain.name.clone(), chain)).collect();
                let elements = contents.elements.into_iter().collect();
                inner.parts.insert(part, Part { schema, extra, elements });
                inner.write_part(part)?;
                if inner.due {
                    inner.stale.insert(part);
                }
            }
        }
        inner.settle()
    }

    /// Whether all that was defined and withdrawn is in force.
    pub fn is_settled(&self) -> bool {
        !self.lock().due
    }

    /// Takes a part out of the table again, also one that an earlier process left. The other parts must
    /// not need it.
    pub fn withdraw(&self, part: &'static str, schema: &Schema) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.awaited.remove(part);
        inner.withdraw(part, schema)?;
        inner.settle()
    }

    /// Applies a step as one transaction: no packet sees half of it.
    pub fn apply(&self, part: &'static str, step: Step) -> Result<(), Error> {
        self.lock().apply(part, step)
    }

    /// Makes sure that these chains exist in a part, for maps to lead to: those that come and go by need.
    /// Their names begin as the schema says.
    pub fn add_chains(&self, part: &'static str, chains: Vec<Chain>) -> Result<(), Error> {
        self.lock().add_chains(part, chains)
    }

    /// Removes chains that were added. No element may lead there any more.
    pub fn remove_chains(&self, part: &'static str, names: &[String]) -> Result<(), Error> {
        self.lock().remove_chains(part, names)
    }

    /// Applies changes to a part's elements, as one transaction. Steps that change nothing cost nothing.
    pub fn change(&self, part: &'static str, changes: Vec<Change>) -> Result<(), Error> {
        self.lock().change(part, changes)
    }

    /// Makes these the only elements of the map, changing only what differs.
    pub fn replace(
        &self,
        part: &'static str,
        wanted: Vec<(&'static str, HashMap<Key, Datum>)>,
    ) -> Result<(), Error> {
        self.lock().replace(part, wanted)
    }

    /// What the key leads to in the part's map, or will once the kernel has taken it.
    pub fn element(&self, part: &'static str, map: &str, key: &Key) -> Option<Datum> {
        self.lock().part(part).elements.get(map)?.get(key).cloned()
    }

    /// Writes the whole table anew, in one transaction.
    pub fn restore(&self) -> Result<(), Error> {
        self.lock().write_all()
    }

    /// Takes the table out of the kernel and forgets all parts. Succeeds where there is none.
    pub fn remove(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.parts.clear();
        inner.stale.clear();
        (inner.installed, inner.due) = (false, false);
        let mut batch = Batch::new();
        batch.table();
        batch.delete_table();
        batch.commit(&inner.socket).map_err(|source| Error::Write { what: "end".into(), source })
    }

    /// Whether the table in the kernel is what it should be, read back from it.
    pub fn is_intact(&self) -> bool {
        let inner = self.lock();
        !inner.installed || inner.parts.iter().all(|(name, part)| inner.holds(name, part))
    }

    /// Somebody else changed the table: writes it anew if it ought to be there.
    pub(super) fn touched(&self) {
        let mut inner = self.lock();
        if !inner.installed {
            return;
        }
        match inner.write_all() {
            Ok(()) if inner.due => {}
            Ok(()) => tracing::warn!(table = TABLE, "table was changed by another program and is restored"),
            Err(error) => {
                tracing::error!(
                    table = TABLE,
                    error = &error as &dyn std::error::Error,
                    "cannot restore table"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panicking thread left is still the truth about what is wanted.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn part(&mut self, part: &'static str) -> &mut Part {
        self.parts.entry(part).or_insert_with(|| Part::new(Schema::default()))
    }

    fn add_chains(&mut self, part: &'static str, chains: Vec<Chain>) -> Result<(), Error> {
        self.apply(part, Step { chains, ..Step::default() })
    }

    fn remove_chains(&mut self, part: &'static str, names: &[String]) -> Result<(), Error> {
        self.apply(part, Step { idle: names.to_vec(), ..Step::default() })
    }

    fn change(&mut self, part: &'static str, changes: Vec<Change>) -> Result<(), Error> {
        self.apply(part, Step { changes, ..Step::default() })
    }

    fn replace(&mut self, part: &'static str, wanted: Elements) -> Result<(), Error> {
        let changes = self.differences(part, wanted);
        self.change(part, changes)
    }

    fn apply(&mut self, part: &'static str, step: Step) -> Result<(), Error> {
        let mut batch = Batch::new();
        let known = &mut self.part(part).extra;
        let new: Vec<Chain> =
            step.chains.into_iter().filter(|chain| !known.contains_key(&chain.name)).collect();
        new.iter().for_each(|chain| batch.chain(chain));
        new.iter().for_each(|chain| batch.rules(chain, true));
        known.extend(new.into_iter().map(|chain| (chain.name.clone(), chain)));
        self.stage(part, step.changes, &mut batch);
        let known = &mut self.part(part).extra;
        step.idle.iter().for_each(|name| drop(known.remove(name)));
        if step.idle.len() > 1 {
            step.idle.iter().for_each(|name| batch.clear_chain(name));
        }
        step.idle.iter().for_each(|name| batch.delete_chain(name));
        if self.stale.contains(part) {
            return Ok(());
        }
        self.commit(batch, || format!("rules of {part}"))
    }

    /// The chains that an earlier process had need of, and this one has not.
    fn leftover(&mut self, part: &'static str, wanted: &[Chain]) -> Result<Vec<String>, Error> {
        let Some(passing) = self.part(part).schema.passing else { return Ok(Vec::new()) };
        let present = wire::chains(&self.socket).map_err(|source| Error::Read { what: "chains", source })?;
        let names = present.into_keys().filter(|name| name.starts_with(passing));
        Ok(names.filter(|name| wanted.iter().all(|chain| chain.name != *name)).collect())
    }

    fn withdraw(&mut self, part: &'static str, schema: &Schema) -> Result<(), Error> {
        self.parts.remove(part);
        self.stale.remove(part);
        let present = wire::chains(&self.socket).map_err(|source| Error::Read { what: "chains", source })?;
        let is_own = present.contains_key(&marker(part, schema));
        let chains: Vec<String> = present.into_keys().filter(|name| schema.owns(part, name)).collect();
        if chains.is_empty() {
            return Ok(());
        }
        if !is_own {
            // An earlier program's: it may have chains and maps that this one can't name.
            return self.write_all();
        }
        let mut batch = Batch::new();
        chains.iter().for_each(|name| batch.clear_chain(name));
        schema.maps.iter().for_each(|map| batch.delete_map(map.name));
        chains.iter().for_each(|name| batch.delete_chain(name));
        match batch.commit(&self.socket) {
            Ok(()) => Ok(()),
            Err(source) => {
                tracing::warn!(table = TABLE, part, %source, "cannot take out a part, writing the whole table");
                self.write_all()
            }
        }
    }

    fn differences(&mut self, part: &'static str, wanted: Elements) -> Vec<Change> {
        let mut changes = Vec::new();
        for (map, wanted) in wanted {
            let present = self.part(part).elements.get(map);
            let gone = present.into_iter().flatten().filter(|(key, _)| !wanted.contains_key(key));
            changes.extend(gone.map(|(key, _)| Change::Remove { map, key: *key }));
            changes.extend(wanted.into_iter().map(|(key, datum)| Change::Insert { map, key, datum }));
        }
        changes
    }

    /// Takes changes into what is wanted, and those that change anything into the transaction.
    fn stage(&mut self, part: &'static str, changes: Vec<Change>, batch: &mut Batch<'_>) {
        let elements = &mut self.part(part).elements;
        let mut removed: BTreeMap<&str, Vec<Key>> = BTreeMap::new();
        let mut inserted: BTreeMap<&str, HashMap<Key, Datum>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Insert { map, key, datum } => {
                    let old = elements.entry(map).or_default().insert(key, datum.clone());
                    if old.as_ref() == Some(&datum) {
                        continue;
                    }
                    // Removed or replaced twice within one transaction counts once.
                    let pending = inserted.entry(map).or_default().insert(key, datum);
                    if old.is_some() && pending.is_none() {
                        removed.entry(map).or_default().push(key);
                    }
                }
                Change::Remove { map, key } => {
                    let old = elements.get_mut(map).and_then(|elements| elements.remove(&key));
                    let pending = inserted.get_mut(map).and_then(|inserted| inserted.remove(&key));
                    if old.is_some() && pending.is_none() {
                        removed.entry(map).or_default().push(key);
                    }
                }
            }
        }
        for (map, keys) in &removed {
            batch.remove(map, keys.iter());
        }
        for (map, elements) in &inserted {
            batch.insert(map, elements.iter());
        }
    }

    /// Sends a transaction; if the table is not what we believe it is, writes all of it instead.
    fn commit(&mut self, batch: Batch<'_>, what: impl FnOnce() -> String) -> Result<(), Error> {
        if !self.installed {
            return Ok(());
        }
        let Err(source) = batch.commit(&self.socket) else { return Ok(()) };
        tracing::warn!(table = TABLE, %source, "transaction refused, writing the whole table");
        self.write_all().map_err(|error| match error {
            Error::Write { source, .. } => Error::Write { what: what(), source },
            other => other,
        })
    }

    /// Writes a part that is new, without touching the others. Where something of its name is left from
    /// another program, everything is written anew.
    fn write_part(&mut self, name: &'static str) -> Result<(), Error> {
        let Some(part) = self.parts.get(name).filter(|_| self.installed) else { return self.write_all() };
        let present = wire::chains(&self.socket).map_err(|source| Error::Read { what: "chains", source })?;
        if present.keys().any(|chain| part.schema.owns(name, chain)) {
            return self.write_all();
        }
        let mut batch = Batch::new();
        part.create(name, &mut batch);
        part.fill(&mut batch);
        self.commit(batch, || format!("rules of {name}"))
    }

    /// Or notes that this is due, where it would take what an earlier process left of an awaited part.
    fn write_all(&mut self) -> Result<(), Error> {
        if self.would_lose()? {
            tracing::info!(table = TABLE, awaited = ?self.awaited, "table of an earlier start stays until all is known");
            self.due = true;
            return Ok(());
        }
        let mut batch = Batch::new();
        // Created so that it can be deleted, whether it was there or not.
        batch.table();
        batch.delete_table();
        batch.table();
        self.parts.iter().for_each(|(name, part)| part.create(name, &mut batch));
        self.parts.values().for_each(|part| part.fill(&mut batch));
        batch.commit(&self.socket).map_err(|source| Error::Write { what: "whole table".into(), source })?;
        self.installed = true;
        self.due = false;
        self.stale.clear();
        Ok(())
    }

    fn would_lose(&self) -> Result<bool, Error> {
        if self.awaited.is_empty() {
            return Ok(false);
        }
        let present = wire::chains(&self.socket).map_err(|source| Error::Read { what: "chains", source })?;
        Ok(present.keys().any(|chain| self.awaited.iter().any(|part| is_marker(part, chain))))
    }

    fn settle(&mut self) -> Result<(), Error> {
        if self.due { self.write_all() } else { Ok(()) }
    }

    fn holds(&self, name: &str, part: &Part) -> bool {
        let Ok(present) = wire::chains(&self.socket) else { return false };
        present.contains_key(&marker(name, &part.schema))
            && part.chains().all(|chain| present.get(&chain.name) == Some(&chain.rules.len()))
            && part.schema.maps.iter().all(|map| {
                let wanted = part.elements.get(map.name).into_iter().flatten();
                let wanted: HashMap<_, _> = wanted.map(|(key, datum)| (*key, datum.clone())).collect();
                wire::elements(&self.socket, map).is_ok_and(|found| HashMap::from_iter(found) == wanted)
            })
    }

    /// The part as it is in the kernel, if its chains and rules are those of the schema.
    fn adopt(&mut self, name: &'static str, schema: &Schema) -> Result<Option<Part>, Error> {
        let present = wire::chains(&self.socket).map_err(|source| Error::Read { what: "chains", source })?;
        let intact = present.contains_key(&marker(name, schema))
            && schema.chains.iter().all(|chain| present.get(&chain.name) == Some(&chain.rules.len()));
        if !intact {
            return Ok(None);
        }
        let mut part = Part::new(schema.clone());
        for map in &schema.maps {
            match wire::elements(&self.socket, map) {
                Ok(elements) => {
                    part.elements.insert(map.name, elements.into_iter().collect());
                }
                Err(_) => return Ok(None),
            }
        }
        self.installed = true;
        Ok(Some(part))
    }
}

impl Part {
    fn new(schema: Schema) -> Part {
        Part { schema, extra: BTreeMap::new(), elements: HashMap::new() }
    }

    fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.schema.chains.iter().chain(self.extra.values())
    }

    /// Maps and chains, which rules and elements can lead to then.
    fn create(&self, name: &str, batch: &mut Batch<'_>) {
        self.schema.maps.iter().for_each(|map| batch.map(map));
        self.chains().for_each(|chain| batch.chain(chain));
        batch.chain(&Chain::plain(marker(name, &self.schema), Vec::new()));
    }

    fn fill(&self, batch: &mut Batch<'_>) {
        self.chains().for_each(|chain| batch.rules(chain, false));
        for (map, elements) in &self.elements {
            batch.insert(map, elements.iter());
        }
    }
}

impl Schema {
    /// Whether a chain of that name is this part's, as far as its name tells.
    fn owns(&self, part: &str, chain: &str) -> bool {
        is_marker(part, chain)
            || self.chains.iter().any(|this| this.name == chain)
            || self.passing.is_some_and(|passing| chain.starts_with(passing))
    }
}

/// An empty chain whose name tells which rules are in the table, to be read after a restart.
fn marker(part: &str, schema: &Schema) -> String {
    let mut hasher = DefaultHasher::new();
    schema.hash(&mut hasher);
    format!("{part}-{:016x}", hasher.finish())
}

/// Of this part, whatever its rules.
fn is_marker(part: &str, chain: &str) -> bool {
    let hash = chain.strip_prefix(part).and_then(|rest| rest.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
