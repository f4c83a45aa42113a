//! The rules of services, and how plans become elements of their maps.
//!
//! `services` says for (address, protocol, port) how many endpoints there are; the chain for just that
//! number draws one of them at random and finds it in `endpoints` by (address, protocol, port, draw). So
//! there are as many chains as there are different numbers of endpoints, however many services. The maps
//! whose names begin with `local-` are for connections from outside to services that keep these on the
//! node.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use skiff_sys::nft::{
    Address, Chain, Comparison::Equal, Comparison::Unequal, Datum, Field, Hook, Key, Map, Point, Register, Reject,
    Rule, Schema, Type, Value, Verdict,
};

use crate::Range;
use crate::plan::{Frontend, Target, Ways};

/// The name of this part of the ruleset.
pub(crate) const PART: &str = "proxy";
const OWN_ADDRESSES: &str = "own-addresses";
const REJECT: &str = "reject";

const TCP: u8 = 6;

/// Stand in the place of a number of endpoints.
const COUNT_REJECT: u32 = 0;
const COUNT_DROP: u32 = u32::MAX;

/// One of the two sets of maps.
struct View {
    services: &'static str,
    endpoints: &'static str,
    /// From the number to the chain, for connections to an address of a service.
    pick: &'static str,
    /// The same, for connections to any address of the node.
    pick_node: &'static str,
}

const INSIDE: View =
    View { services: "services", endpoints: "endpoints", pick: "pick", pick_node: "pick-node" };
const OUTSIDE: View = View {
    services: "local-services",
    endpoints: "local-endpoints",
    pick: "pick-local",
    pick_node: "pick-local-node",
};
const VIEWS: [&View; 2] = [&INSIDE, &OUTSIDE];

/// The maps that hold services.
pub(crate) const SERVICE_MAPS: [&str; 4] =
    [INSIDE.services, INSIDE.endpoints, OUTSIDE.services, OUTSIDE.endpoints];

/// The registers: a key of up to four parts, and a number found.
const KEY: Register = Register(0);
const PROTOCOL: Register = Register(1);
const PORT: Register = Register(2);
const DRAW: Register = Register(3);
const FOUND: Register = Register(4);
const FOUND_PORT: Register = Register(5);

pub(crate) fn schema(cluster: Range, services: Range) -> Schema {
    const SERVICE: &[Type] = &[Type::Address, Type::Protocol, Type::Port];
    const DRAWN: &[Type] = &[Type::Address, Type::Protocol, Type::Port, Type::Number];
    let mut maps = vec![Map { name: OWN_ADDRESSES, key: &[Type::Address], value: Value::None }];
    for view in VIEWS {
        maps.extend([
            Map { name: view.services, key: SERVICE, value: Value::Data(&[Type::Number]) },
            Map { name: view.endpoints, key: DRAWN, value: Value::Data(&[Type::Address, Type::Port]) },
            Map { name: view.pick, key: &[Type::Number], value: Value::Verdict },
            Map { name: view.pick_node, key: &[Type::Number], value: Value::Verdict },
        ]);
    }
    let go = |verdict| Rule::new().verdict(&verdict);
    let own = || {
        let own = Rule::new().load(Field::DestinationAddress, KEY).within(OWN_ADDRESSES, KEY);
        own.verdict(&Verdict::Accept)
    };
    let from_inside = [
        Rule::new().range(Address::Source, Equal, cluster.address, cluster.prefix),
        Rule::new().local(Address::Source, Equal),
    ];
    let from_inside = from_inside.map(|rule| rule.verdict(&Verdict::Return));
    let no_service = Rule::new()
        .range(Address::Destination, Equal, services.address, services.prefix)
        .local(Address::Destination, Unequal)
        .verdict(&Verdict::Goto(REJECT.into()));
    let hook = |at| Hook { at, priority: -100, nat: true };
    let chains = vec![
        Chain::plain(REJECT, vec![
            Rule::new().protocol(Equal, TCP).reject(Reject::TcpReset),
            Rule::new().reject(Reject::PortUnreachable),
        ]),
        Chain::plain("from-inside", [lookups(&INSIDE, services), vec![no_service]].concat()),
        Chain::plain("from-outside", [from_inside.to_vec(), lookups(&OUTSIDE, services)].concat()),
        Chain::base("services-in", hook(Point::Prerouting), vec![
            own(),
            go(Verdict::Jump("from-outside".into())),
            go(Verdict::Goto("from-inside".into())),
        ]),
        Chain::base("services-out", hook(Point::Output), vec![own(), go(Verdict::Goto("from-inside".into()))]),
    ];
    Schema { maps, chains }
}

fn lookups(view: &View, services: Range) -> Vec<Rule> {
    const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
    // A service address that the node answers itself is no address of the node.
    let to_node = Rule::new()
        .local(Address::Destination, Equal)
        .range(Address::Destination, Unequal, LOOPBACK.0, LOOPBACK.1)
        .range(Address::Destination, Unequal, services.address, services.prefix);
    vec![
        frontend(Rule::new(), false).find(view.services, KEY, FOUND).dispatch(view.pick, FOUND),
        frontend(to_node, true).find(view.services, KEY, FOUND).dispatch(view.pick_node, FOUND),
    ]
}

/// Loads the first three parts of the key.
fn frontend(rule: Rule, node: bool) -> Rule {
    let rule = if node {
        rule.constant(&Ipv4Addr::UNSPECIFIED.octets(), KEY)
    } else {
        rule.load(Field::DestinationAddress, KEY)
    };
    rule.load(Field::Protocol, PROTOCOL).load(Field::DestinationPort, PORT)
}

/// The chains for one number of endpoints, in all views.
pub(crate) fn chains(count: u32) -> Vec<Chain> {
    let chain = |view: &View, node| {
        let draw = frontend(Rule::new(), node)
            .random(count, DRAW)
            .find(view.endpoints, KEY, FOUND)
            .translate_destination(FOUND, FOUND_PORT);
        // While a transaction takes effect, the number may be older than the endpoint. Dropped, the packet
        // leaves nothing behind, and the next one is led right; let pass, the whole connection would go
        // astray.
        let missed = Rule::new().verdict(&Verdict::Drop);
        Chain::plain(chain_name(view, node, count), vec![draw, missed])
    };
    VIEWS.iter().flat_map(|view| [chain(view, false), chain(view, true)]).collect()
}

/// What leads to the chains for these numbers, and to those that need no chain.
pub(crate) fn chain_elements(counts: &BTreeSet<u32>) -> Vec<(&'static str, HashMap<Key, Datum>)> {
    let elements = |view: &View, node| {
        let verdict = |count| match count {
            COUNT_REJECT => Verdict::Goto(REJECT.into()),
            COUNT_DROP => Verdict::Drop,
            count => Verdict::Goto(chain_name(view, node, count)),
        };
        let counts = [COUNT_REJECT, COUNT_DROP].into_iter().chain(counts.iter().copied());
        counts.map(|count| (Key::EMPTY.number(count), Datum::Verdict(verdict(count)))).collect()
    };
    VIEWS.iter().flat_map(|view| [(view.pick, elements(view, false)), (view.pick_node, elements(view, true))]).collect()
}

pub(crate) fn own_elements(addresses: &BTreeSet<Ipv4Addr>) -> (&'static str, HashMap<Key, Datum>) {
    (OWN_ADDRESSES, addresses.iter().map(|ip| (Key::EMPTY.address(*ip), Datum::Member)).collect())
}

/// The elements of one frontend: its number and its endpoints, in each view that it is in.
pub(crate) fn elements(frontend: &Frontend, ways: &Ways) -> Vec<(&'static str, Key, Datum)> {
    let key = Key::EMPTY.address(frontend.address).protocol(frontend.protocol as u8).port(frontend.port);
    let mut elements = Vec::new();
    let mut add = |view: &View, target: &Target| {
        let number = Datum::Data(Key::EMPTY.number(count(target)));
        elements.push((view.services, key, number));
        if let Target::Backends(backends) = target {
            elements.extend((0..).zip(backends).map(|(draw, (ip, port))| {
                (view.endpoints, key.number(draw), Datum::Data(Key::EMPTY.address(*ip).port(*port)))
            }));
        }
    };
    add(&INSIDE, &ways.inside);
    if let Some(outside) = &ways.outside {
        add(&OUTSIDE, outside);
    }
    elements
}

/// The numbers of endpoints for which a frontend needs chains.
pub(crate) fn counts(ways: &Ways) -> impl Iterator<Item = u32> {
    let targets = [Some(&ways.inside), ways.outside.as_ref()];
    targets.into_iter().flatten().map(count).filter(|count| *count != COUNT_REJECT && *count != COUNT_DROP)
}

fn count(target: &Target) -> u32 {
    match target {
        Target::Backends(backends) => backends.len() as u32,
        Target::Reject => COUNT_REJECT,
        Target::Drop => COUNT_DROP,
    }
}

fn chain_name(view: &View, node: bool, count: u32) -> String {
    format!("{}-{count}", if node { view.pick_node } else { view.pick })
}
