//! What depends on the pods of other nodes too: affinity and anti-affinity between pods, and spreading over
//! topologies. It is counted once per pod, into values that each node is then compared with.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint};
use skiff_api::selector::{Labels, Operator, Requirement, Selector};

use crate::filter::{Refusal, matches_node_affinity};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// A required term of affinity or anti-affinity, read once.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    topology_key: String,
    selector: Selector,
    /// The pod's own namespace where the term names none.
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

/// A constraint that keeps a pod waiting rather than skewing its topology.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    topology_key: String,
    selector: Selector,
    max_skew: i64,
    min_domains: usize,
    honors_affinity: bool,
    honors_taints: bool,
}

/// What a pod requires of others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requires {
    affinity: Vec<Term>,
    anti_affinity: Vec<Term>,
    spread: Vec<Spread>,
}

impl Requires {
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let affinity = spec.affinity.as_ref();
        let together = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let together =
            together.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
        let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let apart = apart.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
        let spread = spec.topology_spread_constraints.iter().flatten();
        Self {
            affinity: together.into_iter().flatten().map(|own| term(pod, own)).collect(),
            anti_affinity: apart.into_iter().flatten().map(|own| term(pod, own)).collect(),
            spread: spread
                .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
                .map(|constraint| spread_of(pod, constraint))
                .collect(),
        }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && self.spread.is_empty()
    }

    /// How many constraints of spreading there are.
    pub(crate) fn spreads(&self) -> usize {
        self.spread.len()
    }

    /// How many terms of affinity and anti-affinity there are.
    pub(crate) fn affinities(&self) -> usize {
        self.affinity.len() + self.anti_affinity.len()
    }

    pub(crate) fn keeps_others_away(&self) -> bool {
        !self.anti_affinity.is_empty()
    }

    /// Whether it keeps this one away from where it is.
    pub(crate) fn keeps_away(&self, pod: &Pod, namespaces: &HashMap<String, Labels>) -> bool {
        self.anti_affinity.iter().any(|term| term.matches(pod, namespaces))
    }
}

fn term(pod: &Pod, term: &PodAffinityTerm) -> Term {
    let keys = term.match_label_keys.iter().flatten().map(|key| (key, Operator::In));
    let apart = term.mismatch_label_keys.iter().flatten().map(|key| (key, Operator::NotIn));
    let selector = Selector::from_object(term.label_selector.as_ref()).unwrap_or(Selector::Nothing);
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.extend(pod.metadata.namespace.clone());
    }
    Term {
        topology_key: term.topology_key.clone(),
        selector: with_keys(selector, pod, keys.chain(apart)),
        namespaces,
        namespace_selector: term
            .namespace_selector
            .as_ref()
            .map(|own| Selector::from_object(Some(own)).unwrap_or(Selector::Nothing)),
    }
}

fn spread_of(pod: &Pod, constraint: &TopologySpreadConstraint) -> Spread {
    let keys = constraint.match_label_keys.iter().flatten().map(|key| (key, Operator::In));
    let selector = Selector::from_object(constraint.label_selector.as_ref()).unwrap_or(Selector::Nothing);
    Spread {
        topology_key: constraint.topology_key.clone(),
        selector: with_keys(selector, pod, keys),
        max_skew: i64::from(constraint.max_skew),
        min_domains: constraint.min_domains.and_then(|count| usize::try_from(count).ok()).unwrap_or(1),
        honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// Adds the pod's own values of these labels, where it has them.
fn with_keys<'a>(
    selector: Selector,
    pod: &Pod,
    keys: impl Iterator<Item = (&'a String, Operator)>,
) -> Selector {
    let Selector::All(mut requirements) = selector else { return selector };
    for (key, operator) in keys {
        if let Some(value) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) {
            requirements.push(Requirement { key: key.clone(), operator, values: vec![value.clone()] });
        }
    }
    Selector::All(requirements)
}

impl Term {
    fn matches(&self, pod: &Pod, namespaces: &HashMap<String, Labels>) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let there = self.namespaces.iter().any(|own| own == namespace)
            || self.namespace_selector.as_ref().is_some_and(|own| own.matches(namespaces.get(namespace)));
        there && self.selector.matches(pod.metadata.labels.as_ref())
    }
}

/// The counts for one pod. The default has none: the pod depends on nobody and nobody minds it.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// Places that other pods' anti-affinity keeps this one from, with such a pod and whom it means.
    shunned: HashMap<(String, String), (String, String)>,
    apart: Vec<Apart>,
    together: Vec<Together>,
    /// Nobody matches the pod's affinity yet, but it would itself: it may be the first.
    may_be_first: bool,
    spread: Vec<Counts>,
}

/// One term of the pod's own anti-affinity.
#[derive(Debug)]
struct Apart {
    topology_key: String,
    /// Whom it means, as a selector.
    whom: String,
    /// The places that it keeps the pod from, each with a pod that it means there.
    places: HashMap<String, String>,
}

/// One term of the pod's own affinity.
#[derive(Debug)]
struct Together {
    topology_key: String,
    /// Whom it means, as a selector.
    whom: String,
    /// The places where one is.
    places: HashSet<String>,
}

/// Whom a selector means, in words.
fn meant(selector: &str) -> String {
    if selector.is_empty() { "all pods".to_owned() } else { format!("pods with {selector}") }
}

#[derive(Debug)]
struct Counts {
    topology_key: String,
    by_value: HashMap<String, i64>,
    least: i64,
    /// 1 if the pod counts itself.
    own: i64,
    max_skew: i64,
}

impl Neighbours {
    /// `instead` stands for the node of its name, for trying out what its pods' end would change.
    pub(crate) fn of(pod: &PodInfo, snapshot: &Snapshot, instead: Option<&NodeInfo>) -> Self {
        let mut neighbours = Self::default();
        let nodes = || {
            snapshot.nodes().iter().map(|node| match instead {
                Some(instead) if instead.name == node.name => instead,
                _ => node,
            })
        };
        if snapshot.keeps_others_away() {
            for node in nodes() {
                for other in node.pods.values() {
                    for term in &other.requires.anti_affinity {
                        if term.matches(&pod.pod, snapshot.namespaces())
                            && let Some(value) = topology(node, &term.topology_key)
                        {
                            let place = (term.topology_key.clone(), value.to_owned());
                            let by = || (other.key.to_string(), term.selector.to_string());
                            neighbours.shunned.entry(place).or_insert_with(by);
                        }
                    }
                }
            }
        }
        let requires = &pod.requires;
        if requires.is_nothing() {
            return neighbours;
        }
        for term in &requires.anti_affinity {
            let places =
                places(nodes(), &term.topology_key, |other| term.matches(other, snapshot.namespaces()));
            neighbours.apart.push(Apart {
                topology_key: term.topology_key.clone(),
                whom: term.selector.to_string(),
                places: places.map(|(place, other)| (place.to_owned(), other.key.to_string())).collect(),
            });
        }
        // A pod counts for affinity only if it matches all terms.
        let all_match =
            |other: &Pod| requires.affinity.iter().all(|term| term.matches(other, snapshot.namespaces()));
        // That is the same for each term, and asked once: as many questions as terms for each would be too many.
        let with_one: Vec<&NodeInfo> = match requires.affinity.is_empty() {
            true => Vec::new(),
            false => nodes().filter(|node| node.pods.values().any(|other| all_match(&other.pod))).collect(),
        };
        for term in &requires.affinity {
            let places = with_one.iter().filter_map(|node| topology(node, &term.topology_key));
            neighbours.together.push(Together {
                topology_key: term.topology_key.clone(),
                whom: term.selector.to_string(),
                places: places.map(str::to_owned).collect(),
            });
        }
        neighbours.may_be_first =
            neighbours.together.iter().all(|own| own.places.is_empty()) && all_match(&pod.pod);
        neighbours.spread = requires.spread.iter().map(|spread| counts(pod, spread, nodes())).collect();
        neighbours
    }

    pub(crate) fn refusal(&self, node: &NodeInfo) -> Option<Refusal> {
        self.spread_refusal(node).or_else(|| self.affinity_refusal(node))
    }

    pub(crate) fn spread_refusal(&self, node: &NodeInfo) -> Option<Refusal> {
        for counts in &self.spread {
            const REASON: &str = "node(s) didn't match pod topology spread constraints";
            const NO_LABEL: &str =
                "node(s) didn't match pod topology spread constraints (missing required label)";
            let key = &counts.topology_key;
            let Some(value) = topology(node, key) else {
                let detail = format!("the node has no label {key}");
                return Refusal::of("PodTopologySpread", NO_LABEL, false, detail);
            };
            let here = counts.by_value.get(value).copied().unwrap_or(0);
            if here + counts.own - counts.least > counts.max_skew {
                let detail = format!("{key}={value} has {here} pods, the least is {}", counts.least);
                return Refusal::of("PodTopologySpread", REASON, true, detail);
            }
        }
        None
    }

    pub(crate) fn affinity_refusal(&self, node: &NodeInfo) -> Option<Refusal> {
        let missing = |own: &&Together| {
            let here = topology(node, &own.topology_key);
            here.is_none_or(|value| !own.places.contains(value) && !self.may_be_first)
        };
        if let Some(Together { topology_key: key, whom, .. }) = self.together.iter().find(missing) {
            let detail = match topology(node, key) {
                None => format!("the node has no label {key}, by which it wants to be with {}", meant(whom)),
                Some(value) => {
                    format!("it wants to be with {}, and none is at {key}={value}", meant(whom))
                }
            };
            return Refusal::of("InterPodAffinity", "node(s) didn't match pod affinity rules", false, detail);
        }
        let taken = self.apart.iter().find_map(|own| {
            let value = topology(node, &own.topology_key)?;
            Some((own, value, own.places.get(value)?))
        });
        if let Some((Apart { topology_key, whom, .. }, value, other)) = taken {
            let whom = meant(whom);
            let detail =
                format!("it wants to be apart from {whom}, and pod {other} is at {topology_key}={value}");
            return Refusal::of(
                "InterPodAffinity",
                "node(s) didn't match pod anti-affinity rules",
                true,
                detail,
            );
        }
        let shunned = self.shunned.iter().find(|((key, value), _)| topology(node, key) == Some(value));
        let ((key, value), (other, whom)) = shunned?;
        let whom = meant(whom);
        let detail =
            format!("pod {other} is at {key}={value} and wants to be apart from {whom}, as this one is");
        let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
        Refusal::of("InterPodAffinity", reason, true, detail)
    }
}

fn topology<'a>(node: &'a NodeInfo, key: &str) -> Option<&'a str> {
    node.labels()?.get(key).map(String::as_str)
}

/// The values of a topology label on nodes with a matching pod, each with such a pod.
fn places<'a>(
    nodes: impl Iterator<Item = &'a NodeInfo>,
    key: &str,
    matches: impl Fn(&Pod) -> bool,
) -> impl Iterator<Item = (&'a str, &'a PodInfo)> {
    nodes.filter_map(move |node| {
        let value = topology(node, key)?;
        let other = node.pods.values().find(|other| matches(&other.pod))?;
        Some((value, &**other))
    })
}

fn counts<'a>(pod: &PodInfo, spread: &Spread, nodes: impl Iterator<Item = &'a NodeInfo>) -> Counts {
    let mut by_value: HashMap<String, i64> = HashMap::new();
    for node in nodes {
        let keys = pod.requires.spread.iter().map(|spread| &spread.topology_key);
        let labeled = keys.into_iter().all(|key| topology(node, key).is_some());
        let counted = labeled
            && (!spread.honors_affinity || matches_node_affinity(pod, node))
            && (!spread.honors_taints || crate::filter::taints::refuses(pod, node).is_none());
        let Some(value) = topology(node, &spread.topology_key).filter(|_| counted) else { continue };
        let matching = node.pods.values().filter(|other| {
            other.key.namespace == pod.key.namespace
                && !other.is_terminating()
                && spread.selector.matches(other.pod.metadata.labels.as_ref())
        });
        *by_value.entry(value.to_owned()).or_default() += i64::try_from(matching.count()).unwrap_or(i64::MAX);
    }
    let least = by_value.values().copied().min().unwrap_or(0);
    Counts {
        topology_key: spread.topology_key.clone(),
        // With fewer domains than asked for, an empty one is imagined.
        least: if by_value.len() < spread.min_domains { 0 } else { least },
        by_value,
        own: i64::from(spread.selector.matches(pod.pod.metadata.labels.as_ref())),
        max_skew: spread.max_skew,
    }
}

#[cfg(test)]
mod tests;
