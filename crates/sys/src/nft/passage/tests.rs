//! Rulesets of a few rules, and what becomes of a packet.

use super::fields::{connection, meta, payload};
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
        (link == "up0").then_some(7)
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
fn comparisons_are_of_bytes_in_network_order() {
    for (operator, holding) in [
        (0, [false, true, false]),
        (1, [true, false, true]),
        (2, [true, false, false]),
        (3, [true, true, false]),
        (4, [false, false, true]),
        (5, [false, true, true]),
    ] {
        let compare = Expression::Compare { from: 0, operator, bytes: 300u16.to_be_bytes().to_vec() };
        for (number, holds) in [255, 300, 301].into_iter().zip(holding) {
            let packet = Packet { destination_port: number, ..packet() };
            assert_eq!(
                matches(vec![port(), compare.clone()], &packet),
                Some(holds),
                "{number}, operator {operator}"
            );
        }
    }
}

#[test]
fn ranges_have_both_their_ends() {
    for (number, inside) in [(79, false), (80, true), (85, true), (90, true), (91, false)] {
        let packet = Packet { destination_port: number, ..packet() };
        for unequal in [false, true] {
            let (first, last) = (80u16.to_be_bytes().to_vec(), 90u16.to_be_bytes().to_vec());
            let range = Expression::Range { from: 0, unequal, first, last };
            assert_eq!(matches(vec![port(), range], &packet), Some(inside != unequal), "{number}");
            let (first, last) = (80u16.to_be_bytes().to_vec(), 90u16.to_be_bytes().to_vec());
            let load = Expression::Payload { base: 2, offset: 2, length: 2, into: 6 };
            let range = Expression::Range { from: 6, unequal, first, last };
            assert_eq!(matches(vec![load, range], &packet), Some(inside != unequal), "{number}");
        }
    }
}

#[test]
fn masks_leave_their_bits_and_turn_those_of_the_other() {
    let masked = |mask: [u8; 4], xor: [u8; 4], is: [u8; 4]| {
        let bitwise = Expression::Bitwise { from: 0, into: 5, mask: mask.to_vec(), xor: xor.to_vec() };
        matches(
            vec![source(), bitwise, Expression::Compare { from: 5, operator: 0, bytes: is.to_vec() }],
            &packet(),
        )
    };
    assert_eq!(masked([255, 255, 0, 0], [0; 4], [10, 244, 0, 0]), Some(true));
    assert_eq!(masked([255, 255, 0, 0], [0; 4], [10, 244, 0, 2]), Some(false));
    assert_eq!(masked([0, 0, 0, 3], [0, 0, 0, 6], [0, 0, 0, 4]), Some(true));
    // From one register to another.
    let load = Expression::Payload { base: 1, offset: 12, length: 4, into: 5 };
    let bitwise = Expression::Bitwise { from: 5, into: 9, mask: vec![255, 255, 255, 0], xor: vec![0; 4] };
    let compare = |from, is: [u8; 4]| Expression::Compare { from, operator: 0, bytes: is.to_vec() };
    let both = vec![load, bitwise, compare(9, [10, 244, 0, 0]), compare(5, [10, 244, 0, 2])];
    assert_eq!(matches(both, &packet()), Some(true));
}

#[test]
fn headers_are_those_of_ethernet_ipv4_and_the_ports() {
    let packet = Packet { sender_hardware: [2, 0, 0, 0, 0, 9], ..packet() };
    let of = |layer, packet: &Packet, base, offset, length| payload(layer, packet, base, offset, length);
    let read = |base, offset, length| of(Layer::Network, &packet, base, offset, length);
    let is = |bytes: &[u8]| Loaded::Bytes(bytes.to_vec());
    assert_eq!(read(0, 6, 8), is(&[2, 0, 0, 0, 0, 9, 8, 0]));
    assert_eq!(read(1, 0, 1), is(&[0x45]));
    assert_eq!(read(1, 9, 1), is(&[6]));
    assert_eq!(read(1, 12, 8), is(&[10, 244, 0, 2, 10, 245, 0, 3]));
    assert_eq!(read(2, 0, 4), is(&[0x9c, 0x40, 0, 80]));
    assert_eq!(read(2, 13, 1), is(&[2]), "the first packet is a SYN");
    let mut later = packet.clone();
    later.connection.new = false;
    assert_eq!(of(Layer::Network, &later, 2, 13, 1), is(&[0x10]));
    assert_eq!((read(1, 16, 4), read(3, 0, 1)), (is(&[10, 245, 0, 3]), Loaded::Absent));
    // Whom it is for on the link, how long it is and how far it has come, and what follows.
    for (base, offset, length) in
        [(0, 5, 2), (0, 13, 2), (1, 2, 2), (1, 3, 1), (1, 8, 1), (1, 17, 4), (2, 20, 1)]
    {
        assert_eq!(read(base, offset, length), Loaded::Unknown, "{base} {offset} {length}");
    }
    let strange = Packet { sender_hardware: [0; 6], protocol: 17, ..packet.clone() };
    assert_eq!(of(Layer::Device, &strange, 0, 8, 4), Loaded::Unknown);
    assert_eq!(of(Layer::Device, &strange, 0, 12, 2), is(&[8, 0]));
    assert_eq!(of(Layer::Device, &strange, 2, 4, 2), Loaded::Unknown);
    assert_eq!(read(2, 4, 2), is(&[0, 0]));
    // Who has an address, and who asks.
    let asks = |offset, length| of(Layer::Neighbour, &packet, 1, offset, length);
    assert_eq!(asks(6, 2), is(&[0, 1]));
    assert_eq!((asks(14, 4), asks(24, 4)), (is(&[10, 244, 0, 2]), is(&[10, 245, 0, 3])));
    assert_eq!((asks(8, 6), asks(18, 6)), (Loaded::Unknown, Loaded::Unknown));
    assert_eq!(of(Layer::Neighbour, &packet, 0, 12, 2), is(&[8, 6]));
    assert_eq!(of(Layer::Neighbour, &packet, 2, 0, 2), Loaded::Absent);
    let mut answer = packet.clone();
    answer.connection.reply = true;
    assert_eq!(of(Layer::Neighbour, &answer, 1, 6, 2), is(&[0, 2]));
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

#[test]
fn metadata_is_what_the_packet_came_with() {
    let name = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(16, 0);
        Some(bytes)
    };
    let read = |key| meta(Layer::Network, &packet(), key);
    assert_eq!(read(1), Some(vec![8, 0]));
    assert_eq!(read(3), Some(vec![0; 4]));
    assert_eq!((read(6), read(7)), (name("in0"), name("up0")));
    assert_eq!(read(15), Some(vec![2]));
    assert_eq!(read(16), Some(vec![6]));
    assert_eq!(read(99), None);
    let long = Packet { input: "a-link-of-twenty-chars".into(), ..packet() };
    assert_eq!(meta(Layer::Network, &long, 6), name("a-link-of-twent"));
    // Of a question for a neighbour.
    assert_eq!(meta(Layer::Neighbour, &packet(), 1), Some(vec![8, 6]));
    assert_eq!((meta(Layer::Neighbour, &packet(), 16), meta(Layer::Bridge, &packet(), 15)), (None, None));
}

#[test]
fn tracking_tells_both_ways_of_a_connection() {
    // A service's: the peer is what 10.96.0.1:443 was translated to, the source is masqueraded.
    let mut packet = packet();
    let service = Ipv4Addr::new(10, 96, 0, 1);
    packet.connection = Connection {
        reply: false,
        new: true,
        original: (POD, 40_000, service, 443),
        answered: (PEER, 80, HERE, 5000),
        destination_translated: false,
        source_translated: false,
        mark: 0x0102_0304,
    };
    let read = |packet: &Packet, key, reply| connection(packet, key, reply);
    let number = |bytes: Option<Vec<u8>>| bytes.map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap()));
    assert_eq!(number(read(&packet, 0, None)), Some(8), "new");
    assert_eq!(read(&packet, 1, None), Some(vec![0]));
    assert_eq!(number(read(&packet, 2, None)), Some(0));
    assert_eq!(number(read(&packet, 3, None)), Some(0x0102_0304));
    assert_eq!((read(&packet, 7, None), read(&packet, 10, None)), (Some(vec![2]), Some(vec![6])));
    for (source, destination) in [(8, 9), (19, 20)] {
        assert_eq!(read(&packet, source, Some(false)), Some(POD.octets().to_vec()));
        assert_eq!(read(&packet, destination, Some(false)), Some(service.octets().to_vec()));
        assert_eq!(read(&packet, source, Some(true)), Some(PEER.octets().to_vec()));
        assert_eq!(read(&packet, destination, Some(true)), Some(HERE.octets().to_vec()));
    }
    assert_eq!(read(&packet, 11, Some(false)), Some(40_000u16.to_be_bytes().to_vec()));
    assert_eq!(read(&packet, 12, Some(false)), Some(443u16.to_be_bytes().to_vec()));
    assert_eq!(read(&packet, 11, Some(true)), Some(80u16.to_be_bytes().to_vec()));
    assert_eq!(read(&packet, 12, None), Some(443u16.to_be_bytes().to_vec()), "the packet's own way");
    packet.connection.reply = true;
    packet.connection.new = false;
    assert_eq!(read(&packet, 12, None), Some(5000u16.to_be_bytes().to_vec()));
    assert_eq!((number(read(&packet, 0, None)), read(&packet, 1, None)), (Some(2), Some(vec![1])));
    assert_eq!(number(read(&packet, 2, None)), Some(8 | 2));
    packet.connection.destination_translated = true;
    assert_eq!(number(read(&packet, 2, None)), Some(8 | 2 | 32));
    packet.connection.source_translated = true;
    assert_eq!(number(read(&packet, 2, None)), Some(8 | 2 | 16 | 32));
    assert_eq!(read(&packet, 99, None), None);
}

fn element(key: &[u8], end: bool, value: ListedValue) -> ListedElement {
    ListedElement { key: key.to_vec(), key_end: None, end, value }
}

#[test]
fn a_set_finds_its_elements() {
    let data = |byte: u8| ListedValue::Data(vec![byte]);
    let found = |set: &ListedSet, key: &[u8]| match find(set, key) {
        Some(ListedValue::Data(bytes)) => Some(bytes[0]),
        None => None,
        other => panic!("{other:?}"),
    };
    let single = ListedSet {
        interval: false,
        elements: vec![element(&[0, 80], false, data(1)), element(&[1, 187], false, data(2))],
    };
    assert_eq!(found(&single, &[0, 80]), Some(1));
    assert_eq!(found(&single, &[1, 187]), Some(2));
    assert_eq!(found(&single, &[0, 81]), None);

    // 10.0.0.0/8, and from 20.0.0.0 on two ranges that touch.
    let borders = ListedSet {
        interval: true,
        elements: vec![
            element(&[0, 0, 0, 0], true, ListedValue::Member),
            element(&[10, 0, 0, 0], false, data(1)),
            element(&[11, 0, 0, 0], true, ListedValue::Member),
            element(&[20, 0, 0, 0], false, data(2)),
            element(&[21, 0, 0, 0], true, ListedValue::Member),
            element(&[21, 0, 0, 0], false, data(3)),
            element(&[22, 0, 0, 0], true, ListedValue::Member),
        ],
    };
    for (key, expected) in [
        ([9, 255, 255, 255], None),
        ([10, 0, 0, 0], Some(1)),
        ([10, 255, 255, 255], Some(1)),
        ([11, 0, 0, 0], None),
        ([20, 0, 0, 1], Some(2)),
        ([21, 0, 0, 0], Some(3)),
        ([22, 0, 0, 0], None),
    ] {
        assert_eq!(found(&borders, &key), expected, "{key:?}");
        let mut turned = borders.clone();
        turned.elements.reverse();
        assert_eq!(found(&turned, &key), expected, "{key:?}, in whatever order they are listed");
    }

    // 10.0.0.0-10.0.0.9 with the ports 80-90, whose part fills a register of its own.
    let both = ListedSet {
        interval: true,
        elements: vec![ListedElement {
            key: vec![10, 0, 0, 0, 0, 80, 0, 0],
            key_end: Some(vec![10, 0, 0, 9, 0, 90, 0, 0]),
            end: false,
            value: data(1),
        }],
    };
    for (key, expected) in [
        ([10, 0, 0, 5, 0, 85, 0, 0], Some(1)),
        ([10, 0, 0, 9, 0, 90, 0, 0], Some(1)),
        ([10, 0, 0, 0, 0, 80, 0, 0], Some(1)),
        ([10, 0, 0, 5, 0, 79, 0, 0], None),
        ([10, 0, 0, 5, 0, 91, 0, 0], None),
        ([10, 0, 0, 10, 0, 85, 0, 0], None),
        ([9, 0, 0, 5, 0, 85, 0, 0], None),
    ] {
        assert_eq!(found(&both, &key), expected, "{key:?}");
    }
}

/// Rules of one chain with a set `s`.
fn with_set(elements: Vec<ListedElement>, rules: Vec<ListedRule>) -> Listing {
    let mut listing = listing(vec![hooked("c", Point::Forward, 0, rules)]);
    listing.sets.insert((INET, "t".into(), "s".into()), ListedSet { interval: false, elements });
    listing
}

fn lookup(from: usize, into: Option<usize>, inverted: bool) -> Expression {
    Expression::Lookup { set: "s".into(), from, into, inverted }
}

#[test]
fn a_lookup_matches_decides_or_loads() {
    let end = |listing: &Listing| outcome(listing, Point::Forward, &packet()).end;
    let member = |key: u16| vec![element(&key.to_be_bytes(), false, ListedValue::Member)];
    for (key, inverted, expected) in [
        (80, false, End::Dropped),
        (81, false, End::Accepted),
        (80, true, End::Accepted),
        (81, true, End::Dropped),
    ] {
        let drop = rule(vec![port(), lookup(0, None, inverted), Expression::Verdict(Verdict::Drop)]);
        assert_eq!(end(&with_set(member(key), vec![drop])), expected, "{key}, inverted: {inverted}");
    }
    // A set that is not there has no element.
    let unknown = rule(vec![port(), lookup(0, None, false), Expression::Verdict(Verdict::Drop)]);
    assert_eq!(end(&listing(vec![hooked("c", Point::Forward, 0, vec![unknown])])), End::Accepted);

    let verdicts = |key: u16| vec![element(&key.to_be_bytes(), false, ListedValue::Verdict(Verdict::Drop))];
    let vmap = || rule(vec![port(), lookup(0, Some(VERDICT_REGISTER), false)]);
    assert_eq!(end(&with_set(verdicts(80), vec![vmap()])), End::Dropped);
    assert_eq!(end(&with_set(verdicts(81), vec![vmap()])), End::Accepted);

    // The port is a key of the second register.
    let loads = |key: u16| vec![element(&key.to_be_bytes(), false, ListedValue::Data(vec![9, 9]))];
    let compare = |bytes: Vec<u8>| Expression::Compare { from: 3, operator: 0, bytes };
    let map = |bytes: Vec<u8>| {
        let load = Expression::Payload { base: 2, offset: 2, length: 2, into: 1 };
        rule(vec![load, lookup(1, Some(3), false), compare(bytes), Expression::Verdict(Verdict::Drop)])
    };
    assert_eq!(end(&with_set(loads(80), vec![map(vec![9, 9])])), End::Dropped);
    assert_eq!(end(&with_set(loads(80), vec![map(vec![9, 8])])), End::Accepted);
    assert_eq!(end(&with_set(loads(81), vec![map(vec![0, 0])])), End::Accepted, "nothing is loaded");
    // What a map's element stands for has to be known.
    let passage = outcome(&with_set(member(80), vec![map(vec![0, 0])]), Point::Forward, &packet());
    assert!(passage.steps[0].doubtful);
}

#[test]
fn a_shorter_value_clears_the_rest_of_its_register() {
    let constant = |bytes: &[u8]| Expression::Constant { bytes: bytes.to_vec(), into: 2 };
    let compare = |bytes: &[u8]| Expression::Compare { from: 2, operator: 0, bytes: bytes.to_vec() };
    let over =
        |second: &[u8], is: &[u8]| matches(vec![constant(&[1; 8]), constant(second), compare(is)], &packet());
    assert_eq!(over(&[2], &[2, 0, 0, 0, 1, 1, 1, 1]), Some(true));
    assert_eq!(over(&[2; 5], &[2, 2, 2, 2, 2, 0, 0, 0]), Some(true));
    // The last register is the 32nd.
    let beyond = Expression::Constant { bytes: vec![1; 4], into: 32 };
    assert_eq!(matches(vec![beyond], &packet()), Some(false));
    assert_eq!(matches(vec![Expression::Constant { bytes: vec![1; 4], into: 31 }], &packet()), Some(true));
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
fn addresses_are_the_machines_or_not() {
    let is = |of_source: bool, kind: u32, packet: &Packet| {
        let compare = Expression::Compare { from: 0, operator: 0, bytes: kind.to_ne_bytes().to_vec() };
        matches(vec![Expression::AddressType { source: of_source, into: 0 }, compare], packet)
    };
    let to_here = Packet { destination: HERE, ..packet() };
    for (of_source, packet, kind) in [(false, &to_here, 2), (true, &to_here, 1), (false, &packet(), 1)] {
        assert_eq!(is(of_source, kind, packet), Some(true));
        assert_eq!(is(of_source, 3 - kind, packet), Some(false));
    }
}

/// Loads an address and a port, and translates.
fn to(source: bool, address: Option<Ipv4Addr>, port: Option<u16>) -> ListedRule {
    let mut expressions = Vec::new();
    expressions.extend(address.map(|ip| Expression::Constant { bytes: ip.octets().to_vec(), into: 0 }));
    expressions.extend(port.map(|port| Expression::Constant { bytes: port.to_be_bytes().to_vec(), into: 1 }));
    let span = |register| Span { first: register, last: register };
    expressions.push(Expression::Translate {
        source,
        address: address.map(|_| span(0)),
        port: port.map(|_| span(1)),
        prefix: false,
    });
    rule(expressions)
}

/// Loads first and last address and port, and translates.
fn to_one_of(source: bool, addresses: [[u8; 4]; 2], ports: [u16; 2], prefix: bool) -> ListedRule {
    let load = |bytes: &[u8], into| Expression::Constant { bytes: bytes.to_vec(), into };
    rule(vec![
        load(&addresses[0], 0),
        load(&addresses[1], 1),
        load(&ports[0].to_be_bytes(), 2),
        load(&ports[1].to_be_bytes(), 3),
        Expression::Translate {
            source,
            address: Some(Span { first: 0, last: 1 }),
            port: Some(Span { first: 2, last: 3 }),
            prefix,
        },
    ])
}

#[test]
fn of_a_range_of_addresses_each_may_be_the_one() {
    let told = |rule: ListedRule| -> Vec<(f64, String, bool)> {
        let listing = listing(vec![translating("c", Point::Prerouting, 0, vec![rule])]);
        let all = passages(&listing, &Here, Point::Prerouting, &packet());
        let line = |passage: Passage| {
            let Packet { destination, destination_port, .. } = passage.packet;
            let doubtful = passage.steps.iter().any(|step| step.doubtful);
            (passage.chance, format!("{destination}:{destination_port}"), doubtful)
        };
        all.into_iter().map(line).collect()
    };
    let certain = |chance: f64, to: &str| (chance, to.to_owned(), false);
    let (three, four) = ([10, 0, 0, 3], [10, 0, 0, 4]);
    assert_eq!(
        told(to_one_of(false, [three, four], [8000; 2], false)),
        [certain(0.5, "10.0.0.3:8000"), certain(0.5, "10.0.0.4:8000")]
    );
    assert_eq!(told(to_one_of(false, [three; 2], [8000; 2], false)), [certain(1.0, "10.0.0.3:8000")]);
    // A port in the range stays as it is; any other one becomes one of the range.
    assert_eq!(told(to_one_of(false, [three; 2], [79, 81], false)), [certain(1.0, "10.0.0.3:80")]);
    assert_eq!(
        told(to_one_of(false, [three; 2], [8000, 8001], false)),
        [certain(0.5, "10.0.0.3:8000"), certain(0.5, "10.0.0.3:8001")]
    );
    // Of too many, and of what is no range, none is told.
    for (addresses, ports) in
        [([[10, 0, 0, 0], [10, 0, 0, 64]], [1; 2]), ([four, three], [1; 2]), ([three; 2], [8000, 8064])]
    {
        let all = told(to_one_of(false, addresses, ports, false));
        assert_eq!(all, [(1.0, format!("{PEER}:80"), true)], "{addresses:?} {ports:?}");
    }
    assert_eq!(told(to_one_of(false, [[10, 0, 0, 0], [10, 0, 0, 63]], [1; 2], false)).len(), 64);
    // Of a prefix the host's part stays.
    let prefix = to_one_of(false, [[192, 0, 2, 0], [192, 0, 2, 255]], [80; 2], true);
    assert_eq!(told(prefix), [certain(1.0, "192.0.2.3:80")]);
    // What is not known leaves doubt.
    let mut hashed = to_one_of(false, [three, four], [80; 2], false);
    hashed.expressions.insert(4, Expression::Unknown("hash".into()));
    assert_eq!(told(hashed), [(1.0, format!("{PEER}:80"), true)]);
}

#[test]
fn links_are_also_called_by_their_numbers() {
    let is = |key: u32, number: u32, packet: &Packet| {
        let compare = Expression::Compare { from: 0, operator: 0, bytes: number.to_ne_bytes().to_vec() };
        matches(vec![Expression::Meta { key, into: 0 }, compare], packet)
    };
    assert_eq!((is(5, 7, &packet()), is(5, 8, &packet())), (Some(true), Some(false)));
    // The other link's number is not known, and of none it is zero.
    assert_eq!(is(4, 7, &packet()), None);
    let sent = Packet { input: String::new(), ..packet() };
    assert_eq!((is(4, 0, &sent), is(4, 7, &sent)), (Some(true), Some(false)));
}

#[test]
fn a_translated_destination_is_who_answers() {
    let at = Point::Prerouting;
    let translate = |address, port| {
        let chains = vec![translating("c", at, 0, vec![to(false, address, port)])];
        let after = outcome(&listing(chains), at, &packet()).packet;
        assert!(after.connection.destination_translated && !after.connection.source_translated);
        assert_eq!(after.connection.original, packet().connection.original);
        let answered = after.connection.answered;
        assert_eq!((answered.0, answered.1), (after.destination, after.destination_port));
        assert_eq!((answered.2, answered.3), (POD, 40_000));
        (after.destination, after.destination_port)
    };
    assert_eq!(translate(Some(HERE), Some(8080)), (HERE, 8080));
    assert_eq!(translate(Some(HERE), None), (HERE, 80));
    assert_eq!(translate(None, Some(8080)), (PEER, 8080));
}

#[test]
fn a_translated_source_is_who_is_answered() {
    let at = Point::Postrouting;
    let translate = |rule: ListedRule| {
        let after = outcome(&listing(vec![translating("c", at, 0, vec![rule])]), at, &packet()).packet;
        assert!(after.connection.source_translated && !after.connection.destination_translated);
        let answered = after.connection.answered;
        assert_eq!((answered.0, answered.1), (PEER, 80));
        assert_eq!((answered.2, answered.3), (after.source, after.source_port));
        (after.source, after.source_port)
    };
    assert_eq!(translate(to(true, Some(HERE), Some(6000))), (HERE, 6000));
    assert_eq!(translate(to(true, None, Some(6000))), (POD, 6000));
    assert_eq!(translate(rule(vec![Expression::Masquerade])), (HERE, 40_000));
    // Where the link has no address that is known, all that is certain is that it is translated.
    let elsewhere = Packet { output: "other0".into(), ..packet() };
    let chains = vec![translating("c", at, 0, vec![rule(vec![Expression::Masquerade])])];
    let after = outcome(&listing(chains), at, &elsewhere).packet;
    assert_eq!((after.source, after.connection.source_translated), (POD, true));
}

#[test]
fn a_connection_is_translated_once_a_kind_by_its_first_packet() {
    for (at, source) in
        [(Point::Prerouting, false), (Point::Output, false), (Point::Input, true), (Point::Postrouting, true)]
    {
        let other = Ipv4Addr::new(192, 0, 2, 9);
        let ruleset = listing(vec![
            translating("second", at, 5, vec![to(source, Some(other), None)]),
            translating("first", at, -5, vec![to(source, Some(HERE), None)]),
        ]);
        let end = |packet: &Packet| {
            let after = outcome(&ruleset, at, packet).packet;
            if source { after.source } else { after.destination }
        };
        let before = if source { POD } else { PEER };
        assert_eq!(end(&packet()), HERE, "{at:?}");
        let mut later = packet();
        later.connection.new = false;
        assert_eq!(end(&later), before, "{at:?}: the kernel does it by what it remembers");
        let mut bound = packet();
        bound.connection.source_translated = source;
        bound.connection.destination_translated = !source;
        assert_eq!(end(&bound), before, "{at:?}");
        bound.connection.source_translated = !source;
        bound.connection.destination_translated = source;
        assert_eq!(end(&bound), HERE, "{at:?}: the other kind is another matter");
    }
}

#[test]
fn translation_has_its_place_among_the_priorities() {
    // Who filters before a service's address is translated sees that address, who does so after it the pod's.
    let seen = |at: Point, priority: i32, source: bool| {
        let offset = if source { 12 } else { 16 };
        let filter = rule(vec![
            Expression::Payload { base: 1, offset, length: 4, into: 0 },
            Expression::Compare { from: 0, operator: 0, bytes: HERE.octets().to_vec() },
            Expression::Verdict(Verdict::Drop),
        ]);
        let chains = vec![
            hooked("filter", at, priority, vec![filter]),
            // Its own priority only orders it among its like.
            translating("nat", at, 1000, vec![to(source, Some(HERE), None)]),
        ];
        outcome(&listing(chains), at, &packet()).end == End::Dropped
    };
    for at in [Point::Prerouting, Point::Output] {
        assert_eq!(
            [-101, -100, -99].map(|priority| seen(at, priority, false)),
            [false, false, true],
            "{at:?}"
        );
    }
    for at in [Point::Input, Point::Postrouting] {
        assert_eq!([99, 100, 101].map(|priority| seen(at, priority, true)), [false, false, true], "{at:?}");
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
fn a_mark_is_the_connections() {
    let value = 0x0102_0304u32;
    let marks = rule(vec![
        Expression::Constant { bytes: value.to_ne_bytes().to_vec(), into: 3 },
        Expression::SetMark { from: 3 },
    ]);
    let after =
        outcome(&listing(vec![hooked("c", Point::Forward, 0, vec![marks])]), Point::Forward, &packet());
    assert_eq!(after.packet.connection.mark, value);
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
    assert_eq!(end(Expression::Redirect { port: None }), (End::Dropped, true));
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
