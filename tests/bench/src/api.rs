//! The API under load, and the scheduler behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::json;
use skiff_client::{Client, ListParams, Patch, WatchEvent};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::stats::Figure;

const CLIENTS: usize = 32;

/// A ConfigMap of about 1 KB.
fn config_map(name: &str) -> anyhow::Result<ConfigMap> {
    let data = BTreeMap::from([("key".to_owned(), "x".repeat(850))]);
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data});
    Ok(serde_json::from_value(object)?)
}

/// Runs `count` operations by 32 clients with a connection each.
async fn load<F, R>(name: &str, cluster: &Cluster, count: usize, operation: F) -> anyhow::Result<Figure>
where
    F: Fn(Client, usize) -> R + Copy + Send + Sync + 'static,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|_| cluster.client()).collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for client in clients {
        let next = next.clone();
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(());
                }
                operation(client.clone(), index).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(Figure::rate(name, count, begin.elapsed()))
}

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let count = 20_000;
    let create = load("create 1 KB ConfigMaps, 32 clients", cluster, count, |client, index| async move {
        client.create(&config_map(&format!("c{index}"))?).await?;
        Ok(())
    })
    .await?;
    let get = load("get 1 KB ConfigMaps, 32 clients", cluster, count * 2, |client, index| async move {
        client.get::<ConfigMap>("default", &format!("c{}", index % 20_000)).await?;
        Ok(())
    })
    .await?;
    let patch = load("merge patch 1 KB ConfigMaps, 32 clients", cluster, count, |client, index| async move {
        let patch = Patch::Merge(json!({"data": {"more": format!("{index}")}}));
        client.patch::<ConfigMap>("default", &format!("c{index}"), None, &patch).await?;
        Ok(())
    })
    .await?;
    let delay = watch_delay(cluster).await?;
    let listing = list(cluster).await?;
    Ok(vec![create, get, patch, listing, delay])
}

async fn list(cluster: &Cluster) -> anyhow::Result<Figure> {
    let client = cluster.client()?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}});
    client.create::<k8s_openapi::api::core::v1::Namespace>(&serde_json::from_value(namespace)?).await?;
    load("", cluster, 5_000, |client, index| async move {
        let mut object = config_map(&format!("c{index}"))?;
        object.metadata.namespace = Some("many".to_owned());
        client.create(&object).await?;
        Ok(())
    })
    .await?;
    let count = 100;
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let client = cluster.client()?;
        tasks.spawn(async move {
            for _ in 0..count / 4 {
                let request =
                    http::Request::get("/api/v1/namespaces/many/configmaps").body(skiff_client::empty())?;
                let body = client.send(request).await?.into_body();
                // Read, not parsed: what the client does with it is not the server's time.
                let bytes = http_body_util::BodyExt::collect(body)
                    .await
                    .map_err(|error| anyhow::anyhow!(error))?
                    .to_bytes();
                anyhow::ensure!(bytes.len() > 5_000 * 850, "the list is too short");
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(Figure::rate("list 5,000 × 1 KB ConfigMaps, 4 clients", count, begin.elapsed()))
}

/// From before the write is sent until each of 100 watchers has it.
async fn watch_delay(cluster: &Cluster) -> anyhow::Result<Figure> {
    const WATCHERS: usize = 100;
    const WRITES: usize = 100;
    let params = ListParams {
        namespace: Some("default".into()),
        label_selector: Some("delay=yes".into()),
        ..ListParams::default()
    };
    let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let delays: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let mut tasks = JoinSet::new();
    let list = cluster.client()?.list::<ConfigMap>(&params).await?;
    for _ in 0..WATCHERS {
        let client = cluster.client()?;
        let params = ListParams { resource_version: Some(list.resource_version.clone()), ..params.clone() };
        let mut events = client.watch::<ConfigMap>(&params).await?;
        let (sent, delays) = (sent.clone(), delays.clone());
        tasks.spawn(async move {
            let mut seen = 0;
            while seen < WRITES {
                let event = events.next().await.context("the watch ended")??;
                let now = Instant::now();
                if let WatchEvent::Added(object) = event {
                    let index: usize = object
                        .metadata
                        .name
                        .as_deref()
                        .unwrap_or_default()
                        .trim_start_matches("delay")
                        .parse()?;
                    let at = sent.lock().await[index];
                    delays.lock().await.push(now - at);
                    seen += 1;
                }
            }
            // Dropped here, after all was seen: a dropped client cuts its watch.
            drop(client);
            anyhow::Ok(())
        });
    }
    let client = cluster.client()?;
    for index in 0..WRITES {
        let mut object = config_map(&format!("delay{index}"))?;
        object.metadata.labels = Some(BTreeMap::from([("delay".to_owned(), "yes".to_owned())]));
        sent.lock().await.push(Instant::now());
        client.create(&object).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let delays = delays.lock().await.clone();
    Ok(Figure::times("watch delay, 100 watchers, write included", delays))
}

/// 3,000 pods on 1,000 nodes that nobody runs.
pub(crate) async fn schedule(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    const PODS: usize = 3_000;
    load("", cluster, 1_000, |client, index| async move {
        let resources = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("fake-{index}"), "labels": {"fake": "yes", "kubernetes.io/hostname": format!("fake-{index}")}},
            "status": {"capacity": resources, "allocatable": resources,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Fake", "message": "",
                    "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        let node: Node = serde_json::from_value(node)?;
        client.create(&node).await?;
        // Another writer, the node controllers, may be between.
        while let Err(error) = client.update_status(&node).await {
            anyhow::ensure!(error.is_conflict(), "{error}");
        }
        Ok(())
    })
    .await?;
    let client = cluster.client()?;
    let params = ListParams { namespace: Some("default".into()), ..ListParams::default() };
    let list = client.list::<Pod>(&params).await?;
    let mut events = client
        .watch::<Pod>(&ListParams { resource_version: Some(list.resource_version), ..params.clone() })
        .await?;
    let begin = Instant::now();
    let bound = tokio::spawn(async move {
        let mut bound = std::collections::HashSet::new();
        while bound.len() < PODS {
            match events.next().await.context("the watch ended")?? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                        bound.insert(pod.metadata.uid.clone());
                    }
                }
                _ => {}
            }
        }
        anyhow::Ok(Instant::now())
    });
    load("", cluster, PODS, |client, index| async move {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{index}"), "namespace": "default"},
            "spec": {"nodeSelector": {"fake": "yes"}, "containers": [{"name": "main", "image": "none",
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
        });
        client.create::<Pod>(&serde_json::from_value(pod)?).await?;
        Ok(())
    })
    .await?;
    let end = tokio::time::timeout(Duration::from_secs(120), bound)
        .await
        .context("not all pods were bound")???;
    Ok(vec![Figure::rate("3,000 pods created and bound on 1,000 nodes", PODS, end - begin)])
}
