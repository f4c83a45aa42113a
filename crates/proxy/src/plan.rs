//! What the services of a cluster ask of one node: pure, from objects to values.
//!
//! A service opens [`Frontend`]s; each leads to [`Ways`]: where connections from inside the cluster go,
//! and where those from outside, if that differs. The rules are those of upstream's service proxies
//! (kubernetes.io/docs/reference/networking/virtual-ips).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use skiff_client::{Change, ObjectKey};

use crate::Range;

/// Slices carry the name of their service in this label.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services that carry this label are another proxy's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Where clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// `0.0.0.0` is every address of the node except loopback.
    pub address: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

/// An endpoint's address and port.
pub type Backend = (Ipv4Addr, u16);

/// What becomes of a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One of these, at random; never empty.
    Backends(Vec<Backend>),
    Reject,
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// From this node and from pods; also from elsewhere, if `outside` does not say otherwise.
    pub inside: Target,
    pub outside: Option<Target>,
}

/// What a service, or all of them, ask for.
pub type Services = BTreeMap<Frontend, Ways>;

/// The node that plans, and what it may not touch.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    /// Service addresses that the node answers itself.
    pub local_addresses: BTreeSet<Ipv4Addr>,
    /// The range of services' own addresses.
    pub services: Range,
}

/// Upstream's port of a node's agent.
const AGENT_PORT: u16 = 10250;

/// The API's own service.
pub(crate) fn is_api(service: &ObjectKey) -> bool {
    service.namespace == "default" && service.name == "kubernetes"
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct State {
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: HashMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
}

impl State {
    pub fn new(
        services: impl IntoIterator<Item = Arc<Service>>,
        slices: impl IntoIterator<Item = Arc<EndpointSlice>>,
    ) -> State {
        let mut state = State::default();
        state.services.extend(services.into_iter().map(|service| (ObjectKey::of(&*service), service)));
        for slice in slices {
            state.insert_slice(slice);
        }
        state
    }

    /// Takes in a change, and says which service has to be planned anew. Nothing for `Resync`: make a
    /// new state then.
    pub fn observe_service(&mut self, change: Change<Service>) -> Option<ObjectKey> {
        let key = match change {
            Change::Applied { new, .. } => {
                let key = ObjectKey::of(&*new);
                self.services.insert(key.clone(), new);
                key
            }
            Change::Deleted(old) => {
                let key = ObjectKey::of(&*old);
                self.services.remove(&key);
                key
            }
            Change::Resync => return None,
        };
        Some(key)
    }

    /// Like [`State::observe_service`]; a slice that moved concerns two services.
    pub fn observe_slice(&mut self, change: Change<EndpointSlice>) -> Vec<ObjectKey> {
        let (old, new) = match change {
            Change::Applied { old, new } => (old, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Resync => return Vec::new(),
        };
        let gone = old.and_then(|old| self.remove_slice(&old));
        let come = new.and_then(|new| self.insert_slice(new));
        let mut keys: Vec<ObjectKey> = gone.into_iter().chain(come).collect();
        keys.dedup();
        keys
    }

    pub fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// What one service asks for: nothing if there is none of that name.
    pub fn plan(&self, key: &ObjectKey, node: &Node) -> Services {
        let Some(service) = self.services.get(key) else { return Services::new() };
        let slices: Vec<&EndpointSlice> =
            self.slices.get(key).into_iter().flat_map(BTreeMap::values).map(|slice| &**slice).collect();
        plan_service(service, &slices, node, &|place| self.is_platforms(place, node))
    }

    /// Whether an address outside of the cluster's ranges is the platform's own at this port, and nobody's to
    /// take: an agent's, whichever node has the address, or the API's. Services' addresses are given to them.
    fn is_platforms(&self, place: &Frontend, node: &Node) -> bool {
        let is_api = || {
            let of_api = self.slices.iter().filter(|(service, _)| is_api(service));
            of_api.flat_map(|(_, slices)| slices.values()).any(|slice| {
                let mut ports = slice.ports.iter().flatten().filter_map(|port| number(port.port?));
                let mut addresses = slice.endpoints.iter().flatten().flat_map(|each| &each.addresses);
                ports.any(|port| port == place.port)
                    && addresses.any(|address| address.parse() == Ok(place.address))
            })
        };
        node.services.contains(place.address)
            || (place.protocol == Protocol::Tcp && (place.port == AGENT_PORT || is_api()))
    }

    fn insert_slice(&mut self, slice: Arc<EndpointSlice>) -> Option<ObjectKey> {
        let (service, name) = (service_of(&slice)?, slice.metadata.name.clone()?);
        self.slices.entry(service.clone()).or_default().insert(name, slice);
        Some(service)
    }

    fn remove_slice(&mut self, slice: &EndpointSlice) -> Option<ObjectKey> {
        let service = service_of(slice)?;
        let slices = self.slices.get_mut(&service)?;
        slices.remove(slice.metadata.name.as_deref()?);
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        Some(service)
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone()?, name.clone()))
}

fn plan_service(
    service: &Service,
    slices: &[&EndpointSlice],
    node: &Node,
    is_platforms: &dyn Fn(&Frontend) -> bool,
) -> Services {
    let mut plan = Services::new();
    let Some(spec) = &service.spec else { return plan };
    let foreign = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME));
    // Headless services and external names are DNS's alone.
    let Some(cluster_ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else {
        return plan;
    };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if foreign || kind == "ExternalName" || node.local_addresses.contains(&cluster_ip) {
        return plan;
    }
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Some(number)) = (protocol(port.protocol.as_deref()), number(port.port)) else {
            continue;
        };
        let endpoints = Endpoints::select(slices, port);
        let anywhere = endpoints.target(|_| true);
        let here = || match (
            &anywhere,
            endpoints.target(|endpoint| endpoint.node_name.as_ref() == Some(&node.name)),
        ) {
            // With endpoints elsewhere only, somebody else answers: silence, so that the client tries on.
            (Target::Backends(_), Target::Reject) => Target::Drop,
            (_, here) => here,
        };
        let inside = if internal_local { here() } else { anywhere.clone() };
        plan.insert(Frontend { address: cluster_ip, protocol, port: number }, Ways { inside, outside: None });

        let ways = Ways { inside: anywhere.clone(), outside: external_local.then(here) };
        let external_ips = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse::<Ipv4Addr>().ok());
        let external_ips = external_ips.filter(|ip| is_one_place(*ip));
        let places = external_ips.map(|address| Frontend { address, protocol, port: number });
        for place in places.filter(|place| !is_platforms(place)) {
            plan.insert(place, ways.clone());
        }
        let node_port = port.node_port.and_then(self::number).filter(|_| kind != "ClusterIP");
        if let Some(port) = node_port {
            plan.insert(Frontend { address: Ipv4Addr::UNSPECIFIED, protocol, port }, ways);
        }
    }
    plan
}

/// The endpoints behind one port of a service.
struct Endpoints<'a>(Vec<(&'a Endpoint, u16)>);

impl<'a> Endpoints<'a> {
    fn select(slices: &[&'a EndpointSlice], port: &ServicePort) -> Endpoints<'a> {
        let same = |this: &&EndpointPort| {
            this.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && protocol(this.protocol.as_deref()) == protocol(port.protocol.as_deref())
        };
        let of_slice = |slice: &&'a EndpointSlice| {
            let slice = *slice;
            let ports: Vec<u16> =
                slice.ports.iter().flatten().filter(same).filter_map(|port| number(port.port?)).collect();
            slice
                .endpoints
                .iter()
                .flatten()
                .flat_map(move |endpoint| ports.clone().into_iter().map(move |port| (endpoint, port)))
        };
        let ipv4 = slices.iter().filter(|slice| slice.address_type == "IPv4");
        Endpoints(ipv4.flat_map(of_slice).collect())
    }

    /// The ready ones among those that `eligible` lets pass; if none is, those that still serve while
    /// they end.
    fn target(&self, eligible: impl Fn(&Endpoint) -> bool) -> Target {
        let pick = |usable: fn(&Endpoint) -> bool| -> Vec<Backend> {
            let picked = self.0.iter().filter(|(endpoint, _)| eligible(endpoint) && usable(endpoint));
            // One address may be in two slices for a while: it counts once.
            let backends: BTreeSet<Backend> = picked
                .filter_map(|(endpoint, port)| Some((endpoint.addresses.first()?.parse().ok()?, *port)))
                .filter(|(ip, _)| is_one_place(*ip))
                .collect();
            backends.into_iter().collect()
        };
        let ready = pick(is_ready);
        let backends = if ready.is_empty() { pick(serves_while_ending) } else { ready };
        if backends.is_empty() { Target::Reject } else { Target::Backends(backends) }
    }
}

/// Whether an address is the same place for all: others would lead to whatever listens on the loopback or the
/// link of the node that happens to translate. The API refuses them; a store may have them from before.
fn is_one_place(ip: Ipv4Addr) -> bool {
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_multicast())
}

/// An unknown condition is to be taken as ready (discovery/v1, EndpointConditions).
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn serves_while_ending(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| {
        conditions.terminating == Some(true) && conditions.serving.or(conditions.ready).unwrap_or(true)
    })
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}
