//! Sandboxes reach each other, their node and the other nodes, on the real kernel.

mod lab;

use std::net::UdpSocket;

use lab::{Lab, Netns, cidr, ip};
use skiff_network::{Cidr, LocalNetwork, Network, Route};

#[test]
fn a_sandbox_has_eth0_with_its_address_and_a_default_route() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (sandbox, address) = node.sandbox("a");
    assert_eq!(address, ip("10.244.1.2"));
    let links = sandbox.links();
    let mut names: Vec<_> =
        links.links().unwrap().into_iter().filter(|link| link.up).map(|link| link.name).collect();
    names.sort();
    assert_eq!(names, ["eth0", "lo"]);
    let eth0 = links.link("eth0").unwrap().unwrap();
    assert_eq!(eth0.mtu, 1400, "that of the node's uplink");
    let own = links.addresses().unwrap().into_iter().find(|this| this.link == eth0.index).unwrap();
    assert_eq!((own.ip, own.prefix), (address, 24));
    let default = links.routes(None).unwrap().into_iter().find(|route| route.prefix == 0).unwrap();
    assert_eq!(default.via, Some(ip("10.244.1.1")));
    let bridge = node.netns.links().link("cbr0").unwrap().unwrap();
    assert_eq!(bridge.kind, "bridge");
    let addresses = node.netns.links().addresses().unwrap();
    let gateway = addresses.into_iter().find(|this| this.link == bridge.index).unwrap();
    assert_eq!((gateway.ip, gateway.prefix), (ip("10.244.1.1"), 24));
}

#[test]
fn sandboxes_of_one_node_reach_each_other_by_their_own_addresses() {
    let lab = Lab::new(1);
    let (a, a_ip) = lab.nodes[0].sandbox("a");
    let (b, b_ip) = lab.nodes[0].sandbox("b");
    let _server = b.serve_tcp("0.0.0.0:8080", "b");
    assert_eq!(a.tcp(&format!("{b_ip}:8080")), format!("b {a_ip}"));
    assert_eq!(b.tcp(&format!("{b_ip}:8080")), format!("b {b_ip}"));
    a.refused(&format!("{b_ip}:8081"));
}

#[test]
fn sandboxes_of_different_nodes_see_each_others_true_address() {
    let lab = Lab::new(2);
    let (a, a_ip) = lab.nodes[0].sandbox("a");
    let (b, b_ip) = lab.nodes[1].sandbox("b");
    let _server = b.serve_tcp("0.0.0.0:8080", "b");
    assert_eq!(a.tcp(&format!("{b_ip}:8080")), format!("b {a_ip}"));
    let _udp = b.serve_udp("0.0.0.0:8080", "b");
    assert_eq!(lab::try_udp(&a.udp_socket(), &format!("{b_ip}:8080")).unwrap(), format!("b {a_ip}"));
}

#[test]
fn a_sandbox_reaches_its_node_and_other_nodes() {
    let lab = Lab::new(2);
    let (a, a_ip) = lab.nodes[0].sandbox("a");
    let _servers: Vec<_> =
        lab.nodes.iter().map(|node| node.netns.serve_tcp("0.0.0.0:7000", "node")).collect();
    assert_eq!(a.tcp("10.100.0.2:7000"), format!("node {a_ip}"));
    assert_eq!(a.tcp("10.100.0.3:7000"), format!("node {a_ip}"));
    assert_eq!(a.tcp("10.244.1.1:7000"), format!("node {a_ip}"));
}

#[test]
fn what_leaves_the_cluster_has_the_nodes_address() {
    let lab = Lab::new(1);
    let (a, _) = lab.nodes[0].sandbox("a");
    let links = lab.router.links();
    let bridge = links.link("br0").unwrap().unwrap().index;
    links.add_address(bridge, ip("192.0.2.1"), 24).unwrap();
    let _server = lab.router.serve_tcp("192.0.2.1:80", "outside");
    assert_eq!(a.tcp("192.0.2.1:80"), "outside 10.100.0.2");
}

#[test]
fn nobody_reaches_the_nodes_loopback_from_outside() {
    let lab = Lab::new(2);
    let (a, _) = lab.nodes[0].sandbox("a");
    let node = &lab.nodes[0].netns;
    let listens = node.run(|| UdpSocket::bind("127.0.0.1:7000").unwrap());
    listens.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let _server = node.serve_tcp("0.0.0.0:7001", "node");
    // The attackers make themselves a route and let 127/8 out.
    let attack = |netns: &Netns, via: &str| {
        netns.run(|| {
            for name in ["all", "eth0"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1").unwrap();
            }
        });
        netns.command("ip", &["route", "flush", "table", "local", "dev", "lo"]);
        netns.command("ip", &["route", "replace", "127.0.0.1", "via", via, "dev", "eth0"]);
        netns.tcp(&format!("{via}:7001"));
        netns.udp_socket().send_to(b"attack", "127.0.0.1:7000").unwrap();
        listens.recv(&mut [0; 16]).is_ok()
    };
    assert!(!attack(&a, "10.244.1.1"), "a sandbox");
    assert!(!attack(&lab.nodes[1].netns, "10.100.0.2"), "a neighbour");
    // It is the guard that kept the sandbox out, and not a mistake in the attack.
    lab.nodes[0].ruleset.remove().unwrap();
    assert!(attack(&a, "10.244.1.1"), "a sandbox, without the guard");
}

#[test]
fn addresses_outlive_the_process() {
    let mut lab = Lab::new(1);
    let node = &mut lab.nodes[0];
    let (a, a_ip) = node.sandbox("a");
    let (b, b_ip) = node.sandbox("b");
    node.block_on(node.network.detach("a")).unwrap();
    node.restart();
    let node = &lab.nodes[0];
    let attached = node.block_on(node.network.attachments()).unwrap();
    assert_eq!(attached.iter().map(|this| this.ip).collect::<Vec<_>>(), [b_ip]);
    assert_eq!(node.block_on(node.network.attach("b", &b.path())).unwrap().ip, b_ip);
    let (c, c_ip) = node.sandbox("c");
    assert_ne!(c_ip, a_ip, "just given back");
    let _server = b.serve_tcp("0.0.0.0:80", "b");
    assert_eq!(c.tcp(&format!("{b_ip}:80")), format!("b {c_ip}"));
    drop(a);
}

#[test]
fn attaching_twice_and_detaching_twice_is_attaching_and_detaching_once() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (links, rules) = (node.netns.links().links().unwrap().len(), node.netns.rules());
    let (a, a_ip) = node.sandbox("a");
    assert_eq!(node.block_on(node.network.attach("a", &a.path())).unwrap().ip, a_ip);
    assert_eq!(node.netns.links().links().unwrap().len(), links + 1);
    // The sandbox's namespace was made anew, as after a reboot.
    let again = Netns::new();
    assert_eq!(node.block_on(node.network.attach("a", &again.path())).unwrap().ip, a_ip);
    assert_eq!(again.links().addresses().unwrap().len(), 2);
    for _ in 0..2 {
        node.block_on(node.network.detach("a")).unwrap();
        assert_eq!(node.netns.links().links().unwrap().len(), links);
        assert_eq!(node.netns.rules(), rules);
    }
}

#[test]
fn routes_are_replaced_as_a_whole() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let set = |routes: &[(&str, &str)]| {
        let routes: Vec<Route> =
            routes.iter().map(|(to, via)| Route { destination: cidr(to), via: ip(via) }).collect();
        node.block_on(node.network.set_routes(&routes)).unwrap();
        let routes = node.netns.links().routes(Some(skiff_sys::netlink::route::ORIGIN)).unwrap();
        let mut routes: Vec<_> = routes
            .into_iter()
            .filter_map(|route| {
                Some(format!("{} {}", Cidr::new(route.destination, route.prefix), route.via?))
            })
            .collect();
        routes.sort();
        routes
    };
    assert_eq!(set(&[("10.244.2.0/24", "10.100.0.3"), ("10.244.3.0/24", "10.100.0.4")]).len(), 2);
    assert_eq!(
        set(&[("10.244.2.0/24", "10.100.0.9"), ("10.244.4.0/24", "10.100.0.5")]),
        ["10.244.2.0/24 10.100.0.9", "10.244.4.0/24 10.100.0.5"]
    );
    assert_eq!(set(&[]), Vec::<String>::new());
}

#[test]
fn removing_the_network_leaves_nothing() {
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let (_a, _) = node.sandbox("a");
    node.block_on(node.network.add_local_address(ip("10.96.0.10"))).unwrap();
    node.block_on(node.network.remove_local_address(ip("10.96.0.10"))).unwrap();
    node.block_on(node.network.remove()).unwrap();
    let mut names: Vec<_> = node.netns.links().links().unwrap().into_iter().map(|link| link.name).collect();
    names.sort();
    assert_eq!(names, ["eth0", "lo"]);
    assert_eq!(node.netns.nft(), "");
    let routes = node.netns.command("ip", &["route"]);
    assert_eq!(routes.lines().count(), 2, "{routes}");
}

#[test]
fn a_spoilt_file_is_an_error_only_while_sandboxes_may_live() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (_a, _) = node.sandbox("a");
    std::fs::write(node.config.state_dir.join("network.json"), b"{").unwrap();
    let start = || {
        let work = LocalNetwork::start(node.config.clone(), node.ruleset.clone());
        node.block_on(work).map(drop).map_err(|error| error.to_string())
    };
    assert!(start().unwrap_err().starts_with("cannot read "));
    node.netns.links().delete_link("cbr0").unwrap();
    assert_eq!(start(), Ok(()));
}
