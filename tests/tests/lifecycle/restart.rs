//! Every process of the platform may die at any moment; pods never notice, and what died comes back.

use serde_json::Value;
use skiff_tests::{Background, Cluster, Namespace, wait_for, wait_longer, wait_until};

use super::{containers, kill, pids, signal, stock};

/// Counts aloud; ends by itself with code 7 once it finds the file; serves its host name.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: alpine, command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done']}
  - {name: web, image: skiff/peer:v1, command: [peer, tcp, '7001']}
---
apiVersion: v1
kind: Pod
metadata: {name: ender}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers: [{name: main, image: alpine, command: [sh, -c, 'until [ -e /tmp/end ]; do sleep 0.02; done; echo last words; exit 7']}]
";

/// Kills a node's process of a role and waits until another is there.
#[track_caller]
fn kill_and_await(cluster: &Cluster, node: &str, role: &str) {
    let old = pids(&cluster.name, node, role);
    assert_eq!(old.len(), 1, "one {role} on {node}");
    kill(&old);
    another(cluster, node, role, &old);
}

/// Waits until a node's process of a role is another one.
#[track_caller]
fn another(cluster: &Cluster, node: &str, role: &str, old: &[u64]) {
    wait_until(
        "it is started again",
        || matches!(pids(&cluster.name, node, role).as_slice(), [new] if !old.contains(new)),
    );
}

/// Numbers of the lines that a container has printed.
fn printed(namespace: &Namespace) -> Vec<u64> {
    let text = namespace.kubectl(&["logs", "counter", "-c", "main"]).ok();
    text.lines().map(|line| line.strip_prefix("line ").and_then(|n| n.parse().ok()).expect(line)).collect()
}

/// What must be the same before and after: containers, and how often each was started.
fn undisturbed(namespace: &Namespace, pod: &str) -> (Value, Vec<(String, String, u64)>) {
    let object = namespace.pod(pod);
    let node = object["spec"]["nodeName"].as_str().expect("it is scheduled").to_owned();
    let statuses = object["status"]["containerStatuses"].as_array().expect("statuses").clone();
    let counts: Vec<Value> = statuses
        .iter()
        .map(|s| serde_json::json!([s["name"], s["restartCount"], s["containerID"], s["state"]["running"]]))
        .collect();
    let address = object["status"]["podIP"].clone();
    (serde_json::json!([counts, address]), containers(&namespace.cluster, &node, pod))
}

#[test]
fn a_dead_agent_or_server_comes_back_and_pods_never_know() {
    let cluster = Cluster::start("lc-restart", 1);
    let node = "lc-restart";
    let namespace = cluster.namespace("r");
    namespace.apply(PODS).ok();
    namespace.ready("counter");
    namespace.ready("ender");
    let before = undisturbed(&namespace, "counter");
    assert_eq!(before.1.len(), 3, "pause and two containers: {before:?}");

    // The agent. A container ends while it is dead: what starts it again is held meanwhile.
    let (init, agent) = (pids(&cluster.name, node, "init"), pids(&cluster.name, node, "agent"));
    let ender =
        containers(&cluster, node, "ender").into_iter().find(|row| row.0 == "main").expect("it runs").2;
    signal("STOP", &init);
    kill(&agent);
    cluster.on_node(node, &["touch", &format!("/proc/{ender}/root/tmp/end")]).ok();
    wait_until("it has ended", || {
        cluster.on_node(node, &["test", "-e", &format!("/proc/{ender}/root/tmp")]).code != 0
    });
    signal("CONT", &init);
    another(&cluster, node, "agent", &agent);
    let ended = wait_for("the end is told", || {
        let state = namespace.pod("ender")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        state.is_object().then_some(state)
    });
    assert_eq!(ended["exitCode"], 7, "{ended}");
    assert_eq!(namespace.kubectl(&["logs", "ender"]).ok(), "last words\n");
    wait_until("exec works again", || namespace.exec("counter", &["echo", "here"]).stdout == "here\n");
    assert_eq!(undisturbed(&namespace, "counter"), before);

    // Killed again and again: still the same containers, and no shim too many.
    let shims = pids(&cluster.name, node, "shim").len();
    for _ in 0..3 {
        kill_and_await(&cluster, node, "agent");
    }
    wait_until("exec works again", || namespace.exec("counter", &["echo", "here"]).stdout == "here\n");
    assert_eq!(undisturbed(&namespace, "counter"), before);
    assert!(pids(&cluster.name, node, "shim").len() <= shims);

    // The server. A watch that was open goes on, and sees what happens afterwards.
    let mut watching = cluster.command("KUBECTL");
    let log = cluster.data_dir().join("watch.txt");
    let file = std::fs::File::create(&log).expect("a file");
    watching.args(["-n", "r", "get", "configmaps", "-w", "-o", "name"]).stdout(file);
    let watching = Background(watching.spawn().expect("kubectl starts"));
    namespace.kubectl(&["create", "configmap", "before"]).ok();
    wait_until("the watch runs", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("before")));
    let objects = namespace.kubectl(&["get", "configmaps,pods,serviceaccounts", "-o", "name"]).ok();
    kill_and_await(&cluster, node, "server");
    let again = wait_for("the API answers", || {
        let output = namespace.kubectl(&["get", "configmaps,pods,serviceaccounts", "-o", "name"]);
        (output.code == 0).then_some(output.stdout)
    });
    assert_eq!(again, objects);
    drop(watching);
    // Written after: agents, controllers and the scheduler watch again.
    let late = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: late}, spec: {replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: alpine, command: [sleep, '999999']}]}}}}";
    namespace.apply(late).ok();
    namespace.kubectl(&["rollout", "status", "deployment/late", "--timeout=120s"]).ok();
    assert_eq!(undisturbed(&namespace, "counter"), before);
    let lines = printed(&namespace);
    let wanted: Vec<u64> = (1..=lines.len() as u64).collect();
    assert_eq!(lines, wanted, "no line is lost or doubled");

    // Deleting takes all of a pod's processes along.
    namespace.kubectl(&["delete", "deployment/late", "pod/counter", "pod/ender", "--timeout=120s"]).ok();
    wait_until("pods and their processes are gone", || pids(&cluster.name, node, "shim").is_empty());
    let platform = super::processes(&cluster.name).len();
    wait_until("nothing is orphaned", || stock::members(&cluster.name).len() == platform);
}

#[test]
fn a_pod_recovers_from_the_death_of_its_shim_or_its_sandbox() {
    let cluster = Cluster::start("lc-shim", 1);
    let node = "lc-shim";
    let namespace = cluster.namespace("s");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: skiff/peer:v1, command: [peer, tcp, '7001']}]}}";
    namespace.apply(pod).ok();
    namespace.ready("web");
    let before = containers(&cluster, node, "web");

    let restarts = || namespace.pod("web")["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let recovered = |old: &[(String, String, u64)]| {
        wait_for("other processes are there", || {
            let new = containers(&cluster, node, "web");
            let fresh = |row: &(String, String, u64)| row.2 > 0 && !old.iter().any(|o| o.1 == row.1);
            let running: Vec<_> = new.iter().filter(|row| fresh(row)).cloned().collect();
            (running.len() == 2).then_some(running)
        })
    };
    // The sandbox's only process: the pod gets another sandbox, and its containers start in that.
    let pause = before.iter().find(|row| row.0 == "pause").expect("a sandbox").2;
    skiff_tests::skiff(&[
        "node",
        "shell",
        "--name",
        &cluster.name,
        node,
        "--",
        "kill",
        "-KILL",
        &pause.to_string(),
    ])
    .ok();
    let after = recovered(&before);
    wait_until("it is Ready with another start counted", || {
        restarts() == Some(1)
            && namespace.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=1s"]).code == 0
    });
    assert_eq!(namespace.exec("web", &["hostname"]).ok(), "web\n");
    let answer = |namespace: &Namespace| {
        let address = format!("{}:7001", namespace.pod_ip("web"));
        cluster.on_node(node, &[skiff_tests::peer_path().to_str().expect("UTF-8"), "get", &address]).stdout
    };
    wait_until("it serves under its new address", || answer(&namespace).starts_with("web"));

    // A shim: nobody holds the containers' output any more, so they are started anew.
    kill(&pids(&cluster.name, node, "shim"));
    recovered(&after);
    wait_until("it serves again", || answer(&namespace).starts_with("web"));
    namespace.ready("web");
    namespace.kubectl(&["delete", "pod", "web", "--timeout=120s"]).ok();
    let platform = 3;
    wait_until("nothing is orphaned", || stock::members(&cluster.name).len() == platform);
}

#[test]
fn a_node_whose_agent_is_silent_is_not_ready_until_it_speaks_again() {
    let cluster = Cluster::start("lc-silent", 2);
    let node = cluster.worker(1);
    let namespace = cluster.namespace("q");
    let pod = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{more} terminationGracePeriodSeconds: 1, containers: [{{name: main, image: alpine, command: [sleep, '999999']}}]}}}}"
        )
    };
    namespace.apply(&pod("web", "")).ok();
    let hasty = "tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}],";
    namespace.apply(&pod("hasty", hasty)).ok();
    namespace.ready("web");
    namespace.ready("hasty");
    let before = undisturbed(&namespace, "web");
    let part = |kind: &str, object: &Value, part: &str| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        found.and_then(|condition| condition[part].as_str()).unwrap_or_default().to_owned()
    };
    let condition = |kind: &str, object: &Value| part(kind, object, "status");
    let since = || part("Ready", &cluster.object(&["node", &node]), "lastTransitionTime");
    let agent = pids(&cluster.name, &node, "agent");
    let ready_since = since();
    signal("STOP", &agent);
    wait_until("it is listed as stopped", || {
        let status = super::processes(&cluster.name);
        let row = status.iter().find(|row| row["node"] == node.as_str() && row["role"] == "agent");
        row.expect("it is listed")["health"] == "stopped"
    });
    // Its lease is good for 40 s, as upstream's; only then it is taken for lost.
    let lost = || condition("Ready", &cluster.object(&["node", &node])) == "Unknown";
    wait_longer("the node is told to be lost", lost);
    wait_until("no pod goes there, and its pods get no connections", || {
        let taints = cluster.object(&["node", &node])["spec"]["taints"].to_string();
        taints.contains("node.kubernetes.io/unreachable")
            && condition("Ready", &namespace.pod("web")) == "False"
    });
    wait_until("who can't wait is evicted, and is there until its node lets go", || {
        namespace.pod("hasty")["metadata"]["deletionTimestamp"].is_string()
    });
    assert!(namespace.pod("web")["metadata"]["deletionTimestamp"].is_null(), "the other waits five minutes");
    signal("CONT", &agent);
    wait_until("the node and its pod are Ready again", || {
        let object = cluster.object(&["node", &node]);
        condition("Ready", &object) == "True"
            && !object["spec"]["taints"].to_string().contains("unreachable")
            && condition("Ready", &namespace.pod("web")) == "True"
    });
    // As RFC 3339, so that the later one is the greater.
    assert!(since() > ready_since, "it was away between");
    wait_until("the evicted is gone", || namespace.kubectl(&["get", "pod", "hasty"]).code != 0);
    assert_eq!(pids(&cluster.name, &node, "agent"), agent);
    assert_eq!(undisturbed(&namespace, "web"), before);
    assert_eq!(namespace.exec("web", &["hostname"]).ok(), "web\n");
}
