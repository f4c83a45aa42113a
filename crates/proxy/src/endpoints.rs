//! Which endpoints of a service a node leads connections to: the ready ones, and of these those that the
//! service prefers for this node, which the slices' hints say.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::plan::{Backend, Node, Target, number, protocol};

/// The endpoints behind one port of a service.
pub(crate) struct Endpoints<'a>(Vec<(&'a Endpoint, u16)>);

/// Whom a hint names.
#[derive(Clone, Copy)]
enum Hint {
    Node,
    Zone,
}

impl<'a> Endpoints<'a> {
    pub(crate) fn select(slices: &[&'a EndpointSlice], port: &ServicePort) -> Endpoints<'a> {
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

    /// Those of one node.
    pub(crate) fn of_node(&self, node: &str) -> Target {
        self.target(|endpoint| endpoint.node_name.as_deref() == Some(node))
    }

    /// Those that connections from this node prefer, wherever they are: on this node, else in its zone, if
    /// every ready endpoint has a hint and one names it; else all.
    pub(crate) fn preferred(&self, node: &Node) -> Target {
        let ready = || self.0.iter().map(|(endpoint, _)| *endpoint).filter(|endpoint| is_ready(endpoint));
        let holds = |hint: Hint, own: &str| {
            ready().all(|endpoint| hints(endpoint, hint).next().is_some())
                && ready().any(|endpoint| hints(endpoint, hint).any(|name| name == own))
        };
        let zone = node.zone.as_deref().map(|zone| (Hint::Zone, zone));
        let preferences = [Some((Hint::Node, node.name.as_str())), zone].into_iter().flatten();
        match preferences.into_iter().find(|(hint, own)| holds(*hint, own)) {
            Some((hint, own)) => {
                let preferred = |endpoint: &Endpoint| hints(endpoint, hint).any(|name| name == own);
                self.target(|endpoint| !is_ready(endpoint) || preferred(endpoint))
            }
            None => self.target(|_| true),
        }
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

/// The names of one kind in an endpoint's hints.
fn hints(endpoint: &Endpoint, kind: Hint) -> impl Iterator<Item = &str> {
    let hints = endpoint.hints.as_ref();
    let nodes = hints.filter(|_| matches!(kind, Hint::Node)).and_then(|hints| hints.for_nodes.as_ref());
    let zones = hints.filter(|_| matches!(kind, Hint::Zone)).and_then(|hints| hints.for_zones.as_ref());
    let nodes = nodes.into_iter().flatten().map(|hint| hint.name.as_str());
    nodes.chain(zones.into_iter().flatten().map(|hint| hint.name.as_str()))
}

/// Whether an address is the same place for all: others would lead to whatever listens on the loopback or the
/// link of the node that happens to translate. The API refuses them; a store may have them from before.
pub(crate) fn is_one_place(ip: Ipv4Addr) -> bool {
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
