//! Everybody's tables in short: enough to tell later whether one is what it was.
//!
//! What changes by itself is left out: what rules count, and the elements of sets, which come and go with
//! connections and time. What is left changes only when somebody changes a table, chain, rule or set: the
//! kernel gives each a number of its own, and never the same again. Numbers are those of
//! linux/netfilter/nf_tables.h.

use std::io;

use super::Error;
use super::listing::{dump, generation};
use super::wire::{GET_CHAIN, GET_RULE, GET_SET, GET_TABLE};
use crate::netlink::{Family, Socket, attribute, attributes, settled, text, was_interrupted};

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// As `nft` names it.
    pub family: String,
    pub name: String,
    pub chains: usize,
    pub rules: usize,
    pub sets: usize,
    /// Differs when any of it does, also by its order.
    pub content: Vec<u8>,
}

/// A request for the tables of all families.
const ANY: u8 = 0;

/// Of a table, its flags and number; of the others what makes them what they are, but for what counts.
const OF_TABLE: [u16; 2] = [2, 4];
const OF_CHAIN: [u16; 6] = [2, 3, 4, 5, 7, 10];
const OF_RULE: [u16; 4] = [2, 3, 5, 7];
const OF_SET: [u16; 7] = [2, 3, 4, 5, 6, 7, 16];

const EXPRESSIONS: u16 = 4;

/// What these say of themselves changes with each packet that they see.
const COUNTING: [&str; 3] = ["counter", "quota", "last"];

/// The tables of the calling thread's namespace, as they are at one moment.
pub fn read() -> Result<Vec<Table>, Error> {
    let socket = Socket::open(Family::Netfilter, 0).map_err(Error::Open)?;
    let changed = |error: &Error| matches!(error, Error::Read { source, .. } if was_interrupted(source));
    settled(|| read_once(&socket), changed)
}

fn read_once(socket: &Socket) -> Result<Vec<Table>, Error> {
    let failed = |what| move |source| Error::Read { what, source };
    let mut tables: Vec<Table> = Vec::new();
    let before = generation(socket).map_err(failed("number of changes"))?;
    dump(socket, GET_TABLE, ANY, &[], |body| tables.extend(table(body))).map_err(failed("tables"))?;
    for (request, what) in [(GET_CHAIN, "chains"), (GET_SET, "sets"), (GET_RULE, "rules")] {
        let each = |body: &[u8]| {
            let found = of(body, 1).and_then(|(family, name)| {
                tables.iter_mut().find(|table| table.family == family && table.name == name)
            });
            if let Some(table) = found {
                table.add(request, body.get(4..).unwrap_or(&[]));
            }
        };
        dump(socket, request, ANY, &[], each).map_err(failed(what))?;
    }
    if generation(socket).map_err(failed("number of changes"))? != before {
        return Err(failed("state of one moment")(io::ErrorKind::Interrupted.into()));
    }
    Ok(tables)
}

/// Family and table, whose name is the attribute `name`.
fn of(body: &[u8], name: u16) -> Option<(String, String)> {
    let (header, rest) = body.split_at_checked(4)?;
    Some((family(header[0]), text(attribute(rest, name)?)))
}

fn family(number: u8) -> String {
    let known = [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];
    let known = known.into_iter().find(|(own, _)| *own == number);
    known.map_or_else(|| format!("family {number}"), |(_, name)| name.to_owned())
}

fn table(body: &[u8]) -> Option<Table> {
    let (family, name) = of(body, 1)?;
    let mut table = Table { family, name, chains: 0, rules: 0, sets: 0, content: Vec::new() };
    table.note(body.get(4..)?, &OF_TABLE);
    Some(table)
}

impl Table {
    fn add(&mut self, request: u16, own: &[u8]) {
        match request {
            GET_CHAIN => {
                self.chains += 1;
                self.note(own, &OF_CHAIN);
            }
            GET_SET => {
                self.sets += 1;
                self.note(own, &OF_SET);
            }
            _ => {
                self.rules += 1;
                self.note(own, &OF_RULE);
                for (_, expression) in attributes(attribute(own, EXPRESSIONS).unwrap_or(&[])) {
                    let name = attribute(expression, 1).map(text).unwrap_or_default();
                    let said: &[u16] = if COUNTING.contains(&name.as_str()) { &[1] } else { &[1, 2] };
                    self.note(expression, said);
                }
            }
        }
    }

    /// Each with its length before it, so that no two contents of different parts are the same bytes.
    fn note(&mut self, own: &[u8], kinds: &[u16]) {
        for kind in kinds {
            let value = attribute(own, *kind).unwrap_or(&[]);
            self.content.extend_from_slice(&(value.len() as u32).to_be_bytes());
            self.content.extend_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_answers_never_panic() {
        crate::netlink::random::bodies(4, |body| {
            let mut table = table(body).unwrap_or_else(|| Table {
                family: family(0),
                name: String::new(),
                chains: 0,
                rules: 0,
                sets: 0,
                content: Vec::new(),
            });
            for request in [GET_CHAIN, GET_SET, GET_RULE] {
                table.add(request, body.get(4..).unwrap_or(&[]));
            }
        });
    }
}
