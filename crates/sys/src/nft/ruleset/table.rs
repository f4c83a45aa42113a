//! One table: what should be in it, what is, and the transactions between the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{Change, Contents, Elements, Step};
use crate::netlink::Socket;
use crate::nft::wire::{self, Batch};
use crate::nft::{Chain, Datum, Error, Key, Schema, TABLE, Traffic};

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    socket: Arc<Socket>,
    traffic: Traffic,
    pub(super) parts: BTreeMap<&'static str, Part>,
    /// Whether the table is in the kernel, as far as we know.
    pub(super) installed: bool,
    /// Parts that this process will define or withdraw, and has not yet.
    pub(super) awaited: BTreeSet<&'static str>,
    /// The whole table is to be written once no part of an earlier process is awaited.
    pub(super) due: bool,
    /// Parts that are not in the kernel until then.
    stale: BTreeSet<&'static str>,
}

#[derive(Debug)]
pub(super) struct Part {
    schema: Schema,
    /// Chains that came later, by need.
    extra: BTreeMap<String, Chain>,
    pub(super) elements: HashMap<&'static str, HashMap<Key, Datum>>,
}

impl Table {
    pub(super) fn new(socket: Arc<Socket>, traffic: Traffic) -> Table {
        Table {
            socket,
            traffic,
            parts: BTreeMap::new(),
            installed: false,
            awaited: BTreeSet::new(),
            due: false,
            stale: BTreeSet::new(),
        }
    }

    pub(super) fn define(
        &mut self,
        part: &'static str,
        schema: Schema,
        contents: Contents,
    ) -> Result<(), Error> {
        self.awaited.remove(part);
        match self.adopt(part, &schema)? {
            Some(adopted) => {
                self.stale.remove(part);
                self.parts.insert(part, adopted);
                let idle = self.leftover(part, &contents.chains)?;
                let changes = self.differences(part, contents.elements);
                self.apply(part, Step { chains: contents.chains, changes, idle })?;
            }
            None => {
                let extra = contents.chains.into_iter().map(|chain| (chain.name.clone(), chain)).collect();
                let elements = contents.elements.into_iter().collect();
                self.parts.insert(part, Part { schema, extra, elements });
                self.write_part(part)?;
                if self.due {
                    self.stale.insert(part);
                }
            }
        }
        self.settle()
    }

    pub(super) fn remove(&mut self) -> Result<(), Error> {
        self.parts.clear();
        self.stale.clear();
        (self.installed, self.due) = (false, false);
        let mut batch = Batch::new(self.traffic);
        batch.table();
        batch.delete_table();
        batch.commit(&self.socket).map_err(|source| Error::Write { what: "end".into(), source })
    }

    pub(super) fn is_intact(&self) -> bool {
        !self.installed || self.parts.iter().all(|(name, part)| self.holds(name, part))
    }

    /// The chains that are in the kernel, each with its number of rules.
    fn present(&self) -> Result<HashMap<String, usize>, Error> {
        wire::chains(&self.socket, self.traffic).map_err(|source| Error::Read { what: "chains", source })
    }

    pub(super) fn part(&mut self, part: &'static str) -> &mut Part {
        self.parts.entry(part).or_insert_with(|| Part::new(Schema::default()))
    }

    pub(super) fn add_chains(&mut self, part: &'static str, chains: Vec<Chain>) -> Result<(), Error> {
        self.apply(part, Step { chains, ..Step::default() })
    }

    pub(super) fn remove_chains(&mut self, part: &'static str, names: &[String]) -> Result<(), Error> {
        self.apply(part, Step { idle: names.to_vec(), ..Step::default() })
    }

    pub(super) fn change(&mut self, part: &'static str, changes: Vec<Change>) -> Result<(), Error> {
        self.apply(part, Step { changes, ..Step::default() })
    }

    pub(super) fn replace(&mut self, part: &'static str, wanted: Elements) -> Result<(), Error> {
        let changes = self.differences(part, wanted);
        self.change(part, changes)
    }

    pub(super) fn apply(&mut self, part: &'static str, step: Step) -> Result<(), Error> {
        let mut batch = Batch::new(self.traffic);
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
        let present = self.present()?;
        let names = present.into_keys().filter(|name| name.starts_with(passing));
        Ok(names.filter(|name| wanted.iter().all(|chain| chain.name != *name)).collect())
    }

    pub(super) fn withdraw(&mut self, part: &'static str, schema: &Schema) -> Result<(), Error> {
        self.parts.remove(part);
        self.stale.remove(part);
        let present = self.present()?;
        let is_own = present.contains_key(&marker(part, schema));
        let chains: Vec<String> = present.into_keys().filter(|name| schema.owns(part, name)).collect();
        if chains.is_empty() {
            return Ok(());
        }
        if !is_own {
            // An earlier program's: it may have chains and maps that this one can't name.
            return self.write_all();
        }
        let mut batch = Batch::new(self.traffic);
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
        let present = self.present()?;
        if present.keys().any(|chain| part.schema.owns(name, chain)) {
            return self.write_all();
        }
        let mut batch = Batch::new(self.traffic);
        part.create(name, &mut batch);
        part.fill(&mut batch);
        self.commit(batch, || format!("rules of {name}"))
    }

    /// Or notes that this is due, where it would take what an earlier process left of an awaited part.
    pub(super) fn write_all(&mut self) -> Result<(), Error> {
        if self.would_lose()? {
            tracing::info!(table = TABLE, awaited = ?self.awaited, "table of an earlier start stays until all is known");
            self.due = true;
            return Ok(());
        }
        let mut batch = Batch::new(self.traffic);
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
        let present = self.present()?;
        Ok(present.keys().any(|chain| self.awaited.iter().any(|part| is_marker(part, chain))))
    }

    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.due { self.write_all() } else { Ok(()) }
    }

    fn holds(&self, name: &str, part: &Part) -> bool {
        let Ok(present) = self.present() else { return false };
        present.contains_key(&marker(name, &part.schema))
            && part.chains().all(|chain| present.get(&chain.name) == Some(&chain.rules.len()))
            && part.schema.maps.iter().all(|map| {
                let wanted = part.elements.get(map.name).into_iter().flatten();
                let wanted: HashMap<_, _> = wanted.map(|(key, datum)| (*key, datum.clone())).collect();
                wire::elements(&self.socket, self.traffic, map)
                    .is_ok_and(|found| HashMap::from_iter(found) == wanted)
            })
    }

    /// The part as it is in the kernel, if its chains and rules are those of the schema.
    fn adopt(&mut self, name: &'static str, schema: &Schema) -> Result<Option<Part>, Error> {
        let present = self.present()?;
        let intact = present.contains_key(&marker(name, schema))
            && schema.chains.iter().all(|chain| present.get(&chain.name) == Some(&chain.rules.len()));
        if !intact {
            return Ok(None);
        }
        let mut part = Part::new(schema.clone());
        for map in &schema.maps {
            match wire::elements(&self.socket, self.traffic, map) {
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
