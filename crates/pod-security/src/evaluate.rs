//! A pod held against a level: which checks count, and what they find.

use crate::checks::{CHECKS, Check, Revision};
use crate::pod::Pod;
use crate::policy::{Level, LevelVersion, Version};

/// The minor version of the newest rules; `latest` and everything newer means these.
pub const NEWEST: u32 = 35;

/// What one check found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check's id, as `hostNamespaces`.
    pub check: &'static str,
    /// A few words, as `host namespaces`.
    pub reason: String,
    /// Which field of which container, as `hostPID=true`. May be empty.
    pub detail: String,
}

/// What all checks of a level found wrong: nothing, if the pod may pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict(pub Vec<Finding>);

impl Verdict {
    pub fn allowed(&self) -> bool {
        self.0.is_empty()
    }

    /// `host namespaces, hostPort`.
    pub fn reasons(&self) -> String {
        let reasons: Vec<&str> = self.0.iter().map(|finding| finding.reason.as_str()).collect();
        reasons.join(", ")
    }

    /// `host namespaces (hostPID=true), hostPort (container "main" uses hostPort 9000)`.
    pub fn details(&self) -> String {
        let details: Vec<String> = self
            .0
            .iter()
            .map(|Finding { reason, detail, .. }| match detail.as_str() {
                "" => reason.clone(),
                detail => format!("{reason} ({detail})"),
            })
            .collect();
        details.join(", ")
    }
}

/// Holds a pod against a level.
pub fn evaluate(at: LevelVersion, pod: &Pod<'_>) -> Verdict {
    if at.level == Level::Privileged {
        return Verdict::default();
    }
    let minor = match at.version {
        Version::V1(minor) => minor.min(NEWEST),
        Version::Latest => NEWEST,
    };
    let counting: Vec<(&Check, &Revision)> = CHECKS
        .iter()
        .filter(|check| check.level <= at.level)
        .filter_map(|check| Some((check, check.at(minor)?)))
        .collect();
    // A stricter check of the same field speaks for the weaker one.
    let is_overridden = |id: &str| counting.iter().any(|(_, revision)| revision.overrides.contains(&id));
    let findings = counting
        .iter()
        .filter(|(check, _)| !is_overridden(check.id))
        .filter_map(|(check, revision)| {
            let (reason, detail) = (revision.run)(*pod)?;
            Some(Finding { check: check.id, reason, detail })
        })
        .collect();
    Verdict(findings)
}

/// How strict a namespace may be for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The strictest level that the pod meets.
    pub meets: Level,
    /// What the next stricter level finds wrong; nothing at the strictest.
    pub kept_from_next: Verdict,
}

/// The strictest level that a pod meets, and what keeps it from the next.
pub fn standing(pod: &Pod<'_>, version: Version) -> Standing {
    let mut meets = Level::Privileged;
    for level in [Level::Baseline, Level::Restricted] {
        let verdict = evaluate(LevelVersion { level, version }, pod);
        if !verdict.allowed() {
            return Standing { meets, kept_from_next: verdict };
        }
        meets = level;
    }
    Standing { meets, kept_from_next: Verdict::default() }
}
