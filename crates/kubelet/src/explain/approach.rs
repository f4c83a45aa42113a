//! What is in the way of connections to pods' sockets on this node: packets are followed to the door, all through
//! one look at the node's routes, links and rules.

use std::net::Ipv4Addr;
use std::sync::Arc;

use skiff_explain::Missing;
use skiff_explain::approach::{Outcome, SOCKETS_MAX, approaches, obstacles};
use skiff_explain::facts::{self as told, OtherNode};
use skiff_explain::trace::walk as asked;
use skiff_network::facts::RouteFact;
use skiff_network::walk::{Approaches, End, Packets, Start, Tuple, Way};

use crate::node_context::Context;

/// Addresses of the sandboxes on this node's bridge.
pub(super) async fn sandboxes(context: &Context) -> Vec<Ipv4Addr> {
    let network = context.network.borrow().clone();
    let Some(network) = network else { return Vec::new() };
    network.attachments().await.unwrap_or_default().into_iter().map(|own| own.ip).collect()
}

/// The other nodes, by the routes to their pods.
pub(super) fn others(routes: &[RouteFact]) -> Vec<OtherNode> {
    let led = routes.iter().filter(|route| route.prefix > 0);
    led.filter_map(|route| Some(OtherNode { ip: route.via?, pods: (route.destination, route.prefix) }))
        .collect()
}

/// Notes what is in the way of each pod's sockets, or that it is not known.
pub(super) async fn follow(context: &Arc<Context>, pods: &mut [told::Pod]) {
    let all: Vec<_> = pods.iter().map(approaches).collect();
    let packets = all.iter().flatten().map(|own| (start(&own.start), packets(own.packets))).collect();
    let ends = match ends(context, packets).await {
        Ok(ends) => ends,
        Err(why) => {
            let lacking = pods.iter_mut().zip(&all).filter(|(_, own)| !own.is_empty());
            return lacking.for_each(|(pod, _)| pod.missing.push(Missing::new(WHAT, why.clone())));
        }
    };
    let mut ends = ends.into_iter();
    for (pod, own) in pods.iter_mut().zip(&all) {
        let ends: Vec<_> = ends.by_ref().take(own.len()).collect();
        pod.obstacles = obstacles(pod, own, &ends);
        if pod.sockets.len() > SOCKETS_MAX {
            let why = format!("the first {SOCKETS_MAX} of its {} sockets are looked at", pod.sockets.len());
            pod.missing.push(Missing::new(WHAT, why));
        }
    }
}

const WHAT: &str = "what is in the way of connections to the sockets";

async fn ends(
    context: &Context,
    packets: Vec<(Start, Packets)>,
) -> Result<Vec<Result<Vec<Outcome>, String>>, String> {
    if packets.is_empty() {
        return Ok(Vec::new());
    }
    let network = super::network(context).map_err(|refused| refused.1)?;
    let sandboxes = super::sandboxes(context).await.map_err(|refused| refused.1)?;
    let node = format!("node {}", context.config.node_name);
    let ways = network.approaches(Approaches { node, sandboxes, packets }).await;
    let ways = ways.map_err(|error| crate::images::chain(&error))?;
    let one = |ways: Result<Vec<Way>, _>| match ways {
        Ok(ways) => Ok(ways.into_iter().map(outcome).collect()),
        Err(error) => Err(crate::images::chain(&error)),
    };
    Ok(ways.into_iter().map(one).collect())
}

fn start(from: &asked::Start) -> Start {
    match *from {
        asked::Start::Node => Start::Node,
        asked::Start::Sandbox { ip } => Start::Sandbox { ip },
        asked::Start::Link { next_hop } => Start::Link { next_hop },
        asked::Start::Outside => Start::Outside,
    }
}

fn packets(own: asked::Packets) -> Packets {
    let asked::Tuple { source, source_port, destination, destination_port } = own.tuple;
    let tuple = Tuple { source, source_port, destination, destination_port };
    Packets { protocol: own.protocol, tuple, reply: own.reply }
}

fn outcome(way: Way) -> Outcome {
    let end = match way.end {
        End::Delivered { place, process } => asked::End::Delivered { place, process },
        End::Refused { place, why } => asked::End::Refused { place, why },
        End::Rejected { place, by } => asked::End::Rejected { place, by },
        End::Dropped { place, by } => asked::End::Dropped { place, by },
        End::Unroutable { place, why } => asked::End::Unroutable { place, why },
        End::Down { place, device, why } => asked::End::Down { place, device, why },
        End::Leaves { link, next_hop } => asked::End::Leaves { link, next_hop },
    };
    let doubts = way.hops.into_iter().filter(|hop| hop.doubtful).map(|hop| match (hop.chain, hop.table) {
        (Some(chain), Some(table)) => {
            let rule = hop.rule.map(|rule| format!(", rule `{rule}`")).unwrap_or_default();
            format!("chain {chain} of table {table}{rule}")
        }
        _ => hop.text,
    });
    Outcome { end, to: (way.tuple.destination, way.tuple.destination_port), doubts: doubts.collect() }
}
