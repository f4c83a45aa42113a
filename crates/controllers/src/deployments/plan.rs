//! How big each of a deployment's sets should be next.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revisions::{self, created};

/// A set's next size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Size {
    /// By name.
    pub(super) set: String,
    pub(super) replicas: i32,
}

pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// How many pods there may be beyond those wanted.
pub(super) fn surge(deployment: &Deployment) -> i32 {
    bounds(deployment).0
}

/// How many of those wanted may be missing.
pub(super) fn unavailable(deployment: &Deployment) -> i32 {
    bounds(deployment).1
}

fn bounds(deployment: &Deployment) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let missing = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let wanted = wanted(deployment);
    let surge = share(surge, wanted, true);
    let missing = share(missing, wanted, false);
    // Both zero would stop every rollout; a pod may be missing then.
    let missing = if surge == 0 && missing == 0 { 1 } else { missing };
    (surge, missing.min(wanted))
}

/// A number, or a percentage of `of`, rounded up or down.
pub(crate) fn share(value: &IntOrString, of: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
            let hundredths = percent.saturating_mul(i64::from(of));
            let rounded =
                if round_up { (hundredths + 99).div_euclid(100) } else { hundredths.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// How big a new set starts, beside the pods that there are.
pub(super) fn first_size(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> i32 {
    if is_recreate(deployment) {
        return wanted(deployment);
    }
    let present: i32 = sets.iter().map(|set| replicas(set)).sum();
    (wanted(deployment) + surge(deployment) - present).clamp(0, wanted(deployment))
}

/// The sets whose size should change. `old_pods_left`: pods of old sets haven't ended yet.
pub(super) fn sizes(
    deployment: &Deployment,
    current: Option<&ReplicaSet>,
    old: &[Arc<ReplicaSet>],
    old_pods_left: bool,
) -> Vec<Size> {
    let several =
        current.into_iter().chain(old.iter().map(|set| &**set)).filter(|set| replicas(set) > 0).count() > 1;
    let apart = is_recreate(deployment) && several && !is_paused(deployment);
    if !apart && (is_scaling(deployment, current, old) || is_paused(deployment)) {
        return in_proportion(deployment, current, old);
    }
    let Some(current) = current else { return Vec::new() };
    let changes = if is_recreate(deployment) {
        recreate(deployment, current, old, old_pods_left)
    } else {
        roll(deployment, current, old)
    };
    changes
        .into_iter()
        .filter(|size| {
            std::iter::once(current)
                .chain(old.iter().map(|set| &**set))
                .any(|set| name(set) == size.set && replicas(set) != size.replicas)
        })
        .collect()
}

fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

fn size(set: &ReplicaSet, replicas: i32) -> Size {
    Size { set: name(set).to_owned(), replicas }
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// Whether the wanted size is another than when the sets were sized last.
fn is_scaling(deployment: &Deployment, current: Option<&ReplicaSet>, old: &[Arc<ReplicaSet>]) -> bool {
    let active = current.into_iter().chain(old.iter().map(|set| &**set)).filter(|set| replicas(set) > 0);
    active.into_iter().any(|set| noted_size(set).is_some_and(|noted| noted != wanted(deployment)))
}

/// The deployment's size when the set was sized last.
fn noted_size(set: &ReplicaSet) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(revisions::DESIRED)?.parse().ok()
}

fn recreate(
    deployment: &Deployment,
    current: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
    old_pods_left: bool,
) -> Vec<Size> {
    let active: Vec<_> = old.iter().filter(|set| replicas(set) > 0).collect();
    if !active.is_empty() {
        return active.into_iter().map(|set| size(set, 0)).collect();
    }
    if old_pods_left { Vec::new() } else { vec![size(current, wanted(deployment))] }
}

/// One step of a rolling update: the new set grows as far as the surge lets it, old ones shrink as far as
/// enough pods stay available.
fn roll(deployment: &Deployment, current: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<Size> {
    let wanted = wanted(deployment);
    let total: i32 = replicas(current) + old.iter().map(|set| replicas(set)).sum::<i32>();
    if replicas(current) > wanted {
        return vec![size(current, wanted)];
    }
    let room = (wanted + surge(deployment) - total).max(0);
    let grown = replicas(current) + room.min(wanted - replicas(current));
    if grown != replicas(current) {
        return vec![size(current, grown)];
    }
    let old_total: i32 = old.iter().map(|set| replicas(set)).sum();
    if old_total == 0 {
        return Vec::new();
    }
    let available_min = wanted - unavailable(deployment);
    let current_unavailable = replicas(current) - available(current).min(replicas(current));
    let mut may_go = (total - available_min - current_unavailable).max(0);
    let mut by_age: Vec<&Arc<ReplicaSet>> = old.iter().filter(|set| replicas(set) > 0).collect();
    by_age.sort_by_key(|set| created(set));
    let mut sizes: Vec<(&Arc<ReplicaSet>, i32)> =
        by_age.into_iter().map(|set| (set, replicas(set))).collect();
    // Old pods that aren't available anyway go first.
    for (set, left) in &mut sizes {
        let broken = (*left - available(set)).clamp(0, may_go);
        *left -= broken;
        may_go -= broken;
    }
    // Then healthy ones, as long as enough pods are available in all.
    let all_available: i32 =
        available(current) + sizes.iter().map(|(set, left)| available(set).min(*left)).sum::<i32>();
    let mut spare = (all_available - available_min).max(0).min(may_go);
    for (_, left) in &mut sizes {
        let going = (*left).min(spare);
        *left -= going;
        spare -= going;
    }
    sizes.into_iter().map(|(set, left)| size(set, left)).collect()
}

/// The deployment's size changed amid a rollout: all sets share in it by their size.
fn in_proportion(
    deployment: &Deployment,
    current: Option<&ReplicaSet>,
    old: &[Arc<ReplicaSet>],
) -> Vec<Size> {
    let wanted = wanted(deployment);
    let mut active: Vec<&ReplicaSet> =
        current.into_iter().chain(old.iter().map(|set| &**set)).filter(|set| replicas(set) > 0).collect();
    match active.as_slice() {
        // Without a set of the present template, as while it is paused, the newest stands in.
        [] => {
            let newest = old.iter().map(|set| &**set).max_by_key(|set| created(set));
            return current.or(newest).map(|set| size(set, wanted)).into_iter().collect();
        }
        [only] => return vec![size(only, wanted)],
        _ => {}
    }
    if let Some(current) = current
        && available(current) == wanted
        && replicas(current) == wanted
        && noted_size(current) == Some(wanted)
    {
        let others = active.into_iter().filter(|set| name(set) != name(current));
        return others.map(|set| size(set, 0)).collect();
    }
    let total: i32 = active.iter().map(|set| replicas(set)).sum();
    let allowed = if wanted > 0 { wanted + surge(deployment) } else { 0 };
    let change = allowed - total;
    // Bigger sets take more; of like ones, the newer when growing, the older when shrinking.
    active.sort_by_key(|set| (std::cmp::Reverse(replicas(set)), created(set)));
    if change > 0 {
        active.sort_by_key(|set| std::cmp::Reverse((replicas(set), created(set))));
    }
    let mut left = change;
    let mut sizes: Vec<Size> = Vec::new();
    for set in &active {
        let exact = f64::from(replicas(set)) * f64::from(allowed) / f64::from(total.max(1));
        let part = (exact.round() as i32 - replicas(set)).clamp(left.min(0), left.max(0));
        left -= part;
        sizes.push(size(set, (replicas(set) + part).max(0)));
    }
    if let Some(first) = sizes.first_mut() {
        first.replicas = (first.replicas + left).max(0);
    }
    sizes
}

#[cfg(test)]
mod tests;
