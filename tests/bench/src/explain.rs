//! Explanations: what one costs, what many at once cost, and what pods notice of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::pods;
use crate::stats::{Bar, Figure};
use crate::wire::{Target, Wire};

/// More than one node takes.
const MANY: usize = 250;

/// The cluster needs this many nodes: the first takes no pods, the others 110 each.
pub(crate) const NODES: &str = "4";

fn path(name: &str) -> String {
    format!("/apis/explain.skiff.dev/v1/namespaces/default/pods{name}")
}

/// An answer that lacks nothing.
async fn explained(wire: &mut Wire, name: &str) -> anyhow::Result<Value> {
    let told: Value = serde_json::from_slice(wire.call("GET", &path(name), "", "").await?)?;
    anyhow::ensure!(
        told["missing"].is_null() && told["past"].is_null(),
        "not all is known: {} {}",
        told["missing"],
        told["past"]
    );
    Ok(told)
}

async fn one_by_one(target: &Target) -> anyhow::Result<Vec<std::time::Duration>> {
    let mut times = Vec::new();
    for index in 0..30 {
        let names = [format!("explained-{index}")];
        times.push(pods::start(target, &names).await?);
        pods::remove(target, &names).await?;
        pods::none_left(target, &names).await?;
    }
    Ok(times)
}

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let mut wire = target.connect().await?;
    pods::start(&target, &["warm-up".to_owned()]).await?;
    let mut one = Vec::new();
    for _ in 0..100 {
        let begin = Instant::now();
        explained(&mut wire, "/warm-up").await?;
        one.push(begin.elapsed());
    }
    let one = Figure::times("explain one pod, 1 pod on the node", one, Some(30.0), None);

    let alone = one_by_one(&target).await?;
    let ended = AtomicBool::new(false);
    let asking = async {
        let (mut wire, mut count) = (target.connect().await?, 0u64);
        while !ended.load(Ordering::Relaxed) {
            wire.call("GET", &path("/warm-up"), "", "").await?;
            count += 1;
        }
        anyhow::Ok(count)
    };
    let starting = async {
        let times = one_by_one(&target).await;
        ended.store(true, Ordering::Relaxed);
        times
    };
    let (count, meanwhile) = tokio::join!(asking, starting);
    let (count, meanwhile) = (count?, meanwhile?);
    let alone = Figure::times("pod start on 3 nodes, nobody asks", alone, None, None);
    let meanwhile = Figure::times("pod start on 3 nodes while explain runs in a loop", meanwhile, None, None);
    let meanwhile = meanwhile.note(&format!("{count} explanations meanwhile"));

    let names: Vec<String> = (0..MANY).map(|index| format!("many-{index}")).collect();
    pods::start(&target, &names).await?;
    let memory = |cluster: &Cluster| -> anyhow::Result<u64> {
        let own = cluster.processes()?.into_iter().filter(|(_, role)| role == "server" || role == "agent");
        Ok(own.map(|(pid, _)| crate::idle::pss_bytes(pid)).sum())
    };
    let mut crowded = Vec::new();
    for _ in 0..30 {
        let begin = Instant::now();
        explained(&mut wire, "/warm-up").await?;
        crowded.push(begin.elapsed());
    }
    let crowded =
        Figure::times(&format!("explain one pod, {MANY} pods on 3 nodes"), crowded, Some(30.0), None);
    let mut all = Vec::new();
    let mut before = 0;
    for round in 0..12 {
        let begin = Instant::now();
        let told = explained(&mut wire, "").await?;
        all.push(begin.elapsed());
        let count = told["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(count > MANY, "{count} of {} pods are told", MANY + 1);
        if round == 1 {
            before = memory(cluster)?;
        }
    }
    let kept = memory(cluster)?.saturating_sub(before) as f64 / 1e6;
    let all = Figure::times(&format!("explain {MANY} pods at once"), all, Some(1_000.0), None);
    let name = format!("what explaining {MANY} pods ten times leaves in memory, server and 4 agents, PSS");
    let kept = Figure::new(name, format!("{kept:.2} MB")).bar(kept, Bar::AtMost(1.0), "MB");
    Ok(vec![one, crowded, all, alone, meanwhile, kept])
}
