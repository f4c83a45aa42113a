//! The other nodes: which ranges lead to whom, and that they are neighbours.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use skiff_sys::netlink::route::{self, Connection, ORIGIN};

use super::{Config, Inner};
use crate::{Error, Route, schema};

/// What the kernel is to know of the other nodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    routes: BTreeSet<route::Route>,
    /// They know the way back to sandboxes.
    nodes: BTreeSet<Ipv4Addr>,
    /// Of these nothing is believed.
    refused: Vec<Route>,
}

/// A node says itself where it is, and so a hostile one could say that it is where a sandbox is, or here.
/// Others would send there what is for it; and what is sent to a node's address is not masqueraded.
fn plan(config: &Config, asked: &[Route]) -> Plan {
    let mut plan = Plan::default();
    plan.nodes.insert(config.node_ip);
    let ranges = [config.pod_cidr, config.cluster_cidr, config.service_cidr];
    let is_nodes = |ip: Ipv4Addr| {
        !ranges.iter().any(|range| range.contains(ip))
            && ip != config.node_ip
            && !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
    };
    for route in asked.iter().filter(|route| route.destination != config.pod_cidr) {
        let Route { destination, via } = *route;
        let takes_others = [config.pod_cidr, config.service_cidr].iter().any(|own| own.overlaps(destination));
        if takes_others || !is_nodes(via) {
            plan.refused.push(*route);
            continue;
        }
        plan.nodes.insert(via);
        plan.routes.insert(route::Route {
            destination: destination.address,
            prefix: destination.prefix,
            via: Some(via),
            link: None,
            source: None,
        });
    }
    plan
}

impl Inner {
    pub(super) fn set_routes(&self, routes: &[Route]) -> Result<(), Error> {
        let kernel = self.lock();
        let Plan { routes: wanted, nodes, refused } = plan(&self.config, routes);
        for Route { destination, via } in refused {
            tracing::warn!(%destination, %via, "a node's address or range is not a node's to have; no route leads there");
        }
        self.ruleset.replace(schema::PART, schema::node_elements(nodes.iter().copied()))?;
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
        if let Err(error) = keep_neighbours(&kernel.links, wanted.iter().filter_map(|route| route.via)) {
            failed = Some(error);
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Has the kernel see to it by itself that it knows where the other nodes are. So no packet waits for an answer
/// to ARP, and whatever else is in the kernel's table of neighbours, which all namespaces share, they stay.
fn keep_neighbours(links: &Connection, nodes: impl Iterator<Item = Ipv4Addr>) -> Result<(), route::Error> {
    let mut wanted = BTreeSet::new();
    for ip in nodes {
        // Where it is not on a link of this machine's, a router's address is what is asked for.
        if let Ok(found) = links.look_up(ip, None, None)
            && let Some(link) = found.link.filter(|_| !found.local && found.via.is_none())
        {
            wanted.insert((link, ip));
        }
    }
    let present: BTreeSet<(u32, Ipv4Addr)> = links.probed_neighbours(ORIGIN)?.into_iter().collect();
    for (link, ip) in present.difference(&wanted) {
        links.forget_probed(*link, *ip)?;
    }
    wanted.difference(&present).try_for_each(|(link, ip)| links.probe_neighbour(*link, *ip, ORIGIN))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn config() -> Config {
        Config {
            bridge: "cbr0".into(),
            pod_cidr: "10.244.1.0/24".parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ip: Ipv4Addr::new(10, 100, 0, 2),
            mtu: 0,
            state_dir: PathBuf::new(),
            own_ports: Vec::new(),
        }
    }

    fn route(destination: &str, via: &str) -> Route {
        Route { destination: destination.parse().unwrap(), via: via.parse().unwrap() }
    }

    #[test]
    fn no_route_leads_by_an_address_that_is_no_nodes() {
        let good = [route("10.244.2.0/24", "10.100.0.3"), route("10.244.3.0/24", "192.168.7.7")];
        let own = route("10.244.1.0/24", "10.100.0.2");
        let astray = [
            // Sandboxes here and elsewhere, the bridge, a service, this node, and places that each has.
            route("10.244.4.0/24", "10.244.1.7"),
            route("10.244.4.0/24", "10.244.2.7"),
            route("10.244.4.0/24", "10.244.1.1"),
            route("10.244.4.0/24", "10.96.0.1"),
            route("10.244.4.0/24", "10.100.0.2"),
            route("10.244.4.0/24", "127.0.0.1"),
            route("10.244.4.0/24", "0.0.0.0"),
            route("10.244.4.0/24", "224.0.0.1"),
            // What is for this node's sandboxes, or for services.
            route("10.244.1.128/25", "10.100.0.4"),
            route("10.244.0.0/16", "10.100.0.4"),
            route("10.96.0.0/24", "10.100.0.4"),
        ];
        let planned = plan(&config(), &[&good[..], &[own], &astray].concat());
        assert_eq!(planned.refused, astray);
        let to = |route: &Route| (route.destination.address, route.destination.prefix, Some(route.via));
        let routes: Vec<_> = planned.routes.iter().map(|it| (it.destination, it.prefix, it.via)).collect();
        assert_eq!(routes, good.iter().map(to).collect::<Vec<_>>());
        let nodes: Vec<String> = planned.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["10.100.0.2", "10.100.0.3", "192.168.7.7"]);
    }
}
