//! H3: who may talk to whom.
//!
//! A core of it with real kubectl and real pods; all pairs, ports and protocols are the grid's, beside the
//! proxy. A policy is in force some milliseconds after it is written, so what it changes is waited for, and
//! what it must not change is looked at then.

use skiff_tests::{Cluster, Namespace, Output, wait_until};

/// Every client asks for so long; silence is what a policy makes of the rest.
const PATIENCE_MS: &str = "700";
const SILENCE: i32 = 2;

/// `server` and `friend` and `stranger` in one namespace, `neighbour` in another, on two nodes.
struct World {
    own: Namespace,
    other: Namespace,
    server: String,
}

impl World {
    fn new(name: &str) -> World {
        let cluster = Cluster::shared();
        let (own, other) = (cluster.namespace(name), cluster.namespace(&format!("{name}-other")));
        other.cluster.kubectl(&["label", "namespace", &other.name, "team=neighbours"]).ok();
        own.apply(
            &[
                pod("server", 1, "role: server", "[peer, tcp, '7000']"),
                pod("friend", 2, "role: friend", "[sleep, '999999']"),
                pod("stranger", 1, "role: stranger", "[sleep, '999999']"),
            ]
            .concat(),
        )
        .ok();
        other.apply(&pod("neighbour", 2, "role: friend", "[sleep, '999999']")).ok();
        own.serves("server");
        ["friend", "stranger"].iter().for_each(|pod| own.ready(pod));
        other.ready("neighbour");
        let server = format!("{}:7000", own.pod_ip("server"));
        let world = World { own, other, server };
        wait_until("the server answers", || world.all() == [true, true, true]);
        world
    }

    fn get(&self, namespace: &Namespace, pod: &str, target: &str) -> bool {
        let Output { code, stdout, stderr } = namespace.exec(pod, &["peer", "get", target, PATIENCE_MS]);
        assert!(code == 0 || code == SILENCE, "{pod}: neither an answer nor silence: {stdout}{stderr}");
        code == 0
    }

    /// Who reaches the server: friend, stranger, neighbour.
    fn all(&self) -> [bool; 3] {
        let clients = [(&self.own, "friend"), (&self.own, "stranger"), (&self.other, "neighbour")];
        clients.map(|(namespace, pod)| self.get(namespace, pod, &self.server))
    }

    #[track_caller]
    fn until(&self, what: &str, expected: [bool; 3]) {
        wait_until(what, || self.all() == expected);
    }

    fn policy(&self, name: &str, spec: &str) {
        self.own.apply(&policy(name, spec)).ok();
    }
}

fn pod(name: &str, worker: u32, label: &str, command: &str) -> String {
    let node = Cluster::shared().worker(worker);
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{label}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: skiff/peer:v1
    command: {command}
    ports: [{{containerPort: 7000, name: web}}]
---
"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}\n---\n"
    )
}

#[test]
fn h3_what_is_denied_by_default_is_allowed_by_label_namespace_port_and_block() {
    let world = World::new("h3-ingress");
    let server = "podSelector: {matchLabels: {role: server}}";
    world.policy("deny", &format!("{{{server}}}"));
    world.until("nobody is let in", [false, false, false]);
    // The node's own connections, such as probes, always arrive.
    let cluster = &world.own.cluster;
    let peer = skiff_tests::peer_path();
    let peer = peer.to_str().expect("UTF-8");
    cluster.on_node(&cluster.worker(1), &[peer, "get", &world.server]).ok();

    let allow = |from: &str| world.policy("allow", &format!("{{{server}, ingress: [{from}]}}"));
    allow("{from: [{podSelector: {matchLabels: {role: friend}}}]}");
    world.until("a label lets in", [true, false, false]);
    allow("{from: [{namespaceSelector: {matchLabels: {team: neighbours}}}]}");
    world.until("a namespace lets in", [false, false, true]);
    allow("{from: [{namespaceSelector: {}, podSelector: {matchLabels: {role: friend}}}]}");
    world.until("both together let in", [true, false, true]);
    allow("{ports: [{port: 7001, endPort: 7100}]}");
    world.until("another range lets nobody in", [false, false, false]);
    allow("{ports: [{port: 6990, endPort: 7010}]}");
    world.until("a range of ports lets in", [true, true, true]);
    allow("{ports: [{port: web}], from: [{podSelector: {matchLabels: {role: stranger}}}]}");
    world.until("a named port lets in", [false, true, false]);
    let neighbour = world.other.pod_ip("neighbour");
    allow(&format!("{{from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [{neighbour}/32]}}}}]}}"));
    world.until("a block lets in but for its exceptions", [true, true, false]);
    // A pod's label changes who it is.
    allow("{from: [{podSelector: {matchLabels: {role: friend}}}]}");
    world.until("a label lets in again", [true, false, false]);
    world.own.kubectl(&["label", "pod", "stranger", "role=friend", "--overwrite"]).ok();
    world.until("whoever gets the label is let in", [true, true, false]);
    world.own.kubectl(&["delete", "netpol", "--all"]).ok();
    world.until("without policies everyone is let in", [true, true, true]);
}

#[test]
fn h3_services_are_judged_by_their_endpoints_and_names_need_to_be_allowed() {
    let world = World::new("h3-egress");
    let own = &world.own;
    own.kubectl(&["expose", "pod", "server", "--port=80", "--target-port=7000"]).ok();
    let by_name = || own.exec("friend", &["peer", "get", "server:80", PATIENCE_MS]).code;
    wait_until("the service answers by its name", || by_name() == 0);
    world.policy("deny", "{podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress]}");
    world.until("nothing leaves the pod", [false, true, true]);
    let to_server = "{to: [{podSelector: {matchLabels: {role: server}}}], ports: [{port: 7000}]}";
    world.policy("out", &format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{to_server}]}}"));
    world.until("the server is allowed", [true, true, true]);
    let cluster_ip = own.cluster.object(&["-n", &own.name, "service", "server"])["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    wait_until("by the service's address too", || world.get(own, "friend", &format!("{cluster_ip}:80")));
    assert_ne!(by_name(), 0, "but its name can't be asked for");
    let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}";
    world.policy("dns", &format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{dns}]}}"));
    wait_until("names are answered where that is allowed", || by_name() == 0);
}

#[test]
fn h3_a_connection_that_a_new_policy_forbids_is_cut() {
    let world = World::new("h3-cut");
    let own = &world.own;
    own.apply(&pod("echo", 1, "role: echo", "[peer, echo, '7000']")).ok();
    own.serves("echo");
    let echo = format!("{}:7000", own.pod_ip("echo"));
    let beater = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: beater, labels: {{role: beater}}}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: skiff/peer:v1, command: [peer, beat, '{echo}']}}]}}}}"
    );
    own.apply(&beater).ok();
    let beats = || own.kubectl(&["logs", "beater"]).stdout.lines().count();
    wait_until("it beats", || beats() > 2);
    let echo_from = |role: &str| {
        format!(
            "{{podSelector: {{matchLabels: {{role: echo}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}]}}]}}"
        )
    };
    world.policy("echo", &echo_from("beater"));
    let before = beats();
    wait_until("what is allowed goes on", || beats() > before + 5);
    world.policy("echo", &echo_from("nobody"));
    wait_until("what is forbidden ends", || own.pod("beater")["status"]["phase"] == "Failed");
    let state =
        own.pod("beater")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
    assert_eq!(state, SILENCE, "by silence");
}

#[test]
fn h3_the_first_packet_of_a_pod_is_filtered() {
    let world = World::new("h3-first");
    let own = &world.own;
    let shot = |name: &str, role: &str, patience: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{role: {role}}}}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: skiff/peer:v1, command: [peer, get, '{}', '{patience}']}}]}}}}\n---\n",
            world.server
        )
    };
    let ends = |name: &str| {
        wait_until("it has asked", || {
            matches!(own.pod(name)["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
        });
        own.pod(name)["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()
    };
    // Policy and pod in one breath; what they say is in force when the pod's program starts.
    let deny = policy("deny", "{podSelector: {matchLabels: {role: shot}}, policyTypes: [Egress]}");
    own.apply(&(deny + &shot("denied-0", "shot", PATIENCE_MS))).ok();
    let names = ["denied-1", "denied-2", "denied-3", "denied-4"];
    own.apply(&names.map(|name| shot(name, "shot", PATIENCE_MS)).concat()).ok();
    for name in ["denied-0"].iter().chain(&names) {
        assert_eq!(ends(name), Some(i64::from(SILENCE)), "{name}");
    }
    // The server lets in only who has this label: its node must know the pod before it is heard.
    own.apply(&shot("allowed", "other", "10000")).ok();
    assert_eq!(ends("allowed"), Some(0));
}

#[test]
fn h3_kubectl_shows_policies_and_faults_name_their_field() {
    let namespace = Cluster::shared().namespace("h3-kubectl");
    namespace
        .apply(&policy(
            "web",
            "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}], from: [{podSelector: {}}]}]}",
        ))
        .ok();
    let table = namespace.kubectl(&["get", "netpol"]).ok();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "POD-SELECTOR", "AGE"]);
    assert_eq!(lines[1][..2], ["web", "app=web"]);
    let described = namespace.kubectl(&["describe", "networkpolicy", "web"]).ok();
    assert!(
        described.contains("To Port: 80/TCP") && described.contains("Policy Types: Ingress"),
        "{described}"
    );
    let refused = |spec: &str| {
        let output = namespace.apply(&policy("bad", spec));
        assert_ne!(output.code, 0);
        output.stderr
    };
    let bad = refused("{podSelector: {}, ingress: [{ports: [{port: http, endPort: 90}]}]}");
    assert!(bad.contains("spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric"), "{bad}");
    let bad =
        refused("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}");
    assert!(bad.contains("spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"), "{bad}");
}
