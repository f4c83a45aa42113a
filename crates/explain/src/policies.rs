//! What network policies let in at one port of a pod, and whom of: nobody, some, everybody.
//!
//! A pod that a policy selects is reached as the rules of all that select it say together; a rule speaks of
//! some ports and of some peers. Whom a selector means is not looked up here: those are *some*. Ranges of
//! addresses are compared with those that somebody from there can have.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// A policy that selects the pod for what comes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `NAMESPACE/NAME`.
    pub name: String,
    pub rules: Vec<Rule>,
}

/// One rule of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All of them where it names none.
    pub ports: Option<Vec<Ports>>,
    pub peers: Peers,
}

/// Ports of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    pub numbers: RangeInclusive<u16>,
}

/// Whom a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    Everybody,
    /// Those that selectors, ranges of addresses or both name.
    Named {
        pods: bool,
        /// Addresses, those that are left out taken out.
        ranges: Vec<Span>,
    },
}

/// Addresses, as numbers, from the first to the last.
pub type Span = RangeInclusive<u32>;

/// Who may come from somewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Pods, which selectors may mean; others have an address and no labels.
    pub pods: bool,
    pub addresses: Vec<Span>,
}

/// The cluster's own addresses, by which a pod is reached from somewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub pods: Vec<Span>,
    pub services: Vec<Span>,
    pub nodes: Vec<Span>,
    /// Every node but the pod's own.
    pub other_nodes: Vec<Ipv4Addr>,
}

impl Surroundings {
    pub fn pod_network(&self) -> Place {
        Place { pods: true, addresses: self.pods.clone() }
    }

    pub fn other_nodes(&self) -> Place {
        let addresses = self.other_nodes.iter().map(|ip| ip.to_bits()..=ip.to_bits());
        Place { pods: false, addresses: addresses.collect() }
    }

    pub fn outside(&self) -> Place {
        let others = self.other_nodes().addresses;
        let own = [&self.pods, &self.services, &self.nodes, &others].into_iter().flatten().cloned();
        Place { pods: false, addresses: without(vec![0..=u32::MAX], own) }
    }
}

/// The addresses of a block.
pub fn span(network: Ipv4Addr, prefix: u8) -> Span {
    let rest = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let first = network.to_bits() & !rest;
    first..=first | rest
}

/// What is left of some addresses when others are taken out.
pub fn without(mut left: Vec<Span>, others: impl IntoIterator<Item = Span>) -> Vec<Span> {
    for other in others {
        let part = |own: Span| {
            let before = (own.start() < other.start())
                .then(|| *own.start()..=(*own.end()).min(other.start().saturating_sub(1)));
            let after = (own.end() > other.end())
                .then(|| (*own.start()).max(other.end().saturating_add(1))..=*own.end());
            [before, after]
        };
        left = left.into_iter().flat_map(part).flatten().collect();
    }
    left
}

/// Whom the policies let in, and which of them do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admits {
    Nobody,
    Some(Vec<String>),
    Everybody(Vec<String>),
}

/// What policies say of one port to those who may come from a place.
pub fn admits(policies: &[Policy], protocol: &str, port: u16, place: &Place) -> Admits {
    let speaks = |rule: &&Rule| {
        rule.ports
            .as_ref()
            .is_none_or(|all| all.iter().any(|own| own.protocol == protocol && own.numbers.contains(&port)))
    };
    let named = |wanted: &dyn Fn(&Peers) -> bool| -> Vec<String> {
        let lets = |policy: &&Policy| policy.rules.iter().filter(speaks).any(|rule| wanted(&rule.peers));
        policies.iter().filter(lets).map(|policy| policy.name.clone()).collect()
    };
    let everybody = named(&|peers| *peers == Peers::Everybody);
    if !everybody.is_empty() {
        return Admits::Everybody(everybody);
    }
    let meets = |ranges: &[Span]| {
        let here =
            |own: &Span| place.addresses.iter().any(|it| it.start() <= own.end() && own.start() <= it.end());
        ranges.iter().any(here)
    };
    let some = named(&|peers| match peers {
        Peers::Everybody => true,
        Peers::Named { pods, ranges } => *pods && place.pods || meets(ranges),
    });
    let rules = policies.iter().flat_map(|policy| policy.rules.iter().filter(speaks));
    let ranges = rules.filter_map(|rule| match &rule.peers {
        Peers::Named { ranges, .. } => Some(ranges.iter().cloned()),
        Peers::Everybody => None,
    });
    match (some.is_empty(), without(place.addresses.clone(), ranges.flatten()).is_empty()) {
        (true, _) => Admits::Nobody,
        (false, true) if !place.addresses.is_empty() => Admits::Everybody(some),
        _ => Admits::Some(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, rules: Vec<Rule>) -> Policy {
        Policy { name: name.into(), rules }
    }

    fn rule(port: Option<u16>, peers: Peers) -> Rule {
        let ports = port.map(|port| vec![Ports { protocol: "TCP".into(), numbers: port..=port }]);
        Rule { ports, peers }
    }

    fn place(pods: bool) -> Place {
        let surroundings = around();
        if pods { surroundings.pod_network() } else { surroundings.other_nodes() }
    }

    fn block(text: &str) -> Span {
        let (ip, prefix) = text.split_once('/').unwrap();
        span(ip.parse().unwrap(), prefix.parse().unwrap())
    }

    fn around() -> Surroundings {
        Surroundings {
            pods: vec![block("10.244.0.0/16")],
            services: vec![block("10.96.0.0/16")],
            nodes: vec![block("10.100.0.2/32")],
            other_nodes: vec!["10.100.0.3".parse().unwrap(), "10.100.0.4".parse().unwrap()],
        }
    }

    #[test]
    fn rules_speak_of_their_ports_and_peers_alone() {
        let pods = Peers::Named { pods: true, ranges: Vec::new() };
        let some = |name: &str| Admits::Some(vec![name.into()]);
        let deny = [policy("n/deny", vec![])];
        assert_eq!(admits(&deny, "TCP", 80, &place(true)), Admits::Nobody, "no rule, nobody");
        let other = [policy("n/81", vec![rule(Some(81), Peers::Everybody)])];
        assert_eq!(admits(&other, "TCP", 8080, &place(true)), Admits::Nobody, "a rule for another port");
        assert_eq!(admits(&other, "UDP", 81, &place(true)), Admits::Nobody, "of another protocol");
        assert_eq!(admits(&other, "TCP", 81, &place(false)), Admits::Everybody(vec!["n/81".into()]));
        let selected = [policy("n/deny", vec![]), policy("n/pods", vec![rule(None, pods)])];
        assert_eq!(
            admits(&selected, "TCP", 80, &place(true)),
            some("n/pods"),
            "the one that allows is named"
        );
        assert_eq!(admits(&selected, "TCP", 80, &place(false)), Admits::Nobody, "no selector means a node");
    }

    #[test]
    fn a_block_lets_in_those_whose_addresses_are_in_it() {
        let told = |blocks: &[&str], except: &[&str]| {
            let ranges = blocks.iter().map(|text| block(text)).collect();
            let ranges = without(ranges, except.iter().map(|text| block(text)));
            let all = [policy("n/p", vec![rule(None, Peers::Named { pods: false, ranges })])];
            let around = around();
            [around.pod_network(), around.other_nodes(), around.outside()].map(|place| {
                match admits(&all, "TCP", 80, &place) {
                    Admits::Nobody => "nobody",
                    Admits::Some(_) => "some",
                    Admits::Everybody(_) => "everybody",
                }
            })
        };
        assert_eq!(told(&["10.244.0.0/16"], &["10.244.3.0/24"]), ["some", "nobody", "nobody"]);
        assert_eq!(told(&["10.244.0.0/16"], &[]), ["everybody", "nobody", "nobody"]);
        // The machine that runs the nodes, or another node.
        assert_eq!(told(&["192.0.2.254/32"], &[]), ["nobody", "nobody", "some"]);
        assert_eq!(told(&["10.100.0.3/32"], &[]), ["nobody", "some", "nobody"]);
        // Others have addresses among those of nodes too: the router, the machine around them.
        assert_eq!(told(&["10.100.0.0/24"], &[]), ["nobody", "everybody", "some"]);
        assert_eq!(told(&["0.0.0.0/0"], &[]), ["everybody"; 3]);
        assert_eq!(told(&["0.0.0.0/1", "128.0.0.0/1"], &[]), ["everybody"; 3], "all of them together");
        assert_eq!(told(&["0.0.0.0/0"], &["10.0.0.0/8"]), ["nobody", "nobody", "some"]);
        assert_eq!(told(&["10.0.0.0/8"], &["10.100.0.4/32"]), ["everybody", "some", "some"]);
    }
}
