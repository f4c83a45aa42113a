//! What names exist: services, their endpoints, and pods, kept up to date change by change.
//!
//! A change of one object costs what that object has, however many others there are. Keys are lower case,
//! as DNS names are compared without case and Kubernetes' own are lower case anyway.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::ObjectKey;

/// Which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// All that the zone's names depend on.
#[derive(Debug, Default)]
pub struct Records {
    services: HashMap<ObjectKey, ServiceRecord>,
    /// By service, then by the slice's name.
    slices: HashMap<ObjectKey, BTreeMap<String, SliceRecord>>,
    /// Which service a slice was last counted for: its label may change.
    slice_services: HashMap<ObjectKey, ObjectKey>,
    namespaces: HashMap<String, usize>,
    cluster_ips: HashMap<IpAddr, ObjectKey>,
    /// How many slices of a service have an endpoint with this address.
    endpoint_ips: HashMap<IpAddr, HashMap<ObjectKey, usize>>,
    /// `None`: any well-formed pod name has an address, as upstream's default is (`pods insecure`).
    pods: Option<Pods>,
}

#[derive(Debug, Default)]
struct Pods {
    addresses: HashMap<ObjectKey, HashSet<IpAddr>>,
    by_namespace: HashMap<String, HashMap<IpAddr, usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRecord {
    pub kind: ServiceKind,
    pub ports: Vec<Port>,
    pub publish_not_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    Cluster(Vec<IpAddr>),
    Headless,
    /// The name it stands for.
    External(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub number: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SliceRecord {
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<String>,
    pub ready: bool,
}

impl Endpoint {
    /// Its own label below the service: its host name, else its address with dashes.
    pub(crate) fn label(&self, address: IpAddr) -> String {
        self.hostname.clone().unwrap_or_else(|| dashed(address))
    }
}

impl Records {
    /// Of a zone in which pod names are checked against the pods there are, if `with_pods`.
    pub fn new(with_pods: bool) -> Self {
        Records { pods: with_pods.then(Pods::default), ..Records::default() }
    }

    /// A service was created or changed.
    pub fn apply_service(&mut self, service: &Service) {
        let key = lower(ObjectKey::of(service));
        self.remove_service(&key);
        let Some(record) = service_record(service) else { return };
        if let ServiceKind::Cluster(addresses) = &record.kind {
            self.cluster_ips.extend(addresses.iter().map(|address| (*address, key.clone())));
        }
        *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
        self.services.insert(key, record);
    }

    /// A service is gone. Its slices follow by themselves.
    pub fn remove_service(&mut self, key: &ObjectKey) {
        let key = lower(key.clone());
        let Some(record) = self.services.remove(&key) else { return };
        if let ServiceKind::Cluster(addresses) = &record.kind {
            for address in addresses {
                // Another service may have been given the address meanwhile.
                if self.cluster_ips.get(address) == Some(&key) {
                    self.cluster_ips.remove(address);
                }
            }
        }
        uncount(&mut self.namespaces, &key.namespace);
    }

    /// A slice was created or changed.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = ObjectKey::of(slice);
        self.remove_slice(&key);
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let Some(name) = label else { return };
        let service = lower(ObjectKey::new(key.namespace.clone(), name.clone()));
        let record = slice_record(slice);
        for address in unique_addresses(&record) {
            *self.endpoint_ips.entry(address).or_default().entry(service.clone()).or_default() += 1;
        }
        self.slices.entry(service.clone()).or_default().insert(key.name.clone(), record);
        self.slice_services.insert(key, service);
    }

    /// A slice is gone.
    pub fn remove_slice(&mut self, key: &ObjectKey) {
        let Some(service) = self.slice_services.remove(key) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let removed = slices.remove(&key.name);
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        for address in removed.iter().flat_map(unique_addresses) {
            if let Some(services) = self.endpoint_ips.get_mut(&address) {
                uncount(services, &service);
                if services.is_empty() {
                    self.endpoint_ips.remove(&address);
                }
            }
        }
    }

    /// A pod was created or changed.
    pub fn apply_pod(&mut self, pod: &Pod) {
        let key = lower(ObjectKey::of(pod));
        self.remove_pod(&key);
        let Some(pods) = &mut self.pods else { return };
        let Some(status) = &pod.status else { return };
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return;
        }
        let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let addresses: HashSet<IpAddr> =
            listed.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
        for address in &addresses {
            let in_namespace = pods.by_namespace.entry(key.namespace.clone()).or_default();
            *in_namespace.entry(*address).or_default() += 1;
        }
        pods.addresses.insert(key, addresses);
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &ObjectKey) {
        let key = lower(key.clone());
        let Some(pods) = &mut self.pods else { return };
        for address in pods.addresses.remove(&key).into_iter().flatten() {
            if let Some(in_namespace) = pods.by_namespace.get_mut(&key.namespace) {
                uncount(in_namespace, &address);
                if in_namespace.is_empty() {
                    pods.by_namespace.remove(&key.namespace);
                }
            }
        }
    }

    /// Makes the services exactly these, after changes were missed.
    pub fn replace_services<'a>(&mut self, services: impl IntoIterator<Item = &'a Service>) {
        let mut gone: HashSet<ObjectKey> = self.services.keys().cloned().collect();
        for service in services {
            gone.remove(&lower(ObjectKey::of(service)));
            self.apply_service(service);
        }
        gone.iter().for_each(|key| self.remove_service(key));
    }

    /// Makes the slices exactly these.
    pub fn replace_slices<'a>(&mut self, slices: impl IntoIterator<Item = &'a EndpointSlice>) {
        let mut gone: HashSet<ObjectKey> = self.slice_services.keys().cloned().collect();
        for slice in slices {
            gone.remove(&ObjectKey::of(slice));
            self.apply_slice(slice);
        }
        gone.iter().for_each(|key| self.remove_slice(key));
    }

    /// Makes the pods exactly these.
    pub fn replace_pods<'a>(&mut self, pods: impl IntoIterator<Item = &'a Pod>) {
        let known = self.pods.iter().flat_map(|pods| pods.addresses.keys().cloned());
        let mut gone: HashSet<ObjectKey> = known.collect();
        for pod in pods {
            gone.remove(&lower(ObjectKey::of(pod)));
            self.apply_pod(pod);
        }
        gone.iter().for_each(|key| self.remove_pod(key));
    }

    pub(crate) fn service(&self, key: &ObjectKey) -> Option<&ServiceRecord> {
        self.services.get(key)
    }

    /// The service's slices that have anything.
    pub(crate) fn slices(&self, key: &ObjectKey) -> impl Iterator<Item = &SliceRecord> {
        self.slices.get(key).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Whether names of pods in this namespace may exist.
    pub(crate) fn has_pods(&self, namespace: &str) -> bool {
        self.pods.as_ref().is_none_or(|pods| pods.by_namespace.contains_key(namespace))
    }

    pub(crate) fn has_pod(&self, namespace: &str, address: IpAddr) -> bool {
        self.pods.as_ref().is_none_or(|pods| {
            pods.by_namespace.get(namespace).is_some_and(|addresses| addresses.contains_key(&address))
        })
    }

    pub(crate) fn service_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.cluster_ips.get(&address)
    }

    /// The headless services that have an endpoint at this address, in order.
    pub(crate) fn endpoints_at(&self, address: IpAddr) -> Vec<(&ObjectKey, &Endpoint)> {
        let Some(services) = self.endpoint_ips.get(&address) else { return Vec::new() };
        let mut keys: Vec<&ObjectKey> = services.keys().collect();
        keys.sort();
        let mut found = Vec::new();
        for key in keys {
            let Some(service) = self.services.get(key) else { continue };
            if service.kind != ServiceKind::Headless {
                continue;
            }
            let endpoints = self.slices(key).flat_map(|slice| &slice.endpoints);
            let mine = endpoints
                .filter(|e| e.addresses.contains(&address) && (e.ready || service.publish_not_ready));
            found.extend(mine.map(|endpoint| (key, endpoint)));
        }
        found
    }
}

/// `10.0.0.7` as `10-0-0-7`, `fd00::7` as `fd00--7`.
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that such a label means.
pub(crate) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok();
    v4.or_else(|| label.replace('-', ":").parse().ok())
}

fn lower(key: ObjectKey) -> ObjectKey {
    ObjectKey { namespace: key.namespace.to_ascii_lowercase(), name: key.name.to_ascii_lowercase() }
}

fn uncount<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn unique_addresses(slice: &SliceRecord) -> HashSet<IpAddr> {
    slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

/// `None` for a service that has no name yet: its address is still to be given.
fn service_record(service: &Service) -> Option<ServiceRecord> {
    let spec = service.spec.as_ref()?;
    let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => ServiceKind::External(spec.external_name.clone()?),
        (_, Some("None")) => ServiceKind::Headless,
        (_, first) => {
            let listed = spec.cluster_ips.iter().flatten().map(String::as_str);
            let mut addresses: Vec<IpAddr> = listed.chain(first).filter_map(|ip| ip.parse().ok()).collect();
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() {
                return None;
            }
            ServiceKind::Cluster(addresses)
        }
    };
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        Some(new_port(port.name.as_deref(), port.protocol.as_deref(), number))
    };
    let ports = spec.ports.iter().flatten().filter_map(port).collect();
    let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
    Some(ServiceRecord { kind, ports, publish_not_ready })
}

fn slice_record(slice: &EndpointSlice) -> SliceRecord {
    let endpoint = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        hostname: endpoint.hostname.as_ref().map(|name| name.to_ascii_lowercase()),
        // Unknown means ready: discovery.k8s.io/v1, EndpointConditions.
        ready: endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
    };
    let port = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
        let number = u16::try_from(port.port?).ok()?;
        Some(new_port(port.name.as_deref(), port.protocol.as_deref(), number))
    };
    SliceRecord {
        endpoints: slice.endpoints.iter().flatten().map(endpoint).collect(),
        ports: slice.ports.iter().flatten().filter_map(port).collect(),
    }
}

fn new_port(name: Option<&str>, protocol: Option<&str>, number: u16) -> Port {
    Port {
        name: name.unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number,
    }
}
