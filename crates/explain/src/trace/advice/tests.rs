//! What is said of each end, by values.

use super::*;
use crate::trace::testing::{ip, world};

fn tuple(to: &str, port: u16) -> Tuple {
    Tuple { source: ip("10.244.1.2"), source_port: 40_000, destination: ip(to), destination_port: port }
}

fn told(end: End, tuple: Tuple, hops: &[Hop], world: &World) -> Told {
    let request = Request::read("client", "web", "default", world).unwrap();
    stopped(&end, &tuple, hops, &request, world)
}

fn dropped_on(place: &str, hops: &[Hop], tuple: Tuple, world: &World) -> (String, Option<String>) {
    let told = told(End::Dropped { place: place.into(), by: "a rule".into() }, tuple, hops, world);
    assert_eq!(told.verdict, Verdict::Dropped);
    (told.summary, told.advice)
}

fn hop(table: &str, comment: Option<&str>) -> Hop {
    Hop { table: Some(table.into()), comment: comment.map(Into::into), ..Hop::default() }
}

#[test]
fn the_sender_is_named_where_it_is_somebody() {
    let said = |sender| delivered("pod a/b", "process 7 (web)", sender, &world());
    let before = "reaches pod a/b: process 7 (web) takes it and sees";
    assert_eq!(said(None), format!("{before} the sender's own address"));
    assert_eq!(
        said(Some(ip("10.244.1.2"))),
        format!("{before} 10.244.1.2 (pod default/client) as the sender")
    );
    assert_eq!(said(Some(ip("192.0.2.9"))), format!("{before} 192.0.2.9 as the sender"));
}

#[test]
fn a_policys_rule_is_known_by_its_comment() {
    for (comment, is_rule, of_policy) in [
        ("default/allow ingress[0]", true, true),
        ("default/allow egress[12]", true, true),
        ("ingress isolated by default/deny", false, true),
        ("default/allow ingress[0] and more", false, false),
        ("mine [0]", false, false),
    ] {
        assert_eq!(rule(comment), is_rule, "{comment}");
        assert_eq!(is_of_policy(&hop("skiff", Some(comment))), of_policy, "{comment}");
    }
    assert_eq!(allowing(&[hop("skiff", None), hop("skiff", Some("ingress isolated by default/deny"))]), None);
}

#[test]
fn what_a_service_rejects_says_what_it_lacks() {
    let rejected = |tuple, world: &World| {
        let told = told(End::Rejected { place: "node n1".into(), by: "a rule".into() }, tuple, &[], world);
        assert_eq!(told.verdict, Verdict::Refused);
        (told.summary, told.advice)
    };
    let mut world = world();
    let (summary, advice) = rejected(tuple("10.96.0.9", 80), &world);
    assert_eq!((summary.as_str(), advice), ("refused on node n1 by a rule", None));
    let (summary, advice) = rejected(tuple("10.96.0.9", 81), &world);
    assert_eq!(summary, "refused on node n1 by a rule: no service has port 81 at 10.96.0.9");
    assert_eq!(advice.as_deref(), Some("a port that the service has (80), or this one in it"));
    let (_, advice) = rejected(tuple("10.96.0.8", 81), &world);
    assert_eq!(advice.as_deref(), Some("a service with this port"));
    world.services[0].ports[0].endpoints.clear();
    let (summary, advice) = rejected(tuple("10.96.0.9", 80), &world);
    assert_eq!(summary, "refused on node n1: service default/svc has no ready endpoint for port 80");
    assert_eq!(advice.as_deref(), Some("a ready pod that the selector of service default/svc matches"));
    // One is there, and has no port of the name that the service leads to.
    world.services[0].ports[0].lacking.push(ip("10.244.2.2"));
    world.services[0].ports[0].target = "metrics".into();
    let (summary, advice) = rejected(tuple("10.96.0.9", 80), &world);
    assert_eq!(
        summary,
        "refused on node n1: port 80 of service default/svc leads to the container port named metrics, and no \
         ready pod behind it has one"
    );
    assert_eq!(advice.as_deref(), Some("a container port named metrics in pod default/web"));
    world.services[0].ports[0].protocol = "UDP".into();
    let (_, advice) = rejected(tuple("10.96.0.9", 80), &world);
    assert_eq!(advice.as_deref(), Some("a port that the service has (80/udp), or this one in it"));
}

#[test]
fn a_drop_says_whose_rule_it_was_and_what_would_let_it_pass() {
    let to_web = tuple("10.244.2.2", 8080);
    let by = |hop| dropped_on("node n1", &[hop], to_web, &world());
    let (summary, advice) = by(hop("skiff", Some("egress isolated by default/deny")));
    assert_eq!(
        summary,
        "dropped on node n1 by NetworkPolicy default/deny: none of its egress rules allows it"
    );
    assert_eq!(
        advice.as_deref(),
        Some("a NetworkPolicy for pod default/client that allows egress to pod default/web at port 8080")
    );
    let (_, advice) = by(hop("skiff", Some("ingress isolated by default/deny")));
    assert_eq!(
        advice.as_deref(),
        Some("a NetworkPolicy for pod default/web that allows ingress from pod default/client at port 8080")
    );
    assert_eq!(by(hop("skiff", None)), ("dropped on node n1 by a rule".into(), None));
    assert_eq!(
        by(hop("mine", None)),
        (
            "dropped on node n1 by a rule".into(),
            Some("that rule is not Skiff's: remove it from table mine on node n1".into())
        )
    );
}

#[test]
fn only_the_platforms_own_rule_drops_for_lack_of_an_endpoint_here() {
    let mut world = world();
    world.services[0].internal_local = true;
    let to_service = tuple("10.96.0.9", 80);
    let (summary, advice) = dropped_on("node n1", &[hop("skiff", None)], to_service, &world);
    assert_eq!(
        summary,
        "dropped on node n1: service default/svc has internalTrafficPolicy Local, and no ready endpoint for port \
         80 is on n1"
    );
    assert_eq!(
        advice.as_deref(),
        Some(
            "a ready pod of service default/svc on n1 (it has some on n2), or internalTrafficPolicy Cluster"
        )
    );
    let other = "dropped on node n1 by a rule";
    for hop in [hop("mine", None), hop("skiff", Some("a rule with a name"))] {
        assert_eq!(dropped_on("node n1", &[hop], to_service, &world).0, other);
    }
    // Where one is, this is not why.
    let here = dropped_on("node n2", &[hop("skiff", None)], to_service, &world).0;
    assert_eq!(here, "dropped on node n2 by a rule");
    world.services[0].ports[0].endpoints.clear();
    let (_, advice) = dropped_on("node n1", &[hop("skiff", None)], to_service, &world);
    assert_eq!(
        advice.as_deref(),
        Some(
            "a ready pod of service default/svc on n1, or internalTrafficPolicy Cluster and a ready pod anywhere"
        )
    );
}

#[test]
fn where_nothing_listens_the_same_host_port_elsewhere_is_named() {
    let said = |to: &str, port, world: &World| {
        let end = End::Refused { place: "node n1".into(), why: "nothing listens".into() };
        told(end, tuple(to, port), &[], world).advice.unwrap_or_default()
    };
    let mut world = world();
    let elsewhere = "hostPort 9000 of pod default/web is open on node n2 alone, where the pod is";
    let nowhere = |port| format!("a pod on n1 with hostPort {port}, or a service with that node port");
    assert_eq!(said("10.100.0.2", 9000, &world), elsewhere);
    assert_eq!(said("10.100.0.2", 9001, &world), nowhere(9001));
    assert_eq!(said("10.244.2.2", 9000, &world), "a process in node n1 that listens on 0.0.0.0:9000");
    // Of another protocol, on this very node, or of a pod that is on none yet, it is no other place.
    world.pods[1].ports[0].protocol = "UDP".into();
    assert_eq!(said("10.100.0.2", 9000, &world), nowhere(9000));
    world.pods[1].ports[0].protocol = "TCP".into();
    for node in ["n1", ""] {
        world.pods[1].node = node.into();
        assert_eq!(said("10.100.0.2", 9000, &world), nowhere(9000), "on {node:?}");
    }
}

#[test]
fn a_load_balancers_address_says_why_it_takes_no_connection() {
    let mut world = world();
    let to = ip("198.51.100.7");
    world.services[0].outside = vec![Outside { ip: to, by: "LoadBalancer" }];
    let at = tuple("198.51.100.7", 80);
    let rule = |chain: &str| Hop { chain: Some(chain.into()), ..hop("skiff", None) };
    let (summary, advice) = dropped_on("node n1", &[rule("pick-from-0a1b")], at, &world);
    assert_eq!(
        summary,
        "dropped on node n1: service default/svc takes connections to 198.51.100.7 from its \
         loadBalancerSourceRanges alone, and 10.244.1.2 is in none of them"
    );
    assert_eq!(
        advice.as_deref(),
        Some("a range with 10.244.1.2 among the loadBalancerSourceRanges of service default/svc")
    );
    // As at a node port, what comes from outside stays on a node that has an endpoint.
    let (summary, _) = dropped_on("node n1", &[rule("from-outside")], at, &world);
    assert_eq!(
        summary,
        "dropped on node n1: service default/svc has externalTrafficPolicy Local, and no ready endpoint for \
         port 80 is on n1"
    );
}

#[test]
fn a_rejecting_rule_of_others_is_theirs_whatever_it_stands_before() {
    let rejected = |to: &str, hops: &[Hop]| {
        let end = End::Rejected { place: "node n1".into(), by: "chain c of table f, rule `reject`".into() };
        let told = told(end, tuple(to, 81), hops, &world());
        assert_eq!(told.verdict, Verdict::Refused);
        (told.summary, told.advice)
    };
    let theirs = [hop("skiff", Some("egress isolated by default/deny")), hop("f", None)];
    for to in ["10.244.2.2", "10.96.0.9", "10.100.0.2"] {
        let (summary, advice) = rejected(to, &theirs);
        assert_eq!(summary, "refused on node n1 by chain c of table f, rule `reject`");
        assert_eq!(advice.as_deref(), Some("that rule is not Skiff's: remove it from table f on node n1"));
    }
    // A rule of others is no policy's, though one was met before.
    let (summary, advice) = dropped_on("node n1", &theirs, tuple("10.244.2.2", 81), &world());
    assert_eq!(summary, "dropped on node n1 by a rule");
    assert_eq!(advice.as_deref(), Some("that rule is not Skiff's: remove it from table f on node n1"));
}

#[test]
fn of_a_headless_service_the_port_where_its_pods_listen_is_named() {
    let mut world = world();
    let refused = |to: &str, port: u16, world: &World| {
        let request = Request::read("client", to, "default", world).unwrap();
        let end = End::Refused { place: "pod default/web".into(), why: "nothing listens".into() };
        stopped(&end, &tuple("10.244.2.2", port), &[], &request, world).advice.unwrap_or_default()
    };
    let listen = |port: u16| format!("a process in pod default/web that listens on 0.0.0.0:{port}");
    assert_eq!(refused("svc/svc:80", 80, &world), listen(80));
    world.services[0].cluster_ip = None;
    assert_eq!(
        refused("svc/svc:80", 80, &world),
        "port 8080, where its pods listen: service default/svc is headless, and nobody translates its port 80"
    );
    assert_eq!(refused("web:80", 80, &world), listen(80));
    assert_eq!(refused("svc/svc:81", 81, &world), listen(81));
    world.services[0].ports[0].endpoints[0].port = 80;
    assert_eq!(refused("svc/svc:80", 80, &world), listen(80));
}

#[test]
fn what_is_down_is_to_be_brought_up_and_a_closed_port_is_to_be_opened() {
    let end = || End::Down { place: "node n1".into(), device: "veth1".into(), why: "veth1 is down".into() };
    let at = |kind: &str| [Hop { kind: kind.into(), ..Hop::default() }];
    let advice = |kind| told(end(), tuple("10.244.2.2", 80), &at(kind), &world()).advice;
    assert_eq!(advice("device").as_deref(), Some("bring veth1 up on node n1"));
    let open = "let the port veth1 forward on node n1 (bridge link set dev veth1 state 3)";
    assert_eq!(advice("bridge").as_deref(), Some(open));
    assert_eq!(answer_lost(&end(), ip("10.244.2.2"), &at("bridge"), &world()).1.as_deref(), Some(open));
}
