//! Measures a Skiff cluster of one node, from outside, as a client of its API.
//!
//! `skiff-bench RESULT.json [NAME]` runs all measurements, or those whose name contains NAME, against
//! clusters that it starts itself with `$SKIFF`, and appends each figure to the result.

mod access;
mod api;
mod cluster;
mod explain;
mod idle;
mod pods;
mod policies;
mod recovery;
mod services;
mod stats;
mod wire;

use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use crate::stats::Figure;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let result: PathBuf = args.next().context("usage: skiff-bench RESULT.json [NAME]")?.into();
    let filter = args.next().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut figures: Vec<Value> = Vec::new();
    let mut add = |new: Vec<Figure>| {
        for figure in new {
            println!("{}", figure.line());
            figures.push(figure.json());
        }
    };
    let wanted = |name: &str| name.contains(&filter);
    if wanted("start") {
        add(cluster::start_times(5)?);
    }
    if wanted("api") {
        let cluster = cluster::Cluster::start("bench-api", &[])?;
        add(runtime.block_on(api::measure(&cluster))?);
    }
    if wanted("watch") {
        let cluster = cluster::Cluster::start("bench-watch", &[])?;
        // One thread: the fewer it wakes, the less of the delay is the client's own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        add(runtime.block_on(api::watch(&cluster))?);
    }
    if wanted("access") {
        let cluster = cluster::Cluster::start("bench-access", &[])?;
        add(runtime.block_on(access::measure(&cluster))?);
    }
    if wanted("schedule") {
        let cluster = cluster::Cluster::start("bench-schedule", &[])?;
        add(runtime.block_on(api::schedule(&cluster))?);
    }
    if wanted("pods") {
        let cluster = cluster::Cluster::start("bench-pods", &["--images"])?;
        add(runtime.block_on(pods::measure(&cluster))?);
    }
    if wanted("contexts") {
        let cluster = cluster::Cluster::start("bench-contexts", &["--images"])?;
        add(runtime.block_on(pods::contexts(&cluster))?);
    }
    if wanted("services") {
        let cluster = cluster::Cluster::start("bench-services", &["--images"])?;
        add(runtime.block_on(services::measure(&cluster))?);
    }
    if wanted("policies") {
        let cluster = cluster::Cluster::start("bench-policies", &["--images"])?;
        add(runtime.block_on(policies::measure(&cluster))?);
    }
    if wanted("explain") {
        let cluster = cluster::Cluster::start("bench-explain", &["--images", "--nodes", explain::NODES])?;
        add(runtime.block_on(explain::measure(&cluster))?);
        drop(cluster);
        let cluster = cluster::Cluster::start("bench-explain", &["--images", "--nodes", explain::NODES])?;
        add(runtime.block_on(explain::many(&cluster))?);
    }
    if wanted("recovery") {
        let cluster = cluster::Cluster::start(recovery::NAME, &[])?;
        add(runtime.block_on(recovery::measure(&cluster))?);
    }
    if wanted("idle") {
        let cluster = cluster::Cluster::start("bench-idle", &["--images"])?;
        add(runtime.block_on(idle::measure(&cluster))?);
    }
    std::fs::write(&result, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("cannot write {}", result.display()))
}
