//! [`LocalNetwork`]: the network of the node in whose network namespace this process runs.
//!
//! Sandboxes on the bridge are isolated from each other at the link layer and reach each other through
//! the node's routing, where the ruleset sees them; so a service works between two sandboxes of one node
//! without any bridge filter. The bridge answers their ARP questions for each other, and asks none itself:
//! where each sandbox is, is written down in its neighbour table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use skiff_sys::netlink::conntrack::{self, Flow};
use skiff_sys::netlink::route::{Connection, Neighbour, ORIGIN, VethEnd};
use skiff_sys::netlink::{self, route};
use skiff_sys::nft::{self, Contents, Ruleset};
use skiff_sys::private;

use crate::schema::{self, Ranges};
use crate::state::{PortKey, State, Targets, key};
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
    let mtu = if config.mtu > 0 { config.mtu } else { uplink_mtu(&links, config.node_ip)? };

    let rules = schema::schema(&Ranges {
        bridge: &config.bridge,
        pods: config.pod_cidr,
        cluster: config.cluster_cidr,
        services: config.service_cidr,
    });
    // The guard first: the bridge is about to route 127/8.
    let elements = schema::elements(&state, &config.targets(&state));
    ruleset.define(schema::PART, rules, Contents { elements, ..Contents::default() })?;
    set_up_bridge(&links, &config, gateway, mtu)?;
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

fn uplink_mtu(links: &Connection, node_ip: Ipv4Addr) -> Result<u32, Error> {
    const ETHERNET: u32 = 1500;
    let Some(address) = links.addresses()?.into_iter().find(|this| this.ip == node_ip) else {
        return Ok(ETHERNET);
    };
    let link = links.links()?.into_iter().find(|this| this.index == address.link);
    Ok(link.map_or(ETHERNET, |link| link.mtu.min(ETHERNET * 6)))
}

fn set_up_bridge(links: &Connection, config: &Config, gateway: Ipv4Addr, mtu: u32) -> Result<(), Error> {
    let name = &config.bridge;
    links.add_bridge(name, mac(gateway), mtu)?;
    links.set_up(name)?;
    let bridge = link_index(links, name)?;
    // An address of an earlier range would make the node answer for others.
    for old in links.addresses()?.into_iter().filter(|this| this.link == bridge && this.ip != gateway) {
        links.delete_address(bridge, old.ip, old.prefix)?;
    }
    links.add_address(bridge, gateway, config.pod_cidr.prefix)?;

    sysctl("ipv4/ip_forward", "1")?;
    sysctl(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
    sysctl(&format!("ipv4/conf/{name}/proxy_arp_pvlan"), "1")?;
    // Answers on behalf of others are delayed by up to 0.8 s unless told otherwise.
    sysctl(&format!("ipv4/neigh/{name}/proxy_delay"), "0")?;
    // The kernel would tell sandboxes that they are neighbours; it listens to either setting.
    sysctl("ipv4/conf/all/send_redirects", "0")?;
    sysctl(&format!("ipv4/conf/{name}/send_redirects"), "0")?;
    // Sandboxes have no IPv6 address, and must not reach the node by one that no rule looks at.
    if Path::new("/proc/sys/net/ipv6").exists() {
        sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    // Where bridged frames go through the IP hooks as well, they are translated before they are routed,
    // and then meant for an isolated port.
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        sysctl("bridge/bridge-nf-call-iptables", "0")?;
    }

    // So that the node itself can open connections to services, which are then translated; with its own
    // address as the sender, to which everybody knows the way.
    let source = links.addresses()?.iter().any(|this| this.ip == config.node_ip).then_some(config.node_ip);
    let services = route::Route {
        destination: config.service_cidr.address,
        prefix: config.service_cidr.prefix,
        via: None,
        link: Some(bridge),
        source,
    };
    Ok(links.add_route(&services, ORIGIN)?)
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

    fn attach(&self, sandbox: &str, netns: &Path) -> Result<Attachment, Error> {
        let netns = File::open(netns)
            .map_err(|e| failure(format!("open network namespace {}", netns.display()), e))?;
        let attachment = self.allocate(sandbox)?;
        // Links are made outside the lock: the kernel waits at that, and others have more to do.
        let (outside, inside) = (Connection::open()?, Connection::open_in(netns.as_fd())?);
        let is_inside = inside.link("eth0")?.is_some();
        // From before a restart, or from an attempt that broke off.
        let is_outside = outside.link(&attachment.host_link)?.is_some();
        let bridge = link_index(&outside, &self.config.bridge)?;
        // Before anything in it runs. The node asks nobody where the address is, so nobody else can say
        // that it is theirs, and be given what is sent to it.
        outside.fix_neighbour(&neighbour(bridge, attachment.ip))?;
        if !is_inside || !is_outside {
            outside.delete_link(&attachment.host_link)?;
            let near = VethEnd { name: &attachment.host_link, bridge: Some(bridge), ..VethEnd::default() };
            let far = VethEnd {
                name: "eth0",
                netns: Some(netns.as_fd()),
                mac: Some(mac(attachment.ip)),
                bridge: None,
            };
            outside.add_veth(&near, &far, self.mtu)?;
        }
        outside.isolate_port(&attachment.host_link)?;
        // What it sends must bear its own addresses, or others would be taken for it: see the guard.
        outside.lock_port(&attachment.host_link, mac(attachment.ip))?;
        inside.configure_sandbox("eth0", attachment.ip, self.config.pod_cidr.prefix, self.gateway)?;
        Ok(attachment)
    }

    fn allocate(&self, sandbox: &str) -> Result<Attachment, Error> {
        let mut kernel = self.lock();
        if !kernel.state.sandboxes.contains_key(sandbox) {
            let mut state = kernel.state.clone();
            state.allocate(sandbox, self.config.pod_cidr)?;
            state.write(&self.state_file)?;
            kernel.state = state;
            self.ruleset.replace(
                schema::PART,
                schema::elements(&kernel.state, &self.config.targets(&kernel.state)),
            )?;
        }
        attachment(&kernel.state, sandbox).ok_or_else(|| Error::NotAttached(sandbox.into()))
    }

    fn detach(&self, sandbox: &str) -> Result<(), Error> {
        // First nothing leads there any more; the address is given back last.
        let Some(gone) = self.lock().state.sandboxes.get(sandbox).cloned() else { return Ok(()) };
        self.replace_ports(sandbox, &[])?;
        // As in attaching: not under the lock.
        let links = Connection::open()?;
        links.delete_link(&gone.host_link)?;
        // Where the bridge is gone, it is gone with it.
        if let Some(bridge) = links.link(&self.config.bridge)? {
            links.forget_neighbour(&neighbour(bridge.index, gone.ip))?;
        }
        let mut kernel = self.lock();
        let mut state = kernel.state.clone();
        state.sandboxes.remove(sandbox);
        state.write(&self.state_file)?;
        kernel.state = state;
        Ok(self
            .ruleset
            .replace(schema::PART, schema::elements(&kernel.state, &self.config.targets(&kernel.state)))?)
    }

    fn set_host_ports(&self, sandbox: &str, ports: &[HostPort]) -> Result<Vec<HostPortConflict>, Error> {
        self.replace_ports(sandbox, ports)?;
        Ok(ports.iter().filter_map(listeners::find).collect())
    }

    fn replace_ports(&self, sandbox: &str, ports: &[HostPort]) -> Result<(), Error> {
        let mut kernel = self.lock();
        let mut state = kernel.state.clone();
        let before =
            state.sandboxes.get(sandbox).ok_or_else(|| Error::NotAttached(sandbox.into()))?.ports.clone();
        if before == ports {
            return Ok(());
        }
        state.set_ports(sandbox, ports)?;
        state.write(&self.state_file)?;
        kernel.state = state;
        self.ruleset
            .replace(schema::PART, schema::elements(&kernel.state, &self.config.targets(&kernel.state)))?;
        self.forget_flows(&kernel, &kernel.state, before.iter().chain(ports).map(key).collect())
    }

    /// Flows without an end of their own keep the translation with which they began: those that would now
    /// go elsewhere are forgotten, and so begin anew.
    fn forget_flows(&self, kernel: &Kernel, state: &State, changed: BTreeSet<PortKey>) -> Result<(), Error> {
        let changed: Vec<_> =
            changed.into_iter().filter(|(_, protocol, _)| *protocol != Protocol::Tcp).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let own: BTreeSet<Ipv4Addr> = kernel.links.addresses()?.into_iter().map(|this| this.ip).collect();
        let targets = self.config.targets(state);
        let stale = |flow: &Flow| {
            let concerned = changed.iter().any(|(address, protocol, port)| {
                protocol.number() == flow.protocol
                    && *port == flow.destination.1
                    && (*address == flow.destination.0
                        || address.is_unspecified() && own.contains(&flow.destination.0))
            });
            concerned && wanted_target(&targets, flow).is_none_or(|target| target != flow.answers)
        };
        let count = conntrack::forget(&kernel.flows, stale).map_err(|e| failure("forget flows", e))?;
        tracing::debug!(count, "flows to changed host ports forgotten");
        Ok(())
    }

    fn set_routes(&self, routes: &[Route]) -> Result<(), Error> {
        let kernel = self.lock();
        let wanted: BTreeSet<route::Route> = routes
            .iter()
            .filter(|this| this.destination != self.config.pod_cidr)
            .map(|this| route::Route {
                destination: this.destination.address,
                prefix: this.destination.prefix,
                via: Some(this.via),
                link: None,
                source: None,
            })
            .collect();
        let nodes = routes.iter().map(|this| this.via).chain([self.config.node_ip]);
        self.ruleset.replace(schema::PART, schema::node_elements(nodes))?;
        let present: BTreeSet<route::Route> = kernel
            .links
            .routes(Some(ORIGIN))?
            .into_iter()
            .filter(|this| this.via.is_some())
            .map(|this| route::Route { link: None, source: None, ..this })
            .collect();
        for gone in present.difference(&wanted) {
            // One to the same place by another way is replaced, not deleted: no packet falls in between.
            if !wanted.iter().any(|this| (this.destination, this.prefix) == (gone.destination, gone.prefix)) {
                kernel.links.delete_route(gone)?;
            }
        }
        // One node that can't be reached must not keep the others from being reached.
        let mut failed = None;
        for new in wanted.difference(&present) {
            if let Err(error) = kernel.links.add_route(new, ORIGIN) {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn local_address(
        &self,
        work: impl FnOnce(&Connection, u32) -> Result<(), route::Error>,
    ) -> Result<(), Error> {
        let kernel = self.lock();
        kernel.links.set_up("lo")?;
        Ok(work(&kernel.links, link_index(&kernel.links, "lo")?)?)
    }

    fn remove(&self) -> Result<(), Error> {
        let mut kernel = self.lock();
        delete(&kernel.links, &kernel.state, &self.config.bridge)?;
        self.ruleset.remove()?;
        kernel.state = State::default();
        kernel.state.write(&self.state_file)
    }
}

/// Removes what an earlier process made, by what it wrote down: links, routes, rules and these further
/// addresses of the loopback. Kernel settings stay: see [`SETTINGS`]. Succeeds where nothing is left.
pub fn remove(state_dir: &Path, bridge: &str, local_addresses: &[Ipv4Addr]) -> Result<(), Error> {
    // Without it no link is known; those of sandboxes that have ended are gone with them.
    let state = State::read(&state_dir.join("network.json")).unwrap_or_default();
    let links = Connection::open()?;
    delete(&links, &state, bridge)?;
    let loopback = link_index(&links, "lo")?;
    for own in links.addresses()?.into_iter().filter(|this| this.link == loopback) {
        if local_addresses.contains(&own.ip) {
            links.delete_address(loopback, own.ip, own.prefix)?;
        }
    }
    Ok(Ruleset::open()?.remove()?)
}

/// The links that an earlier process made for its sandboxes.
pub fn host_links(state_dir: &Path) -> Vec<String> {
    let state = State::read(&state_dir.join("network.json")).unwrap_or_default();
    state.sandboxes.into_values().map(|sandbox| sandbox.host_link).collect()
}

fn delete(links: &Connection, state: &State, bridge: &str) -> Result<(), Error> {
    for sandbox in state.sandboxes.values() {
        links.delete_link(&sandbox.host_link)?;
    }
    for route in links.routes(Some(ORIGIN))? {
        links.delete_route(&route)?;
    }
    Ok(links.delete_link(bridge)?)
}

fn wanted_target(
    targets: &std::collections::BTreeMap<PortKey, (Ipv4Addr, u16)>,
    flow: &Flow,
) -> Option<(Ipv4Addr, u16)> {
    let protocol = [Protocol::Udp, Protocol::Sctp].into_iter().find(|this| this.number() == flow.protocol)?;
    let (address, port) = flow.destination;
    let target = |address| targets.get(&(address, protocol, port));
    target(address).or_else(|| target(Ipv4Addr::UNSPECIFIED)).copied()
}

fn attachment(state: &State, sandbox: &str) -> Option<Attachment> {
    let this = state.sandboxes.get(sandbox)?;
    Some(Attachment { sandbox: sandbox.into(), ip: this.ip, host_link: this.host_link.clone() })
}

fn link_index(links: &Connection, name: &str) -> Result<u32, Error> {
    let link = links.link(name)?;
    link.map(|link| link.index).ok_or_else(|| Error::Invalid(format!("the link {name} is gone")))
}

/// A hardware address that follows from the IP address: an address that is used again is then also the
/// same one in everybody's neighbour table.
pub(crate) fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Where a sandbox is, as seen from the bridge.
fn neighbour(bridge: u32, ip: Ipv4Addr) -> Neighbour {
    Neighbour { link: bridge, ip, hardware: mac(ip) }
}

fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{name}");
    // Where settings may not be written, it is enough that they are right.
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| failure(format!("write {value} to {path}"), e))
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
