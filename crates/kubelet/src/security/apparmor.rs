//! Which AppArmor profile a container asks for: by its own field, by the annotation that came before it, or by
//! its pod's field.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSpec};
use skiff_runtime::AppArmor;

const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(crate) fn of_container(pod: &Pod, spec: &PodSpec, container: &Container) -> AppArmor {
    let own = container.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref());
    let of_pod = spec.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref());
    let annotations = pod.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|all| all.get(&format!("{ANNOTATION}{}", container.name)));
    own.map(of_field)
        .or_else(|| annotation.map(|text| of_annotation(text)))
        .or_else(|| of_pod.map(of_field))
        .unwrap_or_default()
}

/// The API refuses other types, and a profile without a name.
fn of_field(profile: &AppArmorProfile) -> AppArmor {
    match profile.type_.as_str() {
        "Unconfined" => AppArmor::Unconfined,
        "Localhost" => AppArmor::Profile(profile.localhost_profile.clone().unwrap_or_default()),
        _ => AppArmor::RuntimeDefault,
    }
}

fn of_annotation(text: &str) -> AppArmor {
    match text.strip_prefix("localhost/") {
        Some(name) => AppArmor::Profile(name.to_owned()),
        None if text == "unconfined" => AppArmor::Unconfined,
        None => AppArmor::RuntimeDefault,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_nearest_wins() {
        let named = || AppArmor::Profile("mine".into());
        let field = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        let local = || json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}});
        let none = || json!({});
        for (of_pod, annotation, own, expected) in [
            (none(), "", none(), AppArmor::Unspecified),
            (field("RuntimeDefault"), "", none(), AppArmor::RuntimeDefault),
            (local(), "", none(), named()),
            (local(), "unconfined", none(), AppArmor::Unconfined),
            (local(), "runtime/default", none(), AppArmor::RuntimeDefault),
            (none(), "localhost/mine", none(), named()),
            (field("RuntimeDefault"), "runtime/default", field("Unconfined"), AppArmor::Unconfined),
            (field("Unconfined"), "", local(), named()),
        ] {
            let annotations: Value = match annotation {
                "" => json!({}),
                text => json!({format!("{ANNOTATION}c"): text}),
            };
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"annotations": annotations},
                "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]},
            }))
            .expect("a pod");
            let spec = pod.spec.as_ref().expect("a specification");
            assert_eq!(of_container(&pod, spec, &spec.containers[0]), expected, "{annotation} {spec:?}");
        }
    }
}
