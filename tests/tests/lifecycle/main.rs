//! The life of a cluster and of its parts: what dies, what comes back, and what is left behind.
//!
//! These tests kill the platform's own processes, so each has clusters of its own.

mod again;
mod cli;
mod down;
mod machines;
mod preemption;
mod reset;
mod restart;
mod stats;
mod stock;
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

/// When a process was started, in seconds since the machine was (proc(5), `stat`): whoever asks late is told
/// the same.
pub(crate) fn started(pid: u64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name in parentheses, which may hold anything, the first field is the third.
    let fields = stat.rsplit_once(')').expect("a name").1;
    let ticks: f64 =
        fields.split_whitespace().nth(22 - 3).and_then(|text| text.parse().ok()).expect("a time");
    // USER_HZ, the same on every machine that Linux programs see.
    ticks / 100.0
}

/// Seconds since the machine was started.
pub(crate) fn now() -> f64 {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("it is there");
    uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a time")
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
