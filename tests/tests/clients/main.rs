//! Programs written for upstream, unmodified: kubectl 1.35 and 1.20, helm 4, the Python client and the
//! `kube` crate. What they print is compared with what they print against upstream.

mod access;
mod api_server;
mod changing;
mod helm;
mod identity;
mod in_cluster;
mod kube_crate;
mod lacking;
mod nodes;
mod python;
mod reading;
mod streams;
mod workloads;

use skiff_tests::{Namespace, Output, run};

/// The variables that name kubectl 1.35 and 1.20.
const BOTH: [&str; 2] = ["KUBECTL", "KUBECTL_1_20"];

/// Runs one of [`BOTH`] in a namespace.
fn with(namespace: &Namespace, which: &str, args: &[&str]) -> Output {
    run(namespace.cluster.command(which).args(["-n", &namespace.name]).args(args))
}

/// A pod that prints a line and waits.
fn sleeper(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: \
         {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: alpine, command: [sh, -c, \
         'echo started; sleep 999999 & wait']}}]}}}}"
    )
}

/// A deployment of sleepers.
fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{replicas: {replicas}, \
         selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}}}, spec: \
         {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: alpine, command: [sh, -c, \
         'sleep 999999 & wait']}}]}}}}}}}}"
    )
}
