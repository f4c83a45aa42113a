//! Commands about the nodes of this machine's clusters: `node`, `logs`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use nix::sched::{CloneFlags, setns};
use skiff_cli::Connection;
use skiff_cli::output::Output;
use skiff_kubelet::platform::{self, Logs};

use super::cgroups;
use super::place::{self, Place};
use super::record::{NodeRecord, Record};

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

/// The first process of a node, among its processes.
pub(super) fn find_init(pids: &[i32]) -> Option<i32> {
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
