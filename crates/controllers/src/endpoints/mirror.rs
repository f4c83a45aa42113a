//! Endpoints that somebody else keeps, as slices: the service proxy and the DNS read slices only.
//!
//! A slice per subset, for services without a selector. What the Endpoints' owner fills as slices himself is
//! marked with [`SKIP_LABEL`] and left alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{Change, HEADLESS_LABEL, MANAGED_BY_LABEL, SERVICE_LABEL, free_name};
use crate::owners::controller_reference;

pub(super) const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// What the mirrored slices of a service without a selector should become; `present` are those that are
/// there.
pub(super) fn slices(endpoints: Option<&Endpoints>, present: &[Arc<EndpointSlice>]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut left = present.iter();
    if let Some(endpoints) = endpoints.filter(|endpoints| !skipped(endpoints)) {
        for subset in endpoints.subsets.iter().flatten() {
            let old = left.next();
            let mut new = slice(endpoints, subset, old.map(|old| &**old));
            match old {
                None => {
                    new.metadata.name = Some(free_name(&endpoints.metadata, present, &changes));
                    changes.push(Change::Create(Box::new(new)));
                }
                Some(old) if **old != new => changes.push(Change::Update(Box::new(new))),
                Some(_) => {}
            }
        }
    }
    changes.extend(left.map(|slice| Change::Delete(slice.metadata.name.clone().unwrap_or_default())));
    changes
}

fn skipped(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(SKIP_LABEL)).is_some_and(|skip| skip == "true")
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, old: Option<&EndpointSlice>) -> EndpointSlice {
    let mut metadata = match old {
        Some(old) => old.metadata.clone(),
        None => ObjectMeta { namespace: endpoints.metadata.namespace.clone(), ..ObjectMeta::default() },
    };
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(SERVICE_LABEL.to_owned(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    metadata.labels = Some(labels);
    metadata.owner_references = Some(vec![controller_reference(endpoints)]);
    let ready = subset.addresses.iter().flatten().map(|address| endpoint(address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| endpoint(address, false));
    let ports: Vec<SlicePort> = subset
        .ports
        .iter()
        .flatten()
        .map(|port| SlicePort {
            app_protocol: port.app_protocol.clone(),
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        })
        .collect();
    EndpointSlice {
        metadata,
        address_type: "IPv4".to_owned(),
        endpoints: Some(ready.chain(not_ready).collect()),
        ports: Some(ports).filter(|ports| !ports.is_empty() || old.is_some_and(|old| old.ports.is_some())),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests;
