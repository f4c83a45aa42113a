//! What a cluster has from its first moment, and whatever becomes of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use http::HeaderMap;
use serde_json::{Value, json};
use skiff_api::status::StatusError;

use crate::request::{Address, Query};
use crate::resources::{Resource, find};
use crate::server::{Call, Inner};
use crate::write;

const RETRY: Duration = Duration::from_secs(10);

const NAMESPACES: &[&str; 4] = &["kube-system", "kube-public", "kube-node-lease", "default"];

/// Makes what is missing.
pub(crate) async fn objects(server: &Inner) -> Result<(), StatusError> {
    namespaces(server).await?;
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node \
             if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({
            "metadata": {"name": name}, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure(server, row("scheduling.k8s.io", "priorityclasses"), "", class).await?;
    }
    own_service(server).await
}

async fn namespaces(server: &Inner) -> Result<(), StatusError> {
    for name in NAMESPACES {
        ensure(server, row("", "namespaces"), "", json!({"metadata": {"name": name}})).await?;
    }
    Ok(())
}

/// Makes the system's namespaces, the Service `default/kubernetes` and its endpoints again whenever somebody
/// deletes or changes them: without the one no node's heartbeat is taken, without the others no pod reaches the
/// API.
pub(crate) async fn keep(server: Arc<Inner>) {
    let kept = kept();
    let mut changes: Vec<_> = kept.iter().map(|(row, _)| server.caches.of(row).subscribe()).collect();
    let mut seen = None;
    loop {
        let revision = |row, key: &String| Some(server.caches.of(row).get(key)?.revision);
        let present: Vec<Option<u64>> =
            kept.iter().flat_map(|(row, keys)| keys.iter().map(|key| revision(*row, key))).collect();
        if seen.as_ref() != Some(&present) {
            match restore(&server).await {
                Ok(()) => seen = Some(present),
                Err(error) => {
                    tracing::warn!(%error, "cannot make again what every cluster has; will retry");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        () = server.stopping() => return,
                    }
                }
            }
        }
        let changed = changes.iter_mut().map(|changes| Box::pin(changes.changed()));
        tokio::select! {
            // Cancel-safe: a change not seen here is still marked as unseen.
            (changed, ..) = select_all(changed) => if changed.is_err() { return },
            () = server.stopping() => return,
        }
    }
}

/// What [`keep`] looks at: kinds, and keys of each.
fn kept() -> Vec<(&'static Resource, Vec<String>)> {
    let namespaces = row("", "namespaces");
    let mut kept = vec![(namespaces, NAMESPACES.iter().map(|name| namespaces.key("", name)).collect())];
    for own in [row("", "services"), row("", "endpoints"), row("discovery.k8s.io", "endpointslices")] {
        kept.push((own, vec![own.key("default", "kubernetes")]));
    }
    kept
}

async fn restore(server: &Inner) -> Result<(), StatusError> {
    namespaces(server).await?;
    own_service(server).await
}

/// The API's own Service with its endpoints.
async fn own_service(server: &Inner) -> Result<(), StatusError> {
    let config = &server.config;
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.service_cidr.nth(1).to_string(),
            "clusterIPs": [config.service_cidr.nth(1).to_string()],
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.advertise.1}],
        },
    });
    ensure(server, row("", "services"), "default", service).await?;
    // A server that only its own machine can reach stands behind no Service.
    if config.advertise.0.is_loopback() {
        return Ok(());
    }
    let (ip, port) = (config.advertise.0.to_string(), config.advertise.1);
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": ip}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    replace(server, row("", "endpoints"), "default", endpoints, "subsets").await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    replace(server, row("discovery.k8s.io", "endpointslices"), "default", slice, "endpoints").await?;
    Ok(())
}

fn row(group: &str, plural: &str) -> &'static Resource {
    find(group, plural).expect("a seeded kind is in the table")
}

/// A call of the server's own.
pub(crate) fn call(server: &Inner, row: &Resource, namespace: &str, name: &str) -> Call {
    Call {
        who: server.own_identity.clone(),
        address: Address {
            group: row.group.into(),
            version: row.version.into(),
            resource: row.plural.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Address::default()
        },
        query: Query::default(),
        headers: HeaderMap::new(),
        wanted: false,
        dry_run: false,
        validation: skiff_api::codec::FieldValidation::Strict,
        notes: Arc::default(),
    }
}

async fn ensure(
    server: &Inner,
    row: &'static Resource,
    namespace: &str,
    object: Value,
) -> Result<(), StatusError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if server.caches.of(row).get(&row.key(namespace, &name)).is_some() {
        return Ok(());
    }
    write::create(server, &call(server, row, namespace, ""), row, object).await.map(drop)
}

/// Makes the object, or gives a present one the wanted value of `part`.
async fn replace(
    server: &Inner,
    row: &'static Resource,
    namespace: &str,
    object: Value,
    part: &str,
) -> Result<(), StatusError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if server.caches.of(row).get(&row.key(namespace, &name)).is_none() {
        return ensure(server, row, namespace, object).await;
    }
    let call = call(server, row, namespace, &name);
    write::update(server, &call, row, |mut present| {
        present[part] = object[part].clone();
        for (name, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            present["metadata"]["labels"][name] = value.clone();
        }
        present["ports"] = object["ports"].clone();
        if object.get("ports").is_none()
            && let Some(map) = present.as_object_mut()
        {
            map.remove("ports");
        }
        Ok(present)
    })
    .await
    .map(drop)
}
