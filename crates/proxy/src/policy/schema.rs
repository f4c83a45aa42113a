//! The rules of network policies.
//!
//! A connection is judged, not a packet: by who began it, who really answers, and at which port, as
//! connection tracking knows them whatever was translated and whichever way the packet goes. So replies
//! share the fate of what they reply to, and a service's address is never seen.
//!
//! A pod that policies isolate leads, by its address, to the chain for just its set of policies; that one
//! jumps to each policy's chain and drops what none allowed. What was allowed is marked with the number of
//! the present state of all policies, and passes by that mark until the state changes: then everything is
//! judged anew, and what is no longer allowed ends at its next packet.
//!
//! The two directions are two chains of the same hook: what one allows still has to pass the other.

use std::collections::HashMap;

use skiff_sys::nft::{
    CONNTRACK_STRAY, Chain, Comparison, Comparison::Equal, Comparison::Unequal, Datum, Elements, Field, Hook,
    Key, Map, Point, Register, Rule, Schema, Type, Value, Verdict,
};

use super::spec::{Allowed, Direction, Peer, Policy, Port};
use crate::plan::Protocol;
use crate::policy::spec::PodPeers;

/// The name of this part of the ruleset.
pub(crate) const PART: &str = "policy";
/// Address of an isolated pod → the chain of its policies, by direction.
const INTO: &str = "policy-ingress";
const OUT_OF: &str = "policy-egress";
/// All isolated pods.
const ISOLATED: &str = "policy-isolated";
/// (isolated pod, itself): no policy keeps a pod from itself.
const SELF: &str = "policy-self";
/// (number of a selector, address of a pod that it selects)
const PEERS: &str = "policy-peers";
/// (number of a name, address of a pod, protocol, what the pod calls so)
const PORTS: &str = "policy-ports";
/// The marks with which a connection passes, by direction.
const PASS_IN: &str = "policy-pass-in";
const PASS_OUT: &str = "policy-pass-out";
/// Direction → the mark that it sets.
const MARKS: &str = "policy-marks";
const MAPS: [&str; 9] = [INTO, OUT_OF, ISOLATED, SELF, PEERS, PORTS, PASS_IN, PASS_OUT, MARKS];

const ALLOW_IN: &str = "policy-allow-in";
const ALLOW_OUT: &str = "policy-allow-out";
const STRAY: &str = "policy-stray";

const KEY: Register = Register(0);
const SECOND: Register = Register(1);
const THIRD: Register = Register(2);
const FOURTH: Register = Register(3);

/// So many rules are written side by side before ports get a chain of their own.
const PRODUCT_MAX: usize = 8;

pub(crate) fn schema() -> Schema {
    const PODS: &[Type] = &[Type::Address];
    let set = |name, key| Map { name, key, value: Value::None };
    let maps = vec![
        Map { name: INTO, key: PODS, value: Value::Verdict },
        Map { name: OUT_OF, key: PODS, value: Value::Verdict },
        set(ISOLATED, PODS),
        set(SELF, &[Type::Address, Type::Address]),
        set(PEERS, &[Type::Number, Type::Address]),
        set(PORTS, &[Type::Number, Type::Address, Type::Protocol, Type::Port]),
        set(PASS_IN, &[Type::Number]),
        set(PASS_OUT, &[Type::Number]),
        Map { name: MARKS, key: &[Type::Number], value: Value::Data(&[Type::Number]) },
    ];
    let stray = || Rule::new().connection_state(CONNTRACK_STRAY).verdict(&Verdict::Goto(STRAY.into()));
    let judge = |direction: Direction| {
        Rule::new().load(own_side(direction), KEY).dispatch(isolation_map(direction), KEY)
    };
    let stray_drop = |field| Rule::new().load(field, KEY).within(ISOLATED, KEY).verdict(&Verdict::Drop);
    let hook = |at, priority| Hook { at, priority, nat: false };
    // To the node itself, only what leaves pods is judged; what answers the node's own calls passes, and
    // what the node sends does not come here: probes always arrive.
    let answers_node =
        Rule::new().load(Field::ConnectionDirection, KEY).compare(KEY, Equal, &[1]).verdict(&Verdict::Accept);
    let chains = vec![
        Chain::plain(STRAY, vec![stray_drop(Field::SourceAddress), stray_drop(Field::DestinationAddress)]),
        Chain::plain(ALLOW_OUT, allow(Direction::Egress)),
        Chain::plain(ALLOW_IN, allow(Direction::Ingress)),
        Chain::base("policy-forward-out", hook(Point::Forward, 0), vec![stray(), judge(Direction::Egress)]),
        Chain::base("policy-forward-in", hook(Point::Forward, 10), vec![judge(Direction::Ingress)]),
        Chain::base(
            "policy-input",
            hook(Point::Input, 0),
            vec![answers_node, stray(), judge(Direction::Egress)],
        ),
    ];
    Schema { maps, chains, passing: Some("np-"), ..Schema::default() }
}

/// Marks the connection and lets it pass.
fn allow(direction: Direction) -> Vec<Rule> {
    let mark = Rule::new()
        .constant(&direction_number(direction).to_ne_bytes(), KEY)
        .find(MARKS, KEY, SECOND)
        .mark_connection(SECOND);
    vec![mark, Rule::new().verdict(&Verdict::Accept)]
}

fn direction_number(direction: Direction) -> u32 {
    match direction {
        Direction::Egress => 1,
        Direction::Ingress => 2,
    }
}

/// The side of a connection that a direction's policies select.
fn own_side(direction: Direction) -> Field {
    match direction {
        Direction::Ingress => Field::Answerer,
        Direction::Egress => Field::Initiator,
    }
}

fn peer_side(direction: Direction) -> Field {
    match direction {
        Direction::Ingress => Field::Initiator,
        Direction::Egress => Field::Answerer,
    }
}

fn isolation_map(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => INTO,
        Direction::Egress => OUT_OF,
    }
}

fn pass_set(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => PASS_IN,
        Direction::Egress => PASS_OUT,
    }
}

fn allow_chain(direction: Direction) -> Verdict {
    Verdict::Goto(match direction {
        Direction::Ingress => ALLOW_IN.into(),
        Direction::Egress => ALLOW_OUT.into(),
    })
}

/// How the names of chains that come and go begin, after the schema's `np-`.
fn short(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

pub(crate) fn policy_chain(direction: Direction, number: u32) -> String {
    format!("np-{}-{number}", short(direction))
}

pub(crate) fn pods_chain(direction: Direction, number: u32) -> String {
    format!("np-pods-{}-{number}", short(direction))
}

/// How selectors and names of ports are numbered.
pub(crate) trait Numbers {
    fn selector(&self, peers: &PodPeers) -> u32;
    fn name(&self, name: &str) -> u32;
}

/// The chains of one direction of a policy; the first has the name, the others begin with it.
pub(crate) fn policy_chains(
    name: &str,
    policy: &Policy,
    direction: Direction,
    numbers: &impl Numbers,
) -> Vec<Chain> {
    let mut chains = vec![Chain::plain(name, Vec::new())];
    for (index, allowed) in policy.allowed(direction).unwrap_or_default().iter().enumerate() {
        let comment = format!("{} {}[{index}]", policy.key, direction.name());
        let ends = |rule: Rule| rule.verdict(&allow_chain(direction)).comment(&comment);
        let peers = match &allowed.peers {
            None => vec![Rule::new()],
            Some(peers) => peers.iter().map(|peer| of_peer(peer, direction, numbers)).collect(),
        };
        let ports: Vec<_> = allowed.ports.iter().flatten().collect();
        if allowed.ports.is_none() {
            chains[0].rules.extend(peers.into_iter().map(ends));
        } else if peers.len().min(ports.len()) <= 1 || peers.len() * ports.len() <= PRODUCT_MAX {
            for peer in &peers {
                chains[0].rules.extend(ports.iter().map(|port| ends(to_port(peer.clone(), port, numbers))));
            }
        } else {
            let own = format!("{name}-{index}");
            let go = Verdict::Jump(own.clone());
            chains[0].rules.extend(peers.into_iter().map(|peer| peer.verdict(&go).comment(&comment)));
            let rules = ports.iter().map(|port| ends(to_port(Rule::new(), port, numbers))).collect();
            chains.push(Chain::plain(own, rules));
        }
    }
    chains
}

fn of_peer(peer: &Peer, direction: Direction, numbers: &impl Numbers) -> Rule {
    let side = peer_side(direction);
    match peer {
        Peer::Pods(pods) => Rule::new()
            .constant(&numbers.selector(pods).to_ne_bytes(), KEY)
            .load(side, SECOND)
            .within(PEERS, KEY),
        Peer::Block { range, except } => {
            let whole = Rule::new().load(side, KEY).in_range(KEY, Equal, range.address, range.prefix);
            except.iter().fold(whole, |rule, part| {
                rule.load(side, KEY).in_range(KEY, Unequal, part.address, part.prefix)
            })
        }
    }
}

fn to_port(rule: Rule, port: &Port, numbers: &impl Numbers) -> Rule {
    let of =
        |protocol: Protocol| rule.load(Field::ConnectionProtocol, KEY).compare(KEY, Equal, &[protocol as u8]);
    match port {
        Port::Any(protocol) => of(*protocol),
        Port::Numbers(protocol, first, last) => {
            let compare = |rule: Rule, how: Comparison, port: u16| {
                rule.load(Field::AnswererPort, KEY).compare(KEY, how, &port.to_be_bytes())
            };
            if first == last {
                compare(of(*protocol), Equal, *first)
            } else {
                let from = compare(of(*protocol), Comparison::AtLeast, *first);
                compare(from, Comparison::AtMost, *last)
            }
        }
        Port::Named(protocol, name) => of(*protocol)
            .constant(&numbers.name(name).to_ne_bytes(), KEY)
            .load(Field::Answerer, SECOND)
            .load(Field::ConnectionProtocol, THIRD)
            .load(Field::AnswererPort, FOURTH)
            .within(PORTS, KEY),
    }
}

/// The chain for pods that just these policies (with their chains) isolate in a direction.
pub(crate) fn chain_of_pods(name: String, direction: Direction, policies: &[(String, String)]) -> Chain {
    let mut rules = vec![
        Rule::new()
            .load(Field::ConnectionMark, KEY)
            .within(pass_set(direction), KEY)
            .verdict(&Verdict::Accept),
        Rule::new()
            .load(Field::Initiator, KEY)
            .load(Field::Answerer, SECOND)
            .within(SELF, KEY)
            .verdict(&allow_chain(direction)),
    ];
    rules.extend(policies.iter().map(|(policy, chain)| {
        Rule::new().verdict(&Verdict::Jump(chain.clone())).comment(&format!("{policy} {}", direction.name()))
    }));
    let all: Vec<&str> = policies.iter().map(|(policy, _)| policy.as_str()).collect();
    let none = format!("{} isolated by {}", direction.name(), all.join(", "));
    rules.push(Rule::new().verdict(&Verdict::Drop).comment(&none));
    Chain::plain(name, rules)
}

pub(crate) type Element = (&'static str, Key, Datum);

pub(crate) fn peer(number: u32, ip: std::net::Ipv4Addr) -> Element {
    (PEERS, Key::EMPTY.number(number).address(ip), Datum::Member)
}

pub(crate) fn named_port(number: u32, ip: std::net::Ipv4Addr, protocol: Protocol, port: u16) -> Element {
    (PORTS, Key::EMPTY.number(number).address(ip).protocol(protocol as u8).port(port), Datum::Member)
}

/// What isolates a pod: the chains that its address leads to.
pub(crate) fn isolation(
    ip: std::net::Ipv4Addr,
    chains: impl Iterator<Item = (Direction, String)>,
) -> Vec<Element> {
    let address = Key::EMPTY.address(ip);
    let mut elements: Vec<Element> = chains
        .map(|(direction, chain)| (isolation_map(direction), address, Datum::Verdict(Verdict::Goto(chain))))
        .collect();
    if !elements.is_empty() {
        elements.push((ISOLATED, address, Datum::Member));
        elements.push((SELF, address.address(ip), Datum::Member));
    }
    elements
}

/// The marks of one state of the policies.
pub(crate) fn marks(generation: u32) -> [Element; 5] {
    let [out, into] = [generation.wrapping_mul(2), generation.wrapping_mul(2) | 1];
    let mark = |direction, mark: u32| {
        let key = Key::EMPTY.number(direction_number(direction));
        (MARKS, key, Datum::Data(Key::EMPTY.number(mark)))
    };
    let pass = |set, mark: u32| (set, Key::EMPTY.number(mark), Datum::Member);
    // What was let in was let out before.
    [
        mark(Direction::Egress, out),
        mark(Direction::Ingress, into),
        pass(PASS_OUT, out),
        pass(PASS_OUT, into),
        pass(PASS_IN, into),
    ]
}

/// Whether the element lets marked connections pass.
pub(crate) fn is_pass(element: &Element) -> bool {
    element.0 == PASS_IN || element.0 == PASS_OUT
}

/// Whether one element more in that map can only allow.
pub(crate) fn only_allows(map: &str) -> bool {
    map == PEERS || map == PORTS
}

/// All elements, by map, with empty maps where there is none.
pub(crate) fn by_map(elements: impl Iterator<Item = Element>) -> Elements {
    let mut maps: HashMap<&'static str, HashMap<Key, Datum>> =
        MAPS.into_iter().map(|map| (map, HashMap::new())).collect();
    for (map, key, datum) in elements {
        maps.entry(map).or_default().insert(key, datum);
    }
    maps.into_iter().collect()
}

/// What a rule says, for who explains a verdict.
pub(crate) fn admits(
    allowed: &Allowed,
    is_peer: impl Fn(&Peer) -> bool,
    is_port: impl Fn(&Port) -> bool,
) -> bool {
    let peers = allowed.peers.as_ref().is_none_or(|peers| peers.iter().any(is_peer));
    peers && allowed.ports.as_ref().is_none_or(|ports| ports.iter().any(is_port))
}
