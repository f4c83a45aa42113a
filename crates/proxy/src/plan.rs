//! What the services of a cluster ask of one node: pure, from objects to values.
//!
//! A service opens [`Frontend`]s; each leads to [`Ways`]: where connections from inside the cluster go,
//! where those from outside, if that differs, and who may connect at all. The rules are those of upstream's
//! service proxies (kubernetes.io/docs/reference/networking/virtual-ips).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::{Change, ObjectKey};

use crate::Range;
use crate::endpoints::{Endpoints, is_one_place};

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
    /// From whom alone connections are taken, wherever they come from; everybody else gets no answer.
    pub sources: Option<Sources>,
}

/// Ranges of addresses.
pub type Sources = BTreeSet<Range>;

/// What a service, or all of them, ask for.
pub type Services = BTreeMap<Frontend, Ways>;

/// The node that plans, and what it may not touch.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub ip: Ipv4Addr,
    /// What the node's label says where it is, if it says anything.
    pub zone: Option<String>,
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
    let external_ips: Vec<Ipv4Addr> = addresses(spec.external_ips.iter().flatten().map(String::as_str));
    // Only those of that type have them; what became another type may show them for a moment yet.
    let balanced = if kind == "LoadBalancer" { load_balanced(service) } else { Vec::new() };
    let sources = sources(spec, &balanced, node.ip);
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Some(number)) = (protocol(port.protocol.as_deref()), number(port.port)) else {
            continue;
        };
        let endpoints = Endpoints::select(slices, port);
        let anywhere = endpoints.preferred(node);
        let here = || match (&anywhere, endpoints.of_node(&node.name)) {
            // With endpoints elsewhere only, somebody else answers: silence, so that the client tries on.
            (Target::Backends(_), Target::Reject) => Target::Drop,
            (_, here) => here,
        };
        let inside = if internal_local { here() } else { anywhere.clone() };
        let own = Frontend { address: cluster_ip, protocol, port: number };
        plan.insert(own, Ways { inside, outside: None, sources: None });

        let ways = Ways { inside: anywhere.clone(), outside: external_local.then(here), sources: None };
        let mut open = |addresses: &[Ipv4Addr], ways: &Ways| {
            let places = addresses.iter().map(|ip| Frontend { address: *ip, protocol, port: number });
            for place in places.filter(|place| !is_platforms(place)) {
                plan.insert(place, ways.clone());
            }
        };
        open(&external_ips, &ways);
        // Last: an address that is both is as guarded as the load balancer's.
        open(&balanced, &Ways { sources: sources.clone(), ..ways.clone() });
        let node_port = port.node_port.and_then(self::number).filter(|_| kind != "ClusterIP");
        if let Some(port) = node_port {
            plan.insert(Frontend { address: Ipv4Addr::UNSPECIFIED, protocol, port }, ways);
        }
    }
    plan
}

/// Those that are IPv4 and the same place for all.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Ipv4Addr> {
    texts.filter_map(|ip| ip.parse().ok()).filter(|ip| is_one_place(*ip)).collect()
}

/// The addresses that a load balancer gave a service and that packets for it bear when they come to a node.
/// (One of mode `Proxy` sends them to node ports, and nothing is to be short-circuited.)
fn load_balanced(service: &Service) -> Vec<Ipv4Addr> {
    let is_vip = |given: &&LoadBalancerIngress| given.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
    let status = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let given = status.flat_map(|balancer| balancer.ingress.iter().flatten()).filter(is_vip);
    addresses(given.filter_map(|given| given.ip.as_deref()))
}

/// Who may connect to a load balancer's address: the ranges that the service names, if it names any.
fn sources(spec: &ServiceSpec, balanced: &[Ipv4Addr], node: Ipv4Addr) -> Option<Sources> {
    let named = spec.load_balancer_source_ranges.iter().flatten();
    // The API takes blanks around them, as upstream's.
    let mut ranges: Sources =
        named.filter_map(|range| range.trim().parse::<Range>().ok()).map(Range::whole).collect();
    // What a node sends to an address that it has itself comes from that address.
    if ranges.iter().any(|range| range.contains(node)) {
        ranges.extend(balanced.iter().map(|ip| Range { address: *ip, prefix: 32 }));
    }
    (!ranges.is_empty()).then_some(ranges)
}

pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

pub(crate) fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}
