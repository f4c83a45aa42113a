//! What a listed packet filter does to a packet: the rules are carried out on a value instead of by the
//! kernel.
//!
//! A rule that draws a random number has several outcomes; [`passages`] tells all of them, each with its
//! chance. A rule with an expression that this program does not know leaves a mark, so that nobody takes
//! the outcome for certain.

mod expressions;
mod fields;
mod registers;

use std::net::Ipv4Addr;

use super::Point;
use super::listing::{Layer, ListedChain, ListedHook, ListedRule, Listing, called};
use super::words;
use expressions::Done;
use registers::Registers;

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
    /// What rules noted on the packet itself, for rules and routes to go by.
    pub mark: u32,
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
            mark: 0,
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
    /// Forgets the connection and the mark: another namespace tracks its own.
    pub fn enter_namespace(&mut self) {
        self.mark = 0;
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
    /// The link with that number.
    fn name_of(&self, _index: u32) -> Option<String> {
        None
    }
    /// Which kind of link it is: `veth`, `bridge`, …; empty for a device of the machine.
    fn kind_of(&self, _link: &str) -> Option<String> {
        None
    }
    /// Where the routes lead a packet with this mark, where that is known.
    fn routed(&self, _to: Ipv4Addr, _mark: u32) -> Option<Routed> {
        None
    }
    /// The address that masquerading takes on this link.
    fn address_of(&self, link: &str, towards: Ipv4Addr) -> Option<Ipv4Addr>;
}

/// Where routes lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routed {
    Nowhere,
    /// To this machine itself, by the address of this link.
    Local(String),
    /// To everybody on the link.
    Broadcast(String),
    /// Over the link.
    Over(String),
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
        let mut run = Run {
            listing,
            machine,
            layer,
            at,
            script: &script,
            draws,
            drawn: 0,
            wants: None,
            steps: Vec::new(),
        };
        let (end, packet) = run.hook(packet.clone());
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
    at: Point,
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
    fn hook(&mut self, mut packet: Packet) -> (End, Packet) {
        let (layer, at) = (self.layer, self.at);
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
                rule: words::rule(rule, &|index| self.machine.name_of(index)),
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
}

fn is_bound(at: Point, packet: &Packet) -> bool {
    match at {
        Point::Prerouting | Point::Output => packet.connection.destination_translated,
        _ => packet.connection.source_translated,
    }
}

#[cfg(test)]
mod tests;
