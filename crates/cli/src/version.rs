//! `skiff version`.

use std::process::ExitCode;

use serde::Serialize;

use crate::output::{Output, Row, print_one};

/// Show the version of Skiff and of the Kubernetes API that it serves
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    skiff: &'static str,
    kubernetes: &'static str,
}

impl Row for Version {
    const COLUMNS: &'static [&'static str] = &["SKIFF", "KUBERNETES"];

    fn cells(&self) -> Vec<String> {
        vec![self.skiff.to_owned(), self.kubernetes.to_owned()]
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    print_one(&Version { skiff: env!("CARGO_PKG_VERSION"), kubernetes: "v1.36.0" }, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}
