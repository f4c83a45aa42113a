//! The rows of a comparison.

use super::*;
use crate::trace::testing::world;

fn rows(to: &str, world: &World) -> Result<Vec<(&'static str, String, String)>, String> {
    let request = Request::read("client", to, "default", world).map_err(|error| error.0)?;
    let row = |row: Compared| {
        let port = row.request.port.unwrap_or_default();
        (row.by, row.opens_on, format!("{}:{port}", row.request.to.words(world)))
    };
    Ok(compared(&request, world, &[]).map_err(|error| error.0)?.into_iter().map(row).collect())
}

/// That leads to its pods from every node.
fn world_of_every_node() -> World {
    let mut world = world();
    world.services[0].external_local = false;
    world
}

fn row(by: &'static str, on: &str, to: &str) -> (&'static str, String, String) {
    (by, on.into(), to.into())
}

#[test]
fn a_pod_is_reached_by_its_address_its_host_ports_and_its_services() {
    let mut world = world_of_every_node();
    let pod = row("pod", "every node", "pod default/web (10.244.2.2 on n2):8080");
    let by_node = row("NodePort", "every node", "10.100.0.2 (node n1):30080");
    let all = [
        pod.clone(),
        row("hostPort", "n2", "10.100.0.3 (node n2):9000"),
        row("ClusterIP", "every node, inside", "10.96.0.9 (service default/svc):80"),
        by_node.clone(),
    ];
    assert_eq!(rows("web", &world).unwrap(), all);
    // A host port may be of one address alone.
    world.pods[1].ports[0].host_port = Some((crate::trace::testing::ip("192.0.2.3"), 9000));
    assert_eq!(rows("web", &world).unwrap()[1], row("hostPort", "n2", "192.0.2.3:9000"));
    world.pods[1].ports[0].host_port = None;
    world.services[0].cluster_ip = None;
    assert_eq!(rows("web", &world).unwrap(), [pod.clone(), by_node]);
    // By the pod's own node where there is no other one.
    world.nodes.remove(0);
    let own = row("NodePort", "every node", "10.100.0.3 (node n2):30080");
    assert_eq!(rows("web", &world).unwrap(), [pod.clone(), own]);
    // A service that leads to somebody else, or by another protocol, is none of its ways.
    world.services[0].ports[0].protocol = "UDP".into();
    assert_eq!(rows("web/tcp", &world).unwrap(), [pod.clone()]);
    world.services[0].ports[0].protocol = "TCP".into();
    world.services[0].ports[0].endpoints.clear();
    assert_eq!(rows("web", &world).unwrap(), [pod]);
}

#[test]
fn what_nothing_leads_to_is_said() {
    let world = world();
    assert_eq!(rows("svc/svc", &world).unwrap_err(), "--compare is about a pod: say pod/NAME");
    assert_eq!(
        rows("web/udp", &world).unwrap_err(),
        "pod default/web names no UDP port, no service leads to one, and it is not known to listen at one: say pod/web:PORT"
    );
    let mut silent = world.clone();
    silent.pods[1].ports.clear();
    silent.services.clear();
    assert_eq!(
        rows("web", &silent).unwrap_err(),
        "pod default/web names no port, no service leads to one, and it is not known to listen at one: say pod/web:PORT"
    );
    assert_eq!(
        rows("web:htp", &world).unwrap_err(),
        "pod default/web has no TCP port htp; did you mean http?"
    );
}

#[test]
fn addresses_for_clients_outside_are_ways_too() {
    let mut world = world_of_every_node();
    let ip = crate::trace::testing::ip;
    world.services[0].outside = vec![
        crate::trace::Outside { ip: ip("198.51.100.7"), by: "LoadBalancer" },
        crate::trace::Outside { ip: ip("203.0.113.5"), by: "externalIP" },
    ];
    let all = rows("web", &world).unwrap();
    assert_eq!(
        all[3..5],
        [
            row("LoadBalancer", "every node", "198.51.100.7 (service default/svc):80"),
            row("externalIP", "every node", "203.0.113.5 (service default/svc):80"),
        ]
    );
}

#[test]
fn a_service_that_keeps_connections_on_the_node_is_open_where_its_endpoints_are() {
    let mut world = world();
    let last = |world: &World| rows("web", world).unwrap().remove(3);
    assert_eq!(last(&world), row("NodePort", "n2", "10.100.0.3 (node n2):30080"));
    // The other one's endpoint opens its node too.
    let ip = crate::trace::testing::ip;
    world.services[0].ports[0].endpoints.push(Endpoint { ip: ip("10.244.1.2"), port: 8080 });
    assert_eq!(last(&world), row("NodePort", "n1, n2", "10.100.0.3 (node n2):30080"));
    world.services[0].outside = vec![crate::trace::Outside { ip: ip("203.0.113.5"), by: "externalIP" }];
    assert_eq!(last(&world), row("externalIP", "n1, n2", "203.0.113.5 (service default/svc):80"));
    // Of one that is not ready nothing is open, and yet its ways are shown.
    world.services[0].outside.clear();
    world.services[0].ports[0].unready = std::mem::take(&mut world.services[0].ports[0].endpoints);
    assert_eq!(last(&world), row("NodePort", "no node: no ready endpoint", "10.100.0.3 (node n2):30080"));
}

#[test]
fn every_protocol_is_compared_unless_one_is_said() {
    let mut world = world_of_every_node();
    let udp = crate::trace::PodPort { protocol: "UDP".into(), port: 53, ..world.pods[1].ports[0].clone() };
    world.pods[1].ports.push(udp);
    let of = |to: &str, world: &World| -> Vec<String> {
        let request = Request::read("client", to, "default", world).unwrap();
        let rows = compared(&request, world, &[]).unwrap();
        let line = |row: Compared| {
            format!("{} {}/{}", row.by, row.request.port.unwrap_or_default(), row.request.protocol.name())
        };
        rows.into_iter().map(line).collect()
    };
    let tcp = ["pod 8080/TCP", "hostPort 9000/TCP", "ClusterIP 80/TCP", "NodePort 30080/TCP"];
    let udp = ["pod 53/UDP", "hostPort 9000/UDP"];
    assert_eq!(of("web", &world), [tcp.as_slice(), udp.as_slice()].concat());
    assert_eq!(of("web/udp", &world), udp);
    assert_eq!(of("web/tcp", &world), tcp);
    // A port that is opened twice is one way, and two ports of the node are two.
    let twice = crate::trace::PodPort {
        host_port: Some((std::net::Ipv4Addr::UNSPECIFIED, 9001)),
        ..world.pods[1].ports[0].clone()
    };
    world.pods[1].ports.push(twice);
    assert_eq!(
        of("web/tcp", &world),
        ["pod 8080/TCP", "hostPort 9000/TCP", "hostPort 9001/TCP", tcp[2], tcp[3]]
    );
}

#[test]
fn a_port_that_is_named_is_the_one_that_is_compared() {
    let world = world_of_every_node();
    let only = |to: &str| rows(to, &world).unwrap().into_iter().map(|(by, ..)| by).collect::<Vec<_>>();
    assert_eq!(only("web:8080"), ["pod", "hostPort", "ClusterIP", "NodePort"]);
    assert_eq!(only("web:http"), only("web:8080"));
    // Nothing leads to it but the pod's own address, and somebody may listen there.
    let own = row("pod", "every node", "pod default/web (10.244.2.2 on n2):8100");
    assert_eq!(rows("web:8100", &world).unwrap(), [own]);
    // A service may lead to a port that the pod does not declare.
    let mut undeclared = world.clone();
    undeclared.pods[1].ports.clear();
    let by: Vec<&str> = rows("web", &undeclared).unwrap().iter().map(|(by, ..)| *by).collect();
    assert_eq!(by, ["pod", "ClusterIP", "NodePort"]);
}

#[test]
fn where_a_pod_really_listens_is_a_way_too() {
    let listener = |protocol: &str, address: &str, port| Listener {
        protocol: protocol.into(),
        address: address.into(),
        port,
        device: None,
        six_only: None,
        process: None,
        also_held_by: Vec::new(),
        reachable: Vec::new(),
    };
    let mut all = vec![
        listener("TCP", "0.0.0.0", 8080),
        listener("TCP", "10.244.2.2", 7001),
        listener("UDP", "::", 7002),
        listener("TCP", "::ffff:10.244.2.2", 7003),
        // These take nothing that comes to its address by IPv4 over a network.
        listener("TCP", "127.0.0.1", 7100),
        listener("TCP", "10.244.9.9", 7101),
        Listener { six_only: Some(true), ..listener("TCP", "::", 7102) },
        Listener { device: Some("lo".into()), ..listener("TCP", "0.0.0.0", 7103) },
    ];
    let own = Some(crate::trace::testing::ip("10.244.2.2"));
    let known = listening(&all, own);
    let tcp = |port| (Protocol::Tcp, port);
    assert_eq!(known, [tcp(8080), tcp(7001), (Protocol::Udp, 7002), tcp(7003)]);
    all = (1..100).map(|port| listener("TCP", "0.0.0.0", port)).collect();
    assert_eq!(listening(&all, own).len(), LISTENING_MAX);

    let mut world = world();
    world.services.clear();
    let of = |to: &str, world: &World| -> Vec<String> {
        let request = Request::read("client", to, "default", world).unwrap();
        let rows = compared(&request, world, &known).unwrap();
        let line = |row: Compared| {
            format!("{} {}/{}", row.by, row.request.port.unwrap_or_default(), row.request.protocol.name())
        };
        rows.into_iter().map(line).collect()
    };
    let declared = ["pod 8080/TCP", "pod 7001/TCP", "pod 7003/TCP", "hostPort 9000/TCP", "pod 7002/UDP"];
    assert_eq!(of("web", &world), declared);
    assert_eq!(of("web:7001", &world), ["pod 7001/TCP"]);
    assert_eq!(of("web/udp", &world), ["pod 7002/UDP"]);
    // It names none, and nothing leads to it.
    world.pods[1].ports.clear();
    let undeclared = ["pod 8080/TCP", "pod 7001/TCP", "pod 7003/TCP", "pod 7002/UDP"];
    assert_eq!(of("web", &world), undeclared);
}
