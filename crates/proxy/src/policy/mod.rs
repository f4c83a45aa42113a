//! Network policies: who may talk to whom.
//!
//! [`Table`] decides, from policies, namespaces and pods, what this node's rules are; [`follow`] keeps the
//! ruleset in step. Each node filters the traffic of its own pods alone: what leaves them and what is for
//! them. While there is no policy there is no rule, and no pod is watched.
//!
//! A pod must not send or get anything before the policies of its time hold. So who starts pods asks
//! [`Policies::newest`] for the version that must be in force, and waits in [`Policies::admit`] until it
//! is, with the pod's address taken into account, before it starts anything in the pod.

mod addresses;
mod objects;
mod schema;
mod spec;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use skiff_client::{Cache, Change, Client, ListParams, ObjectKey};
use skiff_sys::nft::{self, Ruleset};
use tokio::sync::watch;
use tokio::task::{JoinSet, unconstrained};

pub use objects::{LeanPod, NamedPort, Subject};
pub use spec::Direction;
pub use table::{Connection, Ruling, Table};

use crate::plan::Protocol;
use crate::{Config, Error, RETRY};

pub(crate) use schema::PART;

/// How often it is looked whether an upgrade's new rules are in force, which takes what starting takes.
const SETTLED_SOON: Duration = Duration::from_millis(10);
use addresses::Addresses;
use objects::version;
use spec::Policy;
use table::Step;

/// How long a pod waits for its policies before its start counts as failed, and is tried again.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("cannot ask which network policies there are")]
    Ask(#[source] skiff_client::Error),
    #[error("the network policies of namespace {0:?} are not in force yet")]
    NotInForce(String),
}

/// The interface to [`follow`] for who gives addresses to pods, and for who asks what decides. Clones are
/// the same.
#[derive(Clone)]
pub struct Policies(Arc<Shared>);

struct Shared {
    client: Client,
    table: Mutex<Table>,
    claims: Mutex<Claims>,
    wanted: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
}

/// What was told and is not yet taken in.
#[derive(Default)]
struct Claims {
    count: u64,
    new: Vec<(Ipv4Addr, Option<Arc<Subject>>)>,
}

/// What is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// No policy up to this version is missing.
    version: u64,
    claims: u64,
    /// The policies were known once.
    synced: bool,
}

impl Policies {
    pub fn new(client: Client) -> Policies {
        Policies(Arc::new(Shared {
            client,
            table: Mutex::default(),
            claims: Mutex::default(),
            wanted: watch::channel(0).0,
            progress: watch::channel(Progress::default()).0,
        }))
    }

    /// The version of the newest policy of a namespace, which a pod made by now must find in force. Where
    /// the server can't be asked, what was known last has to do.
    pub async fn newest(&self, namespace: &str) -> Result<u64, AdmitError> {
        let params = ListParams { namespace: Some(namespace.to_owned()), ..ListParams::default() };
        match self.0.client.list::<NetworkPolicy>(&params).await {
            Ok(list) => Ok(list.items.iter().map(|policy| version(&policy.metadata)).max().unwrap_or(0)),
            Err(_) if self.0.progress.borrow().synced => Ok(0),
            Err(error) => Err(AdmitError::Ask(error)),
        }
    }

    /// Returns once the pod at this address is isolated as all policies up to that version want it.
    pub async fn admit(&self, ip: Ipv4Addr, pod: Subject, newest: u64) -> Result<(), AdmitError> {
        let namespace = pod.pod.namespace.clone();
        let claims = self.tell(ip, Some(Arc::new(pod)));
        let mut progress = self.0.progress.subscribe();
        let done = progress.wait_for(|now| now.synced && now.claims >= claims && now.version >= newest);
        match tokio::time::timeout(ADMISSION_TIMEOUT, done).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(AdmitError::NotInForce(namespace)),
        }
    }

    /// The pod at this address runs already: nobody waits.
    pub fn claim(&self, ip: Ipv4Addr, pod: Subject) {
        self.tell(ip, Some(Arc::new(pod)));
    }

    /// The address is nobody's any more.
    pub fn release(&self, ip: Ipv4Addr) {
        self.tell(ip, None);
    }

    /// What decides on a connection in one direction, on this node.
    pub fn judge(&self, direction: Direction, connection: &Connection) -> Ruling {
        self.table().judge(direction, connection)
    }

    fn tell(&self, ip: Ipv4Addr, pod: Option<Arc<Subject>>) -> u64 {
        let mut claims = self.0.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.count += 1;
        claims.new.push((ip, pod));
        let count = claims.count;
        drop(claims);
        self.0.wanted.send_replace(count);
        count
    }

    fn take_claims(&self, addresses: &mut Addresses) -> (u64, BTreeSet<Ipv4Addr>) {
        let mut claims = self.0.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, new) = (claims.count, std::mem::take(&mut claims.new));
        drop(claims);
        let changed = new.into_iter().flat_map(|(ip, pod)| addresses.claim(ip, pod)).collect();
        (count, changed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The copies of what is followed while there is a policy; they are fed until the tasks are dropped.
pub struct Sources {
    pub pods: Cache<LeanPod>,
    pub namespaces: Cache<Namespace>,
    pub tasks: JoinSet<()>,
}

impl Sources {
    /// From the API server.
    pub fn watch(client: &Client) -> Sources {
        let own_address = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed";
        let params = ListParams { field_selector: Some(own_address.to_owned()), ..ListParams::default() };
        let pods = Cache::new(client.clone(), params);
        let namespaces = Cache::new(client.clone(), ListParams::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(pods.clone().run());
        tasks.spawn(namespaces.clone().run());
        Sources { pods, namespaces, tasks }
    }
}

/// Keeps the ruleset in step with the policies. Never ends by itself.
pub async fn follow(
    config: Config,
    handle: Policies,
    policies: Cache<NetworkPolicy>,
    sources: impl Fn() -> Sources,
    ruleset: Arc<Ruleset>,
) -> Result<(), Error> {
    let mut changes = policies.subscribe();
    policies.synced().await;
    let mut this = Follower {
        addresses: Addresses::new(&config.node_name, dns(&config.local_addresses)),
        generation: first_generation(),
        version: 0,
        handle,
        policies,
        ruleset,
    };
    if this.policies.is_empty() {
        // What an earlier process left; where there are policies, it holds until these are known.
        this.withdraw().await?;
    }
    let mut told = this.handle.0.wanted.subscribe();
    loop {
        this.version = this.version.max(newest(&this.policies));
        if !this.policies.is_empty() {
            this.enforce(sources(), &mut changes, &mut told).await?;
            continue;
        }
        let (claims, _) = this.handle.take_claims(&mut this.addresses);
        this.progress(claims);
        tokio::select! {
            change = changes.next() => this.version = this.version.max(version_of(&change)),
            _ = told.changed() => {}
        }
    }
}

struct Follower {
    addresses: Addresses,
    handle: Policies,
    policies: Cache<NetworkPolicy>,
    ruleset: Arc<Ruleset>,
    /// Of the state of all policies; connections carry it.
    generation: u32,
    version: u64,
}

impl Follower {
    /// Enforces policies until there is none.
    async fn enforce(
        &mut self,
        sources: Sources,
        changes: &mut skiff_client::Changes<NetworkPolicy>,
        told: &mut watch::Receiver<u64>,
    ) -> Result<(), Error> {
        let Sources { pods, namespaces, tasks: _tasks } = sources;
        let (mut pod_changes, mut namespace_changes) = (pods.subscribe(), namespaces.subscribe());
        pods.synced().await;
        namespaces.synced().await;
        let claims = self.begin(&pods, &namespaces).await?;
        self.progress(claims);
        tracing::info!(policies = self.policies.len(), pods = pods.len(), "network policies are enforced");
        loop {
            let mut batch = Batch::default();
            tokio::select! {
                change = changes.next() => batch.policy(change),
                change = pod_changes.next() => batch.pod(&mut self.addresses, change),
                change = namespace_changes.next() => batch.namespace(&change),
                _ = told.changed() => {}
            }
            // What is there already, without waiting for more (see the services' proxy).
            while let Some(change) = unconstrained(changes.next()).now_or_never() {
                batch.policy(change);
            }
            while let Some(change) = unconstrained(pod_changes.next()).now_or_never() {
                batch.pod(&mut self.addresses, change);
            }
            while let Some(change) = unconstrained(namespace_changes.next()).now_or_never() {
                batch.namespace(&change);
            }
            if self.policies.is_empty() {
                self.version = self.version.max(batch.version);
                break;
            }
            if batch.resync {
                let claims = self.begin(&pods, &namespaces).await?;
                self.version = self.version.max(batch.version);
                self.progress(claims);
                continue;
            }
            let (claims, changed) = self.handle.take_claims(&mut self.addresses);
            batch.addresses.extend(changed);
            let step = self.step(&batch, &namespaces);
            self.apply(step).await?;
            self.version = self.version.max(batch.version);
            self.progress(claims);
        }
        *self.handle.table() = Table::default();
        self.addresses.forget_watched();
        self.withdraw().await?;
        tracing::info!("no network policy is left to enforce");
        Ok(())
    }

    /// Puts everything in force that is known now; answers with how many claims are taken in.
    async fn begin(&mut self, pods: &Cache<LeanPod>, namespaces: &Cache<Namespace>) -> Result<u64, Error> {
        let version = newest(&self.policies);
        self.addresses.forget_watched();
        for pod in pods.list() {
            self.addresses.set(&ObjectKey::of(&*pod), Some(&pod));
        }
        let (claims, _) = self.handle.take_claims(&mut self.addresses);
        let (mut table, mut step) = (Table::default(), Step::default());
        for namespace in namespaces.list() {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            table.set_namespace(&name, Some(labels(&namespace)), &mut step);
        }
        for ip in self.addresses.all() {
            table.set_pod(ip, self.addresses.owner(ip), &mut step);
        }
        for policy in self.policies.list() {
            table.set_policy(&ObjectKey::of(&*policy), Some(Policy::read(&policy)), &mut step);
        }
        table.complete(&mut step);
        self.generation = self.generation.wrapping_add(1);
        let contents = table.contents(self.generation);
        *self.handle.table() = table;
        let ruleset = self.ruleset.clone();
        self.insist(move || ruleset.define(schema::PART, schema::schema(), contents)).await?;
        self.version = self.version.max(version);
        Ok(claims)
    }

    fn step(&self, batch: &Batch, namespaces: &Cache<Namespace>) -> Step {
        let (mut table, mut step) = (self.handle.table(), Step::default());
        for name in &batch.namespaces {
            let labels = namespaces.get(&ObjectKey::new("", name.clone())).map(|this| labels(&this));
            table.set_namespace(name, labels, &mut step);
        }
        for ip in &batch.addresses {
            table.set_pod(*ip, self.addresses.owner(*ip), &mut step);
        }
        for key in &batch.policies {
            let policy = self.policies.get(key).map(|policy| Policy::read(&policy));
            table.set_policy(key, policy, &mut step);
        }
        table.complete(&mut step);
        step
    }

    async fn apply(&mut self, step: Step) -> Result<(), Error> {
        if step.is_empty() {
            return Ok(());
        }
        let Step { chains, mut changes, idle, revokes } = step;
        let mut then = Vec::new();
        if revokes {
            // First nothing passes by its mark, then the new marks are given out: a packet that is being
            // judged by the old state while it changes marks its connection with the old number, which
            // is worth nothing afterwards.
            let old = schema::marks(self.generation);
            self.generation = self.generation.wrapping_add(1);
            for (map, key, _) in old.into_iter().filter(schema::is_pass) {
                changes.push(nft::Change::Remove { map, key });
            }
            let new = schema::marks(self.generation);
            then.extend(new.into_iter().map(|(map, key, datum)| nft::Change::Insert { map, key, datum }));
        }
        let ruleset = self.ruleset.clone();
        self.insist(move || {
            ruleset.apply(schema::PART, nft::Step { chains, changes, idle })?;
            ruleset.change(schema::PART, then)
        })
        .await
    }

    async fn withdraw(&self) -> Result<(), Error> {
        let ruleset = self.ruleset.clone();
        self.insist(move || ruleset.withdraw(schema::PART, &schema::schema())).await
    }

    /// Does it, and where the kernel refuses, writes everything that is wanted anew until it takes it.
    async fn insist(
        &self,
        work: impl FnOnce() -> Result<(), nft::Error> + Send + 'static,
    ) -> Result<(), Error> {
        let mut result = crate::blocking(work).await;
        while let Err(error) = result {
            tracing::error!(error = &error as &dyn std::error::Error, "network policies are not up to date");
            tokio::time::sleep(RETRY).await;
            let ruleset = self.ruleset.clone();
            result = crate::blocking(move || ruleset.restore()).await;
        }
        // After an upgrade that changed rules: services and the network have to be known, too.
        while !self.ruleset.is_settled() {
            tokio::time::sleep(SETTLED_SOON).await;
        }
        Ok(())
    }

    fn progress(&self, claims: u64) {
        let now = Progress { version: self.version, claims, synced: true };
        self.handle.0.progress.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

/// Changes taken in together.
#[derive(Default)]
struct Batch {
    policies: BTreeSet<ObjectKey>,
    addresses: BTreeSet<Ipv4Addr>,
    namespaces: BTreeSet<String>,
    version: u64,
    resync: bool,
}

impl Batch {
    fn policy(&mut self, change: Change<NetworkPolicy>) {
        self.version = self.version.max(version_of(&change));
        match change {
            Change::Applied { new, .. } => drop(self.policies.insert(ObjectKey::of(&*new))),
            Change::Deleted(old) => drop(self.policies.insert(ObjectKey::of(&*old))),
            Change::Resync => self.resync = true,
        }
    }

    fn pod(&mut self, addresses: &mut Addresses, change: Change<LeanPod>) {
        self.resync |= matches!(change, Change::Resync);
        self.addresses.extend(addresses.observe(change));
    }

    fn namespace(&mut self, change: &Change<Namespace>) {
        match change {
            Change::Applied { new: this, .. } | Change::Deleted(this) => {
                self.namespaces.insert(this.metadata.name.clone().unwrap_or_default());
            }
            Change::Resync => self.resync = true,
        }
    }
}

fn version_of(change: &Change<NetworkPolicy>) -> u64 {
    match change {
        Change::Applied { new: this, .. } | Change::Deleted(this) => version(&this.metadata),
        Change::Resync => 0,
    }
}

fn newest(policies: &Cache<NetworkPolicy>) -> u64 {
    policies.list().iter().map(|policy| version(&policy.metadata)).max().unwrap_or(0)
}

fn labels(namespace: &Namespace) -> skiff_api::selector::Labels {
    namespace.metadata.labels.clone().unwrap_or_default()
}

/// Numbers of a former process are on connections still, so this one begins somewhere else.
fn first_generation() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}

/// The cluster's DNS is answered by the node itself, but policies that let pods ask it are written for
/// pods: so its address stands for the pod that other clusters run for it.
fn dns(addresses: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, Arc<Subject>> {
    let port = |name: &str, protocol| NamedPort { name: name.to_owned(), protocol, number: 53 };
    let subject = Arc::new(Subject {
        pod: ObjectKey::new("kube-system", "kube-dns"),
        uid: String::new(),
        labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        local: false,
    });
    addresses.iter().map(|ip| (*ip, subject.clone())).collect()
}
