//! The owner of the tables: what should be in them, and the transactions that make it so. There is one for
//! packets and one for ARP; a part is in the one that its schema says, and what follows holds for each.
//!
//! The wanted elements are kept in memory, so a change costs what it changes, and the whole table can be
//! written anew in one transaction whenever someone else touched it. After a restart of the process the
//! table is adopted if its rules are the ones that this program would write: traffic never stops. Where an
//! earlier program's rules were others, the old table stays until all parts are known that this process will
//! have ([`Ruleset::await_parts`]), and is replaced by one transaction: nothing is let through in between.

mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::table::Table;
use super::monitor::Monitor;
use super::{Chain, Datum, Error, Key, Schema, TABLE, Traffic};
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

/// The one owner of the tables `ip skiff` and `arp skiff` in the network namespace where it was opened. Parts are named;
/// each is defined once and then changed.
#[derive(Debug)]
pub struct Ruleset {
    tables: Mutex<Tables>,
    monitor: Mutex<Option<Monitor>>,
}

#[derive(Debug)]
struct Tables {
    packets: Table,
    neighbours: Table,
}

impl Ruleset {
    /// In the calling thread's network namespace. Touches nothing yet.
    pub fn open() -> Result<Arc<Ruleset>, Error> {
        let socket = Arc::new(Socket::open(Family::Netfilter, 0).map_err(Error::Open)?);
        let own = socket.port();
        let tables = Tables {
            packets: Table::new(Arc::clone(&socket), Traffic::Packets),
            neighbours: Table::new(socket, Traffic::Neighbours),
        };
        let ruleset = Arc::new(Ruleset { tables: Mutex::new(tables), monitor: Mutex::new(None) });
        let monitor = Monitor::start(own, Arc::downgrade(&ruleset)).map_err(Error::Open)?;
        *ruleset.monitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(monitor);
        Ok(ruleset)
    }

    /// Says which parts about packets this process is going to define or withdraw, each of them sooner or
    /// later. What an earlier process left of them is in force until then, also where the whole table has to be
    /// written.
    pub fn await_parts(&self, parts: &[&'static str]) {
        self.lock().packets.awaited.extend(parts);
    }

    /// Puts a part's chains and maps into the table, with these elements. If just such rules are there
    /// already, from before a restart, only elements that differ are changed; otherwise the table is
    /// written anew, in one transaction. That waits for awaited parts of which an earlier process left
    /// rules: until [`Ruleset::is_settled`], the part is not in force.
    pub fn define(&self, part: &'static str, schema: Schema, contents: Contents) -> Result<(), Error> {
        self.lock().seeing(schema.traffic).define(part, schema, contents)
    }

    /// Whether all that was defined and withdrawn is in force.
    pub fn is_settled(&self) -> bool {
        let tables = self.lock();
        !tables.packets.due && !tables.neighbours.due
    }

    /// Takes a part out of the table again, also one that an earlier process left. The other parts must
    /// not need it.
    pub fn withdraw(&self, part: &'static str, schema: &Schema) -> Result<(), Error> {
        let mut tables = self.lock();
        let inner = tables.seeing(schema.traffic);
        inner.awaited.remove(part);
        inner.withdraw(part, schema)?;
        inner.settle()
    }

    /// Applies a step as one transaction: no packet sees half of it.
    pub fn apply(&self, part: &'static str, step: Step) -> Result<(), Error> {
        self.lock().of(part).apply(part, step)
    }

    /// Makes sure that these chains exist in a part, for maps to lead to: those that come and go by need.
    /// Their names begin as the schema says.
    pub fn add_chains(&self, part: &'static str, chains: Vec<Chain>) -> Result<(), Error> {
        self.lock().of(part).add_chains(part, chains)
    }

    /// Removes chains that were added. No element may lead there any more.
    pub fn remove_chains(&self, part: &'static str, names: &[String]) -> Result<(), Error> {
        self.lock().of(part).remove_chains(part, names)
    }

    /// Applies changes to a part's elements, as one transaction. Steps that change nothing cost nothing.
    pub fn change(&self, part: &'static str, changes: Vec<Change>) -> Result<(), Error> {
        self.lock().of(part).change(part, changes)
    }

    /// Makes these the only elements of the map, changing only what differs.
    pub fn replace(
        &self,
        part: &'static str,
        wanted: Vec<(&'static str, HashMap<Key, Datum>)>,
    ) -> Result<(), Error> {
        self.lock().of(part).replace(part, wanted)
    }

    /// What the key leads to in the part's map, or will once the kernel has taken it.
    pub fn element(&self, part: &'static str, map: &str, key: &Key) -> Option<Datum> {
        self.lock().of(part).part(part).elements.get(map)?.get(key).cloned()
    }

    /// Writes the whole table for packets anew, in one transaction.
    pub fn restore(&self) -> Result<(), Error> {
        self.lock().packets.write_all()
    }

    /// Takes the tables out of the kernel and forgets all parts. Succeeds where there are none.
    pub fn remove(&self) -> Result<(), Error> {
        let mut tables = self.lock();
        tables.packets.remove()?;
        match tables.neighbours.remove() {
            Err(error) if error.is_unsupported() => Ok(()),
            result => result,
        }
    }

    /// Whether the tables in the kernel are what they should be, read back from it.
    pub fn is_intact(&self) -> bool {
        let tables = self.lock();
        tables.packets.is_intact() && tables.neighbours.is_intact()
    }

    pub(super) fn holds(&self, traffic: Traffic) -> bool {
        self.lock().seeing(traffic).is_intact()
    }

    /// Somebody else changed the table: writes it anew if it ought to be there.
    pub(super) fn touched(&self, traffic: Traffic) {
        let mut tables = self.lock();
        let inner = tables.seeing(traffic);
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

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // What a panicking thread left is still the truth about what is wanted.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn seeing(&mut self, traffic: Traffic) -> &mut Table {
        match traffic {
            Traffic::Packets => &mut self.packets,
            Traffic::Neighbours => &mut self.neighbours,
        }
    }

    /// The one that the part is in.
    fn of(&mut self, part: &'static str) -> &mut Table {
        if self.neighbours.parts.contains_key(part) { &mut self.neighbours } else { &mut self.packets }
    }
}
