//! `skiff explain`: what a pod shares, why it waits, how its start went. A client of the API group
//! `explain.skiff.dev`, one file a command.

mod ask;
mod node;
mod pending;
mod pod;
mod start;
pub(crate) mod trace;

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use skiff_explain::text::Paint;

use crate::output::{Format, Output};
use crate::{Clusters, Connection};

/// Explain from the running system what a pod shares, why it waits, and how its start went
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pod(pod::Args),
    Node(node::Args),
    Pending(pending::Args),
    Start(start::Args),
}

/// What every explanation of a pod is told.
#[derive(Debug, clap::Args)]
struct OfPod {
    /// Name of the pod
    #[arg(value_name = "NAME")]
    pod: String,
    /// Its namespace [default: that of the kubeconfig's context]
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    match &args.command {
        Command::Pod(args) => pod::run(args, clusters).await,
        Command::Node(args) => node::run(args, clusters).await,
        Command::Pending(args) => pending::run(args, clusters).await,
        Command::Start(args) => start::run(args, clusters).await,
    }
}

/// Prints an answer; colour only where it is read on a terminal.
fn print<T: Serialize>(
    told: &T,
    format: Format,
    text: impl FnOnce(&T, Paint) -> String,
) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = match format {
        Format::Table => text(told, if colours { Paint::Colour } else { Paint::Plain }),
        Format::Json => serde_json::to_string_pretty(told).context("cannot encode")? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(told).context("cannot encode")?,
    };
    match out.write_all(text.as_bytes()) {
        // A reader such as `head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write the output"),
    }
}
