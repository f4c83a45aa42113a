//! What pods ask of the kernel's protections: its parameters, and profiles of AppArmor in both forms.

use serde_json::{Value, json};

use super::pods::spec;
use super::{check, pod};

#[test]
fn sysctls_of_what_is_the_nodes_are_refused() {
    let sysctl = |name: &str, shared: &str| json!({shared: true, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    let refused = |name: &str, field: &str| {
        format!(
            "spec.securityContext.sysctls[0].name: Invalid value: \"{name}\": may not be specified when '{field}' \
             is true"
        )
    };
    spec(&[
        (
            sysctl("net.ipv4.tcp_syncookies", "hostNetwork"),
            &refused("net.ipv4.tcp_syncookies", "hostNetwork"),
        ),
        (
            sysctl("net/ipv4/tcp_syncookies", "hostNetwork"),
            &refused("net/ipv4/tcp_syncookies", "hostNetwork"),
        ),
        (sysctl("kernel.shm_rmid_forced", "hostIPC"), &refused("kernel.shm_rmid_forced", "hostIPC")),
        (sysctl("kernel.sem", "hostIPC"), &refused("kernel.sem", "hostIPC")),
        (sysctl("kernel.shm_rmid_forced", "hostNetwork"), ""),
        (sysctl("net.ipv4.tcp_syncookies", "hostIPC"), ""),
    ]);
}

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A pod of the containers `i` (init) and `a`, with an annotation for the one of this name.
fn confined(name: &str, annotation: &str, of_pod: Value, of_container: Value) -> Value {
    let mut object = pod(json!({"securityContext": of_pod, "initContainers": [{"name": "i", "image": "b"}],
        "containers": [{"name": "a", "image": "b", "securityContext": of_container}]}));
    object["metadata"]["annotations"] = json!({format!("{APPARMOR}{name}"): annotation});
    object
}

#[test]
fn profiles_of_apparmor_are_annotated_for_containers_that_are_there() {
    for annotation in ["", "unconfined", "runtime/default", "localhost/mine"] {
        for name in ["a", "i"] {
            check("Pod", &confined(name, annotation, json!({}), json!({})), &[]);
        }
    }
    let place = |name: &str| format!("metadata.annotations[{APPARMOR}{name}]: Invalid value:");
    check(
        "Pod",
        &confined("x", "unconfined", json!({}), json!({})),
        &[&format!("{} \"x\": container not found", place("x"))],
    );
    let unknown = format!("{} \"mine\": invalid AppArmor profile name: \"mine\"", place("a"));
    check("Pod", &confined("a", "mine", json!({}), json!({})), &[&unknown]);
    // Of templates, too.
    let mut template = confined("a", "mine", json!({}), json!({}));
    template["metadata"]["labels"] = json!({"a": "b"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    check("Deployment", &deployment, &[&format!("spec.template.{unknown}")]);
}

#[test]
fn annotation_and_field_ask_for_one_profile() {
    let place = "spec.containers[0].securityContext.appArmorProfile";
    let kind = format!("{place}.type: Forbidden: apparmor type in annotation and field must match");
    let name =
        format!("{place}.localhostProfile: Forbidden: apparmor profile in annotation and field must match");
    let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
    let local = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}});
    for (annotation, field, expected) in [
        ("unconfined", profile("Unconfined"), ""),
        ("runtime/default", profile("Unconfined"), &*kind),
        ("runtime/default", profile("RuntimeDefault"), ""),
        ("unconfined", profile("RuntimeDefault"), &kind),
        ("localhost/mine", local.clone(), ""),
        ("localhost/other", local.clone(), &name),
        ("unconfined", local.clone(), &kind),
    ] {
        let expected: Vec<&str> = Some(expected).filter(|text| !text.is_empty()).into_iter().collect();
        check("Pod", &confined("a", annotation, json!({}), field.clone()), &expected);
        check("Pod", &confined("a", annotation, field, json!({})), &expected);
    }
    // The container's own field counts before the pod's.
    check("Pod", &confined("a", "localhost/mine", profile("Unconfined"), local), &[]);
    let mut windows = confined("a", "runtime/default", json!({}), profile("Unconfined"));
    windows["spec"]["os"] = json!({"name": "windows"});
    let refused =
        "spec.containers[0].securityContext.appArmorProfile: Forbidden: cannot be set for a windows pod";
    check("Pod", &windows, &[refused]);
}
