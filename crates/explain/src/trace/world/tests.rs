//! Whose an address is.

use super::*;
use crate::trace::testing::{ip, world};

#[test]
fn a_service_is_found_by_its_address_or_by_its_node_port_at_a_node() {
    let mut world = world();
    let other =
        Service { name: "other".into(), cluster_ip: Some(ip("10.96.0.10")), ..world.services[0].clone() };
    world.services.push(other);
    world.services[1].ports[0].node_port = Some(30081);
    let at = |to: &str, port, protocol| {
        world.service_at(ip(to), port, protocol).map(|(service, _)| service.name.as_str())
    };
    assert_eq!(at("10.96.0.9", 80, "TCP"), Some("svc"));
    assert_eq!(at("10.96.0.10", 80, "TCP"), Some("other"));
    assert_eq!(at("10.100.0.2", 30080, "TCP"), Some("svc"));
    assert_eq!(at("10.100.0.3", 30081, "TCP"), Some("other"));
    for (to, port, protocol) in [
        ("10.96.0.9", 80, "UDP"),
        ("10.96.0.9", 30080, "TCP"),
        ("10.96.0.77", 80, "TCP"),
        ("10.100.0.2", 80, "TCP"),
        ("10.100.0.2", 30080, "UDP"),
    ] {
        assert_eq!(at(to, port, protocol), None, "{to}:{port}/{protocol}");
    }
}

#[test]
fn only_what_is_nobodys_leads_outside() {
    let mut world = world();
    for (to, outside) in [
        ("192.0.2.1", true),
        ("127.0.0.1", false),
        ("10.244.9.9", false),
        ("10.244.2.2", false),
        ("10.100.0.254", false),
    ] {
        assert_eq!(world.leads_outside(ip(to)), outside, "{to}");
    }
    // Somebody's all the same, where ranges are not known.
    world.ranges.clear();
    assert!(!world.leads_outside(ip("10.244.2.2")));
    assert!(world.leads_outside(ip("10.244.9.9")));
    assert!(!world.leads_outside(ip("127.0.0.1")));
}

#[test]
fn a_services_outside_address_is_its_own_and_leads_nowhere_else() {
    let mut world = world();
    let to = ip("198.51.100.7");
    assert!(world.leads_outside(to));
    world.services[0].outside = vec![Outside { ip: to, by: "LoadBalancer" }];
    assert!(!world.leads_outside(to));
    assert_eq!(world.who(to), "service default/svc");
    let at = |port| world.service_at(to, port, "TCP").map(|(service, _)| service.name.as_str());
    assert_eq!((at(80), at(30080)), (Some("svc"), None));
}
