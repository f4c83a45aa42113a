//! `skiff trace`: every statement beside a real connection.

mod damage;
mod grid;
mod hidden;
mod outside;
mod tour;
mod unjudged;
mod words;

use serde_json::Value;
use skiff_tests::{Namespace, Output, skiff};

/// Runs `skiff trace` against the namespace's cluster.
fn trace(namespace: &Namespace, args: &[&str]) -> Output {
    let mut all = vec!["trace", "-n", &namespace.name, "--name", &namespace.cluster.name];
    all.extend(args);
    skiff(&all)
}

fn traced(namespace: &Namespace, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.extend(["-o", "json"]);
    serde_json::from_str(&trace(namespace, &all).ok()).expect("trace prints JSON")
}

/// A pod that runs the tests' own tool on one node. `more` are further fields of the spec, `ports` of the
/// container.
fn peer(name: &str, node: &str, more: &str, args: &str, ports: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}, role: {role}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  {more}
  containers:
  - {{name: main, image: skiff/peer:v1, command: [peer, {args}], ports: [{ports}]}}
---
",
        role = if name.starts_with('c') { "client" } else { "server" }
    )
}
