//! `skiff ps`: what the nodes' runtimes run, pause sandboxes included.

use anyhow::Context;
use http::Method;
use serde::{Deserialize, Serialize};
use skiff_client::empty;

use crate::image::{call, json, node_names};
use crate::output::{Output, Row, age, print};
use crate::{Clusters, Connection};

/// List pods, their pause sandboxes and their containers as the nodes' runtimes know them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Only of this node
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// A process group of a node, as its agent tells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PsRow {
    #[serde(default)]
    node: String,
    namespace: String,
    pod: String,
    /// `pause` for the sandbox.
    name: String,
    id: String,
    #[serde(default)]
    image: String,
    state: String,
    /// In the node's PID namespace; 0 unless it runs.
    pid: u32,
    age_seconds: u64,
}

impl Row for PsRow {
    const COLUMNS: &'static [&'static str] =
        &["NODE", "NAMESPACE", "POD", "NAME", "ID", "IMAGE", "STATE", "PID", "AGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            self.namespace.clone(),
            self.pod.clone(),
            self.name.clone(),
            self.id.chars().take(12).collect(),
            self.image.clone(),
            self.state.clone(),
            self.pid.to_string(),
            age(self.age_seconds),
        ]
    }
}

pub(crate) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let client = args.connection.client(clusters)?;
    let nodes = match &args.node {
        Some(node) => vec![node.clone()],
        None => node_names(&client).await?,
    };
    let mut rows = Vec::new();
    for node in nodes {
        let body = call(&client, Method::GET, &node, "ps", empty()).await;
        let body = body.with_context(|| format!("cannot ask {node} what it runs"))?;
        let mut own: Vec<PsRow> = json(body).await?;
        own.iter_mut().for_each(|row| row.node.clone_from(&node));
        rows.extend(own);
    }
    print(&rows, args.output.format)
}
