//! What `skiff status` tells of a cluster's parts that live and do not do their work, and of those that died.

use std::time::{Duration, Instant};

use skiff_tests::{Cluster, skiff, wait_until};

use super::{kill, pids, processes, signal};

/// What is not well: `NODE ROLE HEALTH`, sorted. Asking takes bounded time, whatever is stuck.
fn unwell(cluster: &Cluster) -> Vec<String> {
    let asked = Instant::now();
    let rows = processes(&cluster.name);
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    let text = |key: &str, row: &serde_json::Value| row[key].as_str().unwrap_or_default().to_owned();
    let rows = rows.iter().map(|row| ["node", "role", "health"].map(|key| text(key, row)).join(" "));
    let mut rows: Vec<String> = rows.filter(|row| !row.ends_with(" ok")).collect();
    rows.sort();
    rows
}

#[test]
fn status_tells_of_parts_that_run_and_are_not_ready() {
    let cluster = Cluster::start("lc-health", 2);
    let (first, worker) = (cluster.control_plane(), cluster.worker(1));
    wait_until("all is well", || unwell(&cluster).is_empty());

    // A server that takes connections, as the kernel does for it, and answers none; an agent as well.
    for (node, role) in [(&first, "server"), (&worker, "agent")] {
        let held = pids(&cluster.name, node, role);
        signal("STOP", &held);
        // A busy machine stops it a moment later, and until then it is one that does not answer.
        wait_until("it is stopped", || unwell(&cluster) == [format!("{node} {role} stopped")]);
        signal("CONT", &held);
        wait_until("all is well again", || unwell(&cluster).is_empty());
    }

    // An agent that runs, and that nobody reaches.
    cluster.on_node(&worker, &["ip", "link", "set", "eth0", "down"]).ok();
    wait_until("it is told of", || unwell(&cluster) == [format!("{worker} agent not ready")]);
    let table = skiff(&["status", "--name", &cluster.name]).ok();
    let line = table.lines().find(|line| line.contains(&worker) && line.contains(" agent ")).expect(&table);
    assert!(line.trim_end().ends_with("not ready"), "{table}");

    // With its first process a node ends as a whole; nothing starts it but `skiff up`.
    kill(&pids(&cluster.name, &worker, "init"));
    let dead = [format!("{worker} agent dead"), format!("{worker} init dead")];
    wait_until("the dead are told of", || unwell(&cluster) == dead);
}
