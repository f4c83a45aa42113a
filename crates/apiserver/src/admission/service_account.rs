//! The service account of a pod: its name, the account itself, and the volume by which every container
//! gets the account's token, the cluster's CA and the namespace.
//!
//! The volume's name is drawn anew for each pod, as upstream draws it; what is in it is the node's to
//! fetch, so nothing secret is in the object.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Map, Value, json};
use skiff_api::json::Json;
use skiff_api::status::StatusError;

use crate::metadata;
use crate::node_access::names_secrets;
use crate::node_access::restriction::MIRROR;
use crate::resources::{Cx, Resource, find};

/// The account that a controller makes in every namespace.
const DEFAULT: &str = "default";
/// How long a pod waits for that of a new namespace.
const WAIT: Duration = Duration::from_secs(2);
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seven seconds more than an hour, by which upstream tells these tokens from those that a pod asks for.
const TOKEN_SECONDS: i64 = 3_607;

/// Gives a new pod what its account brings.
pub(super) async fn admit(
    cx: &Cx<'_>,
    row: &Resource,
    namespace: &str,
    pod: &mut Value,
) -> Result<(), StatusError> {
    // A mirror pod is what the node runs already: nothing is added to it.
    if is_mirror(pod) {
        return match mirror_fault(pod) {
            Some(why) => Err(StatusError::forbidden(row.group_resource(), metadata::known_by(pod), &why)),
            None => Ok(()),
        };
    }
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => DEFAULT.to_owned(),
    };
    let account = account(cx, namespace, &name).await.ok_or_else(|| {
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        StatusError::forbidden(row.group_resource(), metadata::known_by(pod), &why)
    })?;
    if let Some(spec) = pod["spec"].as_object_mut() {
        give(spec, &name, &account, || metadata::generate_name(VOLUME_PREFIX));
    }
    Ok(())
}

/// The account; waits a little for the one that a new namespace will get.
async fn account(cx: &Cx<'_>, namespace: &str, name: &str) -> Option<Value> {
    let accounts = find("", "serviceaccounts").expect("service accounts are in the table");
    let cache = cx.server.caches.of(accounts);
    let key = accounts.key(namespace, name);
    if name != DEFAULT {
        return cache.get(&key).map(|account| account.value(accounts));
    }
    let mut changes = cache.subscribe();
    let there = async {
        loop {
            if let Some(account) = cache.get(&key) {
                return Some(account.value(accounts));
            }
            changes.changed().await.ok()?;
        }
    };
    tokio::time::timeout(WAIT, there).await.ok().flatten()
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

/// A pod that a node made from a file of its own has no account, so it can't ask for what is one's.
fn mirror_fault(pod: &Value) -> Option<String> {
    match Pod::from_value(pod) {
        Ok(pod) => fault_of_spec(&pod.spec.unwrap_or_default()).map(str::to_owned),
        // What can't be read can't be found harmless.
        Err(error) => Some(error.to_string()),
    }
}

fn fault_of_spec(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_ref().is_some_and(|name| !name.is_empty()) {
        return Some("a mirror pod may not reference service accounts");
    }
    if names_secrets(spec) {
        return Some("a mirror pod may not reference secrets");
    }
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    projected
        .flat_map(|volume| volume.sources.iter().flatten())
        .any(|source| source.service_account_token.is_some())
        .then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// Name, pull secrets and token volume, where the pod doesn't bring its own.
fn give(spec: &mut Map<String, Value>, name: &str, account: &Value, volume_name: impl FnOnce() -> String) {
    spec.insert("serviceAccountName".into(), name.into());
    spec.insert("serviceAccount".into(), name.into());
    let own = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    let mounts = own.or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true);
    if mounts {
        mount(spec, volume_name);
    }
    let has_pull_secrets =
        spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let theirs = account["imagePullSecrets"].as_array().filter(|list| !list.is_empty());
    if let Some(theirs) = theirs.filter(|_| !has_pull_secrets) {
        spec.insert("imagePullSecrets".into(), theirs.clone().into());
    }
}

fn mount(spec: &mut Map<String, Value>, volume_name: impl FnOnce() -> String) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let mut names = volumes.into_iter().flatten().filter_map(|volume| volume["name"].as_str());
    let existing = names.find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let has_volume = existing.is_some();
    let volume = existing.unwrap_or_else(volume_name);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
            if mounts.is_empty() {
                container.remove("volumeMounts");
            }
        }
    }
    if has_volume || !needed {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(spec: Value, account: Value) -> Value {
        let mut spec = spec;
        give(spec.as_object_mut().expect("an object"), "a", &account, || format!("{VOLUME_PREFIX}x"));
        spec
    }

    fn mounts(container: &Value) -> Vec<String> {
        let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
        mounts
            .iter()
            .map(|mount| format!("{}:{}", mount["name"], mount["mountPath"]).replace('"', ""))
            .collect()
    }

    const OURS: &str = "kube-api-access-x:/var/run/secrets/kubernetes.io/serviceaccount";

    #[test]
    fn every_container_gets_the_token_that_has_nothing_there() {
        let spec = given(
            json!({
                "initContainers": [{"name": "i"}],
                "containers": [
                    {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                    {"name": "d", "volumeMounts": [{"name": "v", "mountPath": MOUNT_PATH}]},
                ],
                "volumes": [{"name": "v", "emptyDir": {}}],
            }),
            json!({}),
        );
        assert_eq!(mounts(&spec["initContainers"][0]), [OURS]);
        assert_eq!(mounts(&spec["containers"][0]), ["v:/v", OURS]);
        assert_eq!(mounts(&spec["containers"][1]).len(), 1);
        assert_eq!(spec["volumes"][1], token_volume("kube-api-access-x"));
        assert_eq!(spec["volumes"][1]["projected"]["defaultMode"], 420);
        assert_eq!(spec["serviceAccountName"], "a");
    }

    #[test]
    fn a_volume_of_that_name_is_taken_as_it_is() {
        let volume = json!({"name": "kube-api-access-y", "emptyDir": {}});
        let spec = given(json!({"containers": [{"name": "c"}], "volumes": [volume]}), json!({}));
        assert_eq!(spec["volumes"], json!([volume]));
        assert!(mounts(&spec["containers"][0])[0].starts_with("kube-api-access-y:"));
    }

    #[test]
    fn the_pod_says_before_its_account_whether_it_wants_a_token() {
        let check = |pod: Option<bool>, account: Option<bool>, expected: bool| {
            let spec = given(
                json!({"containers": [{"name": "c"}], "automountServiceAccountToken": pod}),
                json!({"automountServiceAccountToken": account}),
            );
            assert_eq!(spec.get("volumes").is_some(), expected, "{pod:?} {account:?}");
            assert_eq!(mounts(&spec["containers"][0]).len(), usize::from(expected));
        };
        check(None, None, true);
        check(None, Some(false), false);
        check(Some(true), Some(false), true);
        check(Some(false), Some(true), false);
        check(Some(false), None, false);
    }

    #[test]
    fn an_account_lends_its_pull_secrets() {
        let account = json!({"imagePullSecrets": [{"name": "s"}]});
        let spec = given(json!({"containers": []}), account.clone());
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
        let own = json!([{"name": "mine"}]);
        let spec = given(json!({"containers": [], "imagePullSecrets": own}), account);
        assert_eq!(spec["imagePullSecrets"], own);
    }

    #[test]
    fn a_mirror_pod_asks_for_nothing_of_an_account() {
        let check = |spec: Value, expected: Option<&str>| {
            let pod = json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": spec});
            assert!(is_mirror(&pod));
            assert_eq!(mirror_fault(&pod).as_deref(), expected, "{pod}");
        };
        check(json!({"containers": [{"name": "c"}]}), None);
        check(json!({"serviceAccountName": "a"}), Some("a mirror pod may not reference service accounts"));
        for spec in [
            json!({"volumes": [{"name": "s", "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "s", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}),
            json!({"imagePullSecrets": [{"name": "s"}]}),
            json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            json!({"initContainers": [{"name": "i", "env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
        ] {
            check(spec, Some("a mirror pod may not reference secrets"));
        }
        check(
            json!({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            Some("a mirror pod may not use ServiceAccountToken volume projections"),
        );
    }
}
