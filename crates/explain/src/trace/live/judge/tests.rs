//! Ways of a model beside observations that a test makes up.

use super::*;
use crate::trace::live::Blind;

fn hop(place: &str, kind: &str, device: Option<&str>) -> Hop {
    Hop {
        place: place.into(),
        kind: kind.into(),
        device: device.map(Into::into),
        source: "10.244.1.2".into(),
        destination: "10.244.2.2:80".into(),
        ..Hop::default()
    }
}

fn rule(place: &str, chain: &str, handle: u64) -> Hop {
    Hop {
        table: Some("skiff".into()),
        chain: Some(chain.into()),
        handle: Some(handle),
        rule: Some("it".into()),
        ..hop(place, "filter", None)
    }
}

fn way(verdict: Verdict, devices: &[(&str, &str)]) -> Way {
    let mut way = Way::unreachable(String::new());
    way.verdict = verdict;
    way.source_seen = (verdict == Verdict::Delivered).then(|| "10.244.1.2".into());
    way.hops = devices.iter().map(|(place, device)| hop(place, "device", Some(device))).collect();
    way
}

fn sight(place: &str, device: &str) -> Sight {
    Sight {
        place: place.into(),
        device: device.into(),
        answer: false,
        source: "10.244.1.2:41000".parse().unwrap(),
        destination: "10.244.2.2:80".parse().unwrap(),
    }
}

fn met(place: &str, chain: &str, handle: u64, verdict: &str) -> MetRule {
    MetRule {
        place: place.into(),
        table: "skiff".into(),
        chain: chain.into(),
        handle,
        verdict: verdict.into(),
        answer: false,
        again: false,
        source: "10.244.1.2:41000".parse().unwrap(),
        destination: "10.244.2.2:80".parse().unwrap(),
    }
}

fn seen(sights: &[(&str, &str)]) -> Observed {
    Observed {
        sights: sights.iter().map(|(place, device)| sight(place, device)).collect(),
        ..Observed::default()
    }
}

fn judged(way: &Way, outcome: &str, observed: &Observed) -> Live {
    judged_of(&mut [way.clone()], outcome, observed)
}

fn judged_of(ways: &mut [Way], outcome: &str, observed: &Observed) -> Live {
    let outcome = Outcome { outcome: outcome.into(), source: None };
    judge(ways, Protocol::Tcp, &outcome, observed)
}

#[test]
fn the_way_that_was_gone_is_found_among_several_and_differences_are_told() {
    let one = way(Verdict::Delivered, &[("pod a", "eth0"), ("node n1", "veth1"), ("pod b", "eth0")]);
    let other = way(Verdict::Delivered, &[("pod a", "eth0"), ("node n1", "veth1"), ("pod c", "eth0")]);
    let observed = seen(&[("pod a", "eth0"), ("node n1", "veth1"), ("pod c", "eth0")]);
    let mut ways = [one.clone(), other];
    let live = judged_of(&mut ways, "answered", &observed);
    assert_eq!((live.way, live.differences), (1, Vec::<String>::new()));
    assert!(live.seen.iter().all(|sighting| sighting.seen));
    assert_eq!(live.seen[2].packet.as_deref(), Some("10.244.1.2:41000 to 10.244.2.2:80"));
    assert!(ways[1].hops.iter().all(|hop| hop.seen == Some(true)));
    assert!(ways[0].hops.iter().all(|hop| hop.seen.is_none()));
    let live = judged(&one, "silent", &observed);
    assert_eq!(
        live.differences,
        [
            "it should have passed eth0 of pod b",
            "it was seen on eth0 of pod c, where it should not come",
            "told was Delivered, but the connection was silent",
        ]
    );
    let refused = way(Verdict::Refused, &[("pod a", "eth0"), ("node n1", "veth1")]);
    let live = judged(&refused, "answered", &seen(&[("pod a", "eth0"), ("node n1", "veth1")]));
    assert_eq!(live.differences, ["told was Refused, but the connection was answered"]);
}

#[test]
fn other_addresses_than_told_are_a_difference() {
    let one = way(Verdict::Delivered, &[("pod a", "eth0")]);
    let mut observed = seen(&[("pod a", "eth0")]);
    observed.sights[0].source = "10.244.1.1:41000".parse().unwrap();
    let live = judged(&one, "answered", &observed);
    assert_eq!(
        live.differences,
        [
            "it was on eth0 of pod a as 10.244.1.1:41000 to 10.244.2.2:80, told was 10.244.1.2 to 10.244.2.2:80"
        ]
    );
}

#[test]
fn a_device_that_went_down_just_now_and_the_bridge_before_it_may_have_seen_it_or_not() {
    let mut down = way(Verdict::Unreachable, &[("pod a", "eth0"), ("node n2", "eth0"), ("node n2", "veth2")]);
    down.hops.insert(2, hop("node n2", "route", Some("bridge")));
    let differences = |way: &Way, places: &[(&str, &str)]| judged(way, "silent", &seen(places)).differences;
    let before = [("pod a", "eth0"), ("node n2", "eth0")];
    let later = [before.as_slice(), &[("node n2", "bridge"), ("node n2", "veth2")]].concat();
    assert_eq!(differences(&down, &before), Vec::<String>::new());
    assert_eq!(differences(&down, &later), Vec::<String>::new());
    let beyond = [later.as_slice(), &[("pod b", "eth0")]].concat();
    assert_eq!(differences(&down, &beyond), ["it was seen on eth0 of pod b, where it should not come"]);
    // What a rule drops does not even come to where its route leads.
    let dropped = Way { verdict: Verdict::Dropped, ..down };
    assert_eq!(
        differences(&dropped, &later)[..1],
        ["it was seen on bridge of node n2, where it should not come"]
    );
}

#[test]
fn before_a_port_that_its_bridge_keeps_closed_it_may_not_even_be_sent() {
    let mut closed = way(Verdict::Unknown, &[("pod a", "eth0"), ("node n1", "veth1"), ("node n1", "veth1")]);
    closed.hops[2].kind = "bridge".into();
    closed.hops[2].doubtful = true;
    closed.hops.insert(0, hop("pod a", "route", Some("eth0")));
    let differences = |way: &Way, places: &[(&str, &str)]| judged(way, "silent", &seen(places)).differences;
    // Whether the neighbour was known from before is nobody's to say.
    assert_eq!(differences(&closed, &[]), Vec::<String>::new());
    assert_eq!(differences(&closed, &[("pod a", "eth0"), ("node n1", "veth1")]), Vec::<String>::new());
    let beyond = [("pod a", "eth0"), ("node n1", "veth1"), ("node n1", "cbr0")];
    // The port may be open by now.
    assert_eq!(differences(&closed, &beyond), Vec::<String>::new());
    assert_eq!(judged(&closed, "answered", &seen(&beyond)).differences, Vec::<String>::new());
    // What comes before the last route is sent.
    closed.hops.insert(3, hop("node n1", "route", Some("cbr0")));
    assert_eq!(differences(&closed, &[]).len(), 2);
}

#[test]
fn rules_are_seen_and_those_that_nobody_told_are_differences() {
    let mut one = way(Verdict::Dropped, &[("pod a", "eth0"), ("node n1", "veth1")]);
    one.hops.push(rule("node n1", "policy", 7));
    let mut observed = seen(&[("pod a", "eth0"), ("node n1", "veth1")]);
    let live = judged(&one, "silent", &observed);
    assert_eq!(live.differences, ["it should have met chain policy of node n1, rule `it`"]);
    observed.rules = vec![met("node n1", "entry", 3, "jump policy"), met("node n1", "policy", 7, "drop")];
    let mut ways = [one.clone()];
    let live = judged_of(&mut ways, "silent", &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    let sighting = live.seen.last().unwrap();
    assert_eq!((sighting.kind.as_str(), sighting.verdict.as_deref()), ("rule", Some("drop")));
    assert_eq!(ways[0].hops[2].seen, Some(true));
    // The same numbers in another chain, or on another node, are other rules.
    observed.rules.push(met("node n1", "other", 7, "accept"));
    observed.rules.push(met("node n1", "other", 0, "accept"));
    let live = judged(&one, "silent", &observed);
    assert_eq!(
        live.differences,
        ["it met chain other of table skiff on node n1, which said accept: not told"]
    );
    // Sent again, it may go another way than first, and meet what is for connections that are known.
    observed.rules.retain(|met| met.chain != "other");
    observed.rules.iter_mut().for_each(|met| met.again = true);
    observed.rules.push(MetRule { again: true, ..met("node n1", "known", 9, "accept") });
    assert_eq!(judged(&one, "silent", &observed).differences, Vec::<String>::new());
    // A device's filter comes before packets are traced.
    let mut before = one.clone();
    before.hops[2].table = Some("netdev skiff".into());
    observed.rules.clear();
    assert_eq!(judged(&before, "silent", &observed).differences, Vec::<String>::new());
    // Where rules can't be observed, that is said, and nothing of them is expected.
    observed.rules.clear();
    observed.blind = vec![Blind { place: "node n1".into(), why: "not supported".into() }];
    let live = judged(&one, "silent", &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    assert_eq!(live.unseen, ["rules on node n1: not supported"]);
}

#[test]
fn the_answers_way_and_its_translation_are_seen() {
    let mut one = way(Verdict::Delivered, &[("pod a", "eth0"), ("node n1", "veth1"), ("node n1", "veth2")]);
    for first in &mut one.hops[..2] {
        first.destination = "10.96.0.9:80".into();
    }
    let turned = |place: &str, kind: &str, device: Option<&str>, source: &str| Hop {
        source: source.into(),
        destination: "10.244.1.2:40000".into(),
        ..hop(place, kind, device)
    };
    one.answer = vec![
        turned("node n1", "device", Some("veth2"), "10.244.2.2"),
        turned("node n1", "conntrack", None, "10.96.0.9"),
        turned("node n1", "device", Some("veth1"), "10.96.0.9"),
    ];
    let mut observed = seen(&[("pod a", "eth0"), ("node n1", "veth1"), ("node n1", "veth2")]);
    for sight in &mut observed.sights[..2] {
        sight.destination = "10.96.0.9:80".parse().unwrap();
    }
    let live = judged(&one, "answered", &observed);
    assert_eq!(
        live.differences,
        [
            "the answer should have passed veth2 of node n1",
            "connection tracking of node n1 should have an entry of it",
            "the answer should have passed veth1 of node n1",
            "connection tracking of node n1 should have 10.96.0.9:80 led to 10.244.2.2:80",
        ]
    );
    let answer = |device: &str, source: &str| Sight {
        answer: true,
        source: source.parse().unwrap(),
        destination: "10.244.1.2:41000".parse().unwrap(),
        ..sight("node n1", device)
    };
    observed.sights.extend([answer("veth2", "10.244.2.2:80"), answer("veth1", "10.96.0.9:80")]);
    let mut entry = Tracked {
        place: "node n1".into(),
        source: "10.244.1.2:41000".parse().unwrap(),
        destination: "10.96.0.9:80".parse().unwrap(),
        answer_source: "10.244.2.2:80".parse().unwrap(),
        answer_destination: "10.244.1.2:41000".parse().unwrap(),
    };
    observed.tracked = vec![entry.clone()];
    let mut ways = [one.clone()];
    let live = judged_of(&mut ways, "answered", &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    assert!(ways[0].answer.iter().all(|hop| hop.seen == Some(true)));
    let translated = live.seen.iter().find(|sighting| sighting.kind == "translation").unwrap();
    assert_eq!(translated.verdict.as_deref(), Some("answered by 10.244.2.2:80 to 10.244.1.2:41000"));
    // Led to somebody else, as the kernel keeps it.
    entry.answer_source = "10.244.2.9:80".parse().unwrap();
    observed.tracked = vec![entry];
    let live = judged(&one, "answered", &observed);
    assert!(
        live.differences[0]
            .starts_with("connection tracking of node n1 has 10.244.1.2:41000 to 10.96.0.9:80"),
        "{live:?}"
    );
    // Unless another way is led there: sent again, it may have been drawn anew.
    let mut other = one.clone();
    other.hops[2].destination = "10.244.2.9:80".into();
    let live = judged_of(&mut [one.clone(), other], "answered", &observed);
    assert!(!live.differences.iter().any(|difference| difference.contains("not told")), "{live:?}");
    // Whom nobody answers has no answer's way.
    one.verdict = Verdict::Dropped;
    assert!(judged(&one, "silent", &observed).seen.iter().all(|sighting| !sighting.answer));
}

#[test]
fn what_is_not_judged_is_no_fault_and_silence_of_datagrams_is_explained() {
    let observed = seen(&[("pod a", "eth0")]);
    let mut one = way(Verdict::Unknown, &[("pod a", "eth0"), ("node n1", "cbr0"), ("pod b", "eth0")]);
    one.hops.insert(1, Hop { doubtful: true, ..hop("node n1", "filter", None) });
    let live = judged(&one, "silent", &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    assert!(live.unseen.iter().any(|open| open.contains("marked with ?")), "{live:?}");
    // What comes before the doubt is still held against what was told.
    let live = judged(&one, "silent", &Observed::default());
    assert_eq!(live.differences, ["it should have passed eth0 of pod a"]);
    one.hops.remove(1);
    assert_eq!(judged(&one, "silent", &observed).differences.len(), 2);

    // Of what may stop the answer silence is no fault; a refusal would be one.
    let mut one = way(Verdict::Delivered, &[("pod a", "eth0")]);
    assert_eq!(judged(&one, "silent", &observed).differences.len(), 1);
    one.answer.push(Hop { doubtful: true, ..hop("node n1", "filter", None) });
    let live = judged(&one, "silent", &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    assert!(live.unseen.iter().any(|open| open.contains("marked with ?")), "{live:?}");
    assert_eq!(judged(&one, "refused", &observed).differences.len(), 1);

    let mut datagram = [way(Verdict::Delivered, &[("pod a", "eth0")])];
    let outcome = Outcome { outcome: "silent".into(), source: None };
    let live = judge(&mut datagram, Protocol::Udp, &outcome, &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    assert!(live.unseen.iter().any(|open| open.starts_with("the answer's way")), "{live:?}");
}

#[test]
fn a_miss_weighs_more_than_a_hit() {
    let hops = [("pod a", "eth0"), ("node n1", "veth1"), ("pod b", "eth0"), ("pod x", "eth0")];
    let mut ways = [way(Verdict::Delivered, &hops), way(Verdict::Delivered, &hops[..2])];
    let live = judged_of(&mut ways, "answered", &seen(&hops[..3]));
    assert_eq!(live.way, 1);
}

#[test]
fn what_was_seen_is_told_by_its_kind() {
    let mut one = way(Verdict::Dropped, &[("pod a", "eth0")]);
    one.hops.push(rule("node n1", "policy", 7));
    let mut observed = seen(&[("pod a", "eth0")]);
    observed.rules = vec![met("node n1", "policy", 7, "drop")];
    let seen = judged(&one, "silent", &observed).seen;
    let told: Vec<_> =
        seen.iter().map(|this| (this.kind.as_str(), this.device.as_deref(), this.chain.as_deref())).collect();
    assert_eq!(told, [("device", Some("eth0"), None), ("rule", None, Some("policy"))]);
}

#[test]
fn a_rule_of_another_node_is_another_rule() {
    let mut one = way(Verdict::Dropped, &[("pod a", "eth0")]);
    one.hops.push(rule("node n1", "policy", 7));
    let mut observed = seen(&[("pod a", "eth0")]);
    observed.rules = vec![met("node n2", "policy", 7, "jump x")];
    let differences = |way: &Way, observed: &Observed| judged(way, "silent", observed).differences;
    assert_eq!(differences(&one, &observed), ["it should have met chain policy of node n1, rule `it`"]);
    // What is in doubt itself may apply or not.
    one.hops[1].doubtful = true;
    assert_eq!(differences(&one, &observed), Vec::<String>::new());
}

#[test]
fn of_rules_that_nobody_told_those_count_that_decide() {
    let one = way(Verdict::Dropped, &[("pod a", "eth0")]);
    let mut observed = seen(&[("pod a", "eth0")]);
    observed.rules = vec![
        met("node n1", "base", 0, "accept"),
        met("node n1", "entry", 3, "jump policy"),
        met("node n1", "early", 4, "drop"),
        met("node n1", "late", 0, "drop"),
        met("node n1", "open", 1, "accept"),
    ];
    let differences = judged(&one, "silent", &observed).differences;
    let not_told = |chain: &str, verdict: &str| {
        format!("it met chain {chain} of table skiff on node n1, which said {verdict}: not told")
    };
    assert_eq!(
        differences,
        [not_told("early", "drop"), not_told("late", "drop"), not_told("open", "accept")]
    );
}

#[test]
fn only_who_is_answered_has_an_answers_way() {
    let mut one = way(Verdict::Delivered, &[("pod a", "eth0")]);
    one.answer = vec![Hop {
        source: "10.244.2.2".into(),
        destination: "10.244.1.2:40000".into(),
        ..hop("node n1", "device", Some("veth1"))
    }];
    let mut observed = seen(&[("pod a", "eth0")]);
    let live = judged(&one, "silent", &observed);
    assert_eq!(live.differences, ["told was Delivered, but the connection was silent"]);
    assert!(live.seen.iter().all(|sighting| !sighting.answer));
    let stray = Sight { answer: true, ..sight("pod z", "eth0") };
    observed.sights.push(stray);
    assert_eq!(
        judged(&one, "answered", &observed).differences,
        [
            "the answer should have passed veth1 of node n1",
            "the answer was seen on eth0 of pod z, where it should not come",
        ]
    );
    let refused = way(Verdict::Refused, &[("pod a", "eth0")]);
    assert_eq!(judged(&refused, "refused", &observed).differences, Vec::<String>::new());
}

#[test]
fn connection_tracking_of_another_node_is_no_entry_of_this_one() {
    let mut one = way(Verdict::Delivered, &[("node n1", "veth1"), ("node n1", "veth2")]);
    one.hops[0].destination = "10.96.0.9:80".into();
    let mut observed = seen(&[("node n1", "veth1"), ("node n1", "veth2")]);
    observed.sights[0].destination = "10.96.0.9:80".parse().unwrap();
    let entry = |place: &str| Tracked {
        place: place.into(),
        source: "10.244.1.2:41000".parse().unwrap(),
        destination: "10.96.0.9:80".parse().unwrap(),
        answer_source: "10.244.2.2:80".parse().unwrap(),
        answer_destination: "10.244.1.2:41000".parse().unwrap(),
    };
    observed.tracked = vec![entry("node n1")];
    assert_eq!(judged(&one, "answered", &observed).differences, Vec::<String>::new());
    observed.tracked = vec![entry("node n2")];
    assert_eq!(
        judged(&one, "answered", &observed).differences,
        ["connection tracking of node n1 should have 10.96.0.9:80 led to 10.244.2.2:80"]
    );
}

#[test]
fn a_route_is_seen_by_where_it_led_and_a_socket_by_what_was_heard() {
    let marks = |verdict, outcome: &str, sights: &[Sight]| {
        let mut one = way(verdict, &[]);
        one.hops = vec![hop("node n1", "route", Some("veth1")), hop("pod b", "socket", None)];
        one.answer = vec![hop("node n1", "route", Some("veth2"))];
        let mut ways = [one];
        judged_of(&mut ways, outcome, &Observed { sights: sights.to_vec(), ..Observed::default() });
        let [way] = ways;
        (way.hops[0].seen, way.hops[1].seen, way.answer[0].seen)
    };
    let delivered = |sights: &[Sight]| marks(Verdict::Delivered, "answered", sights);
    let taken = Some(true);
    assert_eq!(delivered(&[]), (None, taken, None));
    assert_eq!(delivered(&[sight("node n1", "veth1")]), (taken, taken, None));
    assert_eq!(delivered(&[sight("node n2", "veth1"), sight("node n1", "veth2")]), (None, taken, None));
    let answer = |device: &str| Sight { answer: true, ..sight("node n1", device) };
    assert_eq!(delivered(&[answer("veth1")]), (None, taken, None));
    assert_eq!(delivered(&[answer("veth2")]), (None, taken, taken));
    for (verdict, outcome, heard) in [
        (Verdict::Refused, "refused", taken),
        (Verdict::Refused, "silent", None),
        (Verdict::Delivered, "silent", None),
        (Verdict::Dropped, "answered", None),
        (Verdict::Dropped, "refused", None),
    ] {
        assert_eq!(marks(verdict, outcome, &[]), (None, heard, None), "{verdict:?} {outcome}");
    }
    // A device is seen by its own sights alone.
    let mut ways = [way(Verdict::Dropped, &[("pod a", "eth0")])];
    judged_of(&mut ways, "silent", &seen(&[]));
    assert_eq!(ways[0].hops[0].seen, Some(false));
}

#[test]
fn silence_is_left_open_for_datagrams_that_were_told_to_arrive() {
    let open = |verdict, protocol, outcome: &str| {
        let mut ways = [way(verdict, &[])];
        let outcome = Outcome { outcome: outcome.into(), source: None };
        !judge(&mut ways, protocol, &outcome, &Observed::default()).unseen.is_empty()
    };
    assert!(open(Verdict::Delivered, Protocol::Udp, "silent"));
    assert!(!open(Verdict::Delivered, Protocol::Udp, "answered"));
    assert!(!open(Verdict::Delivered, Protocol::Tcp, "silent"));
    assert!(!open(Verdict::Dropped, Protocol::Udp, "silent"));
}

#[test]
fn a_bridge_is_a_threshold_whatever_comes_after_its_route() {
    let mut down = way(Verdict::Unreachable, &[("pod a", "eth0"), ("node n2", "veth2")]);
    down.hops.insert(1, hop("node n2", "route", Some("bridge")));
    down.hops.insert(2, hop("node n2", "neighbour", None));
    let places = [("pod a", "eth0"), ("node n2", "bridge"), ("node n2", "veth2")];
    assert_eq!(judged(&down, "silent", &seen(&places)).differences, Vec::<String>::new());
    // A route of another node is not before this device.
    down.hops[1].place = "node n1".into();
    assert_eq!(
        judged(&down, "silent", &seen(&places)).differences,
        ["it was seen on bridge of node n2, where it should not come"]
    );
}

#[test]
fn what_several_agents_heard_is_one_observation() {
    let mut all = seen(&[("pod a", "eth0")]);
    let mut more = seen(&[("node n1", "veth1")]);
    more.rules = vec![met("node n1", "policy", 7, "drop")];
    more.blind = vec![Blind { place: "node n2".into(), why: "not supported".into() }];
    all.extend(more.clone());
    assert_eq!(all.sights, [sight("pod a", "eth0"), sight("node n1", "veth1")]);
    assert_eq!((all.rules, all.blind), (more.rules, more.blind));
}

#[test]
fn a_connection_begins_in_a_node_or_in_a_pod() {
    use crate::trace::live::sender;
    use crate::trace::walk::Start;
    let ip = "10.244.1.2".parse().unwrap();
    assert_eq!(sender(&Start::Node), Some(None));
    assert_eq!(sender(&Start::Sandbox { ip }), Some(Some(ip)));
    assert_eq!(sender(&Start::Link { next_hop: ip }), None);
    assert_eq!(sender(&Start::Outside), None);
}

#[test]
fn an_answer_that_was_told_to_be_lost_is_seen_as_far_as_it_came() {
    let turned = |place: &str, device: &str| Hop {
        source: "10.244.2.2".into(),
        destination: "10.244.1.2:40000".into(),
        ..hop(place, "device", Some(device))
    };
    let mut one = way(Verdict::Dropped, &[("pod a", "eth0"), ("pod b", "eth0")]);
    one.answer_ends = Some(Verdict::Dropped);
    one.answer = vec![turned("pod b", "eth0"), rule("node n1", "stop", 3)];
    let mut observed = seen(&[("pod a", "eth0"), ("pod b", "eth0")]);
    let answer = |place: &str, device: &str| Sight {
        answer: true,
        source: "10.244.2.2:80".parse().unwrap(),
        destination: "10.244.1.2:41000".parse().unwrap(),
        ..sight(place, device)
    };
    observed.sights.push(answer("pod b", "eth0"));
    observed.rules.push(MetRule { answer: true, ..met("node n1", "stop", 3, "drop") });
    let mut ways = [one.clone()];
    let live = judged_of(&mut ways, "silent", &observed);
    assert_eq!(live.differences, Vec::<String>::new());
    assert!(ways[0].answer.iter().all(|hop| hop.seen == Some(true)));
    assert_eq!(live.seen.iter().filter(|sighting| sighting.answer).count(), 2);
    // It was seen where it should not have come any more.
    let mut beyond = observed.clone();
    beyond.sights.push(answer("pod a", "eth0"));
    assert_eq!(
        judged(&one, "silent", &beyond).differences,
        ["the answer was seen on eth0 of pod a, where it should not come"]
    );
    assert_eq!(
        judged(&one, "answered", &observed).differences,
        ["told was Dropped, but the connection was answered"]
    );
    // Lost at a device that is down: nothing passes it, and for a moment something may.
    one.answer[1] = turned("node n1", "veth1");
    observed.rules.clear();
    assert_eq!(judged(&one, "silent", &observed).differences, Vec::<String>::new());
    let mut late = observed.clone();
    late.sights.push(answer("node n1", "veth1"));
    assert_eq!(judged(&one, "silent", &late).differences, Vec::<String>::new());
}

#[test]
fn what_is_not_judged_may_be_seen_anywhere() {
    let mut one = way(Verdict::Unknown, &[("pod a", "eth0")]);
    one.hops.push(Hop { doubtful: true, ..hop("node n1", "filter", None) });
    let observed = seen(&[("pod a", "eth0"), ("node n1", "cbr0")]);
    for outcome in ["answered", "silent", "refused"] {
        assert_eq!(judged(&one, outcome, &observed).differences, Vec::<String>::new(), "{outcome}");
    }
    one.hops[1].doubtful = false;
    assert_eq!(judged(&one, "silent", &observed).differences.len(), 1);
}

#[test]
fn rules_before_routing_are_held_against_what_is_observed_there() {
    let mut one = way(Verdict::Delivered, &[("node n1", "veth1")]);
    one.hops.push(Hop { table: Some("netdev foreign".into()), ..rule("node n1", "early", 7) });
    let mut observed = seen(&[("node n1", "veth1")]);
    assert_eq!(judged(&one, "answered", &observed).differences, Vec::<String>::new(), "nobody looks there");
    let frames = |place: &str, family: &str, answers| crate::trace::live::Frames {
        place: place.into(),
        family: family.into(),
        answers,
    };
    observed.frames = vec![frames("node n1", "bridge", true), frames("node n2", "netdev", true)];
    assert_eq!(judged(&one, "answered", &observed).differences, Vec::<String>::new(), "nor there");
    observed.frames.push(frames("node n1", "netdev", false));
    let live = judged(&one, "answered", &observed);
    assert_eq!(live.differences.len(), 1, "{live:?}");
    assert!(live.differences[0].starts_with("it should have met chain early of node n1"), "{live:?}");
    // On the answer's way it is not looked for.
    one.answer = vec![one.hops.pop().unwrap()];
    assert_eq!(judged(&one, "answered", &observed).differences, Vec::<String>::new());
    observed.frames.push(frames("node n1", "netdev", true));
    assert_eq!(judged(&one, "answered", &observed).differences.len(), 1);
}
