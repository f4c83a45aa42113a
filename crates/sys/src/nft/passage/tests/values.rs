//! What a rule loads of a packet and compares.

use super::*;

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
fn routes_are_asked_as_the_kernel_asks_them() {
    let asks = RouteAsks {
        source: true,
        by_mark: false,
        on: Side::Input,
        result: RouteResult::Index,
        presence: true,
    };
    let is = |asks: RouteAsks, value: &[u8], packet: &Packet| {
        let compare = Expression::Compare { from: 0, operator: 0, bytes: value.to_vec() };
        matches(vec![Expression::Route { asks, into: 0 }, compare], packet)
    };
    let came = |by: &str, source: Ipv4Addr| Packet { input: by.into(), source, ..packet() };
    // Whether answers to the sender would leave by where it came in (the reverse path).
    assert_eq!(is(asks, &[1], &came("up0", PEER)), Some(true));
    assert_eq!(is(asks, &[0], &came("in0", PEER)), Some(true), "by another link");
    assert_eq!(is(asks, &[0], &came("up0", HERE)), Some(true), "from an address of its own");
    assert_eq!(is(asks, &[0], &came("up0", Ipv4Addr::new(203, 0, 113, 1))), Some(true), "no route");
    assert_eq!(is(asks, &[1], &came("up0", POD)), None, "where the routes lead is not known");
    let by = |on| RouteAsks { source: false, on, presence: false, ..asks };
    assert_eq!(is(by(Side::Any), &7u32.to_ne_bytes(), &packet()), Some(true));
    assert_eq!(is(by(Side::Output), &7u32.to_ne_bytes(), &packet()), Some(true));
    let named = RouteAsks { result: RouteResult::Name, ..by(Side::Any) };
    assert_eq!(is(named, b"up0\0\0\0\0\0\0\0\0\0\0\0\0\0", &packet()), Some(true));
    // Of this machine, by the address of that link alone.
    let kind = |on| RouteAsks { result: RouteResult::Kind, source: false, on, ..asks };
    let to = |destination| Packet { destination, input: "up0".into(), ..packet() };
    let (local, unicast) = (2u32.to_ne_bytes(), 1u32.to_ne_bytes());
    assert_eq!(is(kind(Side::Input), &local, &to(HERE)), Some(true));
    assert_eq!(is(kind(Side::Input), &unicast, &Packet { input: "in0".into(), ..to(HERE) }), Some(true));
    assert_eq!(is(kind(Side::Any), &5u32.to_ne_bytes(), &to(Ipv4Addr::new(224, 0, 0, 1))), Some(true));
    // By its mark, another way.
    let marked = |mark| {
        let route = RouteAsks { by_mark: true, ..by(Side::Any) };
        let compare = Expression::Compare { from: 0, operator: 0, bytes: 7u32.to_ne_bytes().to_vec() };
        let set = [
            Expression::Constant { bytes: u32::to_ne_bytes(mark).to_vec(), into: 0 },
            Expression::SetMeta { key: 3, from: 0 },
            Expression::Route { asks: route, into: 0 },
            compare,
        ];
        matches(set.to_vec(), &packet())
    };
    assert_eq!((marked(0), marked(9)), (Some(true), Some(false)));
}

#[test]
fn what_a_rule_notes_on_the_packet_a_later_one_reads() {
    let number = |bytes: u32| Expression::Constant { bytes: bytes.to_ne_bytes().to_vec(), into: 0 };
    let set = |key| rule(vec![number(5), Expression::SetMeta { key, from: 0 }]);
    let is = Expression::Compare { from: 0, operator: 0, bytes: 5u32.to_ne_bytes().to_vec() };
    let read = Expression::Meta { key: 3, into: 0 };
    let reads = || rule(vec![read.clone(), is.clone(), Expression::Verdict(Verdict::Drop)]);
    let end =
        |rules| outcome(&listing(vec![hooked("c", Point::Forward, 0, rules)]), Point::Forward, &packet());
    assert_eq!(end(vec![set(3), reads()]).end, End::Dropped);
    // In which order it is sent decides nothing.
    let passage = end(vec![set(2), reads()]);
    assert_eq!((passage.end, passage.steps), (End::Accepted, Vec::new()));
    // What else may be changed is not carried out.
    let payload = Expression::SetPayload { base: 1, offset: 16, length: 4, from: 0 };
    for changes in [set(14), rule(vec![number(5), payload])] {
        assert!(end(vec![changes, reads()]).steps[0].doubtful);
    }
    let mut marked = packet();
    marked.mark = 5;
    marked.enter_namespace();
    assert_eq!(marked.mark, 0);
}

#[test]
fn links_have_kinds() {
    let is = |key, bytes: &[u8], input: &str| {
        let compare = Expression::Compare { from: 0, operator: 0, bytes: bytes.to_vec() };
        matches(vec![Expression::Meta { key, into: 0 }, compare], &Packet { input: input.into(), ..packet() })
    };
    assert_eq!(is(26, b"veth\0", "up0"), Some(true));
    assert_eq!((is(8, &[1, 0], "up0"), is(8, &[1, 0], "in0")), (Some(true), None));
}
