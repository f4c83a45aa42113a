//! The table of checks: baseline ones first, then restricted ones, each in the order of their ids, since
//! messages list what they find in this order.

mod app_armor;
mod capabilities;
mod host_namespaces;
mod host_path_volumes;
mod host_ports;
mod host_probes;
mod privilege_escalation;
mod privileged;
mod proc_mount;
mod restricted_volumes;
mod run_as_non_root;
mod run_as_user;
mod seccomp;
mod selinux;
mod sysctls;
mod windows_host_process;

use crate::pod::Pod;
use crate::policy::Level;
pub(crate) use seccomp::{
    CONTAINER_ANNOTATION as SECCOMP_CONTAINER_ANNOTATION, POD_ANNOTATION as SECCOMP_POD_ANNOTATION,
};

/// Reason and detail of what is wrong; `None` if nothing is.
pub(crate) type Found = Option<(String, String)>;

/// A rule, as of the versions it changed in.
#[derive(Debug)]
pub struct Check {
    pub id: &'static str,
    /// The least strict level that has it.
    pub level: Level,
    /// Oldest first.
    pub revisions: &'static [Revision],
}

/// A rule from one minor version on.
#[derive(Debug)]
pub struct Revision {
    pub since: u32,
    pub(crate) run: fn(Pod<'_>) -> Found,
    /// Checks of the weaker level that this one makes superfluous.
    pub(crate) overrides: &'static [&'static str],
}

impl Check {
    /// The rule as of this minor version.
    pub(crate) fn at(&self, minor: u32) -> Option<&Revision> {
        self.revisions.iter().rev().find(|revision| revision.since <= minor)
    }
}

const fn since(minor: u32, run: fn(Pod<'_>) -> Found) -> Revision {
    Revision { since: minor, run, overrides: &[] }
}

const fn overriding(minor: u32, run: fn(Pod<'_>) -> Found, overrides: &'static [&'static str]) -> Revision {
    Revision { since: minor, run, overrides }
}

const fn baseline(id: &'static str, revisions: &'static [Revision]) -> Check {
    Check { id, level: Level::Baseline, revisions }
}

const fn restricted(id: &'static str, revisions: &'static [Revision]) -> Check {
    Check { id, level: Level::Restricted, revisions }
}

pub static CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[since(0, app_armor::check)]),
    baseline("capabilities_baseline", &[since(0, capabilities::baseline)]),
    baseline("hostNamespaces", &[since(0, host_namespaces::check)]),
    baseline("hostPathVolumes", &[since(0, host_path_volumes::check)]),
    baseline("hostPorts", &[since(0, host_ports::check)]),
    baseline("hostProbesAndHostLifecycle", &[since(34, host_probes::check)]),
    baseline("privileged", &[since(0, privileged::check)]),
    baseline(
        "procMount",
        &[since(0, proc_mount::default_only), since(35, proc_mount::default_unless_own_users)],
    ),
    baseline("seLinuxOptions", &[since(0, selinux::before_engine), since(31, selinux::with_engine)]),
    baseline(
        "seccompProfile_baseline",
        &[since(0, seccomp::baseline_annotations), since(19, seccomp::baseline_fields)],
    ),
    baseline(
        "sysctls",
        &[since(0, sysctls::v0), since(27, sysctls::v27), since(29, sysctls::v29), since(32, sysctls::v32)],
    ),
    baseline("windowsHostProcess", &[since(0, windows_host_process::check)]),
    restricted(
        "allowPrivilegeEscalation",
        &[since(8, privilege_escalation::everywhere), since(25, privilege_escalation::but_windows)],
    ),
    restricted(
        "capabilities_restricted",
        &[
            overriding(22, capabilities::restricted, &["capabilities_baseline"]),
            overriding(25, capabilities::restricted_but_windows, &["capabilities_baseline"]),
        ],
    ),
    restricted("procMount_restricted", &[overriding(35, proc_mount::default_only, &["procMount"])]),
    restricted("restrictedVolumes", &[overriding(0, restricted_volumes::check, &["hostPathVolumes"])]),
    restricted(
        "runAsNonRoot",
        &[since(0, run_as_non_root::everywhere), since(35, run_as_non_root::unless_own_users)],
    ),
    restricted("runAsUser", &[since(23, run_as_user::everywhere), since(35, run_as_user::unless_own_users)]),
    restricted(
        "seccompProfile_restricted",
        &[
            overriding(19, seccomp::restricted, &["seccompProfile_baseline"]),
            overriding(25, seccomp::restricted_but_windows, &["seccompProfile_baseline"]),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::NEWEST;

    #[test]
    fn the_table_is_in_the_order_of_messages_and_versions() {
        let order: Vec<_> = CHECKS.iter().map(|check| (check.level, check.id)).collect();
        assert!(order.is_sorted(), "{order:?}");
        for check in CHECKS {
            assert!(check.revisions.is_sorted_by_key(|revision| revision.since), "{}", check.id);
            for other in check.revisions.iter().flat_map(|revision| revision.overrides) {
                assert!(CHECKS.iter().any(|c| c.id == *other && c.level < check.level), "{other}");
            }
        }
        let newest = CHECKS.iter().flat_map(|check| check.revisions).map(|revision| revision.since).max();
        assert_eq!(newest, Some(NEWEST));
    }
}
