//! Security contexts, of pods and of containers. The rules and their words are upstream's.

use std::collections::BTreeSet;

use super::container::choice;
use super::cursor::At;
use super::windows;
use crate::status::Cause;
use crate::sysctl;

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL_CHARS_MAX: usize = 253;
const SYSCTL_FORM: &str = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const APPARMOR_CHARS_MAX: usize = 4095;

/// `spec.securityContext` and what `hostUsers: false` rules out.
pub(super) fn pod(spec: &At<'_>, faults: &mut Vec<Cause>) {
    let context = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.get(field), faults);
    }
    context.get("supplementalGroups").items().for_each(|group| id(&group, faults));
    choice(&context.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], faults);
    choice(&context.get("supplementalGroupsPolicy"), &["Merge", "Strict"], faults);
    choice(&context.get("seLinuxChangePolicy"), &["MountOption", "Recursive"], faults);
    sysctls(&context.get("sysctls"), spec, faults);
    seccomp(&context.get("seccompProfile"), faults);
    apparmor(&context.get("appArmorProfile"), faults);
    windows::options(&context.get("windowsOptions"), faults);
    windows::pod(spec, faults);
    if !shares_the_nodes_users(spec) {
        // The capital letters are upstream's.
        for (field, named) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
        {
            if spec.get(field).is_true() {
                faults.push(Cause::forbidden(spec.child(named), "when `hostUsers` is false"));
            }
        }
    }
}

/// `securityContext` of a container.
pub(super) fn container(context: &At<'_>, host_users: bool, faults: &mut Vec<Cause>) {
    for field in ["runAsUser", "runAsGroup"] {
        id(&context.get(field), faults);
    }
    let proc = context.get("procMount");
    choice(&proc, &["Default", "Unmasked"], faults);
    if host_users && proc.text() == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        faults.push(Cause::invalid(proc.path.clone(), proc.text(), detail));
    }
    seccomp(&context.get("seccompProfile"), faults);
    if context.get("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        let mut clash = |with: &str| {
            let detail = format!("cannot set `allowPrivilegeEscalation` to false and {with}");
            faults.push(Cause::invalid(context.path.clone(), context.value.clone(), detail));
        };
        if context.get("privileged").is_true() {
            clash("`privileged` to true");
        }
        let added = context.get("capabilities").get("add");
        // Upstream refuses the name with the prefix alone; the one without it asks for the same.
        if added.items().any(|capability| ["SYS_ADMIN", "CAP_SYS_ADMIN"].contains(&capability.text())) {
            clash("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows::options(&context.get("windowsOptions"), faults);
    apparmor(&context.get("appArmorProfile"), faults);
}

/// `hostUsers` defaults to true.
pub(super) fn shares_the_nodes_users(spec: &At<'_>) -> bool {
    spec.get("hostUsers").value.as_bool() != Some(false)
}

pub(super) fn id(place: &At<'_>, faults: &mut Vec<Cause>) {
    if let Some(number) = place.number().filter(|number| !(0..=i64::from(i32::MAX)).contains(number)) {
        faults.push(Cause::invalid(place.path.clone(), number, ID_RANGE));
    }
}

fn sysctls(sysctls: &At<'_>, spec: &At<'_>, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if !is_sysctl(name.text()) {
            let detail =
                format!("must have at most {SYSCTL_CHARS_MAX} characters and match regex {SYSCTL_FORM}");
            faults.push(Cause::invalid(name.path.clone(), name.text(), detail));
        } else if !seen.insert(name.text()) {
            faults.push(Cause::duplicate(name.path.clone(), name.text()));
        }
        // The node's own would be set for all its pods.
        let shared = sysctl::namespace(name.text()).map(sysctl::Namespace::host_field);
        if let Some(shared) = shared.filter(|field| spec.get(field).is_true()) {
            let detail = format!("may not be specified when '{shared}' is true");
            faults.push(Cause::invalid(name.path.clone(), name.text(), detail));
        }
    }
}

/// Segments of lower-case letters and digits, with `-` and `_` inside, joined by `.` or `/`.
fn is_sysctl(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let segment = |segment: &str| {
        let bytes = segment.as_bytes();
        bytes.first().is_some_and(|byte| plain(*byte))
            && bytes.last().is_some_and(|byte| plain(*byte))
            && bytes.iter().all(|byte| plain(*byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= SYSCTL_CHARS_MAX && name.split(['.', '/']).all(segment)
}

fn seccomp(profile: &At<'_>, faults: &mut Vec<Cause>) {
    if !profile.is_there() {
        return;
    }
    let (kind, path) = (profile.get("type"), profile.get("localhostProfile"));
    if kind.is_empty() {
        faults.push(Cause::required(kind.path.clone(), "type is required when seccompProfile is set"));
    }
    choice(&kind, PROFILE_TYPES, faults);
    if kind.text() != "Localhost" {
        if path.is_there() {
            let detail = "can only be set when seccomp type is Localhost";
            faults.push(Cause::invalid(path.path.clone(), profile.value.clone(), detail));
        }
        return;
    }
    if !path.is_there() {
        faults.push(Cause::required(path.path.clone(), "must be set when seccomp type is Localhost"));
        return;
    }
    if path.text().starts_with('/') {
        faults.push(Cause::invalid(path.path.clone(), path.text(), "must be a relative path"));
    }
    if path.text().split('/').any(|part| part == "..") {
        faults.push(Cause::invalid(path.path.clone(), path.text(), "must not contain '..'"));
    }
}

fn apparmor(profile: &At<'_>, faults: &mut Vec<Cause>) {
    if !profile.is_there() {
        return;
    }
    let (kind, name) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "" => faults.push(Cause::required(kind.path.clone(), "type is required when appArmorProfile is set")),
        "Localhost" => {
            if name.text().trim() != name.text() {
                let detail = "must not be padded with whitespace";
                faults.push(Cause::invalid(name.path.clone(), name.text(), detail));
            } else if name.is_empty() {
                let detail = "must be set when AppArmor type is Localhost";
                faults.push(Cause::required(name.path.clone(), detail));
            }
            if name.text().len() > APPARMOR_CHARS_MAX {
                faults.push(Cause::too_long(name.path.clone(), APPARMOR_CHARS_MAX));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if name.is_there() {
                let detail = "can only be set when AppArmor type is Localhost";
                faults.push(Cause::invalid(name.path.clone(), name.text(), detail));
            }
        }
        _ => choice(&kind, PROFILE_TYPES, faults),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults(spec: Value) -> Vec<String> {
        let mut faults = Vec::new();
        let at = At::root(&spec);
        pod(&at, &mut faults);
        for each in at.get("containers").items() {
            container(&each.get("securityContext"), shares_the_nodes_users(&at), &mut faults);
        }
        faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
    }

    /// The faults of a pod's context, and those of the same context on a container where it can stand there.
    #[track_caller]
    fn of_pod(context: Value, expected: &[&str]) {
        assert_eq!(faults(json!({"securityContext": context})), expected);
    }

    #[track_caller]
    fn of_container(context: Value, expected: &[&str]) {
        assert_eq!(faults(json!({"containers": [{"securityContext": context}]})), expected);
    }

    #[test]
    fn what_is_well_formed_passes() {
        of_pod(
            json!({"runAsUser": 0, "runAsGroup": 2147483647, "fsGroup": 1, "supplementalGroups": [1, 2],
                "fsGroupChangePolicy": "OnRootMismatch", "supplementalGroupsPolicy": "Strict", "runAsNonRoot": false,
                "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/audit.json"},
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"},
                "seLinuxOptions": {"level": "s0"}, "windowsOptions": {"hostProcess": true},
                "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1 2"}, {"name": "net/ipv4/conf/eth0.1/mtu", "value": "1"}]}),
            &[],
        );
        of_container(
            json!({"privileged": true, "allowPrivilegeEscalation": true, "procMount": "Default",
                "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "RuntimeDefault"}}),
            &[],
        );
    }

    #[test]
    fn users_and_groups_have_a_range() {
        of_pod(
            json!({"runAsUser": -1, "runAsGroup": 2147483648u32, "fsGroup": -2, "supplementalGroups": [3, -3]}),
            &[
                "securityContext.fsGroup: Invalid value: -2: must be between 0 and 2147483647, inclusive",
                "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "securityContext.runAsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
                "securityContext.supplementalGroups[1]: Invalid value: -3: must be between 0 and 2147483647, inclusive",
            ],
        );
        of_pod(
            json!({"fsGroupChangePolicy": "Never", "supplementalGroupsPolicy": "Both"}),
            &[
                "securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
                "securityContext.supplementalGroupsPolicy: Unsupported value: \"Both\": supported values: \"Merge\", \"Strict\"",
            ],
        );
    }

    #[test]
    fn seccomp_profiles_stay_below_their_directory() {
        for (profile, expected) in [
            (json!({}), "type: Required value: type is required when seccompProfile is set"),
            (
                json!({"type": "Mine"}),
                "type: Unsupported value: \"Mine\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
            ),
            (
                json!({"type": "Localhost"}),
                "localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                json!({"type": "Localhost", "localhostProfile": "/etc/profile.json"}),
                "localhostProfile: Invalid value: \"/etc/profile.json\": must be a relative path",
            ),
            (
                json!({"type": "Localhost", "localhostProfile": "a/../../b"}),
                "localhostProfile: Invalid value: \"a/../../b\": must not contain '..'",
            ),
            (
                json!({"type": "Unconfined", "localhostProfile": "a"}),
                "localhostProfile: Invalid value: {\"localhostProfile\":\"a\",\"type\":\"Unconfined\"}: can only be set when seccomp type is Localhost",
            ),
        ] {
            let expected = |at: &str| [format!("{at}securityContext.seccompProfile.{expected}")];
            let context = json!({"seccompProfile": profile});
            assert_eq!(faults(json!({"securityContext": context})), expected(""));
            assert_eq!(
                faults(json!({"containers": [{"securityContext": context}]})),
                expected("containers[0].")
            );
        }
    }

    #[test]
    fn sysctls_have_a_form_and_come_once() {
        let long = "a".repeat(254);
        let form = "must have at most 253 characters and match regex ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        for name in ["net..ipv4", ".net", "net.", "Net.ipv4", "net.-a", &long] {
            let expected = format!("securityContext.sysctls[0].name: Invalid value: \"{name}\": {form}");
            of_pod(json!({"sysctls": [{"name": name, "value": "1"}]}), &[&expected]);
        }
        of_pod(
            json!({"sysctls": [{"value": "1"}, {"name": "a.b", "value": "1"}, {"name": "a.b", "value": "2"}]}),
            &[
                "securityContext.sysctls[0].name: Required value",
                "securityContext.sysctls[2].name: Duplicate value: \"a.b\"",
            ],
        );
    }

    #[test]
    fn an_unmasked_proc_needs_users_of_its_own() {
        let unmasked = json!([{"securityContext": {"procMount": "Unmasked"}}]);
        assert_eq!(
            faults(json!({"containers": unmasked})),
            [
                "containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"
            ]
        );
        assert!(faults(json!({"hostUsers": false, "containers": unmasked})).is_empty());
        assert_eq!(
            faults(json!({"hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true})),
            [
                "hostNetwork: Forbidden: when `hostUsers` is false",
                "HostPID: Forbidden: when `hostUsers` is false",
                "HostIPC: Forbidden: when `hostUsers` is false",
            ]
        );
    }

    #[test]
    fn apparmor_profiles_have_a_name_where_they_need_one() {
        of_pod(
            json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}}),
            &[
                "securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with whitespace",
            ],
        );
        of_container(
            json!({"appArmorProfile": {"type": "Localhost"}}),
            &[
                "containers[0].securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
            ],
        );
    }
}
