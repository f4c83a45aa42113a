//! The rows of a comparison.

use super::*;
use crate::trace::testing::world;

fn rows(to: &str, world: &World) -> Result<Vec<(&'static str, String, String)>, String> {
    let request = Request::read("client", to, "default", world).map_err(|error| error.0)?;
    let row = |row: Compared| {
        let port = row.request.port.unwrap_or_default();
        (row.by, row.opens_on, format!("{}:{port}", row.request.to.words(world)))
    };
    Ok(compared(&request, world).map_err(|error| error.0)?.into_iter().map(row).collect())
}

fn row(by: &'static str, on: &str, to: &str) -> (&'static str, String, String) {
    (by, on.into(), to.into())
}

#[test]
fn a_pod_is_reached_by_its_address_its_host_ports_and_its_services() {
    let mut world = world();
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
    assert_eq!(rows("web", &world).unwrap(), [pod.clone()]);
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
        "pod default/web names no UDP port: nothing leads to it"
    );
}

#[test]
fn addresses_for_clients_outside_are_ways_too() {
    let mut world = world();
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
