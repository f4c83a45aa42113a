//! What a namespace's own write is told: whose pods a new label would refuse, and that a label of an
//! exempt namespace does nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::admission::exempts_runtime_class;
use crate::configuration::Configuration;
use crate::evaluate::evaluate;
use crate::pod::Pod;
use crate::policy::{Level, LevelVersion, Mode, Policy};

/// Pods of a namespace that are looked at when its label changes.
pub const PODS_MAX: usize = 3000;

/// Whether pods that a changed policy would refuse may exist: only a stricter one can refuse them.
pub fn must_look_at_pods(new: &Policy, old: &Policy) -> bool {
    let (new, old) = (new.enforce, old.enforce);
    new.level != Level::Privileged && (new.version != old.version || new.level > old.level)
}

/// The warnings that list the pods that `enforce` would refuse. Of the pods of one controller the first
/// comes before everybody else's second; `in_time` is asked after each pod.
pub fn existing_pods(
    configuration: &Configuration,
    namespace: &str,
    enforce: LevelVersion,
    pods: &[Value],
    mut in_time: impl FnMut() -> bool,
) -> Vec<String> {
    let ordered = in_order(configuration, pods);
    let total = ordered.len();
    let mut checked = total.min(PODS_MAX);
    // By what is wrong: the first name, and how many there are.
    let mut wrong: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for (at, pod) in ordered.into_iter().take(PODS_MAX).enumerate() {
        let verdict = evaluate(enforce, &Pod::of(pod));
        if !verdict.allowed() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let (first, count) = wrong.entry(verdict.reasons()).or_insert((name, 0));
            *first = name.min(first);
            *count += 1;
        }
        if !in_time() {
            checked = at + 1;
            break;
        }
    }
    let mut warnings = Vec::new();
    if checked < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
        ));
    }
    if !wrong.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut lines: Vec<String> = wrong
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            count => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

fn in_order<'a>(configuration: &Configuration, pods: &'a [Value]) -> Vec<&'a Value> {
    let mut controllers = BTreeSet::new();
    let (mut first, mut more) = (Vec::new(), Vec::new());
    for pod in pods.iter().filter(|pod| !exempts_runtime_class(configuration, &Pod::of(pod))) {
        match controller(pod) {
            Some(uid) if !controllers.insert(uid) => more.push(pod),
            _ => first.push(pod),
        }
    }
    first.append(&mut more);
    first
}

fn controller(pod: &Value) -> Option<&str> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

/// What is said to who labels an exempt namespace.
pub fn exempt_namespace_warning<'l>(
    configuration: &Configuration,
    namespace: &str,
    label: impl Fn(&str) -> Option<&'l str>,
    policy: &Policy,
) -> Option<String> {
    let exempt = configuration.exemptions.namespaces.iter().any(|exempt| exempt == namespace);
    if !exempt || policy.is_privileged() || policy.is_equivalent(&configuration.defaults) {
        return None;
    }
    let asked: Vec<String> = Mode::ALL
        .iter()
        .filter(|mode| policy.of(**mode).level != Level::Privileged)
        .filter(|mode| label(mode.level_label()).is_some() || label(mode.version_label()).is_some())
        .map(|mode| format!("{}={}", mode.name(), policy.of(*mode)))
        .collect();
    Some(format!(
        "namespace {namespace:?} is exempt from Pod Security, and the policy ({}) will be ignored",
        asked.join(", ")
    ))
}
