//! The rules of services, and how plans become elements of their maps.
//!
//! `services` leads from (address, protocol, port) to the chain for just that number of endpoints, which
//! draws one of them at random and finds it in `endpoints` by (address, protocol, port, draw). So there are
//! as many chains as there are different numbers of endpoints, however many services. The maps whose names
//! begin with `local-` are for connections from outside to services that keep these on the node.
//!
//! Before all that, `sources` leads from (address, protocol, port) to a chain that drops whoever does not come
//! from one of the ranges that the service names for its load balancer's addresses: one chain for each set of
//! ranges, whose name says which.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};
use skiff_sys::nft::{
    Address, Chain, Comparison::Equal, Comparison::Unequal, Datum, Field, Hook, Key, Map, Point, Register,
    Reject, Rule, Schema, Type, Value, Verdict,
};

use crate::Range;
use crate::plan::{Frontend, Sources, Target, Ways};

/// The name of this part of the ruleset.
pub(crate) const PART: &str = "proxy";
const OWN_ADDRESSES: &str = "own-addresses";
const SOURCES: &str = "sources";
const REFUSE: &str = "refuse";
/// How the names of chains begin that come and go.
const PASSING: &str = "pick-";
const TCP: u8 = 6;

/// One of the two pairs of maps.
struct View {
    services: &'static str,
    endpoints: &'static str,
    /// How the names of its chains begin.
    pick: &'static str,
}

const INSIDE: View = View { services: "services", endpoints: "endpoints", pick: "pick" };
const OUTSIDE: View = View { services: "local-services", endpoints: "local-endpoints", pick: "pick-local" };
const VIEWS: [&View; 2] = [&INSIDE, &OUTSIDE];

/// The maps that hold services.
pub(crate) const SERVICE_MAPS: [&str; 5] =
    [INSIDE.services, INSIDE.endpoints, OUTSIDE.services, OUTSIDE.endpoints, SOURCES];

/// The registers: a key of up to four parts, and the endpoint found.
const KEY: Register = Register(0);
const PROTOCOL: Register = Register(1);
const PORT: Register = Register(2);
const DRAW: Register = Register(3);
const FOUND: Register = Register(4);
const FOUND_PORT: Register = Register(5);

pub(crate) fn schema(cluster: Range, services: Range) -> Schema {
    const SERVICE: &[Type] = &[Type::Address, Type::Protocol, Type::Port];
    const DRAWN: &[Type] = &[Type::Address, Type::Protocol, Type::Port, Type::Number];
    let mut maps = vec![
        Map { name: OWN_ADDRESSES, key: &[Type::Address], value: Value::None },
        Map { name: SOURCES, key: SERVICE, value: Value::Verdict },
    ];
    for view in VIEWS {
        maps.extend([
            Map { name: view.services, key: SERVICE, value: Value::Verdict },
            Map { name: view.endpoints, key: DRAWN, value: Value::Data(&[Type::Address, Type::Port]) },
        ]);
    }
    let go = |verdict| Rule::new().verdict(&verdict);
    let own = || {
        let own = Rule::new().load(Field::DestinationAddress, KEY).within(OWN_ADDRESSES, KEY);
        own.verdict(&Verdict::Accept)
    };
    let guarded = || frontend(Rule::new(), false).dispatch(SOURCES, KEY);
    let from_inside = [
        Rule::new().range(Address::Source, Equal, cluster.address, cluster.prefix),
        Rule::new().local(Address::Source, Equal),
    ];
    let from_inside = from_inside.map(|rule| rule.verdict(&Verdict::Return));
    let no_service = Rule::new()
        .range(Address::Destination, Equal, services.address, services.prefix)
        .local(Address::Destination, Unequal)
        .verdict(&Verdict::Goto(REFUSE.into()));
    let hook = |at| Hook { at, priority: -100, nat: true };
    let chains = vec![
        Chain::plain(
            REFUSE,
            vec![
                Rule::new().protocol(Equal, TCP).reject(Reject::TcpReset),
                Rule::new().reject(Reject::PortUnreachable),
            ],
        ),
        Chain::plain("from-inside", [lookups(&INSIDE, services), vec![no_service]].concat()),
        Chain::plain("from-outside", [from_inside.to_vec(), lookups(&OUTSIDE, services)].concat()),
        Chain::base(
            "services-in",
            hook(Point::Prerouting),
            vec![
                own(),
                guarded(),
                go(Verdict::Jump("from-outside".into())),
                go(Verdict::Goto("from-inside".into())),
            ],
        ),
        Chain::base(
            "services-out",
            hook(Point::Output),
            vec![own(), guarded(), go(Verdict::Goto("from-inside".into()))],
        ),
    ];
    Schema { maps, chains, passing: Some(PASSING), ..Schema::default() }
}

fn lookups(view: &View, services: Range) -> Vec<Rule> {
    const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
    // A service address that the node answers itself is no address of the node.
    let to_node = Rule::new()
        .local(Address::Destination, Equal)
        .range(Address::Destination, Unequal, LOOPBACK.0, LOOPBACK.1)
        .range(Address::Destination, Unequal, services.address, services.prefix);
    vec![
        frontend(Rule::new(), false).dispatch(view.services, KEY),
        frontend(to_node, true).dispatch(view.services, KEY),
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

/// Lets those come back that come from one of the ranges.
pub(crate) fn guard(sources: &Sources) -> Chain {
    let from = |range: &Range| {
        let from = Rule::new().range(Address::Source, Equal, range.address, range.prefix);
        from.verdict(&Verdict::Return)
    };
    let silence = Rule::new().verdict(&Verdict::Drop);
    Chain::plain(guard_name(sources), sources.iter().map(from).chain([silence]).collect())
}

/// The same for the same ranges, also after a restart, and for no others: so it is no hash that somebody could
/// make another set of ranges for.
fn guard_name(sources: &Sources) -> String {
    let mut hash = Sha256::new();
    sources.iter().for_each(|range| hash.update([&range.address.octets()[..], &[range.prefix]].concat()));
    let hex: String = hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{PASSING}from-{hex}")
}

pub(crate) fn own_elements(addresses: &BTreeSet<Ipv4Addr>) -> (&'static str, HashMap<Key, Datum>) {
    (OWN_ADDRESSES, addresses.iter().map(|ip| (Key::EMPTY.address(*ip), Datum::Member)).collect())
}

/// The elements of one frontend: its chain and its endpoints, in each view that it is in.
pub(crate) fn elements(frontend: &Frontend, ways: &Ways) -> Vec<(&'static str, Key, Datum)> {
    let key = Key::EMPTY.address(frontend.address).protocol(frontend.protocol as u8).port(frontend.port);
    let node = frontend.address.is_unspecified();
    let mut elements = Vec::new();
    let mut add = |view: &View, target: &Target| {
        let verdict = match target {
            Target::Backends(backends) => Verdict::Goto(chain_name(view, node, backends.len() as u32)),
            Target::Reject => Verdict::Goto(REFUSE.into()),
            Target::Drop => Verdict::Drop,
        };
        elements.push((view.services, key, Datum::Verdict(verdict)));
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
    if let Some(sources) = &ways.sources {
        elements.push((SOURCES, key, Datum::Verdict(Verdict::Jump(guard_name(sources)))));
    }
    elements
}

/// The numbers of endpoints for which a frontend needs chains.
pub(crate) fn counts(ways: &Ways) -> impl Iterator<Item = u32> {
    let targets = [Some(&ways.inside), ways.outside.as_ref()];
    targets.into_iter().flatten().filter_map(|target| match target {
        Target::Backends(backends) => Some(backends.len() as u32),
        Target::Reject | Target::Drop => None,
    })
}

fn chain_name(view: &View, node: bool, count: u32) -> String {
    format!("{}{}-{count}", view.pick, if node { "-node" } else { "" })
}
