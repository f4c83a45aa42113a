//! What network policies let in at one port of a pod, and whom of: nobody, some, everybody.
//!
//! A pod that a policy selects is reached as the rules of all that select it say together; a rule speaks of
//! some ports and of some peers. Whom a selector means is not looked up here: those are *some*.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    Everybody,
    /// Those that selectors, ranges of addresses or both name.
    Named {
        pods: bool,
        ranges: bool,
    },
}

/// Whom the policies let in, and which of them do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admits {
    Nobody,
    Some(Vec<String>),
    Everybody(Vec<String>),
}

/// What policies say of one port: of peers that are pods, or of nodes and the outside, which have an address
/// and no labels.
pub fn admits(policies: &[Policy], protocol: &str, port: u16, of_pods: bool) -> Admits {
    let speaks = |rule: &&Rule| {
        rule.ports
            .as_ref()
            .is_none_or(|all| all.iter().any(|own| own.protocol == protocol && own.numbers.contains(&port)))
    };
    let named = |wanted: fn(Peers, bool) -> bool| -> Vec<String> {
        let lets =
            |policy: &&Policy| policy.rules.iter().filter(speaks).any(|rule| wanted(rule.peers, of_pods));
        policies.iter().filter(lets).map(|policy| policy.name.clone()).collect()
    };
    let everybody = named(|peers, _| peers == Peers::Everybody);
    if !everybody.is_empty() {
        return Admits::Everybody(everybody);
    }
    let some = named(|peers, of_pods| match peers {
        Peers::Everybody => true,
        Peers::Named { pods, ranges } => ranges || pods && of_pods,
    });
    if some.is_empty() { Admits::Nobody } else { Admits::Some(some) }
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

    #[test]
    fn rules_speak_of_their_ports_and_peers_alone() {
        let pods = Peers::Named { pods: true, ranges: false };
        let ranges = Peers::Named { pods: false, ranges: true };
        let some = |name: &str| Admits::Some(vec![name.into()]);
        let deny = [policy("n/deny", vec![])];
        assert_eq!(admits(&deny, "TCP", 80, true), Admits::Nobody, "no rule, nobody");
        let other = [policy("n/81", vec![rule(Some(81), Peers::Everybody)])];
        assert_eq!(admits(&other, "TCP", 8080, true), Admits::Nobody, "a rule for another port");
        assert_eq!(admits(&other, "UDP", 81, true), Admits::Nobody, "of another protocol");
        assert_eq!(admits(&other, "TCP", 81, false), Admits::Everybody(vec!["n/81".into()]));
        let selected = [policy("n/deny", vec![]), policy("n/pods", vec![rule(None, pods)])];
        assert_eq!(admits(&selected, "TCP", 80, true), some("n/pods"), "the one that allows is named");
        assert_eq!(admits(&selected, "TCP", 80, false), Admits::Nobody, "no selector means a node");
        let block = [policy("n/block", vec![rule(Some(80), ranges)])];
        assert_eq!(admits(&block, "TCP", 80, true), some("n/block"));
        assert_eq!(admits(&block, "TCP", 80, false), some("n/block"));
    }
}
