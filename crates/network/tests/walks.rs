//! What a walk tells is what packets do: every way here is also gone by a real connection.

mod lab;

use std::net::Ipv4Addr;

use lab::walking::{TCP, approach, kinds, one, sandbox, to, walk};
use lab::{Lab, eventually, ip};
use skiff_network::walk::{End, Namespace, Packets, Start, Walk, Way};
use skiff_network::{HostPort, Network, Protocol};

#[test]
fn from_sandbox_to_sandbox_over_the_bridge() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let target = format!("{}:8080", b.ip);
    assert_eq!(client.tcp(&target), format!("b {}", a.ip));
    let sandboxes = [a.clone(), b.clone()];
    let way = one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&target, false)));
    assert!(matches!(&way.end, End::Delivered { place, .. } if place == "pod b"), "{way:#?}");
    assert_eq!(way.tuple.source, a.ip);
    let devices: Vec<&str> = way.hops.iter().filter_map(|hop| hop.device.as_deref()).collect();
    for device in ["eth0", a.host_link.as_str(), "cbr0", b.host_link.as_str()] {
        assert!(devices.contains(&device), "{device} in {devices:?}");
    }
    // Nobody listens there, and a connection finds the same.
    let closed = format!("{}:8081", b.ip);
    client.refused(&closed);
    let way = one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&closed, false)));
    let End::Refused { why, .. } = &way.end else { panic!("{way:#?}") };
    assert_eq!(why, &format!("nothing listens on {closed}/tcp in pod b"));
    // There is no such sandbox.
    let way = one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to("10.244.1.200:80", false)));
    assert!(matches!(&way.end, End::Unroutable { why, .. } if why.contains("10.244.1.200")), "{way:#?}");
}

#[test]
fn a_host_port_is_translated_and_its_answer_back() {
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let (server, b) = sandbox(node, "b");
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let port = HostPort {
        host_ip: Ipv4Addr::UNSPECIFIED,
        host_port: 9000,
        protocol: Protocol::Tcp,
        container_port: 8080,
    };
    node.block_on(node.network.set_host_ports("b", &[port])).unwrap();
    let sandboxes = [b.clone()];
    // From the other node, which sees only that it leaves.
    let other = &lab.nodes[1];
    assert_eq!(other.netns.tcp(&format!("{}:9000", node.ip)), format!("b {}", other.ip));
    let way = one(walk(other, &[], &Start::Node, &to(&format!("{}:9000", node.ip), false)));
    assert_eq!(way.end, End::Leaves { link: "eth0".into(), next_hop: node.ip });
    assert_eq!(way.tuple.source, other.ip);
    let arriving = Packets { protocol: TCP, tuple: way.tuple, reply: false };
    let way = one(walk(node, &sandboxes, &Start::Link { next_hop: other.ip }, &arriving));
    assert!(matches!(&way.end, End::Delivered { place, .. } if place == "pod b"), "{way:#?}");
    assert_eq!((way.tuple.source, way.tuple.destination), (other.ip, b.ip));
    let translated = way.hops.iter().find(|hop| hop.chain.as_deref() == Some("host-ports-any")).unwrap();
    assert!(translated.rule.as_ref().unwrap().contains("map @host-ports"), "{translated:?}");
    assert_eq!(translated.destination, format!("{}:8080", b.ip));
    // The answer has the node's address again where it leaves.
    let known = way.conversations.clone();
    let answer = Packets { protocol: TCP, tuple: way.tuple.turned(), reply: true };
    let ways = node.netns.run(|| {
        let walk = Walk {
            node: Namespace::open().unwrap(),
            name: "node",
            bridge: "cbr0",
            sandboxes: &sandboxes,
            conversations: known,
            to_the_door: false,
        };
        walk.follow(&Start::Sandbox { ip: b.ip }, &answer).unwrap()
    });
    let way = one(ways);
    assert_eq!((way.tuple.source, way.tuple.source_port), (node.ip, 9000), "{way:#?}");
    assert!(kinds(&way).contains(&"conntrack"));
    // From the node's own loopback the sandbox sees its gateway.
    assert_eq!(node.netns.tcp("127.0.0.1:9000"), "b 10.244.1.1");
    let way = one(walk(node, &sandboxes, &Start::Node, &to("127.0.0.1:9000", false)));
    assert!(matches!(way.end, End::Delivered { .. }), "{way:#?}");
    assert_eq!(way.tuple.source, ip("10.244.1.1"));
}

#[test]
fn an_approach_ends_at_the_door_unless_something_foreign_is_in_its_way() {
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let ports = [HostPort {
        host_ip: Ipv4Addr::UNSPECIFIED,
        host_port: 9000,
        protocol: Protocol::Tcp,
        container_port: 8080,
    }];
    node.block_on(node.network.set_host_ports("b", &ports)).unwrap();
    let known = [("a", &client), ("b", &server)];
    let target = format!("{}:8080", b.ip);
    let go = |start: Start, target: &str| {
        let mut packets = to(target, false);
        packets.tuple.source = match start {
            Start::Sandbox { ip } | Start::Link { next_hop: ip } => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        approach(node, &known, start, packets)
    };
    let arrives = |way: &Way| {
        assert!(matches!(&way.end, End::Delivered { place, .. } if place == "pod b"), "{way:#?}");
        assert_eq!((way.tuple.destination, way.tuple.destination_port), (b.ip, 8080));
    };
    let other = || Start::Link { next_hop: lab.nodes[1].ip };
    // Nobody listens there: that is for others to know.
    arrives(&go(Start::Sandbox { ip: a.ip }, &target));
    arrives(&go(Start::Node, &target));
    arrives(&go(other(), &target));
    // The node's port is the sandbox's, whatever listens on the node.
    arrives(&go(other(), &format!("{}:9000", node.ip)));
    let way = go(other(), &format!("{}:9001", node.ip));
    assert!(matches!(&way.end, End::Delivered { place, .. } if place == "node"), "{way:#?}");
    // What others put in the way is met. (That rules of ours are not shows above: by those a packet without
    // its sandbox's hardware address is forged.)
    let nft = |text: &str| node.netns.command("nft", &[text]);
    nft("add table inet alien");
    nft("add chain inet alien stop { type filter hook forward priority 5; }");
    nft("add rule inet alien stop tcp dport 8080 drop");
    let way = go(other(), &target);
    assert!(matches!(&way.end, End::Dropped { by, .. } if by.contains("table alien")), "{way:#?}");
    nft("delete table inet alien");
    node.netns.command("ip", &["link", "set", &b.host_link, "down"]);
    let way = go(Start::Sandbox { ip: a.ip }, &target);
    assert!(matches!(&way.end, End::Down { device, .. } if *device == b.host_link), "{way:#?}");
}

#[test]
fn a_socket_of_ipv6_alone_or_of_another_link_takes_nothing() {
    use nix::sys::socket::{setsockopt, sockopt};
    use socket2::{Domain, SockAddr, Socket, Type};
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let sandboxes = [a.clone(), b.clone()];
    let listening = |domain, at: String, link: Option<&str>| {
        server.run(|| {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            if let Some(link) = link {
                setsockopt(&socket, sockopt::BindToDevice, &link.into()).unwrap();
            } else if domain == Domain::IPV6 {
                socket.set_only_v6(!at.contains("ffff")).unwrap();
            }
            socket.bind(&SockAddr::from(at.parse::<std::net::SocketAddr>().unwrap())).unwrap();
            socket.listen(4).unwrap();
            socket
        })
    };
    let end = |port: u16| {
        let target = format!("{}:{port}", b.ip);
        let way = one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&target, false)));
        (target, way.end)
    };
    let refused = |port| {
        let (target, end) = end(port);
        assert!(matches!(end, End::Refused { .. }), "{end:?}");
        client.refused(&target);
    };
    let taken = |port| {
        let (target, end) = end(port);
        assert!(matches!(end, End::Delivered { .. }), "{end:?}");
        client.run(|| std::net::TcpStream::connect(&target).unwrap());
    };
    let _lo = listening(Domain::IPV4, "0.0.0.0:7500".into(), Some("lo"));
    refused(7500);
    let _eth0 = listening(Domain::IPV4, "0.0.0.0:7501".into(), Some("eth0"));
    taken(7501);
    // A machine may have no IPv6 at all.
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        let _six = listening(Domain::IPV6, "[::]:7502".into(), None);
        refused(7502);
        let _mapped = listening(Domain::IPV6, format!("[::ffff:{}]:7503", b.ip), None);
        taken(7503);
    }
}

#[test]
fn damage_is_named() {
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let target = format!("{}:8080", b.ip);
    let sandboxes = [a.clone(), b.clone()];
    let look = || one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&target, false))).end;
    assert!(matches!(look(), End::Delivered { .. }));
    // A foreign rule.
    node.netns.command("nft", &["add", "table", "ip", "foreign"]);
    let hook = "{ type filter hook forward priority 0; }";
    node.netns.command("nft", &["add", "chain", "ip", "foreign", "stop", hook]);
    let rule = ["add", "rule", "ip", "foreign", "stop", "tcp", "dport", "8000-8100", "drop"];
    node.netns.command("nft", &rule);
    client.silent(&target);
    let End::Dropped { by, .. } = look() else { panic!("{:?}", look()) };
    assert!(by.starts_with("chain stop of table foreign, rule `"), "{by}");
    node.netns.command("nft", &["delete", "table", "ip", "foreign"]);
    assert!(matches!(look(), End::Delivered { .. }));
    // A link that is down.
    node.netns.command("ip", &["link", "set", &b.host_link, "down"]);
    assert!(matches!(look(), End::Down { device, .. } if device == b.host_link));
    // Until the kernel has looked at it, the bridge keeps the port closed.
    let is_well = || eventually("the way is open again", || matches!(look(), End::Delivered { .. }));
    node.netns.command("ip", &["link", "set", &b.host_link, "up"]);
    is_well();
    // The same of who sends: the end that was set down is named, not the one that lost its carrier.
    node.netns.command("ip", &["link", "set", &a.host_link, "down"]);
    let end = look();
    assert!(
        matches!(&end, End::Down { device, place, .. } if *device == a.host_link && place == "node"),
        "{end:?}"
    );
    node.netns.command("ip", &["link", "set", &a.host_link, "up"]);
    is_well();
    server.command("ip", &["link", "set", "eth0", "down"]);
    let end = look();
    assert!(
        matches!(&end, End::Down { device, place, .. } if device == "eth0" && place == "pod b"),
        "{end:?}"
    );
    server.command("ip", &["link", "set", "eth0", "up"]);
    // A route that is gone: there is no default route to take its place.
    node.netns.command("ip", &["route", "del", "default"]);
    node.netns.command("ip", &["route", "del", "10.244.2.0/24"]);
    let way = one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to("10.244.2.2:80", false)));
    assert!(matches!(&way.end, End::Unroutable { why, .. } if why.contains("10.244.2.2")), "{way:#?}");
}

#[test]
fn what_is_not_carried_out_is_marked_and_refusals_of_the_routes_have_their_reasons() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let target = format!("{}:8080", b.ip);
    let sandboxes = [a.clone(), b.clone()];
    let go = |target: &str| one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(target, false)));
    let doubts = |way: &Way| -> Vec<String> {
        way.hops.iter().filter(|hop| hop.doubtful).map(|hop| hop.text.clone()).collect()
    };
    assert_eq!(doubts(&go(&target)), Vec::<String>::new());
    // A neighbour that somebody wrote down, and wrongly.
    let peer = &b.ip.to_string();
    let entry = |hardware: &str| {
        client.command(
            "ip",
            &["neigh", "replace", peer, "lladdr", hardware, "dev", "eth0", "nud", "permanent"],
        );
        doubts(&go(&target))
    };
    let wrong = entry("02:00:00:00:00:99");
    assert!(
        wrong.len() == 1
            && wrong[0]
                .starts_with(&format!("a permanent neighbour entry has {peer} at 02:00:00:00:00:99, but")),
        "{wrong:?}"
    );
    let right = wrong[0].rsplit_once(' ').unwrap().1.to_owned();
    assert_eq!(entry(&right), Vec::<String>::new());
    assert_eq!(client.tcp(&target), format!("b {}", a.ip));
    // Routes and rules that refuse.
    let why = |target: &str| match go(target).end {
        End::Unroutable { why, .. } => why,
        other => panic!("{other:?}"),
    };
    node.netns.command("ip", &["rule", "add", "to", "203.0.113.7", "blackhole"]);
    assert!(why("203.0.113.7:80").starts_with("a blackhole route or rule swallows what is for 203.0.113.7"));
    node.netns.command("ip", &["rule", "add", "to", "203.0.113.8", "prohibit"]);
    assert!(why("203.0.113.8:80").starts_with("a prohibiting route or rule forbids 203.0.113.8"));
    // What the packet filter draws by rate is doubted.
    node.netns.command("nft", &["add", "table", "ip", "foreign"]);
    let hook = "{ type filter hook forward priority 0; }";
    node.netns.command("nft", &["add", "chain", "ip", "foreign", "stop", hook]);
    node.netns.command("nft", &["add", "rule", "ip", "foreign", "stop", "limit", "rate", "1/second", "drop"]);
    let way = go(&target);
    assert!(matches!(way.end, End::Dropped { .. }), "{way:#?}");
    assert_eq!(doubts(&way).len(), 1, "{way:#?}");
    node.netns.command("nft", &["delete", "table", "ip", "foreign"]);
    // Nothing is forwarded at all.
    node.netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
    assert!(why(&target).starts_with("forwarding is off"), "{}", why(&target));
}

#[test]
fn a_rule_with_a_name_that_leads_to_an_accepting_chain_is_told() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((_client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let nft = |text: &str| node.netns.command("nft", &[text]);
    nft("add table ip named");
    nft("add chain ip named yes");
    nft("add rule ip named yes accept");
    nft("add chain ip named ask { type filter hook forward priority 5; }");
    nft("add rule ip named ask tcp dport 9999 goto yes comment \"default/other ingress[1]\"");
    nft("add rule ip named ask tcp dport 8080 goto yes comment \"default/allow ingress[0]\"");
    let target = format!("{}:8080", b.ip);
    let way = one(walk(node, &[a.clone(), b], &Start::Sandbox { ip: a.ip }, &to(&target, false)));
    let named: Vec<&str> = way.hops.iter().filter_map(|hop| hop.comment.as_deref()).collect();
    assert_eq!(named, ["default/allow ingress[0]"]);
    let hop = way.hops.iter().find(|hop| hop.comment.is_some()).unwrap();
    assert_eq!(hop.text, "decided: chain yes says accepted");
}

#[test]
fn filters_of_bridges_devices_and_neighbours_are_carried_out() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let ((client, a), (server, b)) = (sandbox(node, "a"), sandbox(node, "b"));
    let _server = server.serve_tcp("0.0.0.0:8080", "b");
    let target = format!("{}:8080", b.ip);
    let sandboxes = [a.clone(), b.clone()];
    let go = || one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &to(&target, false)));
    let (near, far) = (&a.host_link, &b.host_link);
    let source = a.ip;
    // Chain by chain: where it is, a rule that stops the connection, one that does not, and the last link that
    // the packet passes.
    for (family, hook, stops, lets, last) in [
        (
            "bridge",
            "prerouting priority 0",
            format!("ip saddr {source} drop"),
            "ip saddr 192.0.2.1 drop",
            near,
        ),
        ("bridge", "input priority 0", "tcp dport 8080 drop".to_owned(), "tcp dport 81 drop", near),
        (
            "bridge",
            "output priority 0",
            "ether type ip drop".into(),
            "ether type arp drop",
            &"cbr0".to_owned(),
        ),
        (
            "bridge",
            "postrouting priority 0",
            format!("oifname {far} drop"),
            "udp dport 8080 drop",
            &"cbr0".into(),
        ),
        ("netdev", &format!("ingress device {near} priority 0"), "drop".into(), "ip protocol udp drop", near),
        (
            "netdev",
            "ingress device cbr0 priority 0",
            "ip daddr 10.0.0.0/8 drop".into(),
            "accept",
            &"cbr0".into(),
        ),
        // Whoever listens at a device hears what leaves by it after its filter.
        (
            "netdev",
            &format!("egress device {far} priority 0"),
            "tcp dport 1-9000 drop".into(),
            "accept",
            &"cbr0".into(),
        ),
    ] {
        let nft = |text: &str| node.netns.command("nft", &[text]);
        nft(&format!("add table {family} alien"));
        nft(&format!("add chain {family} alien stop {{ type filter hook {hook}; }}"));
        nft(&format!("add rule {family} alien stop {lets}"));
        let way = go();
        assert!(matches!(way.end, End::Delivered { .. }), "{family} {hook}: {way:#?}");
        assert_eq!(client.tcp(&target), format!("b {source}"), "{family} {hook}");
        nft(&format!("insert rule {family} alien stop {stops}"));
        let way = go();
        let End::Dropped { by, .. } = &way.end else { panic!("{family} {hook}: {way:#?}") };
        assert!(by.starts_with(&format!("chain stop of table {family} alien, rule `")), "{by}");
        let passed =
            way.hops.iter().rev().find_map(|hop| hop.device.as_ref().filter(|_| hop.kind != "route"));
        assert_eq!(passed, Some(last), "{family} {hook}: {way:#?}");
        client.silent(&target);
        nft(&format!("delete table {family} alien"));
    }
    // What is asked there that nobody knows here, and questions for neighbours, which are asked seldom.
    for (family, hook, rule, says) in [
        ("bridge", "input priority 0", "ip ttl 64 drop", "dropped"),
        ("bridge", "input priority 0", "ip length 40-100 drop", "dropped"),
        ("arp", "input priority 0", "arp operation request drop", "may drop the question who has"),
        ("arp", "output priority 0", "drop", "may drop the "),
    ] {
        let nft = |text: &str| node.netns.command("nft", &[text]);
        nft(&format!("add table {family} alien"));
        nft(&format!("add chain {family} alien stop {{ type filter hook {hook}; }}"));
        nft(&format!("add rule {family} alien stop {rule}"));
        let way = go();
        let doubts: Vec<_> = way.hops.iter().filter(|hop| hop.doubtful).collect();
        assert!(!doubts.is_empty(), "{family} {rule}: {way:#?}");
        for doubt in doubts {
            assert!(doubt.text.starts_with(says), "{family} {rule}: {doubt:#?}");
            assert_eq!(doubt.table, Some(format!("{family} alien")), "{doubt:#?}");
            assert_eq!(doubt.chain.as_deref(), Some("stop"));
        }
        nft(&format!("delete table {family} alien"));
    }
    let way = go();
    assert!(way.hops.iter().all(|hop| !hop.doubtful), "{way:#?}");
}

#[test]
fn a_bridge_that_is_down_is_named_wherever_the_packet_is_led_instead() {
    let lab = Lab::new(2);
    let (node, other) = (&lab.nodes[0], &lab.nodes[1]);
    let (_server, b) = sandbox(node, "b");
    let target = format!("{}:8080", b.ip);
    let sandboxes = [b.clone()];
    let ip = |arguments: &[&str]| node.netns.command("ip", arguments);
    let look = || {
        let mut packets = to(&target, false);
        packets.tuple.source = other.ip;
        let way = one(walk(node, &sandboxes, &Start::Link { next_hop: other.ip }, &packets));
        let missing = way.hops.iter().find(|hop| hop.kind == "bridge").map(|hop| hop.text.clone());
        (way.end, missing)
    };
    assert_eq!(look().1, None);
    ip(&["link", "set", "cbr0", "down"]);
    let down = "pod b is on node, but cbr0, which leads there, is down";
    // To the router, and from there back.
    let router = End::Leaves { link: "eth0".into(), next_hop: Ipv4Addr::new(10, 100, 0, 1) };
    assert_eq!(look(), (router, Some(down.into())));
    ip(&["route", "del", "default"]);
    let (end, missing) = look();
    assert!(matches!(&end, End::Unroutable { why, .. } if why.ends_with(down)), "{end:?}");
    assert_eq!(missing.as_deref(), Some(down));
    ip(&["link", "set", "cbr0", "up"]);
    assert_eq!(look().1, None, "its route comes back with it");
    ip(&["route", "del", &format!("{}/24", Ipv4Addr::from_bits(b.ip.to_bits() & !255))]);
    assert_eq!(look().1.as_deref(), Some("pod b is on node, but no route leads there over cbr0"));
}

#[test]
fn an_address_of_many_is_no_forbidden_one() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (_client, a) = sandbox(node, "a");
    let sandboxes = [a.clone()];
    let all = Ipv4Addr::from_bits(a.ip.to_bits() | 255);
    for address in [all.to_string(), "224.0.0.1".into()] {
        for (protocol, doubtful) in [(TCP, false), (17, true)] {
            let mut packets = to(&format!("{address}:80"), false);
            packets.protocol = protocol;
            packets.tuple.source = a.ip;
            let way = one(walk(node, &sandboxes, &Start::Sandbox { ip: a.ip }, &packets));
            let why = format!("{address} is an address of many on eth0, and none of them is followed");
            assert_eq!(way.end, End::Unroutable { place: "pod a".into(), why });
            assert_eq!(way.hops.last().map(|hop| hop.doubtful), Some(doubtful), "{way:#?}");
        }
    }
}

#[test]
fn to_itself_a_sandbox_sends_as_its_loopback() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (server, a) = sandbox(node, "a");
    let _server = server.serve_tcp("0.0.0.0:8080", "a");
    assert_eq!(server.tcp("127.0.0.1:8080"), "a 127.0.0.1");
    let packets = to("127.0.0.1:8080", false);
    let way = one(walk(node, &[a.clone()], &Start::Sandbox { ip: a.ip }, &packets));
    assert!(matches!(&way.end, End::Delivered { place, .. } if place == "pod a"), "{way:#?}");
    assert_eq!(way.tuple.source, Ipv4Addr::LOCALHOST);
    let answer = Packets { tuple: way.tuple.turned(), reply: true, ..packets };
    let way = one(walk(node, &[a.clone()], &Start::Sandbox { ip: a.ip }, &answer));
    assert!(matches!(&way.end, End::Delivered { place, .. } if place == "pod a"), "{way:#?}");
}
