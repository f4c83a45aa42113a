//! Services: each node leads connections to a service's address to one of its endpoints. Network
//! policies: it lets only those through to its pods, and from them, that may be ([`policy`]).
//!
//! [`plan`] decides, from Services and EndpointSlices, what this node has to do; [`run`] follows the API
//! server and puts it into the node's nftables table, changing only what changed. What leaves the node
//! translated is masqueraded by the network's own rules. Affinity to a client is not there yet.

mod endpoints;
mod flows;
pub mod plan;
pub mod policy;
mod schema;
mod table;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use skiff_client::{Cache, Change, Changes, Client, ListParams, ObjectKey};
use skiff_sys::nft::{self, Ruleset};
use tokio::task::{JoinError, JoinSet, unconstrained};
use tokio_util::sync::CancellationToken;

use crate::flows::Flows;
use crate::plan::{Node, State};
use crate::policy::Policies;
use crate::table::{Step, Table};

/// The parts of the ruleset that [`run`] defines or withdraws.
pub const PARTS: [&str; 2] = [schema::PART, policy::PART];

/// Names the node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How long to wait after the kernel refused, before everything is written anew.
const RETRY: Duration = Duration::from_secs(1);

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Range {
    /// Without the bits of one address in it, so that the same range is written in one way.
    fn whole(self) -> Range {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        Range { address: Ipv4Addr::from_bits(self.address.to_bits() & mask), prefix: self.prefix }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.244.0.0/16")]
pub struct ParseRangeError(String);

impl FromStr for Range {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Range, ParseRangeError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Range { address: address.parse().ok()?, prefix })
        };
        parse().ok_or_else(|| ParseRangeError(text.into()))
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name, as endpoints have it.
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    /// The range of all pods: connections from there come from inside the cluster.
    pub cluster_cidr: Range,
    /// What is sent to an address of it that no service has is refused.
    pub service_cidr: Range,
    /// Addresses of services that the node itself answers: its DNS.
    pub local_addresses: Vec<Ipv4Addr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot set up the rules for services and policies")]
    Rules(#[from] nft::Error),
    #[error("cannot follow connections")]
    Flows(#[source] std::io::Error),
    #[error("a task of the service proxy panicked")]
    Task(#[from] JoinError),
    #[error("the service proxy no longer follows the API server")]
    Ended,
}

/// Serves until `shutdown`. The rules stay: connections go on while the agent restarts. Call it in the
/// node's network namespace.
pub async fn run(
    config: Config,
    client: Client,
    policies: Policies,
    ruleset: Arc<Ruleset>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let field_selector = Some(format!("metadata.name={}", config.node_name));
    let own_node =
        Cache::<core::Node>::new(client.clone(), ListParams { field_selector, ..ListParams::default() });
    let services = Cache::<Service>::new(client.clone(), ListParams::default());
    let slices = Cache::<EndpointSlice>::new(client.clone(), ListParams::default());
    let all_policies = Cache::<NetworkPolicy>::new(client.clone(), ListParams::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(own_node.clone().run());
    tasks.spawn(services.clone().run());
    tasks.spawn(slices.clone().run());
    tasks.spawn(all_policies.clone().run());
    let sources = move || policy::Sources::watch(&client);
    let policies = policy::follow(config.clone(), policies, all_policies, sources, ruleset.clone());
    tokio::select! {
        result = follow(config, own_node, services, slices, ruleset) => result,
        result = policies => result,
        Some(ended) = tasks.join_next() => Err(ended.err().map_or(Error::Ended, Error::Task)),
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Where the node's label says that it is.
fn zone(own_node: &Cache<core::Node>, name: &str) -> Option<String> {
    let node = own_node.get(&ObjectKey::new("", name))?;
    node.metadata.labels.as_ref()?.get(ZONE).filter(|zone| !zone.is_empty()).cloned()
}

/// Keeps the ruleset in step with the copies of services, of their slices, and of the node's own object. Never
/// ends by itself.
pub async fn follow(
    config: Config,
    own_node: Cache<core::Node>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    ruleset: Arc<Ruleset>,
) -> Result<(), Error> {
    // Subscribed first and listed later, so that no change is missed.
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let mut node_changes = own_node.subscribe();
    services.synced().await;
    slices.synced().await;
    own_node.synced().await;
    let local_addresses: BTreeSet<Ipv4Addr> = config.local_addresses.iter().copied().collect();
    let mut node = Node {
        zone: zone(&own_node, &config.node_name),
        name: config.node_name,
        ip: config.node_ip,
        local_addresses,
        services: config.service_cidr,
    };
    let mut state = State::new(services.list(), slices.list());
    let mut table = Table::default();
    let first = table.step(state.services().cloned().collect(), |service| state.plan(service, &node));
    let mut contents = table.contents();
    contents.elements.push(schema::own_elements(&node.local_addresses));
    let rules = schema::schema(config.cluster_cidr, config.service_cidr);
    let flows = Arc::new(Flows::open().map_err(Error::Flows)?);
    let (to, then) = (ruleset.clone(), flows.clone());
    blocking(move || {
        to.define(schema::PART, rules, contents)?;
        then.forget(&first.changed);
        Ok(())
    })
    .await?;
    tracing::info!(services = state.services().count(), "services are served");

    loop {
        let mut batch = Batch::default();
        tokio::select! {
            change = service_changes.next() => batch.service(&mut state, change),
            change = slice_changes.next() => batch.slice(&mut state, change),
            _ = node_changes.next() => {
                let zone = zone(&own_node, &node.name);
                if zone == node.zone {
                    continue;
                }
                node.zone = zone;
                batch.dirty.extend(state.services().cloned());
            }
        }
        batch.drain(&mut state, &mut service_changes, &mut slice_changes);
        if batch.resync {
            let known: Vec<ObjectKey> = state.services().cloned().collect();
            state = State::new(services.list(), slices.list());
            batch.dirty.extend(known);
            batch.dirty.extend(state.services().cloned());
        }
        let step = table.step(batch.dirty, |service| state.plan(service, &node));
        apply(&ruleset, &flows, step).await?;
    }
}

/// Changes taken in together, since they were there together.
#[derive(Default)]
struct Batch {
    dirty: BTreeSet<ObjectKey>,
    resync: bool,
}

impl Batch {
    fn service(&mut self, state: &mut State, change: Change<Service>) {
        self.resync |= matches!(change, Change::Resync);
        self.dirty.extend(state.observe_service(change));
    }

    fn slice(&mut self, state: &mut State, change: Change<EndpointSlice>) {
        self.resync |= matches!(change, Change::Resync);
        let changed = state.observe_slice(change);
        // Where the API is concerns all who would have its place.
        if changed.iter().any(plan::is_api) {
            self.dirty.extend(state.services().cloned());
        }
        self.dirty.extend(changed);
    }

    /// Takes in all that is there already, without waiting for more. (Unconstrained, as a task that
    /// takes in much is otherwise told that there is nothing more, so that others have their turn.)
    fn drain(
        &mut self,
        state: &mut State,
        services: &mut Changes<Service>,
        slices: &mut Changes<EndpointSlice>,
    ) {
        while let Some(change) = unconstrained(services.next()).now_or_never() {
            self.service(state, change);
        }
        while let Some(change) = unconstrained(slices.next()).now_or_never() {
            self.slice(state, change);
        }
    }
}

async fn apply(ruleset: &Arc<Ruleset>, flows: &Arc<Flows>, step: Step) -> Result<(), Error> {
    if step.changed.is_empty() {
        return Ok(());
    }
    let (to, then) = (ruleset.clone(), flows.clone());
    let Step { chains, changes, changed, idle, .. } = step;
    let applied = blocking(move || {
        to.add_chains(schema::PART, chains)?;
        to.change(schema::PART, changes)?;
        to.remove_chains(schema::PART, &idle)?;
        then.forget(&changed);
        Ok(())
    });
    let mut result = applied.await;
    // What is wanted is known to the ruleset all the same.
    while let Err(error) = result {
        tracing::error!(error = &error as &dyn std::error::Error, "services are not up to date");
        tokio::time::sleep(RETRY).await;
        let to = ruleset.clone();
        result = blocking(move || to.restore()).await;
    }
    Ok(())
}

async fn blocking(work: impl FnOnce() -> Result<(), nft::Error> + Send + 'static) -> Result<(), Error> {
    Ok(tokio::task::spawn_blocking(work).await??)
}
