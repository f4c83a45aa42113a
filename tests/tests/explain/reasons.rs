//! I1: why a socket is reached from somewhere, or is not. Each reason is taken apart into what it claims, and
//! each claim is tried: by a connection from there to just the address that is named, by the routes as `ip` has
//! them, by `ss`, and by the API's own objects. A reason that nobody here can read is wrong too.

mod claims;
mod doors;
mod ground;
mod policies;

use serde_json::Value;
use skiff_tests::{Cluster, fixed_ports, pod_on, wait_until};

use super::truth::{explained, text};
pub(crate) use ground::Ground;

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
