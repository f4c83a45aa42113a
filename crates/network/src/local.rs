//! [`LocalNetwork`]: the network of the node in whose network namespace this process runs.
//!
//! Sandboxes on the bridge are isolated from each other at the link layer and reach each other through
//! the node's routing, where the ruleset sees them; so a service works between two sandboxes of one node
//! without any bridge filter. The bridge answers their ARP questions for each other, and asks none itself:
//! where each sandbox is, is written down in its neighbour table.

mod bridge;
mod host_ports;
mod removal;
mod routes;
mod sandboxes;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use skiff_sys::netlink::route::Connection;
use skiff_sys::netlink::{self, conntrack, route};
use skiff_sys::nft::{self, Contents, Ruleset};
use skiff_sys::private;

pub(crate) use self::bridge::mac;
use self::bridge::{link_index, neighbour};
pub use self::removal::{host_links, remove};
use self::sandboxes::attachment;
use crate::schema::{self, Ranges};
use crate::state::{State, Targets};
use crate::walk::{self, Approaches, Asked, SandboxAt, Walk, Way};
use crate::{Attachment, Cidr, Error, HostPort, HostPortConflict, Network, Protocol, Route, listeners};

/// The parameters of the whole machine, relative to `/proc/sys`, that a node needs set and that outlive its
/// links: who takes a node away puts them back.
pub const SETTINGS: [&str; 3] =
    ["net/ipv4/ip_forward", "net/ipv4/conf/all/send_redirects", "net/bridge/bridge-nf-call-iptables"];

/// What the network of a node is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The bridge's name, at most 15 characters.
    pub bridge: String,
    /// This node's range of sandbox addresses; the bridge has the first.
    pub pod_cidr: Cidr,
    /// All nodes' ranges of sandbox addresses: never masqueraded.
    pub cluster_cidr: Cidr,
    /// The range of service addresses.
    pub service_cidr: Cidr,
    pub node_ip: Ipv4Addr,
    /// In bytes; 0 takes that of the link with `node_ip`.
    pub mtu: u32,
    /// A directory, created if need be, for what survives a restart.
    pub state_dir: PathBuf,
    /// What the node itself serves on its addresses: no host port takes these.
    pub own_ports: Vec<(Protocol, u16)>,
}

impl Config {
    /// The ports of sandboxes that lead there: all but the node's own, and none of a service's address.
    fn targets(&self, state: &State) -> Targets {
        let mut targets = state.port_targets();
        targets.retain(|(address, protocol, port), _| {
            !self.service_cidr.contains(*address) && !self.own_ports.contains(&(*protocol, *port))
        });
        targets
    }
}

/// The network of this node. Calls for different sandboxes may be made side by side; those for one sandbox
/// are to follow each other.
#[derive(Debug, Clone)]
pub struct LocalNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    mtu: u32,
    gateway: Ipv4Addr,
    state_file: PathBuf,
    ruleset: Arc<Ruleset>,
    kernel: Mutex<Kernel>,
}

/// What is used by one call at a time.
#[derive(Debug)]
struct Kernel {
    state: State,
    links: Connection,
    flows: netlink::Socket,
}

impl LocalNetwork {
    /// Sets up bridge, routes and rules, and takes over what an earlier process attached. Call it in the
    /// node's network namespace.
    pub async fn start(config: Config, ruleset: Arc<Ruleset>) -> Result<LocalNetwork, Error> {
        blocking(move || start(config, ruleset)).await
    }

    /// The same for who is not asynchronous: it takes milliseconds.
    pub fn start_blocking(config: Config, ruleset: Arc<Ruleset>) -> Result<LocalNetwork, Error> {
        start(config, ruleset)
    }

    /// Gives the node a further address that only it and its sandboxes can reach: that of the cluster's
    /// DNS. On the loopback, as not every kernel has dummy links.
    pub async fn add_local_address(&self, ip: Ipv4Addr) -> Result<(), Error> {
        self.with(move |inner| inner.local_address(|links, lo| links.add_address(lo, ip, 32))).await
    }

    pub async fn remove_local_address(&self, ip: Ipv4Addr) -> Result<(), Error> {
        self.with(move |inner| inner.local_address(|links, lo| links.delete_address(lo, ip, 32))).await
    }

    /// Takes away all that [`LocalNetwork::start`] and later calls made, except kernel settings. For a
    /// node that leaves for good.
    pub async fn remove(&self) -> Result<(), Error> {
        self.with(Inner::remove).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        blocking(move || work(&inner)).await
    }
}

#[async_trait]
impl Network for LocalNetwork {
    async fn attach(&self, sandbox: &str, netns: &Path) -> Result<Attachment, Error> {
        let (sandbox, netns) = (sandbox.to_owned(), netns.to_owned());
        self.with(move |inner| inner.attach(&sandbox, &netns)).await
    }

    async fn detach(&self, sandbox: &str) -> Result<(), Error> {
        let sandbox = sandbox.to_owned();
        self.with(move |inner| inner.detach(&sandbox)).await
    }

    async fn set_host_ports(
        &self,
        sandbox: &str,
        ports: &[HostPort],
    ) -> Result<Vec<HostPortConflict>, Error> {
        let (sandbox, ports) = (sandbox.to_owned(), ports.to_vec());
        self.with(move |inner| inner.set_host_ports(&sandbox, &ports)).await
    }

    async fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        self.with(|inner| {
            let kernel = inner.lock();
            Ok(kernel.state.sandboxes.keys().filter_map(|name| attachment(&kernel.state, name)).collect())
        })
        .await
    }

    async fn set_routes(&self, routes: &[Route]) -> Result<(), Error> {
        let routes = routes.to_vec();
        self.with(move |inner| inner.set_routes(&routes)).await
    }

    async fn walk(&self, asked: Asked) -> Result<Vec<Way>, Error> {
        self.with(move |inner| inner.walk(&asked)).await
    }

    async fn approaches(&self, asked: Approaches) -> Result<Vec<Result<Vec<Way>, Error>>, Error> {
        self.with(move |inner| {
            walk::approach::follow(&asked, &inner.config.bridge, &inner.sandboxes_at(&asked.sandboxes))
        })
        .await
    }

    async fn listener(&self, port: &HostPort) -> Result<Option<HostPortConflict>, Error> {
        let port = *port;
        self.with(move |_| Ok(listeners::find(&port))).await
    }
}

fn start(config: Config, ruleset: Arc<Ruleset>) -> Result<LocalNetwork, Error> {
    if config.bridge.is_empty() || config.bridge.len() > 15 {
        return Err(Error::Invalid(format!(
            "{:?} is no name for a bridge: it has 1 to 15 characters",
            config.bridge
        )));
    }
    let gateway =
        config.pod_cidr.nth(1).filter(|_| config.pod_cidr.prefix <= 30).ok_or_else(|| {
            Error::Invalid(format!("{} is too small for a node's sandboxes", config.pod_cidr))
        })?;
    private::make_dir(&config.state_dir)
        .map_err(|e| failure(format!("create {}", config.state_dir.display()), e))?;
    let state_file = config.state_dir.join("network.json");
    let links = Connection::open()?;
    let state = match State::read(&state_file) {
        Ok(state) => state,
        // After the machine went down hard: no sandbox of that time is there any more.
        Err(error) if links.link(&config.bridge)?.is_none() => {
            tracing::warn!(error = &error as &dyn std::error::Error, "starting without the former addresses");
            State::default()
        }
        Err(error) => return Err(error),
    };
    let flows = conntrack::open().map_err(|e| failure("open a connection tracking socket", e))?;
    let mtu = if config.mtu > 0 { config.mtu } else { bridge::uplink_mtu(&links, config.node_ip)? };

    let ranges = Ranges {
        bridge: &config.bridge,
        pods: config.pod_cidr,
        cluster: config.cluster_cidr,
        services: config.service_cidr,
    };
    let rules = schema::schema(&ranges);
    // The guard first: the bridge is about to route 127/8.
    let elements = schema::elements(&state, &config.targets(&state));
    ruleset.define(schema::PART, rules, Contents { elements, ..Contents::default() })?;
    let elements = schema::speakers(&state);
    match ruleset.define(schema::ARP, schema::arp(&ranges), Contents { elements, ..Contents::default() }) {
        Err(error) if error.is_unsupported() => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "this kernel filters no ARP: sandboxes may fill its table of neighbours");
        }
        result => result?,
    }
    bridge::set_up(&links, &config, gateway, mtu)?;
    // Those of an earlier process: also where it wrote none down, and a changed bridge has lost them.
    let bridge = link_index(&links, &config.bridge)?;
    for sandbox in state.sandboxes.values() {
        links.fix_neighbour(&neighbour(bridge, sandbox.ip))?;
    }
    let inner = Inner {
        config,
        mtu,
        gateway,
        state_file,
        ruleset,
        kernel: Mutex::new(Kernel { state, links, flows }),
    };
    Ok(LocalNetwork { inner: Arc::new(inner) })
}

impl Inner {
    fn sandboxes_at(&self, known: &BTreeMap<String, (String, PathBuf)>) -> Vec<SandboxAt> {
        let attached = self.lock().state.sandboxes.clone();
        let known = attached.into_iter().filter_map(|(id, sandbox)| {
            let (name, netns) = known.get(&id)?.clone();
            Some(SandboxAt { name, ip: sandbox.ip, host_link: sandbox.host_link, netns })
        });
        known.collect()
    }

    fn walk(&self, asked: &Asked) -> Result<Vec<Way>, Error> {
        let walk = Walk {
            node: walk::Namespace::open()?,
            name: &asked.node,
            bridge: &self.config.bridge,
            sandboxes: &self.sandboxes_at(&asked.sandboxes),
            conversations: asked.conversations.clone(),
            to_the_door: false,
        };
        walk.follow(&asked.start, &asked.packets)
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        // Every change is written down before it is made, so what a panic left can be gone on with.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the packet filter know what is attached.
    fn publish(&self, state: &State) -> Result<(), Error> {
        self.ruleset.replace(schema::PART, schema::elements(state, &self.config.targets(state)))?;
        Ok(self.ruleset.replace(schema::ARP, schema::speakers(state))?)
    }

    fn local_address(
        &self,
        work: impl FnOnce(&Connection, u32) -> Result<(), route::Error>,
    ) -> Result<(), Error> {
        let kernel = self.lock();
        kernel.links.set_up("lo")?;
        Ok(work(&kernel.links, link_index(&kernel.links, "lo")?)?)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(failure("finish before the end of the process", io::Error::other(error))),
        },
    }
}

fn failure(action: impl Into<String>, source: io::Error) -> Error {
    Error::Kernel { action: action.into(), source: source.into() }
}

impl From<route::Error> for Error {
    fn from(error: route::Error) -> Error {
        Error::Kernel { action: error.action, source: error.source.into() }
    }
}

impl From<nft::Error> for Error {
    fn from(error: nft::Error) -> Error {
        Error::Kernel { action: "change the packet filter".into(), source: error.into() }
    }
}
