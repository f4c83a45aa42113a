//! Explanations: what one costs, what many at once cost, and what pods notice of it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::idle::{SETTLE, pss_bytes};
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

/// What one explanation costs, what pods notice of many, and how long one takes that lacks a node's answer.
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
    Ok(vec![one, alone, meanwhile, silent(cluster, &mut wire).await?])
}

/// The pod's own node is the one that is silent: no other's answer is waited for.
async fn silent(cluster: &Cluster, wire: &mut Wire) -> anyhow::Result<Figure> {
    let pod: Value =
        serde_json::from_slice(wire.call("GET", "/api/v1/namespaces/default/pods/warm-up", "", "").await?)?;
    let node = pod["spec"]["nodeName"].as_str().context("it is on no node")?;
    let agent = Pid::from_raw(cluster.process(node, "agent")?);
    kill(agent, Signal::SIGSTOP).context("cannot stop the agent")?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let told: Value = serde_json::from_slice(wire.call("GET", &path("/warm-up"), "", "").await?)?;
        times.push(begin.elapsed());
        anyhow::ensure!(told["missing"].to_string().contains(node), "{node} answered: {}", told["missing"]);
    }
    kill(agent, Signal::SIGCONT).context("cannot let the agent go on")?;
    Ok(Figure::times("explain pod with one of the nodes silent, the pod's own", times, None, Some(3_000.0)))
}

/// The way from one pod to another, as the kernels of their nodes have it.
async fn traced(wire: &mut Wire) -> anyhow::Result<Figure> {
    const PATH: &str =
        "/apis/explain.skiff.dev/v1/namespaces/default/traces?from=pod/many-0&to=pod/many-1:80";
    let mut times = Vec::new();
    for _ in 0..30 {
        let begin = Instant::now();
        let told: Value = serde_json::from_slice(wire.call("GET", PATH, "", "").await?)?;
        times.push(begin.elapsed());
        let verdict = told["ways"][0]["verdict"].as_str().unwrap_or_default();
        anyhow::ensure!(!matches!(verdict, "" | "Unknown"), "no way is known: {told}");
    }
    Ok(Figure::times(&format!("trace from pod to pod, {MANY} pods on 3 nodes"), times, None, None))
}

/// What explaining many pods costs, and what is left of it and of them in memory.
pub(crate) async fn many(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let mut wire = target.connect().await?;
    let memory = || -> anyhow::Result<f64> {
        let own = cluster.processes()?.into_iter().filter(|(_, role)| role == "server" || role == "agent");
        Ok(own.map(|(pid, _)| pss_bytes(pid)).sum::<u64>() as f64 / 1e6)
    };
    // Before there was a pod to know anything of.
    tokio::time::sleep(SETTLE).await;
    let before = memory()?;
    let names: Vec<String> = (0..MANY).map(|index| format!("many-{index}")).collect();
    pods::start(&target, &names).await?;
    tokio::time::sleep(SETTLE).await;
    let running = memory()?;
    let mut crowded = Vec::new();
    for _ in 0..30 {
        let begin = Instant::now();
        explained(&mut wire, "/many-0").await?;
        crowded.push(begin.elapsed());
    }
    let crowded =
        Figure::times(&format!("explain one pod, {MANY} pods on 3 nodes"), crowded, Some(30.0), None);
    let traced = traced(&mut wire).await?;
    let mut all = Vec::new();
    for _ in 0..10 {
        let begin = Instant::now();
        let told = explained(&mut wire, "").await?;
        all.push(begin.elapsed());
        let count = told["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(count == MANY, "{count} of {MANY} pods are told");
    }
    let all = Figure::times(&format!("explain {MANY} pods at once"), all, Some(1_000.0), None);
    tokio::time::sleep(SETTLE).await;
    let explained = memory()?;
    // What is known of pods outlives them; what they cost themselves, and their events, does not.
    pods::remove(&target, &names).await?;
    pods::none_left(&target, &names).await?;
    wire.call("DELETE", "/api/v1/namespaces/default/events", "", "").await?;
    tokio::time::sleep(SETTLE).await;
    let left = memory()? - before;
    let name = format!(
        "what {MANY} pods that were explained ten times leave in memory when they are gone, against before the \
         first of them: server and 4 agents, PSS, watch history and program pages included"
    );
    let left = Figure::new(name, format!("{left:.2} MB")).note(&format!(
        "{:.2} MB while they ran, of which {:.2} MB came with the explanations",
        explained - before,
        explained - running
    ));
    Ok(vec![crowded, traced, all, kept()?, left])
}

/// What the facts of pods take that are kept after them: all that the allocator hands out for them, weighed by
/// the program beside this one.
fn kept() -> anyhow::Result<Figure> {
    let program = std::env::current_exe()?.with_file_name("skiff-bench-facts");
    let output =
        Command::new(&program).output().with_context(|| format!("cannot run {}", program.display()))?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).context("it weighed nothing")?;
    let part = |name: &str| {
        told[name].as_f64().map(|bytes| bytes / 1e6).with_context(|| format!("{name} was not weighed"))
    };
    let both = part("both")?;
    let name = format!(
        "keeping the facts of the last {} pods: all that the allocator hands out for them, in the server and in \
         the agent of a node where all of them ran and {} wait",
        told["pods"], told["waiting"]
    );
    let parts = format!("{:.2} MB in the server, {:.2} MB in the agent", part("server")?, part("agent")?);
    Ok(Figure::new(name, format!("{both:.2} MB")).bar(both, Bar::AtMost(1.0), "MB").note(&parts))
}
