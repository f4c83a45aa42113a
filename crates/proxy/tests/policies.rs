//! Network policies on the real kernel: real packets between all pairs of pods, against the plain model of
//! the specification.

#[path = "grid/cases.rs"]
mod cases;
mod grid;
#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use cases::cases;
use grid::probe::{Listeners, Probe, probe};
use grid::{Grid, address};
use lab::{Netns, Server};
use serde_json::{Value, json};
use skiff_network::Network;
use world::Service;

const TCP: [u16; 3] = [80, 81, 90];
const UDP: [u16; 2] = [80, 81];
const SCTP: [u16; 1] = [80];

#[test]
fn all_pairs_of_pods_are_as_the_specification_says() {
    let mut grid = Grid::new(true);
    for (name, policies) in cases() {
        grid.set(&policies);
        check_pods(&grid, name);
    }
}

/// Probes every pair of pods and all nodes, on every port; the model has the answers.
fn check_pods(grid: &Grid, name: &str) {
    let lab = &grid.world.lab;
    let listeners: Vec<Listeners> =
        grid.pods.iter().map(|this| Listeners::open(&this.netns, this.pod.ip, &TCP, &UDP)).collect();
    let outside = Listeners::open(&lab.router, lab::ip("10.100.0.1"), &TCP, &UDP);
    let node_listeners: Vec<Listeners> =
        lab.nodes.iter().map(|node| Listeners::open(&node.netns, node.ip, &TCP, &UDP)).collect();
    let mut places: Vec<&Netns> = grid.pods.iter().map(|this| &this.netns).collect();
    places.extend(lab.nodes.iter().map(|node| &node.netns));
    places.push(&lab.router);
    let router_ip = lab::ip("10.100.0.1");
    let mut ends: Vec<_> = grid.pods.iter().map(|this| grid::model::End::Pod(&this.pod)).collect();
    ends.extend(lab.nodes.iter().map(|node| address(node.ip)));
    ends.push(address(router_ip));
    let mut all: Vec<_> = grid.pods.iter().zip(&listeners).map(|(this, own)| (this.pod.ip, own)).collect();
    all.extend(lab.nodes.iter().zip(&node_listeners).map(|(node, own)| (node.ip, own)));
    all.push((router_ip, &outside));

    let pods = grid.pods.len();
    let mut probes = Vec::new();
    for (from, _) in ends.iter().enumerate() {
        for (to, end) in ends.iter().enumerate() {
            // Between two that are no pods nothing is anybody's concern.
            if from == to || (from >= pods && to >= pods) {
                continue;
            }
            let protocols = [("TCP", &TCP[..]), ("UDP", &UDP), ("SCTP", &SCTP)];
            for (protocol, ports) in protocols {
                // What leaves the cluster by another address is told from what does not by its answer alone.
                if protocol == "SCTP" && (from >= pods || to >= pods) {
                    continue;
                }
                probes.extend(ports.iter().map(|port| Probe { from, protocol, to: end.ip(), port: *port }));
            }
        }
    }
    let expected = |probe: &Probe| {
        let to = ends.iter().position(|end| end.ip() == probe.to).unwrap();
        // A node always reaches its own pods, for their probes.
        let is_own_node = probe.from >= pods
            && probe.from < pods + lab.nodes.len()
            && grid.pods.get(to).is_some_and(|this| this.node == probe.from - pods);
        is_own_node || grid.cluster.allows(ends[probe.from], ends[to], probe.protocol, probe.port)
    };
    let reached = probe(&places, &all, &probes, expected);
    let wanted: BTreeSet<Probe> = probes.iter().filter(|probe| expected(probe)).copied().collect();
    let label = |index: usize| match grid.pods.get(index) {
        Some(this) => format!("{}/{}", this.pod.namespace, this.pod.name),
        None if index == pods + lab.nodes.len() => "outside".to_owned(),
        None => format!("node-{}", index - pods),
    };
    let show = |probe: &Probe| {
        let to = ends.iter().position(|end| end.ip() == probe.to).unwrap();
        format!("{} -> {} {}/{}", label(probe.from), label(to), probe.port, probe.protocol)
    };
    let wrong: Vec<String> = wanted
        .difference(&reached)
        .map(|probe| format!("not through: {}", show(probe)))
        .chain(reached.difference(&wanted).map(|probe| format!("through: {}", show(probe))))
        .collect();
    assert!(
        wrong.is_empty(),
        "{name}: {} of {} are wrong:\n{}\n{}",
        wrong.len(),
        probes.len(),
        wrong[..wrong.len().min(20)].join("\n"),
        grid.world.lab.nodes[0].netns.nft()
    );
    assert!(!wanted.is_empty());
}

/// Pods a/x and b/y on the first node, c/x on the second.
fn small() -> Grid {
    let mut grid = Grid::new(false);
    for (namespace, name, node) in [("a", "x", 0), ("b", "y", 0), ("c", "x", 1)] {
        grid.add_pod(namespace, name, node);
    }
    grid.settle();
    grid
}

/// The same, where a/x answers at 8080.
fn served() -> (Grid, Server) {
    let grid = small();
    let server = grid.pod("a", "x").netns.serve_tcp("0.0.0.0:8080", "a-x");
    (grid, server)
}

/// The same, with a/x behind a service.
fn behind(service: &Service) -> (Grid, Server) {
    let (grid, server) = served();
    let target = grid.pod("a", "x").pod.ip;
    grid.world.set(service, &[(0, target, true)], 8080);
    (grid, server)
}

fn from_namespace(name: &str) -> Value {
    json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": name}}}]}]})
}

fn from_block(range: &str) -> Value {
    json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": range}}]}]})
}

fn to_block(range: &str) -> Value {
    json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": range}}]}]})
}

fn deny() -> Value {
    json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
}

#[test]
fn a_service_is_judged_by_who_really_answers() {
    let (mut grid, _server) = behind(&Service::new("web", "10.96.0.5").port(80));
    let at = "10.96.0.5:80";
    grid.set(&[("a", "in", from_namespace("b"))]);
    assert_eq!(grid.pod("b", "y").netns.tcp(at), format!("a-x {}", grid.pod("b", "y").pod.ip));
    grid.pod("c", "x").netns.silent(at);
    assert_eq!(grid.world.lab.nodes[0].netns.tcp(at), "a-x 10.100.0.2", "its own node");
    grid.world.lab.nodes[1].netns.silent(at);

    grid.set(&[("b", "out", to_block("10.244.1.0/24"))]);
    grid.pod("b", "y").netns.tcp(at);
    grid.set(&[("b", "out", to_block("10.96.0.0/16"))]);
    grid.pod("b", "y").netns.silent(at);

    // A pod reaches itself, also by way of its service, whatever its policies say.
    grid.set(&[("a", "deny", deny())]);
    assert_eq!(grid.pod("a", "x").netns.tcp(at), "a-x 10.244.1.1");
    grid.pod("b", "y").netns.silent(at);
}

#[test]
fn a_node_port_shows_the_policy_the_sender_that_the_pod_sees() {
    let (mut grid, _server) = behind(&Service::new("web", "10.96.0.5").port(80).node_port(30080));
    let (own, other) = ("10.100.0.2:30080", "10.100.0.3:30080");
    grid.set(&[("a", "in", from_block("10.100.0.1/32"))]);
    assert_eq!(grid.world.lab.router.tcp(own), "a-x 10.100.0.1", "by its own node, the true sender");
    grid.world.lab.router.silent(other);
    grid.set(&[("a", "in", from_block("10.100.0.3/32"))]);
    assert_eq!(grid.world.lab.router.tcp(other), "a-x 10.100.0.3", "by another node, that node");
    grid.world.lab.router.silent(own);

    // From a pod, its own node's port leads straight to the endpoint, and is judged as that.
    grid.set(&[("a", "in", from_namespace("b")), ("b", "out", to_block("10.244.1.0/24"))]);
    grid.pod("b", "y").netns.tcp(own);
    // What another node's port leads to is not known where the pod is.
    grid.pod("b", "y").netns.silent(other);
    grid.set(&[("a", "in", from_block("10.100.0.3/32")), ("b", "out", to_block("10.100.0.3/32"))]);
    grid.pod("b", "y").netns.tcp(other);
}

#[test]
fn a_host_port_is_judged_like_the_pods_own() {
    let (mut grid, _server) = served();
    let node = &grid.world.lab.nodes[0];
    let port = lab::host_port(skiff_network::Protocol::Tcp, 9000, 8080);
    node.block_on(node.network.set_host_ports("a-x", &[port])).unwrap();
    let at = "10.100.0.2:9000";
    grid.set(&[("a", "in", from_namespace("c"))]);
    let lab = &grid.world.lab;
    lab.router.silent(at);
    grid.pod("b", "y").netns.silent(at);
    assert_eq!(grid.pod("c", "x").netns.tcp(at), format!("a-x {}", grid.pod("c", "x").pod.ip));
    for own in [at, "127.0.0.1:9000"] {
        assert!(lab.nodes[0].netns.tcp(own).starts_with("a-x "), "its own node by {own}");
    }
    lab.nodes[1].netns.silent(at);
    grid.set(&[("a", "in", from_block("10.100.0.1/32"))]);
    assert_eq!(grid.world.lab.router.tcp(at), "a-x 10.100.0.1");
    grid.pod("c", "x").netns.silent(at);
    // On the way out it is the node's address: what it leads to is decided there.
    grid.set(&[("c", "out", to_block("10.100.0.2/32"))]);
    grid.pod("c", "x").netns.tcp(at);
    grid.pod("c", "x").netns.silent(&format!("{}:8080", grid.pod("a", "x").pod.ip));
}

#[test]
fn the_cluster_dns_is_the_pod_that_policies_are_written_for() {
    let mut grid = small();
    let mut servers = Vec::new();
    for node in &grid.world.lab.nodes {
        node.block_on(node.network.add_local_address(lab::ip(world::DNS))).unwrap();
        servers.push(node.netns.serve_udp("10.96.0.10:53", "dns"));
    }
    let ask = |grid: &Grid, patience: Duration| {
        let socket = grid.pod("a", "x").netns.udp_socket();
        socket.set_read_timeout(Some(patience)).unwrap();
        lab::try_udp(&socket, "10.96.0.10:53").is_ok()
    };
    grid.label_namespace("kube-system", &json!({"kubernetes.io/metadata.name": "kube-system"}));
    grid.set(&[("a", "deny", deny())]);
    assert!(!ask(&grid, Duration::from_millis(300)));
    let dns = json!({
        "podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }],
            "ports": [{"protocol": "UDP", "port": 53}],
        }],
    });
    grid.set(&[("a", "deny", deny()), ("a", "dns", dns)]);
    assert!(ask(&grid, lab::PATIENCE));
}

/// Sends back what comes, until the other end closes.
fn echo(netns: &Netns, address: &str) {
    let listener = netns.run(|| TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut buffer = [0; 16];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

fn hear(stream: &mut TcpStream, patience: Duration) -> Result<u8, std::io::ErrorKind> {
    let mut buffer = [0; 1];
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.read_exact(&mut buffer).map(|()| buffer[0]).map_err(|error| error.kind())
}

#[test]
fn what_a_new_policy_forbids_ends_and_what_it_allows_goes_on() {
    const SHORT: Duration = Duration::from_millis(300);
    let mut grid = small();
    let server = grid.pod("a", "x");
    let at = format!("{}:8080", server.pod.ip);
    echo(&server.netns, "0.0.0.0:8080");
    // From another node, so that both nodes have their say.
    let mut stream = grid.pod("c", "x").netns.run(|| TcpStream::connect(&at).unwrap());
    let mut told = 0;
    let mut say = |stream: &mut TcpStream| {
        told += 1;
        stream.write_all(&[told]).unwrap();
        told
    };
    for policies in [
        vec![("a", "in", from_namespace("c"))],
        vec![("a", "in", from_namespace("c")), ("c", "deny", json!({"podSelector": {}}))],
        vec![("c", "out", to_block("10.244.1.0/24"))],
    ] {
        grid.set(&policies);
        let word = say(&mut stream);
        assert_eq!(hear(&mut stream, lab::PATIENCE), Ok(word), "{policies:?}");
    }
    for policies in [
        vec![("a", "in", from_namespace("b"))],
        vec![("c", "out", to_block("10.244.2.0/24"))],
        vec![
            ("a", "deny", deny()),
            ("a", "web", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})),
        ],
    ] {
        grid.set(&policies);
        let word = say(&mut stream);
        assert_eq!(hear(&mut stream, SHORT), Err(std::io::ErrorKind::WouldBlock), "{policies:?}");
        grid.set(&[]);
        assert_eq!(hear(&mut stream, lab::PATIENCE), Ok(word), "once it may again");
    }
    // A label is enough.
    grid.set(&[("a", "in", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "x"}}}]}]}))]);
    let word = say(&mut stream);
    assert_eq!(hear(&mut stream, lab::PATIENCE), Ok(word));
    grid.label("c", "x", "pod", "other");
    say(&mut stream);
    assert_eq!(hear(&mut stream, SHORT), Err(std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_flow_of_datagrams_ends_where_it_is_forbidden() {
    let mut grid = small();
    let _server = grid.pod("a", "x").netns.serve_udp("0.0.0.0:53", "a-x");
    let at = format!("{}:53", grid.pod("a", "x").pod.ip);
    let client = grid.pod("b", "y").netns.udp_socket();
    assert!(lab::try_udp(&client, &at).is_ok());
    grid.set(&[("a", "in", from_namespace("c"))]);
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(lab::try_udp(&client, &at).is_err(), "the same socket, and so the same flow");
    grid.set(&[("a", "in", from_namespace("b"))]);
    client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    assert!(lab::try_udp(&client, &at).is_ok());
}

#[test]
fn a_new_pod_is_filtered_once_it_is_admitted_before_the_api_knows_its_address() {
    let mut grid = small();
    grid.set(&[("b", "deny", deny())]);
    let node = &grid.world.lab.nodes[0];
    let (fresh, ip) = node.sandbox("fresh");
    let _server = fresh.serve_tcp("0.0.0.0:8080", "fresh");
    let subject = || skiff_proxy::policy::Subject {
        pod: skiff_client::ObjectKey::new("b", "fresh"),
        uid: "fresh".into(),
        labels: std::collections::BTreeMap::new(),
        ports: Vec::new(),
        local: true,
    };
    node.block_on(grid.handles[0].admit(ip, subject(), 0)).unwrap();
    let at = format!("{ip}:8080");
    grid.pod("a", "x").netns.silent(&at);
    assert!(fresh.run(|| {
        let to = "10.100.0.1:80".parse().unwrap();
        TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err().kind()
            == std::io::ErrorKind::TimedOut
    }));
    assert_eq!(node.netns.tcp(&at), format!("fresh {}", lab::ip("10.244.1.1")), "but for its node");
    // Nobody else's once it is given back.
    grid.handles[0].release(ip);
    grid.settle();
    grid.pod("a", "x").netns.tcp(&at);
}

/// Nothing of its first packets is lost: its node knows it as a peer before the API does.
#[test]
fn a_new_peer_of_the_same_node_is_let_in_from_its_first_packet() {
    let (mut grid, _server) = served();
    grid.set(&[("a", "of-b", from_namespace("b"))]);
    let node = &grid.world.lab.nodes[0];
    let (fresh, ip) = node.sandbox("fresh");
    let subject = skiff_proxy::policy::Subject {
        pod: skiff_client::ObjectKey::new("b", "fresh"),
        uid: "fresh".into(),
        labels: std::collections::BTreeMap::new(),
        ports: Vec::new(),
        local: true,
    };
    node.block_on(grid.handles[0].admit(ip, subject, 0)).unwrap();
    fresh.tcp(&format!("{}:8080", grid.pod("a", "x").pod.ip));
    // Names are in one line, their numbers in the next.
    let counters = fresh.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut tcp = counters.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let sent_again = names.zip(values).find(|(name, _)| *name == "RetransSegs");
    assert_eq!(sent_again, Some(("RetransSegs", "0")));
}

#[test]
fn a_pod_is_not_admitted_before_the_policies_of_its_time() {
    let mut grid = small();
    let node = &grid.world.lab.nodes[0];
    let (_fresh, ip) = node.sandbox("fresh");
    let handle = grid.handles[0].clone();
    let subject = skiff_proxy::policy::Subject {
        pod: skiff_client::ObjectKey::new("a", "fresh"),
        uid: "fresh".into(),
        labels: std::collections::BTreeMap::new(),
        ports: Vec::new(),
        local: true,
    };
    let next = grid.version() + 1;
    let admitted = node.spawn(async move { handle.admit(ip, subject, next).await });
    grid.settle();
    assert!(!admitted.is_finished(), "version {next} is not there yet");
    assert_eq!(grid.put(&[("a", "deny", deny())]), next);
    let node = &grid.world.lab.nodes[0];
    node.block_on(admitted).unwrap().unwrap();
    let isolated = skiff_sys::nft::Key::EMPTY.address(ip);
    assert!(node.ruleset.element("policy", "policy-isolated", &isolated).is_some());
}

#[test]
fn without_policies_nothing_is_left_and_with_them_the_table_tells_who_decides() {
    let mut grid = small();
    let count = |grid: &Grid| grid.world.lab.nodes[0].netns.nft().matches("policy").count();
    let before = count(&grid);
    grid.set(&[(
        "a",
        "web",
        json!({"podSelector": {}, "ingress": [{}, {"ports": [{"port": 80, "endPort": 90}]}]}),
    )]);
    let rules = grid.world.lab.nodes[0].netns.nft();
    assert!(rules.contains("comment \"a/web ingress[1]\""), "{rules}");
    assert!(rules.contains("comment \"ingress isolated by a/web\""), "{rules}");
    assert!(grid.world.lab.nodes[0].ruleset.is_intact());
    grid.set(&[]);
    assert_eq!(before, count(&grid), "but for the word in \"policy accept\"");
    assert!(!grid.world.lab.nodes[0].netns.nft().contains("np-"));
    assert!(grid.world.lab.nodes[0].ruleset.is_intact());
}

#[test]
fn policies_hold_while_the_agent_is_restarted_and_what_changed_meanwhile_holds_after() {
    let mut grid = small();
    let _server = grid.pod("a", "x").netns.serve_tcp("0.0.0.0:8080", "a-x");
    let at = format!("{}:8080", grid.pod("a", "x").pod.ip);
    grid.set(&[("a", "in", from_namespace("b")), ("c", "deny", deny())]);
    grid.stop();
    grid.world.stop();
    grid.world.lab.nodes.iter_mut().for_each(lab::Node::restart);
    grid.pod("b", "y").netns.tcp(&at);
    grid.pod("c", "x").netns.silent(&at);
    grid.put(&[("a", "in", from_namespace("c"))]);
    grid.world.start();
    grid.start();
    grid.pod("c", "x").netns.tcp(&at);
    grid.pod("b", "y").netns.silent(&at);
    for node in &grid.world.lab.nodes {
        assert!(node.ruleset.is_intact());
    }
    // And a restart after which there is none.
    grid.stop();
    grid.world.stop();
    grid.world.lab.nodes.iter_mut().for_each(lab::Node::restart);
    grid.put(&[]);
    grid.world.start();
    grid.start();
    grid.pod("b", "y").netns.tcp(&at);
    assert!(!grid.world.lab.nodes[0].netns.nft().contains("np-"));
}

#[test]
fn policies_of_an_earlier_start_hold_until_pods_are_known() {
    let mut grid = small();
    let _server = grid.pod("a", "x").netns.serve_tcp("0.0.0.0:8080", "a-x");
    let at = format!("{}:8080", grid.pod("a", "x").pod.ip);
    grid.set(&[("a", "in", from_namespace("b"))]);
    grid.stop();
    grid.world.stop();
    grid.world.lab.nodes.iter_mut().for_each(lab::Node::restart);
    grid.start_without_pods();
    grid.pod("b", "y").netns.tcp(&at);
    grid.pod("c", "x").netns.silent(&at);
}

#[test]
fn an_upgrade_of_rules_leaves_no_moment_without_policies() {
    let mut grid = small();
    let _server = grid.pod("a", "x").netns.serve_tcp("0.0.0.0:8080", "a-x");
    let at = format!("{}:8080", grid.pod("a", "x").pod.ip);
    grid.set(&[("a", "in", from_namespace("b"))]);
    grid.stop();
    grid.world.stop();
    let old = grid.world.lab.nodes[0].netns.rules();
    for node in &mut grid.world.lab.nodes {
        // Rules of the network's part have it in them.
        node.config.service_cidr = "10.97.0.0/16".parse().unwrap();
        node.restart_awaiting(&skiff_proxy::PARTS);
        assert!(!node.ruleset.is_settled());
    }
    assert_eq!(grid.world.lab.nodes[0].netns.rules(), old, "the old table stays, whole");
    grid.pod("b", "y").netns.tcp(&at);
    grid.pod("c", "x").netns.silent(&at);
    // Also where somebody makes it necessary to write the table.
    let node = &grid.world.lab.nodes[0];
    node.netns.command("nft", &["add", "chain", "ip", "skiff", "foreign"]);
    node.ruleset.restore().unwrap();
    grid.pod("c", "x").netns.silent(&at);

    grid.put(&[("a", "in", from_namespace("c"))]);
    grid.world.start();
    grid.start();
    for node in &grid.world.lab.nodes {
        assert!(node.ruleset.is_settled() && node.ruleset.is_intact());
        let rules = node.netns.nft();
        assert!(rules.contains("10.97.0.0/16") && !rules.contains("foreign"), "{rules}");
    }
    grid.pod("c", "x").netns.tcp(&at);
    grid.pod("b", "y").netns.silent(&at);

    // And an upgrade after which there is no policy: what is left of them goes with the old table.
    grid.stop();
    grid.world.stop();
    for node in &mut grid.world.lab.nodes {
        node.config.service_cidr = "10.96.0.0/16".parse().unwrap();
        node.restart_awaiting(&skiff_proxy::PARTS);
    }
    grid.put(&[]);
    grid.world.start();
    grid.start();
    grid.pod("b", "y").netns.tcp(&at);
    for node in &grid.world.lab.nodes {
        assert!(node.ruleset.is_intact() && !node.netns.nft().contains("np-"));
    }
}
