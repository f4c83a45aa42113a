//! The messages of nfnetlink's table subsystem: batches out, tables and elements in.
//!
//! Numbers are those of linux/netfilter/nf_tables.h.

use std::collections::HashMap;
use std::io;

use super::{Chain, Datum, Hook, Key, Map, Point, TABLE, Traffic, Type, Value, Verdict};
use crate::netlink::{
    ACK, APPEND, CREATE, DUMP, EXCLUSIVE, Socket, Writer, attribute, attributes, settled, text,
    was_interrupted,
};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GET_GENERATION: u16 = SUBSYSTEM | 16;
pub(super) const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
pub(super) const GET_SET: u16 = SUBSYSTEM | 10;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
pub(super) const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// struct nfgenmsg: family, version, resource
const HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// A nested attribute holds less than 64 KiB, so long lists of elements take several messages.
const ELEMENTS_MAX: usize = 48 * 1024;

/// One transaction on one table in the making: all of it happens, or nothing.
pub(super) struct Batch<'a> {
    table: &'a str,
    family: u8,
    writer: Writer,
    count: u32,
}

impl<'a> Batch<'a> {
    /// On one of the tables of the node.
    pub(super) fn new(traffic: Traffic) -> Batch<'static> {
        Batch::of_family(TABLE, traffic.family())
    }

    /// On another table for IPv4.
    pub(super) fn of(table: &'a str) -> Batch<'a> {
        Batch::of_family(table, HEADER[0])
    }

    pub(super) fn of_family(table: &'a str, family: u8) -> Batch<'a> {
        let mut writer = Writer::new();
        writer.message(BATCH_BEGIN, 0, 0, &batch_header()).end();
        Batch { table, family, writer, count: 0 }
    }

    /// Creates the table if it is not there.
    pub(super) fn table(&mut self) {
        let table = self.table;
        self.message(NEW_TABLE, CREATE).string(1, table).end();
    }

    /// A table that nobody else can change, and that goes when the socket that commits this is closed, however
    /// its process ends.
    pub(super) fn owned_table(&mut self) {
        const OWNER: u32 = 2;
        let table = self.table;
        self.message(NEW_TABLE, CREATE | EXCLUSIVE).string(1, table).be32(2, OWNER).end();
    }

    /// The table must be there.
    pub(super) fn delete_table(&mut self) {
        let table = self.table;
        self.message(DELETE_TABLE, 0).string(1, table).end();
    }

    /// The chain without its rules, so that rules and elements can lead to it.
    pub(super) fn chain(&mut self, chain: &Chain) {
        let (table, family) = (self.table, self.family);
        let w = self.message(NEW_CHAIN, CREATE);
        w.string(1, table).string(3, &chain.name);
        if let Some(hook) = &chain.hook {
            let nest = w.open(4);
            w.be32(1, hook_number(family, hook)).be32(2, hook.priority as u32).close(nest);
            w.string(7, if hook.nat { "nat" } else { "filter" });
        }
        w.end();
    }

    /// A base chain for what comes in by one device, where the table is for devices.
    pub(super) fn chain_at(&mut self, chain: &Chain, device: &str) {
        let table = self.table;
        let priority = chain.hook.as_ref().map_or(0, |hook| hook.priority);
        let w = self.message(NEW_CHAIN, CREATE);
        w.string(1, table).string(3, &chain.name);
        let nest = w.open(4);
        // NF_NETDEV_INGRESS
        w.be32(1, 0).be32(2, priority as u32).string(3, device).close(nest);
        w.string(7, "filter").end();
    }

    /// Nothing leads from it any more.
    pub(super) fn clear_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(DELETE_RULE, 0).string(1, table).string(2, name).end();
    }

    /// With its elements; no rule may look into it any more.
    pub(super) fn delete_map(&mut self, name: &str) {
        let table = self.table;
        self.message(DELETE_SET, 0).string(1, table).string(2, name).end();
    }

    /// With its rules; nothing may lead to it any more.
    pub(super) fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(DELETE_CHAIN, 0).string(1, table).string(3, name).end();
    }

    /// Replaces the chain's rules.
    pub(super) fn rules(&mut self, chain: &Chain, exists: bool) {
        if exists {
            self.clear_chain(&chain.name);
        }
        let table = self.table;
        for rule in &chain.rules {
            let w = self.message(NEW_RULE, CREATE | APPEND);
            w.string(1, table).string(2, &chain.name);
            rule.write(w);
            w.end();
        }
    }

    pub(super) fn map(&mut self, map: &Map) {
        const IS_MAP: u32 = 8;
        let (id, table) = (self.count + 1, self.table);
        let w = self.message(NEW_SET, CREATE);
        w.string(1, table).string(2, map.name);
        let flags = if matches!(map.value, Value::None) { 0 } else { IS_MAP };
        w.be32(3, flags).be32(4, type_number(map.key)).be32(5, 4 * map.key.len() as u32);
        match map.value {
            Value::None => {}
            Value::Verdict => {
                w.be32(6, VERDICT_TYPE).be32(7, 16);
            }
            Value::Data(types) => {
                w.be32(6, type_number(types)).be32(7, 4 * types.len() as u32);
            }
        }
        w.be32(10, id).end();
    }

    /// A set of at most so many elements that rules fill.
    pub(super) fn filled_by_rules(&mut self, name: &str, key: &[Type], size: u32) {
        const EVALUATED: u32 = 0x20;
        let (id, table) = (self.count + 1, self.table);
        let w = self.message(NEW_SET, CREATE);
        w.string(1, table).string(2, name).be32(3, EVALUATED);
        w.be32(4, type_number(key)).be32(5, 4 * key.len() as u32);
        let nest = w.open(9);
        w.be32(1, size).close(nest);
        w.be32(10, id).end();
    }

    pub(super) fn insert<'e>(&mut self, map: &str, elements: impl Iterator<Item = (&'e Key, &'e Datum)>) {
        self.elements(NEW_ELEMENTS, CREATE, map, elements);
    }

    pub(super) fn remove<'e>(&mut self, map: &str, keys: impl Iterator<Item = &'e Key>) {
        self.elements(DELETE_ELEMENTS, 0, map, keys.map(|key| (key, &Datum::Member)));
    }

    /// Hands the transaction to the kernel. It is done, or refused as a whole, when this returns.
    pub(super) fn commit(mut self, socket: &Socket) -> io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        // Old answers, should an earlier call have broken off.
        socket.queued()?;
        self.writer.flag_last(ACK);
        let last = self.count;
        self.writer.message(BATCH_END, 0, last + 1, &batch_header()).end();
        socket.send(self.writer.as_bytes())?;
        let answers = socket.queued()?;
        if let Some((_, error)) = answers.iter().find(|(_, error)| *error != 0) {
            return Err(io::Error::from_raw_os_error(*error));
        }
        if answers.iter().any(|(sequence, _)| *sequence == last) {
            Ok(())
        } else {
            Err(io::Error::other("the kernel did not acknowledge the transaction"))
        }
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        map: &str,
        elements: impl Iterator<Item = (&'e Key, &'e Datum)>,
    ) {
        let table = self.table;
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let w = self.message(kind, flags);
            w.string(1, table).string(2, map);
            let list = w.open(3);
            while w.message_length() < ELEMENTS_MAX
                && let Some((key, datum)) = elements.next()
            {
                let element = w.open(1);
                let nest = w.open(1);
                w.attribute(1, key.as_bytes()).close(nest);
                match datum {
                    Datum::Member => {}
                    Datum::Data(value) => {
                        let nest = w.open(2);
                        w.attribute(1, value.as_bytes()).close(nest);
                    }
                    Datum::Verdict(verdict) => {
                        let nest = w.open(2);
                        write_verdict(w, verdict);
                        w.close(nest);
                    }
                }
                w.close(element);
            }
            w.close(list).end();
        }
    }

    fn message(&mut self, kind: u16, flags: u16) -> &mut Writer {
        self.count += 1;
        let [_, version, resource @ ..] = HEADER;
        self.writer.message(kind, flags, self.count, &[self.family, version, resource[0], resource[1]])
    }
}

/// Hooks of ARP are numbered anew (linux/netfilter_arp.h).
fn hook_number(family: u8, hook: &Hook) -> u32 {
    match hook.at {
        Point::Input if family == Traffic::Neighbours.family() => 0,
        Point::Output if family == Traffic::Neighbours.family() => 1,
        at => at as u32,
    }
}

/// struct nfgenmsg of a table of the node
fn header(traffic: Traffic) -> [u8; 4] {
    let [_, rest @ ..] = HEADER;
    [traffic.family(), rest[0], rest[1], rest[2]]
}

/// The nested verdict attribute of data.
pub(super) fn write_verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    let nest = w.open(2);
    w.be32(1, code as u32);
    if let Some(chain) = chain {
        w.string(2, chain);
    }
    w.close(nest);
}

pub(super) fn read_verdict(verdict: &[u8]) -> Option<Verdict> {
    let code = i32::from_be_bytes(attribute(verdict, 1)?.try_into().ok()?);
    let chain = || attribute(verdict, 2).map(text);
    Some(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -5 => Verdict::Return,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        _ => return None,
    })
}

/// The names of the table's chains, each with its number of rules.
pub(super) fn chains(socket: &Socket, traffic: Traffic) -> io::Result<HashMap<String, usize>> {
    let header = header(traffic);
    let once = || {
        let mut chains = HashMap::new();
        let mut request = Writer::new();
        request.message(GET_CHAIN, DUMP, 1, &header).string(1, TABLE).end();
        socket.dump(request.as_bytes(), |message| {
            if let Some((table, name)) = names(message.body, 3)
                && table == TABLE
            {
                chains.insert(name, 0);
            }
        })?;
        let mut request = Writer::new();
        request.message(GET_RULE, DUMP, 1, &header).string(1, TABLE).end();
        socket.dump(request.as_bytes(), |message| {
            if let Some((table, name)) = names(message.body, 2)
                && table == TABLE
            {
                *chains.entry(name).or_default() += 1;
            }
        })?;
        Ok(chains)
    };
    settled(once, was_interrupted)
}

/// All elements of a map. An error if the map is not there.
pub(super) fn elements(socket: &Socket, traffic: Traffic, map: &Map) -> io::Result<Vec<(Key, Datum)>> {
    let mut request = Writer::new();
    request.message(GET_ELEMENTS, DUMP, 1, &header(traffic)).string(1, TABLE).string(2, map.name).end();
    let once = || {
        let mut found = Vec::new();
        socket.dump(request.as_bytes(), |message| {
            let list = message.body.get(4..).and_then(|body| attribute(body, 3)).unwrap_or(&[]);
            found.extend(attributes(list).filter_map(|(_, element)| read_element(element, &map.value)));
        })?;
        Ok(found)
    };
    settled(once, was_interrupted)
}

fn read_element(element: &[u8], value: &Value) -> Option<(Key, Datum)> {
    let key = Key::read(attribute(attribute(element, 1)?, 1)?)?;
    let data = || attribute(element, 2);
    let datum = match value {
        Value::None => Datum::Member,
        Value::Data(_) => Datum::Data(Key::read(attribute(data()?, 1)?)?),
        Value::Verdict => Datum::Verdict(read_verdict(attribute(data()?, 2)?)?),
    };
    Some((key, datum))
}

/// Does this notice of the kernel say that our table has changed? (Its name is the first attribute of
/// every object's message.)
pub(super) fn touches_table(traffic: Traffic, kind: u16, body: &[u8]) -> bool {
    (SUBSYSTEM..NEW_GENERATION).contains(&kind)
        && body.first() == Some(&traffic.family())
        && body.get(4..).and_then(|body| attribute(body, 1)).map(text).as_deref() == Some(TABLE)
}

fn names(body: &[u8], name: u16) -> Option<(String, String)> {
    let body = body.get(4..)?;
    Some((attribute(body, 1).map(text)?, attribute(body, name).map(text)?))
}

fn batch_header() -> [u8; 4] {
    let [high, low] = 10u16.to_be_bytes();
    [0, 0, high, low]
}

/// How `nft` numbers concatenated types: six bits each.
fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, this| number << 6 | *this as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_answers_never_panic() {
        crate::netlink::random::bodies(4, |body| {
            let _ = (names(body, 3), touches_table(Traffic::Packets, NEW_GENERATION - 1, body));
            for value in [Value::None, Value::Data(&[Type::Address]), Value::Verdict] {
                let _ = read_element(body.get(4..).unwrap_or(&[]), &value);
            }
        });
    }
}
