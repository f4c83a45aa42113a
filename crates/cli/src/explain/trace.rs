//! `skiff trace`: the way of a connection, hop by hop.

use http::StatusCode;
use serde_json::Value;
use skiff_explain::path::encoded;
use skiff_explain::text;
use skiff_explain::trace::{TraceComparison, TraceExplanation};

use super::{ask, print};
use crate::output::Output;
use crate::{Clusters, Connection};

/// Show the way of a connection: every device, route, rule, translation and policy verdict on it
///
/// FROM and TO are pod/NAME, svc/NAME, node/NAME or an address; FROM may also be `external`. A name alone
/// is a pod's or else a service's. Nothing is sent, unless --live asks for it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who begins the connection
    from: String,
    /// Where it goes: TO[:PORT][/udp]
    to: String,
    /// Namespace of pods and services [default: that of the kubeconfig's context]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Put all ways to the pod TO side by side: its address, host ports, services and node ports
    #[arg(long)]
    compare: bool,
    /// Make one real connection too, and mark where it was seen
    #[arg(long, conflicts_with = "compare")]
    live: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let client = args.connection.client(clusters)?;
    let namespace = ask::namespace(args.namespace.as_deref(), &args.connection, clusters)?;
    let mut path = format!(
        "/apis/{}/namespaces/{}/traces?from={}&to={}",
        skiff_explain::API_VERSION,
        encoded(&namespace),
        encoded(&args.from),
        encoded(&args.to)
    );
    for (wanted, name) in [(args.compare, "compare"), (args.live, "live")] {
        if wanted {
            path = format!("{path}&{name}=true");
        }
    }
    let (status, value) = ask::fetch(&client, &path).await?;
    if status != StatusCode::OK {
        anyhow::bail!("{}", value["message"].as_str().unwrap_or("the server gave no reason"));
    }
    match args.compare {
        true => print(&told::<TraceComparison>(value)?, args.output.format, text::comparison),
        false => print(&told::<TraceExplanation>(value)?, args.output.format, text::trace),
    }
}

fn told<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value).map_err(|error| anyhow::anyhow!("cannot decode the answer: {error}"))
}
