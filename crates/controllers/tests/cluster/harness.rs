//! A cluster in one process: server, scheduler, controllers, and nodes that play kubelet on paper.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_apiserver::pki::{Grant, Pki};
use skiff_apiserver::{ApiServer, Identity};
use skiff_client::{
    Cache, Change, Client, DeleteOptions, InProcess, ListParams, Object, ObjectKey, Patch, now,
};
use skiff_controllers::{AccountToken, Authority, AuthorityError, SigningRequest};
use skiff_store::MemoryStore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Far more than anything takes; what is waited for this long doesn't come.
const PATIENCE: Duration = Duration::from_secs(60);
const BEAT: Duration = Duration::from_millis(300);

pub(crate) struct Cluster {
    client: Client,
    silent: Arc<Mutex<HashSet<String>>>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    server: ApiServer,
    _keys: tempfile::TempDir,
}

/// The authority of the server under test.
struct TestAuthority {
    pki: Arc<Pki>,
    server: ApiServer,
}

impl fmt::Debug for TestAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestAuthority")
    }
}

impl Authority for TestAuthority {
    fn sign(&self, request: &SigningRequest) -> Result<String, AuthorityError> {
        let grant = Grant {
            not_before: request.not_before,
            not_after: request.not_after,
            usages: request.usages.clone(),
        };
        self.pki.sign_request(&request.request, &grant).map_err(|error| AuthorityError(error.into()))
    }

    fn node_addresses(&self, node: &str) -> Vec<IpAddr> {
        if node == "n1" { vec![[10, 0, 0, 1].into()] } else { Vec::new() }
    }

    fn node_has_ended(&self, node: &str) -> bool {
        self.pki.node_has_ended(node)
    }

    fn account_token(&self, of: &AccountToken) -> Result<String, AuthorityError> {
        self.server
            .account_token(&of.namespace, (&of.account, &of.account_uid), &of.secret)
            .map_err(|error| AuthorityError(error.into()))
    }
}

pub(crate) fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Cluster {
    pub(crate) async fn new(nodes: &[&str]) -> Self {
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
        let keys = tempfile::tempdir().expect("a directory");
        let pki = Arc::new(Pki::open(keys.path()).expect("an authority"));
        let config = skiff_apiserver::Config { pki: Some(pki.clone()), ..skiff_apiserver::Config::default() };
        let server =
            ApiServer::build(config, Arc::new(MemoryStore::default())).await.expect("the server starts");
        let router = server.router();
        let of = move |identity: Identity| {
            Client::new(InProcess::new(router.clone(), move |extensions| {
                extensions.insert(identity.clone());
            }))
        };
        let client = |user: &str, groups: &[&str]| of(Identity::new(user, groups));
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let admin = client("admin", &["system:masters"]);
        let config = skiff_controllers::Config {
            ca_pem: "the CA".to_owned(),
            authority: Some(Arc::new(TestAuthority { pki: pki.clone(), server: server.clone() })),
            // Many beats, since a busy machine may keep some back.
            node_grace: Duration::from_secs(10),
            ..skiff_controllers::Config::default()
        };
        let shared = client("system:kube-controller-manager", &[]);
        let of_account = of.clone();
        let controllers = skiff_controllers::Clients {
            shared,
            of_account: Arc::new(move |account| of_account(Identity::account("kube-system", account))),
        };
        tasks.spawn(skiff_controllers::run(config, controllers, shutdown.clone()));
        let scheduler = client("system:kube-scheduler", &[]);
        tasks.spawn(skiff_scheduler::run(skiff_scheduler::Config::default(), scheduler, shutdown.clone()));
        let silent = Arc::new(Mutex::new(HashSet::new()));
        tasks.spawn(run_pods(admin.clone(), silent.clone()));
        tasks.spawn(beat(admin.clone(), silent.clone()));
        let cluster = Self { client: admin, silent, tasks, shutdown, server, _keys: keys };
        for node in nodes {
            cluster.add_node(node).await;
        }
        let furnished = |all: &[Arc<k8s_openapi::api::core::v1::ServiceAccount>]| !all.is_empty();
        cluster.until("default", furnished).await;
        cluster
    }

    /// A client who is somebody else.
    pub(crate) fn client_of(&self, identity: Identity) -> Client {
        Client::new(InProcess::new(self.server.router(), move |extensions| {
            extensions.insert(identity.clone());
        }))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn add_node(&self, name: &str) {
        self.create::<Node>("", json!({"metadata": {"name": name}})).await;
        let status = json!({"status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now().to_string()}]}});
        let told = self.client.patch::<Node>("", name, Some("status"), &Patch::Strategic(status)).await;
        told.unwrap_or_else(|error| panic!("status of {name}: {error}"));
    }

    /// The node's heartbeat stops, and so does whatever it does for its pods.
    pub(crate) fn silence(&self, node: &str) {
        self.silent.lock().unwrap().insert(node.to_owned());
    }

    pub(crate) async fn create<K: Object + DeserializeOwned>(
        &self,
        namespace: &str,
        mut object: Value,
    ) -> Arc<K> {
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let object: K = serde_json::from_value(object).expect("a test's object is valid");
        self.client.create(&object).await.unwrap_or_else(|error| panic!("{}: {error}", K::KIND))
    }

    pub(crate) async fn patch<K: Object>(&self, namespace: &str, name: &str, patch: Value) {
        let patched = self.client.patch::<K>(namespace, name, None, &Patch::Merge(patch)).await;
        patched.unwrap_or_else(|error| panic!("{} {name}: {error}", K::KIND));
    }

    pub(crate) async fn delete<K: Object>(&self, namespace: &str, name: &str, policy: Option<&str>) {
        let options =
            DeleteOptions { propagation_policy: policy.map(str::to_owned), ..DeleteOptions::default() };
        let deleted = self.client.delete::<K>(namespace, name, &options).await;
        deleted.unwrap_or_else(|error| panic!("{} {name}: {error}", K::KIND));
    }

    pub(crate) async fn list<K: Object>(&self, namespace: &str) -> Vec<Arc<K>> {
        self.client.list::<K>(&params(namespace)).await.expect("a list").items
    }

    /// Waits until the objects of a namespace are as `wanted` says.
    pub(crate) async fn until<K: Object>(&self, namespace: &str, wanted: impl Fn(&[Arc<K>]) -> bool) {
        let cache = Cache::<K>::new(self.client.clone(), params(namespace));
        let mut changes = cache.subscribe();
        let following = tokio::spawn(cache.clone().run());
        let waiting = async {
            cache.synced().await;
            while !wanted(&cache.list()) {
                changes.next().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        following.abort();
        if waited.is_err() {
            let objects: Vec<_> = cache.list().iter().filter_map(|object| object.to_value().ok()).collect();
            let nodes: Vec<_> = self.list::<Node>("").await.iter().map(|node| json!(**node)).collect();
            panic!(
                "{} in {namespace:?} stay as they are: {:#} with nodes {:#}",
                K::KIND,
                json!(objects),
                json!(nodes)
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.tasks.abort_all();
    }
}

fn params(namespace: &str) -> ListParams {
    ListParams {
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        ..ListParams::default()
    }
}

/// Heartbeats of all nodes that aren't silent.
async fn beat(client: Client, silent: Arc<Mutex<HashSet<String>>>) {
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        let Ok(nodes) = client.list::<Node>(&ListParams::default()).await else { continue };
        for node in nodes.items {
            let name = node.metadata.name.clone().unwrap_or_default();
            if silent.lock().unwrap().contains(&name) {
                continue;
            }
            let spec = json!({"holderIdentity": name, "renewTime": format!("{:.6}", now())});
            let patch = Patch::Merge(json!({"spec": spec}));
            if client.patch::<Lease>("kube-node-lease", &name, None, &patch).await.is_err() {
                let lease = json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec});
                let lease: Lease = serde_json::from_value(lease).expect("a lease");
                let _ = client.create(&lease).await;
            }
        }
    }
}

/// Bound pods become ready at once; deleted ones end at once.
async fn run_pods(client: Client, silent: Arc<Mutex<HashSet<String>>>) {
    static ADDRESS: AtomicU32 = AtomicU32::new(1);
    let cache = Cache::<Pod>::new(client.clone(), ListParams::default());
    let mut changes = cache.subscribe();
    tokio::spawn(cache.clone().run());
    let look = |pod: Arc<Pod>| {
        let (client, silent) = (client.clone(), silent.clone());
        async move {
            let key = ObjectKey::of(&*pod);
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
            if silent.lock().unwrap().contains(&node) {
                return;
            }
            if pod.metadata.deletion_timestamp.is_some() {
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                let _ = client.delete::<Pod>(&key.namespace, &key.name, &options).await;
            } else if !ready(&pod) {
                let address = ADDRESS.fetch_add(1, Ordering::Relaxed);
                let at = k8s_openapi::jiff::Timestamp::from_second(now().as_second()).expect("a time");
                let patch = json!({"status": {"phase": "Running", "podIP": format!("10.244.9.{address}"),
                    "podIPs": [{"ip": format!("10.244.9.{address}")}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at.to_string()}]}});
                let patch = Patch::Strategic(patch);
                let _ = client.patch::<Pod>(&key.namespace, &key.name, Some("status"), &patch).await;
            }
        }
    };
    loop {
        match changes.next().await {
            Change::Applied { new, .. } => drop(tokio::spawn(look(new))),
            Change::Deleted(_) => {}
            Change::Resync => cache.list().into_iter().for_each(|pod| drop(tokio::spawn(look(pod)))),
        }
    }
}
