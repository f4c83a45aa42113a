//! From a service and its pods to the objects that name its endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort as SlicePort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::owners::controller_reference;
use crate::pods;

pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const ENDPOINTS_MANAGED_BY: &str = "endpoint-controller";
const ENDPOINTS_MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Endpoints in one slice.
const SLICE_MAX: usize = 100;
/// Addresses in one Endpoints object; more are left out, with a note.
const ENDPOINTS_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// A change to one slice.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    /// By name.
    Delete(String),
}

/// Whether an Endpoints object is this controller's work.
pub(super) fn is_generated(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(ENDPOINTS_MANAGED_BY_LABEL))
        .is_some_and(|by| by == ENDPOINTS_MANAGED_BY)
}

/// The ports of one pod: a named target port may be another number in each pod.
type Ports = Vec<SlicePort>;

/// What the service's slices should become, touching as few as possible: an endpoint stays in the slice it
/// is in. `zone_of` tells where nodes are.
pub(super) fn slices(
    service: &Service,
    pods: &[Arc<Pod>],
    present: &[Arc<EndpointSlice>],
    zone_of: impl Fn(&str) -> Option<String>,
) -> Vec<Change> {
    // A port set without endpoints is one empty slice, so that readers can tell "none" from "not yet".
    let mut wanted: Vec<(Ports, Vec<Endpoint>)> = Vec::new();
    for pod in pods {
        let Some(mut endpoint) = endpoint(service, pod) else { continue };
        endpoint.zone = endpoint.node_name.as_deref().and_then(&zone_of);
        endpoint.hints = hints(service, &endpoint);
        let ports = ports(service, pod);
        match wanted.iter_mut().find(|(own, _)| *own == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => wanted.push((ports, vec![endpoint])),
        }
    }
    if wanted.is_empty() {
        wanted.push((Vec::new(), Vec::new()));
    }
    let mut changes = Vec::new();
    let mut used = vec![false; present.len()];
    for (ports, mut endpoints) in wanted {
        let matching: Vec<usize> = (0..present.len())
            .filter(|index| !used[*index] && present[*index].ports.as_deref().unwrap_or_default() == ports)
            .collect();
        let mut kept: Vec<(usize, Vec<Endpoint>)> = Vec::new();
        for index in matching {
            let mut staying = Vec::new();
            for old in present[index].endpoints.iter().flatten() {
                if let Some(at) = endpoints.iter().position(|new| same_target(new, old)) {
                    staying.push(endpoints.swap_remove(at));
                }
            }
            kept.push((index, staying));
        }
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let mut rest = endpoints.into_iter();
        for (_, staying) in &mut kept {
            staying.extend(rest.by_ref().take(SLICE_MAX.saturating_sub(staying.len())));
        }
        let mut chunks: Vec<(Option<usize>, Vec<Endpoint>)> =
            kept.into_iter().map(|(index, endpoints)| (Some(index), endpoints)).collect();
        loop {
            let chunk: Vec<_> = rest.by_ref().take(SLICE_MAX).collect();
            if chunk.is_empty() {
                break;
            }
            chunks.push((None, chunk));
        }
        // Of empty slices, one is enough, and only where nothing else is.
        let some = chunks.iter().any(|(_, endpoints)| !endpoints.is_empty());
        let mut empty_left = usize::from(!some);
        chunks.retain(|(_, endpoints)| !endpoints.is_empty() || std::mem::take(&mut empty_left) > 0);
        if chunks.is_empty() {
            chunks.push((None, Vec::new()));
        }
        for (index, endpoints) in chunks {
            let old = index.map(|index| &*present[index]);
            if let Some(index) = index {
                used[index] = true;
            }
            let mut new = slice(service, old, &ports, endpoints);
            if old.is_none() {
                new.metadata.name = Some(free_name(&service.metadata, present, &changes));
            }
            match old {
                None => changes.push(Change::Create(Box::new(new))),
                Some(old) if *old != new => changes.push(Change::Update(Box::new(new))),
                Some(_) => {}
            }
        }
    }
    let gone = present.iter().zip(&used).filter(|(_, used)| !**used).map(|(slice, _)| slice);
    changes.extend(gone.map(|slice| Change::Delete(slice.metadata.name.clone().unwrap_or_default())));
    changes
}

fn same_target(new: &Endpoint, old: &Endpoint) -> bool {
    let uid = |endpoint: &Endpoint| endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    uid(new) == uid(old)
}

/// The first name that no slice of their owner has. Names are not random: a second creation, from a copy
/// that doesn't show the first one yet, fails instead of making a twin.
pub(super) fn free_name(owner: &ObjectMeta, present: &[Arc<EndpointSlice>], changes: &[Change]) -> String {
    let base: String = owner.name.iter().flat_map(|name| name.chars()).take(240).collect();
    let uid = owner.uid.as_deref().unwrap_or_default();
    let planned = changes.iter().filter_map(|change| match change {
        Change::Create(slice) => slice.metadata.name.as_deref(),
        Change::Update(_) | Change::Delete(_) => None,
    });
    let taken: Vec<&str> =
        present.iter().filter_map(|slice| slice.metadata.name.as_deref()).chain(planned).collect();
    (0_u32..)
        .map(|index| {
            let letters = pods::letters(pods::fnv(format!("{uid} {index}").as_bytes(), pods::FNV_START));
            format!("{base}-{}", &letters[..letters.len().min(5)])
        })
        .find(|name| !taken.contains(&name.as_str()))
        .unwrap_or(base)
}

fn slice(
    service: &Service,
    old: Option<&EndpointSlice>,
    ports: &Ports,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut metadata = match old {
        Some(old) => old.metadata.clone(),
        None => ObjectMeta { namespace: service.metadata.namespace.clone(), ..ObjectMeta::default() },
    };
    let mut labels = service_labels(service);
    labels.insert(SERVICE_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    metadata.labels = Some(labels);
    metadata.owner_references = Some(vec![controller_reference(service)]);
    EndpointSlice {
        metadata,
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints).filter(|endpoints| !endpoints.is_empty()).or_else(|| {
            // As the server gives it back: an empty list, or none.
            old.and_then(|old| old.endpoints.clone()).map(|_| Vec::new())
        }),
        ports: match old.and_then(|old| old.ports.as_ref()) {
            None if ports.is_empty() => None,
            _ => Some(ports.clone()),
        },
    }
}

fn service_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// A pod as an endpoint; none where it has no address, has ended, or is over.
fn endpoint(service: &Service, pod: &Pod) -> Option<Endpoint> {
    let address = address(pod)?;
    let publish = publishes_not_ready(service);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = pods::is_ready(pod);
    let spec = pod.spec.as_ref();
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host_name(service, pod),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(target(pod)),
        ..Endpoint::default()
    })
}

/// For whose connections an endpoint is meant before others: those of its zone, and where the service prefers
/// that, of its node. Only one that is ready has any.
fn hints(service: &Service, endpoint: &Endpoint) -> Option<EndpointHints> {
    let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let by_node = wish == "PreferSameNode";
    // The second is the first's older name.
    if !is_ready || !(by_node || matches!(wish, "PreferSameZone" | "PreferClose")) {
        return None;
    }
    let zone = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let node = endpoint.node_name.clone().filter(|_| by_node).map(|name| vec![ForNode { name }]);
    (zone.is_some() || node.is_some()).then_some(EndpointHints { for_zones: zone, for_nodes: node })
}

fn address(pod: &Pod) -> Option<String> {
    if pods::has_ended(pod) {
        return None;
    }
    pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// A pod's own name under a headless service, where it asks for one.
fn host_name(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    (spec.subdomain == service.metadata.name).then(|| spec.hostname.clone())?.filter(|name| !name.is_empty())
}

fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| {
            Some(SlicePort {
                name: Some(port.name.clone().unwrap_or_default()),
                protocol: Some(protocol(port).to_owned()),
                port: Some(target_port(port, pod)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The number that a service's port has in this pod, if the pod has such a port.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|own| {
                    own.name.as_deref() == Some(name)
                        && own.protocol.as_deref().unwrap_or("TCP") == protocol(port)
                })
                .map(|own| own.container_port)
        }
    }
}

/// The service's Endpoints object, if it isn't as it should be.
pub(super) fn endpoints(
    service: &Service,
    pods: &[Arc<Pod>],
    present: Option<&Endpoints>,
) -> Option<Endpoints> {
    let publish = publishes_not_ready(service);
    let mut subsets: Vec<(Vec<EndpointPort>, Vec<EndpointAddress>, Vec<EndpointAddress>)> = Vec::new();
    let mut left_out = false;
    let mut count = 0;
    for pod in pods {
        let Some(ip) = address(pod) else { continue };
        if pod.metadata.deletion_timestamp.is_some() && !publish {
            continue;
        }
        if count == ENDPOINTS_MAX {
            left_out = true;
            break;
        }
        count += 1;
        let ports: Vec<EndpointPort> = ports(service, pod)
            .into_iter()
            .map(|port| EndpointPort {
                name: port.name.filter(|name| !name.is_empty()),
                port: port.port.unwrap_or_default(),
                protocol: port.protocol,
                app_protocol: port.app_protocol,
            })
            .collect();
        let headless_without_ports =
            service.spec.as_ref().is_some_and(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty));
        if ports.is_empty() && !headless_without_ports {
            continue;
        }
        let address = EndpointAddress {
            ip,
            hostname: host_name(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(target(pod)),
        };
        let ready = publish || pods::is_ready(pod);
        let index = match subsets.iter().position(|(own, ..)| *own == ports) {
            Some(index) => index,
            None => {
                subsets.push((ports, Vec::new(), Vec::new()));
                subsets.len() - 1
            }
        };
        if ready { subsets[index].1.push(address) } else { subsets[index].2.push(address) }
    }
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    let subsets: Vec<EndpointSubset> = subsets
        .into_iter()
        .map(|(ports, ready, not_ready)| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        })
        .collect();
    let mut labels = service_labels(service);
    labels.insert(ENDPOINTS_MANAGED_BY_LABEL.to_owned(), ENDPOINTS_MANAGED_BY.to_owned());
    let mut metadata = present.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |present| present.metadata.clone(),
    );
    metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    match left_out {
        true => drop(annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned())),
        false => drop(annotations.remove(OVER_CAPACITY)),
    }
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let same = present.is_some_and(|present| {
        present.metadata.labels == metadata.labels
            && present.metadata.annotations == metadata.annotations
            && present.subsets.as_deref().unwrap_or_default() == subsets.as_deref().unwrap_or_default()
    });
    (!same).then_some(Endpoints { metadata, subsets })
}

#[cfg(test)]
mod tests;
