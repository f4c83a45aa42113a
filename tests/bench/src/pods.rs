//! Pods, from their creation to running, and what each costs.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::stats::{Bar, Figure};
use crate::wire::Target;

const PODS: &str = "/api/v1/namespaces/default/pods";

const JSON: &str = "application/json";

/// Names that begin so are of pods with contexts.
const SECURED: &str = "secured-";

fn pod(name: &str) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "alpine",
            "imagePullPolicy": "IfNotPresent", "command": ["/bin/sleep", "999999"]}]},
    });
    if name.starts_with(SECURED) {
        pod["spec"]["securityContext"] = json!({
            "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": [3000],
            "seccompProfile": {"type": "RuntimeDefault"},
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}],
        });
        pod["spec"]["containers"][0]["securityContext"] = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        });
    }
    pod.to_string()
}

/// Creates pods and waits until all are Ready.
pub(crate) async fn start(target: &Target, names: &[String]) -> anyhow::Result<Duration> {
    let (mut wire, mut events) = (target.connect().await?, target.connect().await?);
    let list: Value = serde_json::from_slice(wire.call("GET", PODS, "", "").await?)?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("no version")?;
    events.watch(&format!("{PODS}?watch=true&resourceVersion={revision}")).await?;
    let begin = Instant::now();
    let creating = async {
        for name in names {
            wire.call("POST", PODS, JSON, &pod(name)).await?;
        }
        anyhow::Ok(())
    };
    let waiting = async {
        let mut missing: HashSet<&str> = names.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            let chunk = events.chunk().await?.context("the watch ended")?;
            for line in chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let event: Value = serde_json::from_slice(line).context("a chunk is no whole event")?;
                if ready(&event["object"])
                    && let Some(name) = event["object"]["metadata"]["name"].as_str()
                {
                    missing.remove(name);
                }
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

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub(crate) async fn remove(target: &Target, names: &[String]) -> anyhow::Result<()> {
    let mut wire = target.connect().await?;
    for name in names {
        wire.call("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=0"), "", "").await?;
    }
    Ok(())
}

/// Waits until none of the pods exists any more.
pub(crate) async fn none_left(target: &Target, names: &[String]) -> anyhow::Result<()> {
    let mut wire = target.connect().await?;
    for _ in 0..3_000 {
        let list: Value = serde_json::from_slice(wire.call("GET", PODS, "", "").await?)?;
        let left = list["items"].as_array().context("no list")?.iter().any(|pod| {
            pod["metadata"]["name"].as_str().is_some_and(|name| names.iter().any(|ours| ours == name))
        });
        if !left {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("deleted pods still exist after a minute")
}

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    start(&target, &["warm-up".to_owned()]).await?;
    let mut times = Vec::new();
    for index in 0..50 {
        let names = [format!("one-{index}")];
        times.push(start(&target, &names).await?);
        remove(&target, &names).await?;
    }
    let one = Figure::times("pod start, image present, one by one", times, Some(60.0), Some(150.0));
    let exec = exec(cluster)?;
    let mut rates = Vec::new();
    let before = own_memory(cluster)?;
    let mut names = Vec::new();
    for run in 0..3 {
        remove(&target, &names).await?;
        none_left(&target, &names).await?;
        names = (0..50).map(|index| format!("many-{run}-{index}")).collect();
        rates.push(50.0 / start(&target, &names).await?.as_secs_f64());
    }
    let burst = Figure::rate("50 pods at once", &rates, 40.0);
    let after = own_memory(cluster)?;
    let per_pod = after.saturating_sub(before) as f64 / 50.0 / 1e6;
    let memory = Figure::new("memory per pod: shim and pause, PSS", format!("{per_pod:.2} MB")).bar(
        per_pod,
        Bar::AtMost(1.0),
        "MB",
    );
    Ok(vec![one, burst, memory, exec])
}

/// What a filter and contexts add to a pod's start: pods with and without take turns, so that both meet the same
/// machine.
pub(crate) async fn contexts(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    start(&target, &["warm-up".to_owned(), format!("{SECURED}warm-up")]).await?;
    let (mut plain, mut secured) = (Vec::new(), Vec::new());
    for index in 0..60 {
        for (times, names) in
            [(&mut plain, [format!("plain-{index}")]), (&mut secured, [format!("{SECURED}{index}")])]
        {
            times.push(start(&target, &names).await?);
            remove(&target, &names).await?;
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let (plain, secured) = (median(&mut plain), median(&mut secured));
    let extra = secured - plain;
    let text = format!("{extra:.2} ms (a start's p50 is {secured:.2} ms, {plain:.2} ms without, 60 of each)");
    let figure = Figure::new("a filter and security contexts: added to a pod's start", text);
    Ok(vec![figure.bar(extra, Bar::AtMost(5.0), "ms")])
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

/// What `kubectl exec POD -- true` takes, and beside it `kubectl get pod`, which pays for kubectl itself.
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
    let (mut gets, mut execs) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        gets.push(time(&["get", "pod", "warm-up"])?);
        execs.push(time(&["exec", "warm-up", "--", "/bin/true"])?);
    }
    gets.sort();
    let base = gets[gets.len() / 2].as_secs_f64() * 1e3;
    let figure = Figure::times("`kubectl exec POD -- true`, kubectl included", execs, None, None);
    Ok(figure.note(&format!("`kubectl get pod` takes {base:.1} ms")))
}
