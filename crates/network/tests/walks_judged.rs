//! What a bridge does to frames, and what rules ask of links and routes: told as it really is, or with doubt.

mod lab;

use lab::walking::{approach, one, sandbox, to, walk};
use lab::{Lab, eventually};
use skiff_network::walk::{End, Start};

/// The bridge's own ways to lose a frame.
#[test]
fn a_port_that_its_bridge_keeps_closed_is_named_and_a_bridge_with_vlans_leaves_doubt() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let target = format!("{}:8080", b.ip);
    let sandboxes = [a.clone(), b.clone()];
    let look = || one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&target, false)));
    let known = [("a", &client), ("b", &server)];
    let state = |port: &str, state: &str| {
        node.netns.command("bridge", &["link", "set", "dev", port, "state", state]);
    };
    assert_eq!(client.tcp(&target), format!("b {}", a.ip));
    for at in [&b, &a] {
        state(&at.host_link, "0");
        client.silent(&target);
        let way = look();
        let why = format!("{}, a port of bridge cbr0 on node, is disabled", at.host_link);
        let device = at.host_link.clone();
        assert_eq!(way.end, End::Down { place: "node".into(), device, why: why.clone() });
        let last = way.hops.last().map(|hop| (hop.kind.as_str(), &hop.text, hop.doubtful));
        assert_eq!(last, Some(("bridge", &why, true)), "it may be so for a moment alone");
        let mut packets = to(&target, false);
        packets.tuple.source = a.ip;
        let way = approach(node, &known, Start::Sandbox { ip: a.ip }, packets);
        assert!(matches!(way.end, End::Down { .. }), "{way:#?}");
        state(&at.host_link, "3");
        assert!(matches!(look().end, End::Delivered { .. }));
    }
    // Without any open port the bridge has no carrier: the port is what is told.
    for at in [&a, &b] {
        state(&at.host_link, "0");
    }
    eventually("the bridge has no carrier", || {
        node.netns.command("ip", &["link", "show", "cbr0"]).contains("NO-CARRIER")
    });
    let way = one(walk(node, &sandboxes, &Start::Node, &to(&target, false)));
    assert!(matches!(&way.end, End::Down { device, .. } if *device == b.host_link), "{way:#?}");
    for at in [&a, &b] {
        state(&at.host_link, "3");
    }
    eventually("the way is open again", || matches!(look().end, End::Delivered { .. }));
    // Without its own VLAN the bridge gives itself nothing.
    let doubts = || -> Vec<String> {
        look().hops.iter().filter(|hop| hop.doubtful).map(|hop| hop.text.clone()).collect()
    };
    assert_eq!(doubts(), Vec::<String>::new());
    let filtering = |on: &str| {
        let bridge = ["link", "set", "cbr0", "type", "bridge", "vlan_filtering", on];
        node.netns.run(|| std::process::Command::new("ip").args(bridge).status().unwrap().success())
    };
    if !filtering("1") {
        // This kernel's bridges know no VLANs.
        return;
    }
    node.netns.command("bridge", &["vlan", "del", "dev", "cbr0", "vid", "1", "self"]);
    client.silent(&target);
    assert!(doubts().iter().all(|text| text == "cbr0 filters by VLAN, which is not judged"));
    assert!(!doubts().is_empty());
    assert!(filtering("0"));
    assert_eq!(doubts(), Vec::<String>::new());
    assert_eq!(client.tcp(&target), format!("b {}", a.ip));
}

#[test]
fn rules_that_ask_for_links_and_routes_are_carried_out_and_changes_of_the_packet_leave_doubt() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let target = format!("{}:8080", b.ip);
    let sandboxes = [a.clone(), b.clone()];
    let look = || one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&target, false)));
    let nft = |text: &str| node.netns.command("nft", &[text]);
    // Each is also what really becomes of the connection.
    let judged = |hook: &str, rule: &str, drops: bool, words: &str| {
        nft("add table ip alien");
        nft(&format!("add chain ip alien stop {{ type filter hook {hook}; }}"));
        nft(&format!("add rule ip alien stop tcp dport 8080 {rule}"));
        let way = look();
        assert!(way.hops.iter().all(|hop| !hop.doubtful), "{rule}: {way:#?}");
        if drops {
            let End::Dropped { by, .. } = &way.end else { panic!("{rule}: {way:#?}") };
            assert!(by.contains(words), "{by}");
            client.silent(&target);
        } else {
            assert!(matches!(way.end, End::Delivered { .. }), "{rule}: {way:#?}");
            client.tcp(&target);
        }
        nft("delete table ip alien");
    };
    judged("prerouting priority 0", "iif cbr0 drop", true, "iif \"cbr0\" drop");
    judged("forward priority 0", "iif cbr0 oif != cbr0 drop", false, "");
    judged("prerouting priority 0", "fib saddr . iif oif missing drop", false, "");
    judged(
        "prerouting priority 0",
        "fib saddr . iif oif exists drop",
        true,
        "fib saddr . iif oif exists drop",
    );
    judged("prerouting priority 0", "fib saddr oif cbr0 drop", true, "fib saddr oif \"cbr0\" drop");
    judged("prerouting priority 0", "fib daddr . iif type local drop", false, "");
    judged("prerouting priority 0", "fib daddr type unicast drop", true, "fib daddr type unicast drop");
    judged("prerouting priority 0", "meta mark set 7 meta mark 7 drop", true, "meta mark 7 drop");
    judged("prerouting priority 0", "meta iifkind \"bridge\" drop", true, "iifkind \"bridge\" drop");
    // A mark leads elsewhere where a rule of the routes says so.
    node.netns.command("ip", &["rule", "add", "fwmark", "9", "prohibit"]);
    nft("add table ip alien; add chain ip alien note { type filter hook prerouting priority 0; }");
    nft("add rule ip alien note tcp dport 8080 meta mark set 9");
    let way = look();
    assert!(matches!(&way.end, End::Unroutable { why, .. } if why.starts_with("a prohibiting")), "{way:#?}");
    nft("delete table ip alien");
    // A packet that is changed itself.
    nft("add table ip alien; add chain ip alien early { type filter hook prerouting priority -310; }");
    nft("add rule ip alien early tcp dport 8080 ip daddr set 10.255.255.9");
    let doubtful: Vec<_> = look().hops.into_iter().filter(|hop| hop.doubtful).collect();
    let rule = doubtful.first().and_then(|hop| hop.rule.as_deref());
    assert_eq!(rule, Some("meta l4proto tcp th dport 8080 ip daddr set 10.255.255.9"), "{doubtful:?}");
}
