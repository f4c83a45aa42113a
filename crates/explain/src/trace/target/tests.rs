//! Ends as they are written, and where they lead.

use super::*;
use crate::trace::PodPort;
use crate::trace::testing::{ip, world};

fn read(from: &str, to: &str, world: &World) -> std::result::Result<Request, String> {
    Request::read(from, to, "default", world).map_err(|error| error.0)
}

fn leads(to: &str, world: &World) -> std::result::Result<Vec<(Ipv4Addr, u16)>, String> {
    let request = read("client", to, world)?;
    addresses(&request, world).map_err(|error| error.0)
}

#[test]
fn protocols_have_the_kernels_numbers() {
    assert_eq!((Protocol::Tcp.number(), Protocol::Udp.number()), (6, 17));
}

#[test]
fn a_protocol_is_told_from_the_name_of_a_pod() {
    let mut world = world();
    let mut named = |name: &str| world.pods.push(Pod { name: name.into(), ..world.pods[1].clone() });
    named("tcp");
    named("udp");
    for (to, name, protocol) in [
        ("pod/tcp", "tcp", Protocol::Tcp),
        ("pod/udp", "udp", Protocol::Tcp),
        ("pod/web/tcp", "web", Protocol::Tcp),
        ("web:8080/udp", "web", Protocol::Udp),
        ("po/udp:53/udp", "udp", Protocol::Udp),
    ] {
        let request = read("client", to, &world).unwrap();
        assert_eq!(
            (request.to, request.protocol),
            (Target::Pod { namespace: "default".into(), name: name.into() }, protocol),
            "{to}"
        );
    }
    assert_eq!(read("client", "web:80/sctp", &world).unwrap_err(), "no protocol \"sctp\" (tcp or udp)");
}

#[test]
fn a_name_that_is_nobodys_suggests_a_near_one_of_its_namespace() {
    let mut world = world();
    let said = |to: &str, world: &World| read("client", to, world).unwrap_err();
    let missing = "there is no service svx in namespace default";
    assert_eq!(said("svc/svx", &world), format!("{missing}; did you mean svc?"));
    world.services[0].namespace = "other".into();
    assert_eq!(said("svc/svx", &world), missing);
    assert_eq!(said("node/n7", &world), "there is no node n7; did you mean n1?");
}

#[test]
fn an_end_is_told_with_its_address() {
    let mut world = world();
    let words = |to: &str, world: &World| read("client", to, world).unwrap().to.words(world);
    assert_eq!(words("pod/web", &world), "pod default/web (10.244.2.2 on n2)");
    assert_eq!(words("10.244.2.2:80", &world), "10.244.2.2 (pod default/web)");
    assert_eq!(words("192.0.2.1:80", &world), "192.0.2.1");
    assert_eq!(words("node/n1:80", &world), "node n1 (10.100.0.2)");
    world.pods[1].host_network = true;
    assert_eq!(words("pod/web", &world), "pod default/web (10.244.2.2 on n2, in the node's network)");
    world.pods[1].ip = None;
    assert_eq!(words("pod/web", &world), "pod default/web");
    world.services[0].cluster_ip = None;
    assert_eq!(words("svc/svc", &world), "service default/svc (headless)");
}

#[test]
fn a_port_is_a_number_or_a_name() {
    let mut world = world();
    let web = ip("10.244.2.2");
    for (to, port) in [("web", 8080), ("web:http", 8080), ("web:1", 1), ("web:65535", 65535)] {
        assert_eq!(leads(to, &world), Ok(vec![(web, port)]), "{to}");
    }
    assert_eq!(leads("web:0", &world).unwrap_err(), "pod default/web has no TCP port 0; it has http (8080)");
    assert_eq!(
        leads("web:metrics", &world).unwrap_err(),
        "pod default/web has no TCP port metrics; it has http (8080)"
    );
    for to in ["node/n1:0", "10.100.0.2:0"] {
        assert_eq!(leads(to, &world).unwrap_err(), "\"0\" is no port (1 to 65535)");
    }
    assert_eq!(leads("node/n1:1", &world), Ok(vec![(ip("10.100.0.2"), 1)]));

    let service = ip("10.96.0.9");
    for (to, port) in [("svc/svc", 80), ("svc/svc:80", 80), ("svc/svc:http", 80), ("svc/svc:81", 81)] {
        assert_eq!(leads(to, &world), Ok(vec![(service, port)]), "{to}");
    }
    for port in ["0", "70000"] {
        let error = leads(&format!("svc/svc:{port}"), &world).unwrap_err();
        assert_eq!(error, format!("service default/svc has no TCP port {port}; it has http (80)"));
    }
    // A headless one's name is its endpoints' addresses, where nobody translates ports; that of a port is
    // answered by DNS with the pods' own.
    world.services[0].cluster_ip = None;
    for (to, port) in [("svc/svc:80", 80), ("svc/svc", 80), ("svc/svc:81", 81), ("svc/svc:http", 8080)] {
        assert_eq!(leads(to, &world), Ok(vec![(web, port)]), "{to}");
    }
    world.services[0].ports[0].endpoints.clear();
    assert_eq!(
        leads("svc/svc", &world).unwrap_err(),
        "service default/svc is headless and has no ready endpoint: its name has no address"
    );
}

#[test]
fn what_a_request_is_about_has_one_address() {
    let world = world();
    let about = |to: &str| address(&read("client", to, &world).unwrap(), &world);
    assert_eq!(about("web"), Some(ip("10.244.2.2")));
    assert_eq!(about("svc/svc"), Some(ip("10.96.0.9")));
    assert_eq!(about("node/n2:1"), Some(ip("10.100.0.3")));
    assert_eq!(about("192.0.2.7:1"), Some(ip("192.0.2.7")));
}

#[test]
fn a_service_sends_as_the_pods_behind_it() {
    let mut world = world();
    let from = |world: &World| {
        let from = read("svc/svc", "web", world).unwrap().from;
        let names = |pods: Vec<&Pod>| pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
        senders(&from, world).map(names).map_err(|error| error.0)
    };
    assert_eq!(from(&world), Ok(vec!["web".to_owned()]));
    world.services[0].ports[0].endpoints.clear();
    assert_eq!(from(&world).unwrap_err(), "service default/svc has no pod that could begin a connection");
}

#[test]
fn a_service_that_is_a_name_alone_says_so() {
    let mut world = world();
    let service = &mut world.services[0];
    (service.cluster_ip, service.external_name) = (None, Some("example.com".into()));
    service.ports.clear();
    for to in ["svc/svc", "svc/svc:80", "svc/svc:http"] {
        assert_eq!(
            leads(to, &world).unwrap_err(),
            "service default/svc is a DNS name alone, for example.com: connections go to whatever that name \
             leads to, and ports of the service mean nothing",
            "{to}"
        );
    }
    let words = read("client", "svc/svc", &world).unwrap().to.words(&world);
    assert_eq!(words, "service default/svc (a DNS name for example.com)");
}

#[test]
fn a_port_that_is_not_there_suggests_the_nearest() {
    let mut world = world();
    let mut add = |name: &str, port: u16, protocol: &str| {
        let port = ServicePort {
            name: name.into(),
            port,
            protocol: protocol.into(),
            ..world.services[0].ports[0].clone()
        };
        world.services[0].ports.push(port);
    };
    add("web", 81, "TCP");
    add("dns", 53, "UDP");
    let said = |to: &str| leads(to, &world).unwrap_err();
    let missing = |rest: &str| format!("service default/svc has no TCP port {rest}");
    assert_eq!(said("svc/svc:wbe"), missing("wbe; did you mean web?"));
    assert_eq!(said("svc/svc:dns"), missing("dns; it has one for UDP: add /udp"));
    assert_eq!(said("svc/svc:something"), missing("something; it has http (80), web (81)"));
}

#[test]
fn what_is_no_address_here_is_no_missing_pod() {
    let world = world();
    for end in ["[fe80::1]:80", "[fe80::1]", "fe80::1", "::1", "::1:80"] {
        let six = format!("{end} is an IPv6 address, and the cluster's network has IPv4 alone");
        assert_eq!(read("client", end, &world).unwrap_err(), six);
        assert_eq!(read(end, "web", &world).unwrap_err(), six);
    }
    let four = |name| format!("{name} is no IPv4 address: four numbers from 0 to 255");
    assert_eq!(read("client", "300.1.1.1:80", &world).unwrap_err(), four("300.1.1.1"));
    assert_eq!(read("10.1.1", "web", &world).unwrap_err(), four("10.1.1"));
    for (ip, kind) in [("224.0.0.1", "multicast"), ("255.255.255.255", "broadcast")] {
        assert_eq!(
            leads(&format!("{ip}:80/udp"), &world).unwrap_err(),
            format!(
                "{ip} is a {kind} address: a packet to it has no one receiver, and a trace follows it to one"
            )
        );
    }
}

#[test]
fn a_goal_says_which_port_is_meant_where_several_are() {
    let mut world = world();
    let goal = |to: &str, world: &World| read("client", to, world).unwrap().goal(world);
    assert_eq!(goal("svc/svc", &world), "service default/svc (10.96.0.9)");
    assert_eq!(goal("web:http", &world), "pod default/web (10.244.2.2 on n2), port http");
    let port = ServicePort { name: String::new(), port: 81, ..world.services[0].ports[0].clone() };
    world.services[0].ports.push(port);
    assert_eq!(
        goal("svc/svc", &world),
        "service default/svc (10.96.0.9), port http (80), the first of 2 (say svc/svc:PORT for another: 81)"
    );
    assert_eq!(goal("svc/svc/udp", &world), "service default/svc (10.96.0.9)");
    let port = PodPort { name: "metrics".into(), port: 9, ..world.pods[1].ports[0].clone() };
    world.pods[1].ports.push(port);
    assert_eq!(
        goal("web", &world),
        "pod default/web (10.244.2.2 on n2), port http (8080), the first of 2 (say pod/web:PORT for another: \
         metrics (9))"
    );
}

/// Whatever is typed leads somewhere or is told in one sentence. The words are drawn by a small generator of its
/// own (xorshift), so that a seed means the same for ever.
#[test]
fn random_ends_lead_somewhere_or_are_one_sentence() {
    let seed = std::env::var("SKIFF_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let mut state = seed.unwrap_or_else(clock) | 1;
    println!("SKIFF_SEED={state}");
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % bound
    };
    let parts = [
        "client",
        "web",
        "svc",
        "pod/",
        "svc/",
        "node/",
        "n1",
        "external",
        "/",
        ":",
        ":80",
        ":http",
        "/udp",
        "/tcp",
        "/sctp",
        "10.244.2.2",
        "10.96.0.5",
        "192.0.2.1",
        "256.1.1.1",
        "::1",
        "[::1]",
        ":65536",
        ":0",
        "é",
        " ",
        "-",
        "",
    ];
    let world = world();
    let (mut led, mut told) = (0, 0);
    for _ in 0..20_000 {
        let mut end = || -> String { (0..below(5)).map(|_| parts[below(parts.len())]).collect() };
        let (from, to) = (end(), end());
        // One strange end is enough.
        let from = if below(2) == 0 { "client".to_owned() } else { from };
        match read(&from, &to, &world) {
            Ok(request) => {
                led += 1;
                let _ = (request.goal(&world), addresses(&request, &world));
            }
            Err(why) => {
                told += 1;
                assert!(!why.is_empty() && !why.contains('\n'), "{from:?} {to:?}: {why:?}");
            }
        }
    }
    assert!(led > 50 && told > 1_000, "{led} led somewhere, {told} were told");
}
