//! Commands about the nodes of this machine's clusters: `status`, `node`, `logs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use skiff_apiserver::pki::days_left;
use skiff_cli::Connection;
use skiff_cli::output::{Output, Row, age, print};

use super::cgroups;
use super::record::{NodeRecord, Record};

/// Show the platform's own processes: they are no pods
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Only this cluster
    #[arg(long)]
    name: Option<String>,
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
        /// Name of the cluster, where two have a node of that name
        #[arg(long)]
        name: Option<String>,
        node: String,
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

/// Print what the platform's own processes on a node logged
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Name of the cluster, where two have a node of that name
    #[arg(long)]
    name: Option<String>,
    /// Go on printing what is logged
    #[arg(short, long)]
    follow: bool,
    node: String,
}

/// The clusters of this machine, for client commands.
pub(crate) fn clusters() -> anyhow::Result<Vec<skiff_cli::LocalCluster>> {
    let local = |record: Record| skiff_cli::LocalCluster { name: record.name, kubeconfig: record.kubeconfig };
    Ok(Record::all()?.into_iter().map(local).collect())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessRow {
    cluster: String,
    node: String,
    role: &'static str,
    /// As this machine numbers it.
    pid: i32,
    since_seconds: u64,
    /// Proportional set size: shared pages are divided among those that share them.
    memory_bytes: u64,
    health: &'static str,
}

impl Row for ProcessRow {
    const COLUMNS: &'static [&'static str] = &["CLUSTER", "NODE", "ROLE", "PID", "SINCE", "MEMORY", "HEALTH"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cluster.clone(),
            self.node.clone(),
            self.role.to_owned(),
            self.pid.to_string(),
            age(self.since_seconds),
            format!("{:.1}MB", self.memory_bytes as f64 / 1e6),
            self.health.to_owned(),
        ]
    }
}

/// Runs `skiff status`.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let records = match &args.name {
        Some(name) => vec![Record::get(name)?],
        None => Record::all()?,
    };
    if records.is_empty() {
        bail!("no cluster is up: start one with `skiff up`");
    }
    let mut rows = Vec::new();
    for record in &records {
        for node in &record.nodes {
            rows.extend(platform_processes(record, node)?);
        }
        certificates(record).iter().filter_map(Ending::warning).for_each(|warning| eprintln!("{warning}"));
    }
    print(&rows, args.output.format)
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

/// The platform's processes of a node, by what stands first in their command lines; a pod's process that
/// bears such a name runs another file.
fn platform_processes(record: &Record, node: &NodeRecord) -> anyhow::Result<Vec<ProcessRow>> {
    let pids = cgroups::processes(&Path::new(&Record::cgroup(&record.name)).join(&node.name))?;
    let Some(init) = find_init(&pids.iter().copied().collect::<Vec<_>>()) else {
        return Ok(Vec::new());
    };
    let own = executable(init);
    let uptime = read_uptime();
    let mut rows = Vec::new();
    for pid in pids {
        let Some(role) = role(pid).filter(|_| executable(pid) == own) else { continue };
        let state = stat_field(pid, 2).unwrap_or_default();
        // A process that ended meanwhile has no start.
        let Some(started) = stat_field(pid, 21).and_then(|ticks| ticks.parse::<u64>().ok()) else { continue };
        rows.push(ProcessRow {
            cluster: record.name.clone(),
            node: node.name.clone(),
            role,
            pid,
            // The kernel counts in ticks of 10 ms for user space on every architecture Linux has.
            since_seconds: uptime.saturating_sub(started / 100),
            memory_bytes: pss_bytes(pid),
            health: match state.as_str() {
                "Z" | "X" => "dead",
                "T" | "t" => "stopped",
                _ => "ok",
            },
        });
    }
    let order = ["init", "server", "agent", "shim"];
    rows.sort_by_key(|row| (order.iter().position(|role| *role == row.role), row.pid));
    Ok(rows)
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn role(pid: i32) -> Option<&'static str> {
    match arguments(pid).first()?.as_str() {
        "skiff-init" => Some("init"),
        "skiff-server" => Some("server"),
        "kubelet" => Some("agent"),
        "skiff-shim" => Some("shim"),
        _ => None,
    }
}

fn find_init(pids: &[i32]) -> Option<i32> {
    pids.iter().copied().find(|pid| role(*pid) == Some("init"))
}

/// Device and inode of the file that a process runs.
fn executable(pid: i32) -> Option<(u64, u64)> {
    let metadata = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A field of `/proc/PID/stat`, counted from 0 as proc_pid_stat(5) counts from 1. The second may hold spaces.
fn stat_field(pid: i32, index: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(index - 2).map(|field| field.trim().to_owned())
}

fn read_uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

fn pss_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Runs `skiff node`.
pub(crate) fn node(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        NodeCommand::Ls { connection, output } => skiff_cli::list_nodes(connection, output.format, &clusters),
        NodeCommand::Shell { name, node, command } => shell(name.as_deref(), node, command),
    }
}

/// The cluster and node that a name means.
fn find(cluster: Option<&str>, node: &str) -> anyhow::Result<(Record, NodeRecord)> {
    let records = match cluster {
        Some(name) => vec![Record::get(name)?],
        None => Record::all()?,
    };
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

fn shell(cluster: Option<&str>, node: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    super::require_root("node shell")?;
    let (record, node) = find(cluster, node)?;
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
pub(crate) fn logs(args: &LogsArgs) -> anyhow::Result<()> {
    let (record, node) = find(args.name.as_deref(), &args.node)?;
    let dir = record.node_data_dir(&node.name).join("logs");
    let mut files: BTreeMap<PathBuf, BufReader<File>> = BTreeMap::new();
    loop {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") && !files.contains_key(&path) {
                let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                files.insert(path, BufReader::new(file));
            }
        }
        let mut lines = Vec::new();
        for (path, reader) in &mut files {
            let role = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut line = String::new();
            while reader.read_line(&mut line).with_context(|| format!("cannot read {}", path.display()))? > 0
            {
                lines.push((std::mem::take(&mut line), role.clone()));
            }
        }
        // Each line begins with its time.
        lines.sort();
        let mut out = io::stdout().lock();
        for (line, role) in lines {
            match write!(out, "{role:<6} {line}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => other.context("cannot write the output")?,
            }
        }
        if !args.follow {
            return Ok(());
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

    #[test]
    fn this_process_is_read_as_proc_says() {
        let pid = i32::try_from(std::process::id()).expect("a PID");
        assert!(["R", "S", "D"].contains(&stat_field(pid, 2).expect("a state").as_str()));
        assert!(pss_bytes(pid) > 0);
        assert_eq!(role(pid), None);
        assert!(executable(pid).is_some());
    }
}
