//! Many pods and policies. Times are printed for who runs this to see them, not asserted: they are the
//! machine's.

mod grid;
#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use grid::{Grid, model};
use serde_json::{Value, json};

const NODES: usize = 10;

fn pod(number: u32) -> model::Pod {
    let labels = [("app", format!("app-{}", number % 50)), ("tier", format!("tier-{}", number % 3))];
    model::Pod {
        namespace: grid::NAMESPACES[number as usize % 3].into(),
        name: format!("pod-{number}"),
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ip: Ipv4Addr::from_bits(lab::ip("10.244.16.0").to_bits() + number),
        ports: vec![("web".into(), "TCP".into(), 80)],
    }
}

/// A hundred policies, each of some peers and ports.
fn policies() -> Vec<(&'static str, String, Value)> {
    let policy = |number: usize| {
        let spec = json!({
            "podSelector": if number.is_multiple_of(10) { json!({}) } else { json!({"matchLabels": {"app": format!("app-{}", number % 50)}}) },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": {"app": format!("app-{}", (number + 1) % 50)}}}], "ports": [{"port": 80}, {"port": "web"}]},
                {"from": [{"namespaceSelector": {"matchLabels": {"team": "one"}}, "podSelector": {"matchLabels": {"tier": format!("tier-{}", number % 3)}}}]},
            ],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": format!("app-{}", (number + 2) % 50)}}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
        });
        (grid::NAMESPACES[number % 3], format!("policy-{number}"), spec)
    };
    (0..100).map(policy).collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_pod_among_a_thousand_under_a_hundred_policies_is_soon_filtered() {
    let mut grid = Grid::new(false);
    // A tenth of them on the node that is looked at.
    (0..1_000).for_each(|number| {
        grid.tell_of(&pod(number), if (number as usize).is_multiple_of(NODES) { 0 } else { 9 })
    });
    let all = policies();
    let all: Vec<(&str, &str, Value)> =
        all.iter().map(|(namespace, name, spec)| (*namespace, name.as_str(), spec.clone())).collect();
    let begin = Instant::now();
    grid.set(&all);
    println!("1,000 pods and 100 policies, from none: {:?} (two nodes)", begin.elapsed());
    let node = &grid.world.lab.nodes[0];
    let mut here = Vec::new();
    for number in 2_000..2_021 {
        let pod = pod(number);
        let subject = skiff_proxy::policy::Subject {
            pod: skiff_client::ObjectKey::new(pod.namespace.clone(), pod.name.clone()),
            uid: pod.name.clone(),
            labels: pod.labels.clone(),
            ports: Vec::new(),
            local: true,
        };
        let begin = Instant::now();
        node.block_on(grid.handles[0].admit(pod.ip, subject, 0)).unwrap();
        here.push(begin.elapsed());
    }
    println!(
        "one more pod of this node, until filtered: {:?} (median of 21), {:?} at most",
        median(here.clone()),
        here.iter().max().unwrap()
    );
    let mut elsewhere = Vec::new();
    for number in 3_000..3_021 {
        let begin = Instant::now();
        grid.tell_of(&pod(number), 9);
        grid.settle();
        elsewhere.push(begin.elapsed());
    }
    println!(
        "one more pod elsewhere, and two claims made for waiting: {:?} (median of 21)",
        median(elsewhere)
    );
    let mut changed = Vec::new();
    for round in 0..11 {
        let mut policies = all.clone();
        policies[7].2["ingress"][0]["ports"][0]["port"] = json!(1000 + round);
        let begin = Instant::now();
        grid.set(&policies);
        changed.push(begin.elapsed());
    }
    println!("all policies written again, one of them changed: {:?} (median of 11)", median(changed));
    assert!(grid.world.lab.nodes[0].ruleset.is_intact());
}

/// Bytes a second from one pod to the other, for so long.
fn pour(grid: &Grid, seconds: f64) -> f64 {
    let server = grid.pod("a", "x");
    let listener = server.netns.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let at = (server.pod.ip, listener.local_addr().unwrap().port());
    let sink = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut count) = (vec![0; 1 << 18], 0u64);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            count += length as u64;
        }
        count
    });
    let mut stream = grid.pod("b", "y").netns.run(|| TcpStream::connect(at).unwrap());
    let (begin, bytes) = (Instant::now(), vec![7; 1 << 18]);
    while begin.elapsed().as_secs_f64() < seconds {
        stream.write_all(&bytes).unwrap();
    }
    drop(stream);
    sink.join().unwrap() as f64 / begin.elapsed().as_secs_f64()
}

/// Round trips a second of small messages: what a rule costs weighs most here.
fn bounce(grid: &Grid, seconds: f64) -> f64 {
    let server = grid.pod("a", "x");
    let listener = server.netns.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let at = (server.pod.ip, listener.local_addr().unwrap().port());
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
        }
    });
    let mut stream = grid.pod("b", "y").netns.run(|| TcpStream::connect(at).unwrap());
    stream.set_nodelay(true).unwrap();
    let (begin, mut count) = (Instant::now(), 0u64);
    while begin.elapsed().as_secs_f64() < seconds {
        stream.write_all(&[7; 64]).unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
        count += 1;
    }
    drop(stream);
    echo.join().unwrap();
    count as f64 / begin.elapsed().as_secs_f64()
}

#[test]
fn throughput_with_policies_is_that_without() {
    let mut grid = Grid::new(false);
    grid.add_pod("a", "x", 0);
    grid.add_pod("b", "y", 0);
    let both: [(&str, &str, Value); 2] = [
        (
            "a",
            "in",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}]}),
        ),
        (
            "b",
            "out",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {}}]}]}),
        ),
    ];
    let (mut streams, mut trips) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..10 {
        let with = round % 2;
        grid.set(if with == 1 { &both } else { &[] });
        streams[with].push(pour(&grid, 0.4));
        trips[with].push(bounce(&grid, 0.4));
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    println!(
        "a stream between two pods: {:.2} GB/s without policies, {:.2} with (best of 5)",
        best(&streams[0]) / 1e9,
        best(&streams[1]) / 1e9
    );
    println!(
        "round trips a second: {:.0} without policies, {:.0} with (best of 5)",
        best(&trips[0]),
        best(&trips[1])
    );
}
