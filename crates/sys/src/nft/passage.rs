//! What a listed packet filter does to a packet: the rules are carried out on a value instead of by the
//! kernel.
//!
//! A rule that draws a random number has several outcomes; [`passages`] tells all of them, each with its
//! chance. A rule with an expression that this program does not know leaves a mark, so that nobody takes
//! the outcome for certain.

use std::net::Ipv4Addr;

use super::listing::{Expression, ListedChain, ListedElement, ListedRule, ListedSet, ListedValue, Listing};
use super::words;
use super::{Point, Verdict};

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
/// The kernel's limit of nested jumps.
const DEPTH_MAX: usize = 16;
const REGISTERS: usize = 32;
/// All translating chains of a hook run at one place among the others (linux/netfilter_ipv4.h).
const TRANSLATES_DESTINATION_AT: i32 = -100;
const TRANSLATES_SOURCE_AT: i32 = 100;

/// All that can become of a packet at a hook.
pub fn passages(listing: &Listing, machine: &dyn Machine, at: Point, packet: &Packet) -> Vec<Passage> {
    let mut outcomes = Vec::new();
    let mut scripts: Vec<Vec<(u32, u32)>> = vec![Vec::new()];
    while let Some(script) = scripts.pop() {
        let draws = outcomes.len() + scripts.len() < OUTCOMES_MAX;
        let mut run =
            Run { listing, machine, script: &script, draws, drawn: 0, wants: None, steps: Vec::new() };
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

struct Run<'a> {
    listing: &'a Listing,
    machine: &'a dyn Machine,
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
        let mut chains: Vec<&ListedChain> =
            self.listing.chains.iter().filter(|chain| chain.hook.is_some_and(|hook| hook.at == at)).collect();
        let nat_at = match at {
            Point::Prerouting | Point::Output => TRANSLATES_DESTINATION_AT,
            _ => TRANSLATES_SOURCE_AT,
        };
        chains.sort_by_key(|chain| {
            let hook = chain.hook.expect("filtered");
            if hook.nat { (nat_at, hook.priority) } else { (hook.priority, i32::MIN) }
        });
        for chain in chains {
            let Some(hook) = chain.hook else { continue };
            // A connection is translated by its first packet alone, and by one chain of a kind.
            if hook.nat && (!packet.connection.new || is_bound(at, &packet)) {
                continue;
            }
            let end = self.chain(chain, &mut packet, 0).unwrap_or(if hook.drops {
                self.steps.push(Step {
                    table: chain.table.clone(),
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
        let mut registers = [0u8; 4 * REGISTERS];
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
                table: chain.table.clone(),
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

    fn expression(
        &mut self,
        chain: &ListedChain,
        expression: &Expression,
        packet: &mut Packet,
        registers: &mut [u8; 4 * REGISTERS],
    ) -> Option<Done> {
        match expression {
            Expression::Payload { base, offset, length, into } => {
                put(registers, *into, &payload(packet, *base, *offset, *length)?)
            }
            Expression::Meta { key, into } => match meta(packet, *key) {
                Some(bytes) => put(registers, *into, &bytes),
                None => Some(Done::Doubt),
            },
            Expression::Connection { key, reply, into } => match connection(packet, *key, *reply) {
                Some(bytes) => put(registers, *into, &bytes),
                None => Some(Done::Doubt),
            },
            Expression::SetMark { from } => {
                let word = registers.get(4 * from..4 * from + 4)?;
                packet.connection.mark = u32::from_ne_bytes(word.try_into().ok()?);
                Some(Done::Next)
            }
            Expression::Constant { bytes, into } => put(registers, *into, bytes),
            Expression::Verdict(verdict) => Some(Done::Fate(fate(verdict))),
            Expression::Compare { from, operator, bytes } => {
                let value = registers.get(4 * from..4 * from + bytes.len())?;
                let holds = match operator {
                    0 => value == bytes.as_slice(),
                    1 => value != bytes.as_slice(),
                    2 => value < bytes.as_slice(),
                    3 => value <= bytes.as_slice(),
                    4 => value > bytes.as_slice(),
                    _ => value >= bytes.as_slice(),
                };
                holds.then_some(Done::Next)
            }
            Expression::Range { from, unequal, first, last } => {
                let value = registers.get(4 * from..4 * from + first.len())?;
                let inside = first.as_slice() <= value && value <= last.as_slice();
                (inside != *unequal).then_some(Done::Next)
            }
            Expression::Bitwise { from, into, mask, xor } => {
                let value = registers.get(4 * from..4 * from + mask.len())?;
                let bytes: Vec<u8> =
                    value.iter().zip(mask).zip(xor).map(|((value, mask), xor)| value & mask ^ xor).collect();
                put(registers, *into, &bytes)
            }
            Expression::Lookup { set, from, into, inverted } => {
                let found = self
                    .listing
                    .sets
                    .get(&(chain.family, chain.table.clone(), set.clone()))
                    .and_then(|set| find(set, registers.get(4 * from..)?));
                match (found, into) {
                    (found, None) => (found.is_some() != *inverted).then_some(Done::Next),
                    (None, Some(_)) => None,
                    (Some(ListedValue::Verdict(verdict)), Some(_)) => Some(Done::Fate(fate(&verdict))),
                    (Some(ListedValue::Data(bytes)), Some(into)) => put(registers, *into, &bytes),
                    (Some(ListedValue::Member), Some(_)) => Some(Done::Doubt),
                }
            }
            Expression::Number { modulus, offset, into } => {
                let number = if *modulus <= 1 {
                    0
                } else {
                    match self.script.get(self.drawn) {
                        Some((number, _)) => *number,
                        None if !self.draws => 0,
                        None => {
                            self.wants = Some(*modulus);
                            return None;
                        }
                    }
                };
                self.drawn += usize::from(*modulus > 1);
                put(registers, *into, &(number + offset).to_ne_bytes())
            }
            Expression::AddressType { source, into } => {
                const UNICAST: u32 = 1;
                const LOCAL: u32 = 2;
                let address = if *source { packet.source } else { packet.destination };
                let kind = if self.machine.is_local(address) { LOCAL } else { UNICAST };
                put(registers, *into, &kind.to_ne_bytes())
            }
            Expression::Translate { source, address, port } => {
                let word = |register: &Option<usize>| {
                    register.and_then(|register| {
                        <[u8; 4]>::try_from(registers.get(4 * register..4 * register + 4)?).ok()
                    })
                };
                let address = word(address).map(Ipv4Addr::from);
                let port = word(port).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
                if *source {
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
            Expression::Unknown(_) => Some(Done::Doubt),
        }
    }
}

fn is_bound(at: Point, packet: &Packet) -> bool {
    match at {
        Point::Prerouting | Point::Output => packet.connection.destination_translated,
        _ => packet.connection.source_translated,
    }
}

/// Fills whole words, as the kernel does.
fn put(registers: &mut [u8; 4 * REGISTERS], into: usize, bytes: &[u8]) -> Option<Done> {
    let place = registers.get_mut(4 * into..4 * into + bytes.len().next_multiple_of(4))?;
    place.fill(0);
    place[..bytes.len()].copy_from_slice(bytes);
    Some(Done::Next)
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

/// Bytes of the headers, as far as they are known: addresses, protocol and ports.
fn payload(packet: &Packet, base: u32, offset: usize, length: usize) -> Option<Vec<u8>> {
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let mut header = [0u8; 20];
    match base {
        LINK => {
            header[6..12].copy_from_slice(&packet.sender_hardware);
            header[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
        }
        NETWORK => {
            header[0] = 0x45;
            header[8] = 64;
            header[9] = packet.protocol;
            header[12..16].copy_from_slice(&packet.source.octets());
            header[16..20].copy_from_slice(&packet.destination.octets());
        }
        TRANSPORT => {
            header[..2].copy_from_slice(&packet.source_port.to_be_bytes());
            header[2..4].copy_from_slice(&packet.destination_port.to_be_bytes());
            const SYN: u8 = 2;
            const ACK: u8 = 0x10;
            header[13] = if packet.connection.new { SYN } else { ACK };
        }
        _ => return None,
    }
    header.get(offset..offset + length).map(<[u8]>::to_vec)
}

fn meta(packet: &Packet, key: u32) -> Option<Vec<u8>> {
    const PROTOCOL: u32 = 1;
    const MARK: u32 = 3;
    const INPUT_NAME: u32 = 6;
    const OUTPUT_NAME: u32 = 7;
    const FAMILY: u32 = 15;
    const TRANSPORT: u32 = 16;
    let name = |name: &str| {
        let mut bytes = [0u8; 16];
        bytes[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
        bytes.to_vec()
    };
    Some(match key {
        PROTOCOL => 0x0800u16.to_be_bytes().to_vec(),
        MARK => vec![0; 4],
        INPUT_NAME => name(&packet.input),
        OUTPUT_NAME => name(&packet.output),
        FAMILY => vec![libc::AF_INET as u8],
        TRANSPORT => vec![packet.protocol],
        _ => return None,
    })
}

fn connection(packet: &Packet, key: u32, reply: Option<bool>) -> Option<Vec<u8>> {
    const STATE: u32 = 0;
    const DIRECTION: u32 = 1;
    const STATUS: u32 = 2;
    const MARK: u32 = 3;
    const L3_PROTOCOL: u32 = 7;
    const ANY_SOURCE: u32 = 8;
    const ANY_DESTINATION: u32 = 9;
    const PROTOCOL: u32 = 10;
    const SOURCE_PORT: u32 = 11;
    const DESTINATION_PORT: u32 = 12;
    const SOURCE: u32 = 19;
    const DESTINATION: u32 = 20;
    const ESTABLISHED: u32 = 2;
    const NEW: u32 = 8;
    const CONFIRMED: u32 = 8;
    const SEEN_REPLY: u32 = 2;
    const SOURCE_TRANSLATED: u32 = 16;
    const DESTINATION_TRANSLATED: u32 = 32;
    let this = &packet.connection;
    let (source, source_port, destination, destination_port) =
        if reply.unwrap_or(this.reply) { this.answered } else { this.original };
    match key {
        STATE => Some((if this.new { NEW } else { ESTABLISHED }).to_ne_bytes().to_vec()),
        DIRECTION => Some(vec![u8::from(this.reply)]),
        STATUS => {
            let mut bits = if this.new { 0 } else { CONFIRMED | SEEN_REPLY };
            if this.source_translated {
                bits |= SOURCE_TRANSLATED;
            }
            if this.destination_translated {
                bits |= DESTINATION_TRANSLATED;
            }
            Some(bits.to_ne_bytes().to_vec())
        }
        MARK => Some(this.mark.to_ne_bytes().to_vec()),
        L3_PROTOCOL => Some(vec![libc::AF_INET as u8]),
        PROTOCOL => Some(vec![packet.protocol]),
        SOURCE | ANY_SOURCE => Some(source.octets().to_vec()),
        DESTINATION | ANY_DESTINATION => Some(destination.octets().to_vec()),
        SOURCE_PORT => Some(source_port.to_be_bytes().to_vec()),
        DESTINATION_PORT => Some(destination_port.to_be_bytes().to_vec()),
        _ => None,
    }
}

/// The element that the key is, or whose range it lies in.
fn find(set: &ListedSet, registers: &[u8]) -> Option<ListedValue> {
    let inside = |element: &&ListedElement| {
        let Some(key) = registers.get(..element.key.len()) else { return false };
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
        .filter(|element| registers.get(..element.key.len()).is_some_and(|key| element.key.as_slice() <= key))
        // Where one range ends and the next begins at the same key, the beginning counts.
        .max_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)))?;
    (!border.end).then(|| border.value.clone())
}

#[cfg(test)]
mod tests;
