//! The smallest single change that would let a pod onto a node. Each candidate is tried by the real filters
//! on changed copies; what they don't let in is not told.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, NodeSelectorRequirement, Taint};
use serde_json::{Value, json};
use skiff_explain::pending::{Change, FilterVerdict};

use super::compared::{amount, named, shown};
use super::edit::{Edit, escaped};
use crate::filter;
use crate::filter::taints::{describe, tolerates, tolerations};
use crate::neighbours::Neighbours;
use crate::snapshot::{HostPort, NodeInfo, PodInfo, Snapshot};

/// What a change costs those who have to make it; less comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    /// A field of the pod that may change while it waits.
    Patch,
    /// A label of the node, or that it is cordoned.
    Node,
    /// The pod is made anew, a little different.
    Replace,
    /// Another pod has to go.
    Evict,
    /// As [`Cost::Patch`], but the taint says that the node is not well.
    Sick,
}

/// Taints by which the platform itself says that a node has trouble begin so.
const TROUBLE: &str = "node.kubernetes.io/";

/// The least of the changes that work, on this node.
pub(super) fn smallest(
    pod: &PodInfo,
    node: &NodeInfo,
    snapshot: &Snapshot,
    filters: &[FilterVerdict],
) -> Option<(Cost, Change)> {
    let mut found: Vec<(Cost, Change)> = Vec::new();
    let at = Trial { pod, node, snapshot };
    for refused in filters.iter().filter(|filter| !filter.passes) {
        match refused.filter.as_str() {
            "NodeUnschedulable" => found.extend(at.uncordoned()),
            "TaintToleration" => found.extend(at.tolerating()),
            "NodeAffinity" => found.extend(at.labelled().or_else(|| at.unselective())),
            "NodePorts" => {
                found.extend(at.other_port());
                found.extend(at.without_a_pod());
            }
            "NodeResourcesFit" => {
                found.extend(at.asking_less());
                found.extend(at.without_a_pod());
            }
            "PodTopologySpread" | "InterPodAffinity" => {
                found.extend(at.placed());
                found.extend(at.less_particular());
                found.extend(at.without_a_pod());
            }
            _ => {}
        }
    }
    found.sort_by(|a, b| (a.0, &a.1.text).cmp(&(b.0, &b.1.text)));
    found.into_iter().next()
}

/// What tolerates this taint and no other.
fn toleration(taint: &Taint) -> Value {
    let mut toleration = json!({"key": taint.key, "effect": taint.effect});
    match taint.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => toleration["value"] = value.into(),
        None => toleration["operator"] = "Exists".into(),
    }
    toleration
}

struct Trial<'a> {
    pod: &'a PodInfo,
    node: &'a NodeInfo,
    snapshot: &'a Snapshot,
}

impl Trial<'_> {
    fn admits(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let neighbours = Neighbours::of(pod, self.snapshot, Some(node));
        filter::refusal(pod, node, &neighbours).is_none()
    }

    /// The change, if the filters let the changed pod in.
    fn edited(&self, cost: Cost, edit: &Edit, text: String) -> Option<(Cost, Change)> {
        let changed = edit.of(self.pod)?;
        let how = if cost == Cost::Replace { edit.replacement(self.pod) } else { edit.patch(self.pod) };
        self.admits(&changed, self.node).then(|| (cost, self.change("pod", text, how)))
    }

    fn change(&self, of: &str, text: String, how: String) -> Change {
        Change { of: of.into(), node: self.node.name.clone(), text, how, checked: true }
    }

    fn with_node(&self, change: impl FnOnce(&mut Node)) -> NodeInfo {
        let mut node = Node::clone(&self.node.node);
        change(&mut node);
        let mut changed = self.node.clone();
        changed.set_node(Arc::new(node));
        changed
    }

    fn uncordoned(&self) -> Option<(Cost, Change)> {
        let node = self.with_node(|node| {
            let spec = node.spec.get_or_insert_default();
            spec.unschedulable = None;
            // Whoever cordons a node taints it too.
            if let Some(taints) = &mut spec.taints {
                taints.retain(|taint| taint.key != "node.kubernetes.io/unschedulable");
            }
        });
        let name = &self.node.name;
        let change = || self.change("node", format!("uncordon {name}"), format!("kubectl uncordon {name}"));
        self.admits(self.pod, &node).then(|| (Cost::Node, change()))
    }

    fn tolerating(&self) -> Option<(Cost, Change)> {
        let own = tolerations(self.pod);
        let untolerated: Vec<&Taint> = self
            .node
            .taints()
            .iter()
            .filter(|taint| {
                matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(own, taint)
            })
            .collect();
        let wanted: Vec<Value> = untolerated.iter().map(|taint| toleration(taint)).collect();
        let present = self.pod.pod.spec.as_ref().is_some_and(|spec| spec.tolerations.is_some());
        let edit = match present {
            true => wanted.into_iter().fold(Edit::new(), |edit, own| edit.add("/spec/tolerations/-", own)),
            false => Edit::new().add("/spec/tolerations", wanted.into()),
        };
        let sick = untolerated.iter().any(|taint| taint.key.starts_with(TROUBLE));
        let cost = if sick { Cost::Sick } else { Cost::Patch };
        let names: Vec<String> = untolerated.iter().map(|taint| describe(taint)).collect();
        let taints = if names.len() == 1 { "taint" } else { "taints" };
        self.edited(cost, &edit, format!("let the pod tolerate {taints} {}", names.join(" and ")))
    }

    /// One label of the node.
    fn labelled(&self) -> Option<(Cost, Change)> {
        let spec = self.pod.pod.spec.as_ref()?;
        let own = |key: &str| self.node.labels().and_then(|labels| labels.get(key));
        let selected = spec.node_selector.iter().flatten();
        let mut tries: Vec<(String, Option<String>)> = selected
            .filter(|(key, value)| own(key) != Some(value))
            .map(|(key, value)| (key.clone(), Some(value.clone())))
            .collect();
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.iter().flat_map(|required| &required.node_selector_terms);
        tries.extend(terms.flat_map(|term| term.match_expressions.iter().flatten()).filter_map(fulfilment));
        tries.into_iter().filter(|(key, _)| !is_kubelets(key)).find_map(|(key, value)| {
            let node = self.with_node(|node| {
                let labels = node.metadata.labels.get_or_insert_default();
                match &value {
                    Some(value) => drop(labels.insert(key.clone(), value.clone())),
                    None => drop(labels.remove(&key)),
                }
            });
            let name = &self.node.name;
            let (text, how) = match &value {
                Some(value) => (
                    format!("label {name} with {key}={value}"),
                    format!("kubectl label node {name} --overwrite {key}={value}"),
                ),
                None => {
                    (format!("take label {key} from {name}"), format!("kubectl label node {name} {key}-"))
                }
            };
            self.admits(self.pod, &node).then(|| (Cost::Node, self.change("node", text, how)))
        })
    }

    /// Without a part of its own choice of nodes, or else without all of it.
    fn unselective(&self) -> Option<(Cost, Change)> {
        let spec = self.pod.pod.spec.as_ref()?;
        let mut tries = Vec::new();
        let selected: Vec<&String> = spec.node_selector.iter().flatten().map(|(key, _)| key).collect();
        for key in selected.iter().filter(|_| selected.len() > 1) {
            let edit = Edit::new().remove(format!("/spec/nodeSelector/{}", escaped(key)));
            tries.push((edit, format!("let the pod not select nodes by {key}")));
        }
        let affinity = spec.affinity.as_ref().is_some_and(|affinity| affinity.node_affinity.is_some());
        let (selector, of_affinity) = ("/spec/nodeSelector", "/spec/affinity/nodeAffinity");
        if affinity && !selected.is_empty() {
            tries.push((Edit::new().remove(of_affinity), "drop the pod's nodeAffinity".into()));
            tries.push((Edit::new().remove(selector), "drop the pod's nodeSelector".into()));
        }
        let mut edit = Edit::new();
        if spec.node_selector.is_some() {
            edit = edit.remove(selector);
        }
        if affinity {
            edit = edit.remove(of_affinity);
        }
        tries.push((edit, "let the pod select no nodes".into()));
        tries.into_iter().find_map(|(edit, text)| self.edited(Cost::Replace, &edit, text))
    }

    /// A label of the node that the pod's spreading or its nearness to others goes by, which it lacks.
    fn placed(&self) -> Option<(Cost, Change)> {
        let spec = self.pod.pod.spec.as_ref()?;
        let spreads = spec.topology_spread_constraints.iter().flatten();
        let spreads =
            spreads.filter(|own| own.when_unsatisfiable == "DoNotSchedule").map(|own| &own.topology_key);
        let near = spec.affinity.as_ref().and_then(|own| own.pod_affinity.as_ref());
        let near = near.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
        let near = near.into_iter().flatten().map(|term| &term.topology_key);
        let lacks = |key: &&String| self.node.labels().is_none_or(|labels| !labels.contains_key(*key));
        spreads.chain(near).filter(lacks).filter(|key| !is_kubelets(key)).find_map(|key| {
            let others = self.snapshot.nodes().iter();
            let mut values: Vec<String> =
                others.filter_map(|node| node.labels()?.get(key).cloned()).collect();
            values.sort();
            values.dedup();
            // Where nobody has it, any value will do.
            if values.is_empty() {
                values.push("a".into());
            }
            let name = &self.node.name;
            values.into_iter().find_map(|value| {
                let node = self.with_node(|node| {
                    node.metadata.labels.get_or_insert_default().insert(key.clone(), value.clone());
                });
                let text = format!("label {name} with {key}={value}");
                let how = format!("kubectl label node {name} {key}={value}");
                self.admits(self.pod, &node).then(|| (Cost::Node, self.change("node", text, how)))
            })
        })
    }

    /// The one port that clashes, moved to the next free one.
    fn other_port(&self) -> Option<(Cost, Change)> {
        let taken = |port: &HostPort| {
            let mut others = self.node.pods.values().flat_map(|other| &other.host_ports);
            others.any(|other| port.clashes(other))
        };
        let clashing: Vec<&HostPort> = self.pod.host_ports.iter().filter(|port| taken(port)).collect();
        let [clash] = clashing.as_slice() else { return None };
        let own = &self.pod.host_ports;
        let free = (clash.port + 1..=65_535).find(|number| {
            let moved = HostPort { port: *number, ..HostPort::clone(clash) };
            !taken(&moved) && !own.iter().any(|other| moved.clashes(other))
        })?;
        let spec = self.pod.pod.spec.as_ref()?;
        let on_node = spec.host_network == Some(true);
        let mut edit = Edit::new();
        for (list, containers) in
            [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())]
        {
            for (c, container) in containers.into_iter().flatten().enumerate() {
                for (p, port) in container.ports.iter().flatten().enumerate() {
                    let same = port.host_port == Some(clash.port)
                        && port.protocol.as_deref().unwrap_or("TCP") == clash.protocol
                        && port.host_ip.as_deref().unwrap_or_default() == clash.ip;
                    if same {
                        let path = format!("/spec/{list}/{c}/ports/{p}");
                        edit = edit.replace(format!("{path}/hostPort"), free.into());
                        if on_node {
                            edit = edit.replace(format!("{path}/containerPort"), free.into());
                        }
                    }
                }
            }
        }
        let program = if on_node { ", and its program listen there" } else { "" };
        let text = format!("let the pod take host port {free} in place of {}{program}", clash.port);
        self.edited(Cost::Replace, &edit, text)
    }

    /// The one resource that lacks, asked for as far as it is free.
    fn asking_less(&self) -> Option<(Cost, Change)> {
        let (request, node) = (&self.pod.request, self.node);
        let lacks = |name: &str, asked: i64| {
            asked - amount(&node.allocatable, name).saturating_sub(amount(&node.requested, name))
        };
        let lacking: Vec<(String, i64)> = named(request)
            .into_iter()
            .filter(|(_, asked)| *asked > 0)
            .map(|(name, asked)| (lacks(&name, asked), name))
            .filter(|(lack, _)| *lack > 0)
            .map(|(lack, name)| (name, lack))
            .collect();
        let [(name, lack)] = lacking.as_slice() else { return None };
        let spec = self.pod.pod.spec.as_ref()?;
        let asked = |container: &Container| {
            let requests = container.resources.as_ref().and_then(|own| own.requests.as_ref());
            amount(&crate::resources::Resources::of(requests), name)
        };
        let list = |name: &'static str, own: &[Container]| -> Vec<(i64, String, String)> {
            let one = |(index, own): (usize, &Container)| {
                let who = if name == "containers" { "container" } else { "init container" };
                (asked(own), format!("/spec/{name}/{index}/resources"), format!("{who} {}", own.name))
            };
            own.iter().enumerate().map(one).collect()
        };
        let mut askers = list("containers", &spec.containers);
        askers.extend(list("initContainers", spec.init_containers.as_deref().unwrap_or_default()));
        // What is asked for the whole pod is no less than for its containers together.
        let whole = spec.resources.as_ref().and_then(|own| own.requests.as_ref());
        let of_pod = amount(&crate::resources::Resources::of(whole), name);
        let together: i64 = spec.containers.iter().map(&asked).sum();
        if of_pod - lack >= together {
            askers.push((of_pod, "/spec/resources".into(), "the pod as a whole".into()));
        }
        // Who asks for most can do with less most easily.
        askers.sort_by_key(|(asked, ..)| Reverse(*asked));
        askers.into_iter().filter(|(asked, ..)| asked >= lack).find_map(|(asked, path, who)| {
            let rest = asked - lack;
            let value: Value = shown(name, rest).into();
            let mut edit = Edit::new().replace(format!("{path}/requests/{}", escaped(name)), value.clone());
            // Of what can't be shared, limit and request must be the same.
            if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                edit = edit.replace(format!("{path}/limits/{}", escaped(name)), value);
            }
            let text = format!("let {who} ask for {} of {name}", shown(name, rest));
            self.edited(Cost::Replace, &edit, text)
        })
    }

    /// Without one of its demands on other pods.
    fn less_particular(&self) -> Option<(Cost, Change)> {
        let spec = self.pod.pod.spec.as_ref()?;
        let mut tries = Vec::new();
        let affinity = spec.affinity.as_ref();
        if affinity.is_some_and(|own| own.pod_anti_affinity.is_some()) {
            let edit = Edit::new().remove("/spec/affinity/podAntiAffinity");
            tries.push((edit, "drop the pod's podAntiAffinity".to_owned()));
        }
        if affinity.is_some_and(|own| own.pod_affinity.is_some()) {
            let edit = Edit::new().remove("/spec/affinity/podAffinity");
            tries.push((edit, "drop the pod's podAffinity".to_owned()));
        }
        for (index, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
            let path = format!("/spec/topologySpreadConstraints/{index}/whenUnsatisfiable");
            let edit = Edit::new().replace(path, "ScheduleAnyway".into());
            let text = format!("let the pod's spreading over {} be a wish only", constraint.topology_key);
            tries.push((edit, text));
        }
        tries.into_iter().find_map(|(edit, text)| self.edited(Cost::Replace, &edit, text))
    }

    /// The least important pod of the node whose end is enough.
    fn without_a_pod(&self) -> Option<(Cost, Change)> {
        let mut others: Vec<&Arc<PodInfo>> = self.node.pods.values().collect();
        others.sort_by_key(|other| {
            (other.priority, other.request.milli_cpu, other.request.memory, other.key.clone())
        });
        let enough = others.into_iter().find(|other| {
            let mut rest = self.node.clone();
            rest.remove_pod(&other.key);
            self.admits(self.pod, &rest)
        })?;
        let (namespace, name) = (&enough.key.namespace, &enough.key.name);
        let owner = match &enough.controller {
            Some(_) => " (its controller will make another one, which may come here again)",
            None => "",
        };
        let text = format!("end pod {}{owner}", enough.key);
        let how = format!("kubectl -n {namespace} delete pod {name}");
        Some((Cost::Evict, self.change("cluster", text, how)))
    }
}

/// Labels that a node's kubelet says of its node, as upstream lists them: to write another value there is to
/// lie about the node, and moves every pod that goes by it.
fn is_kubelets(key: &str) -> bool {
    const NAMES: [&str; 8] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    ];
    const DOMAINS: [&str; 3] = ["kubelet.kubernetes.io", "node.kubernetes.io", "topology.kubernetes.io"];
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |own: &str| domain == own || domain.ends_with(&format!(".{own}"));
    NAMES.contains(&key) || DOMAINS.iter().any(|own| below(own))
}

/// The label that fulfils one requirement; nothing for its value where the label has to go.
pub(super) fn fulfilment(own: &NodeSelectorRequirement) -> Option<(String, Option<String>)> {
    let first = own.values.as_ref().and_then(|values| values.first());
    let number = || first.and_then(|value| value.parse::<i64>().ok());
    let value = match own.operator.as_str() {
        "In" => Some(first?.clone()),
        "Exists" => Some(String::new()),
        "NotIn" | "DoesNotExist" => None,
        "Gt" => Some((number()?.checked_add(1)?).to_string()),
        "Lt" => Some((number()?.checked_sub(1)?).to_string()),
        _ => return None,
    };
    Some((own.key.clone(), value))
}
