//! I1: why a socket is reached from somewhere, or is not. Each reason is taken apart into what it claims, and
//! each claim is tried: by a connection from there to just the address that is named, by the routes as `ip` has
//! them, by `ss`, and by the API's own objects. A reason that nobody here can read is wrong too.

use std::process::Command;

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, Output, fixed_ports, peer_path, pod_on, run, wait_until};

use super::truth::{explained, text};

/// What a claim is held against. `asker` is another pod of the namespace, with a network of its own.
pub(crate) struct Ground<'a> {
    namespace: &'a Namespace,
    name: &'a str,
    asker: &'a str,
    pod: Value,
    node: String,
}

/// One answer of one socket.
struct Told<'a> {
    from: &'a str,
    answer: &'a str,
    address: String,
    port: u64,
    protocol: String,
}

type Found = Result<(), String>;

fn holds(claim: bool, what: &str) -> Found {
    if claim { Ok(()) } else { Err(what.to_owned()) }
}

impl<'a> Ground<'a> {
    pub(crate) fn new(namespace: &'a Namespace, name: &'a str, asker: &'a str) -> Self {
        let pod = namespace.pod(name);
        let node = text(&pod["spec"]["nodeName"]);
        Self { namespace, name, asker, pod, node }
    }

    /// Every reason that is told of the pod's sockets, until services and policies are in force everywhere.
    pub(crate) fn check_reasons(&self) {
        wait_until(&format!("{}'s sockets are reached for the reasons that are told", self.name), || {
            let wrong = self.wrong(&explained(self.namespace, "pod", self.name));
            wrong.iter().for_each(|why| eprintln!("{}: {why}", self.name));
            wrong.is_empty()
        });
    }

    /// The reasons that do not hold.
    fn wrong(&self, told: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        each(told, |told, reason| {
            let found = self.tried(told, reason);
            wrong.extend(
                found.err().map(|why| format!("from {} {}: {reason}: {why}", told.from, told.answer)),
            );
        });
        wrong
    }

    fn cluster(&self) -> &Cluster {
        &self.namespace.cluster
    }

    fn on_host_network(&self) -> bool {
        self.pod["spec"]["hostNetwork"] == true
    }

    fn pod_ip(&self) -> String {
        text(&self.pod["status"]["podIP"])
    }

    fn node_ip(&self) -> String {
        self.cluster().node_ip(&self.node)
    }

    /// A connection from there.
    fn connect(&self, from: &str, at: &str, expected: bool) -> Output {
        let patience = if expected { "5000" } else { "1000" };
        let (path, args) = (peer_path().display().to_string(), ["get", at, patience]);
        let program = [&[path.as_str()], args.as_slice()].concat();
        match from {
            "pod network" => self.namespace.exec(self.asker, &[&["peer"], args.as_slice()].concat()),
            "node" => self.cluster().on_node(&self.node, &program),
            "other nodes" => self.cluster().on_node(&self.cluster().control_plane(), &program),
            _ => run(Command::new(path).args(args)),
        }
    }

    /// This pod's program answers there.
    fn answers(&self, from: &str, at: &str) -> Found {
        let own = if self.on_host_network() { &self.node } else { self.name };
        let met = self.connect(from, at, true);
        let host = met.stdout.split(' ').next().unwrap_or_default();
        holds(met.code == 0 && host == own, &format!("from {from} at {at}: {met:?}, not {own}"))
    }

    fn is_silent(&self, from: &str, at: &str) -> Found {
        let met = self.connect(from, at, false);
        holds(met.code != 0, &format!("from {from} at {at}: {met:?}"))
    }

    /// Everything that a reason claims.
    fn tried(&self, told: &Told<'_>, reason: &str) -> Found {
        let (reason, policies) = split_policies(reason);
        match told.answer {
            "no" => self.closed(told, reason),
            _ => {
                self.allowed(told, policies)?;
                // A policy that lets some in says nothing of this asker; that it lets in who fits is tried
                // where there is one.
                self.open(told, reason)
            }
        }
    }

    fn open(&self, told: &Told<'_>, reason: &str) -> Found {
        if let Some(own) = reason.strip_suffix(" own loopback, and every hostNetwork pod's there") {
            let (address, node) = own.split_once(" is ").ok_or("whose loopback?")?;
            holds(address == told.address && node == format!("{}'s", self.node), "another's loopback")?;
            holds(told.from == "node" && self.on_host_network(), "not the node's network")?;
            return self.answers("node", &format!("{address}:{}", told.port));
        }
        let Some(rest) = reason.strip_prefix("at ") else { return self.doors(told, reason) };
        let at = rest.split([' ', ',']).next().unwrap_or_default().trim_end_matches(':');
        let how = &rest[at.len()..];
        let ip = if self.on_host_network() { self.node_ip() } else { self.pod_ip() };
        holds(at == format!("{ip}:{}", told.port), &format!("it is at {ip}:{}", told.port))?;
        self.answers(told.from, at)?;
        let route = |node: &str| self.cluster().on_node(node, &["ip", "-o", "route", "get", &ip]).ok();
        let after = |line: &str, word: &str| {
            let mut words = line.split_whitespace().skip_while(|own| *own != word);
            words.nth(1).unwrap_or_default().to_owned()
        };
        match (told.from, how) {
            ("pod network", "") => holds(!self.on_host_network(), "it is not on the pod network"),
            ("node", ", over the bridge") => {
                let device = after(&route(&self.node), "dev");
                let link =
                    self.cluster().on_node(&self.node, &["ip", "-d", "link", "show", "dev", &device]).ok();
                holds(link.split_whitespace().any(|word| word == "bridge"), &link)
            }
            ("other nodes", how) if how.starts_with(", by the route to the pods of ") => {
                holds(how.ends_with(&format!(" of {}", self.node)), "it is on another node")?;
                let line = route(&self.cluster().control_plane());
                holds(after(&line, "via") == self.node_ip(), &line)
            }
            ("outside", how) if how.starts_with(" only from machines with a route to it: ") => {
                holds(told.answer == "some", "not everybody has a route")?;
                let routed = run(Command::new("ip").args(["-o", "route", "get", &ip])).ok();
                holds(!after(&routed, "dev").is_empty(), &routed)?;
                let (_, doors) = how.split_once(": ").unwrap_or_default();
                self.no_doors(told, doors)
            }
            ("outside", how) if how.starts_with(", from wherever ") => {
                let whose = format!(", from wherever {}'s address can be reached", self.node);
                holds(self.on_host_network() && how == whose, "whose address?")
            }
            ("outside", _) => Err("nobody knows what that says".into()),
            (_, ": the socket is the node's own, with no translation before it") => {
                holds(self.on_host_network(), "it is the pod's own")?;
                let listening = ["ss", "-H", "-l", "-n", "-t", "sport", "=", &told.port.to_string()];
                let shown = self.cluster().on_node(&self.node, &listening).ok();
                holds(!shown.trim().is_empty(), "nothing listens in the node's own network")
            }
            _ => Err("nobody knows what that says".into()),
        }
    }

    /// Why nobody from there comes in.
    fn closed(&self, told: &Told<'_>, reason: &str) -> Found {
        let own = if self.on_host_network() { self.node_ip() } else { self.pod_ip() };
        self.is_silent(told.from, &format!("{own}:{}", told.port))?;
        if let Some(rest) = reason.strip_prefix("it is bound to ") {
            let (address, why) = rest.split_once(", which ").unwrap_or_default();
            holds(address == told.address && self.binds(address, told.port), "ss shows another address")?;
            let loopback = address.starts_with("127.");
            return match why {
                "is inside the pod alone" => {
                    holds(loopback && !self.on_host_network(), "it is no loopback of a pod")?;
                    let at = format!("{address}:{}", told.port);
                    let met = self.namespace.exec(self.name, &["peer", "get", &at]);
                    holds(met.code == 0, "not even inside")
                }
                "pods with a network of their own cannot reach" => {
                    holds(loopback && self.on_host_network() && told.from == "pod network", "they can")
                }
                "other machines cannot reach" => {
                    let away = matches!(told.from, "other nodes" | "outside");
                    holds(loopback && self.on_host_network() && away, "they can")
                }
                why => {
                    let known = why == format!("is not the pod's address {}", self.pod_ip());
                    holds(known && address != self.pod_ip() && !loopback, "that is the pod's address")
                }
            };
        }
        let at = format!("at {}/{}", told.port, told.protocol);
        let named = |one: &str, many: &str| -> Option<(Vec<String>, bool)> {
            let single = reason.strip_prefix("policy ").and_then(|rest| rest.strip_suffix(one));
            let several = reason.strip_prefix("policies ").and_then(|rest| rest.strip_suffix(many));
            Some((names(single.or(several)?), several.is_some()))
        };
        let one = format!(" selects the pod and lets nobody from there in {at}");
        let many = format!(" select the pod, and none lets anybody from there in {at}");
        let (named, several) = named(&one, &many).ok_or("nobody knows what that says")?;
        holds(several == (named.len() > 1), "how many?")?;
        holds(told.from != "node", "a node reaches its own pods")?;
        let mut selecting = self.selecting();
        selecting.sort();
        holds(named == selecting, &format!("{selecting:?} select it"))
    }

    /// `ss` in the pod's network.
    fn binds(&self, address: &str, port: u64) -> bool {
        let told = explained(self.namespace, "pod", self.name);
        let pid = told["sandbox"]["pid"].to_string();
        let listening = ["nsenter", "--net", "--target", &pid, "ss", "-H", "-l", "-n", "-t"];
        let shown = self.cluster().on_node(&self.node, &listening).ok();
        shown.lines().any(|line| line.split_whitespace().nth(3) == Some(&format!("{address}:{port}")))
    }

    /// The policies of the namespace that select the pod for what comes in, `NAMESPACE/NAME`.
    fn selecting(&self) -> Vec<String> {
        let all = self.cluster().object(&["-n", &self.namespace.name, "networkpolicies"]);
        let labels = &self.pod["metadata"]["labels"];
        let selects = |policy: &&Value| {
            let wanted =
                policy["spec"]["podSelector"]["matchLabels"].as_object().cloned().unwrap_or_default();
            let kinds = policy["spec"]["policyTypes"].to_string();
            kinds.contains("Ingress") && wanted.iter().all(|(key, value)| labels[key] == *value)
        };
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let name = |policy: &Value| format!("{}/{}", self.namespace.name, text(&policy["metadata"]["name"]));
        all.iter().filter(selects).map(name).collect()
    }

    /// The policies that let somebody in are those that select the pod and have a rule for it.
    fn allowed(&self, told: &Told<'_>, policies: Option<(Vec<String>, bool)>) -> Found {
        let selecting = self.selecting();
        let Some((named, everybody)) = policies else {
            let free = selecting.is_empty() || told.from == "node" || self.on_host_network();
            return holds(free, &format!("{selecting:?} are not named"));
        };
        for name in &named {
            holds(selecting.contains(name), &format!("{name} does not select the pod"))?;
            let (_, own) = name.split_once('/').ok_or("a namespace and a name")?;
            let policy = self.cluster().object(&["-n", &self.namespace.name, "networkpolicy", own]);
            let rules = policy["spec"]["ingress"].as_array().cloned().unwrap_or_default();
            let speaks = |rule: &&Value| match rule["ports"].as_array() {
                None => true,
                Some(ports) => ports.iter().any(|own| own["port"] == told.port),
            };
            let open = rules.iter().filter(speaks).any(|rule| rule["from"].is_null());
            holds(rules.iter().any(|rule| speaks(&rule)), &format!("{name} lets nobody in there"))?;
            holds(open == everybody, &format!("{name} lets everybody in: {open}"))?;
        }
        holds(everybody == (told.answer == "yes") || told.from == "outside", "all, or some?")
    }

    /// `by host port … and by NodePort …; NodePort … leads here only …`.
    fn doors(&self, told: &Told<'_>, reason: &str) -> Found {
        holds(told.from == "outside" && told.answer == "yes", "only the outside needs doors")?;
        let (open, shut) = reason.split_once("; ").map_or((reason, None), |(open, shut)| (open, Some(shut)));
        let doors: Vec<&str> = open.split(", by ").flat_map(|part| part.split(" and by ")).collect();
        let mut found = Vec::new();
        for door in doors {
            let door = door.strip_prefix("by ").unwrap_or(door);
            let words: Vec<&str> = door.split(' ').collect();
            match words.as_slice() {
                ["host", "port", at, "of", node] => {
                    let (ip, port) = at.rsplit_once(':').ok_or("an address")?;
                    holds(*node == self.node && ip == self.node_ip(), "it is on another node")?;
                    found.push(format!("host port {port}"));
                    self.answers("outside", at)?;
                }
                ["NodePort", port, "of", "service", service, "on", "every", "node"] => {
                    found.push(format!("NodePort {port} of {service}"));
                    for node in [&self.node, &self.cluster().control_plane()] {
                        self.answers("outside", &format!("{}:{port}", self.cluster().node_ip(node)))?;
                    }
                }
                [
                    "NodePort",
                    port,
                    "of",
                    "service",
                    service,
                    "on",
                    node,
                    "alone",
                    "(externalTrafficPolicy",
                    "Local)",
                ] => {
                    found.push(format!("NodePort {port} of {service}"));
                    holds(*node == self.node, "it is on another node")?;
                    self.answers("outside", &format!("{}:{port}", self.node_ip()))?;
                    let other = self.cluster().node_ip(&self.cluster().control_plane());
                    self.is_silent("outside", &format!("{other}:{port}"))?;
                }
                _ => return Err(format!("nobody knows what that says: {door}")),
            }
        }
        let (ready, unready) = self.entrances(told);
        found.sort();
        holds(found == ready, &format!("there are {ready:?}"))?;
        self.shut(shut, &unready)
    }

    fn no_doors(&self, told: &Told<'_>, reason: &str) -> Found {
        let (ready, unready) = self.entrances(told);
        holds(ready.is_empty(), &format!("there are {ready:?}"))?;
        match reason.split_once("; ") {
            None => {
                holds(reason == "no host port and no NodePort leads here", "nobody knows what that says")?;
                self.shut(None, &unready)
            }
            Some((none, shut)) => {
                holds(none == "no host port leads here", "nobody knows what that says")?;
                self.shut(Some(shut), &unready)
            }
        }
    }

    /// The doors that would lead here if the pod were ready: they lead to nobody, or to another.
    fn shut(&self, told: Option<&str>, unready: &[String]) -> Found {
        let shut = told.into_iter().flat_map(|told| told.split("; "));
        let mut named = Vec::new();
        for door in shut {
            let door = door.strip_suffix(" leads here only when the pod is a ready endpoint, and it is not");
            let words: Vec<&str> = door.unwrap_or_default().split(' ').collect();
            let ["NodePort", port, "of", "service", service] = words.as_slice() else {
                return Err("nobody knows what that says".into());
            };
            self.is_silent("outside", &format!("{}:{port}", self.node_ip()))?;
            named.push(format!("NodePort {port} of {service}"));
        }
        named.sort();
        holds(named == unready, &format!("there are {unready:?}"))
    }

    /// Host ports, and node ports of services, that lead to this socket by the API's own objects; and those that
    /// would if the pod were ready.
    fn entrances(&self, told: &Told<'_>) -> (Vec<String>, Vec<String>) {
        let (mut ready, mut unready) = (Vec::new(), Vec::new());
        for container in self.pod["spec"]["containers"].as_array().into_iter().flatten() {
            let ports = container["ports"].as_array().into_iter().flatten();
            let own = ports.filter(|own| own["containerPort"] == told.port && own["hostPort"].is_u64());
            ready.extend(own.map(|own| format!("host port {}", own["hostPort"])));
        }
        let name = &self.namespace.name;
        let slices = self.cluster().object(&["-n", name, "endpointslices"]);
        for slice in slices["items"].as_array().into_iter().flatten() {
            let all = slice["endpoints"].as_array().into_iter().flatten();
            let mut own = all.filter(|own| own["addresses"][0] == self.pod_ip().as_str());
            let Some(endpoint) = own.next() else { continue };
            let service = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
            let ports = self.cluster().object(&["-n", name, "service", &service])["spec"]["ports"].clone();
            for port in ports.as_array().into_iter().flatten() {
                let leads = port["targetPort"] == told.port && port["protocol"] == told.protocol.as_str();
                let door = format!("NodePort {} of {name}/{service}", port["nodePort"]);
                if leads && port["nodePort"].is_u64() {
                    let ready_now = endpoint["conditions"]["ready"] == true;
                    (if ready_now { &mut ready } else { &mut unready }).push(door);
                }
            }
        }
        ready.sort();
        unready.sort();
        (ready, unready)
    }
}

/// What policies let in, by the end of a reason: their names, and whether it is everybody.
fn split_policies(reason: &str) -> (&str, Option<(Vec<String>, bool)>) {
    for (begin, end, everybody) in [
        (", as policy ", " allows", false),
        (", as policies ", " allow", false),
        ("; policy ", " lets everybody in", true),
        ("; policies ", " let everybody in", true),
    ] {
        if let Some(rest) = reason.strip_suffix(end)
            && let Some((reason, named)) = rest.rsplit_once(begin)
        {
            return (reason, Some((names(named), everybody)));
        }
    }
    (reason, None)
}

/// `a`, `a and b`, `a, b and c`, in the order of names.
fn names(listed: &str) -> Vec<String> {
    let mut all: Vec<String> =
        listed.split(", ").flat_map(|part| part.split(" and ")).map(str::to_owned).collect();
    all.sort();
    all
}

/// Each answer of each socket of the pod's own.
fn each(told: &Value, mut look: impl FnMut(&Told<'_>, &str)) {
    for listener in told["listeners"].as_array().into_iter().flatten() {
        for reach in listener["reachable"].as_array().into_iter().flatten() {
            let told = Told {
                from: reach["from"].as_str().unwrap_or_default(),
                answer: reach["answer"].as_str().unwrap_or_default(),
                address: text(&listener["address"]),
                port: listener["port"].as_u64().unwrap_or_default(),
                protocol: text(&listener["protocol"]),
            };
            look(&told, reach["reason"].as_str().unwrap_or_default());
        }
    }
}

/// The same explanation with one reason changed, for each that such a change is possible in.
fn changed(told: &Value, from: &str, to: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let listeners = told["listeners"].as_array().cloned().unwrap_or_default();
    for (index, listener) in listeners.iter().enumerate() {
        for (place, reach) in listener["reachable"].as_array().into_iter().flatten().enumerate() {
            let reason = text(&reach["reason"]);
            if reason.contains(from) {
                // This one alone, so that it is seen by itself.
                let mut own = listener.clone();
                let mut reach = own["reachable"][place].clone();
                reach["reason"] = Value::String(reason.replacen(from, to, 1));
                own["reachable"] = serde_json::json!([reach]);
                all.push(serde_json::json!({"listeners": [own], "was": [index, place]}));
            }
        }
    }
    all
}

fn manifests(node: &str) -> String {
    let pod = |name: &str, spec: &str, command: &str, more: &str| {
        pod_on(node, name, spec, &format!("image: skiff/peer:v1, command: [{command}], {more}"))
    };
    let service = |name: &str, app: &str, policy: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: NodePort, externalTrafficPolicy: {policy}, selector: {{app: {app}}}, ports: [{{port: 80, targetPort: 7001}}]}}
---
"
        )
    };
    let host = "hostNetwork: true";
    let added = "sh, -c, 'ip address add 192.0.2.77/32 dev lo && exec peer tcp 7001 192.0.2.77'";
    let admin = "securityContext: {capabilities: {add: [NET_ADMIN]}}";
    [
        pod("asker", "", "peer, tcp, '7001'", ""),
        pod("doors", "", "peer, tcp, '7001'", "ports: [{containerPort: 7001, hostPort: 18927}]"),
        pod("unready", "", "peer, tcp, '7001'", "readinessProbe: {exec: {command: ['false']}}"),
        pod("inside", "", "peer, tcp, '7001', 127.0.0.1", ""),
        pod("elsewhere", "", added, admin),
        pod("node-loop", host, "peer, tcp, '18928', 127.0.0.1", ""),
        pod("node-open", host, "peer, tcp, '18929'", ""),
        service("anywhere", "doors", "Cluster"),
        service("here", "doors", "Local"),
        service("waiting", "unready", "Cluster"),
    ]
    .concat()
}

const PODS: [&str; 7] = ["asker", "doors", "unready", "inside", "elsewhere", "node-loop", "node-open"];

#[test]
fn i1_the_reasons_hold_and_a_wrong_one_is_seen() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-reasons");
    let node = cluster.worker(1);
    namespace.apply(&manifests(&node)).ok();
    for pod in PODS.iter().filter(|pod| **pod != "unready") {
        namespace.serves(pod);
    }
    wait_until("it listens, and is not ready", || {
        namespace.kubectl(&["logs", "unready"]).stdout.contains("listening")
    });
    let asker = |pod: &str| if pod == "asker" { "doors" } else { "asker" };
    let ground = |pod| Ground::new(&namespace, pod, asker(pod));
    PODS.into_iter().for_each(|pod| ground(pod).check_reasons());
    // What is told is true; the same with one word changed is not, and that is seen.
    let mut seen = 0;
    let (other, control) = (cluster.worker(2), cluster.control_plane());
    let refuted = |pod: &'static str, changes: &[(&str, &str)]| {
        let (ground, told) = (ground(pod), explained(&namespace, "pod", pod));
        let mut seen = 0;
        for (from, to) in changes {
            for wrong in changed(&told, from, to) {
                assert!(!ground.wrong(&wrong).is_empty(), "{pod}: {from} for {to} is not seen: {wrong:#}");
                seen += 1;
            }
        }
        seen
    };
    let of = format!("of {node}");
    seen += refuted("asker", &[(":7001", ":7002"), ("over the bridge", "by the route to the pods of x")]);
    seen += refuted("asker", &[(&of, &format!("of {other}")), ("no host port and no", "by a")]);
    seen += refuted("doors", &[(":18927", ":18926"), (&of, &format!("of {control}")), ("on every node", "")]);
    seen += refuted("doors", &[(&format!("on {node} alone"), "on every node"), ("/here", "/anywhere")]);
    seen += refuted("doors", &[("by host port", "by NodePort"), ("NodePort 3", "NodePort 2")]);
    seen += refuted("unready", &[("; NodePort", "; no NodePort"), ("/waiting", "/here")]);
    seen += refuted("inside", &[("127.0.0.1", "127.0.0.2"), ("inside the pod alone", "x")]);
    seen +=
        refuted("elsewhere", &[("192.0.2.77", "192.0.2.78"), ("the pod's address", "the node's address")]);
    seen += refuted("node-loop", &[(&node, &other), ("127.0.0.1", "127.0.0.2"), ("other machines", "pods")]);
    seen +=
        refuted("node-open", &[(":18929", ":18928"), (&node, &other), ("the node's own", "the pod's own")]);
    assert!(seen >= 30, "{seen} wrong reasons were tried");
    // Policies: nobody, some, everybody.
    let policy = |name: &str, rules: &str| {
        let spec = format!("{{podSelector: {{}}, policyTypes: [Ingress], ingress: [{rules}]}}");
        let head = "apiVersion: networking.k8s.io/v1, kind: NetworkPolicy";
        namespace.apply(&format!("{{{head}, metadata: {{name: {name}}}, spec: {spec}}}")).ok();
    };
    policy("nobody", "");
    PODS.into_iter().for_each(|pod| ground(pod).check_reasons());
    let mut seen = refuted("asker", &[("/nobody", "/nowhere"), (":7001", ":7002"), ("at 7001", "at 7002")]);
    policy("other", "{ports: [{port: 81}]}");
    ground("asker").check_reasons();
    seen += refuted("asker", &[(" and i1-reasons/other", ""), ("i1-reasons/other", "i1-reasons/others")]);
    policy("some", "{from: [{podSelector: {}}], ports: [{port: 7001}]}");
    ground("asker").check_reasons();
    seen += refuted(
        "asker",
        &[("i1-reasons/some allows", "i1-reasons/other allows"), (", as policy", "; policy")],
    );
    policy("all", "{ports: [{port: 7001}]}");
    ["asker", "doors"].into_iter().for_each(|pod| ground(pod).check_reasons());
    seen += refuted(
        "doors",
        &[("policy i1-reasons/all", "policy i1-reasons/some"), ("/all lets", "/nobody lets")],
    );
    assert!(seen >= 15, "{seen} wrong reasons were tried");
}
