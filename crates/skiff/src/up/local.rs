//! Commands about the nodes of this machine's clusters: `status`, `node`, `logs`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use skiff_apiserver::pki::days_left;
use skiff_cli::Connection;
use skiff_cli::output::{Output, Row, age, print};
use skiff_kubelet::platform::{self, Logs, Process};

use super::cgroups;
use super::place::{self, Place};
use super::record::{NodeRecord, Record};

/// Show the platform's own processes: they are no pods
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

/// List nodes, or run a command on one
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List the nodes of a cluster
    Ls {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
    },
    /// Run a shell, or a command, in the namespaces of a node of `skiff up`
    Shell {
        #[command(flatten)]
        connection: Connection,
        node: String,
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

/// Print what the platform's own processes on a node logged
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    connection: Connection,
    /// Go on printing what is logged
    #[arg(short, long)]
    follow: bool,
    node: String,
}

/// The clusters of this machine, for client commands.
pub(crate) fn clusters() -> anyhow::Result<Vec<skiff_cli::LocalCluster>> {
    let local = |record: Record| skiff_cli::LocalCluster { name: record.name, kubeconfig: record.kubeconfig };
    Ok(Record::visible()?.into_iter().map(local).collect())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessRow {
    cluster: String,
    node: String,
    /// With its PID as this machine numbers it.
    #[serde(flatten)]
    process: Process,
}

impl Row for ProcessRow {
    const COLUMNS: &'static [&'static str] = &["CLUSTER", "NODE", "ROLE", "PID", "SINCE", "MEMORY", "HEALTH"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cluster.clone(),
            self.node.clone(),
            self.process.role.to_owned(),
            self.process.pid.to_string(),
            age(self.process.since_seconds),
            format!("{:.1}MB", self.process.memory_bytes as f64 / 1e6),
            self.process.health.to_owned(),
        ]
    }
}

/// Runs `skiff status`.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
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
        for node in &record.nodes {
            own.extend(platform_processes(record, node)?);
        }
        // A process that lives may serve nothing, or be unable to write.
        if own.iter().any(|row| row.process.role == "server") && !skiff_cli::is_ready(&record.kubeconfig)? {
            not_ready(own.iter_mut().map(|row| &mut row.process));
        }
        rows.extend(own);
        certificates(record).iter().filter_map(Ending::warning).for_each(crate::tell);
    }
    print(&rows, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

fn not_ready<'a>(processes: impl Iterator<Item = &'a mut Process>) {
    let servers = processes.filter(|process| process.role == "server" && process.health == "ok");
    servers.for_each(|server| server.health = "not ready");
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

/// The platform's processes of a node.
fn platform_processes(record: &Record, node: &NodeRecord) -> anyhow::Result<Vec<ProcessRow>> {
    let pids = cgroups::processes(&Path::new(&Record::cgroup(&record.name)).join(&node.name))?;
    let Some(init) = find_init(&pids.iter().copied().collect::<Vec<_>>()) else {
        return Ok(Vec::new());
    };
    let row = |process| ProcessRow { cluster: record.name.clone(), node: node.name.clone(), process };
    Ok(platform::processes(pids, platform::executable(init)).into_iter().map(row).collect())
}

fn find_init(pids: &[i32]) -> Option<i32> {
    pids.iter().copied().find(|pid| platform::role(*pid) == Some("init"))
}

/// Runs `skiff node`.
pub(crate) fn node(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        NodeCommand::Ls { connection, output } => skiff_cli::list_nodes(connection, output.format, &clusters),
        NodeCommand::Shell { connection, node, command } => shell(connection, node, command),
    }
}

/// The cluster and node that a name means, of this machine's.
fn find(records: Vec<Record>, node: &str) -> anyhow::Result<(Record, NodeRecord)> {
    let names: Vec<String> =
        records.iter().flat_map(|record| &record.nodes).map(|node| node.name.clone()).collect();
    let found = records.into_iter().find_map(|record| {
        let found = record.nodes.iter().find(|candidate| candidate.name == node).cloned();
        found.map(|node| (record, node))
    });
    match found {
        Some(found) => Ok(found),
        None if names.is_empty() => bail!("no node {node:?}: no cluster is up"),
        None => bail!("no node {node:?}: there are {}", names.join(", ")),
    }
}

fn shell(connection: &Connection, node: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    super::require_root("node shell")?;
    let records = match place::find(connection)? {
        Place::Here(records) => records,
        Place::Elsewhere(kubeconfig) => bail!(
            "the cluster of {} is not this machine's: run `skiff node shell {node}` on the machine that it is \
             on, or name a cluster of this one with --name",
            kubeconfig.display()
        ),
    };
    let (record, node) = find(records, node)?;
    let path = Path::new(&Record::cgroup(&record.name)).join(&node.name);
    let pids: Vec<i32> = cgroups::processes(&path)?.into_iter().collect();
    let init =
        find_init(&pids).with_context(|| format!("node {} does not run: see `skiff status`", node.name))?;
    // All are opened before the first is joined, since joining changes what /proc shows.
    let namespaces = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let open = |(name, kind): (&str, CloneFlags)| {
        let path = format!("/proc/{init}/ns/{name}");
        File::open(&path).map(|file| (file, kind)).with_context(|| format!("cannot open {path}"))
    };
    let files = namespaces.into_iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let working_dir = std::env::current_dir();
    cgroups::join_existing(&path)?;
    for (file, kind) in &files {
        setns(file.as_fd(), *kind).with_context(|| format!("cannot join the namespaces of {}", node.name))?;
    }
    // Joining a mount namespace moves to its root.
    if let Ok(dir) = working_dir {
        let _ = std::env::set_current_dir(dir);
    }
    let default = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let command = if command.is_empty() { &default[..] } else { command };
    let status = Command::new(&command[0])
        .args(&command[1..])
        .status()
        .with_context(|| format!("cannot run {:?} on {}", command[0], node.name))?;
    let signalled = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    let code = status.code().or(signalled).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Runs `skiff logs`.
pub(crate) fn logs(args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let records = match place::find(&args.connection)? {
        Place::Here(records) => records,
        Place::Elsewhere(kubeconfig) => {
            return skiff_cli::remote_logs(&kubeconfig, &args.node, args.follow);
        }
    };
    let (record, node) = find(records, &args.node)?;
    let dir = record.node_data_dir(&node.name).join("logs");
    let mut logs = Logs::new(&dir);
    loop {
        let added = logs.more().with_context(|| format!("cannot read {}", dir.display()))?;
        let mut out = io::stdout().lock();
        match out.write_all(added.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            other => other.context("cannot write the output")?,
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        // Files are rotated by renaming and grow by appending: looking is simpler than being told.
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
