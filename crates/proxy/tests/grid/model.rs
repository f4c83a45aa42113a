//! The specification of network policies in the plainest words: no tables, no order, no state. Written from
//! the API's own documentation and on its own types, with nothing of the planner in it.

#![allow(dead_code, unreachable_pub, reason = "every test uses its own share of it")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub ip: Ipv4Addr,
    /// Name, protocol, number.
    pub ports: Vec<(String, String, u16)>,
}

/// One end of a connection: a pod, or an address of something else.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    Pod(&'a Pod),
    Address(Ipv4Addr),
}

impl End<'_> {
    pub fn ip(&self) -> Ipv4Addr {
        match self {
            End::Pod(pod) => pod.ip,
            End::Address(ip) => *ip,
        }
    }
}

/// Labels of namespaces by name, and all policies.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub namespaces: BTreeMap<String, Labels>,
    pub policies: Vec<NetworkPolicy>,
}

impl Cluster {
    /// Whether a connection may be made; the node of a pod is nobody's concern here.
    pub fn allows(&self, from: End<'_>, to: End<'_>, protocol: &str, port: u16) -> bool {
        if from.ip() == to.ip() {
            return true;
        }
        self.lets_out(from, to, protocol, port) && self.lets_in(from, to, protocol, port)
    }

    /// Whether whoever begins may, as far as its own policies go.
    pub fn lets_out(&self, from: End<'_>, to: End<'_>, protocol: &str, port: u16) -> bool {
        self.side_allows("Egress", from, to, to, protocol, port)
    }

    /// Whether whoever is meant takes it, as far as its own policies go.
    pub fn lets_in(&self, from: End<'_>, to: End<'_>, protocol: &str, port: u16) -> bool {
        self.side_allows("Ingress", to, from, to, protocol, port)
    }

    fn side_allows(
        &self,
        type_: &str,
        own: End<'_>,
        other: End<'_>,
        to: End<'_>,
        protocol: &str,
        port: u16,
    ) -> bool {
        let End::Pod(pod) = own else { return true };
        let applying: Vec<&NetworkPolicy> = self
            .policies
            .iter()
            .filter(|policy| policy.metadata.namespace.as_deref() == Some(&pod.namespace))
            .filter(|policy| {
                let spec = policy.spec.as_ref().unwrap();
                spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
                    && types(policy).iter().any(|this| this == type_)
            })
            .collect();
        if applying.is_empty() {
            return true;
        }
        applying.iter().any(|policy| {
            let spec = policy.spec.as_ref().unwrap();
            let own_namespace = policy.metadata.namespace.as_deref().unwrap();
            let rules: Vec<(Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>)> = if type_ == "Ingress" {
                let rules = spec.ingress.iter().flatten();
                rules
                    .map(|rule| {
                        (rule.from.clone().unwrap_or_default(), rule.ports.clone().unwrap_or_default())
                    })
                    .collect()
            } else {
                let rules = spec.egress.iter().flatten();
                rules
                    .map(|rule| (rule.to.clone().unwrap_or_default(), rule.ports.clone().unwrap_or_default()))
                    .collect()
            };
            rules.iter().any(|(peers, ports)| {
                let peer_fits =
                    peers.is_empty() || peers.iter().any(|peer| self.is_peer(peer, own_namespace, other));
                let port_fits =
                    ports.is_empty() || ports.iter().any(|this| is_port(this, to, protocol, port));
                peer_fits && port_fits
            })
        })
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer, own_namespace: &str, other: End<'_>) -> bool {
        if let Some(block) = &peer.ip_block {
            let excepted = block.except.iter().flatten().any(|part| in_range(part, other.ip()));
            return in_range(&block.cidr, other.ip()) && !excepted;
        }
        let End::Pod(pod) = other else { return false };
        let namespace_fits = match &peer.namespace_selector {
            None => pod.namespace == own_namespace,
            Some(selector) => {
                self.namespaces.get(&pod.namespace).is_some_and(|labels| selects(selector, labels))
            }
        };
        namespace_fits && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
    }
}

fn types(policy: &NetworkPolicy) -> Vec<String> {
    let spec = policy.spec.as_ref().unwrap();
    match &spec.policy_types {
        Some(types) if !types.is_empty() => types.clone(),
        _ if spec.egress.as_ref().is_some_and(|egress| !egress.is_empty()) => {
            vec!["Ingress".into(), "Egress".into()]
        }
        _ => vec!["Ingress".into()],
    }
}

fn is_port(this: &NetworkPolicyPort, to: End<'_>, protocol: &str, port: u16) -> bool {
    if this.protocol.as_deref().unwrap_or("TCP") != protocol {
        return false;
    }
    match &this.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            let last = this.end_port.unwrap_or(*first);
            (*first..=last).contains(&i32::from(port))
        }
        Some(IntOrString::String(name)) => match to {
            End::Pod(pod) => pod.ports.iter().any(|(this_name, this_protocol, number)| {
                this_name == name && this_protocol == protocol && *number == port
            }),
            End::Address(_) => false,
        },
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|this| this == value));
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("{other} is no operator"),
        }
    });
    equal && expressions
}

fn in_range(range: &str, ip: Ipv4Addr) -> bool {
    let (base, prefix) = range.split_once('/').unwrap();
    let Ok(base) = base.parse::<Ipv4Addr>() else { return false };
    let prefix: u32 = prefix.parse().unwrap();
    let size = 1u64 << (32 - prefix);
    u64::from(base.to_bits()) / size == u64::from(ip.to_bits()) / size
}
