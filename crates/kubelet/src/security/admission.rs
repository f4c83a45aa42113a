//! Pods that this node can never run as they ask: they fail, with upstream's reasons and words.

use std::path::Path;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec};

use super::sysctls;
use crate::plan::Waiting;

/// Where the kernel says whether it has AppArmor.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What about the node matters here.
pub(crate) struct Host<'a> {
    pub(crate) apparmor: bool,
    pub(crate) allowed_unsafe_sysctls: &'a [String],
}

impl<'a> Host<'a> {
    pub(crate) fn read(allowed_unsafe_sysctls: &'a [String]) -> Self {
        let enabled = std::fs::read_to_string(Path::new(APPARMOR)).unwrap_or_default();
        Self { apparmor: enabled.starts_with('Y'), allowed_unsafe_sysctls }
    }
}

pub(crate) fn rejection(pod: &Pod, host: &Host<'_>) -> Option<Waiting> {
    let spec = pod.spec.as_ref()?;
    let reject = |reason: &str, message: String| {
        Some(Waiting { reason: reason.into(), message: Some(format!("Pod was rejected: {message}")) })
    };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return reject("PodOSNotSupported", message.into());
    }
    if let Some(message) = sysctls::rejection(spec, host.allowed_unsafe_sysctls) {
        return reject("SysctlForbidden", message);
    }
    if wants_apparmor(pod, spec) {
        // Where the kernel has it, its profiles are not applied yet: that must not pass for enforced.
        let why = if host.apparmor {
            "AppArmor profiles are not supported by this version of Skiff"
        } else {
            "AppArmor is not enabled on the host"
        };
        return reject("AppArmor", format!("Cannot enforce AppArmor: {why}"));
    }
    None
}

/// Some container asks for a profile, by a field or by the annotation that came before it.
fn wants_apparmor(pod: &Pod, spec: &PodSpec) -> bool {
    let confines = |profile: Option<&AppArmorProfile>| profile.map(|profile| profile.type_ != "Unconfined");
    let of_pod =
        confines(spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref()));
    let annotations = pod.metadata.annotations.as_ref();
    spec.init_containers.iter().flatten().chain(&spec.containers).any(|container| {
        let own = container.security_context.as_ref();
        let annotation = annotations
            .and_then(|all| all.get(&format!("{APPARMOR_ANNOTATION}{}", container.name)))
            .map(|profile| profile != "unconfined");
        confines(own.and_then(|context| context.app_armor_profile.as_ref()))
            .or(annotation)
            .or(of_pod)
            .unwrap_or(false)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, annotations: Value, expected: Option<(&str, &str)>) {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec}))
                .expect("a pod");
        let host = Host { apparmor: false, allowed_unsafe_sysctls: &[] };
        let expected = expected.map(|(reason, message)| Waiting {
            reason: reason.into(),
            message: Some(format!("Pod was rejected: {message}")),
        });
        assert_eq!(rejection(&pod, &host), expected);
    }

    #[test]
    fn what_the_kernel_lacks_is_refused() {
        let refused = Some(("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        check(json!({"securityContext": profile("RuntimeDefault")}), json!({}), refused);
        check(json!({"securityContext": profile("Unconfined")}), json!({}), None);
        let own = |kind: &str| json!([{"name": "c", "securityContext": profile(kind)}]);
        check(json!({"containers": own("Localhost")}), json!({}), refused);
        check(
            json!({"securityContext": profile("RuntimeDefault"), "containers": own("Unconfined")}),
            json!({}),
            None,
        );
        let annotation = |value: &str| json!({"container.apparmor.security.beta.kubernetes.io/c": value});
        check(json!({}), annotation("runtime/default"), refused);
        check(json!({}), annotation("unconfined"), None);
    }

    #[test]
    fn sysctls_and_systems_that_are_not_for_this_node() {
        check(
            json!({"securityContext": {"sysctls": [{"name": "kernel.sem", "value": "1"}]}}),
            json!({}),
            Some(("SysctlForbidden", "forbidden sysctl: \"kernel.sem\" not allowlisted")),
        );
        check(
            json!({"os": {"name": "windows"}}),
            json!({}),
            Some(("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")),
        );
        check(
            json!({"os": {"name": "linux"}, "securityContext": {"seLinuxOptions": {"level": "s0"},
                "windowsOptions": {"hostProcess": true}}}),
            json!({}),
            None,
        );
    }
}
