//! What the API knows around pods and their nodes need not: which network policies select them, and whether
//! they are endpoints of their services.

use std::collections::HashMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use skiff_api::json::Json;
use skiff_api::selector::{Labels, Selector};
use skiff_explain::pod::{Endpoint, PodExplanation};
use skiff_explain::policies::{Peers, Policy, Ports, Rule};
use skiff_explain::reach;

use super::{Question, metadata};
use crate::cache::in_namespace;
use crate::resources::find;

/// What one question needs, read once.
pub(super) struct Around {
    policies: Vec<NetworkPolicy>,
    endpoints: Endpoints,
}

impl Around {
    /// Of a namespace, or of all where it is empty.
    pub(super) fn of(question: &Question<'_>, namespace: &str) -> Self {
        let caches = &question.server.caches;
        let all = |group: &str, plural: &str| -> Vec<Value> {
            let row = find(group, plural).expect("the resource is in the table");
            let view = caches.of(row).view(caches.applied());
            in_namespace(&view.objects, row, namespace, None).map(|object| object.value(row)).collect()
        };
        let policies = all("networking.k8s.io", "networkpolicies");
        Self {
            policies: policies.iter().filter_map(|value| NetworkPolicy::from_value(value).ok()).collect(),
            endpoints: Endpoints::of(&all("discovery.k8s.io", "endpointslices")),
        }
    }

    /// Completes what a node told of its pod.
    pub(super) fn complete(&self, told: &mut PodExplanation, pod: &Value) {
        for port in &mut told.services {
            port.endpoint = Some(self.endpoints.get(&port.service, &told.metadata.uid));
        }
        reach::through_services(told);
        reach::limit(told, &self.selecting(pod));
    }

    fn selecting(&self, pod: &Value) -> Vec<Policy> {
        self.policies.iter().filter_map(|policy| selecting(policy, pod)).collect()
    }
}

/// Pods by the service, `NAMESPACE/NAME`, and their UID.
#[derive(Default)]
struct Endpoints(HashMap<(String, String), Endpoint>);

impl Endpoints {
    fn of(slices: &[Value]) -> Self {
        let mut found = Self::default();
        for slice in slices {
            let Some(service) = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() else {
                continue;
            };
            let service = format!("{}/{service}", metadata(slice).namespace);
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let Some(uid) = endpoint["targetRef"]["uid"].as_str() else { continue };
                let conditions = &endpoint["conditions"];
                let (ready, serving) = (conditions["ready"].as_bool(), conditions["serving"].as_bool());
                let ends = conditions["terminating"].as_bool() == Some(true);
                let state = match (ready.unwrap_or(true), ends && serving == Some(true)) {
                    (true, _) => Endpoint::Ready,
                    (false, true) => Endpoint::Ending,
                    (false, false) => Endpoint::NotReady,
                };
                found.0.insert((service.clone(), uid.to_owned()), state);
            }
        }
        found
    }

    fn get(&self, service: &str, uid: &str) -> Endpoint {
        let key = (service.to_owned(), uid.to_owned());
        self.0.get(&key).copied().unwrap_or(Endpoint::Absent)
    }
}

/// The policy's rules for what comes in to the pod; nothing where it does not select it for that.
fn selecting(policy: &NetworkPolicy, pod: &Value) -> Option<Policy> {
    let own = metadata(pod);
    let spec = policy.spec.as_ref()?;
    let here = policy.metadata.namespace.as_deref() == Some(own.namespace.as_str());
    // None are written by who means what comes in.
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let ingress = types.is_empty() || types.iter().any(|one| one == "Ingress");
    let labels: Option<Labels> = serde_json::from_value(pod["metadata"]["labels"].clone()).ok();
    let selects =
        Selector::from_object(spec.pod_selector.as_ref()).is_ok_and(|own| own.matches(labels.as_ref()));
    if !(here && ingress && selects) {
        return None;
    }
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let rules = spec.ingress.iter().flatten().map(|rule| self::rule(rule, pod)).collect();
    Some(Policy { name: format!("{}/{name}", own.namespace), rules })
}

fn rule(rule: &NetworkPolicyIngressRule, pod: &Value) -> Rule {
    let ports = rule.ports.as_deref().filter(|ports| !ports.is_empty());
    Rule {
        ports: ports.map(|ports| ports.iter().flat_map(|port| numbers(port, pod)).collect()),
        peers: match rule.from.as_deref() {
            None | Some([]) => Peers::Everybody,
            Some(peers) => Peers::Named {
                pods: peers.iter().any(|peer: &NetworkPolicyPeer| peer.ip_block.is_none()),
                ranges: peers.iter().any(|peer| peer.ip_block.is_some()),
            },
        },
    }
}

/// What a port of a rule is on this pod; several where containers give different ports one name.
fn numbers(port: &NetworkPolicyPort, pod: &Value) -> Vec<Ports> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = |number: i64| u16::try_from(number).ok();
    let ranges = match &port.port {
        None => vec![0..=u16::MAX],
        Some(IntOrString::Int(first)) => {
            let last = port.end_port.unwrap_or(*first);
            match (number((*first).into()), number(last.into())) {
                (Some(first), Some(last)) => vec![first..=last],
                _ => Vec::new(),
            }
        }
        Some(IntOrString::String(name)) => {
            let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            let ports = containers.flat_map(|own| own["ports"].as_array().into_iter().flatten());
            let named = ports.filter(|own| {
                own["name"] == name.as_str() && own["protocol"].as_str().unwrap_or("TCP") == protocol
            });
            let numbers = named.filter_map(|own| number(own["containerPort"].as_i64()?));
            numbers.map(|number| number..=number).collect()
        }
    };
    ranges.into_iter().map(|numbers| Ports { protocol: protocol.clone(), numbers }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_explain::policies::{Admits, admits};

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        })
    }

    fn policy(spec: Value) -> NetworkPolicy {
        let value = json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    /// Who comes in at 8080/TCP: of pods, and of the others.
    fn admitted(spec: Value) -> Option<[Admits; 2]> {
        let policy = selecting(&policy(spec), &pod())?;
        Some([true, false].map(|pods| admits(std::slice::from_ref(&policy), "TCP", 8080, pods)))
    }

    #[test]
    fn policies_let_in_whom_and_where_their_rules_say() {
        let some = || Admits::Some(vec!["n/x".into()]);
        let all = || Admits::Everybody(vec!["n/x".into()]);
        let at = |rule: Value| admitted(json!({"podSelector": {}, "ingress": [rule]}));
        assert_eq!(admitted(json!({"podSelector": {}, "policyTypes": ["Egress"]})), None);
        assert_eq!(admitted(json!({"podSelector": {"matchLabels": {"app": "b"}}})), None);
        let deny = admitted(json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        assert_eq!(deny, Some([Admits::Nobody, Admits::Nobody]));
        assert_eq!(at(json!({})), Some([all(), all()]));
        assert_eq!(at(json!({"ports": [{"port": 81}]})), Some([Admits::Nobody, Admits::Nobody]));
        assert_eq!(at(json!({"ports": [{"port": 8000, "endPort": 9000}]})), Some([all(), all()]));
        assert_eq!(at(json!({"ports": [{"port": "http"}]})), Some([all(), all()]));
        assert_eq!(at(json!({"ports": [{"port": "other"}]})), Some([Admits::Nobody, Admits::Nobody]));
        let udp = json!({"ports": [{"port": "http", "protocol": "UDP"}]});
        assert_eq!(at(udp), Some([Admits::Nobody, Admits::Nobody]));
        assert_eq!(at(json!({"from": [{"podSelector": {}}]})), Some([some(), Admits::Nobody]));
        assert_eq!(at(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]})), Some([some(), some()]));
    }

    #[test]
    fn endpoints_are_what_their_slices_say() {
        let endpoint =
            |uid: &str, conditions: Value| json!({"targetRef": {"uid": uid}, "conditions": conditions});
        let found = Endpoints::of(&[json!({
            "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "endpoints": [
                endpoint("ready", json!({"ready": true})),
                endpoint("silent", json!({})),
                endpoint("not", json!({"ready": false, "serving": false})),
                endpoint("ends", json!({"ready": false, "serving": true, "terminating": true})),
            ],
        })]);
        for (uid, state) in [
            ("ready", Endpoint::Ready),
            ("silent", Endpoint::Ready),
            ("not", Endpoint::NotReady),
            ("ends", Endpoint::Ending),
            ("other", Endpoint::Absent),
        ] {
            assert_eq!(found.get("n/s", uid), state, "{uid}");
        }
        assert_eq!(found.get("m/s", "ready"), Endpoint::Absent);
    }
}
