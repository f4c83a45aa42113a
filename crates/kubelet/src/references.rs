//! Config maps and secrets that the node's pods name: one small watched copy each, for as long as a pod
//! needs it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use parking_lot::Mutex;
use skiff_client::{Cache, Client, ListParams, Object, ObjectKey};
use tokio::task::AbortHandle;

use crate::env::Sources;
use crate::volumes::content;

const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// The objects that one pod names, as they are now.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Objects {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    secrets: BTreeMap<String, Arc<Secret>>,
}

impl Sources for Objects {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name).map(|map| &**map)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).map(|secret| &**secret)
    }
}

struct Watched<K> {
    cache: Cache<K>,
    users: BTreeSet<String>,
    tasks: Vec<AbortHandle>,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

type Table<K> = Mutex<HashMap<ObjectKey, Watched<K>>>;

/// Tells the pod of that UID to look again.
pub(crate) type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// The copies, by pod.
pub(crate) struct References {
    client: Client,
    wake: Wake,
    config_maps: Arc<Table<ConfigMap>>,
    secrets: Arc<Table<Secret>>,
}

impl References {
    pub(crate) fn new(client: Client, wake: Wake) -> Self {
        Self { client, wake, config_maps: Arc::default(), secrets: Arc::default() }
    }

    /// What the pod names, read if need be. `Err` where the API server can't be asked.
    pub(crate) async fn of(&self, pod: &Pod) -> Result<Objects, String> {
        let (maps, secrets) = content::references(pod);
        let config_maps = self.get(&self.config_maps, pod, maps).await?;
        let secrets = self.get(&self.secrets, pod, secrets).await?;
        Ok(Objects { config_maps, secrets })
    }

    /// The secrets that open registries for the pod, in its order, and the names of those that are not there.
    pub(crate) async fn pull_secrets(&self, pod: &Pod) -> (Vec<Arc<Secret>>, Vec<String>) {
        let wanted = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        // Entries without a name pass validation.
        let names: Vec<String> =
            wanted.map(|each| each.name.clone()).filter(|name| !name.is_empty()).collect();
        let all = names.iter().cloned().collect();
        // Those that can't be asked for are missing too: the image may be public.
        let mut found = self.get(&self.secrets, pod, all).await.unwrap_or_default();
        let (mut secrets, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match found.remove(&name) {
                Some(secret) => secrets.push(secret),
                None => missing.push(name),
            }
        }
        (secrets, missing)
    }

    /// The pod is gone.
    pub(crate) fn release(&self, uid: &str) {
        fn drop_user<K>(table: &Table<K>, uid: &str) {
            table.lock().retain(|_, watched| {
                watched.users.remove(uid);
                !watched.users.is_empty()
            });
        }
        drop_user(&self.config_maps, uid);
        drop_user(&self.secrets, uid);
    }

    async fn get<K: Object>(
        &self,
        table: &Arc<Table<K>>,
        pod: &Pod,
        names: BTreeSet<String>,
    ) -> Result<BTreeMap<String, Arc<K>>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut found = BTreeMap::new();
        for name in names {
            let key = ObjectKey::new(namespace, &name);
            let cache = self.watched(table, &key, uid);
            if tokio::time::timeout(SYNC_TIMEOUT, cache.synced()).await.is_err() {
                return Err(format!("failed to sync {} cache: timed out waiting for the condition", K::KIND));
            }
            if let Some(object) = cache.get(&key) {
                found.insert(name, object);
            }
        }
        Ok(found)
    }

    fn watched<K: Object>(&self, table: &Arc<Table<K>>, key: &ObjectKey, uid: &str) -> Cache<K> {
        let mut watched = table.lock();
        let entry = watched.entry(key.clone()).or_insert_with(|| {
            let params = ListParams {
                namespace: Some(key.namespace.clone()),
                field_selector: Some(format!("metadata.name={}", key.name)),
                ..ListParams::default()
            };
            let cache: Cache<K> = Cache::new(self.client.clone(), params);
            let mut changes = cache.subscribe();
            let (wake, table, key) = (self.wake.clone(), Arc::downgrade(table), key.clone());
            let tell = tokio::spawn(async move {
                loop {
                    changes.next().await;
                    let Some(table) = table.upgrade() else { return };
                    let users: Vec<String> = table
                        .lock()
                        .get(&key)
                        .map(|watched| watched.users.iter().cloned().collect())
                        .unwrap_or_default();
                    users.iter().for_each(|uid| wake(uid));
                }
            });
            let run = tokio::spawn(cache.clone().run());
            Watched { cache, users: BTreeSet::new(), tasks: vec![tell.abort_handle(), run.abort_handle()] }
        });
        entry.users.insert(uid.to_owned());
        entry.cache.clone()
    }
}
