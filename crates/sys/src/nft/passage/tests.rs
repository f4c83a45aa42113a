//! Rulesets of a few rules, and what becomes of a packet.

mod sets;
mod translations;
mod values;

use super::super::Verdict;
use super::super::listing::{
    Expression, ListedElement, ListedSet, ListedValue, RouteAsks, RouteResult, Side, Span, VERDICT_REGISTER,
};
use super::expressions::find;
use super::fields::{Loaded, connection, meta, payload};
use super::*;

const INET: u8 = 1;
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 3);
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A machine with one address, on its link `up0`.
struct Here;

impl Machine for Here {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        address == HERE
    }

    fn index_of(&self, link: &str) -> Option<u32> {
        match link {
            "up0" => Some(7),
            "up1" => Some(8),
            _ => None,
        }
    }

    fn name_of(&self, index: u32) -> Option<String> {
        (index == 7).then(|| "up0".to_owned())
    }

    fn kind_of(&self, link: &str) -> Option<String> {
        (link == "up0").then(|| "veth".to_owned())
    }

    /// To the pods by `up0`, and what bears a mark by `up1`; of the pod itself nothing is known.
    fn routed(&self, to: Ipv4Addr, mark: u32) -> Option<Routed> {
        match to {
            HERE => Some(Routed::Local("up0".into())),
            PEER if mark == 0 => Some(Routed::Over("up0".into())),
            PEER => Some(Routed::Over("up1".into())),
            POD => None,
            _ => Some(Routed::Nowhere),
        }
    }

    fn address_of(&self, link: &str, _: Ipv4Addr) -> Option<Ipv4Addr> {
        (link == "up0").then_some(HERE)
    }
}

/// From a pod's port 40000 to its peer's port 80.
fn packet() -> Packet {
    let mut packet = Packet::first(6, (POD, 40_000), (PEER, 80));
    packet.input = "in0".into();
    packet.output = "up0".into();
    packet
}

fn rule(expressions: Vec<Expression>) -> ListedRule {
    ListedRule { handle: 7, comment: Some("why".into()), expressions }
}

fn verdict(verdict: Verdict) -> ListedRule {
    rule(vec![Expression::Verdict(verdict)])
}

fn chain(name: &str, rules: Vec<ListedRule>) -> ListedChain {
    ListedChain { family: INET, table: "t".into(), name: name.into(), hook: None, rules }
}

fn hooked(name: &str, at: Point, priority: i32, rules: Vec<ListedRule>) -> ListedChain {
    let hook =
        ListedHook { layer: Layer::Network, at, devices: Vec::new(), priority, nat: false, drops: false };
    ListedChain { hook: Some(hook), ..chain(name, rules) }
}

fn translating(name: &str, at: Point, priority: i32, rules: Vec<ListedRule>) -> ListedChain {
    let hook = ListedHook { nat: true, ..hooked("", at, priority, Vec::new()).hook.unwrap() };
    ListedChain { hook: Some(hook), ..chain(name, rules) }
}

fn listing(chains: Vec<ListedChain>) -> Listing {
    Listing { chains, ..Listing::default() }
}

/// The only outcome.
fn outcome(listing: &Listing, at: Point, packet: &Packet) -> Passage {
    let mut all = passages(listing, &Here, at, packet);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// In forwarding: how it ends, and the chains in which something was done.
fn forwarded(chains: Vec<ListedChain>) -> (End, Vec<String>) {
    let passage = outcome(&listing(chains), Point::Forward, &packet());
    (passage.end, passage.steps.into_iter().map(|step| step.chain).collect())
}

/// Whether a rule of these expressions decides on the packet; `None` if that can't be known.
fn matches(expressions: Vec<Expression>, packet: &Packet) -> Option<bool> {
    let mut expressions = expressions;
    expressions.push(Expression::Verdict(Verdict::Drop));
    let passage = outcome(
        &listing(vec![hooked("c", Point::Forward, 0, vec![rule(expressions)])]),
        Point::Forward,
        packet,
    );
    let is_certain = passage.steps.iter().all(|step| !step.doubtful);
    is_certain.then_some(passage.end == End::Dropped)
}

/// Loads the destination port into the first register.
fn port() -> Expression {
    Expression::Payload { base: 2, offset: 2, length: 2, into: 0 }
}

fn source() -> Expression {
    Expression::Payload { base: 1, offset: 12, length: 4, into: 0 }
}

/// Rules of one chain with a set `s`.
fn with_set(elements: Vec<ListedElement>, rules: Vec<ListedRule>) -> Listing {
    let mut listing = listing(vec![hooked("c", Point::Forward, 0, rules)]);
    listing.sets.insert((INET, "t".into(), "s".into()), ListedSet { interval: false, elements });
    listing
}

#[test]
fn a_chains_policy_decides_where_no_rule_does() {
    let mut strict = hooked("c", Point::Forward, 0, vec![]);
    assert_eq!(forwarded(vec![strict.clone()]), (End::Accepted, vec![]));
    strict.hook.as_mut().expect("it has one").drops = true;
    let passage = outcome(&listing(vec![strict.clone()]), Point::Forward, &packet());
    assert_eq!((passage.end, passage.chance), (End::Dropped, 1.0));
    assert_eq!(
        (passage.steps[0].rule.as_str(), passage.steps[0].effect.as_deref()),
        ("policy drop", Some("dropped"))
    );
    strict.rules = vec![verdict(Verdict::Accept)];
    assert_eq!(forwarded(vec![strict]).0, End::Accepted);
}

#[test]
fn chains_of_a_hook_are_asked_by_priority_until_one_drops() {
    let (accept, drop) = (|| vec![verdict(Verdict::Accept)], || vec![verdict(Verdict::Drop)]);
    let chains =
        || vec![hooked("late", Point::Forward, 10, accept()), hooked("early", Point::Forward, -10, accept())];
    assert_eq!(forwarded(chains()), (End::Accepted, vec!["early".into(), "late".into()]));
    let mut dropping = chains();
    dropping[1].rules = drop();
    assert_eq!(forwarded(dropping), (End::Dropped, vec!["early".into()]));
    let mut elsewhere = chains();
    elsewhere.push(hooked("input", Point::Input, 0, drop()));
    elsewhere.push(chain("nobody's", drop()));
    assert_eq!(forwarded(elsewhere).0, End::Accepted);
}

#[test]
fn a_step_tells_the_rule_and_what_it_did() {
    let chains = vec![hooked("c", Point::Forward, 0, vec![verdict(Verdict::Drop)])];
    let passage = outcome(&listing(chains), Point::Forward, &packet());
    let expected = Step {
        table: "t".into(),
        chain: "c".into(),
        handle: 7,
        comment: Some("why".into()),
        rule: "drop".into(),
        effect: Some("dropped".into()),
        doubtful: false,
    };
    assert_eq!(passage.steps, [expected]);
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let jump = |name: &str| verdict(Verdict::Jump(name.into()));
    let goto = |name: &str| verdict(Verdict::Goto(name.into()));
    let drop = || verdict(Verdict::Drop);
    let run = |first: Vec<ListedRule>, second: Vec<ListedRule>, third: Vec<ListedRule>| {
        forwarded(vec![
            hooked("first", Point::Forward, 0, first),
            chain("second", second),
            chain("third", third),
        ])
        .0
    };
    assert_eq!(run(vec![jump("second"), drop()], vec![], vec![]), End::Dropped, "at its end");
    assert_eq!(run(vec![jump("second"), drop()], vec![verdict(Verdict::Return)], vec![]), End::Dropped);
    assert_eq!(run(vec![goto("second"), drop()], vec![], vec![]), End::Accepted);
    assert_eq!(run(vec![verdict(Verdict::Return), drop()], vec![], vec![]), End::Accepted);
    assert_eq!(run(vec![jump("second"), drop()], vec![verdict(Verdict::Accept)], vec![]), End::Accepted);
    // Who was gone to comes back to where the last jump was.
    assert_eq!(run(vec![jump("second"), drop()], vec![goto("third")], vec![]), End::Dropped);
    assert_eq!(
        run(vec![jump("second")], vec![goto("third"), verdict(Verdict::Accept)], vec![drop()]),
        End::Dropped
    );
}

#[test]
fn chains_that_jump_in_a_circle_end_at_the_kernels_depth() {
    let jump = || verdict(Verdict::Jump("circle".into()));
    let (end, steps) = forwarded(vec![
        hooked("first", Point::Forward, 0, vec![jump()]),
        chain("circle", vec![jump(), verdict(Verdict::Drop)]),
    ]);
    // The jump into it, one at each of 16 depths, and the drop.
    assert_eq!((end, steps.len()), (End::Dropped, 18));
}

#[test]
fn chains_of_other_layers_are_met_there_alone_and_at_their_devices() {
    let at = |family, layer, at, devices: &[&str], rules| {
        let hook = ListedHook {
            layer,
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            ..hooked("", at, 0, Vec::new()).hook.unwrap()
        };
        ListedChain { family, hook: Some(hook), ..chain("c", rules) }
    };
    let drop = || vec![verdict(Verdict::Drop)];
    let bridge = at(7, Layer::Bridge, Point::Output, &[], drop());
    let device = at(5, Layer::Device, Point::Postrouting, &["none0", "up*"], drop());
    let comes = at(5, Layer::Device, Point::Prerouting, &["up0"], drop());
    let listing = listing(vec![bridge, device, comes]);
    let ends = |layer, at| {
        let passage = passages_of(&listing, &Here, layer, at, &packet()).remove(0);
        (passage.end, passage.steps.first().map(|step| step.table.clone()))
    };
    assert_eq!(ends(Layer::Network, Point::Output), (End::Accepted, None));
    assert_eq!(ends(Layer::Bridge, Point::Output), (End::Dropped, Some("bridge t".into())));
    assert_eq!(ends(Layer::Bridge, Point::Input), (End::Accepted, None));
    assert_eq!(ends(Layer::Device, Point::Postrouting), (End::Dropped, Some("netdev t".into())));
    // It comes in by another device.
    assert_eq!(ends(Layer::Device, Point::Prerouting), (End::Accepted, None));
    // There the connection is not known.
    let state = Expression::Connection { key: 0, reply: None, into: 0 };
    let rules = vec![rule(vec![state, Expression::Verdict(Verdict::Drop)])];
    let listing =
        Listing { chains: vec![at(7, Layer::Bridge, Point::Forward, &[], rules)], ..Listing::default() };
    let passage = passages_of(&listing, &Here, Layer::Bridge, Point::Forward, &packet()).remove(0);
    assert!(passage.steps[0].doubtful, "{passage:?}");
}

/// A chain that drops when the number drawn is this one.
fn drawing(modulus: u32, offset: u32, drops: u32) -> ListedRule {
    rule(vec![
        Expression::Number { modulus, offset, into: 0 },
        Expression::Compare { from: 0, operator: 0, bytes: drops.to_ne_bytes().to_vec() },
        Expression::Verdict(Verdict::Drop),
    ])
}

#[test]
fn draws_have_an_outcome_for_each_number() {
    let told = |rules: Vec<ListedRule>| -> Vec<(f64, End)> {
        let listing = listing(vec![hooked("c", Point::Forward, 0, rules)]);
        let all = passages(&listing, &Here, Point::Forward, &packet());
        all.into_iter().map(|passage| (passage.chance, passage.end)).collect()
    };
    let third = 1.0 / 3.0;
    let expected = [(third, End::Accepted), (third, End::Dropped), (third, End::Accepted)];
    assert_eq!(told(vec![drawing(3, 0, 1)]), expected, "in order");
    assert_eq!(told(vec![drawing(3, 10, 11)]), expected, "from the offset on");
    assert_eq!(told(vec![drawing(1, 5, 5)]), [(1.0, End::Dropped)], "of one number there is no choice");
    // Whoever is not dropped by the first draw draws again.
    let twice = told(vec![drawing(2, 0, 0), drawing(4, 0, 3)]);
    let eighth = (0.125, End::Accepted);
    assert_eq!(twice, [(0.5, End::Dropped), eighth, eighth, eighth, (0.125, End::Dropped)]);
    // The second of a draw without choice and one with it is the one that is told apart.
    assert_eq!(told(vec![drawing(1, 0, 9), drawing(2, 0, 1)]), [(0.5, End::Accepted), (0.5, End::Dropped)]);
}

#[test]
fn beyond_256_outcomes_the_first_number_stands_for_all() {
    // The second draw of the first of 256 is the last that is told apart, that of 257 is none any more.
    for (modulus, outcomes) in [(255, 257), (256, 257), (257, 257), (300, 300)] {
        let rules = vec![drawing(modulus, 0, 999), drawing(2, 0, 1)];
        let listing = listing(vec![hooked("c", Point::Forward, 0, rules)]);
        let all = passages(&listing, &Here, Point::Forward, &packet());
        assert_eq!(all.len(), outcomes, "{modulus}");
        let chances: f64 = all.iter().map(|passage| passage.chance).sum();
        assert!((chances - 1.0).abs() < 1e-9, "{chances}");
        assert_eq!(all[outcomes - 1].end, End::Accepted, "{modulus}");
    }
}

#[test]
fn refusals_are_told_apart() {
    for (reset, end) in [(true, End::Reset), (false, End::Unreachable)] {
        let chains = vec![hooked("c", Point::Forward, 0, vec![rule(vec![Expression::Reject { reset }])])];
        assert_eq!(forwarded(chains), (end, vec!["c".into()]));
    }
}

#[test]
fn what_is_not_known_casts_doubt_and_what_only_counts_does_not() {
    let end = |expression: Expression| {
        let rules = vec![rule(vec![expression, Expression::Verdict(Verdict::Drop)])];
        let passage =
            outcome(&listing(vec![hooked("c", Point::Forward, 0, rules)]), Point::Forward, &packet());
        (passage.end, passage.steps[0].doubtful)
    };
    assert_eq!(end(Expression::Aside("counter".into())), (End::Dropped, false));
    assert_eq!(end(Expression::Unknown("osf".into())), (End::Dropped, true));
    assert_eq!(end(Expression::Meta { key: 99, into: 0 }), (End::Dropped, true));
    assert_eq!(end(Expression::Connection { key: 99, reply: None, into: 0 }), (End::Dropped, true));
    // What comes before the doubt still counts: this one is certainly not meant.
    let other = Expression::Compare { from: 0, operator: 0, bytes: vec![0, 81] };
    assert_eq!(matches(vec![port(), other, Expression::Unknown("osf".into())], &packet()), Some(false));
    // What is loaded of what is not known may be anything, also after a mask and in a set.
    let load = |offset| Expression::Payload { base: 1, offset, length: 1, into: 0 };
    let is = |from, value: u8| Expression::Compare { from, operator: 0, bytes: vec![value] };
    assert_eq!(matches(vec![load(8), is(0, 1)], &packet()), None);
    assert_eq!(matches(vec![load(9), is(0, 1)], &packet()), Some(false));
    let masked = Expression::Bitwise { from: 0, into: 3, mask: vec![1], xor: vec![0] };
    assert_eq!(matches(vec![load(8), masked, is(3, 1)], &packet()), None);
    assert_eq!(matches(vec![Expression::Meta { key: 99, into: 2 }, is(5, 7)], &packet()), None);
    assert_eq!(matches(vec![Expression::Unknown("hash".into()), is(9, 7)], &packet()), None);
    let range = Expression::Range { from: 0, unequal: false, first: vec![1], last: vec![2] };
    assert_eq!(matches(vec![load(8), range], &packet()), None);
    let member = ListedElement { key: vec![9], key_end: None, end: false, value: ListedValue::Member };
    let lookup = Expression::Lookup { set: "s".into(), from: 0, into: None, inverted: false };
    let rules = vec![rule(vec![load(8), lookup, Expression::Verdict(Verdict::Drop)])];
    let passage = outcome(&with_set(vec![member], rules), Point::Forward, &packet());
    assert_eq!((passage.end, passage.steps[0].doubtful), (End::Dropped, true));
    // A rule that only raises doubt is told, too.
    let rules = vec![rule(vec![Expression::Unknown("osf".into())])];
    let passage = outcome(&listing(vec![hooked("c", Point::Forward, 0, rules)]), Point::Forward, &packet());
    assert_eq!((passage.end, passage.steps.len(), passage.steps[0].doubtful), (End::Accepted, 1, true));
}

#[test]
fn another_namespace_tracks_its_own_connection() {
    let mut packet = packet();
    packet.destination = HERE;
    packet.connection.destination_translated = true;
    packet.connection.source_translated = true;
    packet.connection.mark = 7;
    packet.enter_namespace();
    assert_eq!(
        packet,
        Packet {
            destination: HERE,
            input: "in0".into(),
            output: "up0".into(),
            ..Packet::first(6, (POD, 40_000), (HERE, 80))
        }
    );
    packet.connection.reply = true;
    packet.enter_namespace();
    assert_eq!(packet.connection.answered, (POD, 40_000, HERE, 80));
    assert_eq!(packet.connection.original, (HERE, 80, POD, 40_000));
}
