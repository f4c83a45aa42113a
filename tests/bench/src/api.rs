//! The API under load, and the scheduler behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::stats::Figure;
use crate::wire::Target;

const CLIENTS: usize = 32;

const RUNS: usize = 3;

const JSON: &str = "application/json";

/// What a [`load`] does with its next number, on one connection.
struct Operation {
    method: &'static str,
    media: &'static str,
    path: Box<dyn Fn(usize) -> String + Send + Sync>,
    body: Box<dyn Fn(usize) -> String + Send + Sync>,
}

/// A ConfigMap of 1 KB.
fn config_map(name: &str) -> String {
    let data = "x".repeat(850);
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"delay":"yes"}}}},"data":{{"key":"{data}"}}}}"#
    )
}

/// Runs `count` operations by 32 clients with a connection each, and tells how many a second.
async fn load(target: &Target, count: usize, operation: Operation) -> anyhow::Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let operation = Arc::new(operation);
    let mut wires = Vec::new();
    for _ in 0..CLIENTS {
        wires.push(target.connect().await?);
    }
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut wire in wires {
        let (next, operation) = (next.clone(), operation.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(());
                }
                let (path, body) = ((operation.path)(index), (operation.body)(index));
                wire.call(operation.method, &path, operation.media, &body).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

fn create(namespace: String, prefix: String) -> Operation {
    Operation {
        method: "POST",
        media: JSON,
        path: Box::new(move |_| format!("/api/v1/namespaces/{namespace}/configmaps")),
        body: Box::new(move |index| config_map(&format!("{prefix}{index}"))),
    }
}

/// The client's share of the CPU that it and the platform spend together.
struct Share<'a> {
    cluster: &'a Cluster,
    own: u64,
    platform: u64,
}

impl<'a> Share<'a> {
    fn begin(cluster: &'a Cluster) -> anyhow::Result<Self> {
        Ok(Self { cluster, own: own_cpu(), platform: platform_cpu(cluster)? })
    }

    fn end(self) -> anyhow::Result<String> {
        let own = (own_cpu() - self.own) as f64;
        let platform = (platform_cpu(self.cluster)? - self.platform) as f64;
        Ok(format!("{:.0} % of the CPU is the client's", own / (own + platform) * 100.0))
    }
}

fn own_cpu() -> u64 {
    crate::idle::cpu_nanoseconds(u64::from(std::process::id()))
}

fn platform_cpu(cluster: &Cluster) -> anyhow::Result<u64> {
    Ok(cluster.processes()?.into_iter().map(|(pid, _)| crate::idle::cpu_nanoseconds(pid)).sum())
}

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    const COUNT: usize = 16_000;
    let target = cluster.target()?;
    let (mut creates, mut gets, mut patches) = (Vec::new(), Vec::new(), Vec::new());
    let mut shares = Vec::new();
    for run in 0..RUNS {
        let share = Share::begin(cluster)?;
        creates.push(load(&target, COUNT, create("default".into(), format!("c{run}-"))).await?);
        shares.push(share.end()?);
        let share = Share::begin(cluster)?;
        let get = Operation {
            method: "GET",
            media: "",
            path: Box::new(move |index| {
                format!("/api/v1/namespaces/default/configmaps/c{run}-{}", index % COUNT)
            }),
            body: Box::new(|_| String::new()),
        };
        gets.push(load(&target, COUNT * 3, get).await?);
        shares.push(share.end()?);
        let share = Share::begin(cluster)?;
        let patch = Operation {
            method: "PATCH",
            media: "application/merge-patch+json",
            path: Box::new(move |index| format!("/api/v1/namespaces/default/configmaps/c{run}-{index}")),
            body: Box::new(|index| format!(r#"{{"data":{{"more":"{index}"}}}}"#)),
        };
        patches.push(load(&target, COUNT, patch).await?);
        shares.push(share.end()?);
    }
    let mut figures = vec![
        Figure::rate("create 1 KB ConfigMaps, 32 clients", &creates, 8_045.0).note(&shares[0]),
        Figure::rate("get 1 KB ConfigMaps, 32 clients", &gets, 20_530.0).note(&shares[1]),
        Figure::rate("merge patch 1 KB ConfigMaps, 32 clients", &patches, 7_625.0).note(&shares[2]),
    ];
    figures.push(list(cluster, &target).await?);
    Ok(figures)
}

pub(crate) async fn watch(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let share = Share::begin(cluster)?;
    let figure = watch_delay(&cluster.target()?).await?;
    Ok(vec![figure.note(&share.end()?)])
}

async fn list(cluster: &Cluster, target: &Target) -> anyhow::Result<Figure> {
    let mut wire = target.connect().await?;
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"many"}}"#;
    wire.call("POST", "/api/v1/namespaces", JSON, namespace).await?;
    load(target, 5_000, create("many".into(), "c".into())).await?;
    let mut rates = Vec::new();
    let share = Share::begin(cluster)?;
    for _ in 0..RUNS {
        let count = 200;
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let mut wire = target.connect().await?;
            tasks.spawn(async move {
                for _ in 0..count / 4 {
                    let bytes = wire.call("GET", "/api/v1/namespaces/many/configmaps", "", "").await?;
                    anyhow::ensure!(bytes.len() > 5_000 * 850, "the list is too short");
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        rates.push(f64::from(count) / begin.elapsed().as_secs_f64());
    }
    Ok(Figure::rate("list 5,000 × 1 KB ConfigMaps, 4 clients", &rates, 157.0).note(&share.end()?))
}

/// From before the write is sent until each of 100 watchers has it.
async fn watch_delay(target: &Target) -> anyhow::Result<Figure> {
    const WATCHERS: usize = 100;
    const WRITES: usize = 200;
    let mut wire = target.connect().await?;
    let configs = "/api/v1/namespaces/watched/configmaps";
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"watched"}}"#;
    wire.call("POST", "/api/v1/namespaces", JSON, namespace).await?;
    let list: Value = serde_json::from_slice(wire.call("GET", configs, "", "").await?)?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("no version")?;
    let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut tasks = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut events = target.connect().await?;
        events
            .watch(&format!("{configs}?watch=true&labelSelector=delay%3Dyes&resourceVersion={revision}"))
            .await?;
        let sent = sent.clone();
        tasks.spawn(async move {
            let mut seen = Vec::with_capacity(WRITES);
            while seen.len() < WRITES {
                let chunk = events.chunk().await?.context("the watch ended")?;
                let now = Instant::now();
                for index in names(chunk) {
                    seen.push((index, now));
                }
            }
            let sent = sent.lock().await;
            anyhow::Ok(seen.into_iter().map(|(index, at)| at - sent[index]).collect::<Vec<Duration>>())
        });
    }
    for index in 0..WRITES {
        let body = config_map(&format!("delay{index}"));
        sent.lock().await.push(Instant::now());
        wire.call("POST", configs, JSON, &body).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut delays = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        delays.extend(ended??);
    }
    Ok(Figure::times("watch delay, 100 watchers, write included", delays, Some(1.1), Some(4.5)))
}

/// The numbers in `"name":"delayN"` of a watch's bytes.
fn names(bytes: &[u8]) -> impl Iterator<Item = usize> {
    const START: &[u8] = br#""name":"delay"#;
    bytes.windows(START.len()).enumerate().filter(|(_, window)| *window == START).map(|(at, _)| {
        let digits = bytes[at + START.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    })
}

/// 3,000 pods on 1,000 nodes that nobody runs.
pub(crate) async fn schedule(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    const PODS: usize = 3_000;
    let target = cluster.target()?;
    let node = |index: usize| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("fake-{index}"),
                "labels": {"fake": "yes", "kubernetes.io/hostname": format!("fake-{index}")}},
            // The cluster's own pod range has no room for so many.
            "spec": {"podCIDR": pod_range(index), "podCIDRs": [pod_range(index)]},
        })
    };
    let nodes = Operation {
        method: "POST",
        media: JSON,
        path: Box::new(|_| "/api/v1/nodes".to_owned()),
        body: Box::new(move |index| node(index).to_string()),
    };
    load(&target, 1_000, nodes).await?;
    let resources = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
    let status = json!({"status": {"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Fake", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    .to_string();
    let statuses = Operation {
        method: "PATCH",
        media: "application/merge-patch+json",
        path: Box::new(|index| format!("/api/v1/nodes/fake-{index}/status")),
        body: Box::new(move |_| status.clone()),
    };
    load(&target, 1_000, statuses).await?;
    let untaint = Operation {
        method: "PATCH",
        media: "application/merge-patch+json",
        path: Box::new(|index| format!("/api/v1/nodes/fake-{index}")),
        body: Box::new(move |_| r#"{"spec":{"taints":null}}"#.to_owned()),
    };
    load(&target, 1_000, untaint).await?;
    let mut rates = Vec::new();
    let share = Share::begin(cluster)?;
    for run in 0..RUNS {
        let namespace = format!("run-{run}");
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let mut events = target.connect().await?;
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        events.call("POST", "/api/v1/namespaces", JSON, &object.to_string()).await?;
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        while events.call("GET", &account, "", "").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let list: Value = serde_json::from_slice(events.call("GET", &pods, "", "").await?)?;
        let revision = list["metadata"]["resourceVersion"].as_str().context("no version")?;
        // What has a node is all that this watch shows: no byte of it needs to be parsed.
        let path = format!("{pods}?watch=true&fieldSelector=spec.nodeName%21%3D&resourceVersion={revision}");
        events.watch(&path).await?;
        let bound = tokio::spawn(async move {
            let mut bound = 0;
            while bound < PODS {
                let chunk = events.chunk().await?.context("the watch ended")?;
                bound += chunk.windows(ADDED.len()).filter(|window| *window == ADDED).count();
            }
            anyhow::Ok(Instant::now())
        });
        let create = Operation {
            method: "POST",
            media: JSON,
            path: Box::new(move |_| pods.clone()),
            body: Box::new(|index| {
                json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{index}")},
                    "spec": {"nodeSelector": {"fake": "yes"}, "containers": [{"name": "main", "image": "none",
                        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
                })
                .to_string()
            }),
        };
        let begin = Instant::now();
        load(&target, PODS, create).await?;
        let end = tokio::time::timeout(Duration::from_secs(120), bound)
            .await
            .context("not all pods were bound")???;
        rates.push(PODS as f64 / (end - begin).as_secs_f64());
    }
    let figure = Figure::rate("3,000 pods created and bound on 1,000 nodes", &rates, 2_740.0);
    Ok(vec![figure.note(&share.end()?)])
}

fn pod_range(index: usize) -> String {
    format!("172.{}.{}.0/24", 16 + index / 256, index % 256)
}

const ADDED: &[u8] = br#""type":"ADDED""#;
