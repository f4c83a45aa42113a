//! The trace grid: who × whither × {no policy, allowing, denying, by address, out of pods}. In each cell the
//! verdict is that of a real connection, the sender is the one that the receiver saw, the packet and its answer
//! passed just the devices and met just the rules that were told, as captures and the kernel's traces there show,
//! and the policy that decides is named.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, Output, fixed_ports, peer_path, run, wait_for, wait_until};

use crate::{peer, trace, traced};

const HOST_PORT: u16 = 18_951;
const NODE_NETWORK_PORT: u16 = 18_952;
/// Cells wait more than they compute.
const THREADS: usize = 12;
const CELLS_MIN: usize = 450;

fn manifests(cluster: &Cluster) -> String {
    let (one, two) = (cluster.worker(1), cluster.worker(2));
    let host_network = "hostNetwork: true";
    let service = |name: &str, selector: &str, kind: &str, protocol: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: {kind}, selector: {{{selector}}}, ports: [{{port: 80, targetPort: 7000, protocol: {protocol}}}]}}
---
"
        )
    };
    [
        peer("c1", &one, "", "tcp, '7000'", "{containerPort: 7000}"),
        peer("c2", &two, "", "tcp, '7000'", "{containerPort: 7000}"),
        peer("cn", &one, host_network, "tcp, '18953'", ""),
        peer("s1", &one, "", "tcp, '7000'", &format!("{{containerPort: 7000, hostPort: {HOST_PORT}}}")),
        peer("s2", &two, "", "tcp, '7000'", "{containerPort: 7000}"),
        peer("sn", &two, host_network, &format!("tcp, '{NODE_NETWORK_PORT}'"), ""),
        peer("u2", &two, "", "udp, '7000'", "{containerPort: 7000, protocol: UDP}"),
        service("one", "app: s2", "ClusterIP", "TCP"),
        service("both", "role: server", "NodePort", "TCP"),
        service("none", "app: nobody", "ClusterIP", "TCP"),
        service("datagrams", "app: u2", "ClusterIP", "UDP"),
        // A sender's own service, one without an address, and those that keep to a node.
        service("own", "app: c1", "ClusterIP", "TCP"),
        service("headless", "app: s2", "ClusterIP, clusterIP: None", "TCP")
            .replace("port: 80, targetPort", "port: 7000, targetPort"),
        service("inside", "app: s2", "ClusterIP, internalTrafficPolicy: Local", "TCP"),
        service("outside", "app: s2", "NodePort, externalTrafficPolicy: Local", "TCP"),
    ]
    .concat()
    // The service of both is for the two that have addresses of their own.
    .replace("name: s1, labels: {", "name: s1, labels: {pair: 'yes', ")
    .replace("name: s2, labels: {", "name: s2, labels: {pair: 'yes', ")
    .replace("selector: {role: server}", "selector: {pair: 'yes'}")
}

const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers}
spec:
  podSelector: {matchLabels: {role: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: client}}}]
    ports: [{port: 7000}, {port: 7000, protocol: UDP}]
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers}
spec:
  podSelector: {matchLabels: {role: server}}
  policyTypes: [Ingress]
";

/// Only from the machine itself, which is all that is outside; or from all but it.
fn by_address(block: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: servers}}
spec:
  podSelector: {{matchLabels: {{role: server}}}}
  ingress:
  - from: [{{ipBlock: {block}}}]
"
    )
}

/// The one client may go to the one server alone.
const LEAVING: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients}
spec:
  podSelector: {matchLabels: {role: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: s2}}}]
    ports: [{port: 7000}]
";

/// Runs the program `peer` with these arguments where a connection begins.
type Connect = Box<dyn Fn(&Namespace, &[&str]) -> Output + Send + Sync>;

/// Who begins: a name for `trace`, and how to make a real connection from there.
struct From {
    name: String,
    connect: Connect,
    outside: bool,
}

fn froms(cluster: &Cluster) -> Vec<From> {
    let pod = |name: &'static str| From {
        name: format!("pod/{name}"),
        connect: Box::new(move |namespace: &Namespace, args: &[&str]| {
            namespace.exec(name, &[&["peer"], args].concat())
        }),
        outside: false,
    };
    let node = cluster.control_plane();
    let of_node = From {
        name: format!("node/{node}"),
        connect: Box::new(move |namespace: &Namespace, args: &[&str]| {
            let peer = peer_path().display().to_string();
            namespace.cluster.on_node(&node, &[&[peer.as_str()], args].concat())
        }),
        outside: false,
    };
    let external = From {
        name: "external".into(),
        connect: Box::new(|_: &Namespace, args: &[&str]| run(Command::new(peer_path()).args(args))),
        outside: true,
    };
    vec![pod("c1"), pod("c2"), pod("cn"), of_node, external]
}

/// Whither: the argument for `trace`, the address for a real connection.
struct To {
    name: String,
    address: String,
    udp: bool,
    /// Nobody outside would find it.
    inside: bool,
}

fn tos(namespace: &Namespace) -> Vec<To> {
    let cluster = &namespace.cluster;
    let (one, two) = (cluster.worker(1), cluster.worker(2));
    let service = |name: &str| cluster.object(&["-n", &namespace.name, "service", name]);
    let cluster_ip = |name: &str| service(name)["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let node_port = |name: &str| service(name)["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    let to = |name: &str, address: String| To { name: name.into(), address, udp: false, inside: false };
    let node = |node: &str, port: u64| {
        to(&format!("node/{node}:{port}"), format!("{}:{port}", cluster.node_ip(node)))
    };
    let inside = |to: To| To { inside: true, ..to };
    let udp = |to: To| To { udp: true, inside: true, ..to };
    let s1 = namespace.pod_ip("s1");
    let absent = format!("{}.250:80", s1.rsplit_once('.').expect("an address").0);
    vec![
        to("pod/s1", format!("{s1}:7000")),
        to("pod/s2", format!("{}:7000", namespace.pod_ip("s2"))),
        to("s1:7001", format!("{s1}:7001")),
        inside(to("svc/one", format!("{}:80", cluster_ip("one")))),
        inside(to("svc/both", format!("{}:80", cluster_ip("both")))),
        inside(to("none", format!("{}:80", cluster_ip("none")))),
        inside(to("svc/one:81", format!("{}:81", cluster_ip("one")))),
        node(&one, node_port("both")),
        node(&two, node_port("both")),
        node(&one, node_port("outside")),
        node(&two, node_port("outside")),
        inside(to("svc/own", format!("{}:80", cluster_ip("own")))),
        inside(to("svc/inside", format!("{}:80", cluster_ip("inside")))),
        to("svc/headless", format!("{}:7000", namespace.pod_ip("s2"))),
        node(&one, HOST_PORT.into()),
        node(&two, HOST_PORT.into()),
        node(&two, NODE_NETWORK_PORT.into()),
        inside(to(&absent, absent.clone())),
        udp(to("pod/u2/udp", format!("{}:7000", namespace.pod_ip("u2")))),
        udp(to("pod/u2:7001/udp", format!("{}:7001", namespace.pod_ip("u2")))),
        udp(to("svc/datagrams/udp", format!("{}:80", cluster_ip("datagrams")))),
    ]
}

#[test]
fn every_cell_is_as_a_real_connection_finds_it() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("trace-grid");
    namespace.apply(&manifests(&cluster)).ok();
    ["c1", "c2", "cn", "s1", "s2", "sn", "u2"].iter().for_each(|pod| namespace.serves(pod));
    let (froms, tos) = (froms(&cluster), tos(&namespace));
    let settled = |from: &str, to: &str, verdict: &str| {
        wait_until(&format!("{from} to {to} is {verdict}"), || {
            let ways = traced(&namespace, &[from, to])["ways"].clone();
            let ways = ways.as_array().cloned().unwrap_or_default();
            ways.iter().all(|way| way["verdict"] == verdict)
        });
    };
    for service in ["svc/both", "svc/datagrams/udp", "svc/own", "svc/headless"] {
        settled("c1", service, "Delivered");
    }
    settled("c2", "svc/inside", "Delivered");
    settled("c2", "svc/outside", "Delivered");
    let mut cells = grid(&namespace, "no policy", &froms, &tos);
    namespace.apply(ALLOW).ok();
    // A node always reaches its own pods, so the one is asked from elsewhere.
    settled(&format!("node/{}", cluster.control_plane()), "s1", "Dropped");
    settled("cn", "s2", "Dropped");
    settled("cn", "u2/udp", "Dropped");
    cells += grid(&namespace, "allowing", &froms, &tos);
    namespace.apply(DENY).ok();
    ["s1", "s2", "u2/udp"].iter().for_each(|server| settled("c2", server, "Dropped"));
    cells += grid(&namespace, "denying", &froms, &tos);
    let machine = outside_address(&format!("{}:9", cluster.node_ip(&cluster.worker(1))));
    namespace.apply(&by_address(&format!("{{cidr: {machine}/32}}"))).ok();
    ["s1", "s2"].iter().for_each(|server| settled("external", server, "Delivered"));
    cells += grid(&namespace, "from the machine alone", &froms, &tos);
    let others = format!("{{cidr: 0.0.0.0/0, except: [{machine}/32]}}");
    namespace.apply(&by_address(&others)).ok();
    ["s1", "s2"].iter().for_each(|server| settled("external", server, "Dropped"));
    settled("c2", "u2/udp", "Delivered");
    cells += grid(&namespace, "from all but the machine", &froms, &tos);
    namespace.delete("networkpolicy", "servers");
    namespace.apply(LEAVING).ok();
    for client in ["c1", "c2"] {
        settled(client, "s1", "Dropped");
        settled(client, "s2", "Delivered");
    }
    ["s1", "s2"].iter().for_each(|server| settled("external", server, "Delivered"));
    cells += grid(&namespace, "out of clients", &froms, &tos);
    assert!(cells >= CELLS_MIN, "{cells} cells");
}

/// Looks at each cell; how many there were.
fn grid(namespace: &Namespace, policy: &str, froms: &[From], tos: &[To]) -> usize {
    let cells: Vec<(&From, &To)> = froms
        .iter()
        .flat_map(|from| tos.iter().map(move |to| (from, to)))
        .filter(|(from, to)| !(from.outside && to.inside))
        .collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((from, to)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = cell(namespace, policy, from, to);
                    let tell = |fault: String| format!("{policy}: {} to {}: {fault}", from.name, to.name);
                    wrong.lock().expect("no panic holds it").extend(found.into_iter().map(tell));
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic held it");
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    cells.len()
}

/// The address that the machine itself sends from.
fn outside_address(to: &str) -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Connecting a datagram socket sends nothing.
    socket.connect(to).and_then(|()| socket.local_addr()).map(|own| own.ip().to_string()).unwrap_or_default()
}

/// What is wrong about one cell.
fn cell(namespace: &Namespace, policy: &str, from: &From, to: &To) -> Vec<String> {
    let mut args = vec![from.name.as_str(), to.name.as_str(), "-o", "json"];
    if !from.outside {
        args.push("--live");
    }
    // An agent may have had no time for its answer, which is of the machine: then once more.
    let told = wait_for(&format!("every agent answers in time: {args:?}"), || {
        let output = trace(namespace, &args);
        if output.code != 0 {
            return Some(Err(output.stderr));
        }
        let told: Value = serde_json::from_str(&output.stdout).expect("JSON");
        (!told["missing"].to_string().contains("did not answer within")
            && !told["ways"].to_string().contains("did not answer within"))
        .then_some(Ok(told))
    });
    let told = match told {
        Ok(told) => told,
        Err(said) => return vec![said],
    };
    let ways = told["ways"].as_array().cloned().unwrap_or_default();
    let verdicts: Vec<&str> = ways.iter().filter_map(|way| way["verdict"].as_str()).collect();
    // Silence takes its time to be sure of; all else is answered.
    let silent = verdicts.iter().all(|verdict| matches!(*verdict, "Dropped" | "Unreachable"));
    let patience = if silent { "1000" } else { "8000" };
    let verb = if to.udp { "ask" } else { "get" };
    let real = (from.connect)(namespace, &[verb, &to.address, patience]);
    let mut faults = Vec::new();
    let expected = match real.code {
        0 => "Delivered",
        1 if real.stderr.contains("refused") => "Refused",
        _ => "Dropped or Unreachable",
    };
    // Of several ways the kernel draws one.
    if !verdicts.iter().any(|verdict| expected.contains(verdict)) {
        faults.push(format!("told {verdicts:?}, but the connection was {expected}: {real:?}\n{ways:#?}"));
    }
    if real.code == 0 {
        let outside = outside_address(&to.address);
        let (host, sender) = real.stdout.trim().split_once(' ').unwrap_or_default();
        let fits = |way: &Value| {
            let receiver = way["receiver"].as_str().unwrap_or_default();
            (receiver == format!("pod {}/{host}", namespace.name) || receiver == format!("node {host}"))
                && (way["sourceSeen"] == sender
                    // The machine's own address, of which a trace from outside can't know.
                    || from.outside && way["sourceSeen"] == "the sender's own address" && sender == outside)
        };
        if !ways.iter().any(fits) {
            faults.push(format!("{host} saw {sender}, which no way tells: {ways:#?}"));
        }
    }
    if !from.outside {
        let live = &told["live"];
        let whole = |name: &str| live[name].as_array().is_some_and(Vec::is_empty);
        let unseen =
            live["seen"].as_array().into_iter().flatten().filter(|sighting| sighting["seen"] != true);
        if !whole("differences") || live["unseen"].is_array() && !to.udp || unseen.count() > 0 {
            faults.push(format!("live: {live:#}, missing {}, ways {ways:#?}", told["missing"]));
        }
    }
    faults.extend(ways.iter().filter_map(|way| unnamed(namespace, policy, from, way)));
    faults
}

/// Whom the policy of the phase concerns is told by its name, and by its rule where one allows; nobody else is.
fn unnamed(namespace: &Namespace, policy: &str, from: &From, way: &Value) -> Option<String> {
    let summary = way["summary"].as_str().unwrap_or_default();
    let of = |name: &str| format!("NetworkPolicy {}/{name}", namespace.name);
    let (policy, rule) = match policy {
        "no policy" => return summary.contains("NetworkPolicy").then(|| format!("there is none: {summary}")),
        "out of clients" => (of("clients"), "egress[0]"),
        _ => (of("servers"), "ingress[0]"),
    };
    let named = match way["verdict"].as_str() {
        // The node's own, nothing of which is dropped elsewhere than by the traffic policy of a service.
        Some("Dropped") => summary.contains(&policy) || summary.contains("TrafficPolicy Local"),
        Some("Delivered") => {
            let receiver = way["receiver"].as_str().unwrap_or_default();
            let receiver = receiver.strip_prefix(&format!("pod {}/", namespace.name)).unwrap_or_default();
            let isolated = match rule {
                "egress[0]" => matches!(from.name.as_str(), "pod/c1" | "pod/c2"),
                // A node always reaches its own pods, if the way is not over another one.
                _ => {
                    let hops = way["hops"].as_array().into_iter().flatten();
                    let mut nodes: Vec<&str> =
                        hops.filter_map(|hop| hop["place"].as_str()?.strip_prefix("node ")).collect();
                    nodes.sort_unstable();
                    nodes.dedup();
                    let own = from.name == "pod/cn" && nodes.len() == 1;
                    matches!(receiver, "s1" | "s2" | "u2") && !own
                }
            };
            // Nor is anybody kept from itself.
            let itself = from.name == format!("pod/{receiver}");
            let allowed = format!("as {policy} {rule} allows");
            if isolated && !itself { summary.contains(&allowed) } else { !summary.contains(&policy) }
        }
        _ => true,
    };
    (!named).then(|| format!("{policy} {rule} should be told, or not: {summary}"))
}
