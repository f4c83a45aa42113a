//! Ports of a node that lead to a sandbox: who reaches them, and what is left when they go.

mod lab;

use lab::{Lab, Node, ip, try_udp};
use skiff_network::{HostPort, HostPortConflict, Network, Protocol};

fn port(host_port: u16, container_port: u16) -> HostPort {
    lab::host_port(Protocol::Tcp, host_port, container_port)
}

fn set(node: &Node, sandbox: &str, ports: &[HostPort]) -> Vec<HostPortConflict> {
    node.block_on(node.network.set_host_ports(sandbox, ports)).unwrap()
}

#[test]
fn a_host_port_is_open_on_its_node_and_on_no_other() {
    let lab = Lab::new(3);
    let (first, second) = (&lab.nodes[0], &lab.nodes[1]);
    let (a, a_ip) = first.sandbox("a");
    let (b, b_ip) = first.sandbox("b");
    let (c, c_ip) = second.sandbox("c");
    let _server = a.serve_tcp("0.0.0.0:8080", "a");
    assert_eq!(set(first, "a", &[port(9000, 8080)]), []);

    let node = "10.100.0.2:9000";
    assert_eq!(b.tcp(&format!("{a_ip}:8080")), format!("a {b_ip}"), "the sandbox's own port");
    assert_eq!(second.netns.tcp(node), "a 10.100.0.3", "another node");
    assert_eq!(lab.router.tcp(node), "a 10.100.0.1", "a neighbour");
    assert_eq!(first.netns.tcp(node), "a 10.100.0.2", "the node itself");
    assert_eq!(first.netns.tcp("127.0.0.1:9000"), "a 10.244.1.1", "by the loopback");
    assert_eq!(first.netns.tcp("127.1.2.3:9000"), "a 10.244.1.1", "by another address of the loopback");
    assert_eq!(b.tcp(node), format!("a {b_ip}"), "a sandbox beside it");
    assert_eq!(c.tcp(node), format!("a {c_ip}"), "a sandbox of another node");
    assert_eq!(a.tcp(node), "a 10.244.1.1", "the sandbox itself");

    for other in ["10.100.0.3:9000", "10.100.0.4:9000"] {
        lab.router.refused(other);
        b.refused(other);
    }
    second.netns.refused("127.0.0.1:9000");
    first.netns.refused("10.100.0.2:8080");
}

#[test]
fn a_host_port_that_is_gone_refuses_and_leaves_no_rule() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let _server = a.serve_tcp("0.0.0.0:8080", "a");
    let before = node.netns.rules();
    set(node, "a", &[port(9000, 8080), port(9001, 8080)]);
    lab.router.tcp("10.100.0.2:9001");
    set(node, "a", &[port(9000, 8080)]);
    lab.router.refused("10.100.0.2:9001");
    lab.router.tcp("10.100.0.2:9000");
    set(node, "a", &[]);
    lab.router.refused("10.100.0.2:9000");
    node.netns.refused("127.0.0.1:9000");
    assert_eq!(node.netns.rules(), before);
}

/// 10250 is the agent's: whatever a sandbox is given, its connections stay where they were, and so do those to
/// the cluster's DNS.
#[test]
fn no_host_port_takes_what_the_node_itself_serves() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    node.block_on(node.network.add_local_address(ip("10.96.0.10"))).unwrap();
    let (a, _) = node.sandbox("a");
    let (b, _) = node.sandbox("b");
    let _servers = [
        node.netns.serve_tcp("10.100.0.2:10250", "the agent"),
        node.netns.serve_tcp("10.96.0.10:53", "the DNS"),
        a.serve_tcp("0.0.0.0:80", "a"),
    ];
    let dns = HostPort { host_ip: ip("10.96.0.10"), ..port(53, 80) };
    let own = HostPort { host_ip: node.ip, ..port(10250, 80) };
    set(node, "a", &[port(10250, 80), own, dns, port(9000, 80)]);
    for from in [&lab.router, &node.netns] {
        assert!(from.tcp("10.100.0.2:10250").starts_with("the agent "));
        assert!(from.tcp("10.100.0.2:9000").starts_with("a "), "others lead there");
    }
    assert!(b.tcp("10.100.0.2:10250").starts_with("the agent "));
    assert!(b.tcp("10.96.0.10:53").starts_with("the DNS "));
}

#[test]
fn the_address_of_a_host_port_is_honoured() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let (b, _) = node.sandbox("b");
    let _servers = [a.serve_tcp("0.0.0.0:80", "a"), b.serve_tcp("0.0.0.0:80", "b")];
    set(node, "a", &[HostPort { host_ip: ip("127.0.0.1"), ..port(9000, 80) }]);
    set(node, "b", &[HostPort { host_ip: node.ip, ..port(9000, 80) }]);
    assert_eq!(node.netns.tcp("127.0.0.1:9000"), "a 10.244.1.1");
    assert_eq!(node.netns.tcp("10.100.0.2:9000"), "b 10.100.0.2");
    assert_eq!(lab.router.tcp("10.100.0.2:9000"), "b 10.100.0.1");
    a.refused("10.244.1.1:9000");
}

/// Who may make a pod must not come between others: another node, another sandbox, or anybody beyond.
#[test]
fn a_host_port_at_an_address_of_others_takes_nothing() {
    let lab = Lab::new(2);
    let (node, other) = (&lab.nodes[0], &lab.nodes[1]);
    let (a, _) = node.sandbox("a");
    let (b, _) = node.sandbox("b");
    let (c, c_ip) = other.sandbox("c");
    let _servers = [
        a.serve_tcp("0.0.0.0:80", "a"),
        c.serve_tcp("0.0.0.0:6443", "c"),
        other.netns.serve_tcp("0.0.0.0:6443", "the other node"),
        lab.router.serve_tcp("0.0.0.0:6443", "beyond"),
    ];
    let at = |address| HostPort { host_ip: address, ..port(6443, 80) };
    set(node, "a", &[at(other.ip), at(c_ip), at(ip("10.100.0.1")), port(9000, 80)]);
    assert!(lab.router.tcp("10.100.0.2:9000").starts_with("a "), "the sandbox answers where it may");
    for from in [&b, &node.netns] {
        assert!(from.tcp(&format!("{}:6443", other.ip)).starts_with("the other node "));
        assert!(from.tcp(&format!("{c_ip}:6443")).starts_with("c "));
        assert!(from.tcp("10.100.0.1:6443").starts_with("beyond "));
    }
}

#[test]
fn no_translation_leads_a_sandbox_to_the_loopback_of_its_node() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let _server = node.netns.serve_tcp("127.0.0.1:9100", "node");
    // As a service would whose endpoint is 127.0.0.1, or another program of the machine.
    let nft = |words: &str| node.netns.command("nft", &words.split(' ').collect::<Vec<_>>());
    nft("add table ip foreign");
    nft("add chain ip foreign to { type nat hook prerouting priority -90 ; }");
    nft("add rule ip foreign to ip daddr 192.0.2.1 tcp dport 80 dnat to 127.0.0.1:9100");
    nft("add chain ip foreign in { type filter hook input priority -301 ; }");
    nft("add rule ip foreign in iifname != lo ip daddr 127.0.0.1 tcp dport 9100 counter");
    assert_eq!(node.netns.tcp("127.0.0.1:9100"), "node 127.0.0.1");
    a.silent("192.0.2.1:80");
    // It is the guard that keeps it out: the packet came as far as that.
    let counted = nft("list chain ip foreign in");
    assert!(counted.contains("counter packets") && !counted.contains("counter packets 0 "), "{counted}");
}

#[test]
fn one_port_of_two_protocols_leads_to_two_sandboxes() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let (b, b_ip) = node.sandbox("b");
    let _servers = (a.serve_tcp("0.0.0.0:80", "a"), b.serve_udp("0.0.0.0:80", "b"));
    set(node, "a", &[port(9000, 80)]);
    set(node, "b", &[HostPort { protocol: Protocol::Udp, ..port(9000, 80) }]);
    assert_eq!(lab.router.tcp("10.100.0.2:9000"), "a 10.100.0.1");
    assert_eq!(try_udp(&lab.router.udp_socket(), "10.100.0.2:9000").unwrap(), "b 10.100.0.1");
    assert_eq!(try_udp(&node.netns.udp_socket(), "127.0.0.1:9000").unwrap(), "b 10.244.1.1");
    assert_eq!(try_udp(&b.udp_socket(), "10.100.0.2:9000").unwrap(), "b 10.244.1.1");
    assert_eq!(b_ip, ip("10.244.1.3"));
}

#[test]
fn a_udp_flow_moves_at_once_with_its_port() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let (b, _) = node.sandbox("b");
    let _servers = (a.serve_udp("0.0.0.0:53", "a"), b.serve_udp("0.0.0.0:53", "b"));
    let udp = HostPort { protocol: Protocol::Udp, ..port(9053, 53) };
    let client = lab.router.udp_socket();
    assert!(try_udp(&client, "10.100.0.2:9053").is_err(), "nobody is there yet");
    set(node, "a", &[udp]);
    assert_eq!(try_udp(&client, "10.100.0.2:9053").unwrap(), "a 10.100.0.1");
    set(node, "b", &[udp]);
    assert_eq!(try_udp(&client, "10.100.0.2:9053").unwrap(), "b 10.100.0.1", "the later claim");
    node.block_on(node.network.detach("b")).unwrap();
    assert_eq!(try_udp(&client, "10.100.0.2:9053").unwrap(), "a 10.100.0.1", "the earlier again");
    set(node, "a", &[]);
    assert_eq!(
        try_udp(&client, "10.100.0.2:9053").unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn host_ports_outlive_the_process_and_serve_meanwhile() {
    let mut lab = Lab::new(1);
    let (a, _) = lab.nodes[0].sandbox("a");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    set(&lab.nodes[0], "a", &[port(9000, 80)]);
    let before = lab.nodes[0].netns.rules();
    lab.nodes[0].restart();
    assert_eq!(lab.nodes[0].netns.rules(), before);
    assert_eq!(lab.router.tcp("10.100.0.2:9000"), "a 10.100.0.1");
    set(&lab.nodes[0], "a", &[]);
    lab.router.refused("10.100.0.2:9000");
}

#[test]
fn rules_come_back_when_another_program_flushes_them() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    set(node, "a", &[port(9000, 80)]);
    let before = node.netns.rules();
    for command in [
        &["flush", "ruleset"][..],
        &["delete", "table", "ip", "skiff"],
        &["flush", "chain", "ip", "skiff", "host-ports-any"],
        &["flush", "map", "ip", "skiff", "host-ports"],
        &["insert", "rule", "ip", "skiff", "guard", "drop"],
    ] {
        node.netns.command("nft", command);
        lab::eventually(&command.join(" "), || node.netns.rules() == before);
        assert!(node.ruleset.is_intact());
        assert_eq!(lab.router.tcp("10.100.0.2:9000"), "a 10.100.0.1");
    }
}

#[test]
fn a_process_that_has_the_port_is_named() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, _) = node.sandbox("a");
    let _server = a.serve_tcp("0.0.0.0:80", "a");
    let has_it = node.netns.serve_tcp("10.100.0.2:9000", "process");
    let wanted = port(9000, 80);
    let conflicts = set(node, "a", &[wanted, port(9001, 80)]);
    assert_eq!(conflicts.len(), 1);
    assert_eq!((conflicts[0].port, conflicts[0].pid), (wanted, std::process::id()));
    assert!(conflicts[0].command.contains("host_ports"), "{:?}", conflicts[0]);
    assert_eq!(lab.router.tcp("10.100.0.2:9000"), "a 10.100.0.1", "and the port is set up all the same");
    let listener = |port| node.block_on(node.network.listener(&port)).unwrap();
    assert_eq!(listener(wanted).as_ref(), conflicts.first());
    assert_eq!(listener(HostPort { protocol: Protocol::Udp, ..wanted }), None);
    assert_eq!(listener(HostPort { host_ip: ip("127.0.0.1"), ..wanted }), None);
    drop(has_it);
    assert_eq!(listener(wanted), None);
}
