//! Pods, from their creation to running, and what each costs.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_client::{Client, DeleteOptions, ListParams, WatchEvent};

use crate::cluster::Cluster;
use crate::stats::Figure;

pub(crate) fn pod(name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "alpine",
            "imagePullPolicy": "IfNotPresent", "command": ["/bin/sleep", "999999"]}]},
    }))?)
}

/// Creates pods and waits until all are Ready.
pub(crate) async fn start(client: &Client, names: &[String]) -> anyhow::Result<Duration> {
    let params = ListParams { namespace: Some("default".into()), ..ListParams::default() };
    let list = client.list::<Pod>(&params).await?;
    let mut events =
        client.watch::<Pod>(&ListParams { resource_version: Some(list.resource_version), ..params }).await?;
    let begin = Instant::now();
    let creating = futures_util::future::try_join_all(names.iter().map(async |name| {
        client.create(&pod(name)?).await?;
        anyhow::Ok(())
    }));
    let waiting = async {
        let mut missing: std::collections::HashSet<&String> = names.iter().collect();
        while !missing.is_empty() {
            if let WatchEvent::Modified(pod) = events.next().await.context("the watch ended")??
                && ready(&pod)
                && let Some(name) = &pod.metadata.name
            {
                missing.remove(name);
            }
        }
        anyhow::Ok(begin.elapsed())
    };
    let (_, took) =
        tokio::time::timeout(Duration::from_secs(120), async { tokio::try_join!(creating, waiting) })
            .await
            .context("not all pods became Ready within 120 s")??;
    Ok(took)
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn remove(client: &Client, names: &[String]) -> anyhow::Result<()> {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    for name in names {
        client.delete::<Pod>("default", name, &options).await?;
    }
    Ok(())
}

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let client = cluster.client()?;
    start(&client, &["warm-up".to_owned()]).await?;
    let mut times = Vec::new();
    for index in 0..50 {
        let names = [format!("one-{index}")];
        times.push(start(&client, &names).await?);
        remove(&client, &names).await?;
    }
    let one = Figure::times("pod start, image present, one by one", times);
    let exec = exec(cluster)?;
    let before = own_memory(cluster)?;
    let names: Vec<String> = (0..50).map(|index| format!("many-{index}")).collect();
    let took = start(&client, &names).await?;
    let burst = Figure::rate("50 pods at once", 50, took);
    let after = own_memory(cluster)?;
    let per_pod = after.saturating_sub(before) as f64 / 50.0 / 1e6;
    let memory = Figure::new("memory per pod: shim and pause, PSS", format!("{per_pod:.2} MB"));
    Ok(vec![one, burst, memory, exec])
}

/// PSS of shims and pause containers.
fn own_memory(cluster: &Cluster) -> anyhow::Result<u64> {
    let shims = cluster.processes()?.into_iter().filter(|(_, role)| role == "shim").map(|(pid, _)| pid);
    let shims: Vec<u64> = shims.collect();
    // A pause container is a child of its shim.
    let pauses = shims.iter().flat_map(|pid| children(*pid)).filter(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"/pause")
    });
    Ok(shims.iter().copied().chain(pauses).map(crate::idle::pss_bytes).sum())
}

fn children(pid: u64) -> Vec<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What `kubectl exec POD -- true` takes over `kubectl get pod`, which pays for kubectl itself.
fn exec(cluster: &Cluster) -> anyhow::Result<Figure> {
    let kubectl = std::env::var_os("KUBECTL").context("KUBECTL is not set: run `cargo xtask bench`")?;
    let time = |args: &[&str]| {
        let begin = Instant::now();
        let status = Command::new(&kubectl)
            .args(args)
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdout(std::process::Stdio::null())
            .status()?;
        anyhow::ensure!(status.success(), "kubectl {} failed", args.join(" "));
        anyhow::Ok(begin.elapsed())
    };
    let mut times = Vec::new();
    for _ in 0..20 {
        let base = time(&["get", "pod", "warm-up"])?;
        let exec = time(&["exec", "warm-up", "--", "/bin/true"])?;
        times.push(exec.saturating_sub(base));
    }
    Ok(Figure::times("exec round trip, over `kubectl get`", times))
}
