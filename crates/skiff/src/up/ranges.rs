//! Which address ranges a new cluster gets.
//!
//! Defaults move on past what is taken; a range that was asked for is taken or refused, never moved.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use skiff_network::{Cidr, ParseCidrError};

/// The three ranges of a cluster. They overlap neither each other nor anything on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ranges {
    /// The nodes' own network: the router has address 1, nodes follow, the machine has the last but one.
    pub(crate) node: Cidr,
    /// One /24 a node is cut from it.
    pub(crate) pod: Cidr,
    pub(crate) service: Cidr,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) node: Option<Cidr>,
    pub(crate) pod: Option<Cidr>,
    pub(crate) service: Option<Cidr>,
}

/// A range in use, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) by: String,
    pub(crate) range: Cidr,
}

/// Pod ranges of nodes have this prefix, as upstream's default.
pub(crate) const NODE_POD_PREFIX: u8 = 24;

struct Purpose {
    name: &'static str,
    flag: &'static str,
    /// The first default.
    first: Ipv4Addr,
    prefix: u8,
    /// The narrowest that is of use.
    prefix_max: u8,
}

const NODE: Purpose = Purpose {
    name: "node network",
    flag: "--node-cidr",
    first: Ipv4Addr::new(10, 100, 0, 0),
    prefix: 24,
    prefix_max: 28,
};
const POD: Purpose = Purpose {
    name: "pod network",
    flag: "--pod-cidr",
    first: Ipv4Addr::new(10, 244, 0, 0),
    prefix: 16,
    prefix_max: 24,
};
const SERVICE: Purpose = Purpose {
    name: "service network",
    flag: "--service-cidr",
    first: Ipv4Addr::new(10, 96, 0, 0),
    prefix: 16,
    prefix_max: 24,
};

/// A `--node-cidr`.
pub(crate) fn node_cidr(text: &str) -> Result<Cidr, String> {
    wide_enough(text, &NODE)
}

/// A `--pod-cidr`.
pub(crate) fn pod_cidr(text: &str) -> Result<Cidr, String> {
    wide_enough(text, &POD)
}

/// A `--service-cidr`.
pub(crate) fn service_cidr(text: &str) -> Result<Cidr, String> {
    wide_enough(text, &SERVICE)
}

fn wide_enough(text: &str, purpose: &Purpose) -> Result<Cidr, String> {
    let range: Cidr = text.parse().map_err(|error: ParseCidrError| error.to_string())?;
    match range.prefix <= purpose.prefix_max {
        true => Ok(range),
        false => Err(format!("it is too narrow for a {}: /{} at most", purpose.name, purpose.prefix_max)),
    }
}

/// Chooses all three, or says which two overlap.
pub(crate) fn choose(wanted: &Wanted, nodes: usize, machine: &[Taken]) -> anyhow::Result<Ranges> {
    let mut taken = machine.to_vec();
    // Those asked for come first, so that defaults make room for them.
    let wishes = [(&SERVICE, wanted.service), (&NODE, wanted.node), (&POD, wanted.pod)];
    for (purpose, wish) in wishes {
        let Some(range) = wish else { continue };
        if let Some(other) = taken.iter().find(|other| other.range.overlaps(range)) {
            bail!(
                "the {} {range} ({}) overlaps {} {}: choose another range",
                purpose.name,
                purpose.flag,
                other.by,
                other.range
            );
        }
        taken.push(Taken { by: format!("the {}", purpose.name), range });
    }
    let mut resolve = |purpose: &Purpose, wish: Option<Cidr>| -> anyhow::Result<Cidr> {
        if let Some(range) = wish {
            return Ok(range);
        }
        let range = next_free(purpose, &taken)?;
        taken.push(Taken { by: format!("the {}", purpose.name), range });
        Ok(range)
    };
    let node = resolve(&NODE, wanted.node)?;
    let service = resolve(&SERVICE, wanted.service)?;
    let pod = resolve(&POD, wanted.pod)?;
    let ranges = Ranges { node, pod, service };
    room(&ranges, nodes)?;
    Ok(ranges)
}

/// The ranges of kept data: as they are or not at all, since objects in the store bear addresses of them.
pub(crate) fn again(
    data: &str,
    kept: Ranges,
    wanted: &Wanted,
    nodes: usize,
    machine: &[Taken],
) -> anyhow::Result<Ranges> {
    for (purpose, range, wish) in [
        (&NODE, kept.node, wanted.node),
        (&POD, kept.pod, wanted.pod),
        (&SERVICE, kept.service, wanted.service),
    ] {
        if let Some(wish) = wish.filter(|wish| *wish != range) {
            bail!(
                "{} {wish} is not the {} {range} that {data} were made with: leave it out, or name another \
                 --data-dir",
                purpose.flag,
                purpose.name
            );
        }
        if let Some(other) = machine.iter().find(|other| other.range.overlaps(range)) {
            bail!(
                "the {} {range} of {data} overlaps {} {}: that has to go first, since kept data can't move to \
                 another range",
                purpose.name,
                other.by,
                other.range
            );
        }
    }
    room(&kept, nodes)?;
    Ok(kept)
}

/// Whether so many nodes fit in.
fn room(ranges: &Ranges, nodes: usize) -> anyhow::Result<()> {
    let Ranges { node, pod, .. } = ranges;
    let nodes_max = node.len().saturating_sub(4);
    if nodes as u64 > nodes_max {
        bail!(
            "{nodes} nodes don't fit into the node network {node} ({}): it has room for {nodes_max}",
            NODE.flag
        );
    }
    let pod_ranges = 1u64 << (NODE_POD_PREFIX - pod.prefix.min(NODE_POD_PREFIX));
    if nodes as u64 > pod_ranges {
        bail!(
            "{nodes} nodes don't fit into the pod network {pod} ({}): it has {pod_ranges} /24 ranges",
            POD.flag
        );
    }
    Ok(())
}

fn next_free(purpose: &Purpose, taken: &[Taken]) -> anyhow::Result<Cidr> {
    let everything = Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 8);
    let parts = || (0..).map_while(|index| everything.subnet(purpose.prefix, index));
    // Those before the first default come last.
    let mut in_turn = parts().skip_while(|range| range.address < purpose.first).chain(parts());
    in_turn
        .find(|range| !taken.iter().any(|other| other.range.overlaps(*range)))
        .with_context(|| format!("no range is free for the {}: name one with {}", purpose.name, purpose.flag))
}

impl Ranges {
    /// All three, with what they are for.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, Cidr)> + use<> {
        [("node", self.node), ("pod", self.pod), ("service", self.service)].into_iter()
    }

    /// The router's address in the node network, every node's way out.
    pub(crate) fn router(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.node.address.to_bits() + 1)
    }

    /// The machine's own address in the node network.
    pub(crate) fn machine(&self) -> Ipv4Addr {
        // `choose` refuses ranges of fewer than 16 addresses.
        Ipv4Addr::from_bits(self.node.address.to_bits() + (self.node.len() as u32 - 2))
    }

    /// The address of node number `index`, counted from 0.
    pub(crate) fn node_ip(&self, index: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.node.address.to_bits() + 2 + index as u32)
    }

    /// The pod range of node number `index`, counted from 0. The first part stays free, so that the third
    /// number of a pod's address is its node's number, where there is room.
    pub(crate) fn node_pods(&self, index: usize, nodes: usize) -> Option<Cidr> {
        let parts = 1usize << (NODE_POD_PREFIX - self.pod.prefix);
        let first = usize::from(parts > nodes);
        self.pod.subnet(NODE_POD_PREFIX, u32::try_from(index + first).ok()?)
    }

    /// Where every node answers DNS.
    pub(crate) fn dns(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.service.address.to_bits() + 10)
    }
}

/// The ranges that `/proc/net/route` sends somewhere, the default route excepted.
pub(crate) fn routes(text: &str) -> Vec<Taken> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let link = fields.next()?.to_owned();
        let hex = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::swap_bytes);
        let destination = hex(fields.next())?;
        let mask = hex(fields.nth(5))?;
        let prefix = u8::try_from(mask.leading_ones()).ok().filter(|prefix| *prefix > 0)?;
        Some(Taken {
            by: format!("the route of link {link} to"),
            range: Cidr::new(Ipv4Addr::from_bits(destination), prefix),
        })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn taken(by: &str, range: &str) -> Taken {
        Taken { by: by.into(), range: cidr(range) }
    }

    #[test]
    fn a_second_cluster_moves_on() {
        let first = choose(&Wanted::default(), 3, &[]).expect("nothing is in the way");
        assert_eq!(
            first,
            Ranges { node: cidr("10.100.0.0/24"), pod: cidr("10.244.0.0/16"), service: cidr("10.96.0.0/16") }
        );
        let all =
            [first.node, first.pod, first.service].map(|range| Taken { by: "cluster skiff".into(), range });
        let second = choose(&Wanted::default(), 3, &all).expect("there is room");
        assert_eq!(
            second,
            Ranges { node: cidr("10.100.1.0/24"), pod: cidr("10.245.0.0/16"), service: cidr("10.97.0.0/16") }
        );
    }

    #[test]
    fn a_range_asked_for_is_refused_naming_both() {
        let wanted = Wanted { pod: Some(cidr("10.0.0.0/16")), ..Wanted::default() };
        let error = choose(&wanted, 1, &[taken("the route of link eth0 to", "10.0.3.0/24")])
            .expect_err("it overlaps");
        assert_eq!(
            error.to_string(),
            "the pod network 10.0.0.0/16 (--pod-cidr) overlaps the route of link eth0 to 10.0.3.0/24: choose another range"
        );
        let wanted = Wanted {
            pod: Some(cidr("10.9.0.0/16")),
            service: Some(cidr("10.9.4.0/24")),
            ..Wanted::default()
        };
        let error = choose(&wanted, 1, &[]).expect_err("they overlap");
        assert!(
            error.to_string().contains("10.9.0.0/16 (--pod-cidr) overlaps the service network 10.9.4.0/24")
        );
    }

    #[test]
    fn a_wish_makes_defaults_move() {
        let wanted = Wanted { pod: Some(cidr("10.96.0.0/14")), ..Wanted::default() };
        let ranges = choose(&wanted, 1, &[]).expect("there is room");
        assert_eq!(ranges.service, cidr("10.101.0.0/16"), "10.100 is the node network's");
    }

    #[test]
    fn too_many_nodes_are_refused() {
        let wanted = Wanted { pod: Some(cidr("10.9.0.0/23")), ..Wanted::default() };
        assert!(choose(&wanted, 3, &[]).is_err());
        let wanted = Wanted { node: Some(cidr("10.9.0.0/28")), ..Wanted::default() };
        assert!(choose(&wanted, 13, &[]).is_err());
        assert!(choose(&wanted, 12, &[]).is_ok());
        for (pods, fit) in [("10.9.0.0/24", 1), ("10.9.0.0/23", 2), ("10.8.0.0/22", 4)] {
            let wanted = Wanted { pod: Some(cidr(pods)), ..Wanted::default() };
            assert!(choose(&wanted, fit, &[]).is_ok(), "{pods}");
            let error = choose(&wanted, fit + 1, &[]).expect_err(pods).to_string();
            let said = format!("the pod network {pods} (--pod-cidr): it has {fit} /24 ranges");
            assert!(error.ends_with(&said), "{error}");
        }
    }

    #[test]
    fn what_is_free_is_found_before_the_default_too_and_nothing_is_made_up() {
        let behind = [taken("a", "10.244.0.0/14"), taken("b", "10.248.0.0/13"), taken("c", "10.0.0.0/15")];
        let ranges = choose(&Wanted::default(), 1, &behind).expect("there is room before them");
        assert_eq!(ranges.pod, cidr("10.2.0.0/16"));
        let error = choose(&Wanted::default(), 1, &[taken("a", "10.0.0.0/8")]).expect_err("there is none");
        assert_eq!(error.to_string(), "no range is free for the node network: name one with --node-cidr");
    }

    #[test]
    fn what_is_too_narrow_is_no_range() {
        assert_eq!(pod_cidr("10.244.0.0/24"), Ok(cidr("10.244.0.0/24")));
        assert_eq!(
            pod_cidr("10.244.0.0/30").expect_err("a node's part does not fit in"),
            "it is too narrow for a pod network: /24 at most"
        );
        assert!(node_cidr("10.9.0.0/28").is_ok() && node_cidr("10.9.0.0/29").is_err());
        assert!(service_cidr("10.9.0.0/24").is_ok() && service_cidr("10.9.0.0/25").is_err());
        assert!(pod_cidr("10.244.0.1/16").expect_err("bits are set").contains("bits of the address"));
    }

    #[test]
    fn kept_data_get_their_own_ranges_or_none() {
        let kept = choose(&Wanted::default(), 1, &[]).expect("nothing is in the way");
        let check = |wanted: &Wanted, taken: &[Taken], expected: Result<Ranges, &str>| {
            let chosen = again("the data in /d", kept, wanted, 1, taken);
            assert_eq!(chosen.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
        };
        check(&Wanted::default(), &[], Ok(kept));
        check(&Wanted { pod: Some(kept.pod), ..Wanted::default() }, &[], Ok(kept));
        check(
            &Wanted { pod: Some(cidr("10.9.0.0/16")), ..Wanted::default() },
            &[],
            Err("--pod-cidr 10.9.0.0/16 is not the pod network 10.244.0.0/16 that the data in /d were made \
                 with: leave it out, or name another --data-dir"),
        );
        check(
            &Wanted::default(),
            &[taken("the route of link eth0 to", "10.96.7.0/24")],
            Err("the service network 10.96.0.0/16 of the data in /d overlaps the route of link eth0 to \
                 10.96.7.0/24: that has to go first, since kept data can't move to another range"),
        );
    }

    #[test]
    fn addresses_follow_the_plan() {
        let ranges = choose(&Wanted::default(), 3, &[]).expect("nothing is in the way");
        assert_eq!(ranges.router(), Ipv4Addr::new(10, 100, 0, 1));
        assert_eq!(ranges.node_ip(0), Ipv4Addr::new(10, 100, 0, 2));
        assert_eq!(ranges.node_ip(3), Ipv4Addr::new(10, 100, 0, 5));
        assert_eq!(ranges.machine(), Ipv4Addr::new(10, 100, 0, 254));
        assert_eq!(ranges.dns(), Ipv4Addr::new(10, 96, 0, 10));
        assert_eq!(ranges.node_pods(0, 3), Some(cidr("10.244.1.0/24")));
        assert_eq!(ranges.node_pods(2, 3), Some(cidr("10.244.3.0/24")));
        let told: Vec<String> = ranges.all().map(|(of, range)| format!("{of} {range}")).collect();
        assert_eq!(told, ["node 10.100.0.0/24", "pod 10.244.0.0/16", "service 10.96.0.0/16"]);
    }

    #[test]
    fn every_part_is_used_where_there_are_no_more_than_nodes() {
        let narrow = Wanted { pod: Some(cidr("10.8.4.0/22")), ..Wanted::default() };
        let ranges = choose(&narrow, 4, &[]).expect("nothing is in the way");
        assert_eq!(ranges.node_pods(0, 4), Some(cidr("10.8.4.0/24")));
        assert_eq!(ranges.node_pods(3, 4), Some(cidr("10.8.7.0/24")));
        assert_eq!(ranges.node_pods(0, 3), Some(cidr("10.8.5.0/24")), "one is to spare");
        assert_eq!(ranges.node_pods(4, 4), None);
    }

    #[test]
    fn the_kernel_s_routes_are_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let routes = routes(text);
        assert_eq!(routes.len(), 1, "the default route takes nothing");
        assert_eq!(routes[0].range, cidr("192.168.1.0/24"));
    }
}
