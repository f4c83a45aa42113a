//! Why a pod has no node, for people: every filter's verdict on every node with the values compared, and the
//! smallest single change that lets it in.
//!
//! All of it is asked of the real filters on the present snapshot, within the scheduler's own loop, so that
//! an answer is never about another state than the one that decides. [`Questions`] is how others ask.

mod change;
mod compared;
mod edit;
mod questions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_explain::Metadata;
use skiff_explain::pending::{FilterVerdict, NodeVerdict, PendingExplanation, Preemption};

use crate::decide::schedule;
use crate::filter::{self, FILTERS, Refusal};
use crate::neighbours::Neighbours;
use crate::preempt::{self, Outcome};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::verdicts::{Verdict, Verdicts};

pub use questions::Questions;
pub(crate) use questions::{Asked, Question};

/// Nodes that are told of; the refusals of more would be read by nobody.
const NODES_MAX: usize = 256;

/// The explanation of a pod that has no node.
pub(crate) fn explain(snapshot: &Snapshot, verdicts: &Verdicts, pod: Arc<Pod>) -> PendingExplanation {
    let pod = PodInfo::new(pod);
    let metadata = Metadata {
        name: pod.key.name.clone(),
        namespace: pod.key.namespace.clone(),
        uid: pod.uid().to_owned(),
    };
    let decided = schedule(snapshot, &pod, 0);
    let neighbours = Neighbours::of(&pod, snapshot, None);
    let mut nodes: Vec<&NodeInfo> = snapshot.nodes().iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let all = nodes.len();
    nodes.truncate(NODES_MAX);
    let mut costs = Vec::new();
    let told: Vec<NodeVerdict> = nodes
        .iter()
        .map(|node| {
            let filters = filters(&pod, node, &neighbours);
            let fits = filters.iter().all(|filter| filter.passes);
            let change = if fits { None } else { change::smallest(&pod, node, snapshot, &filters) };
            costs.extend(change.as_ref().map(|(cost, change)| (*cost, change.clone())));
            NodeVerdict {
                node: node.name.clone(),
                fits,
                filters,
                change: change.map(|(_, change)| change),
                port_holders: Vec::new(),
            }
        })
        .collect();
    let fitting = told.iter().filter(|node| node.fits).count();
    let verdict = verdicts.get(&pod.key).filter(|verdict| verdict.pod_uid == pod.uid());
    let (state, summary) = match leaving(snapshot, &pod).filter(|_| fitting == 0) {
        Some((node, leaving)) => ("waiting for victims", waits_for_victims(node, &leaving)),
        None => state(all, fitting, verdict.as_ref()),
    };
    let mut answer = PendingExplanation::new(metadata, state, summary);
    answer.message = verdict.and_then(|verdict| verdict.message).unwrap_or_default();
    answer.nodes = told;
    costs.sort_by(|a, b| (a.0, &a.1.node).cmp(&(b.0, &b.1.node)));
    answer.smallest_change = costs.into_iter().next().map(|(_, change)| change).filter(|_| fitting == 0);
    if let Err(error) = &decided
        && error.nodes > 0
    {
        answer.preemption = Some(match leaving(snapshot, &pod) {
            Some((node, victims)) => done(node, victims),
            None => preemption(preempt::preempt(snapshot, &pod, error)),
        });
    }
    answer
}

/// The node that the pod is nominated to, with the pods of lower priority that end there for it.
fn leaving<'a>(snapshot: &'a Snapshot, pod: &PodInfo) -> Option<(&'a str, Vec<String>)> {
    let node = preempt::waits_at(snapshot, pod)?;
    let ends = |other: &&Arc<PodInfo>| snapshot.is_victim(other) && other.priority < pod.priority;
    let mut victims: Vec<String> =
        node.pods.values().filter(ends).map(|other| other.key.to_string()).collect();
    victims.sort();
    (!victims.is_empty()).then_some((node.name.as_str(), victims))
}

fn waits_for_victims(node: &str, victims: &[String]) -> String {
    let (pods, ends) = if victims.len() == 1 { ("pod", "ends") } else { ("pods", "end") };
    format!(
        "it goes to {node} as soon as it fits there; {pods} {} of lower priority {ends}",
        victims.join(", ")
    )
}

/// Preemption that has been decided already and is under way.
fn done(node: &str, victims: Vec<String>) -> Preemption {
    let why = format!("it was done: the pod is nominated to {node} and waits until pods there have ended");
    Preemption { considered: true, why, victims }
}

fn state(all: usize, fitting: usize, verdict: Option<&Verdict>) -> (&'static str, String) {
    match (all, fitting) {
        (0, _) => ("waiting for a node", "it waits for a node, and there is none".to_owned()),
        (_, 0) => {
            let nodes = if all == 1 {
                "the one node refuses it".to_owned()
            } else {
                format!("all {all} nodes refuse it")
            };
            ("waiting for a node", format!("it waits for a node; {nodes}"))
        }
        (_, some) => {
            let tried = match verdict.and_then(|verdict| verdict.node.as_ref()) {
                Some(node) => format!("it is being bound to {node}"),
                None => "the scheduler has yet to try it again".to_owned(),
            };
            ("waiting for the scheduler", format!("{some} of {all} nodes take it; {tried}"))
        }
    }
}

/// Every filter's verdict, in the order in which they run.
fn filters(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> Vec<FilterVerdict> {
    let crowded = filter::crowded(pod, node);
    let node = crowded.as_ref();
    let mut told: Vec<FilterVerdict> =
        FILTERS.iter().map(|(name, refuses)| verdict(name, refuses(pod, node), pod, node)).collect();
    told.push(verdict("PodTopologySpread", neighbours.spread_refusal(node), pod, node));
    told.push(verdict("InterPodAffinity", neighbours.affinity_refusal(node), pod, node));
    told
}

fn verdict(name: &str, refusal: Option<Refusal>, pod: &PodInfo, node: &NodeInfo) -> FilterVerdict {
    let compared = compared::compared(name, pod, node, refusal.as_ref());
    let used_by = match &refusal {
        Some(_) if name == "NodeResourcesFit" => compared::used_by(pod, node),
        _ => Vec::new(),
    };
    FilterVerdict {
        filter: name.to_owned(),
        passes: refusal.is_none(),
        reasons: refusal
            .map(|refusal| refusal.reasons.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        compared,
        used_by,
    }
}

fn preemption(outcome: Outcome) -> Preemption {
    match outcome {
        Outcome::Evict { node, victims } => Preemption {
            considered: true,
            why: format!("pods of lower priority on {node} would end, and then it fits there"),
            victims: victims.iter().map(|victim| victim.key.to_string()).collect(),
        },
        Outcome::Useless { message, keep_nomination } => {
            let why = match message.strip_suffix('.') {
                Some(message) => message.to_owned(),
                None => message,
            };
            // Ineligible pods keep what they were nominated for: nothing was looked for then.
            Preemption { considered: !keep_nomination, why, victims: Vec::new() }
        }
    }
}
