//! Ways that are followed over nodes which answer what a test tells them to.

mod answers;
mod begins;

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
