//! `skiff explain pod`.

use skiff_explain::pod::PodExplanation;
use skiff_explain::text;

use super::{OfPod, ask, print};
use crate::Clusters;

/// Show each of a pod's namespaces, whether it is the pod's own or the node's, and what that exposes
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    of: OfPod,
}

pub(super) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let told: PodExplanation = ask::pod(&args.of, "", clusters).await?;
    print(&told, args.of.output.format, text::pod)
}
