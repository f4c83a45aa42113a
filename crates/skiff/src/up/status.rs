//! `skiff status`: the platform's own processes of this machine's clusters, and whether each does its work.
//!
//! That a process lives is read from `/proc`; whether server and agents are ready is asked of the API, in
//! bounded time, since one that lives may serve nothing. A part that should run and doesn't is listed too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use skiff_apiserver::pki::days_left;
use skiff_cli::output::{Output, print};
use skiff_cli::processes::ProcessRow;
use skiff_cli::{Connection, Health};
use skiff_kubelet::platform;

use super::cgroups;
use super::local::find_init;
use super::place::{self, Place};
use super::record::{NodeRecord, Record};

/// Show the platform's own processes: they are no pods
///
/// HEALTH is `ok`, or `not ready` of a server or agent that runs and does not do its work, `stopped` of a
/// process that is held, `dead` of one that should run and does not. The exit status is 0 whenever this could
/// be told, and 1 when it could not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let records = match place::find(&args.connection)? {
        Place::Here(records) => records,
        Place::Elsewhere(kubeconfig) => return skiff_cli::remote_status(&kubeconfig, args.output.format),
    };
    if records.is_empty() {
        bail!("no cluster is up: start one with `skiff up`, or name a --kubeconfig");
    }
    let mut rows = Vec::new();
    for record in &records {
        let mut own = Vec::new();
        for (index, node) in record.nodes.iter().enumerate() {
            let processes = platform_processes(record, node)?;
            own.extend(rows_of(&record.name, &node.name, index == 0, processes));
        }
        // Where no server answers there is nobody to ask, and of who is held it is known.
        let of_agents = own.iter().filter(|row| row.role == "agent" && row.health == "ok");
        let agents: BTreeSet<String> = of_agents.map(|row| row.node.clone()).collect();
        if own.iter().any(|row| row.role == "server" && row.health == "ok") {
            let told = skiff_cli::health(&record.kubeconfig, &agents)?;
            judge(&mut own, &told);
        }
        rows.extend(own);
        certificates(record).iter().filter_map(Ending::warning).for_each(crate::tell);
    }
    print(&rows, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// What runs on a node, and what should.
fn rows_of(
    cluster: &str,
    node: &str,
    has_server: bool,
    processes: Vec<platform::Process>,
) -> Vec<ProcessRow> {
    let row = |role, health| ProcessRow {
        cluster: Some(cluster.to_owned()),
        ..ProcessRow::new(node, role, health)
    };
    let present: BTreeSet<&str> = processes.iter().map(|process| process.role).collect();
    let wanted = ["init", "server", "agent"].into_iter().filter(|role| has_server || *role != "server");
    let dead: Vec<ProcessRow> =
        wanted.filter(|role| !present.contains(role)).map(|role| row(role, "dead")).collect();
    let alive = processes.into_iter().map(|process| ProcessRow {
        pid: Some(process.pid),
        since_seconds: Some(process.since_seconds),
        memory_bytes: Some(process.memory_bytes),
        ..row(process.role, process.health)
    });
    dead.into_iter().chain(alive).collect()
}

/// Says of those that live which are not ready.
fn judge(rows: &mut [ProcessRow], told: &Health) {
    for row in rows.iter_mut().filter(|row| row.health == "ok") {
        let ready = match row.role.as_str() {
            "server" => told.server,
            // While the API can't be asked nobody knows more than that the process lives.
            "agent" => told.agents.as_ref().is_none_or(|ready| ready.contains(&row.node)),
            _ => true,
        };
        if !ready {
            row.health = "not ready".to_owned();
        }
    }
}

/// The platform's processes of a node.
fn platform_processes(record: &Record, node: &NodeRecord) -> anyhow::Result<Vec<platform::Process>> {
    let pids = cgroups::processes(&Path::new(&Record::cgroup(&record.name)).join(&node.name))?;
    let Some(init) = find_init(&pids.iter().copied().collect::<Vec<_>>()) else {
        return Ok(Vec::new());
    };
    Ok(platform::processes(pids, platform::executable(init)))
}

/// This many days before a certificate ends one is told so.
const WARN_DAYS: i64 = 30;

/// How long a certificate is good yet.
struct Ending {
    /// Whose it is.
    of: String,
    days: i64,
    /// What makes it a new one.
    cure: String,
}

impl Ending {
    fn warning(&self) -> Option<String> {
        let Self { of, days, cure } = self;
        match days {
            ..0 => Some(format!("warning: {of} has ended: {cure}")),
            0..=WARN_DAYS => Some(format!("warning: {of} ends in {days} days: {cure}")),
            _ => None,
        }
    }
}

/// The authority's certificate, the administrator's, and those that the nodes' agents keep.
fn certificates(record: &Record) -> Vec<Ending> {
    let pki = crate::server::pki_dir(&record.server_dir());
    let name = &record.name;
    let restart = format!("`skiff down --keep-data` and `skiff up` again with --name {name} make a new one");
    let of_cluster = [
        (
            "ca.crt",
            format!("the certificate authority of cluster {name:?}"),
            "make a new cluster before".into(),
        ),
        ("admin.crt", format!("the administrator's certificate of cluster {name:?}"), restart),
    ];
    let mut endings: Vec<Ending> = of_cluster
        .into_iter()
        .filter_map(|(file, of, cure)| {
            let pem = fs::read_to_string(pki.join(file)).ok()?;
            Some(Ending { of, days: days_left(&pem)?, cure })
        })
        .collect();
    for node in &record.nodes {
        let kept = crate::membership::kept_certificates(&record.node_data_dir(&node.name));
        endings.extend(kept.into_iter().filter_map(|(purpose, pem)| {
            Some(Ending {
                of: format!("the {purpose} certificate of node {}", node.name),
                days: days_left(&pem)?,
                cure: format!(
                    "its agent should have renewed it, and says in `skiff logs {}` why not",
                    node.name
                ),
            })
        }));
    }
    endings
}

#[cfg(test)]
mod tests {
    use skiff_cli::output::Row;
    use skiff_kubelet::platform::Process;

    use super::*;

    #[test]
    fn a_part_that_runs_and_is_not_ready_is_told_and_so_is_one_that_should_run() {
        let process =
            |role, pid, health| Process { role, pid, since_seconds: 60, memory_bytes: 2_000_000, health };
        let rows = |told: &Health| {
            let first = vec![process("init", 1, "ok"), process("server", 2, "ok"), process("agent", 3, "ok")];
            let second =
                vec![process("init", 4, "ok"), process("agent", 5, "stopped"), process("shim", 6, "ok")];
            let third = vec![process("init", 7, "ok"), process("agent", 8, "ok")];
            let nodes = [("a", true, first), ("b", false, second), ("c", false, third), ("d", false, vec![])];
            let mut rows: Vec<ProcessRow> =
                nodes.into_iter().flat_map(|(node, server, all)| rows_of("k", node, server, all)).collect();
            judge(&mut rows, told);
            let text = |row: &ProcessRow| format!("{} {} {}", row.node, row.role, row.health);
            rows.iter().map(text).filter(|text| !text.ends_with(" ok")).collect::<Vec<_>>()
        };
        let ready = |nodes: &[&str]| Some(nodes.iter().map(|node| (*node).to_owned()).collect());
        let dead = ["d init dead", "d agent dead"];
        let and_dead = |more: &[&'static str]| [more, &dead].concat();
        let told = Health { server: true, agents: ready(&["a", "b", "c"]) };
        assert_eq!(rows(&told), and_dead(&["b agent stopped"]));
        let told = Health { server: true, agents: ready(&["a"]) };
        assert_eq!(rows(&told), and_dead(&["b agent stopped", "c agent not ready"]));
        let told = Health { server: false, agents: None };
        assert_eq!(rows(&told), and_dead(&["a server not ready", "b agent stopped"]));
        let without = rows_of("k", "a", true, vec![process("init", 1, "ok"), process("agent", 3, "ok")]);
        assert_eq!(without[0].cells().join(" "), "k a server - - - dead -");
        assert_eq!(without[2].cells().join(" "), "k a agent 3 60s 2.0MB ok -");
    }

    #[test]
    fn certificates_that_end_are_warned_of_a_month_ahead() {
        let check = |days: i64, expected: Option<&str>| {
            let ending =
                Ending { of: "the client certificate of node n".into(), days, cure: "renew it".into() };
            assert_eq!(ending.warning().as_deref(), expected);
        };
        check(31, None);
        check(30, Some("warning: the client certificate of node n ends in 30 days: renew it"));
        check(0, Some("warning: the client certificate of node n ends in 0 days: renew it"));
        check(-1, Some("warning: the client certificate of node n has ended: renew it"));
    }
}
