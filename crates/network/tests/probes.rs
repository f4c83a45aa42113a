//! What a real connection meets is told: devices, rules, translations and the answer's way, and nothing of what
//! it left behind or of other connections.

mod lab;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};

use lab::{Lab, Netns, Node, PATIENCE};
use skiff_network::probe::{self, Ear, Heard, Observed, Outcome};
use skiff_network::{Network, Protocol};
use skiff_sys::nft::tracer::{Signature, Tracer};

/// A sandbox as it is asked for: where it is, its address, and the node's end of its link.
struct Pod {
    netns: Netns,
    ip: Ipv4Addr,
    host_link: String,
}

fn pod(node: &Node, name: &str) -> Pod {
    let (netns, ip) = node.sandbox(name);
    Pod { netns, ip, host_link: node.host_link(ip) }
}

/// Makes one connection while everybody listens; `meanwhile` happens in between.
fn observe(
    node: &Node,
    pods: &[(&str, &Pod)],
    from: &Netns,
    to: SocketAddrV4,
    heard: Heard,
    meanwhile: impl FnOnce() + Send,
) -> (Outcome, Observed) {
    let mut ears = vec![Ear { place: "node".into(), netns: Some(node.netns.path()) }];
    ears.extend(pods.iter().map(|(name, pod)| Ear { place: (*name).into(), netns: Some(pod.netns.path()) }));
    let stop = &AtomicBool::new(false);
    let (ready, go) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            go.recv().unwrap();
            meanwhile();
            let outcome = probe::connect(Some(&from.path()), to, heard, PATIENCE);
            stop.store(true, Ordering::Release);
            outcome
        });
        let observed = probe::listen(&ears, heard, PATIENCE, stop, || ready.send(()).unwrap()).unwrap();
        (sender.join().unwrap(), observed)
    })
}

/// Nothing stays behind. A program that another test starts at that moment has our sockets too, until it is executed.
fn left(nothing: impl FnMut() -> bool) {
    lab::eventually("nothing is left", nothing);
}

fn host_port(node: &Node, protocol: Protocol) -> SocketAddrV4 {
    let port = lab::host_port(protocol, 9000, 8080);
    node.block_on(node.network.set_host_ports("b", &[port])).unwrap();
    SocketAddrV4::new(node.ip, 9000)
}

#[test]
fn devices_rules_translation_and_answer_are_observed_and_nothing_stays_behind() {
    for (protocol, token) in [(Protocol::Tcp, 0x1_0000_0007), (Protocol::Udp, 7)] {
        let lab = Lab::new(1);
        let node = &lab.nodes[0];
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let _tcp = b.netns.serve_tcp("0.0.0.0:8080", "b");
        let _udp = b.netns.serve_udp("0.0.0.0:8080", "b");
        let to = host_port(node, protocol);
        let before = node.netns.rules();
        let heard = Heard { protocol, token };
        let pods = [("pod a", &a), ("pod b", &b)];
        let other = || {
            // Another connection to the same place, traced at the same time by somebody else, is not told.
            let signature = match protocol {
                Protocol::Udp => Signature::Udp(99u64.to_be_bytes()),
                _ => Signature::Tcp(99),
            };
            let _tracer = node.netns.run(|| Tracer::start(signature).unwrap());
            let outcome = probe::connect(Some(&a.netns.path()), to, Heard { protocol, token: 99 }, PATIENCE);
            assert_eq!(outcome.outcome, "answered");
        };
        let (outcome, observed) = observe(node, &pods, &a.netns, to, heard, other);
        assert_eq!(outcome.outcome, "answered");
        assert_eq!(observed.blind, []);
        let port = outcome.source.unwrap().port();
        let from = SocketAddrV4::new(a.ip, port);
        let end = SocketAddrV4::new(b.ip, 8080);
        for sight in &observed.sights {
            let first = if sight.answer { sight.destination } else { sight.source };
            assert_eq!(first, from, "{sight:?} is another connection's");
        }
        let seen = |answer: bool, place: &str, device: &str| {
            let at = observed
                .sights
                .iter()
                .find(|sight| (sight.answer, &*sight.place, &*sight.device) == (answer, place, device));
            let at = at.unwrap_or_else(|| panic!("{place} {device} {answer}: {observed:#?}"));
            if answer { at.source } else { at.destination }
        };
        for answer in [false, true] {
            assert_eq!(seen(answer, "pod a", "eth0"), to);
            assert_eq!(seen(answer, "node", &a.host_link), to);
            assert_eq!(seen(answer, "node", &b.host_link), end);
            assert_eq!(seen(answer, "pod b", "eth0"), end);
        }
        // The rule that translates, met by the first packet alone, and what let it leave.
        let met = |chain: &str| -> Vec<(bool, &str)> {
            let all =
                observed.rules.iter().filter(|rule| !rule.again && rule.chain == chain && rule.handle > 0);
            all.map(|rule| (rule.answer, rule.verdict.as_str())).collect()
        };
        assert_eq!(met("host-ports-any"), [(false, "accept")], "{observed:#?}");
        assert_eq!(met("leaving"), [(false, "accept")], "{observed:#?}");
        // A base chain that no rule of decided is left by its policy, both ways.
        let policies: Vec<bool> = observed
            .rules
            .iter()
            .filter(|rule| !rule.again && rule.chain == "guard" && rule.handle == 0)
            .map(|rule| rule.answer)
            .collect();
        assert_eq!(policies, [false, true], "{observed:#?}");
        assert!(observed.rules.iter().all(|rule| rule.table == "skiff"), "{observed:#?}");
        let [tracked] = observed.tracked.as_slice() else { panic!("{observed:#?}") };
        assert_eq!((&*tracked.place, tracked.source, tracked.destination), ("node", from, to));
        assert_eq!((tracked.answer_source, tracked.answer_destination), (end, from));
        left(|| node.netns.rules() == before && (a.netns.nft() + &b.netns.nft()).is_empty());
    }
}

#[test]
fn who_drops_it_is_observed_and_what_is_sent_again_is_told_as_such() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (a, b) = (pod(node, "a"), pod(node, "b"));
    let nft = |text: &str| node.netns.command("nft", &[text]);
    nft("add table ip foreign");
    nft("add chain ip foreign stop { type filter hook forward priority 5; }");
    nft("add rule ip foreign stop tcp dport 8080 counter drop");
    let to = SocketAddrV4::new(b.ip, 8080);
    let heard = Heard { protocol: Protocol::Tcp, token: 0xffff_ffff };
    let pods = [("pod a", &a), ("pod b", &b)];
    let (outcome, observed) = observe(node, &pods, &a.netns, to, heard, || {});
    assert_eq!(outcome.outcome, "silent");
    // It was sent more than once in that time, as the rule has counted.
    assert!(!nft("list table ip foreign").contains("packets 1 "), "{}", nft("list table ip foreign"));
    let drops: Vec<(&str, &str, bool)> = observed
        .rules
        .iter()
        .filter(|rule| rule.verdict == "drop")
        .map(|rule| (rule.table.as_str(), rule.chain.as_str(), rule.again))
        .collect();
    assert_eq!(drops, [("foreign", "stop", false), ("foreign", "stop", true)], "{observed:#?}");
    assert_eq!(observed.tracked, []);
    assert!(observed.sights.iter().all(|sight| sight.place != "pod b" && !sight.answer), "{observed:#?}");
}

#[test]
fn what_it_put_there_goes_with_whoever_put_it() {
    let netns = Netns::new();
    let tracer = netns.run(|| Tracer::start(Signature::Udp([7; 8])).unwrap());
    assert!(netns.nft().contains("table ip skiff-trace-0707070707070707"), "{}", netns.nft());
    // Nobody else changes it meanwhile.
    netns.command("nft", &["flush", "ruleset"]);
    assert!(netns.nft().contains("skiff-trace"), "{}", netns.nft());
    drop(tracer);
    left(|| netns.nft().is_empty());
}

#[test]
fn what_frames_meet_before_they_are_routed_is_observed_too() {
    for (protocol, token) in [(Protocol::Tcp, 0x1_0000_0009), (Protocol::Udp, 9)] {
        let lab = Lab::new(1);
        let node = &lab.nodes[0];
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let _tcp = b.netns.serve_tcp("0.0.0.0:8080", "b");
        let _udp = b.netns.serve_udp("0.0.0.0:8080", "b");
        let nft = |text: &str| node.netns.command("nft", &[text]);
        nft("add table bridge foreign");
        nft("add chain bridge foreign early { type filter hook prerouting priority -5; }");
        nft("add rule bridge foreign early ip protocol { tcp, udp } counter accept");
        nft("add table netdev foreign");
        for (name, pod) in [("from-a", &a), ("from-b", &b)] {
            let hook = format!("type filter hook ingress device {} priority 0", pod.host_link);
            nft(&format!("add chain netdev foreign {name} {{ {hook}; }}"));
            nft(&format!("add rule netdev foreign {name} ip protocol {{ tcp, udp }} counter accept"));
        }
        let before = node.netns.nft();
        let to = SocketAddrV4::new(b.ip, 8080);
        let heard = Heard { protocol, token };
        let pods = [("pod a", &a), ("pod b", &b)];
        let (outcome, observed) = observe(node, &pods, &a.netns, to, heard, || {});
        assert_eq!((outcome.outcome.as_str(), observed.blind.len()), ("answered", 0));
        let frames: Vec<(&str, &str, bool)> =
            observed.frames.iter().map(|own| (&*own.place, &*own.family, own.answers)).collect();
        let answers = protocol == Protocol::Tcp;
        assert_eq!(frames, [("node", "bridge", answers), ("node", "netdev", answers)], "{observed:#?}");
        let met = |table: &str, chain: &str| -> Vec<(bool, bool, &str)> {
            let all = observed.rules.iter().filter(|rule| {
                (rule.table.as_str(), rule.chain.as_str(), rule.again) == (table, chain, false)
            });
            all.map(|rule| (rule.answer, rule.handle > 0, rule.verdict.as_str())).collect()
        };
        let first = (false, true, "accept");
        assert_eq!(met("netdev foreign", "from-a"), [first], "{observed:#?}");
        // What answers a datagram is known where it is routed, and not before.
        let answer = (true, true, "accept");
        let early = met("bridge foreign", "early");
        if answers {
            assert_eq!(met("netdev foreign", "from-b"), [answer], "{observed:#?}");
            assert_eq!(early, [first, answer], "{observed:#?}");
        } else {
            assert_eq!(early, [first], "{observed:#?}");
        }
        let counted = |text: &str| -> String {
            text.split_whitespace().filter(|word| word.parse::<u64>().is_err()).collect()
        };
        left(|| counted(&node.netns.nft()) == counted(&before));

        // Nor is what one of them drops lost sight of.
        nft(&format!(
            "insert rule netdev foreign from-a {} dport 8080 drop",
            if answers { "tcp" } else { "udp" }
        ));
        let heard = Heard { protocol, token: token + 1 };
        let (_, observed) = observe(node, &pods, &a.netns, to, heard, || {});
        let drops = observed.rules.iter().find(|rule| rule.chain == "from-a" && rule.verdict == "drop");
        assert_eq!(drops.map(|rule| rule.table.as_str()), Some("netdev foreign"), "{observed:#?}");
    }
}
