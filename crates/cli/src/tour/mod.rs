//! `skiff tour`: the scenarios one after the other, each explained by the running system.
//!
//! What is typed is in `steps`, what is said about it in `texts`; `scene` is where commands run, `play` goes
//! from step to step, and `events` is what somebody at the terminal does meanwhile.

mod events;
mod play;
mod scene;
mod steps;
mod texts;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;

use crate::{Clusters, Connection};
use scene::Scene;

/// Show by experiment what a pod shares with its host, step by step
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language: en, ko or zh [default: that of $LANG]
    #[arg(long)]
    lang: Option<String>,
    /// Don't wait for Enter
    #[arg(long)]
    yes: bool,
    /// Take away what an earlier tour left, and end
    #[arg(long, conflicts_with = "page")]
    clean: bool,
    /// Print the tour as a page of documentation, and end
    #[arg(long)]
    page: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let texts = match &args.lang {
        Some(code) => texts::named(code).with_context(|| {
            let known: Vec<&str> = texts::codes().collect();
            let near = skiff_explain::nearest::nearest(code, known.iter().copied());
            let near = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            format!("the tour is not told in {code:?} (only in {}){near}", known.join(", "))
        })?,
        None => texts::of_environment(&std::env::var("LANG").unwrap_or_default()),
    };
    if args.page {
        return write_out(&texts::page(texts));
    }
    if !args.yes && !args.clean {
        events::somebody_is_there()?;
    }
    let kubeconfig = args.connection.kubeconfig(clusters)?;
    let kubectl = find_kubectl()?;
    let events = events::Events::listen()?;
    let scene = Scene::new(&kubeconfig, &kubectl, &events)?;
    if args.clean {
        return scene.clean();
    }
    play::play(&scene, texts, &events, args.yes)
}

fn find_kubectl() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.is_file());
    found.context("the tour types kubectl's commands, but no kubectl is on PATH: install it first")
}

fn write_out(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write the output")
}
