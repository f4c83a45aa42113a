//! I1: what is told of a socket's reach where the node's own rules, links, doors and policies decide, beside real
//! connections: whatever is said to be closed is closed, and what is said to be open answers.

use serde_json::{Value, json};
use skiff_tests::{Cluster, Namespace, OwnCluster, peer_path, run, wait_until};
use std::process::Command;

use super::truth::{explained, text};

/// A cluster of its own: what is broken here would break other tests.
struct Scene {
    namespace: Namespace,
    cluster: OwnCluster,
}

impl Scene {
    fn on(&self, node: &str, command: &[&str]) -> String {
        self.cluster.on_node(node, command).ok()
    }

    /// Who answers there.
    fn met(&self, from: &str, at: &str) -> Option<String> {
        let (path, args) = (peer_path().display().to_string(), ["get", at, "1500"]);
        let program = [&[path.as_str()], args.as_slice()].concat();
        let met = match from {
            "outside" => run(Command::new(&path).args(args)),
            "pod network" => self.namespace.exec("cli", &[&["peer"], args.as_slice()].concat()),
            node => self.cluster.on_node(node, &program),
        };
        (met.code == 0).then(|| met.stdout.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Answer and reason of the pod's socket.
    fn told(&self, pod: &str, port: u64, from: &str) -> (String, String) {
        let told = explained(&self.namespace, "pod", pod);
        let listeners = told["listeners"].as_array().expect("a list");
        let own = listeners.iter().find(|own| own["port"] == port);
        let own = own.unwrap_or_else(|| panic!("{pod} listens on {port}: {told:#}"));
        let reach = own["reachable"].as_array().expect("a list").iter().find(|own| own["from"] == from);
        let reach = reach.expect("all four are told");
        (text(&reach["answer"]), text(&reach["reason"]))
    }

    /// Until it is told so, and a connection finds the same.
    fn both(&self, (pod, port): (&str, u64), from: &str, way: (&str, &str), open: bool, says: &str) {
        let (by, at) = way;
        wait_until(&format!("{pod}:{port} from {from} is open: {open}, as {says:?} says"), || {
            let (answer, reason) = self.told(pod, port, from);
            let met = self.met(by, at);
            eprintln!("{pod}:{port} from {from}: {answer} {reason}; {by} meets {met:?} at {at}");
            (answer != "no") == open && reason.contains(says) && (met.as_deref() == Some(pod)) == open
        });
    }
}

fn scene() -> Scene {
    let cluster = Cluster::start("explain-ways", 3);
    let namespace = cluster.namespace("ways");
    let pod = |name: &str, node: &str, more: &str, command: &str, ports: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{nodeName: {node}, \
             terminationGracePeriodSeconds: 1, {more} containers: [{{name: main, image: skiff/peer:v1, \
             command: [{command}], ports: [{ports}], volumeMounts: [{{name: w, mountPath: /w}}]}}], \
             volumes: [{{name: w, {}}}]}}}}\n---\n",
            if name == "hide" {
                "hostPath: {path: /run/ways-w, type: DirectoryOrCreate}"
            } else {
                "emptyDir: {}"
            }
        )
    };
    let ports =
        "{containerPort: 7000, hostPort: 18971}, {containerPort: 7000, hostPort: 18972, hostIP: 192.0.2.7}";
    let (one, two) = (cluster.worker(1), cluster.worker(2));
    let hides =
        "sh, -c, 'mkdir /c && cp /bin/busybox /c/ && echo there && exec chroot /c /busybox sleep 9999'";
    let service = |name: &str, more: &str, port: u16| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: NodePort, {more} \
             ports: [{{port: 80, targetPort: {port}}}]}}}}\n---\n"
        )
    };
    namespace
        .apply(
            &[
                pod("cli", &one, "", "peer, tcp, '7000'", ""),
                pod("srv", &two, "", "peer, tcp, '7000'", ports),
                pod("hn", &two, "hostNetwork: true,", "peer, tcp, '18971'", ""),
                pod("hide", &two, "", hides, ""),
                service("srv", "selector: {app: srv},", 7000),
                service("manual", "", 7000),
            ]
            .concat(),
        )
        .ok();
    ["cli", "srv", "hn"].iter().for_each(|pod| namespace.serves(pod));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "manual"}},
        "ports": [{"port": 7000}],
        "endpoints": [{"addresses": [namespace.pod_ip("cli")]}],
    });
    namespace.apply(&slice.to_string()).ok();
    Scene { namespace, cluster }
}

#[test]
fn i1_what_is_in_the_way_of_a_socket_is_told() {
    let scene = scene();
    let (control, one, two) =
        (scene.cluster.control_plane(), scene.cluster.worker(1), scene.cluster.worker(2));
    let (ip, node_ip) = (scene.namespace.pod_ip("srv"), scene.cluster.node_ip(&two));
    let at = format!("{ip}:7000");
    let srv = ("srv", 7000);
    let node_port = |service: &str| {
        let port =
            scene.cluster.object(&["-n", "ways", "service", service])["spec"]["ports"][0]["nodePort"].clone();
        port.as_u64().expect("a node port")
    };
    // A node's own socket behind the host port of a pod; who connects there meets the pod.
    let behind = format!("{node_ip}:18971");
    for (from, by) in [
        ("pod network", "pod network"),
        ("node", two.as_str()),
        ("other nodes", control.as_str()),
        ("outside", "outside"),
    ] {
        scene.both(("hn", 18971), from, (by, &behind), false, "is led to pod ways/srv");
        assert_eq!(scene.met(by, &behind).as_deref(), Some("srv"), "from {from}");
    }
    // A service whose endpoints somebody wrote by hand; and a host port of an address that the node has not.
    let manual = format!("{}:{}", scene.cluster.node_ip(&one), node_port("manual"));
    let door = format!("NodePort {} of service ways/manual on every node", node_port("manual"));
    scene.both(("cli", 7000), "outside", ("outside", &manual), true, &door);
    let shut = format!("host port 192.0.2.7:18972 of {two} does not lead here");
    scene.both(srv, "outside", ("outside", &behind), true, &shut);
    // What others put in the way, and take away again.
    let link = scene.on(&two, &["ip", "-o", "route", "get", &ip]);
    assert!(link.contains("cbr0"), "{link}");
    let ports = scene.on(&two, &["ip", "-o", "neigh", "show", &ip]);
    eprintln!("{ports}");
    let nft = |rules: &str| vec!["nft".to_owned(), rules.to_owned()];
    let set = |value: &str| {
        vec!["sh".to_owned(), "-c".to_owned(), format!("echo {value} > /proc/sys/net/ipv4/ip_forward")]
    };
    let chain = |family: &str, hook: &str| {
        format!(
            "add table {family} f; add chain {family} f c {{ type filter hook {hook} priority 5; }}; \
                 add rule {family} f c tcp dport 7000 drop"
        )
    };
    // The device sees a packet before the host port is translated: what is for port 7000 alone is dropped there.
    for (breaks, mends, says, doors) in [
        (nft(&chain("inet", "forward")), nft("delete table inet f"), "is dropped on node", true),
        (
            nft(&chain("netdev", "ingress device eth0")),
            nft("delete table netdev f"),
            "is dropped on node",
            false,
        ),
        (nft(&chain("bridge", "postrouting")), nft("delete table bridge f"), "is dropped on node", true),
        (set("0"), set("1"), "forwarding is off", true),
    ] {
        let words = |command: &[String]| command.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        eprintln!("{}", words(&breaks));
        scene.on(&two, &breaks.iter().map(String::as_str).collect::<Vec<_>>());
        scene.both(srv, "other nodes", (&control, &at), false, says);
        scene.both(srv, "outside", ("outside", &behind), !doors, if doors { says } else { "by host port" });
        scene.on(&two, &mends.iter().map(String::as_str).collect::<Vec<_>>());
        scene.both(srv, "other nodes", (&control, &at), true, "by the route to the pods of");
    }
    // A rule that is not judged leaves doubt, and no certainty.
    scene.on(&two, &["nft", "add table inet f; add chain inet f c { type filter hook forward priority 5; }; add rule inet f c limit rate over 100000/second drop"]);
    wait_until("it is doubted", || {
        let (answer, reason) = scene.told("srv", 7000, "other nodes");
        answer == "some" && reason.contains("of table f") && reason.contains("`skiff trace`")
    });
    scene.on(&two, &["nft", "delete table inet f"]);
    // Policies that name addresses: of pods of one node, of the machine around.
    let policy = |blocks: Value| {
        let spec = json!({"podSelector": {"matchLabels": {"app": "srv"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": blocks}]}]});
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p"}, "spec": spec});
        scene.namespace.apply(&policy.to_string()).ok();
    };
    let door = |node: &str| format!("{}:{}", scene.cluster.node_ip(node), node_port("srv"));
    let pods_of = |node: &str| text(&scene.cluster.object(&["node", node])["spec"]["podCIDR"]);
    policy(json!({"cidr": pods_of(&one)}));
    scene.both(srv, "pod network", ("pod network", &at), true, "as policy ways/p allows");
    scene.both(srv, "other nodes", (&control, &at), false, "lets nobody from there in");
    scene.both(srv, "outside", ("outside", &door(&two)), false, "lets nobody from there in");
    // What answers the machine says from where it came.
    policy(json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}));
    scene.both(srv, "pod network", ("pod network", &at), false, "lets nobody from there in");
    scene.both(srv, "other nodes", (&control, &at), false, "lets nobody from there in");
    let machine = format!("{}/32", machine(&scene, &two));
    policy(json!({"cidr": machine}));
    let alone = format!("on {two} alone, as others lead it on under their own address");
    scene.both(srv, "outside", ("outside", &door(&two)), true, &alone);
    assert_eq!(scene.met("outside", &door(&one)), None, "another node leads it on under its own address");
    scene.both(srv, "pod network", ("pod network", &at), false, "lets nobody from there in");
    // A pod that hides its mounts by a root of its own writes there all the same.
    wait_until("it has changed its root", || {
        scene.namespace.kubectl(&["logs", "hide"]).stdout.contains("there")
    });
    wait_until("the path is told", || {
        let hide = explained(&scene.namespace, "pod", "hide");
        let paths = &hide["containers"][0]["writableHostPaths"];
        *paths == json!([{"mount": "/w", "path": "/run/ways-w"}])
    });
    scene.namespace.exec("hide", &["touch", "/w/x"]).ok();
    scene.on(&two, &["rm", "-r", "/run/ways-w/x"]);
}

/// The address that the machine's own connections to a node have.
fn machine(scene: &Scene, node: &str) -> String {
    let to = scene.cluster.node_ip(node);
    let route = run(Command::new("ip").args(["-o", "route", "get", &to])).ok();
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    words.nth(1).expect("a source").to_owned()
}

#[test]
fn i4_what_passes_between_two_tries_is_no_work_of_anybody() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i4-tries");
    namespace
        .apply(
            "{apiVersion: v1, kind: Pod, metadata: {name: fails}, spec: {terminationGracePeriodSeconds: 1, \
             initContainers: [{name: init, image: skiff/peer:v1, command: ['false']}], \
             containers: [{name: main, image: skiff/peer:v1, command: [peer, tcp, '7000']}]}}",
        )
        .ok();
    // The first back-off is ten seconds.
    wait_until("it has been tried again", || {
        let pod = namespace.pod("fails");
        pod["status"]["initContainerStatuses"][0]["restartCount"].as_u64() >= Some(2)
    });
    let told = explained(&namespace, "start", "fails");
    let took = |name: &str| {
        let phases = told["phases"].as_array().expect("a list");
        let phase = phases.iter().find(|phase| phase["name"] == name);
        phase.and_then(|phase| phase["tookMs"].as_f64()).unwrap_or_else(|| panic!("{name}: {told:#}"))
    };
    let waited = took("back-off");
    assert!(waited >= 5_000.0, "{told:#}");
    for name in ["image", "create", "start"] {
        assert!(took(name) < waited, "{name}: {told:#}");
    }
}
