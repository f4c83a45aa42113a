//! Where ways begin, and which begin nowhere.

use super::*;

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
