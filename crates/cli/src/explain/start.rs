//! `skiff explain start`.

use skiff_explain::start::StartExplanation;
use skiff_explain::text;

use super::{OfPod, ask, print};
use crate::Clusters;

/// Show where the time of a pod's start went, phase by phase
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    of: OfPod,
}

pub(super) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let told: StartExplanation = ask::pod(&args.of, "start", clusters).await?;
    print(&told, args.of.output.format, text::start)
}
