//! Ways that are followed over nodes which answer what a test tells them to.

use super::*;
use crate::trace::Outside;
use crate::trace::testing::{ip, world};

fn follow(from: &str, to: &str) -> Result<Follow, TraceError> {
    let world = world();
    let request = Request::read(from, to, "default", &world)?;
    Follow::new(Arc::new(world), request)
}

fn way(end: End, tuple: Tuple) -> NodeWay {
    NodeWay { chance: 1.0, hops: Vec::new(), end, tuple, conversations: Vec::new() }
}

#[test]
fn a_service_is_followed_over_two_nodes_and_back() {
    let mut follow = follow("pod/client", "svc/svc").unwrap();
    let first = follow.next().unwrap().clone();
    assert_eq!(
        (first.node.as_str(), &first.question.start),
        ("n1", &Start::Sandbox { ip: ip("10.244.1.2") })
    );
    let tuple = first.question.packets.tuple;
    assert_eq!((tuple.destination, tuple.destination_port), (ip("10.96.0.9"), 80));
    let translated = Tuple { destination: ip("10.244.2.2"), destination_port: 8080, ..tuple };
    let leaves = |to: &str| End::Leaves { link: "eth0".into(), next_hop: ip(to) };
    let mut one = way(leaves("10.100.0.3"), translated);
    let kept = Conversation { place: "node n1".into(), protocol: 6, original: tuple, translated, mark: 0 };
    one.conversations.push(kept.clone());
    follow.answer(Ok(vec![one]));
    let second = follow.next().unwrap().clone();
    assert_eq!(second.node, "n2");
    assert_eq!(second.question.start, Start::Link { next_hop: ip("10.100.0.2") });
    let taken = End::Delivered { place: "pod default/web".into(), process: "process 7 (web)".into() };
    follow.answer(Ok(vec![way(taken, translated)]));
    let back = follow.next().unwrap().clone();
    assert!(back.question.packets.reply);
    assert_eq!(back.question.packets.tuple, translated.turned());
    follow.answer(Ok(vec![way(leaves("10.100.0.2"), translated.turned())]));
    // The node that translated is told of it again.
    assert_eq!(follow.next().unwrap().question.conversations, [kept]);
    let home = End::Delivered { place: "pod default/client".into(), process: String::new() };
    follow.answer(Ok(vec![way(home, tuple.turned())]));
    assert_eq!(follow.next(), None);
    let (ways, ..) = follow.finish();
    assert_eq!(ways.len(), 1);
    assert_eq!(ways[0].verdict, Verdict::Delivered);
    assert_eq!(ways[0].source_seen.as_deref(), Some("10.244.1.2"));
    let answer = ways[0].answer_verdict.as_deref();
    assert_eq!(answer, Some("the answer reaches pod default/client, from 10.96.0.9:80"));
}

#[test]
fn questions_that_make_no_sense_are_told_in_a_sentence() {
    let wrong = |from, to| follow(from, to).err().map(|error| error.0).unwrap_or_default();
    assert_eq!(
        wrong("pod/clinet", "svc/svc"),
        "there is no pod clinet in namespace default; did you mean client?"
    );
    assert_eq!(wrong("client", "node/n1"), "say which port: 10.100.0.2:PORT");
    assert_eq!(
        wrong("client", "svc/svc:metrics"),
        "service default/svc has no TCP port metrics; it has http (80)"
    );
    assert_eq!(wrong("client", "web/udp"), "pod default/web names no UDP port: say pod/web:PORT");
    assert_eq!(
        wrong("external", "svc/svc"),
        "10.96.0.9 (service default/svc) is an address inside the cluster: nothing outside leads there; \
         use a node port"
    );
    assert_eq!(wrong("client", "10.0.0.1:99999"), "\"99999\" is no port (1 to 65535)");
    assert_eq!(
        wrong("client", "job/x"),
        "no kind \"job\" before a slash (pod/NAME, svc/NAME, node/NAME, an address or external)"
    );
}

#[test]
fn what_stops_it_is_named_with_what_would_let_it_pass() {
    let mut refused = follow("client", "node/n1:9000").unwrap();
    let tuple = refused.next().unwrap().question.packets.tuple;
    let why = "nothing listens on 10.100.0.2:9000/tcp in node n1".to_owned();
    refused.answer(Ok(vec![way(End::Refused { place: "node n1".into(), why }, tuple)]));
    let (ways, ..) = refused.finish();
    assert_eq!(ways[0].verdict, Verdict::Refused);
    let advice = ways[0].advice.as_deref();
    assert_eq!(advice, Some("hostPort 9000 of pod default/web is open on node n2 alone, where the pod is"));

    let mut dropped = follow("client", "web").unwrap();
    let tuple = dropped.next().unwrap().question.packets.tuple;
    let mut stop = way(End::Dropped { place: "node n2".into(), by: "a rule".into() }, tuple);
    stop.hops.push(Hop {
        comment: Some("ingress isolated by default/deny".into()),
        table: Some("skiff".into()),
        ..Hop::default()
    });
    dropped.answer(Ok(vec![stop]));
    let (ways, ..) = dropped.finish();
    assert_eq!(
        ways[0].summary,
        "dropped on node n2 by NetworkPolicy default/deny: none of its ingress rules allows it"
    );

    let mut outside = follow("client", "192.0.2.1:80").unwrap();
    let tuple = outside.next().unwrap().question.packets.tuple;
    let leaves = End::Leaves { link: "eth0".into(), next_hop: ip("10.100.0.1") };
    outside.answer(Ok(vec![way(leaves, tuple)]));
    let (ways, ..) = outside.finish();
    assert!(ways[0].summary.contains("--uplink"), "{}", ways[0].summary);

    let mut silent = follow("client", "web").unwrap();
    silent.answer(Err("no answer within 3 s".into()));
    let (ways, ..) = silent.finish();
    assert_eq!(
        (ways[0].verdict, ways[0].summary.as_str()),
        (Verdict::Unknown, "node n1 can't say: no answer within 3 s")
    );
}

fn asked(from: &str, to: &str) -> Ask {
    follow(from, to).unwrap().next().unwrap().clone()
}

fn leaves(router: &str) -> End {
    End::Leaves { link: "eth0".into(), next_hop: ip(router) }
}

/// What is told of a connection whose first node answers so.
fn told(from: &str, to: &str, end: impl FnOnce(Tuple) -> NodeWay) -> Way {
    let mut follow = follow(from, to).unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    follow.answer(Ok(vec![end(tuple)]));
    follow.finish().0.remove(0)
}

#[test]
fn outside_is_judged_with_the_machines_own_address() {
    let ask = asked("external", "node/n1:30080");
    assert_eq!(ask.question.start, Start::Outside);
    assert_eq!(ask.question.packets.tuple.source, ip("10.100.0.254"));
    // Whom a policy judges is said; another sender may fare otherwise.
    let isolated = Hop { comment: Some("ingress isolated by default/block".into()), ..Hop::default() };
    let dropped = |tuple| {
        let mut stop = way(End::Dropped { place: "node n2".into(), by: "a rule".into() }, tuple);
        stop.hops.push(isolated.clone());
        stop
    };
    let way = told("external", "web", dropped);
    assert_eq!(way.verdict, Verdict::Dropped);
    assert!(way.summary.contains("that is for the sender 10.100.0.254"), "{}", way.summary);
    let way = told("10.100.0.254", "web", dropped);
    assert!(!way.summary.contains("that is for"), "{}", way.summary);
}

#[test]
fn an_unknown_sender_is_not_judged_by_a_policy() {
    let world = Arc::new(World { surroundings: None, ..world() });
    let request = Request::read("external", "web", "default", &world).unwrap();
    let mut follow = Follow::new(world, request).unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    assert!(tuple.source.is_unspecified());
    let mut stop = way(End::Dropped { place: "node n2".into(), by: "a rule".into() }, tuple);
    stop.hops.push(Hop { comment: Some("ingress isolated by default/block".into()), ..Hop::default() });
    follow.answer(Ok(vec![stop]));
    let way = follow.finish().0.remove(0);
    assert_eq!(way.verdict, Verdict::Unknown);
    assert!(way.summary.contains("ask from that address"), "{}", way.summary);
}

#[test]
fn addresses_near_the_cluster_are_not_called_outside() {
    let way = told("client", "10.100.0.254:8000", |tuple| way(leaves("10.100.0.254"), tuple));
    assert_eq!(way.verdict, Verdict::Left);
    assert_eq!(
        way.summary,
        "leaves node n1 by eth0 for 10.100.0.254, the machine that the nodes run on; what happens there is not \
         known"
    );
    assert!(!world().leads_outside(ip("10.100.0.254")));
    for (goal, of) in [("10.244.9.9:80", "pods"), ("10.100.0.77:80", "nodes")] {
        let way = told("client", goal, |tuple| self::way(leaves("10.100.0.1"), tuple));
        assert_eq!(way.verdict, Verdict::Unreachable);
        let says = format!("is in the range of {of}, and nobody there has it");
        assert!(way.summary.contains(&says), "{}", way.summary);
    }
}

#[test]
fn what_can_not_be_answered_begins_nothing() {
    let way = |from: &str| {
        let follow = follow(from, "web").unwrap();
        assert_eq!(follow.next(), None);
        follow.finish().0.remove(0)
    };
    let outside = way("192.0.2.8");
    assert_eq!(outside.verdict, Verdict::Unreachable);
    assert!(outside.summary.contains("192.0.2.8 is outside and the cluster has no uplink"), "{outside:?}");
    assert!(way("10.100.0.77").summary.contains("in the range of nodes"));
    // The machine itself gets in.
    assert_eq!(asked("10.100.0.254", "web").question.packets.tuple.source, ip("10.100.0.254"));
}

#[test]
fn a_nodes_name_and_its_address_send_alike() {
    assert_eq!(asked("10.100.0.2", "web"), asked("node/n1", "web"));
}

#[test]
fn a_pod_that_has_ended_is_said_to_have_ended() {
    for name in ["gone", "gone:80", "pod/gone"] {
        let error = follow("client", name).err().map(|error| error.0).unwrap_or_default();
        assert!(error.contains("pod default/gone has ended (Succeeded)"), "{error}");
    }
}

#[test]
fn a_service_that_is_local_says_why_it_drops() {
    let drop = |tuple| {
        let mut stop = way(End::Dropped { place: "node n1".into(), by: "a rule".into() }, tuple);
        stop.hops.push(Hop { table: Some("skiff".into()), ..Hop::default() });
        stop
    };
    let way = told("external", "node/n1:30080", drop);
    assert_eq!(
        way.summary,
        "dropped on node n1: service default/svc has externalTrafficPolicy Local, and no ready endpoint for port \
         80 is on n1"
    );
    assert_eq!(
        way.advice.as_deref(),
        Some(
            "a ready pod of service default/svc on n1, externalTrafficPolicy Cluster, or the address of a node \
             that has one: n2"
        )
    );
    // Its own address asks for no such thing.
    let way = told("client", "svc/svc", drop);
    assert_eq!(way.summary, "dropped on node n1 by a rule");
}

#[test]
fn the_rule_that_allows_is_named_and_doubt_decides_nothing() {
    let mut follow = follow("client", "web").unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    let taken = End::Delivered { place: "pod default/web".into(), process: "process 7 (web)".into() };
    let mut one = way(taken, tuple);
    one.hops.push(Hop { comment: Some("default/allow ingress[0]".into()), ..Hop::default() });
    follow.answer(Ok(vec![one]));
    follow.answer(Err("silent".into()));
    let way = follow.finish().0.remove(0);
    assert!(way.summary.ends_with(", as NetworkPolicy default/allow ingress[0] allows"), "{}", way.summary);

    let way = told("client", "web", |tuple| {
        let mut stop = self::way(End::Dropped { place: "node n1".into(), by: "a rule".into() }, tuple);
        stop.hops.push(Hop { doubtful: true, table: Some("foreign".into()), ..Hop::default() });
        stop
    });
    assert_eq!(way.verdict, Verdict::Unknown);
    assert_eq!(
        way.summary,
        "not known: whether what is marked with ? below applies; if it does, dropped on node n1 by a rule"
    );
}

#[test]
fn a_route_that_a_node_lacks_is_named() {
    let mut follow = follow("client", "web").unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    let mut one = way(leaves("10.100.0.1"), tuple);
    let text = "default via 10.100.0.1 dev eth0".into();
    one.hops.push(Hop { kind: "route".into(), text, ..Hop::default() });
    follow.answer(Ok(vec![one]));
    follow.answer(Err("silent".into()));
    let way = follow.finish().0.remove(0);
    assert_eq!(
        way.hops.last().unwrap().text,
        "passes it on to node n2; n1 has no route of its own to pod default/web"
    );
}

#[test]
fn a_service_that_keeps_to_the_node_says_so() {
    let mut world = world();
    let words = |world: &World| {
        let request = Request::read("client", "svc/svc", "default", world).unwrap();
        request.to.words(world)
    };
    assert_eq!(words(&world), "service default/svc (10.96.0.9)");
    world.services[0].internal_local = true;
    assert_eq!(
        words(&world),
        "service default/svc (10.96.0.9; internalTrafficPolicy Local: endpoints of the sender's node alone)"
    );
}

#[test]
fn a_way_in_circles_ends_where_it_comes_again() {
    let circling = |told: fn(&str) -> Option<Hop>| {
        let mut follow = follow("client", "web").unwrap();
        assert_eq!(
            follow.origins(),
            [Origin {
                node: "n1".into(),
                start: Start::Sandbox { ip: ip("10.244.1.2") },
                to: (ip("10.244.2.2"), 8080)
            }]
        );
        let mut asked = Vec::new();
        while let Some(ask) = follow.next().cloned() {
            let other = if ask.node == "n1" { "10.100.0.3" } else { "10.100.0.1" };
            let mut one = way(leaves(other), ask.question.packets.tuple);
            one.hops.extend(told(&ask.node));
            follow.answer(Ok(vec![one]));
            asked.push(ask.node);
            assert!(asked.len() < 10, "it goes on and on");
        }
        (asked.join(" "), follow.finish().0.remove(0))
    };
    let (asked, way) = circling(|_| None);
    assert_eq!(asked, "n1 n2 n2");
    let circle = "gets nowhere: it goes in circles between node n1 and node n2 and router 10.100.0.1";
    assert_eq!((way.verdict, way.summary.as_str()), (Verdict::Unreachable, circle));
    assert_eq!(way.advice.as_deref(), Some("a route that leads to pod default/web where it is"));
    // What a node says is missing is named.
    let (_, way) = circling(|node| {
        let text = "pod default/web is on this node, but cbr0, which leads there, is down";
        let (place, device) = (format!("node {node}"), Some("cbr0".into()));
        (node == "n2").then(|| Hop {
            place,
            kind: "bridge".into(),
            device,
            text: text.into(),
            ..Hop::default()
        })
    });
    assert_eq!(
        way.summary,
        format!("{circle}: pod default/web is on this node, but cbr0, which leads there, is down")
    );
    assert_eq!(way.advice.as_deref(), Some("bring cbr0 up on node n2"));
}

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
fn to_itself_a_pod_sends_as_its_loopback() {
    let any = Ipv4Addr::UNSPECIFIED;
    for (to, source, destination) in [
        ("127.0.0.1:80", any, ip("127.0.0.1")),
        ("127.0.0.9:80", any, ip("127.0.0.9")),
        ("0.0.0.0:80", any, ip("127.0.0.1")),
        ("10.244.1.2:80", ip("10.244.1.2"), ip("10.244.1.2")),
    ] {
        let tuple = asked("client", to).question.packets.tuple;
        assert_eq!((tuple.source, tuple.destination), (source, destination), "{to}");
    }
    // The answer begins in the pod, whose address is another one.
    let mut follow = follow("client", "127.0.0.1:80").unwrap();
    let tuple = Tuple { source: ip("127.0.0.1"), ..follow.next().unwrap().question.packets.tuple };
    let taken = End::Delivered { place: "pod default/client".into(), process: "process 7 (web)".into() };
    follow.answer(Ok(vec![way(taken, tuple)]));
    assert_eq!(follow.next().unwrap().question.start, Start::Sandbox { ip: ip("10.244.1.2") });
    let wrong = |to| super::tests::follow("external", to).err().map(|error| error.0).unwrap_or_default();
    assert_eq!(
        wrong("127.0.0.1:80"),
        "127.0.0.1 is everybody's own: say by whom it is meant, pod/NAME or node/NAME"
    );
    assert_eq!(wrong("0.0.0.0:80"), wrong("127.0.0.1:80"));
    assert_eq!(
        wrong("10.96.0.10:53/udp"),
        "10.96.0.10 is an address inside the cluster, for services: nothing outside leads there"
    );
}

#[test]
fn from_what_sends_nothing_nothing_begins() {
    let said = |from: &str| {
        let (ways, ..) = follow(from, "web").unwrap().finish();
        assert_eq!(ways[0].verdict, Verdict::Unreachable);
        ways[0].summary.clone()
    };
    assert_eq!(
        said("10.96.0.9"),
        "10.96.0.9 is the address of service default/svc, which sends nothing: nobody begins it (svc/svc stands \
         for its pods)"
    );
    for from in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        assert_eq!(said(from), format!("nothing comes from {from} over a network: nobody begins it"));
    }
}

#[test]
fn the_chances_of_draws_after_each_other_are_multiplied() {
    let mut follow = follow("client", "svc/svc").unwrap();
    let tuple = follow.next().unwrap().question.packets.tuple;
    let goes = |chance, end| NodeWay { chance, ..way(end, tuple) };
    let stops = || End::Dropped { place: "node n2".into(), by: "a rule".into() };
    follow.answer(Ok(vec![goes(0.25, leaves("10.100.0.3")), goes(0.75, stops())]));
    follow.answer(Ok(vec![goes(0.5, stops()), goes(0.5, stops())]));
    assert_eq!(follow.next(), None);
    let chances: Vec<f64> = follow.finish().0.iter().map(|way| way.chance).collect();
    assert_eq!(chances, [0.75, 0.125, 0.125]);
}

#[test]
fn a_router_between_nodes_is_a_hop_of_its_own() {
    let hop = |world: World, route: &str| {
        let request = Request::read("client", "web", "default", &world).unwrap();
        let mut follow = Follow::new(Arc::new(world), request).unwrap();
        let tuple = follow.next().unwrap().question.packets.tuple;
        let mut one = way(leaves("10.100.0.1"), tuple);
        one.hops.push(Hop { kind: "route".into(), text: route.into(), ..Hop::default() });
        follow.answer(Ok(vec![one]));
        follow.answer(Err("silent".into()));
        follow.finish().0.remove(0).hops.remove(1)
    };
    let passes = Hop {
        place: "router 10.100.0.1".into(),
        kind: "route".into(),
        text: "passes it on to node n2".into(),
        source: "10.244.1.2".into(),
        destination: "10.244.2.2:8080".into(),
        ..Hop::default()
    };
    assert_eq!(hop(world(), "10.244.2.0/24 via 10.100.0.1 dev eth0"), passes);
    // What a foreign router does is anybody's guess.
    let mut foreign = world();
    foreign.nodes.iter_mut().for_each(|node| node.uplink = None);
    let doubtful = Hop { doubtful: true, ..passes };
    assert_eq!(hop(foreign, "10.244.2.0/24 via 10.100.0.1 dev eth0"), doubtful);
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
fn doubt_before_the_end_is_told_otherwise_than_doubt_at_the_end() {
    let way = told("client", "web", |tuple| {
        let mut stop = self::way(End::Dropped { place: "node n1".into(), by: "a rule".into() }, tuple);
        stop.hops.push(Hop { doubtful: true, table: Some("foreign".into()), ..Hop::default() });
        stop.hops.push(Hop { table: Some("skiff".into()), ..Hop::default() });
        stop
    });
    assert_eq!(way.verdict, Verdict::Unknown);
    assert!(
        way.summary.starts_with("not known: what is marked with ? below is not judged"),
        "{}",
        way.summary
    );
    // Who could not be asked is no doubt of that kind.
    let mut silent = follow("client", "web").unwrap();
    let tuple = silent.next().unwrap().question.packets.tuple;
    let mut one = self::way(leaves("10.100.0.3"), tuple);
    one.hops.push(Hop { doubtful: true, ..Hop::default() });
    silent.answer(Ok(vec![one]));
    silent.answer(Err("silent".into()));
    assert_eq!(silent.finish().0[0].summary, "node n2 can't say: silent");
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

#[test]
fn what_comes_from_outside_for_a_load_balancers_address_enters_by_some_node() {
    let mut world = world();
    let to = ip("198.51.100.7");
    world.services[0].outside = vec![Outside { ip: to, by: "LoadBalancer" }];
    let begin = |world: &World| {
        let request = Request::read("external", "198.51.100.7:80", "default", world).unwrap();
        let mut follow = Follow::new(Arc::new(world.clone()), request).unwrap();
        let ask = follow.next().unwrap().clone();
        let end = End::Dropped { place: format!("node {}", ask.node), by: "a rule".into() };
        follow.answer(Ok(vec![way(end, ask.question.packets.tuple)]));
        let (ways, ..) = follow.finish();
        (ask.node, ask.question.start, ways[0].hops[0].clone())
    };
    // It keeps them on the node, so one is chosen that has an endpoint.
    let (node, start, hop) = begin(&world);
    assert_eq!((node.as_str(), start), ("n2", Start::Outside));
    assert!(hop.doubtful);
    assert_eq!(
        hop.text,
        "198.51.100.7 is the LoadBalancer address of service default/svc; what brings it to n2, one of 2 that \
         would take it, is not known"
    );
    world.services[0].external_local = false;
    assert_eq!(begin(&world).0, "n1");
    world.nodes.remove(1);
    assert!(begin(&world).2.text.ends_with("what brings it to n1 is not known"));
}
