//! Translations: to whom, and what connection tracking has of them.

use super::*;

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
fn a_redirected_packet_is_for_the_machine_itself() {
    let rules = |port: Option<u16>| {
        let load = port.map(|port| Expression::Constant { bytes: port.to_be_bytes().to_vec(), into: 1 });
        let redirect = Expression::Redirect { port: port.map(|_| 1) };
        vec![rule(load.into_iter().chain([redirect]).collect())]
    };
    let came = Packet { input: "up0".into(), output: String::new(), ..packet() };
    let at = |point, packet: &Packet, port| {
        let passage = outcome(&listing(vec![translating("c", point, -100, rules(port))]), point, packet);
        assert_eq!(passage.end, End::Accepted);
        let doubtful = passage.steps.iter().any(|step| step.doubtful);
        (passage.packet.destination, passage.packet.destination_port, doubtful)
    };
    assert_eq!(at(Point::Prerouting, &came, Some(8080)), (HERE, 8080, false));
    assert_eq!(at(Point::Prerouting, &came, None), (HERE, 80, false));
    assert_eq!(at(Point::Output, &packet(), None), (Ipv4Addr::LOCALHOST, 80, false));
    let elsewhere = Packet { input: "in0".into(), ..came };
    assert_eq!(at(Point::Prerouting, &elsewhere, None), (PEER, 80, true), "it has no address there");
}
