//! `skiff kubectl`: the kubectl on PATH with this cluster's credentials.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::{Clusters, Connection};

/// Run the kubectl found on PATH against this cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// What kubectl is to do
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<ExitCode> {
    let kubeconfig = args.connection.kubeconfig(clusters)?;
    match Command::new("kubectl").args(&args.args).env("KUBECONFIG", kubeconfig).status() {
        Ok(status) => Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "kubectl is not on PATH: install the Debian package kubernetes-client, or put any kubectl there"
            )
        }
        Err(error) => Err(error).context("cannot run kubectl"),
    }
}
