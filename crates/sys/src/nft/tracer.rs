//! Which rules one connection's first packet and its first answer meet, as the kernel tells it.
//!
//! A [`Tracer`] puts a table of its own into a namespace, whose rules set the kernel's mark for tracing
//! (`meta nftrace`) on packets of that one connection, before any other chain sees them, and listens for what
//! the kernel then tells (NFNLGRP_NFTRACE). The table is owned by the tracer's socket, so that the kernel
//! removes it when that is closed, also by the end of the process. Packets are known by what no translation
//! changes: a TCP segment by the sequence number that the connection began with, a datagram by what it carries.
//! A datagram's answer carries anything, so there the way out of the namespace is noted by a rule, and what
//! comes back along it is the answer.
//!
//! Where others filter frames on bridges, or what comes in by a device, the mark is set there as well, since that
//! is before all routing; of a datagram's answer only where it is routed.
//!
//! What is sent again is told as such: it may meet other rules, as its connection is known by then, or drawn anew.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use super::listing::{self, BRIDGE, NETDEV, called};
use super::wire::{Batch, read_verdict};
use super::{Chain, Comparison::Equal, Field, Hook, Point, Register, Rule, Type, words};
use crate::netlink::route::{Connection, Link};
use crate::netlink::{Family, Message, Socket, attribute, messages, text};

/// How the names of tracers' tables begin.
pub const TABLES: &str = "skiff-trace-";

/// How a connection's packets are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// The sequence number of its first segment.
    Tcp(u32),
    /// What its first datagram carries.
    Udp([u8; 8]),
}

/// A rule that a packet met and that said what is to be done, or a chain's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// As [`called`].
    pub table: String,
    pub chain: String,
    /// Zero for the chain's policy.
    pub handle: u64,
    /// In `nft`'s words: `accept`, `drop`, `jump CHAIN`, …
    pub verdict: String,
    /// It answers the first packet.
    pub answer: bool,
    /// It was sent again, or follows.
    pub again: bool,
    /// As the packet was when it came to the base chain.
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

#[derive(Debug)]
pub struct Tracer {
    /// Owns the table.
    _owner: Socket,
    notices: Socket,
    signature: Signature,
    seen: Seen,
    /// The families whose rules before routing are told too.
    families: Vec<&'static str>,
}

/// What has come so far.
#[derive(Debug, Default)]
struct Seen {
    /// Packets of the connection by the kernel's number for them.
    packets: HashMap<u32, Packet>,
    /// The ends that its first packet had here, before and after translation.
    ends: Vec<(SocketAddrV4, SocketAddrV4)>,
    /// Where packets of the connection came in: answer or not, our chain, device.
    entered: Vec<(bool, String, u32)>,
    /// Whether the packet that came in last was there before, of first packets and of answers.
    again: [bool; 2],
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    answer: bool,
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

/// NFNLGRP_NFTRACE as a bit of the group mask.
const GROUP: u32 = 1 << (9 - 1);
const TRACE: u16 = 10 << 8 | 17;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// How the names of chains at devices begin.
const ARRIVED: &str = "arrived-";
/// Where answers come from and go to, as they enter the namespace.
const ANSWERS: &str = "answers";
/// Before all others, and after translation.
const FIRST: i32 = i32::MIN;
const LATE: i32 = 400;
const ANSWERS_MAX: u32 = 64;

impl Tracer {
    /// In the calling thread's namespace. Needs CAP_NET_ADMIN there, and a kernel that knows owned tables
    /// (Linux 5.12).
    pub fn start(signature: Signature) -> io::Result<Tracer> {
        let notices = Socket::open(Family::Netfilter, GROUP)?;
        let owner = Socket::open(Family::Netfilter, 0)?;
        let name = match signature {
            Signature::Tcp(sequence) => format!("{TABLES}{sequence:08x}"),
            Signature::Udp(token) => format!("{TABLES}{:016x}", u64::from_be_bytes(token)),
        };
        let mut batch = Batch::of(&name);
        batch.owned_table();
        if matches!(signature, Signature::Udp(_)) {
            batch.filled_by_rules(
                ANSWERS,
                &[Type::Address, Type::Address, Type::Port, Type::Port],
                ANSWERS_MAX,
            );
        }
        let chains = chains(signature);
        chains.iter().for_each(|chain| batch.chain(chain));
        chains.iter().for_each(|chain| batch.rules(chain, false));
        batch.commit(&owner)?;
        let families = trace_frames(&owner, &name, signature);
        Ok(Tracer { _owner: owner, notices, signature, seen: Seen::default(), families })
    }

    /// The families, `bridge` and `netdev`, of which also those rules are told that packets meet before they are
    /// routed.
    pub fn families(&self) -> &[&'static str] {
        &self.families
    }

    /// What was told since the last call. Does not wait.
    pub fn told(&mut self) -> io::Result<Vec<Met>> {
        let (mut met, mut buffer) = (Vec::new(), Vec::new());
        loop {
            match self.notices.receive(&mut buffer, false) {
                Ok(datagram) => {
                    for message in messages(datagram).filter(|message| message.kind == TRACE) {
                        met.extend(self.seen.read(message, self.signature));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(met),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }
}

/// Lets the kernel trace from where frames come in, as far as others filter there. What can't be done leaves
/// those rules untold.
fn trace_frames(owner: &Socket, name: &str, signature: Signature) -> Vec<&'static str> {
    let mut families = Vec::new();
    let Ok((bridges, devices)) = listing::before_routing(owner) else { return families };
    let chain = |name: &str| {
        let hook = Hook { at: Point::Prerouting, priority: FIRST, nat: false };
        // The answer to a datagram is known by where it was seen to leave, which is not known here.
        let known = chains(signature).into_iter().next().map(|chain| chain.rules).unwrap_or_default();
        let rules = if matches!(signature, Signature::Udp(_)) { known[..1].to_vec() } else { known };
        Chain::base(name, hook, rules)
    };
    if bridges {
        let mut batch = Batch::of_family(name, BRIDGE);
        batch.owned_table();
        let carried = chain("carried");
        batch.chain(&carried);
        batch.rules(&carried, false);
        families.extend(batch.commit(owner).is_ok().then_some("bridge"));
    }
    let links = Connection::open().and_then(|kernel| kernel.links()).unwrap_or_default();
    let is_one = |link: &Link| {
        devices.iter().any(|name| match name.strip_suffix('*') {
            Some(prefix) => link.name.starts_with(prefix),
            None => *name == link.name,
        })
    };
    let filtered: Vec<&Link> = links.iter().filter(|link| is_one(link)).collect();
    if !filtered.is_empty() {
        let mut batch = Batch::of_family(name, NETDEV);
        batch.owned_table();
        for link in filtered {
            let arrived = chain(&format!("{ARRIVED}{}", link.index));
            batch.chain_at(&arrived, &link.name);
            batch.rules(&arrived, false);
        }
        families.extend(batch.commit(owner).is_ok().then_some("netdev"));
    }
    families
}

fn chains(signature: Signature) -> Vec<Chain> {
    const KEY: Register = Register(0);
    const TRACED: Register = Register(8);
    let of = |protocol, field, bytes: &[u8]| {
        Rule::new().protocol(Equal, protocol).load(field, KEY).compare(KEY, Equal, bytes)
    };
    let (first, answer) = match signature {
        Signature::Tcp(sequence) => {
            let answered = sequence.wrapping_add(1).to_be_bytes();
            let first = of(TCP, Field::Sequence, &sequence.to_be_bytes());
            (first, of(TCP, Field::Acknowledgement, &answered))
        }
        Signature::Udp(token) => {
            let ends = Rule::new().protocol(Equal, UDP).load(Field::SourceAddress, KEY);
            let ends = ends.load(Field::DestinationAddress, Register(1));
            let ends = ends.load(Field::SourcePort, Register(2)).load(Field::DestinationPort, Register(3));
            (of(UDP, Field::DatagramStart, &token), ends.within(ANSWERS, KEY))
        }
    };
    let hook = |at, priority| Hook { at, priority, nat: false };
    let traced = || vec![first.clone().traced(TRACED), answer.clone().traced(TRACED)];
    let mut chains = vec![
        Chain::base("came", hook(Point::Prerouting, FIRST), traced()),
        Chain::base("made", hook(Point::Output, FIRST), traced()),
    ];
    if matches!(signature, Signature::Udp(_)) {
        let turned = first.load(Field::DestinationAddress, KEY).load(Field::SourceAddress, Register(1));
        let turned = turned.load(Field::DestinationPort, Register(2)).load(Field::SourcePort, Register(3));
        let noted = || vec![turned.clone().note(ANSWERS, KEY)];
        chains.push(Chain::base("taken", hook(Point::Input, LATE), noted()));
        chains.push(Chain::base("gone", hook(Point::Postrouting, LATE), noted()));
    }
    chains
}

impl Seen {
    /// One notice (linux/netfilter/nf_tables.h, `nft_trace_attributes`).
    fn read(&mut self, message: Message<'_>, signature: Signature) -> Option<Met> {
        const POLICY: u32 = 1;
        let body = message.body.get(4..)?;
        let number = |kind| Some(u32::from_be_bytes(attribute(body, kind)?.try_into().ok()?));
        let (table, chain) = (text(attribute(body, 1)?), text(attribute(body, 2)?));
        let family = *message.body.first()?;
        let id = number(6)?;
        // The headers are told with the first rule of a base chain alone.
        if let (Some(network), Some(transport)) = (attribute(body, 8), attribute(body, 9)) {
            // Everybody who listens in the namespace is told of every packet that is traced.
            match read_headers(network, transport, signature, &self.ends) {
                Some(packet) => drop(self.packets.insert(id, packet)),
                None => drop(self.packets.remove(&id)),
            }
        }
        let packet = *self.packets.get(&id)?;
        let ends = (packet.source, packet.destination);
        if !packet.answer && !self.ends.contains(&ends) {
            self.ends.push(ends);
        }
        if table.starts_with(TABLES) {
            let enters = matches!(chain.as_str(), "came" | "made" | "carried") || chain.starts_with(ARRIVED);
            if enters && attribute(body, 3).is_some() {
                let entered = (packet.answer, chain, number(10).unwrap_or(0));
                let again = self.entered.contains(&entered);
                self.again[usize::from(packet.answer)] = again;
                if !again {
                    self.entered.push(entered);
                }
            }
            return None;
        }
        let again = self.again[usize::from(packet.answer)];
        let (handle, verdict) = if number(4)? == POLICY {
            (0, if number(16)? == 0 { "drop" } else { "accept" }.to_owned())
        } else {
            let handle = u64::from_be_bytes(attribute(body, 3)?.try_into().ok()?);
            let verdict = attribute(body, 5).and_then(read_verdict);
            (handle, verdict.map_or_else(|| "continue".into(), |verdict| words::verdict_words(&verdict)))
        };
        let Packet { answer, source, destination } = packet;
        let table = called(family, &table);
        Some(Met { table, chain, handle, verdict, answer, again, source, destination })
    }
}

/// The packet, if it is the connection's first one or answers it. `first` are the ends of the first one so far.
fn read_headers(
    network: &[u8],
    transport: &[u8],
    signature: Signature,
    first: &[(SocketAddrV4, SocketAddrV4)],
) -> Option<Packet> {
    let word = |header: &[u8], at: usize| <[u8; 4]>::try_from(header.get(at..at + 4)?).ok();
    let port = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    let end = |ip: usize, at: usize| Some(SocketAddrV4::new(Ipv4Addr::from(word(network, ip)?), port(at)?));
    let (source, destination) = (end(12, 0)?, end(16, 2)?);
    let (protocol, answer) = match signature {
        Signature::Tcp(sequence) => {
            let (sent, answered) = (word(transport, 4)?, word(transport, 8)?);
            let answers = answered == sequence.wrapping_add(1).to_be_bytes();
            (TCP, if sent == sequence.to_be_bytes() { Some(false) } else { answers.then_some(true) })
        }
        Signature::Udp(token) if transport.get(8..16) == Some(token.as_slice()) => (UDP, Some(false)),
        Signature::Udp(_) => (UDP, first.contains(&(destination, source)).then_some(true)),
    };
    let answer = answer.filter(|_| network.get(9) == Some(&protocol))?;
    Some(Packet { answer, source, destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_notices_never_panic() {
        crate::netlink::random::bodies(4, |body| {
            let mut writer = crate::netlink::Writer::new();
            writer.message(TRACE, 0, 1, body).end();
            for signature in [Signature::Tcp(7), Signature::Udp([7; 8])] {
                let mut seen = Seen::default();
                messages(writer.as_bytes()).for_each(|message| drop(seen.read(message, signature)));
            }
        });
    }
    #[test]
    fn packets_of_other_connections_are_not_its_own() {
        let mut network = [0u8; 20];
        (network[9], network[12], network[16]) = (TCP, 10, 11);
        let mut transport = [0u8; 20];
        (transport[1], transport[3]) = (1, 2);
        transport[4..8].copy_from_slice(&7u32.to_be_bytes());
        let tcp = |network: &[u8], transport: &[u8]| {
            read_headers(network, transport, Signature::Tcp(7), &[]).map(|packet| packet.answer)
        };
        assert_eq!(tcp(&network, &transport), Some(false));
        transport[7] = 9;
        assert_eq!(tcp(&network, &transport), None);
        transport[11] = 8;
        assert_eq!(tcp(&network, &transport), Some(true));
        network[9] = UDP;
        assert_eq!(tcp(&network, &transport), None);
        let signature = Signature::Udp(*b"0123456\0");
        transport[8..16].copy_from_slice(b"0123456\0");
        let first = read_headers(&network, &transport, signature, &[]).unwrap();
        assert!(!first.answer);
        transport[8] = 0;
        assert!(read_headers(&network, &transport, signature, &[]).is_none());
        let turned = [(first.destination, first.source)];
        assert!(read_headers(&network, &transport, signature, &turned).unwrap().answer);
    }
}
