//! Preemption: which pods of lower priority would have to go so that a pod fits.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::filter::{self, Refusal};
use crate::fit_error::{FitError, histogram};
use crate::neighbours::Neighbours;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// What preemption comes to.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// These pods end so that the pod can go to `node`.
    Evict { node: String, victims: Vec<Arc<PodInfo>> },
    /// The part of the message that says why not. `keep_nomination`: the pod waits already.
    Useless { message: String, keep_nomination: bool },
}

pub(crate) fn preempt(snapshot: &Snapshot, pod: &PodInfo, error: &FitError) -> Outcome {
    if let Some(message) = ineligible(snapshot, pod, error) {
        return Outcome::Useless { message: message.to_owned(), keep_nomination: true };
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut refusals = Vec::new();
    let mut candidates = Vec::new();
    for verdict in error.refused.iter().filter(|verdict| verdict.refusal.resolvable) {
        let Some(node) = snapshot.node(&verdict.node) else { continue };
        match victims(pod, node, snapshot) {
            Ok(victims) => candidates.push((node, victims)),
            Err(why) => refusals.push(why),
        }
    }
    if let Some((node, victims)) = candidates.into_iter().min_by_key(|(_, victims)| cost(victims)) {
        return Outcome::Evict { node: node.name.clone(), victims };
    }
    let asked = refusals.len();
    for why in &refusals {
        for reason in why {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if asked < error.nodes {
        reasons.insert("Preemption is not helpful for scheduling", error.nodes - asked);
    }
    Outcome::Useless { message: histogram(error.nodes, &reasons), keep_nomination: false }
}

fn ineligible(snapshot: &Snapshot, pod: &PodInfo, error: &FitError) -> Option<&'static str> {
    if !pod.may_preempt() {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = waits_at(snapshot, pod)?;
    let hopeless =
        error.refused.iter().any(|verdict| verdict.node == nominated.name && !verdict.refusal.resolvable);
    (!hopeless).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The node where pods of lower priority end so that the pod fits. Who ends there for another reason, and
/// perhaps late, is not waited for.
pub(crate) fn waits_at<'a>(snapshot: &'a Snapshot, pod: &PodInfo) -> Option<&'a NodeInfo> {
    let nominated = snapshot.nomination(&pod.key).and_then(|name| snapshot.node(name))?;
    let leaving =
        nominated.pods.values().any(|other| other.priority < pod.priority && snapshot.is_victim(other));
    leaving.then_some(nominated)
}

/// Whether the pod could enter if all pods of lower priority ended there.
pub(crate) fn could_enter(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> bool {
    pod.may_preempt()
        && node.pods.values().any(|other| other.priority < pod.priority)
        && refusal(pod, &without_lower(pod, node), snapshot).is_none()
}

fn refusal(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Option<Refusal> {
    filter::refusal(pod, node, &Neighbours::of(pod, snapshot, Some(node)))
}

fn without_lower(pod: &PodInfo, node: &NodeInfo) -> NodeInfo {
    let mut rest = node.clone();
    for other in node.pods.values().filter(|other| other.priority < pod.priority) {
        rest.remove_pod(&other.key);
    }
    rest
}

/// The fewest and least important pods whose end lets the pod in, or why none would.
fn victims(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Result<Vec<Arc<PodInfo>>, Vec<String>> {
    let mut lower: Vec<_> =
        node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    let mut rest = without_lower(pod, node);
    if let Some(refusal) = refusal(pod, &rest, snapshot) {
        return Err(refusal.reasons.iter().map(ToString::to_string).collect());
    }
    // Spare the most important first: higher priority, then longer running.
    lower.sort_by_key(|other| (Reverse(other.priority), started(other), other.key.clone()));
    let mut victims = Vec::new();
    for other in lower {
        rest.add_pod(other.clone());
        if refusal(pod, &rest, snapshot).is_some() {
            rest.remove_pod(&other.key);
            victims.push(other);
        }
    }
    Ok(victims)
}

/// Least of: the highest priority lost, the sum of priorities, the number, and then the latest start.
fn cost(victims: &[Arc<PodInfo>]) -> (i32, i64, usize, Reverse<i64>) {
    let highest = victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    // Priorities may be negative; shifted, so that more victims never make the sum smaller.
    let sum = victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
    let earliest =
        victims.iter().filter(|victim| victim.priority == highest).map(|victim| started(victim)).min();
    (highest, sum, victims.len(), Reverse(earliest.unwrap_or(i64::MAX)))
}

/// Seconds since the epoch; what hasn't started counts as latest.
fn started(pod: &PodInfo) -> i64 {
    let time = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    time.map_or(i64::MAX, |time| time.0.as_second())
}

#[cfg(test)]
mod tests;
