//! `skiff explain pending`.

use skiff_explain::pending::PendingExplanation;
use skiff_explain::text;

use super::{OfPod, ask, print};
use crate::Clusters;

/// Show why a pod does not run: node by node and filter by filter, or what it waits for on its node
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    of: OfPod,
}

pub(super) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let told: PendingExplanation = ask::pod(&args.of, "pending", clusters).await?;
    print(&told, args.of.output.format, text::pending)
}
