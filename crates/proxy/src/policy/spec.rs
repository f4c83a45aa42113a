//! A network policy, read once into what can be judged.
//!
//! What the server would have refused selects nobody here: a fault never opens anything.

use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_api::selector::{Labels, Selector};
use skiff_client::ObjectKey;

use crate::Range;
use crate::plan::Protocol;

/// Which side of a pod's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl Direction {
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// As policies write it.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) key: ObjectKey,
    /// Of the pods of its namespace, those that it isolates.
    pub(crate) subject: Selector,
    /// What is allowed; `None` where the policy says nothing of the direction.
    pub(crate) ingress: Option<Vec<Allowed>>,
    pub(crate) egress: Option<Vec<Allowed>>,
}

/// One rule: traffic of one of the peers, to one of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// `None` is everyone.
    pub(crate) peers: Option<Vec<Peer>>,
    /// `None` is everything, of other protocols too.
    pub(crate) ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    Pods(PodPeers),
    Block { range: Range, except: Vec<Range> },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodPeers {
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: Selector,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Namespaces {
    /// The policy's own.
    One(String),
    Matching(Selector),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Port {
    Any(Protocol),
    /// From the first to the last.
    Numbers(Protocol, u16, u16),
    /// What the receiving pod calls so.
    Named(Protocol, String),
}

impl Policy {
    pub(crate) fn read(policy: &NetworkPolicy) -> Policy {
        let key = ObjectKey::of(policy);
        let spec = policy.spec.clone().unwrap_or_default();
        let ingress = spec.ingress.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let says = |name: &str, otherwise: bool| {
            if types.is_empty() { otherwise } else { types.iter().any(|this| this == name) }
        };
        let isolates = (says("Ingress", true), says("Egress", !egress.is_empty()));
        let read = |peers: Option<Vec<NetworkPolicyPeer>>, ports: Option<Vec<NetworkPolicyPort>>| Allowed {
            peers: non_empty(peers).map(|all| all.iter().filter_map(|peer| Peer::read(peer, &key)).collect()),
            ports: non_empty(ports).map(|all| all.iter().filter_map(Port::read).collect()),
        };
        Policy {
            subject: spec.pod_selector.as_ref().map_or(Selector::EVERYTHING, selector),
            ingress: isolates
                .0
                .then(|| ingress.into_iter().map(|rule| read(rule.from, rule.ports)).collect()),
            egress: isolates.1.then(|| egress.into_iter().map(|rule| read(rule.to, rule.ports)).collect()),
            key,
        }
    }

    pub(crate) fn allowed(&self, direction: Direction) -> Option<&[Allowed]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// All rules of both directions.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Allowed> {
        self.ingress.iter().chain(&self.egress).flatten()
    }
}

impl Peer {
    fn read(peer: &NetworkPolicyPeer, policy: &ObjectKey) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            return read_block(block);
        }
        let pods = peer.pod_selector.as_ref().map(selector);
        let namespaces = peer.namespace_selector.as_ref().map(selector);
        if pods.is_none() && namespaces.is_none() {
            return None;
        }
        Some(Peer::Pods(PodPeers {
            namespaces: match namespaces {
                Some(namespaces) => Namespaces::Matching(namespaces),
                None => Namespaces::One(policy.namespace.clone()),
            },
            pods: pods.unwrap_or(Selector::EVERYTHING),
        }))
    }
}

impl PodPeers {
    /// Whether a pod of these labels in a namespace of those is one.
    pub(crate) fn matches(&self, namespace: &str, of_namespace: Option<&Labels>, of_pod: &Labels) -> bool {
        let here = match &self.namespaces {
            Namespaces::One(name) => name == namespace,
            Namespaces::Matching(selector) => {
                of_namespace.is_some_and(|labels| selector.matches(Some(labels)))
            }
        };
        here && self.pods.matches(Some(of_pod))
    }
}

impl Port {
    fn read(port: &NetworkPolicyPort) -> Option<Port> {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return None,
        };
        let number = |number: i32| u16::try_from(number).ok();
        Some(match &port.port {
            None => Port::Any(protocol),
            Some(IntOrString::Int(first)) => {
                Port::Numbers(protocol, number(*first)?, number(port.end_port.unwrap_or(*first))?)
            }
            Some(IntOrString::String(name)) => Port::Named(protocol, name.clone()),
        })
    }
}

/// A block of the other address family concerns no traffic of pods.
fn read_block(block: &IPBlock) -> Option<Peer> {
    let range = block.cidr.parse().ok()?;
    let mut except = Vec::new();
    for text in block.except.iter().flatten() {
        except.push(text.parse().ok()?);
    }
    Some(Peer::Block { range, except })
}

fn selector(object: &LabelSelector) -> Selector {
    Selector::from_object(Some(object)).unwrap_or(Selector::Nothing)
}

fn non_empty<T>(list: Option<Vec<T>>) -> Option<Vec<T>> {
    list.filter(|list| !list.is_empty())
}

impl Range {
    pub(crate) fn contains(self, ip: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        ip.to_bits() & mask == self.address.to_bits() & mask
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Policy {
        let metadata = json!({"namespace": "a", "name": "p"});
        Policy::read(&serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    #[test]
    fn directions_follow_from_types_or_rules() {
        let isolates = |spec| {
            let policy = read(spec);
            (policy.ingress.is_some(), policy.egress.is_some())
        };
        assert_eq!(isolates(json!({"podSelector": {}})), (true, false));
        assert_eq!(isolates(json!({"podSelector": {}, "egress": [{}]})), (true, true));
        assert_eq!(isolates(json!({"podSelector": {}, "policyTypes": ["Egress"]})), (false, true));
        assert_eq!(isolates(json!({"policyTypes": ["Ingress"], "egress": [{}]})), (true, false));
    }

    #[test]
    fn empty_lists_allow_everything_and_faults_nothing() {
        let rules = |rule: Value| read(json!({ "ingress": [rule] })).ingress.unwrap().remove(0);
        assert_eq!(rules(json!({})), Allowed { peers: None, ports: None });
        assert_eq!(rules(json!({"from": [], "ports": []})), Allowed { peers: None, ports: None });
        let broken = json!({
            "from": [{}, {"ipBlock": {"cidr": "2001:db8::/32"}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}],
            "ports": [{"port": 70000}, {"protocol": "ICMP"}],
        });
        assert_eq!(rules(broken), Allowed { peers: Some(vec![]), ports: Some(vec![]) });
        let unknown =
            json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]});
        let Some(Peer::Pods(peers)) = rules(unknown).peers.unwrap().pop() else { panic!("a selector") };
        assert_eq!(peers.pods, Selector::Nothing);
    }

    #[test]
    fn a_pod_selector_alone_means_the_own_namespace() {
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let peers = |peer: Value| {
            let rule = read(json!({"ingress": [{ "from": [peer] }]})).ingress.unwrap().remove(0);
            match rule.peers.unwrap().remove(0) {
                Peer::Pods(peers) => peers,
                Peer::Block { .. } => panic!("pods"),
            }
        };
        let own = peers(json!({"podSelector": {}}));
        assert!(own.matches("a", None, &labels) && !own.matches("b", Some(&labels), &labels));
        let both = peers(json!({"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}}));
        assert!(both.matches("b", Some(&Labels::new()), &labels), "an empty selector is every namespace");
        assert!(!both.matches("b", Some(&labels), &Labels::new()));
        assert!(!both.matches("b", None, &labels), "a namespace that is not known matches nothing");
    }

    #[test]
    fn ranges_are_read_with_bits_beyond_their_prefix() {
        let range: Range = "10.1.2.3/8".parse().unwrap();
        assert!(range.contains([10, 200, 0, 1].into()) && !range.contains([11, 0, 0, 1].into()));
    }
}
