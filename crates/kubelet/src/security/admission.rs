//! Pods that this node can never run as they ask: they fail, with upstream's reasons and words.

use k8s_openapi::api::core::v1::Pod;
use skiff_runtime::AppArmor::{Unconfined, Unspecified};

use super::{apparmor, sysctls};
use crate::plan::Waiting;

/// What about the node matters here.
pub(crate) struct Host<'a> {
    pub(crate) apparmor: bool,
    pub(crate) allowed_unsafe_sysctls: &'a [String],
}

impl<'a> Host<'a> {
    pub(crate) fn read(allowed_unsafe_sysctls: &'a [String]) -> Self {
        Self { apparmor: skiff_runtime::apparmor::is_enabled(), allowed_unsafe_sysctls }
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
    let confined =
        |container| !matches!(apparmor::of_container(pod, spec, container), Unspecified | Unconfined);
    if !host.apparmor && spec.init_containers.iter().flatten().chain(&spec.containers).any(confined) {
        return reject("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host".into());
    }
    None
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
        let mut host = Host { apparmor: false, allowed_unsafe_sysctls: &[] };
        let expected = expected.map(|(reason, message)| Waiting {
            reason: reason.into(),
            message: Some(format!("Pod was rejected: {message}")),
        });
        assert_eq!(rejection(&pod, &host), expected);
        // Where the kernel has it, the runtime is asked.
        host.apparmor = true;
        let expected = expected.filter(|why| why.reason != "AppArmor");
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
