//! What a listed packet filter does to a packet: the rules are carried out on a value instead of by the
//! kernel.
//!
//! A rule that draws a random number has several outcomes; [`passages`] tells all of them, each with its
//! chance. A rule with an expression that this program does not know leaves a mark, so that nobody takes
//! the outcome for certain.

mod fields;
mod registers;

use std::net::Ipv4Addr;

use super::listing::{
    Expression, Layer, ListedChain, ListedElement, ListedHook, ListedRule, ListedSet, ListedValue, Listing,
    Span, VERDICT_REGISTER, called,
};
use super::words;
use super::{Point, Verdict};
use fields::Loaded;
use registers::{Held, Registers};

/// The packet and what the kernel keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
    pub protocol: u8,
    pub input: String,
    pub output: String,
    /// The hardware address of who sent it over the last link.
    pub sender_hardware: [u8; 6],
    pub connection: Connection,
}

/// What connection tracking knows when the packet passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// It goes the other way than the connection's first packet.
    pub reply: bool,
    /// The first packet of its connection.
    pub new: bool,
    /// Source and destination of the first packet, before any translation.
    pub original: (Ipv4Addr, u16, Ipv4Addr, u16),
    /// Source and destination that an answer comes with: who really answers, and to whom.
    pub answered: (Ipv4Addr, u16, Ipv4Addr, u16),
    pub destination_translated: bool,
    pub source_translated: bool,
    pub mark: u32,
}

impl Packet {
    /// The first of a connection.
    pub fn first(protocol: u8, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Packet {
        Packet {
            source: source.0,
            source_port: source.1,
            destination: destination.0,
            destination_port: destination.1,
            protocol,
            input: String::new(),
            output: String::new(),
            sender_hardware: [0; 6],
            connection: Connection {
                reply: false,
                new: true,
                original: (source.0, source.1, destination.0, destination.1),
                answered: (destination.0, destination.1, source.0, source.1),
                destination_translated: false,
                source_translated: false,
                mark: 0,
            },
        }
    }
}

impl Packet {
    /// Forgets the connection: another namespace tracks its own.
    pub fn enter_namespace(&mut self) {
        let sent = (self.source, self.source_port, self.destination, self.destination_port);
        let answered = (self.destination, self.destination_port, self.source, self.source_port);
        let connection = &mut self.connection;
        (connection.original, connection.answered) =
            if connection.reply { (answered, sent) } else { (sent, answered) };
        connection.source_translated = false;
        connection.destination_translated = false;
        connection.mark = 0;
    }
}

/// What the filter asks of the machine.
pub trait Machine {
    fn is_local(&self, address: Ipv4Addr) -> bool;
    /// The number that rules call the link by, where it is known.
    fn index_of(&self, _link: &str) -> Option<u32> {
        None
    }
    /// The address that masquerading takes on this link.
    fn address_of(&self, link: &str, towards: Ipv4Addr) -> Option<Ipv4Addr>;
}

/// A rule that did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub table: String,
    pub chain: String,
    pub handle: u64,
    pub comment: Option<String>,
    /// The rule in `nft`'s words.
    pub rule: String,
    /// What it did to the packet, if it was not a mere step into a chain.
    pub effect: Option<String>,
    pub doubtful: bool,
}

impl Step {
    /// Whether the rule gave the packet over to that chain.
    pub fn leads_to(&self, chain: &str) -> bool {
        let to = |verb| self.rule.strip_suffix(chain).is_some_and(|rule| rule.ends_with(verb));
        to("jump ") || to("goto ")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Accepted,
    Dropped,
    Reset,
    Unreachable,
}

/// One outcome at one hook.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    pub chance: f64,
    pub packet: Packet,
    pub end: End,
    pub steps: Vec<Step>,
}

/// Beyond this many outcomes draws are not told apart further: the first number stands for all.
const OUTCOMES_MAX: usize = 256;
/// Beyond this many addresses or ports which one the kernel takes is not known.
const CHOICES_MAX: u32 = 64;
/// The kernel's limit of nested jumps.
const DEPTH_MAX: usize = 16;
/// No value in registers is wider than that, in bytes.
const WIDEST: usize = 16;
/// All translating chains of a hook run at one place among the others (linux/netfilter_ipv4.h).
const TRANSLATES_DESTINATION_AT: i32 = -100;
const TRANSLATES_SOURCE_AT: i32 = 100;

/// All that can become of a packet at a hook where it is routed.
pub fn passages(listing: &Listing, machine: &dyn Machine, at: Point, packet: &Packet) -> Vec<Passage> {
    passages_of(listing, machine, Layer::Network, at, packet)
}

/// All that can become of a packet at a hook; for neighbours, of the question who has its destination.
pub fn passages_of(
    listing: &Listing,
    machine: &dyn Machine,
    layer: Layer,
    at: Point,
    packet: &Packet,
) -> Vec<Passage> {
    let mut outcomes = Vec::new();
    let mut scripts: Vec<Vec<(u32, u32)>> = vec![Vec::new()];
    while let Some(script) = scripts.pop() {
        let draws = outcomes.len() + scripts.len() < OUTCOMES_MAX;
        let mut run =
            Run { listing, machine, layer, script: &script, draws, drawn: 0, wants: None, steps: Vec::new() };
        let (end, packet) = run.hook(at, packet.clone());
        match run.wants {
            Some(modulus) => {
                // Last in, first out: the draws come in order.
                scripts.extend((0..modulus).rev().map(|draw| {
                    let mut longer = script.clone();
                    longer.push((draw, modulus));
                    longer
                }));
            }
            None => {
                let chance = script.iter().map(|(_, modulus)| 1.0 / f64::from(*modulus)).product();
                outcomes.push(Passage { chance, packet, end, steps: run.steps });
            }
        }
    }
    outcomes
}

impl ListedHook {
    /// Whether the packet is at its device, where it has one.
    fn is_at(&self, packet: &Packet) -> bool {
        let device = if self.at == Point::Prerouting { &packet.input } else { &packet.output };
        self.layer != Layer::Device
            || self.devices.iter().any(|name| match name.strip_suffix('*') {
                Some(prefix) => device.starts_with(prefix),
                None => name == device,
            })
    }
}

struct Run<'a> {
    listing: &'a Listing,
    machine: &'a dyn Machine,
    layer: Layer,
    /// The draws made so far: number and modulus.
    script: &'a [(u32, u32)],
    /// Whether more draws are told apart.
    draws: bool,
    drawn: usize,
    /// A draw that the script has no number for.
    wants: Option<u32>,
    steps: Vec<Step>,
}

/// How a rule or chain ended.
enum Fate {
    Continue,
    Return,
    Jump(String),
    Goto(String),
    End(End),
}

impl Run<'_> {
    fn hook(&mut self, at: Point, mut packet: Packet) -> (End, Packet) {
        let layer = self.layer;
        let mut chains: Vec<(&ListedChain, &ListedHook)> = self
            .listing
            .chains
            .iter()
            .filter_map(|chain| Some((chain, chain.hook.as_ref()?)))
            .filter(|(_, hook)| hook.layer == layer && hook.at == at && hook.is_at(&packet))
            .collect();
        let nat_at = match at {
            Point::Prerouting | Point::Output => TRANSLATES_DESTINATION_AT,
            _ => TRANSLATES_SOURCE_AT,
        };
        chains.sort_by_key(
            |(_, hook)| {
                if hook.nat { (nat_at, hook.priority) } else { (hook.priority, i32::MIN) }
            },
        );
        for (chain, hook) in chains {
            // A connection is translated by its first packet alone, and by one chain of a kind.
            if hook.nat && (!packet.connection.new || is_bound(at, &packet)) {
                continue;
            }
            let end = self.chain(chain, &mut packet, 0).unwrap_or(if hook.drops {
                self.steps.push(Step {
                    table: called(chain.family, &chain.table),
                    chain: chain.name.clone(),
                    handle: 0,
                    comment: None,
                    rule: "policy drop".into(),
                    effect: Some("dropped".into()),
                    doubtful: false,
                });
                End::Dropped
            } else {
                End::Accepted
            });
            if self.wants.is_some() || end != End::Accepted {
                return (end, packet);
            }
        }
        (End::Accepted, packet)
    }

    /// `None` if the end of the chain was reached.
    fn chain(&mut self, chain: &ListedChain, packet: &mut Packet, depth: usize) -> Option<End> {
        for rule in &chain.rules {
            let fate = self.rule(chain, rule, packet);
            if self.wants.is_some() {
                return Some(End::Dropped);
            }
            let (name, comes_back) = match fate {
                Fate::Continue => continue,
                Fate::Return => return None,
                Fate::End(end) => return Some(end),
                Fate::Jump(name) => (name, true),
                Fate::Goto(name) => (name, false),
            };
            let next = self.listing.chain(chain.family, &chain.table, &name)?;
            let end = if depth < DEPTH_MAX { self.chain(next, packet, depth + 1) } else { None };
            if end.is_some() || !comes_back {
                return end;
            }
        }
        None
    }

    fn rule(&mut self, chain: &ListedChain, rule: &ListedRule, packet: &mut Packet) -> Fate {
        let mut registers = Registers::default();
        let before = packet.clone();
        let mut doubtful = false;
        let mut fate = Fate::Continue;
        let mut did = false;
        for expression in &rule.expressions {
            match self.expression(chain, expression, packet, &mut registers) {
                Some(Done::Next) => {}
                Some(Done::Fate(end)) => {
                    fate = end;
                    did = true;
                    break;
                }
                Some(Done::Doubt) => doubtful = true,
                // It does not match.
                None => return Fate::Continue,
            }
        }
        if did || doubtful {
            let effect = words::effect(
                &before,
                packet,
                match &fate {
                    Fate::End(end) => Some(*end),
                    _ => None,
                },
            );
            self.steps.push(Step {
                table: called(chain.family, &chain.table),
                chain: chain.name.clone(),
                handle: rule.handle,
                comment: rule.comment.clone(),
                rule: words::rule(rule),
                effect,
                doubtful,
            });
        }
        fate
    }

    /// One of so many; `None` where each of them is to be told apart first.
    fn draw(&mut self, modulus: u32) -> Option<u32> {
        if modulus <= 1 {
            return Some(0);
        }
        let number = match self.script.get(self.drawn) {
            Some((number, _)) => *number,
            None if !self.draws => 0,
            None => {
                self.wants = Some(modulus);
                return None;
            }
        };
        self.drawn += 1;
        Some(number)
    }

    fn meta(&self, packet: &Packet, key: u32) -> Option<Vec<u8>> {
        const INPUT: u32 = 4;
        const OUTPUT: u32 = 5;
        let index = |link: &str| match link {
            "" => Some(0),
            link => self.machine.index_of(link),
        };
        match key {
            INPUT => Some(index(&packet.input)?.to_ne_bytes().to_vec()),
            OUTPUT => Some(index(&packet.output)?.to_ne_bytes().to_vec()),
            key => fields::meta(self.layer, packet, key),
        }
    }

    fn expression(
        &mut self,
        chain: &ListedChain,
        expression: &Expression,
        packet: &mut Packet,
        registers: &mut Registers,
    ) -> Option<Done> {
        // What can't be known leaves doubt, here and wherever it is looked at.
        let doubt = |registers: &mut Registers, into: usize, length: usize| {
            registers.forget(into, length);
            Some(Done::Doubt)
        };
        let next = |put: Option<()>| put.map(|()| Done::Next);
        let holds =
            |registers: &Registers, from: usize, length: usize, is: &dyn Fn(&[u8]) -> bool| match registers
                .get(from, length)?
            {
                Held::Known(value) => is(&value).then_some(Done::Next),
                Held::Unknown => Some(Done::Doubt),
            };
        match expression {
            Expression::Payload { base, offset, length, into } => {
                match fields::payload(self.layer, packet, *base, *offset, *length) {
                    Loaded::Bytes(bytes) => next(registers.put(*into, &bytes)),
                    Loaded::Unknown => doubt(registers, *into, *length),
                    Loaded::Absent => None,
                }
            }
            Expression::Meta { key, into } => match self.meta(packet, *key) {
                Some(bytes) => next(registers.put(*into, &bytes)),
                None => doubt(registers, *into, WIDEST),
            },
            Expression::Connection { key, reply, into } => {
                // Elsewhere the kernel has not looked for its connection, or looks on its own.
                let routed = self.layer == Layer::Network;
                match fields::connection(packet, *key, *reply).filter(|_| routed) {
                    Some(bytes) => next(registers.put(*into, &bytes)),
                    None => doubt(registers, *into, WIDEST),
                }
            }
            Expression::SetMark { from } => match registers.get(*from, 4)? {
                Held::Known(word) => {
                    packet.connection.mark = u32::from_ne_bytes(word.try_into().ok()?);
                    Some(Done::Next)
                }
                Held::Unknown => Some(Done::Doubt),
            },
            Expression::Constant { bytes, into } => next(registers.put(*into, bytes)),
            Expression::Verdict(verdict) => Some(Done::Fate(fate(verdict))),
            Expression::Compare { from, operator, bytes } => {
                holds(registers, *from, bytes.len(), &|value| match operator {
                    0 => value == bytes.as_slice(),
                    1 => value != bytes.as_slice(),
                    2 => value < bytes.as_slice(),
                    3 => value <= bytes.as_slice(),
                    4 => value > bytes.as_slice(),
                    _ => value >= bytes.as_slice(),
                })
            }
            Expression::Range { from, unequal, first, last } => {
                let inside = |value: &[u8]| first.as_slice() <= value && value <= last.as_slice();
                holds(registers, *from, first.len(), &|value| inside(value) != *unequal)
            }
            Expression::Bitwise { from, into, mask, xor } => match registers.get(*from, mask.len())? {
                Held::Known(value) => {
                    let bits = value.iter().zip(mask).zip(xor);
                    let bytes: Vec<u8> = bits.map(|((value, mask), xor)| value & mask ^ xor).collect();
                    next(registers.put(*into, &bytes))
                }
                Held::Unknown => {
                    registers.forget(*into, mask.len());
                    Some(Done::Next)
                }
            },
            Expression::Lookup { set, from, into, inverted } => {
                let set = self.listing.sets.get(&(chain.family, chain.table.clone(), set.clone()));
                let length = set.and_then(|set| Some(set.elements.first()?.key.len())).unwrap_or(0);
                let found = match registers.get(*from, length)? {
                    Held::Known(key) => set.and_then(|set| find(set, &key)),
                    Held::Unknown => {
                        if let Some(into) = into.filter(|into| *into != VERDICT_REGISTER) {
                            registers.forget(into, WIDEST);
                        }
                        return Some(Done::Doubt);
                    }
                };
                match (found, into) {
                    (found, None) => (found.is_some() != *inverted).then_some(Done::Next),
                    (None, Some(_)) => None,
                    (Some(ListedValue::Verdict(verdict)), Some(_)) => Some(Done::Fate(fate(&verdict))),
                    (Some(ListedValue::Data(bytes)), Some(into)) => next(registers.put(*into, &bytes)),
                    (Some(ListedValue::Member), Some(_)) => Some(Done::Doubt),
                }
            }
            Expression::Number { modulus, offset, into } => {
                let number = self.draw(*modulus)?;
                next(registers.put(*into, &(number + offset).to_ne_bytes()))
            }
            Expression::AddressType { source, into } => {
                const UNICAST: u32 = 1;
                const LOCAL: u32 = 2;
                let address = if *source { packet.source } else { packet.destination };
                let kind = if self.machine.is_local(address) { LOCAL } else { UNICAST };
                next(registers.put(*into, &kind.to_ne_bytes()))
            }
            Expression::Translate { source, address, port, prefix } => {
                let own = if *source {
                    (packet.source, packet.source_port)
                } else {
                    (packet.destination, packet.destination_port)
                };
                let address = match address.map(|span| word(registers, span)) {
                    None => None,
                    Some(Ends::None) => None,
                    Some(Ends::Unknown) => return Some(Done::Doubt),
                    Some(Ends::Known(first, last)) => {
                        let (first, last) = (u32::from_be_bytes(first), u32::from_be_bytes(last));
                        Some(Ipv4Addr::from_bits(if *prefix {
                            let mask = !(first ^ last);
                            first & mask | own.0.to_bits() & !mask
                        } else if !(first..=last).contains(&first) || last - first >= CHOICES_MAX {
                            return Some(Done::Doubt);
                        } else {
                            first + self.draw(last - first + 1)?
                        }))
                    }
                };
                let port = match port.map(|span| word(registers, span)) {
                    None => None,
                    Some(Ends::None) => None,
                    Some(Ends::Unknown) => return Some(Done::Doubt),
                    Some(Ends::Known(first, last)) => {
                        let port = |word: [u8; 4]| u16::from_be_bytes([word[0], word[1]]);
                        let (first, last) = (port(first), port(last));
                        Some(if first == last || *source {
                            // Which port an answer is to come to decides nothing: it stands for all.
                            first
                        } else if (first..=last).contains(&own.1) {
                            own.1
                        } else if last < first || u32::from(last - first) >= CHOICES_MAX {
                            return Some(Done::Doubt);
                        } else {
                            first + self.draw(u32::from(last - first) + 1)? as u16
                        })
                    }
                };
                translate(packet, *source, address, port);
                Some(Done::Fate(Fate::End(End::Accepted)))
            }
            Expression::Masquerade => {
                if let Some(address) = self.machine.address_of(&packet.output, packet.destination) {
                    packet.source = address;
                    packet.connection.answered.2 = address;
                }
                packet.connection.source_translated = true;
                Some(Done::Fate(Fate::End(End::Accepted)))
            }
            Expression::Redirect { .. } => Some(Done::Doubt),
            Expression::Reject { reset } => {
                Some(Done::Fate(Fate::End(if *reset { End::Reset } else { End::Unreachable })))
            }
            Expression::Aside(_) => Some(Done::Next),
            Expression::Unknown(_) => {
                registers.forget_all();
                Some(Done::Doubt)
            }
        }
    }
}

/// What both registers of a span hold.
enum Ends {
    Known([u8; 4], [u8; 4]),
    Unknown,
    None,
}

fn word(registers: &Registers, span: Span) -> Ends {
    match (registers.get(span.first, 4), registers.get(span.last, 4)) {
        (Some(Held::Known(first)), Some(Held::Known(last))) => match (first.try_into(), last.try_into()) {
            (Ok(first), Ok(last)) => Ends::Known(first, last),
            _ => Ends::None,
        },
        (Some(Held::Unknown), _) | (_, Some(Held::Unknown)) => Ends::Unknown,
        (None, _) | (_, None) => Ends::None,
    }
}

/// To an address and a port, where there is one.
fn translate(packet: &mut Packet, source: bool, address: Option<Ipv4Addr>, port: Option<u16>) {
    if source {
        packet.source = address.unwrap_or(packet.source);
        packet.source_port = port.unwrap_or(packet.source_port);
        packet.connection.answered.2 = packet.source;
        packet.connection.answered.3 = packet.source_port;
        packet.connection.source_translated = true;
    } else {
        packet.destination = address.unwrap_or(packet.destination);
        packet.destination_port = port.unwrap_or(packet.destination_port);
        packet.connection.answered.0 = packet.destination;
        packet.connection.answered.1 = packet.destination_port;
        packet.connection.destination_translated = true;
    }
}

fn is_bound(at: Point, packet: &Packet) -> bool {
    match at {
        Point::Prerouting | Point::Output => packet.connection.destination_translated,
        _ => packet.connection.source_translated,
    }
}

enum Done {
    Next,
    Fate(Fate),
    /// It can't be known.
    Doubt,
}

fn fate(verdict: &Verdict) -> Fate {
    match verdict {
        Verdict::Accept => Fate::End(End::Accepted),
        Verdict::Drop => Fate::End(End::Dropped),
        Verdict::Return => Fate::Return,
        Verdict::Jump(chain) => Fate::Jump(chain.clone()),
        Verdict::Goto(chain) => Fate::Goto(chain.clone()),
    }
}

/// The element that the key is, or whose range it lies in.
fn find(set: &ListedSet, key: &[u8]) -> Option<ListedValue> {
    let inside = |element: &&ListedElement| {
        match &element.key_end {
            Some(end) => {
                // Each part of a concatenation is a range of its own.
                let parts = key.chunks(4).zip(element.key.chunks(4)).zip(end.chunks(4));
                parts.into_iter().all(|((part, first), last)| first <= part && part <= last)
            }
            None => key == element.key,
        }
    };
    let concatenated = set.elements.iter().any(|element| element.key_end.is_some());
    if !set.interval || concatenated {
        return set.elements.iter().find(inside).map(|element| element.value.clone());
    }
    let border = set
        .elements
        .iter()
        .filter(|element| element.key.as_slice() <= key)
        // Where one range ends and the next begins at the same key, the beginning counts.
        .max_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)))?;
    (!border.end).then(|| border.value.clone())
}

#[cfg(test)]
mod tests;
