//! The decision about one write of a pod, or of an object with a pod template.

use serde_json::Value;

use crate::checks::{SECCOMP_CONTAINER_ANNOTATION, SECCOMP_POD_ANNOTATION};
use crate::configuration::Configuration;
use crate::evaluate::{Verdict, evaluate};
use crate::pod::Pod;
use crate::policy::{Level, LevelVersion, Policy};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Pod,
    /// Never refused: the pods that come of it will be.
    Template,
}

/// What an admission says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why the write is forbidden.
    pub refused: Option<String>,
    pub warnings: Vec<String>,
    /// For the audit log, under `pod-security.kubernetes.io/`.
    pub annotations: Vec<(&'static str, String)>,
}

impl Outcome {
    fn exempt(by: &str) -> Self {
        Self { annotations: vec![("exempt", by.to_owned())], ..Self::default() }
    }
}

/// Where an object keeps its pod, by group and resource. `None` for kinds that have none.
pub fn pod_of(group: &str, resource: &str) -> Option<(Subject, &'static str)> {
    match (group, resource) {
        ("", "pods") => Some((Subject::Pod, "")),
        ("", "podtemplates") => Some((Subject::Template, "/template")),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some((Subject::Template, "/spec/template")),
        ("batch", "cronjobs") => Some((Subject::Template, "/spec/jobTemplate/spec/template")),
        _ => None,
    }
}

/// Decides a write by `user` in a namespace with these labels.
pub fn admit<'l>(
    configuration: &Configuration,
    user: &str,
    namespace: &str,
    label: impl Fn(&str) -> Option<&'l str>,
    subject: Subject,
    pod: &Pod<'_>,
) -> Outcome {
    let exemptions = &configuration.exemptions;
    if exemptions.namespaces.iter().any(|exempt| exempt == namespace) {
        return Outcome::exempt("namespace");
    }
    if !user.is_empty() && exemptions.usernames.iter().any(|exempt| exempt == user) {
        return Outcome::exempt("user");
    }
    let (policy, faults) = Policy::of_labels(label, configuration.defaults);
    let enforced = if subject == Subject::Pod { policy.enforce.level } else { Level::Privileged };
    if faults.is_empty() && [enforced, policy.warn.level, policy.audit.level] == [Level::Privileged; 3] {
        let enforced = (subject == Subject::Pod).then(|| ("enforce-policy", "privileged:latest".to_owned()));
        return Outcome { annotations: enforced.into_iter().collect(), ..Outcome::default() };
    }
    if exempts_runtime_class(configuration, pod) {
        return Outcome::exempt("runtimeClass");
    }
    let mut outcome = Outcome::default();
    if !faults.is_empty() {
        let texts: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        let all = if let [one] = &texts[..] { one.clone() } else { format!("[{}]", texts.join(", ")) };
        outcome.annotations.push(("error", format!("Failed to parse policy: {all}")));
    }
    let mut seen: Vec<(LevelVersion, Verdict)> = Vec::new();
    let mut verdict_at = |at: LevelVersion| -> Verdict {
        if let Some((_, verdict)) = seen.iter().find(|(before, _)| *before == at) {
            return verdict.clone();
        }
        let verdict = evaluate(at, pod);
        seen.push((at, verdict.clone()));
        verdict
    };
    if subject == Subject::Pod {
        outcome.annotations.push(("enforce-policy", policy.enforce.to_string()));
        let verdict = verdict_at(policy.enforce);
        if !verdict.allowed() {
            outcome.refused =
                Some(format!("violates PodSecurity \"{}\": {}", policy.enforce, verdict.details()));
        }
    }
    let verdict = verdict_at(policy.audit);
    if !verdict.allowed() {
        outcome.annotations.push(("audit-violations", would_violate(policy.audit, &verdict)));
    }
    // Who is refused is told enough.
    if outcome.refused.is_none() {
        let verdict = verdict_at(policy.warn);
        if !verdict.allowed() {
            outcome.warnings.push(would_violate(policy.warn, &verdict));
        }
    }
    outcome
}

fn would_violate(at: LevelVersion, verdict: &Verdict) -> String {
    format!("would violate PodSecurity \"{at}\": {}", verdict.details())
}

pub(crate) fn exempts_runtime_class(configuration: &Configuration, pod: &Pod<'_>) -> bool {
    let class = pod.runtime_class();
    !class.is_empty() && configuration.exemptions.runtime_classes.iter().any(|exempt| exempt == class)
}

/// Whether an update of a pod changes anything that the checks look at. Of what may change in a pod these
/// are images, ephemeral containers, and the annotations that once chose seccomp profiles.
pub fn is_significant_update(new: &Value, old: &Value) -> bool {
    let (new, old) = (Pod::of(new), Pod::of(old));
    let differs = |key: &str| new.annotation(key) != old.annotation(key);
    if differs(SECCOMP_POD_ANNOTATION) {
        return true;
    }
    let count = |pod: Pod<'_>, list: &str| pod.spec[list].as_array().map_or(0, Vec::len);
    if ["containers", "initContainers"].iter().any(|list| count(new, list) != count(old, list)) {
        return true;
    }
    new.containers().any(|container| {
        let before = old.containers().find(|before| before.name() == container.name());
        before.is_none_or(|before| before.image() != container.image())
            || differs(&format!("{SECCOMP_CONTAINER_ANNOTATION}{}", container.name()))
    })
}
