//! The life of a cluster and of its parts: what dies, what comes back, and what is left behind.
//!
//! These tests kill the platform's own processes, so each has clusters of its own.

mod again;
mod cli;
mod contract;
mod down;
mod ending;
mod expired;
mod health;
mod identities;
mod in_use;
mod interrupted;
mod machines;
mod network;
mod preemption;
mod prove;
mod random;
mod reset;
mod restart;
mod stats;
mod stock;
mod supervisor;
mod uplink;

use std::process::Command;

use serde_json::Value;
use skiff_tests::{Cluster, run, skiff};

/// The platform's processes of a cluster, as `skiff status` tells them.
pub(crate) fn processes(cluster: &str) -> Vec<Value> {
    let output = skiff(&["status", "--name", cluster, "-o", "json"]);
    serde_json::from_str(&output.ok()).expect("JSON")
}

/// The PIDs, as the machine numbers them, of a node's processes of a role.
pub(crate) fn pids(cluster: &str, node: &str, role: &str) -> Vec<u64> {
    let rows = processes(cluster).into_iter();
    rows.filter(|row| row["node"] == node && row["role"] == role)
        .filter_map(|row| row["pid"].as_u64())
        .collect()
}

/// Kills processes without asking them.
pub(crate) fn kill(pids: &[u64]) {
    signal("KILL", pids);
}

/// Sends a signal to processes.
pub(crate) fn signal(name: &str, pids: &[u64]) {
    let mut command = Command::new("kill");
    run(command.arg(format!("-{name}")).args(pids.iter().map(u64::to_string))).ok();
}

/// What `skiff ps` lists of a pod: name, ID and PID.
pub(crate) fn containers(cluster: &Cluster, node: &str, pod: &str) -> Vec<(String, String, u64)> {
    let listing = skiff(&["ps", "--name", &cluster.name, "--node", node, "-o", "json"]).ok();
    let rows: Vec<Value> = serde_json::from_str(&listing).expect("JSON");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = rows
        .iter()
        .filter(|row| row["pod"] == pod)
        .map(|row| (text(row, "name"), text(row, "id"), row["pid"].as_u64().unwrap_or(0)))
        .collect();
    found.sort();
    found
}

/// A line that a user can read: one line, no backtrace, beginning with the program's name.
#[track_caller]
pub(crate) fn one_sentence(stderr: &str) -> &str {
    let line = stderr.strip_suffix('\n').unwrap_or(stderr);
    assert!(line.starts_with("skiff: ") && !line.contains('\n'), "not one sentence: {stderr:?}");
    line
}
