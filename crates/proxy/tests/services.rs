//! Services on the real kernel: nodes in namespaces, sandboxes as endpoints.

#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::collections::BTreeSet;

use lab::{Node, ip, try_udp};
use skiff_network::Network;
use world::{Service, World};

#[test]
fn a_cluster_address_leads_from_everywhere_to_an_endpoint() {
    let world = World::new(2);
    let (a, a_ip) = world.lab.nodes[0].sandbox("a");
    let (b, b_ip) = world.lab.nodes[0].sandbox("b");
    let (c, c_ip) = world.lab.nodes[1].sandbox("c");
    let _server = a.serve_tcp("0.0.0.0:8080", "a");
    world.set(&Service::new("web", "10.96.0.5").port(80), &[(0, a_ip, true)], 8080);
    let at = "10.96.0.5:80";
    assert_eq!(b.tcp(at), format!("a {b_ip}"), "a pod of the same node, by its own address");
    assert_eq!(c.tcp(at), format!("a {c_ip}"), "a pod of another node, by its own address");
    assert_eq!(a.tcp(at), "a 10.244.1.1", "the endpoint itself");
    assert_eq!(world.lab.nodes[0].netns.tcp(at), "a 10.100.0.2", "its node");
    assert_eq!(world.lab.nodes[1].netns.tcp(at), "a 10.100.0.3", "another node");
}

#[test]
fn an_endpoint_may_be_a_port_of_a_node() {
    // As the API server's own service has it.
    let world = World::new(2);
    let (a, a_ip) = world.lab.nodes[0].sandbox("a");
    let (b, b_ip) = world.lab.nodes[1].sandbox("b");
    let first = &world.lab.nodes[0];
    let _server = first.netns.serve_tcp("10.100.0.2:6443", "api");
    world.set(&Service::new("kubernetes", "10.96.0.1").port(443), &[(0, first.ip, true)], 6443);
    assert_eq!(a.tcp("10.96.0.1:443"), format!("api {a_ip}"));
    assert_eq!(b.tcp("10.96.0.1:443"), format!("api {b_ip}"));
    assert_eq!(first.netns.tcp("10.96.0.1:443"), "api 10.100.0.2");
    assert_eq!(world.lab.nodes[1].netns.tcp("10.96.0.1:443"), "api 10.100.0.3");
    world.set(
        &Service::new("kubernetes", "10.96.0.1").port(443).node_port(30443),
        &[(0, first.ip, true)],
        6443,
    );
    assert_eq!(world.lab.router.tcp("10.100.0.2:30443"), "api 10.100.0.1");
    assert_eq!(world.lab.router.tcp("10.100.0.3:30443"), "api 10.100.0.3");
}

#[test]
fn a_node_port_is_open_on_every_node_and_spreads_over_all_endpoints() {
    let world = World::new(3);
    let nodes = &world.lab.nodes;
    let pods = [(1, "a"), (1, "b"), (2, "c")].map(|(node, name)| (node, name, nodes[node].sandbox(name)));
    let _servers = pods.each_ref().map(|(_, name, (netns, _))| netns.serve_tcp("0.0.0.0:80", name));
    let endpoints = pods.each_ref().map(|(node, _, (_, ip))| (*node, *ip, true));
    world.set(&Service::new("web", "10.96.0.5").port(80).node_port(30080), &endpoints, 80);
    for node in nodes {
        let at = format!("{}:30080", node.ip);
        let answers = lab::names((0..60).map(|_| world.lab.router.tcp(&at)));
        assert_eq!(answers, BTreeSet::from(["a", "b", "c"].map(String::from)), "{at} from a neighbour");
        for (_, _, (netns, _)) in &pods {
            (0..12).for_each(|_| drop(netns.tcp(&at)));
        }
        nodes.iter().for_each(|from| drop(from.netns.tcp(&at)));
        node.netns.refused("127.0.0.1:30080");
        node.netns.refused(&format!("{}:80", node.ip));
    }
    assert!(nodes[0].netns.try_tcp("10.244.1.1:30080").is_ok(), "every address of the node but loopback");
}

#[test]
fn without_endpoints_connections_are_refused_at_once() {
    let world = World::new(1);
    let node = &world.lab.nodes[0];
    let (a, a_ip) = node.sandbox("a");
    let (b, _) = node.sandbox("b");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    let service = Service::new("web", "10.96.0.5").port(80).node_port(30080);
    let refused = || {
        for netns in [&b, &node.netns] {
            netns.refused("10.96.0.5:80");
            netns.refused("10.100.0.2:30080");
        }
        world.lab.router.refused("10.100.0.2:30080");
    };
    world.set(&service, &[], 80);
    refused();
    b.refused("10.96.0.5:81");
    b.refused("10.96.77.77:80");
    world.set(&service, &[(0, a_ip, true)], 80);
    b.tcp("10.96.0.5:80");
    world.lab.router.tcp("10.100.0.2:30080");
    world.set(&service, &[(0, a_ip, false)], 80);
    refused();
    let udp = b.udp_socket();
    assert_eq!(try_udp(&udp, "10.96.0.5:80").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_address_that_the_node_answers_itself_is_left_alone() {
    let world = World::new(2);
    let (a, a_ip) = world.lab.nodes[0].sandbox("a");
    let mut servers = Vec::new();
    for node in &world.lab.nodes {
        node.block_on(node.network.add_local_address(ip(world::DNS))).unwrap();
        servers.push(node.netns.serve_udp("10.96.0.10:53", "dns"));
    }
    let at = "10.96.0.10:53";
    assert_eq!(try_udp(&a.udp_socket(), at).unwrap(), format!("dns {a_ip}"));
    world.set(&Service::new("kube-dns", world::DNS).udp(53), &[], 53);
    let host_port = lab::host_port(skiff_network::Protocol::Udp, 53, 53);
    let first = &world.lab.nodes[0];
    first.block_on(first.network.set_host_ports("a", &[host_port])).unwrap();
    assert_eq!(try_udp(&a.udp_socket(), at).unwrap(), format!("dns {a_ip}"));
    assert!(try_udp(&first.netns.udp_socket(), at).unwrap().starts_with("dns "));
    assert!(try_udp(&world.lab.nodes[1].netns.udp_socket(), at).unwrap().starts_with("dns "));
}

#[test]
fn outside_connections_stay_on_the_node_where_the_service_says_so() {
    let world = World::new(2);
    let nodes = &world.lab.nodes;
    let (a, a_ip) = nodes[0].sandbox("a");
    let (b, b_ip) = nodes[1].sandbox("b");
    let (client, _) = nodes[1].sandbox("client");
    let _servers = [a.serve_tcp("0.0.0.0:80", "a"), b.serve_tcp("0.0.0.0:80", "b")];
    let service = Service::new("web", "10.96.0.5").port(80).node_port(30080).external_local();
    world.set(&service, &[(0, a_ip, true)], 80);
    assert_eq!(world.lab.router.tcp("10.100.0.2:30080"), "a 10.100.0.1", "the true sender");
    world.lab.router.silent("10.100.0.3:30080");
    assert!(client.tcp("10.100.0.3:30080").starts_with("a "), "from inside, any endpoint will do");
    assert!(nodes[1].netns.tcp("10.100.0.3:30080").starts_with("a "));
    world.set(&service, &[(0, a_ip, true), (1, b_ip, true)], 80);
    for _ in 0..10 {
        assert_eq!(world.lab.router.tcp("10.100.0.3:30080"), "b 10.100.0.1");
    }
    world.set(&service, &[], 80);
    world.lab.router.refused("10.100.0.3:30080");
}

#[test]
fn inside_connections_stay_on_the_node_where_the_service_says_so() {
    let world = World::new(2);
    let nodes = &world.lab.nodes;
    let (a, a_ip) = nodes[0].sandbox("a");
    let (b, _) = nodes[1].sandbox("b");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    world.set(&Service::new("web", "10.96.0.5").port(80).internal_local(), &[(0, a_ip, true)], 80);
    a.tcp("10.96.0.5:80");
    b.silent("10.96.0.5:80");
}

#[test]
fn external_addresses_and_several_ports_lead_to_their_endpoints() {
    let world = World::new(2);
    let nodes = &world.lab.nodes;
    let (a, a_ip) = nodes[0].sandbox("a");
    let _servers = (a.serve_tcp("0.0.0.0:80", "http"), a.serve_udp("0.0.0.0:80", "udp"));
    let service = Service::new("web", "10.96.0.5").port(80).udp(80).external_ip("198.51.100.7");
    world.set(&service, &[(0, a_ip, true)], 80);
    world.lab.router.command("ip", &["route", "add", "198.51.100.7", "via", "10.100.0.3"]);
    assert_eq!(world.lab.router.tcp("198.51.100.7:80"), "http 10.100.0.3");
    assert_eq!(try_udp(&world.lab.router.udp_socket(), "198.51.100.7:80").unwrap(), "udp 10.100.0.3");
    assert_eq!(try_udp(&nodes[1].netns.udp_socket(), "10.96.0.5:80").unwrap(), "udp 10.100.0.3");
}

#[test]
fn a_udp_flow_moves_when_its_endpoint_goes() {
    let world = World::new(1);
    let node = &world.lab.nodes[0];
    let (a, a_ip) = node.sandbox("a");
    let (b, b_ip) = node.sandbox("b");
    let (client, client_ip) = node.sandbox("client");
    let _servers = (a.serve_udp("0.0.0.0:53", "a"), b.serve_udp("0.0.0.0:53", "b"));
    let service = Service::new("names", "10.96.0.5").udp(53).node_port(30053);
    let (inside, outside) = (client.udp_socket(), world.lab.router.udp_socket());
    assert!(try_udp(&outside, "10.100.0.2:30053").is_err(), "before the service there is nothing");
    world.set(&service, &[(0, a_ip, true)], 53);
    assert_eq!(try_udp(&inside, "10.96.0.5:53").unwrap(), format!("a {client_ip}"));
    assert_eq!(try_udp(&outside, "10.100.0.2:30053").unwrap(), "a 10.100.0.1");
    world.set(&service, &[(0, b_ip, true)], 53);
    assert_eq!(try_udp(&inside, "10.96.0.5:53").unwrap(), format!("b {client_ip}"));
    assert_eq!(try_udp(&outside, "10.100.0.2:30053").unwrap(), "b 10.100.0.1");
}

#[test]
fn a_service_that_is_gone_leaves_nothing() {
    let world = World::new(1);
    let node = &world.lab.nodes[0];
    let (a, a_ip) = node.sandbox("a");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    let before = node.netns.rules();
    let service = Service::new("web", "10.96.0.5").port(80).node_port(30080).external_local();
    world.set(&service, &[(0, a_ip, true), (0, ip("10.244.1.77"), true)], 80);
    assert_ne!(node.netns.rules(), before);
    world.set(&service, &[(0, a_ip, true)], 80);
    world.lab.router.tcp("10.100.0.2:30080");
    world.delete(&service);
    world.lab.router.refused("10.100.0.2:30080");
    a.refused("10.96.0.5:80");
    assert_eq!(node.netns.rules(), before);
}

#[test]
fn rules_outlive_the_process_and_a_flush() {
    let mut world = World::new(1);
    let (a, a_ip) = world.lab.nodes[0].sandbox("a");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    world.set(&Service::new("web", "10.96.0.5").port(80), &[(0, a_ip, true)], 80);
    world.set(
        &Service::new("two", "10.96.0.6").port(80),
        &[(0, a_ip, true), (0, ip("10.244.1.9"), true)],
        80,
    );
    let rules = |node: &Node| node.netns.rules();
    let before = rules(&world.lab.nodes[0]);
    world.lab.nodes[0].netns.command("nft", &["flush", "ruleset"]);
    lab::eventually("restoring", || rules(&world.lab.nodes[0]) == before);
    a.tcp("10.96.0.5:80");

    world.stop();
    world.lab.nodes[0].restart();
    a.tcp("10.96.0.5:80");
    assert_eq!(rules(&world.lab.nodes[0]), before, "served while nobody is there to serve");
    world.put(&Service::new("two", "10.96.0.6").port(80), &[(0, a_ip, true)], 80);
    world.start();
    a.tcp("10.96.0.6:80");
    assert!(
        !rules(&world.lab.nodes[0]).contains(&"chain pick-2 {".to_owned()),
        "what changed meanwhile is made up for"
    );
    assert!(world.lab.nodes[0].ruleset.is_intact());
}

#[test]
fn connections_succeed_while_endpoints_come_and_go() {
    let world = World::new(1);
    let node = &world.lab.nodes[0];
    let pods = ["a", "b", "c"].map(|name| (name, node.sandbox(name)));
    let _servers = pods.each_ref().map(|(name, (netns, _))| netns.serve_tcp("0.0.0.0:80", name));
    let (client, _) = node.sandbox("client");
    let web = Service::new("web", "10.96.0.5").port(80);
    let endpoints = pods.each_ref().map(|(_, (_, ip))| (0, *ip, true));
    world.set(&web, &endpoints, 80);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let connects = scope.spawn(|| {
            let (mut count, mut slowest) = (0, std::time::Duration::ZERO);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let begin = std::time::Instant::now();
                client.tcp("10.96.0.5:80");
                (count, slowest) = (count + 1, slowest.max(begin.elapsed()));
            }
            (count, slowest)
        });
        for round in 0..300 {
            world.set(&web, &endpoints[round % 3..], 80);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let (count, slowest) = connects.join().unwrap();
        println!("{count} connections during 300 changes, the slowest took {slowest:?}");
        assert!(count > 0);
    });
}
