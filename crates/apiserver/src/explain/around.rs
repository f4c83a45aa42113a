//! What the API knows around pods and their nodes need not: which network policies select them, and whether
//! they are endpoints of their services.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use skiff_api::json::Json;
use skiff_api::selector::{Labels, Selector};
use skiff_explain::pod::{Endpoint, PodExplanation, ServicePort};
use skiff_explain::policies::{Peers, Policy, Ports, Rule, Span, Surroundings, span, without};
use skiff_explain::reach;

use super::{Question, metadata};
use crate::cache::in_namespace;
use crate::config::Range;
use crate::resources::find;

/// What one question needs, read once.
pub(super) struct Around {
    policies: Vec<NetworkPolicy>,
    endpoints: Endpoints,
    slices: Vec<Value>,
    services: Vec<Value>,
    surroundings: Surroundings,
    /// Name and address.
    nodes: Vec<(String, Ipv4Addr)>,
}

impl Around {
    /// Of a namespace, or of all where it is empty.
    pub(super) fn of(question: &Question<'_>, namespace: &str) -> Self {
        let caches = &question.server.caches;
        let all = |namespace: &str, group: &str, plural: &str| -> Vec<Value> {
            let row = find(group, plural).expect("the resource is in the table");
            let view = caches.of(row).view(caches.applied());
            in_namespace(&view.objects, row, namespace, None).map(|object| object.value(row)).collect()
        };
        let policies = all(namespace, "networking.k8s.io", "networkpolicies");
        let slices = all(namespace, "discovery.k8s.io", "endpointslices");
        let nodes: Vec<(String, Ipv4Addr)> = all("", "", "nodes").iter().filter_map(node).collect();
        let config = &question.server.config;
        let range = |own: Range| vec![span(own.network, own.prefix)];
        Self {
            policies: policies.iter().filter_map(|value| NetworkPolicy::from_value(value).ok()).collect(),
            endpoints: Endpoints::of(&slices),
            slices,
            services: all(namespace, "", "services"),
            surroundings: Surroundings {
                pods: range(config.cluster_cidr),
                services: range(config.service_cidr),
                nodes: nodes.iter().map(|(_, ip)| span(*ip, 32)).collect(),
                other_nodes: Vec::new(),
            },
            nodes,
        }
    }

    /// Completes what a node told of its pod.
    pub(super) fn complete(&self, told: &mut PodExplanation, pod: &Value) {
        let found = unselected(&self.slices, &self.services, told);
        told.services.extend(found);
        let own = (told.metadata.uid.clone(), told.pod_ip.clone());
        for port in &mut told.services {
            port.endpoint = Some(self.endpoints.get(&port.service, &own.0, own.1.as_deref()));
        }
        let others = self.nodes.iter().filter(|(name, _)| *name != told.node);
        let other_nodes: Vec<Ipv4Addr> = others.map(|(_, ip)| *ip).collect();
        reach::through_services(told, !other_nodes.is_empty());
        reach::limit(told, &self.selecting(pod), &Surroundings { other_nodes, ..self.surroundings.clone() });
    }

    fn selecting(&self, pod: &Value) -> Vec<Policy> {
        self.policies.iter().filter_map(|policy| selecting(policy, pod)).collect()
    }
}

/// Pods by the service, `NAMESPACE/NAME`, and their UID, or address where a slice has no more.
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
                // Who writes one by hand may name the address alone.
                let uid = endpoint["targetRef"]["uid"].as_str();
                let Some(whose) = uid.or(endpoint["addresses"][0].as_str()) else { continue };
                let conditions = &endpoint["conditions"];
                let (ready, serving) = (conditions["ready"].as_bool(), conditions["serving"].as_bool());
                let ends = conditions["terminating"].as_bool() == Some(true);
                let state = match (ready.unwrap_or(true), ends && serving == Some(true)) {
                    (true, _) => Endpoint::Ready,
                    (false, true) => Endpoint::Ending,
                    (false, false) => Endpoint::NotReady,
                };
                found.0.insert((service.clone(), whose.to_owned()), state);
            }
        }
        found
    }

    fn get(&self, service: &str, uid: &str, ip: Option<&str>) -> Endpoint {
        let of = |whose: &str| self.0.get(&(service.to_owned(), whose.to_owned())).copied();
        of(uid).or_else(|| of(ip?)).unwrap_or(Endpoint::Absent)
    }
}

/// The ports of services that lead to the pod by slices that no selector made: those go by what is in them.
fn unselected(slices: &[Value], services: &[Value], told: &PodExplanation) -> Vec<ServicePort> {
    let number =
        |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let protocol = |value: &Value| value.as_str().unwrap_or("TCP").to_owned();
    let own = |endpoint: &Value| {
        let uid = endpoint["targetRef"]["uid"].as_str();
        let ip = each(&endpoint["addresses"]).first().and_then(|ip| ip.as_str().map(str::to_owned));
        uid.is_some_and(|uid| uid == told.metadata.uid) || ip.is_some() && ip == told.pod_ip
    };
    let mut found: Vec<ServicePort> = Vec::new();
    for slice in slices.iter().filter(|slice| each(&slice["endpoints"]).iter().any(own)) {
        let (namespace, name) = (
            text(&slice["metadata"]["namespace"]),
            text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]),
        );
        let here = |service: &&Value| {
            service["metadata"]["name"] == name.as_str()
                && service["metadata"]["namespace"] == namespace.as_str()
        };
        let Some(service) = services.iter().find(here) else { continue };
        let (spec, full) = (&service["spec"], format!("{namespace}/{name}"));
        for (port, of_slice) in each(&spec["ports"])
            .iter()
            .flat_map(|port| each(&slice["ports"]).into_iter().map(move |own| (port.clone(), own)))
        {
            let same = text(&port["name"]) == text(&of_slice["name"])
                && protocol(&port["protocol"]) == protocol(&of_slice["protocol"]);
            let (true, Some(own), Some(target_port)) =
                (same, number(&port["port"]), number(&of_slice["port"]))
            else {
                continue;
            };
            let known = |known: &ServicePort| {
                known.service == full && known.port == own && known.protocol == protocol(&port["protocol"])
            };
            if told.services.iter().chain(&found).any(known) {
                continue;
            }
            let local =
                |field: &str| Some(text(&spec[field])).filter(|own| own == "Local").unwrap_or_default();
            found.push(ServicePort {
                service: full.clone(),
                cluster_ip: text(&spec["clusterIP"]),
                port: own,
                protocol: protocol(&port["protocol"]),
                target_port,
                node_port: number(&port["nodePort"]),
                external_traffic_policy: local("externalTrafficPolicy"),
                internal_traffic_policy: local("internalTrafficPolicy"),
                endpoint: None,
            });
        }
    }
    found
}

/// Name and address of a node.
fn node(node: &Value) -> Option<(String, Ipv4Addr)> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    Some((metadata(node).name, internal["address"].as_str()?.parse().ok()?))
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
                ranges: peers.iter().filter_map(|peer| peer.ip_block.as_ref()).flat_map(block).collect(),
            },
        },
    }
}

/// The IPv4 addresses of a block, less those that it leaves out.
fn block(block: &IPBlock) -> Vec<Span> {
    let range = |text: &String| {
        let (ip, prefix) = text.split_once('/')?;
        Some(span(ip.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
    };
    let except = block.except.iter().flatten().filter_map(range);
    without(range(&block.cidr).into_iter().collect(), except)
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
        let around = Surroundings {
            pods: vec![span([10, 244, 0, 0].into(), 16)],
            other_nodes: vec![[10, 100, 0, 3].into()],
            ..Surroundings::default()
        };
        let places = [around.pod_network(), around.other_nodes()];
        Some(places.map(|place| admits(std::slice::from_ref(&policy), "TCP", 8080, &place)))
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
        let block =
            |cidr: &str, except: Value| at(json!({"from": [{"ipBlock": {"cidr": cidr, "except": except}}]}));
        assert_eq!(block("10.0.0.0/8", json!([])), Some([all(), all()]));
        assert_eq!(block("10.244.0.0/16", json!(["10.244.3.0/24"])), Some([some(), Admits::Nobody]));
        assert_eq!(block("10.0.0.0/8", json!(["10.244.0.0/16"])), Some([Admits::Nobody, all()]));
        assert_eq!(block("2001:db8::/32", json!(null)), Some([Admits::Nobody, Admits::Nobody]));
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
                {"addresses": ["10.244.1.9"]},
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
            assert_eq!(found.get("n/s", uid, None), state, "{uid}");
        }
        assert_eq!(found.get("m/s", "ready", None), Endpoint::Absent);
        // One that names nobody is who has the address.
        assert_eq!(found.get("n/s", "other", Some("10.244.1.9")), Endpoint::Ready);
    }

    #[test]
    fn a_slice_that_no_selector_made_leads_to_the_pod_too() {
        let slice = |name: &str, endpoint: Value| {
            json!({
                "metadata": {"name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": "manual"}},
                "ports": [{"name": "web", "port": 8000}, {"name": "other", "port": 1}],
                "endpoints": [endpoint],
            })
        };
        let service = json!({
            "metadata": {"name": "manual", "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.9", "externalTrafficPolicy": "Local",
                "ports": [{"name": "web", "port": 80, "nodePort": 30700}]},
        });
        let mut told = PodExplanation::empty(metadata(&pod()));
        told.pod_ip = Some("10.244.1.5".into());
        let found = |endpoint: Value, told: &PodExplanation| -> Vec<String> {
            let found = unselected(&[slice("x", endpoint)], std::slice::from_ref(&service), told);
            found
                .iter()
                .map(|own| {
                    format!(
                        "{}:{}->{} {:?} {}",
                        own.service, own.port, own.target_port, own.node_port, own.external_traffic_policy
                    )
                })
                .collect()
        };
        let leads = ["n/manual:80->8000 Some(30700) Local"];
        assert_eq!(found(json!({"addresses": ["10.244.1.5"]}), &told), leads);
        assert_eq!(found(json!({"addresses": ["10.244.1.6"], "targetRef": {"uid": "u"}}), &told), leads);
        assert_eq!(found(json!({"addresses": ["10.244.1.6"]}), &told), Vec::<String>::new());
        // What the node knew by the selector is told once.
        told.services = unselected(
            &[slice("x", json!({"addresses": ["10.244.1.5"]}))],
            std::slice::from_ref(&service),
            &told,
        );
        assert_eq!(found(json!({"addresses": ["10.244.1.5"]}), &told), Vec::<String>::new());
    }
}
