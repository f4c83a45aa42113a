//! `skiff explain node`.

use skiff_explain::node::NodeExplanation;
use skiff_explain::text;

use super::{ask, print};
use crate::output::Output;
use crate::{Clusters, Connection};

/// Show a node's own namespaces, and which pods are in them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the node
    node: String,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let client = args.connection.client(clusters)?;
    let told: NodeExplanation = ask::node(&client, &args.node).await?;
    print(&told, args.output.format, text::node)
}
