//! I1: every statement of `skiff explain pod`, beside the same read independently on the node and in the pod.
//!
//! Kinds: plain, two containers, a shared PID namespace, hostNetwork, hostPID, hostIPC, all three, privileged,
//! users of its own, paths of the node, further groups, many sockets, and one that services, policies and a host
//! port lead to. Every field of the JSON is in the table of `fields`, with who compares it.
//!
//! | statement | read independently by | kinds |
//! |---|---|---|
//! | node, address | the API's pod, in its status | all |
//! | inode of each namespace, of `pause` and of each container | `readlink /proc/PID/ns/*` on the node | all |
//! | own, host or shared; who holds it; which containers are in it; who else | all processes of the node and their control groups (`members`) | all; shared by a process that joins |
//! | how much the node's ones expose: processes, interfaces, System V objects, host name | the pod's own `/proc`, `/sys/class/net`, `hostname`, the node's `ipcs` (`members`) | all three |
//! | interfaces, addresses, MTU, kind; routes | `ip` in the pod's network | all |
//! | listening sockets, and whose they are | `ss` in the pod's network | all |
//! | the link that a socket is bound to, whether it takes IPv6 alone, who else holds it | `ss` in the pod's network | all; one that has such |
//! | from where a socket is reachable | connections, with and without policies (`i1_reachability_…`; services in `trace`'s grid) | all |
//! | why it is, or is not | each claim of the reason tried: connections, `ip route get`, `ss`, the API's services, endpoints and policies (`reasons`) | all; loopbacks, other addresses, doors, policies |
//! | what processes listen at that left the pod's network | `/proc/PID/ns`, `ss` there (`elsewhere`) | one that has such |
//! | user, groups, also inside, capabilities, those beyond the default, those that it may gain, seccomp, no-new-privileges | `/proc/PID/status`, `/proc/PID/*_map` (`container`) | all |
//! | host ports, services, policies, states, names | the API's objects (`fields`) | all |
//! | paths of the node that it may write | the mounts, and writing (`members`) | paths, plain, hostIPC, privileged, privileged as somebody, privileged with users of its own |
//! | devices of the node that it may write | `find` in the pod, and opening one (`members`) | the same |
//! | strictest Pod Security level, what keeps it from the next | admission of the same pod in namespaces that enforce each | all |
//! | the node's side | the same inodes on the node | all |
//! | as text: one line a namespace, 100 columns, the node's marked | the values above | all; made-up ones in `crates/explain/tests/columns.rs` |

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, Output, skiff, wait_for, wait_until};

use super::container::check_container;
use super::fields::check_fields;
use super::members::check_members;
use super::network::check_network;
use super::reasons::Ground;

const KINDS: [&str; 8] = ["net", "pid", "ipc", "uts", "mnt", "user", "cgroup", "time"];

/// Runs `skiff explain`.
pub(crate) fn explain(namespace: &Namespace, what: &str, name: &str, more: &[&str]) -> Output {
    let config = namespace.cluster.kubeconfig.display().to_string();
    let mut args = vec!["explain", what, name, "--kubeconfig", &config];
    if what != "node" {
        args.extend(["-n", &namespace.name]);
    }
    args.extend(more);
    skiff(&args)
}

pub(crate) fn explained(namespace: &Namespace, what: &str, name: &str) -> Value {
    let text = explain(namespace, what, name, &["-o", "json"]).ok();
    serde_json::from_str(&text).expect("JSON")
}

/// The namespaces of a process of the node, as the node's own tools tell them.
pub(crate) fn links(cluster: &Cluster, node: &str, pid: &str) -> BTreeMap<String, u64> {
    let script = format!("for kind in {}; do readlink /proc/{pid}/ns/$kind; done", KINDS.join(" "));
    let text = cluster.on_node(node, &["sh", "-c", &script]).ok();
    text.lines()
        .filter_map(|line| {
            let (kind, inode) = line.split_once(":[")?;
            Some((kind.to_owned(), inode.trim_end_matches(']').parse().ok()?))
        })
        .collect()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `pause`, by its name and its namespaces.
fn check_sandbox(cluster: &Cluster, node: &str, told: &Value) {
    let pid = told["sandbox"]["pid"].to_string();
    assert_eq!(cluster.on_node(node, &["cat", &format!("/proc/{pid}/comm")]).ok(), "pause\n");
    let there = links(cluster, node, &pid);
    for own in told["sandbox"]["namespaces"].as_array().expect("namespaces") {
        assert_eq!(own["inode"].as_u64(), there.get(&text(&own["namespace"])).copied(), "{own}");
    }
}

/// The strictest level that the pod meets: a namespace that enforces it takes the pod, and one that enforces
/// the next does not.
fn check_level(levels: &BTreeMap<&str, Namespace>, namespace: &Namespace, name: &str, told: &Value) {
    let pod = namespace.pod(name);
    let takes = |level: &str| {
        let metadata = serde_json::json!({"name": name, "namespace": format!("i1-level-{level}")});
        let same = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"],
        });
        let args = ["create", "--dry-run=server", "-f", "-"];
        let tried = levels[level].pipe(&args, &same.to_string());
        assert!(tried.code == 0 || tried.stderr.contains("violates PodSecurity"), "{tried:?}");
        if tried.code == 0 { Ok(()) } else { Err(tried.stderr) }
    };
    let security = &told["podSecurity"];
    takes(security["level"].as_str().expect("a level")).expect("it meets the level that is told");
    let next = text(&security["next"]);
    let kept: Vec<String> = security["keptFromItBy"].as_array().into_iter().flatten().map(text).collect();
    match next.is_empty() {
        true => assert!(kept.is_empty(), "{name}: {security}"),
        false => {
            let refused = takes(&next).expect_err("it does not meet the next");
            assert!(refused.contains(&kept.join(", ")) && !kept.is_empty(), "{name}: {security}: {refused}");
        }
    }
}

fn word(told: &Value, kind: &str) -> Vec<String> {
    let all = told["namespaces"].as_array().expect("namespaces").iter();
    all.filter(|own| own["namespace"] == kind).map(|own| text(&own["word"])).collect()
}

/// The same as text: one line a namespace, within 100 columns, and no other line that begins so.
fn check_text(namespace: &Namespace, name: &str, told: &Value) {
    let shown = explain(namespace, "pod", name, &[]).ok();
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colour where nobody looks: {shown}");
    let lines: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first().is_some_and(|word| KINDS.contains(word)))
        .collect();
    let said: Vec<Vec<String>> = told["namespaces"]
        .as_array()
        .expect("namespaces")
        .iter()
        .map(|own| vec![text(&own["namespace"]), text(&own["word"]), own["inode"].to_string()])
        .collect();
    assert_eq!(lines.len(), said.len(), "{shown}");
    for (line, own) in lines.iter().zip(&said) {
        assert_eq!(line[..3], own[..], "{shown}");
        assert_eq!(line[3] == "!", own[1] != "own", "the node's stand out: {line:?}");
    }
}

#[test]
fn i1_every_statement_about_every_kind_of_pod_is_true() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-truth");
    let node = cluster.worker(1);
    let host = ["net", "pid", "ipc"];
    let pod = |name: &str, spec: &str, container: &str, port: u16| {
        let how = if name == "many" { "many" } else { "tcp" };
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: i1-truth, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  {spec}
  containers: [{{name: main, image: skiff/peer:v1, command: [peer, {how}, '{port}'], {container}}}{}]
---
",
            if name == "two" || name == "shared" {
                ", {name: other, image: skiff/peer:v1, command: [/bin/sleep, '999999']}"
            } else {
                ""
            }
        )
    };
    let kinds = [
        ("plain", "", "securityContext: {runAsUser: 1000}", vec![]),
        ("two", "", "", vec![]),
        ("shared", "shareProcessNamespace: true", "", vec![]),
        ("hostnet", "hostNetwork: true", "", vec!["net", "uts"]),
        ("hostpid", "hostPID: true", "", vec!["pid"]),
        ("hostipc", "hostIPC: true", "", vec!["ipc"]),
        (
            "everything",
            "{hostNetwork: true, hostPID: true, hostIPC: true}",
            "securityContext: {capabilities: {add: [NET_ADMIN]}}",
            vec!["net", "pid", "ipc", "uts"],
        ),
        ("privileged", "", "securityContext: {privileged: true}", vec![]),
        ("users", "hostUsers: false", "", vec![]),
        (
            "paths",
            "volumes: [{name: node,hostPath: {path: /run/i1-truth,type: DirectoryOrCreate}}]",
            "volumeMounts: [{name: node, mountPath: /w}, {name: node, mountPath: /r, readOnly: true}]",
            vec![],
        ),
        (
            "groups",
            "securityContext: {fsGroup: 3000,supplementalGroups: [4000,4001]}, restartPolicy: Always",
            "",
            vec![],
        ),
        ("served", "", "ports: [{containerPort: 17111, hostPort: 18947}]", vec![]),
        ("many", "", "", vec![]),
    ];
    let mut manifests = String::new();
    for (index, (name, spec, container, _)) in kinds.iter().enumerate() {
        let spec = spec.trim_matches(['{', '}']).replace(", ", "\n  ");
        manifests += &pod(name, &spec, container, 17_100 + u16::try_from(index).expect("few"));
    }
    manifests += "
apiVersion: v1
kind: Service
metadata: {name: door}
spec: {type: NodePort, selector: {app: served}, ports: [{port: 80, targetPort: 17111}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open}
spec: {podSelector: {matchLabels: {app: served}}, policyTypes: [Ingress], ingress: [{ports: [{port: 17111}]}]}
";
    namespace.apply(&manifests).ok();
    kinds.iter().for_each(|(name, ..)| namespace.serves(name));
    let levels: BTreeMap<&str, Namespace> = ["privileged", "baseline", "restricted"]
        .into_iter()
        .map(|level| {
            let own = cluster.namespace(&format!("i1-level-{level}"));
            let label = format!("pod-security.kubernetes.io/enforce={level}");
            cluster.kubectl(&["label", "namespace", &own.name, &label]).ok();
            (level, own)
        })
        .collect();
    for (index, (name, _, _, shared)) in kinds.iter().enumerate() {
        // Once more where the agent had no time for its answer, or something came or went while one looked.
        let told = wait_for(&format!("{name}'s network is as it is told"), || {
            let told = explained(&namespace, "pod", name);
            if told["missing"].to_string().contains("did not answer within") {
                return None;
            }
            let wrong = check_network(&cluster, &node, &told).err();
            wrong.iter().for_each(|why| eprintln!("{name}: {why}"));
            wrong.is_none().then_some(told)
        });
        assert_eq!(told["missing"], Value::Null, "{name}: {told}");
        assert_eq!(told["past"], Value::Null, "{name}: {told}");
        for container in told["containers"].as_array().expect("containers") {
            check_container(&cluster, &node, container);
        }
        check_sandbox(&cluster, &node, &told);
        check_members(&namespace, &node, name);
        assert_eq!(text(&told["podIP"]), namespace.pod_ip(name), "{name}");
        check_level(&levels, &namespace, name, &told);
        let user = if *name == "users" { "own" } else { "host" };
        assert_eq!(word(&told, "user"), [user], "{name}: {told}");
        check_text(&namespace, name, &told);
        Ground::new(&namespace, name, if *name == "plain" { "two" } else { "plain" }).check_reasons();
        check_fields(&cluster, &namespace, &node, &told);
        for kind in host.iter().chain(["uts"].iter()) {
            let expected = if shared.contains(kind) { "host" } else { "own" };
            assert!(word(&told, kind).iter().all(|word| word == expected), "{name}: {kind}: {told}");
        }
        let port = 17_100 + index as u64;
        let listener =
            told["listeners"].as_array().expect("listeners").iter().find(|own| own["port"] == port);
        let listener = listener.unwrap_or_else(|| panic!("{name} listens on {port}: {told}"));
        assert_eq!(listener["process"]["container"], "main", "{listener}");
        assert!(text(&listener["process"]["command"]).starts_with("peer "), "{listener}");
    }
    // Users of its own: by the node's numbers, and by those inside.
    let shown = explain(&namespace, "pod", "users", &[]).ok();
    assert!(shown.contains("; inside UID 0, GID 0\n"), "{shown}");
    assert!(shown.contains("  they hold          in the pod's own user namespace alone"), "{shown}");
    // The further groups that the pod asks for are named, and those alone.
    let shown = explain(&namespace, "pod", "groups", &[]).ok();
    assert!(shown.contains("UID 0, GID 0, also groups 3000 4000 4001\n"), "{shown}");
    let shown = explain(&namespace, "pod", "plain", &[]).ok();
    assert!(shown.contains("UID 1000, GID 0\n"), "{shown}");
    // Who has a socket for IPv6 alone, one of a link and one of two processes has those, and they are told so.
    let many = explained(&namespace, "pod", "many");
    let some = |field: &str| {
        many["listeners"].as_array().expect("a list").iter().filter(|own| !own[field].is_null()).count()
    };
    assert_eq!((some("ipv6Only"), some("device"), some("alsoHeldBy")), (1, 1, 1), "{many}");
    // Two containers of a pod: one network, a PID namespace each; with a shared one they are in it together.
    let (two, shared) = (explained(&namespace, "pod", "two"), explained(&namespace, "pod", "shared"));
    assert_eq!((word(&two, "net").len(), word(&two, "pid").len()), (1, 2), "{two}");
    assert_eq!(word(&shared, "pid").len(), 1, "{shared}");
    let together =
        shared["namespaces"].as_array().expect("a list").iter().find(|own| own["namespace"] == "pid");
    assert_eq!(together.expect("it is there")["containers"], serde_json::json!(["main", "other"]));
    // The node's side: who is in its namespaces.
    let node = explained(&namespace, "node", &node);
    let inside = |kind: &str| {
        let all = node["namespaces"].as_array().expect("a list").iter();
        let own = all.filter(|own| own["namespace"] == kind).flat_map(|own| own["pods"].as_array());
        own.flatten()
            .filter_map(Value::as_str)
            .filter_map(|pod| pod.strip_prefix("i1-truth/"))
            .collect::<Vec<_>>()
    };
    assert_eq!(inside("net"), ["everything", "hostnet"]);
    assert_eq!(inside("pid"), ["everything", "hostpid"]);
    assert_eq!(inside("ipc"), ["everything", "hostipc"]);
    assert_eq!(inside("mnt"), Vec::<&str>::new());
    assert!(!inside("user").contains(&"users") && inside("user").contains(&"plain"));
    let there = links(&cluster, &cluster.worker(1), "1");
    for own in node["namespaces"].as_array().expect("a list") {
        assert_eq!(own["inode"].as_u64(), there.get(&text(&own["namespace"])).copied(), "{own}");
    }
    // A path of the node that the pod may write, and the same one that it may not.
    let paths = explained(&namespace, "pod", "paths");
    let said = &paths["containers"][0]["writableHostPaths"];
    assert_eq!(*said, serde_json::json!([{"mount": "/w", "path": "/run/i1-truth"}]), "{paths}");
    let pid = paths["containers"][0]["process"]["pid"].to_string();
    let options = cluster.on_node(&cluster.worker(1), &["cat", &format!("/proc/{pid}/mountinfo")]).ok();
    let of = |mount: &str| {
        let fields = options.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut found = fields.filter(|fields| fields.get(4) == Some(&mount));
        found.next().and_then(|fields| fields.get(5)?.split(',').next().map(str::to_owned))
    };
    assert_eq!((of("/w").as_deref(), of("/r").as_deref()), (Some("rw"), Some("ro")));
    cluster.on_node(&cluster.worker(1), &["rm", "-rf", "/run/i1-truth"]).ok();
}

#[test]
fn i1_reachability_is_what_connections_find() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-reach");
    let node = cluster.worker(1);
    namespace
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: open}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: skiff/peer:v1, command: [peer, tcp, '7001'], ports: [{{containerPort: 7001, hostPort: 18917}}]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: closed}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: skiff/peer:v1, command: [peer, tcp, '7001']}}]
"
        ))
        .ok();
    namespace.serves("open");
    namespace.serves("closed");
    // The agent hears of pods and policies in its own time.
    let answers = |name: &str, expected: [&str; 4]| {
        wait_until(&format!("{name} is reached {expected:?}"), || {
            let told = explained(&namespace, "pod", name);
            let places = told["listeners"][0]["reachable"].as_array().cloned().unwrap_or_default();
            let answers: Vec<String> = places.iter().map(|reach| text(&reach["answer"])).collect();
            let same = answers == expected;
            if !same {
                eprintln!("{name}: {answers:?}, missing {}", told["missing"]);
            }
            same
        });
    };
    answers("open", ["yes", "yes", "yes", "yes"]);
    // By who has a route to the pod's address, as this machine has.
    answers("closed", ["yes", "yes", "yes", "some"]);
    // What was said, tried: from a pod, from the node, from another node, and by the node's port.
    let (open, closed) = (namespace.pod_ip("open"), namespace.pod_ip("closed"));
    let peer = skiff_tests::peer_path();
    let peer = peer.to_str().expect("UTF-8");
    for ip in [&open, &closed] {
        let at = format!("{ip}:7001");
        wait_until("a pod reaches it", || namespace.exec("open", &["peer", "get", &at]).code == 0);
        cluster.on_node(&node, &[peer, "get", &at]).ok();
        cluster.on_node(&cluster.control_plane(), &[peer, "get", &at]).ok();
    }
    let door = format!("{}:18917", cluster.node_ip(&node));
    assert!(cluster.on_node(&cluster.control_plane(), &[peer, "get", &door]).ok().starts_with("open "));
    // A policy that lets nobody in changes the answers, but not the node's own.
    namespace
        .apply(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
        )
        .ok();
    answers("open", ["no", "yes", "no", "no"]);
    // Whose rule speaks of another port lets nobody in at this one; one for pods lets no node in.
    let policy = |rule: &str| {
        namespace
            .apply(&format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: some}}, spec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{rule}]}}}}"
            ))
            .ok();
    };
    policy("{ports: [{port: 81}]}");
    answers("open", ["no", "yes", "no", "no"]);
    policy("{from: [{podSelector: {}}], ports: [{port: 7001}]}");
    answers("open", ["some", "yes", "no", "no"]);
    let at = format!("{open}:7001");
    wait_until("a pod reaches it, as is told", || namespace.exec("closed", &["peer", "get", &at]).code == 0);
}
