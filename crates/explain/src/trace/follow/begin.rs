//! Where a connection begins: at which node, in whose network, and with what addresses.

use std::net::Ipv4Addr;

use super::super::Way;
use super::super::target::{self, Target, TraceError};
use super::super::walk::{Hop, Start, Tuple};
use super::super::world::{Node, Pod};
use super::{Follow, SOURCE_PORT};

impl Follow {
    /// Where the connection begins: node, start and first packet of each possible beginning.
    pub(super) fn starts(
        &mut self,
        goals: &[(Ipv4Addr, u16)],
    ) -> Result<Vec<(String, Start, Tuple)>, TraceError> {
        let tuple = |source: Ipv4Addr, goal: &(Ipv4Addr, u16)| Tuple {
            source,
            source_port: SOURCE_PORT,
            destination: goal.0,
            destination_port: goal.1,
        };
        let mut starts = Vec::new();
        let from = self.request.from.clone();
        for goal in goals {
            // As connect(2) takes it.
            let goal = &if goal.0.is_unspecified() { (Ipv4Addr::LOCALHOST, goal.1) } else { *goal };
            match &from {
                Target::Pod { .. } | Target::Service { .. } => {
                    for pod in target::senders(&from, &self.world)? {
                        starts.push(self.at_pod(pod, |source| tuple(source, goal))?);
                    }
                }
                Target::Node { name } => {
                    starts.push((name.clone(), Start::Node, tuple(Ipv4Addr::UNSPECIFIED, goal)));
                }
                Target::Address(ip) => {
                    if let Some(pod) = self.world.pod_at(*ip) {
                        starts.push(self.at_pod(pod, |source| tuple(source, goal))?);
                    } else if let Some(node) = self.world.node_at(*ip) {
                        // As a process of the node sends that asks for no address of its own.
                        starts.push((node.name.clone(), Start::Node, tuple(Ipv4Addr::UNSPECIFIED, goal)));
                    } else if let Some(why) = self.begins_nothing(*ip) {
                        self.done.push(Way::unreachable(why));
                        return Ok(Vec::new());
                    } else {
                        let node = self.entrance(goal.0)?.name.clone();
                        starts.push((node, Start::Outside, tuple(*ip, goal)));
                    }
                }
                Target::External => {
                    let node = self.entrance(goal.0)?.name.clone();
                    // The machine is outside too, and its address is known. Of others it is not.
                    let around = self.world.surroundings;
                    let source = around.map_or(Ipv4Addr::UNSPECIFIED, |around| around.machine);
                    starts.push((node, Start::Outside, tuple(source, goal)));
                }
            }
        }
        Ok(starts)
    }

    /// Why no connection from this address, which is neither a pod's nor a node's, gets to the cluster.
    fn begins_nothing(&self, ip: Ipv4Addr) -> Option<String> {
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
            return Some(format!("nothing comes from {ip} over a network: nobody begins it"));
        }
        if let Some(service) = self.world.services.iter().find(|service| service.cluster_ip == Some(ip)) {
            let name = format!("service {}/{}", service.namespace, service.name);
            return Some(format!(
                "{ip} is the address of {name}, which sends nothing: nobody begins it (svc/{} stands for its pods)",
                service.name
            ));
        }
        if let Some(of) = self.world.vacant(ip) {
            return Some(format!("{ip} is in the range of {of}, and nobody there has it: nobody begins it"));
        }
        let closed = self.world.nodes.iter().any(|node| node.uplink == Some(false));
        (closed && self.world.leads_outside(ip)).then(|| {
            format!(
                "{ip} is outside and the cluster has no uplink (`skiff up --uplink` gives one): no answer \
                 gets there"
            )
        })
    }

    fn at_pod(
        &self,
        pod: &Pod,
        tuple: impl Fn(Ipv4Addr) -> Tuple,
    ) -> Result<(String, Start, Tuple), TraceError> {
        let name = format!("pod {}/{}", pod.namespace, pod.name);
        if pod.node.is_empty() {
            return Err(TraceError(format!("{name} is not on a node yet: it sends nothing")));
        }
        if pod.host_network {
            return Ok((pod.node.clone(), Start::Node, tuple(Ipv4Addr::UNSPECIFIED)));
        }
        let ip = pod.ip.ok_or_else(|| TraceError(format!("{name} has no address yet: it sends nothing")))?;
        let tuple = tuple(ip);
        // To itself a pod sends as whom the route says.
        let source = if tuple.destination.is_loopback() { Ipv4Addr::UNSPECIFIED } else { ip };
        Ok((pod.node.clone(), Start::Sandbox { ip }, Tuple { source, ..tuple }))
    }

    /// The node where a packet from outside comes in.
    fn entrance(&self, to: Ipv4Addr) -> Result<&Node, TraceError> {
        if let Some(node) = self.world.node_at(to) {
            return Ok(node);
        }
        if let Some(node) = self.world.pod_at(to).and_then(|pod| self.world.node(&pod.node)) {
            return Ok(node);
        }
        if let Some(node) = self.any_entrance(to) {
            return Ok(node);
        }
        if self.world.services.iter().any(|service| service.cluster_ip == Some(to)) {
            return Err(TraceError(format!(
                "{to} ({}) is an address inside the cluster: nothing outside leads there; use a node port",
                self.world.who(to)
            )));
        }
        Err(TraceError(match self.world.range_of(to) {
            Some("services") => {
                format!("{to} is an address inside the cluster, for services: nothing outside leads there")
            }
            _ if to.is_loopback() => {
                format!("{to} is everybody's own: say by whom it is meant, pod/NAME or node/NAME")
            }
            _ => format!("{to} is no address of this cluster: nothing outside leads to it here"),
        }))
    }

    /// A node that takes what is brought for a service's outside address: all do. Of one that keeps connections
    /// on the node, a node with an endpoint, as whoever brings them is to find out.
    fn any_entrance(&self, to: Ipv4Addr) -> Option<&Node> {
        let world = &self.world;
        let service = world.services.iter().find(|service| service.outside_at(to).is_some())?;
        let has_one = |node: &&Node| {
            let mut endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
            endpoints.any(|end| {
                let here = |pod: &Pod| pod.ip == Some(end.ip) && pod.node == node.name;
                world.pods.iter().any(here)
            })
        };
        let able = world.nodes.iter().find(|node| service.external_local && has_one(node));
        able.or(world.nodes.first())
    }

    /// What is not known of a connection from outside to a service's outside address: how it gets to a node.
    pub(super) fn brought(&self, node: &str, start: &Start, tuple: &Tuple) -> Option<Hop> {
        let to = tuple.destination;
        let service = self.world.services.iter().find(|service| service.outside_at(to).is_some())?;
        let outside = service.outside_at(to).filter(|_| *start == Start::Outside)?;
        let among = match self.world.nodes.len() {
            1 => String::new(),
            nodes => format!(", one of {nodes} that would take it,"),
        };
        Some(Hop {
            place: "outside the cluster".into(),
            kind: "route".into(),
            text: format!(
                "{to} is the {} address of service {}/{}; what brings it to {node}{among} is not known",
                outside.by, service.namespace, service.name
            ),
            source: tuple.source.to_string(),
            destination: format!("{to}:{}", tuple.destination_port),
            doubtful: true,
            ..Hop::default()
        })
    }
}
