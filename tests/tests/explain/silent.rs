//! A node that doesn't answer makes answers poorer, and never late: what is missing is said, and why.

use std::process::Command;

use serde_json::Value;
use skiff_tests::{Cluster, run, skiff, wait_until};

use super::truth::{explain, explained};

/// Stops the agent of a node, until the value ends.
struct Silenced(String);

impl Silenced {
    fn new(cluster: &Cluster, node: &str) -> Self {
        let rows = skiff(&["status", "--name", &cluster.name, "-o", "json"]).ok();
        let rows: Vec<Value> = serde_json::from_str(&rows).expect("JSON");
        let own = rows.iter().find(|row| row["node"] == node && row["role"] == "agent").expect("it runs");
        let silenced = Self(own["pid"].to_string());
        silenced.signal("STOP");
        silenced
    }

    /// The state of a stopped process (proc(5)).
    fn holds(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it is there");
        status.lines().any(|line| line.starts_with("State:\tT"))
    }

    fn signal(&self, name: &str) {
        run(Command::new("kill").args([&format!("-{name}"), &self.0])).ok();
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

#[test]
fn a_silent_node_is_named_and_the_rest_is_told_without_it() {
    let cluster = Cluster::start("i1-silent", 3);
    let namespace = cluster.namespace("s");
    let (one, two) = (cluster.worker(1), cluster.worker(2));
    let pod = |name: &str, node: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{nodeName: {node}, terminationGracePeriodSeconds: 1, containers: [{{name: main, image: 'skiff/peer:v1', command: [peer, tcp, '7000'], ports: [{{containerPort: 7000, hostPort: 18991}}]}}]}}}}\n---\n"
        )
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: there}, spec: {type: NodePort, selector: {app: there}, ports: [{port: 80, targetPort: 7000}]}}";
    namespace.apply(&[pod("here", &one), pod("there", &two), service.to_owned()].concat()).ok();
    ["here", "there"].iter().for_each(|pod| namespace.serves(pod));
    let trace = |args: &[&str]| -> Value {
        let mut all = vec!["trace", "-n", "s", "--name", &cluster.name, "-o", "json"];
        all.extend(args);
        serde_json::from_str(&skiff(&all).ok()).expect("JSON")
    };
    let absent =
        pod("absent", &two).replace("image: 'skiff/peer:v1'", "image: 'absent:v1', imagePullPolicy: Never");
    namespace.apply(&absent.replace(", hostPort: 18991", "")).ok();
    let waiting = || namespace.pod("absent")["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    wait_until("its image is missing", || {
        waiting()["reason"].as_str().is_some_and(|own| own.contains("Image"))
    });
    wait_until("the service has its endpoint", || {
        trace(&["here", "pod/there", "--compare"])["rows"].as_array().is_some_and(|rows| rows.len() == 4)
    });
    let silenced = Silenced::new(&cluster, &two);
    // Each answer comes while the node is silent, and not because it speaks again.
    let meanwhile = |what: &str, ask: &dyn Fn() -> Value| {
        let told = ask();
        assert!(silenced.holds(), "{what} was told by a node that was to be silent");
        told
    };
    // Within 2.5 s, or what is left of them where another node was asked before.
    let why = format!("node {two} did not answer within ");
    let says = |told: &Value| told.to_string().contains(&why);

    let there = meanwhile("explain pod", &|| explained(&namespace, "pod", "there"));
    assert!(says(&there["missing"]), "{there}");
    assert_eq!(there["podSecurity"]["level"], "privileged", "what the server knows is told: {there}");
    let text = explain(&namespace, "pod", "there", &[]).ok();
    assert!(text.contains("did not answer within 2.5 s"), "{text}");
    let pending = meanwhile("explain pending", &|| explained(&namespace, "pending", "there"));
    assert!(says(&pending["missing"]), "{pending}");
    // What its status says is no present: since when is said.
    let absent =
        meanwhile("explain pending of one that waits", &|| explained(&namespace, "pending", "absent"));
    let heard = absent["lastTold"].as_str().expect("when the node was last heard of");
    let lease = cluster.object(&["-n", "kube-node-lease", "lease", &two]);
    assert_eq!(lease["spec"]["renewTime"], heard, "{absent}");
    let reason = waiting()["reason"].as_str().expect("as it was").to_owned();
    let summary = format!(
        "it is on {two}, which does not answer and was last heard of at {heard}; its status says last that it waits \
         for the image of container main: {reason}"
    );
    assert_eq!(absent["summary"], summary.as_str(), "{absent}");
    let text = explain(&namespace, "pending", "absent", &[]).ok();
    assert!(text.contains(&format!("  waited for image of container main: {reason}\n")), "{text}");
    assert!(text.contains(&format!("    last told  {heard}, when the node was last heard of\n")), "{text}");
    let start = meanwhile("explain start", &|| explained(&namespace, "start", "there"));
    assert!(says(&start["missing"]), "{start}");
    assert!(start["phases"].to_string().contains("API write"), "{start}");
    let node = meanwhile("explain node", &|| explained(&namespace, "node", &two));
    assert!(says(&node["missing"]), "{node}");
    let all = meanwhile("all pods", &|| {
        let path = "/apis/explain.skiff.dev/v1/namespaces/s/pods";
        serde_json::from_str(&cluster.kubectl(&["get", "--raw", path]).ok()).expect("JSON")
    });
    let item = |name: &str| {
        let mut items = all["items"].as_array().expect("a list").iter();
        items.find(|item| item["metadata"]["name"] == name).expect("it is there").clone()
    };
    assert!(says(&all["missing"]), "{all}");
    assert_eq!(item("here")["namespaces"].as_array().map(Vec::len), Some(8), "{all}");
    assert_eq!(item("there")["namespaces"].as_array().map(Vec::len), Some(0), "{all}");

    // A way that leads there is followed as far as nodes answer.
    let way = meanwhile("trace", &|| trace(&["here", "pod/there:7000"]));
    assert_eq!(way["ways"][0]["verdict"], "Unknown", "{way}");
    assert!(says(&way["ways"][0]["summary"]), "{way}");
    assert!(way["ways"][0]["hops"].to_string().contains(&format!("node {one}")), "{way}");
    let rows = meanwhile("trace --compare", &|| trace(&["here", "pod/there", "--compare"]));
    assert!(rows["rows"].as_array().expect("rows").iter().all(says), "{rows}");

    drop(silenced);
    wait_until("it is told again", || explained(&namespace, "pod", "there")["missing"].is_null());
    let absent = explained(&namespace, "pending", "absent");
    assert_eq!(absent["lastTold"], Value::Null, "{absent}");
}
