//! What is Windows' alone, and what is not Windows': fields held against the system that a pod says it is for. The
//! rules and their words are upstream's.
//!
//! A pod that names no system may have the fields of either; nodes pass over what is not theirs.

use super::cursor::At;
use super::names;
use crate::status::Cause;

const SYSTEMS: &[&str] = &["linux", "windows"];
const CREDENTIAL_SPEC_KIB_MAX: usize = 64;
const DOMAIN_BYTES: usize = 256;
const USER_BYTES_MAX: usize = 104;
const NETBIOS_CHARS_MAX: usize = 15;

/// Of the pod's security context, what a Windows pod may not have.
const NOT_OF_PODS: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// The same of a container's.
const NOT_OF_CONTAINERS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `spec.os` and all that must agree with it; processes of the host, who are together or not at all.
pub(super) fn pod(spec: &At<'_>, faults: &mut Vec<Cause>) {
    host_processes(spec, faults);
    let os = spec.get("os");
    if !os.is_there() {
        return;
    }
    match os.get("name").text() {
        "" => faults.push(Cause::required(os.child("name"), "cannot be empty")),
        "linux" => of_linux(spec, faults),
        "windows" => of_windows(spec, faults),
        other => faults.push(Cause::not_supported(os.path, other, SYSTEMS)),
    }
}

/// The security contexts of all containers, in upstream's order.
fn contexts<'a>(spec: &At<'a>) -> impl Iterator<Item = At<'a>> {
    let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| spec.get(list));
    lists
        .into_iter()
        .flat_map(|list| list.items().collect::<Vec<_>>())
        .map(|each| each.get("securityContext"))
}

fn of_linux(spec: &At<'_>, faults: &mut Vec<Cause>) {
    for context in std::iter::once(spec.get("securityContext")).chain(contexts(spec)) {
        let options = context.get("windowsOptions");
        if options.is_there() {
            faults.push(Cause::forbidden(options.path, "windows options cannot be set for a linux pod"));
        }
    }
}

fn of_windows(spec: &At<'_>, faults: &mut Vec<Cause>) {
    let mut refuse = |place: At<'_>, is_set: bool| {
        if is_set {
            faults.push(Cause::forbidden(place.path, "cannot be set for a windows pod"));
        }
    };
    for field in ["hostUsers", "shareProcessNamespace"] {
        let place = spec.get(field);
        let is_set = place.is_there();
        refuse(place, is_set);
    }
    for field in ["hostPID", "hostIPC"] {
        let place = spec.get(field);
        let is_set = place.is_true();
        refuse(place, is_set);
    }
    let context = spec.get("securityContext");
    for field in NOT_OF_PODS {
        let place = context.get(field);
        // An empty list of parameters is none.
        let is_set = place.is_there() && !(field == "sysctls" && place.is_empty());
        refuse(place, is_set);
    }
    for context in contexts(spec) {
        for field in NOT_OF_CONTAINERS {
            let place = context.get(field);
            let is_set = place.is_there();
            refuse(place, is_set);
        }
    }
}

/// A container runs on the host itself if it says so, or, where it says nothing, if its pod does.
fn host_processes(spec: &At<'_>, faults: &mut Vec<Cause>) {
    let said = |context: &At<'_>| context.get("windowsOptions").get("hostProcess").value.as_bool();
    let of_pod = said(&spec.get("securityContext"));
    let (mut all, mut of_host) = (0, 0);
    for context in contexts(spec) {
        let own = said(&context);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            faults.push(Cause::invalid(context.child("windowsOptions.hostProcess"), own, detail));
        }
        all += 1;
        of_host += usize::from(own.or(of_pod) == Some(true));
    }
    if of_host == 0 {
        return;
    }
    if of_host != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        faults.push(Cause::invalid(spec.path.clone(), "", detail));
    }
    if !spec.get("hostNetwork").is_true() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        faults.push(Cause::invalid(spec.child("hostNetwork"), false, detail));
    }
}

/// `windowsOptions` by themselves.
pub(super) fn options(options: &At<'_>, faults: &mut Vec<Cause>) {
    let name = options.get("gmsaCredentialSpecName");
    if name.is_there()
        && let Some(fault) = names::subdomain(name.text())
    {
        faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
    }
    let credentials = options.get("gmsaCredentialSpec");
    let fault = match credentials.text().len() {
        0 => "gmsaCredentialSpec cannot be an empty string".to_owned(),
        long if long > CREDENTIAL_SPEC_KIB_MAX << 10 => {
            format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB_MAX} KiB")
        }
        _ => String::new(),
    };
    if credentials.is_there() && !fault.is_empty() {
        faults.push(Cause::invalid(credentials.path.clone(), credentials.text(), fault));
    }
    let user = options.get("runAsUserName");
    if user.is_there() {
        let wrong = user_name_faults(user.text());
        faults.extend(wrong.into_iter().map(|fault| Cause::invalid(user.path.clone(), user.text(), fault)));
    }
}

/// Of `USER` or `DOMAIN\USER`.
fn user_name_faults(name: &str) -> Vec<String> {
    let whole = |fault: &str| vec![fault.to_owned()];
    if name.is_empty() {
        return whole("runAsUserName cannot be an empty string");
    }
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        return whole("runAsUserName cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, user)) if user.contains('\\') => {
            return whole("runAsUserName cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut faults = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_BYTES {
            faults.push(format!("runAsUserName's Domain length must be under {DOMAIN_BYTES} characters"));
        }
        if !is_netbios(domain) && !domain.split('.').all(is_dns_label) {
            faults.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_BYTES_MAX {
        faults
            .push(format!("runAsUserName's User length must not be longer than {USER_BYTES_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        faults.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        faults.push(
            r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned(),
        );
    }
    faults
}

fn is_netbios(domain: &str) -> bool {
    (1..=NETBIOS_CHARS_MAX).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c| r#"\/:*?"<>|"#.contains(c))
}

/// With capital letters too.
fn is_dns_label(label: &str) -> bool {
    names::label(&label.to_ascii_lowercase()).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults(spec: Value) -> Vec<String> {
        let spec = json!({"spec": spec});
        let mut faults = Vec::new();
        pod(&At::root(&spec).get("spec"), &mut faults);
        faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
    }

    #[test]
    fn a_system_has_one_of_two_names() {
        for fine in [json!({}), json!({"os": {"name": "linux"}}), json!({"os": {"name": "windows"}})] {
            assert!(faults(fine.clone()).is_empty(), "{fine}");
        }
        assert_eq!(faults(json!({"os": {}})), ["spec.os.name: Required value: cannot be empty"]);
        assert_eq!(
            faults(json!({"os": {"name": "plan9"}})),
            ["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]
        );
    }

    #[test]
    fn a_linux_pod_has_no_options_of_windows() {
        let context = json!({"windowsOptions": {"runAsUserName": "x"}});
        let each = json!([{"securityContext": context}]);
        let mut spec = json!({"securityContext": context, "containers": each, "initContainers": each});
        assert!(faults(spec.clone()).is_empty(), "for whichever system");
        spec["os"] = json!({"name": "linux"});
        let detail = "Forbidden: windows options cannot be set for a linux pod";
        assert_eq!(
            faults(spec),
            ["", "initContainers[0].", "containers[0]."]
                .map(|place| format!("spec.{place}securityContext.windowsOptions: {detail}"))
        );
    }

    #[test]
    fn a_windows_pod_has_nothing_of_linux() {
        let of_pod = json!({
            "appArmorProfile": {"type": "Unconfined"}, "seLinuxOptions": {}, "seccompProfile": {"type": "Unconfined"},
            "fsGroup": 1, "fsGroupChangePolicy": "Always", "sysctls": [{"name": "a", "value": "b"}],
            "runAsUser": 1, "runAsGroup": 1, "supplementalGroups": [1], "supplementalGroupsPolicy": "Merge",
            "seLinuxChangePolicy": "Recursive", "runAsNonRoot": true,
        });
        let of_container = json!({
            "appArmorProfile": {"type": "Unconfined"}, "seLinuxOptions": {}, "seccompProfile": {"type": "Unconfined"},
            "capabilities": {}, "readOnlyRootFilesystem": false, "privileged": false,
            "allowPrivilegeEscalation": false, "procMount": "Default", "runAsUser": 1, "runAsGroup": 1,
            "runAsNonRoot": true,
        });
        let mut spec = json!({
            "hostUsers": true, "hostPID": true, "hostIPC": true, "shareProcessNamespace": false,
            "securityContext": of_pod, "containers": [{}, {"securityContext": of_container}],
        });
        assert!(faults(spec.clone()).is_empty(), "for whichever system");
        spec["os"] = json!({"name": "windows"});
        let told = faults(spec);
        let mut expected: Vec<String> = ["hostUsers", "shareProcessNamespace", "hostPID", "hostIPC"]
            .map(|field| format!("spec.{field}"))
            .into();
        let mut keys = |place: &str, context: &Value| {
            let keys = context.as_object().expect("an object").keys().filter(|key| *key != "runAsNonRoot");
            expected.extend(keys.map(|key| format!("spec.{place}securityContext.{key}")));
        };
        keys("", &of_pod);
        keys("containers[1].", &of_container);
        let mut expected: Vec<String> = expected
            .iter()
            .map(|place| format!("{place}: Forbidden: cannot be set for a windows pod"))
            .collect();
        expected.sort();
        let mut sorted = told;
        sorted.sort();
        assert_eq!(sorted, expected);
        // What says no is not there.
        let said = json!({"os": {"name": "windows"}, "hostPID": false, "hostIPC": false, "hostNetwork": true,
            "securityContext": {"sysctls": [], "windowsOptions": {"hostProcess": true}}, "containers": [{}]});
        assert!(faults(said).is_empty());
    }

    #[test]
    fn processes_of_the_host_are_together_and_in_its_network() {
        let host = |is: bool| json!({"windowsOptions": {"hostProcess": is}});
        let spec = |pod: Value, containers: &[Value]| {
            let containers: Vec<_> =
                containers.iter().map(|context| json!({"securityContext": context})).collect();
            json!({"hostNetwork": true, "securityContext": pod, "containers": containers})
        };
        assert!(faults(spec(host(true), &[json!({}), host(true)])).is_empty());
        assert!(faults(spec(json!({}), &[host(true), host(true)])).is_empty());
        assert!(faults(spec(json!({}), &[host(false), json!({})])).is_empty());
        let together = "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers \
                        must be HostProcess containers";
        assert_eq!(faults(spec(json!({}), &[host(true), json!({})])), [together]);
        assert_eq!(
            faults(spec(host(true), &[host(false), json!({})])),
            [
                "spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess \
                 value must be identical if both are specified, was true",
                together,
            ]
        );
        let mut own_network = spec(host(true), &[json!({})]);
        own_network["hostNetwork"] = json!(false);
        assert_eq!(
            faults(own_network),
            [
                "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess \
              containers"
            ]
        );
    }

    #[test]
    fn options_have_a_form() {
        let check = |given: Value, expected: &[&str]| {
            let mut faults = Vec::new();
            options(&At::root(&given), &mut faults);
            let told: Vec<_> =
                faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
            assert_eq!(told, expected);
        };
        check(json!({}), &[]);
        check(
            json!({"gmsaCredentialSpecName": "a.b", "gmsaCredentialSpec": "{}", "runAsUserName": "a"}),
            &[],
        );
        check(
            json!({"gmsaCredentialSpec": ""}),
            &["gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string"],
        );
        let long = "x".repeat((64 << 10) + 1);
        check(
            json!({"gmsaCredentialSpec": long}),
            &[&format!(
                "gmsaCredentialSpec: Invalid value: {long:?}: gmsaCredentialSpec size must be under 64 KiB"
            )],
        );
        let mut faults = Vec::new();
        options(&At::root(&json!({"gmsaCredentialSpec": "x".repeat(64 << 10)})), &mut faults);
        assert_eq!(faults.len(), 0, "just as much as there may be");
        options(&At::root(&json!({"gmsaCredentialSpecName": "A_b"})), &mut faults);
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn users_of_windows_have_a_form() {
        let long = "u".repeat(105);
        let far =
            format!("{}\\u", ["d".repeat(63), "d".repeat(63), "d".repeat(63), "d".repeat(64)].join("."));
        for (name, expected) in [
            ("ContainerAdministrator", ""),
            (&long[1..], ""),
            ("NT AUTHORITY\\SYSTEM", ""),
            ("Corp.Example\\John Doe", ""),
            ("a-long-domain.example.com\\u", ""),
            ("", "runAsUserName cannot be an empty string"),
            ("a\tb", "runAsUserName cannot contain control characters"),
            ("a\\b\\c", "runAsUserName cannot contain more than one backslash"),
            ("a\\", "runAsUserName's User cannot be empty"),
            ("\\a", "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
            (".a\\b", "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
            (
                "much-too-long-for_netbios\\b",
                "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
            ),
            (". .", "runAsUserName's User cannot contain only periods or spaces"),
            ("a@b", "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"),
            (&long, "runAsUserName's User length must not be longer than 104 characters"),
            (&far, "runAsUserName's Domain length must be under 256 characters"),
        ] {
            let faults = user_name_faults(name);
            assert_eq!(faults.first().map_or("", String::as_str), expected, "{name}");
        }
    }
}
