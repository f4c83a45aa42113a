//! Addresses of services from outside of the cluster, who may use them, and which endpoints a node prefers: by
//! real packets, with nodes in namespaces and sandboxes as endpoints.

#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::collections::BTreeSet;

use lab::eventually;
use serde_json::json;
use world::{Service, World};

const BALANCED: &str = "198.51.100.9";
const AT: &str = "198.51.100.9:80";

/// A service with that address.
fn web() -> Service {
    Service::new("web", "10.96.0.5").port(80).balanced(BALANCED)
}

/// Has the router bring what is for the address to a node.
fn lead(world: &World, node: &str) {
    world.lab.router.command("ip", &["route", "replace", BALANCED, "via", node]);
}

#[test]
fn a_load_balancers_address_leads_from_everywhere_to_an_endpoint() {
    let world = World::new(2);
    let nodes = &world.lab.nodes;
    let (a, a_ip) = nodes[0].sandbox("a");
    let (client, client_ip) = nodes[1].sandbox("client");
    let _servers = (a.serve_tcp("0.0.0.0:8080", "a"), a.serve_udp("0.0.0.0:8080", "udp"));
    let before = nodes[0].netns.rules();
    world.set(&web().udp(80), &[(0, a_ip, true)], 8080);
    for (node, sender) in [("10.100.0.2", "10.100.0.1"), ("10.100.0.3", "10.100.0.3")] {
        lead(&world, node);
        assert_eq!(world.lab.router.tcp(AT), format!("a {sender}"), "by {node}");
    }
    assert_eq!(lab::try_udp(&world.lab.router.udp_socket(), AT).unwrap(), "udp 10.100.0.3");
    assert_eq!(client.tcp(AT), format!("a {client_ip}"), "a pod, without a way out of the cluster");
    assert_eq!(nodes[1].netns.tcp(AT), "a 10.100.0.3", "a node");
    assert_eq!(a.tcp(AT), "a 10.244.1.1", "the endpoint itself");
    client.refused("10.96.0.5:81");
    // Without endpoints, and without the address.
    world.set(&web(), &[], 8080);
    client.refused(AT);
    world.lab.router.refused(AT);
    world.delete(&web());
    assert_eq!(nodes[0].netns.rules(), before, "nothing is left");
}

#[test]
fn who_is_not_of_the_source_ranges_gets_no_answer_wherever_they_are() {
    let world = World::new(2);
    let nodes = &world.lab.nodes;
    let (a, a_ip) = nodes[0].sandbox("a");
    let (client, client_ip) = nodes[1].sandbox("client");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    let before = nodes[1].netns.rules();
    let service = || Service::new("web", "10.96.0.5").port(80).node_port(30080).balanced(BALANCED);
    lead(&world, "10.100.0.2");
    world.set(&service().only_from(&["10.100.0.1/32"]), &[(0, a_ip, true)], 80);
    assert_eq!(world.lab.router.tcp(AT), "a 10.100.0.1");
    client.silent(AT);
    nodes[0].netns.silent(AT);
    // They guard that address alone.
    assert_eq!(client.tcp("10.96.0.5:80"), format!("a {client_ip}"));
    assert!(client.tcp("10.100.0.2:30080").starts_with("a "));
    world.set(&service().only_from(&["10.244.0.0/16", "203.0.113.0/24"]), &[(0, a_ip, true)], 80);
    assert_eq!(client.tcp(AT), format!("a {client_ip}"));
    world.lab.router.silent(AT);
    nodes[1].netns.silent(AT);
    world.set(&service().only_from(&["10.100.0.3/32"]), &[(0, a_ip, true)], 80);
    assert_eq!(nodes[1].netns.tcp(AT), "a 10.100.0.3");
    // The node has the address itself, and speaks to it by it.
    nodes[1].netns.command("ip", &["address", "add", &format!("{BALANCED}/32"), "dev", "lo"]);
    assert!(nodes[1].netns.tcp(AT).starts_with("a "));
    nodes[1].netns.command("ip", &["address", "del", &format!("{BALANCED}/32"), "dev", "lo"]);
    world.set(&service(), &[(0, a_ip, true)], 80);
    assert_eq!(world.lab.router.tcp(AT), "a 10.100.0.1");
    world.delete(&service());
    assert_eq!(nodes[1].netns.rules(), before, "nothing is left");
}

#[test]
fn connections_from_outside_stay_on_the_node_where_the_service_says_so() {
    let world = World::new(2);
    let nodes = &world.lab.nodes;
    let (a, a_ip) = nodes[0].sandbox("a");
    let (client, _) = nodes[1].sandbox("client");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    world.set(&web().external_local(), &[(0, a_ip, true)], 80);
    lead(&world, "10.100.0.2");
    assert_eq!(world.lab.router.tcp(AT), "a 10.100.0.1", "the true sender");
    lead(&world, "10.100.0.3");
    world.lab.router.silent(AT);
    assert!(client.tcp(AT).starts_with("a "), "from inside, any endpoint will do");
    assert!(nodes[1].netns.tcp(AT).starts_with("a "));
}

#[test]
fn hints_are_followed_and_a_node_that_moves_to_another_zone_follows_others() {
    let world = World::new(3);
    let nodes = &world.lab.nodes;
    let pods = [("a", nodes[0].sandbox("a")), ("b", nodes[1].sandbox("b"))];
    let _servers = pods.each_ref().map(|(name, (netns, _))| netns.serve_tcp("0.0.0.0:80", name));
    let clients = [0, 1, 2].map(|node| nodes[node].sandbox("client").0);
    for (node, zone) in [(0, "east"), (1, "west"), (2, "east")] {
        world.zone(node, zone);
    }
    let endpoints = [(0, pods[0].1.1, true), (1, pods[1].1.1, true)];
    let who = |client: usize| -> BTreeSet<String> {
        lab::names((0..24).map(|_| clients[client].tcp("10.96.0.5:80")))
    };
    let only = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let hints = |node: usize, zone: &str| json!({"forNodes": [{"name": format!("node-{node}")}], "forZones": [{"name": zone}]});
    let service = Service::new("web", "10.96.0.5").port(80);
    world.set(&service, &endpoints, 80);
    assert_eq!(who(0), only(&["a", "b"]), "nothing is preferred");
    // On the same node; where there is none, in the same zone.
    let hinted = service.clone().hints(&[hints(0, "east"), hints(1, "west")]);
    world.set(&hinted, &endpoints, 80);
    assert_eq!([who(0), who(1)], [only(&["a"]), only(&["b"])]);
    eventually("its zone is known", || who(2) == only(&["a"]));
    world.zone(2, "west");
    eventually("it has moved", || who(2) == only(&["b"]));
    world.zone(2, "north");
    eventually("there is nobody in its zone", || who(2) == only(&["a", "b"]));
    // The one on the same node is not ready any more.
    world.set(&hinted, &[endpoints[0], (1, pods[1].1.1, false)], 80);
    assert_eq!(who(1), only(&["a"]));
}
