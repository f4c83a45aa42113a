//! The whole packet filter of a network namespace, as the kernel lists it: everybody's tables, not ours
//! alone.
//!
//! What Skiff explains it reads from here, so that a rule which somebody else put in the way is found
//! too. An expression that this program does not know is kept as [`Expression::Unknown`]: whoever works
//! with the rule can then say that it can't know. Numbers are those of linux/netfilter/nf_tables.h.

use std::collections::HashMap;
use std::io;

use super::wire::{GET_CHAIN, GET_ELEMENTS, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, read_verdict};
use super::{Error, Point, Verdict, tracer};
use crate::netlink::{
    ACK, DUMP, Family, Socket, Writer, attribute, attributes, settled, text, was_interrupted,
};

/// All chains and sets that IPv4 packets can meet, and the questions for their neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub chains: Vec<ListedChain>,
    /// By family, table and name.
    pub sets: HashMap<(u8, String, String), ListedSet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedChain {
    pub family: u8,
    pub table: String,
    pub name: String,
    pub hook: Option<ListedHook>,
    pub rules: Vec<ListedRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedHook {
    pub layer: Layer,
    /// At a device, what comes in is before routing, and what goes out after it.
    pub at: Point,
    /// Where at devices, these; one that ends in `*` stands for all that begin so.
    pub devices: Vec<String>,
    pub priority: i32,
    pub nat: bool,
    /// What becomes of a packet that no rule decided on.
    pub drops: bool,
}

/// What a chain filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Packets, where they are routed.
    Network,
    /// Frames, as a bridge carries them.
    Bridge,
    /// Frames, as a device takes or sends them.
    Device,
    /// Questions for neighbours, and their answers (ARP).
    Neighbour,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    pub handle: u64,
    pub comment: Option<String>,
    pub expressions: Vec<Expression>,
}

/// Registers are numbered by four-byte words, as the kernel's `NFT_REG32_00` and on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    Payload {
        base: u32,
        offset: usize,
        length: usize,
        into: usize,
    },
    Meta {
        key: u32,
        into: usize,
    },
    Connection {
        key: u32,
        reply: Option<bool>,
        into: usize,
    },
    /// The connection's mark becomes what the register holds.
    SetMark {
        from: usize,
    },
    /// Something that the kernel keeps beside the packet becomes what the register holds.
    SetMeta {
        key: u32,
        from: usize,
    },
    /// Bytes of the packet do.
    SetPayload {
        base: u32,
        offset: usize,
        length: usize,
        from: usize,
    },
    Constant {
        bytes: Vec<u8>,
        into: usize,
    },
    Verdict(Verdict),
    Compare {
        from: usize,
        operator: u32,
        bytes: Vec<u8>,
    },
    Range {
        from: usize,
        unequal: bool,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    Bitwise {
        from: usize,
        into: usize,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// `into` is `None` for a set; a map of verdicts has [`VERDICT_REGISTER`].
    Lookup {
        set: String,
        from: usize,
        into: Option<usize>,
        inverted: bool,
    },
    /// A random number, or the next in turn: below the modulus, plus the offset.
    Number {
        modulus: u32,
        offset: u32,
        into: usize,
    },
    /// What kind of address the route lookup finds: of this machine or not.
    AddressType {
        source: bool,
        into: usize,
    },
    /// The same of the machine's links, or over which link the routes lead.
    Route {
        asks: RouteAsks,
        into: usize,
    },
    /// To an address and a port, or to one of those from the first to the last.
    Translate {
        source: bool,
        address: Option<Span>,
        port: Option<Span>,
        /// The address keeps what the span's ends have in common for itself, and takes the rest of what it was.
        prefix: bool,
    },
    Masquerade,
    Redirect {
        port: Option<usize>,
    },
    /// With a TCP reset, or with ICMP.
    Reject {
        reset: bool,
    },
    /// Counts, logs or notes, and decides nothing.
    Aside(String),
    Unknown(String),
}

/// What `fib` asks of the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteAsks {
    /// Of the source address, not of the destination.
    pub source: bool,
    /// The packet's mark counts.
    pub by_mark: bool,
    /// It has to be this link.
    pub on: Side,
    pub result: RouteResult,
    /// Whether there is one at all is the result.
    pub presence: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Any,
    Input,
    Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteResult {
    /// The number of the link.
    Index,
    /// Its name.
    Name,
    /// What kind of address it is.
    Kind,
}

/// The registers of the first and of the last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: usize,
    pub last: usize,
}

/// Where verdicts go.
pub const VERDICT_REGISTER: usize = usize::MAX;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedSet {
    /// The keys are the borders of ranges.
    pub interval: bool,
    pub elements: Vec<ListedElement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedElement {
    pub key: Vec<u8>,
    /// The last key of the range, for concatenated ranges.
    pub key_end: Option<Vec<u8>>,
    /// Where a range has ended, for ranges told by their borders.
    pub end: bool,
    pub value: ListedValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedValue {
    Member,
    Data(Vec<u8>),
    Verdict(Verdict),
}

/// A request for all families.
const ANY: u8 = 0;
const INET: u8 = 1;
const IPV4: u8 = libc::AF_INET as u8;
const ARP: u8 = 3;
pub(super) const NETDEV: u8 = 5;
pub(super) const BRIDGE: u8 = 7;

/// The family by `nft`'s name, where a table needs it to be found: what is for IPv4 packets is called by its
/// table alone.
pub fn called(family: u8, table: &str) -> String {
    match family {
        ARP => format!("arp {table}"),
        NETDEV => format!("netdev {table}"),
        BRIDGE => format!("bridge {table}"),
        _ => table.to_owned(),
    }
}

impl Listing {
    /// Reads the packet filter of the namespace that the socket belongs to: what it was at one moment.
    pub fn read(socket: &Socket) -> Result<Listing, Error> {
        let changed = |error: &Error| matches!(error, Error::Read { source, .. } if was_interrupted(source));
        settled(|| Listing::read_once(socket), changed)
    }

    fn read_once(socket: &Socket) -> Result<Listing, Error> {
        let failed = |what| move |source| Error::Read { what, source };
        let mut listing = Listing::default();
        let before = generation(socket).map_err(failed("number of changes"))?;
        let mut dormant = Vec::new();
        dump(socket, GET_TABLE, ANY, &[], |body| dormant.extend(read_dormant(body)))
            .map_err(failed("tables"))?;
        let met = |body: &[u8]| {
            let family = body.first().copied().unwrap_or_default();
            let table = body.get(4..).and_then(|body| attribute(body, 1)).map(text).unwrap_or_default();
            // What watches a connection for a moment changes nothing.
            matches!(family, INET | IPV4 | ARP | NETDEV | BRIDGE)
                && !table.starts_with(tracer::TABLES)
                && !dormant.contains(&(family, table))
        };
        dump(socket, GET_CHAIN, ANY, &[], |body| {
            listing.chains.extend(read_chain(body).filter(|_| met(body)));
        })
        .map_err(failed("chains"))?;
        dump(socket, GET_RULE, ANY, &[], |body| listing.add_rule(body)).map_err(failed("rules"))?;
        let mut names = Vec::new();
        dump(socket, GET_SET, ANY, &[], |body| {
            let set = read_set(body).filter(|_| met(body));
            names.extend(set.map(|(table, name, set)| (body[0], table, name, set)));
        })
        .map_err(failed("sets"))?;
        for (family, table, name, mut set) in names {
            let element = |body: &[u8]| {
                let list = body.get(4..).and_then(|body| attribute(body, 3)).unwrap_or(&[]);
                let read = attributes(list).filter_map(|(_, element)| read_element(element));
                set.elements.extend(read);
            };
            match dump(socket, GET_ELEMENTS, family, &[(1, &table), (2, &name)], element) {
                // It went away while one looked.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                result => result.map_err(failed("elements"))?,
            }
            listing.sets.insert((family, table, name), set);
        }
        if generation(socket).map_err(failed("number of changes"))? != before {
            return Err(failed("state of one moment")(io::ErrorKind::Interrupted.into()));
        }
        Ok(listing)
    }

    /// Of the calling thread's namespace.
    pub fn open() -> Result<Listing, Error> {
        Listing::read(&Socket::open(Family::Netfilter, 0).map_err(Error::Open)?)
    }

    pub fn chain(&self, family: u8, table: &str, name: &str) -> Option<&ListedChain> {
        self.chains.iter().find(|chain| chain.family == family && chain.table == table && chain.name == name)
    }

    fn add_rule(&mut self, body: &[u8]) {
        let Some((family, table, chain, rule)) = read_rule(body) else { return };
        let found = self
            .chains
            .iter_mut()
            .find(|this| this.family == family && this.table == table && this.name == chain);
        if let Some(found) = found {
            found.rules.push(rule);
        }
    }
}

/// What others filter before packets are routed: frames on bridges, and what comes in by devices, with the names of
/// these (one that ends in `*` stands for all that begin so).
pub(super) fn before_routing(socket: &Socket) -> io::Result<(bool, Vec<String>)> {
    let once = || {
        let (mut bridges, mut devices) = (false, Vec::new());
        dump(socket, GET_CHAIN, ANY, &[], |body| {
            let chain = read_chain(body).filter(|chain| !chain.table.starts_with(tracer::TABLES));
            match chain.and_then(|chain| chain.hook) {
                Some(hook) if hook.layer == Layer::Bridge => bridges = true,
                Some(hook) if hook.layer == Layer::Device && hook.at == Point::Prerouting => {
                    devices.extend(hook.devices);
                }
                _ => {}
            }
        })?;
        Ok((bridges, devices))
    };
    settled(once, was_interrupted)
}

/// Counts the transactions of the namespace.
pub(super) fn generation(socket: &Socket) -> io::Result<Option<u32>> {
    let mut request = Writer::new();
    request.message(GET_GENERATION, ACK, 1, &[0, 0, 0, 0]).end();
    let mut found = None;
    socket.dump(request.as_bytes(), |message| {
        found = message.body.get(4..).and_then(|body| be32(attribute(body, 1)));
    })?;
    Ok(found)
}

pub(super) fn dump(
    socket: &Socket,
    kind: u16,
    family: u8,
    names: &[(u16, &String)],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut request = Writer::new();
    request.message(kind, DUMP, 1, &[family, 0, 0, 0]);
    for (number, name) in names {
        request.string(*number, name);
    }
    request.end();
    socket.dump(request.as_bytes(), |message| each(message.body))
}

fn be32(bytes: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_be_bytes(bytes?.try_into().ok()?))
}

/// Family and name of a table whose chains are at no hook: somebody put it to sleep.
fn read_dormant(body: &[u8]) -> Option<(u8, String)> {
    const DORMANT: u32 = 1;
    let (header, rest) = body.split_at_checked(4)?;
    let flags = be32(attribute(rest, 2)).unwrap_or(0);
    (flags & DORMANT != 0).then_some((header[0], text(attribute(rest, 1)?)))
}

fn read_chain(body: &[u8]) -> Option<ListedChain> {
    const POLICY_DROP: u32 = 0;
    const DEVICE_PREFIX: u16 = 2;
    let (header, rest) = body.split_at_checked(4)?;
    let hook = attribute(rest, 4).and_then(|hook| {
        let (layer, at) = hook_of(header[0], be32(attribute(hook, 1))?)?;
        let listed = attributes(attribute(hook, 4).unwrap_or(&[])).map(|(kind, name)| match kind {
            DEVICE_PREFIX => format!("{}*", text(name)),
            _ => text(name),
        });
        let mut devices: Vec<String> = listed.collect();
        devices.extend(attribute(hook, 3).map(text).filter(|_| devices.is_empty()));
        Some(ListedHook {
            layer,
            at,
            devices,
            priority: be32(attribute(hook, 2))? as i32,
            nat: attribute(rest, 7).map(text).as_deref() == Some("nat"),
            drops: be32(attribute(rest, 5)) == Some(POLICY_DROP),
        })
    });
    Some(ListedChain {
        family: header[0],
        table: text(attribute(rest, 1)?),
        name: text(attribute(rest, 3)?),
        hook,
        rules: Vec::new(),
    })
}

/// Hooks are numbered anew in each family (linux/netfilter.h, netfilter_bridge.h, netfilter_arp.h).
fn hook_of(family: u8, number: u32) -> Option<(Layer, Point)> {
    let routed = match number {
        0 => Some(Point::Prerouting),
        1 => Some(Point::Input),
        2 => Some(Point::Forward),
        3 => Some(Point::Output),
        4 => Some(Point::Postrouting),
        _ => None,
    };
    Some(match (family, number) {
        (NETDEV, 0) | (INET, 5) => (Layer::Device, Point::Prerouting),
        (NETDEV, 1) => (Layer::Device, Point::Postrouting),
        (ARP, 0) => (Layer::Neighbour, Point::Input),
        (ARP, 1) => (Layer::Neighbour, Point::Output),
        (BRIDGE, _) => (Layer::Bridge, routed?),
        (IPV4 | INET, _) => (Layer::Network, routed?),
        _ => return None,
    })
}

fn read_rule(body: &[u8]) -> Option<(u8, String, String, ListedRule)> {
    let (header, rest) = body.split_at_checked(4)?;
    let expressions = attributes(attribute(rest, 4).unwrap_or(&[])).map(|(_, expression)| {
        let name = attribute(expression, 1).map(text).unwrap_or_default();
        read_expression(&name, attribute(expression, 2).unwrap_or(&[])).unwrap_or(Expression::Unknown(name))
    });
    let rule = ListedRule {
        handle: u64::from_be_bytes(attribute(rest, 3)?.try_into().ok()?),
        comment: attribute(rest, 7).and_then(read_comment),
        expressions: expressions.collect(),
    };
    Some((header[0], text(attribute(rest, 1)?), text(attribute(rest, 2)?), rule))
}

/// The comment among a rule's user data: triples of type, length and value, as `nft` writes them.
pub(super) fn read_comment(mut data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    while let [kind, length, rest @ ..] = data {
        let (value, more) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        data = more;
    }
    None
}

/// Registers of 16 bytes are numbered from one, those of four bytes from eight.
fn register(bytes: Option<&[u8]>) -> Option<usize> {
    match be32(bytes)? {
        0 => Some(VERDICT_REGISTER),
        wide @ 1..=4 => Some(4 * (wide as usize - 1)),
        narrow @ 8..=23 => Some(narrow as usize - 8),
        _ => None,
    }
}

fn data(bytes: Option<&[u8]>) -> Option<Vec<u8>> {
    attribute(bytes?, 1).map(<[u8]>::to_vec)
}

fn read_expression(name: &str, a: &[u8]) -> Option<Expression> {
    let number = |kind| be32(attribute(a, kind));
    let reg = |kind| register(attribute(a, kind));
    Some(match name {
        "payload" if attribute(a, 5).is_some() => Expression::SetPayload {
            from: reg(5)?,
            base: number(2)?,
            offset: number(3)? as usize,
            length: number(4)? as usize,
        },
        "payload" => Expression::Payload {
            into: reg(1)?,
            base: number(2)?,
            offset: number(3)? as usize,
            length: number(4)? as usize,
        },
        "meta" if attribute(a, 3).is_some() => Expression::SetMeta { key: number(2)?, from: reg(3)? },
        "meta" => Expression::Meta { into: reg(1)?, key: number(2)? },
        // The register is its source.
        "ct" if attribute(a, 4).is_some() && number(2)? == 3 => Expression::SetMark { from: reg(4)? },
        "ct" => Expression::Connection {
            into: reg(1)?,
            key: number(2)?,
            reply: attribute(a, 3).and_then(|direction| direction.first()).map(|reply| *reply == 1),
        },
        "immediate" => match reg(1)? {
            VERDICT_REGISTER => Expression::Verdict(read_verdict(attribute(attribute(a, 2)?, 2)?)?),
            into => Expression::Constant { into, bytes: data(attribute(a, 2))? },
        },
        "cmp" => Expression::Compare { from: reg(1)?, operator: number(2)?, bytes: data(attribute(a, 3))? },
        "range" => Expression::Range {
            from: reg(1)?,
            unequal: number(2)? == 1,
            first: data(attribute(a, 3))?,
            last: data(attribute(a, 4))?,
        },
        "bitwise" if number(6).unwrap_or(0) == 0 => Expression::Bitwise {
            from: reg(1)?,
            into: reg(2)?,
            mask: data(attribute(a, 4))?,
            xor: data(attribute(a, 5))?,
        },
        "lookup" => Expression::Lookup {
            set: text(attribute(a, 1)?),
            from: reg(2)?,
            into: reg(3),
            inverted: number(5).unwrap_or(0) & 1 != 0,
        },
        "numgen" => Expression::Number { into: reg(1)?, modulus: number(2)?, offset: number(4).unwrap_or(0) },
        "fib" => {
            const ADDRESS_TYPE: u32 = 3;
            const SOURCE: u32 = 1;
            const DESTINATION: u32 = 2;
            match (number(2)?, number(3)?) {
                (ADDRESS_TYPE, SOURCE) => Expression::AddressType { source: true, into: reg(1)? },
                (ADDRESS_TYPE, DESTINATION) => Expression::AddressType { source: false, into: reg(1)? },
                (result, flags) => Expression::Route { asks: RouteAsks::read(result, flags)?, into: reg(1)? },
            }
        }
        "nat" => {
            const PREFIX: u32 = 1 << 6;
            let span = |first, last| reg(first).map(|first| Span { first, last: reg(last).unwrap_or(first) });
            Expression::Translate {
                source: number(1)? == 0,
                address: span(3, 4),
                port: span(5, 6),
                prefix: number(7).unwrap_or(0) & PREFIX != 0,
            }
        }
        "masq" => Expression::Masquerade,
        "redir" => Expression::Redirect { port: reg(1) },
        "reject" => Expression::Reject { reset: number(1)? == 1 },
        "counter" | "log" => Expression::Aside(name.into()),
        _ => return None,
    })
}

impl RouteAsks {
    fn read(result: u32, flags: u32) -> Option<RouteAsks> {
        const SOURCE: u32 = 1;
        const DESTINATION: u32 = 2;
        const MARK: u32 = 4;
        const INPUT: u32 = 8;
        const OUTPUT: u32 = 16;
        const PRESENT: u32 = 32;
        let has = |flag| flags & flag != 0;
        let known = flags & !(SOURCE | DESTINATION | MARK | INPUT | OUTPUT | PRESENT) == 0;
        // One address, and one link at most.
        if !known || has(SOURCE) == has(DESTINATION) || has(INPUT) && has(OUTPUT) {
            return None;
        }
        let on = match (has(INPUT), has(OUTPUT)) {
            (true, _) => Side::Input,
            (_, true) => Side::Output,
            _ => Side::Any,
        };
        let result = match result {
            1 => RouteResult::Index,
            2 => RouteResult::Name,
            3 => RouteResult::Kind,
            _ => return None,
        };
        Some(RouteAsks { source: has(SOURCE), by_mark: has(MARK), on, result, presence: has(PRESENT) })
    }
}

fn read_set(body: &[u8]) -> Option<(String, String, ListedSet)> {
    const INTERVAL: u32 = 4;
    let rest = body.get(4..)?;
    let flags = be32(attribute(rest, 3)).unwrap_or(0);
    let set = ListedSet { interval: flags & INTERVAL != 0, elements: Vec::new() };
    Some((text(attribute(rest, 1)?), text(attribute(rest, 2)?), set))
}

fn read_element(element: &[u8]) -> Option<ListedElement> {
    const INTERVAL_END: u32 = 1;
    let value = match attribute(element, 2) {
        None => ListedValue::Member,
        Some(value) => match attribute(value, 2) {
            Some(verdict) => ListedValue::Verdict(read_verdict(verdict)?),
            None => ListedValue::Data(attribute(value, 1)?.to_vec()),
        },
    };
    Some(ListedElement {
        key: data(attribute(element, 1))?,
        key_end: data(attribute(element, 10)),
        end: be32(attribute(element, 3)).unwrap_or(0) & INTERVAL_END != 0,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_answers_never_panic() {
        const NAMES: [&str; 10] =
            ["payload", "meta", "ct", "immediate", "cmp", "range", "bitwise", "lookup", "fib", "nat"];
        crate::netlink::random::bodies(4, |body| {
            let _ = (read_chain(body), read_rule(body), read_set(body), read_dormant(body));
            let rest = body.get(4..).unwrap_or(&[]);
            let _ = (read_element(rest), read_comment(rest), hook_of(body.first().copied().unwrap_or(0), 0));
            for name in NAMES {
                let _ = read_expression(name, rest);
            }
        });
    }

    #[test]
    fn comments_are_found_among_user_data() {
        assert_eq!(read_comment(&[1, 1, 9, 0, 3, b'h', b'i', 0]).as_deref(), Some("hi"));
        assert_eq!(read_comment(&[0, 9, b'h']), None);
        assert_eq!(read_comment(&[]), None);
    }
}
