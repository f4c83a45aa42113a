//! What one expression of a rule does: loads, compares, looks up, translates.

use std::net::Ipv4Addr;

use super::super::listing::{
    Expression, Layer, ListedChain, ListedElement, ListedSet, ListedValue, RouteAsks, RouteResult, Side,
    Span, VERDICT_REGISTER,
};
use super::super::{Point, Verdict};
use super::fields::{self, Loaded};
use super::registers::{Held, Registers};
use super::{CHOICES_MAX, End, Fate, Packet, Routed, Run, WIDEST};

impl Run<'_> {
    fn meta(&self, packet: &Packet, key: u32) -> Option<Vec<u8>> {
        const INPUT: u32 = 4;
        const OUTPUT: u32 = 5;
        const INPUT_TYPE: u32 = 8;
        const OUTPUT_TYPE: u32 = 9;
        const INPUT_KIND: u32 = 26;
        const OUTPUT_KIND: u32 = 27;
        // ARPHRD_ETHER and ARPHRD_LOOPBACK (linux/if_arp.h); others are not known here.
        let type_of = |link: &str| match self.machine.kind_of(link)?.as_str() {
            "veth" | "bridge" => Some(1u16),
            _ if link == "lo" => Some(772),
            _ => None,
        };
        let kind_of = |link: &str| {
            let mut bytes = self.machine.kind_of(link)?.into_bytes();
            bytes.resize(WIDEST, 0);
            Some(bytes)
        };
        let index = |link: &str| match link {
            "" => Some(0),
            link => self.machine.index_of(link),
        };
        match key {
            INPUT => Some(index(&packet.input)?.to_ne_bytes().to_vec()),
            OUTPUT => Some(index(&packet.output)?.to_ne_bytes().to_vec()),
            INPUT_TYPE => Some(type_of(&packet.input)?.to_ne_bytes().to_vec()),
            OUTPUT_TYPE => Some(type_of(&packet.output)?.to_ne_bytes().to_vec()),
            INPUT_KIND => kind_of(&packet.input),
            OUTPUT_KIND => kind_of(&packet.output),
            key => fields::meta(self.layer, packet, key),
        }
    }

    /// What the routes say of the packet's source or destination, as `fib` gives it.
    fn route(&self, packet: &Packet, asks: RouteAsks) -> Option<Vec<u8>> {
        const UNICAST: u32 = 1;
        const LOCAL: u32 = 2;
        const BROADCAST: u32 = 3;
        const MULTICAST: u32 = 5;
        let address = if asks.source { packet.source } else { packet.destination };
        let link = match asks.on {
            Side::Any => None,
            Side::Input => Some(packet.input.as_str()),
            Side::Output => Some(packet.output.as_str()),
        };
        let routed = self.machine.routed(address, if asks.by_mark { packet.mark } else { 0 })?;
        let found = match asks.result {
            RouteResult::Kind => {
                let is_there = |on: &str| link.is_none_or(|link| link == on);
                let kind = match &routed {
                    _ if address.is_multicast() => MULTICAST,
                    _ if address.is_broadcast() || address.is_unspecified() => BROADCAST,
                    Routed::Local(on) if is_there(on) => LOCAL,
                    Routed::Broadcast(on) if is_there(on) => BROADCAST,
                    _ => UNICAST,
                };
                return Some(kind.to_ne_bytes().to_vec());
            }
            _ if self.at == Point::Prerouting && packet.input == "lo" => Some(packet.input.as_str()),
            _ => match &routed {
                Routed::Over(on) => Some(on.as_str()).filter(|on| link.is_none_or(|link| link == *on)),
                _ => None,
            },
        };
        let index = match found {
            Some(link) => self.machine.index_of(link)?,
            None => 0,
        };
        Some(match (asks.result, asks.presence) {
            (_, true) => u32::from(found.is_some()).to_ne_bytes().to_vec(),
            (RouteResult::Name, _) => {
                let mut bytes = found.unwrap_or_default().as_bytes().to_vec();
                bytes.resize(WIDEST, 0);
                bytes
            }
            _ => index.to_ne_bytes().to_vec(),
        })
    }

    pub(super) fn expression(
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
            Expression::SetMeta { key, from } => {
                const PRIORITY: u32 = 2;
                const MARK: u32 = 3;
                const TRACE: u32 = 12;
                match (*key, registers.get(*from, 4)?) {
                    (MARK, Held::Known(word)) => {
                        packet.mark = u32::from_ne_bytes(word.try_into().ok()?);
                        Some(Done::Next)
                    }
                    // In which order it is sent, and who is told of it, decides nothing here.
                    (PRIORITY | TRACE, _) => Some(Done::Next),
                    _ => Some(Done::Doubt),
                }
            }
            // What connection tracking and checksums make of a packet that was changed is not carried out.
            Expression::SetPayload { .. } => Some(Done::Doubt),
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
            Expression::Route { asks, into } => match self.route(packet, *asks) {
                Some(bytes) => next(registers.put(*into, &bytes)),
                None => doubt(registers, *into, WIDEST),
            },
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
            Expression::Redirect { port } => {
                // To the port of whom it came to, or of this machine's loopback for what it sends itself.
                let address = match self.at {
                    Point::Output => Some(Ipv4Addr::LOCALHOST),
                    _ => self.machine.address_of(&packet.input, Ipv4Addr::UNSPECIFIED),
                };
                let port = match port.map(|register| registers.get(register, 2)) {
                    None => None,
                    Some(Some(Held::Known(bytes))) => Some(u16::from_be_bytes(bytes.try_into().ok()?)),
                    Some(_) => return Some(Done::Doubt),
                };
                let Some(address) = address else { return Some(Done::Doubt) };
                translate(packet, false, Some(address), port);
                Some(Done::Fate(Fate::End(End::Accepted)))
            }
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

pub(super) enum Done {
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

/// The element that the key is, or whose range it lies in.
pub(super) fn find(set: &ListedSet, key: &[u8]) -> Option<ListedValue> {
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
