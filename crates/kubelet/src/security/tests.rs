//! What comes out of the two contexts together, as a table.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn made(of_pod: Value, own: Value, image_user: &str) -> Result<Security, String> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}
    }))
    .expect("a pod");
    let spec = pod.spec.as_ref().expect("a specification");
    let defaults = Defaults { seccomp_dir: Path::new("/agent/seccomp"), seccomp_default: false };
    of_container(&pod, spec, &spec.containers[0], image_user, &defaults)
}

/// `user[:group] [supplemental groups]`
fn who(of_pod: Value, own: Value, image_user: &str) -> String {
    match made(of_pod, own, image_user) {
        Ok(made) => {
            let group = made.group.map(|group| format!(":{group}")).unwrap_or_default();
            let strict = if made.strict_groups { " strict" } else { "" };
            format!("{}{group} {:?}{strict}", made.user.expect("always given"), made.supplemental_groups)
        }
        Err(message) => message,
    }
}

#[test]
fn users_and_groups_of_container_over_pod_over_image() {
    let cases = [
        (json!({}), json!({}), "", "0 []"),
        (json!({}), json!({}), "web:logs", "web []"),
        (json!({}), json!({}), "1000:2000", "1000 []"),
        (json!({"runAsUser": 7}), json!({}), "web", "7 []"),
        (json!({"runAsUser": 7, "runAsGroup": 8}), json!({"runAsUser": 0}), "web", "0:8 []"),
        (json!({"runAsGroup": 8}), json!({"runAsGroup": 9}), "web", "web:9 []"),
        (
            json!({"fsGroup": 5, "supplementalGroups": [6, 7], "supplementalGroupsPolicy": "Strict"}),
            json!({}),
            "",
            "0 [5, 6, 7] strict",
        ),
        (json!({"supplementalGroupsPolicy": "Merge"}), json!({}), "", "0 []"),
    ];
    for (of_pod, own, image, expected) in cases {
        assert_eq!(who(of_pod.clone(), own.clone(), image), expected, "{of_pod} {own} {image}");
    }
}

#[test]
fn non_root_is_verified_in_upstreams_words() {
    let place = "(pod: \"p_n(u)\", container: c)";
    let cases = [
        (
            json!({"runAsNonRoot": true}),
            json!({}),
            "",
            "container has runAsNonRoot and image will run as root ",
        ),
        (
            json!({"runAsNonRoot": true}),
            json!({}),
            "0:5",
            "container has runAsNonRoot and image will run as root ",
        ),
        (
            json!({}),
            json!({"runAsNonRoot": true}),
            "web:33",
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root ",
        ),
        (
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            json!({}),
            "1000",
            "container's runAsUser breaks non-root policy ",
        ),
        (
            json!({"runAsNonRoot": true}),
            json!({}),
            "-5",
            "container has runAsNonRoot and image has an invalid user id (-5). (Must be 1-(2147483647)): must be between 0 and 2147483647, inclusive ",
        ),
    ];
    for (of_pod, own, image, expected) in cases {
        assert_eq!(made(of_pod, own, image).unwrap_err(), format!("{expected}{place}"));
    }
    for (of_pod, own, image) in [
        (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), ""),
        (json!({"runAsNonRoot": true}), json!({"runAsUser": 5}), "root"),
        (json!({"runAsNonRoot": true}), json!({}), "1000:0"),
        (json!({"runAsNonRoot": false}), json!({}), "web"),
    ] {
        made(of_pod, own, image).expect("it runs");
    }
}

#[test]
fn what_only_a_container_says() {
    let made = made(
        json!({}),
        json!({"privileged": true, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": true, "procMount": "Default"}),
        "",
    )
    .expect("it is allowed");
    assert!(made.privileged && made.read_only_rootfs && made.unmasked_proc && !made.no_new_privileges);
    assert_eq!(
        (made.capabilities_add, made.capabilities_drop),
        (vec!["NET_ADMIN".into()], vec!["ALL".into()])
    );
    let own = |context: Value| super::tests::made(json!({}), context, "").expect("it is allowed");
    assert!(own(json!({"procMount": "Unmasked"})).unmasked_proc);
    assert!(own(json!({"allowPrivilegeEscalation": false})).no_new_privileges);
    let plain = own(json!({}));
    assert!(!plain.unmasked_proc && !plain.no_new_privileges && !plain.read_only_rootfs);
}

#[test]
fn seccomp_of_container_over_pod_over_node() {
    let of = |of_pod: Value, own: Value| {
        made(json!({"seccompProfile": of_pod}), json!({"seccompProfile": own}), "").map(|made| made.seccomp)
    };
    let kind = |kind: &str| json!({"type": kind});
    let local = |path: &str| json!({"type": "Localhost", "localhostProfile": path});
    assert_eq!(of(Value::Null, Value::Null), Ok(Seccomp::Unconfined));
    assert_eq!(of(kind("RuntimeDefault"), Value::Null), Ok(Seccomp::RuntimeDefault));
    assert_eq!(of(kind("RuntimeDefault"), kind("Unconfined")), Ok(Seccomp::Unconfined));
    assert_eq!(
        of(kind("RuntimeDefault"), local("a/b.json")),
        Ok(Seccomp::Profile(PathBuf::from("/agent/seccomp/a/b.json")))
    );
    assert_eq!(
        of(kind("Localhost"), Value::Null),
        Err("localhostProfile must be set if seccompProfile type is Localhost.".into())
    );
    for path in ["/etc/x", "../x", "a/../../x"] {
        assert!(of(local(path), Value::Null).is_err(), "{path}");
    }
    let pod = Pod::default();
    let defaults = Defaults { seccomp_dir: Path::new("/"), seccomp_default: true };
    let made = of_container(&pod, &PodSpec::default(), &Container::default(), "", &defaults);
    assert_eq!(made.map(|made| made.seccomp), Ok(Seccomp::RuntimeDefault));
}
