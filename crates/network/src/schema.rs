//! The node's rules for sandboxes: host ports, what is masqueraded, and the guard of the loopback.
//!
//! Rules are fixed for as long as the node's ranges are; host ports, sandboxes and nodes are elements.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use skiff_sys::nft::{
    Address, CONNTRACK_DESTINATION_TRANSLATED, Chain, Comparison::Equal, Comparison::Unequal, Datum,
    Elements, Field, Hook, Key, Map, Point, Register, Reject, Rule, Schema, Traffic, Type, Value, Verdict,
};

use crate::Cidr;
use crate::state::{PortKey, State, Targets};

/// The name of this part of the ruleset.
pub const PART: &str = "network";
/// The name of the part that is about ARP.
pub(crate) const ARP: &str = "network-arp";
/// Addresses of sandboxes, which may be asked for by ARP.
const SPEAKERS: &str = "speakers";
/// (address of the node or 0.0.0.0, protocol, port) → (sandbox, port)
pub(crate) const HOST_PORTS: &str = "host-ports";
/// (sandbox, itself): what a sandbox sends to itself by way of a translated address, and what it may send
/// at all.
pub(crate) const HAIRPIN: &str = "hairpin";
/// Addresses of nodes, which know the way back to sandboxes.
pub(crate) const NODES: &str = "nodes";

const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
/// The direction of what a connection's initiator sends (linux/netfilter/nf_conntrack_tuple_common.h).
const FROM_THE_INITIATOR: u8 = 0;
const MULTICAST: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);

pub(crate) struct Ranges<'a> {
    pub(crate) bridge: &'a str,
    pub(crate) pods: Cidr,
    pub(crate) cluster: Cidr,
    pub(crate) services: Cidr,
}

pub(crate) fn schema(ranges: &Ranges<'_>) -> Schema {
    let maps = vec![
        Map {
            name: HOST_PORTS,
            key: &[Type::Address, Type::Protocol, Type::Port],
            value: Value::Data(&[Type::Address, Type::Port]),
        },
        Map { name: HAIRPIN, key: &[Type::Address, Type::Address], value: Value::None },
        Map { name: NODES, key: &[Type::Address], value: Value::None },
    ];
    let jump = || vec![Rule::new().verdict(&Verdict::Jump("host-ports-any".into()))];
    // Before the services' chains, which are at the usual -100: a host port leads straight to its sandbox.
    let hook = |at| Hook { at, priority: -110, nat: true };
    let chains = vec![
        Chain::plain("host-ports-any", host_ports(ranges)),
        Chain::base("host-ports-in", hook(Point::Prerouting), jump()),
        Chain::base("host-ports-out", hook(Point::Output), jump()),
        Chain::base("leaving", Hook { at: Point::Postrouting, priority: 100, nat: true }, leaving(ranges)),
        Chain::base("guard", Hook { at: Point::Prerouting, priority: -300, nat: false }, guard(ranges)),
        Chain::base("guard-on", Hook { at: Point::Forward, priority: -300, nat: false }, guard_on(ranges)),
        Chain::base("guard-in", Hook { at: Point::Input, priority: -300, nat: false }, guard_in()),
    ];
    Schema { maps, chains, passing: None, ..Schema::default() }
}

/// The bridge routes 127/8, so that the node's own connections to 127.0.0.1 can be led to a sandbox. So
/// nobody else may send there: what listens on the node's loopback trusts that.
///
/// And a sandbox sends by its own addresses alone: its hardware address, to which the bridge holds it, ends
/// with its IP address.
fn guard(ranges: &Ranges<'_>) -> Vec<Rule> {
    let foreign_loopback = |address| {
        Rule::new()
            .interface(Field::InputName, Unequal, "lo")
            .range(address, Equal, LOOPBACK.0, LOOPBACK.1)
            .verdict(&Verdict::Drop)
    };
    let forged = Rule::new()
        .interface(Field::InputName, Equal, ranges.bridge)
        .load(Field::SenderHardware, Register(0))
        .load(Field::SourceAddress, Register(1))
        .outside(HAIRPIN, Register(0))
        .verdict(&Verdict::Drop);
    vec![foreign_loopback(Address::Destination), foreign_loopback(Address::Source), forged]
}

/// Nor may a translation lead anybody there, whoever made it: a service whose endpoint is 127.0.0.1, or another
/// program of the machine. What answers the node's own 127.0.0.1 comes from the bridge too, translated back;
/// it is known by its direction.
fn guard_in() -> Vec<Rule> {
    let led_astray = Rule::new()
        .interface(Field::InputName, Unequal, "lo")
        .range(Address::Destination, Equal, LOOPBACK.0, LOOPBACK.1)
        .load(Field::ConnectionDirection, Register(0))
        .compare(Register(0), Equal, &[FROM_THE_INITIATOR])
        .verdict(&Verdict::Drop);
    vec![led_astray]
}

/// What is for nobody goes no further, and whoever sent it is told so at once. The kernel would ask for the
/// address by ARP, and its table of neighbours, of all the machine's namespaces, would have an entry more.
fn guard_on(ranges: &Ranges<'_>) -> Vec<Rule> {
    let nobodys = Rule::new()
        .interface(Field::OutputName, Equal, ranges.bridge)
        .load(Field::DestinationAddress, Register(0))
        .load(Field::DestinationAddress, Register(1))
        .outside(HAIRPIN, Register(0))
        .comment("no sandbox has the address")
        .reject(Reject::HostUnreachable);
    vec![nobodys]
}

/// The rules for ARP: who asks on the bridge is a sandbox, and says so. The kernel notes who asks it, and its
/// table of neighbours would be full of whatever a sandbox makes up. (Of those that are, it knows better: see
/// [`super::local`].)
pub(crate) fn arp(ranges: &Ranges<'_>) -> Schema {
    let made_up = Rule::new()
        .interface(Field::InputName, Equal, ranges.bridge)
        .load(Field::Speaker, Register(0))
        .outside(SPEAKERS, Register(0))
        .verdict(&Verdict::Drop);
    Schema {
        traffic: Traffic::Neighbours,
        maps: vec![Map { name: SPEAKERS, key: &[Type::Address], value: Value::None }],
        chains: vec![Chain::base(
            "guard-arp",
            Hook { at: Point::Input, priority: 0, nat: false },
            vec![made_up],
        )],
        passing: None,
    }
}

fn host_ports(ranges: &Ranges<'_>) -> Vec<Rule> {
    let (key, target) = (Register(0), Register(4));
    let translate = |rule: Rule| {
        rule.load(Field::Protocol, Register(1))
            .load(Field::DestinationPort, Register(2))
            .find(HOST_PORTS, key, target)
            .translate_destination(target, Register(5))
    };
    // A service address that the node answers itself (the cluster's DNS) is no address of the node.
    let any = Rule::new()
        .local(Address::Destination, Equal)
        .range(Address::Destination, Unequal, ranges.services.address, ranges.services.prefix)
        .constant(&Ipv4Addr::UNSPECIFIED.octets(), key);
    // An address that is not the node's own is somebody else's, whatever a pod asks for.
    let one = Rule::new().local(Address::Destination, Equal).load(Field::DestinationAddress, key);
    vec![translate(one), translate(any)]
}

fn leaving(ranges: &Ranges<'_>) -> Vec<Rule> {
    let accept = |rule: Rule| rule.verdict(&Verdict::Accept);
    let to = |range: Cidr| Rule::new().range(Address::Destination, Equal, range.address, range.prefix);
    let out_of = |comparison| Rule::new().interface(Field::OutputName, comparison, ranges.bridge);
    let pods = ranges.pods;
    let translated = || {
        Rule::new()
            .range(Address::Source, Unequal, pods.address, pods.prefix)
            .connection_status(CONNTRACK_DESTINATION_TRANSLATED)
    };
    vec![
        // From the node's 127.0.0.1 to a host port: a sandbox can't answer to that address.
        out_of(Equal).range(Address::Source, Equal, LOOPBACK.0, LOOPBACK.1).masquerade(),
        // A sandbox must not see itself as the sender, or it would answer itself without the node.
        Rule::new()
            .load(Field::SourceAddress, Register(0))
            .load(Field::DestinationAddress, Register(1))
            .within(HAIRPIN, Register(0))
            .masquerade(),
        // The answers of this node's sandboxes pass here anyway, so they see the true sender.
        accept(out_of(Equal)),
        accept(Rule::new().interface(Field::OutputName, Equal, "lo")),
        // What was translated here and goes on to another node must come back here; the answers to this
        // node's own sandboxes do so without it. What other programs of the machine translate to
        // elsewhere is theirs.
        translated()
            .range(Address::Destination, Equal, ranges.cluster.address, ranges.cluster.prefix)
            .masquerade(),
        translated().load(Field::DestinationAddress, Register(0)).within(NODES, Register(0)).masquerade(),
        accept(Rule::new().range(Address::Source, Unequal, pods.address, pods.prefix)),
        accept(to(ranges.cluster)),
        accept(to(ranges.services)),
        accept(Rule::new().load(Field::DestinationAddress, Register(0)).within(NODES, Register(0))),
        accept(Rule::new().range(Address::Destination, Equal, MULTICAST.0, MULTICAST.1)),
        Rule::new().masquerade(),
    ]
}

/// The elements that follow from what is attached.
pub(crate) fn elements(state: &State, targets: &Targets) -> Elements {
    let hairpin =
        state.sandboxes.values().map(|this| (Key::EMPTY.address(this.ip).address(this.ip), Datum::Member));
    vec![(HOST_PORTS, host_port_elements(targets)), (HAIRPIN, hairpin.collect())]
}

/// The same of [`ARP`].
pub(crate) fn speakers(state: &State) -> Elements {
    let all = state.sandboxes.values().map(|this| (Key::EMPTY.address(this.ip), Datum::Member));
    vec![(SPEAKERS, all.collect())]
}

pub(crate) fn node_elements(nodes: impl Iterator<Item = Ipv4Addr>) -> Elements {
    vec![(NODES, nodes.map(|ip| (Key::EMPTY.address(ip), Datum::Member)).collect())]
}

fn host_port_elements(targets: &Targets) -> HashMap<Key, Datum> {
    let element = |((address, protocol, port), target): (&PortKey, &(Ipv4Addr, u16))| {
        let key = Key::EMPTY.address(*address).protocol(protocol.number()).port(*port);
        (key, Datum::Data(Key::EMPTY.address(target.0).port(target.1)))
    };
    targets.iter().map(element).collect()
}
