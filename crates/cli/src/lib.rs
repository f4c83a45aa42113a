//! Skiff's own commands. kubectl's stay kubectl's.
//!
//! Every command here is a client of the API like any other: what a node's runtime knows is asked of the
//! node's agent through the API server's node proxy, so that it works from afar.

pub mod completion;
mod connect;
mod explain;
pub mod image;
mod kubectl;
mod node;
pub mod output;
pub mod processes;
mod ps;
mod refusal;
mod remote;
mod token;
mod tour;
mod version;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

pub use connect::{Choice, Clusters, Connection};

/// The commands of this crate.
#[derive(Debug, Subcommand)]
pub enum Command {
    Ps(ps::Args),
    Explain(explain::Args),
    Image(image::Args),
    Kubectl(kubectl::Args),
    Token(token::Args),
    Tour(tour::Args),
    Trace(explain::trace::Args),
    Version(version::Args),
}

/// Runs a command. `clusters` tells where the credentials of the clusters of this machine are.
pub fn run(command: Command, clusters: &Clusters) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ps(args) => block_on(ps::run(&args, clusters)),
        Command::Explain(args) => block_on(explain::run(&args, clusters)),
        Command::Image(args) => block_on(image::run(&args, clusters)),
        Command::Trace(args) => block_on(explain::trace::run(&args, clusters)),
        Command::Tour(args) => tour::run(&args, clusters).map(|()| ExitCode::SUCCESS),
        Command::Kubectl(args) => kubectl::run(&args, clusters),
        Command::Token(args) => block_on(token::run(&args, clusters)),
        Command::Version(args) => version::run(&args),
    }
}

/// Lists the nodes with their addresses, as `skiff node ls`.
pub fn list_nodes(
    connection: &Connection,
    format: output::Format,
    clusters: &Clusters,
) -> anyhow::Result<ExitCode> {
    block_on(node::list(connection, format, clusters))
}

/// What a cluster's API tells of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it calls itself ready.
    pub server: bool,
    /// Of the nodes asked for those that are Ready and whose agents answer; `None` where the API can't tell.
    pub agents: Option<BTreeSet<String>>,
}

/// Asks the API that a kubeconfig leads to of itself, and of the agents of these nodes, for a few seconds.
pub fn health(kubeconfig: &Path, nodes: &BTreeSet<String>) -> anyhow::Result<Health> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(remote::health(kubeconfig, nodes))
}

/// What API and agents tell of the platform's processes, as `skiff status` of a cluster that is elsewhere.
pub fn remote_status(kubeconfig: &Path, format: output::Format) -> anyhow::Result<ExitCode> {
    block_on(remote::status(kubeconfig, format))
}

/// What a node's agent tells of the platform's logs there, as `skiff logs` of a cluster that is elsewhere.
pub fn remote_logs(kubeconfig: &Path, node: &str, follow: bool) -> anyhow::Result<ExitCode> {
    block_on(remote::logs(kubeconfig, node, follow))
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)?;
    Ok(ExitCode::SUCCESS)
}

/// A cluster of this machine: its name and its kubeconfig.
#[derive(Debug, Clone)]
pub struct LocalCluster {
    pub name: String,
    pub kubeconfig: PathBuf,
}
