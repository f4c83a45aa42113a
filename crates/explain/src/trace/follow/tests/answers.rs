//! What becomes of the answer, and whom the receiver sees.

use super::*;

/// A connection to a pod that takes it, and what its node says of the answer.
fn answered(to: &str, end: End, hop: Hop) -> Way {
    let mut follow = follow("client", to).unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    let taken = End::Delivered { place: "pod default/web".into(), process: "process 7 (web)".into() };
    follow.answer(Ok(vec![way(taken, tuple)]));
    assert_eq!(follow.next().unwrap().question.start, Start::Sandbox { ip: ip("10.244.2.2") });
    let mut back = way(end, tuple.turned());
    back.hops.push(hop);
    follow.answer(Ok(vec![back]));
    follow.finish().0.remove(0)
}

#[test]
fn a_connection_whose_answer_is_lost_does_not_come_about() {
    let dropped = || End::Dropped { place: "node n1".into(), by: "chain c of table f, rule `drop`".into() };
    let rule = |doubtful| Hop { table: Some("f".into()), doubtful, ..Hop::default() };
    let way = answered("web", dropped(), rule(false));
    assert_eq!(way.verdict, Verdict::Dropped);
    assert_eq!(
        way.summary,
        "no connection comes about: its beginning reaches pod default/web: process 7 (web) takes it and sees \
         10.244.1.2 (pod default/client) as the sender, but the answer is dropped on node n1 by chain c of \
         table f, rule `drop`"
    );
    assert_eq!(way.advice.as_deref(), Some("that rule is not Skiff's: remove it from table f on node n1"));
    assert_eq!((way.answer_ends, way.receiver.as_deref()), (Some(Verdict::Dropped), Some("pod default/web")));
    // A datagram has arrived all the same.
    let way = answered("web:53/udp", dropped(), rule(false));
    assert_eq!((way.verdict, way.answer_ends), (Verdict::Delivered, Some(Verdict::Dropped)));
    assert!(way.advice.is_some(), "{way:?}");
    // What is not judged decides nothing.
    let way = answered("web", dropped(), rule(true));
    assert_eq!((way.verdict, way.answer_ends), (Verdict::Unknown, Some(Verdict::Unknown)));
    assert!(way.summary.starts_with("not known: by what is marked with ? below, no connection"), "{way:?}");
    // Routes and devices.
    let route = || Hop { kind: "route".into(), ..Hop::default() };
    let nowhere = End::Unroutable { place: "pod default/web".into(), why: "no route to 10.244.1.2".into() };
    let way = answered("web", nowhere, route());
    assert_eq!(
        way.answer_verdict.as_deref(),
        Some("the answer gets lost on pod default/web: no route to 10.244.1.2")
    );
    assert_eq!(
        way.advice.as_deref(),
        Some("a route on pod default/web that leads to 10.244.1.2 (pod default/client)")
    );
    let why = "veth1 of n1 is down".into();
    let down = End::Down { place: "node n1".into(), device: "veth1".into(), why };
    assert_eq!(answered("web", down, route()).advice.as_deref(), Some("bring veth1 up on node n1"));
    let home = End::Delivered { place: "pod default/client".into(), process: String::new() };
    let way = answered("web", home, Hop::default());
    assert_eq!(
        (way.verdict, way.answer_ends, way.advice),
        (Verdict::Delivered, Some(Verdict::Delivered), None)
    );
}

#[test]
fn the_receiver_sees_what_arrives_unless_nobody_knows_it() {
    let seen = |from: &str, around: bool, first: Option<&str>| {
        let mut world = world();
        if !around {
            world.surroundings = None;
        }
        let request = Request::read(from, "web", "default", &world).unwrap();
        let mut follow = Follow::new(Arc::new(world), request).unwrap();
        let tuple = follow.next().unwrap().question.packets.tuple;
        let taken = End::Delivered { place: "pod default/web".into(), process: "process 7 (web)".into() };
        let mut one = way(taken, tuple);
        one.hops.extend(first.map(|source| Hop { source: source.into(), ..Hop::default() }));
        follow.answer(Ok(vec![one]));
        follow.answer(Err("silent".into()));
        follow.finish().0.remove(0).source_seen.unwrap_or_default()
    };
    assert_eq!(seen("client", false, Some("10.244.1.2")), "10.244.1.2");
    assert_eq!(seen("external", true, Some("10.100.0.254")), "10.100.0.254");
    // Whoever it is arrives as who it is.
    assert_eq!(seen("external", false, Some("0.0.0.0")), crate::trace::OWN_ADDRESS);
    // It was translated on the way, into what is known.
    assert_eq!(seen("external", false, Some("198.51.100.1")), "0.0.0.0");
}

#[test]
fn doubt_on_the_answers_way_is_told_of_the_answer() {
    let mut follow = follow("client", "web").unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    follow.answer(Ok(vec![way(leaves("10.100.0.3"), tuple)]));
    let taken = End::Delivered { place: "pod default/web".into(), process: "process 7 (web)".into() };
    follow.answer(Ok(vec![way(taken, tuple)]));
    let mut back = way(leaves("10.100.0.2"), tuple.turned());
    back.hops.push(Hop { doubtful: true, kind: "filter".into(), ..Hop::default() });
    follow.answer(Ok(vec![back]));
    let home = End::Delivered { place: "pod default/client".into(), process: String::new() };
    follow.answer(Ok(vec![way(home, tuple.turned())]));
    let way = follow.finish().0.remove(0);
    assert_eq!(way.verdict, Verdict::Delivered);
    let answer = way.answer_verdict.unwrap();
    assert!(answer.starts_with("not known: ") && answer.contains("the answer reaches pod"), "{answer}");
}
