//! What a container sees of its volumes, on a real file system.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::*;

struct Maps(BTreeMap<String, ConfigMap>);

impl Sources for Maps {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.0.get(name)
    }

    fn secret(&self, _: &str) -> Option<&Secret> {
        None
    }
}

fn pod(volumes: Value, mounts: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes},
    }))
    .expect("a pod")
}

fn facts(pod: &Pod) -> Facts<'_> {
    let ip = Ipv4Addr::LOCALHOST;
    Facts { pod, pod_ip: None, node_ip: ip, node_cpu_milli: 1_000, node_memory_bytes: 1, node_disk_bytes: 1 }
}

/// What they make of paths of the node they write down in the pod's own directory.
fn set_up(pod_dir: &Path, facts: &Facts<'_>, sources: &impl Sources, part: Part) -> Result<(), Error> {
    super::set_up(pod_dir, facts, sources, part, &MadePaths::new(pod_dir))
}

fn container_mounts(
    pod: &Pod,
    pod_dir: &Path,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<Mount>, Error> {
    super::container_mounts(pod, pod_dir, container, env, &MadePaths::new(pod_dir))
}

fn maps() -> Maps {
    let map = serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).expect("a config map");
    Maps(BTreeMap::from([("m".to_owned(), map)]))
}

#[test]
fn content_has_items_and_modes() {
    let dir = tempfile::tempdir().expect("a directory");
    let pod = pod(
        json!([
            {"name": "a", "configMap": {"name": "m", "defaultMode": 256, "items": [{"key": "k", "path": "x/y"}]}},
            {"name": "b", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "c", "configMap": {"name": "none", "optional": true}},
        ]),
        json!([]),
    );
    set_up(dir.path(), &facts(&pod), &maps(), Part::All).expect("sets up");
    let read = |path: &str| fs::read_to_string(dir.path().join("volumes").join(path)).expect("is there");
    assert_eq!(read("configmap/a/x/y"), "v");
    assert_eq!(read("downward-api/b/labels"), "a=\"b\"");
    let mode =
        fs::metadata(dir.path().join("volumes/configmap/a/x/y")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let check = |volume: Value, expected: &str| {
        let pod = pod(json!([volume]), json!([]));
        let error = set_up(dir.path(), &facts(&pod), &maps(), Part::All).expect_err("it is missing");
        assert_eq!(error.to_string(), format!("MountVolume.SetUp failed for volume \"v\" : {expected}"));
    };
    check(json!({"name": "v", "configMap": {"name": "q"}}), "configmap \"q\" not found");
    check(json!({"name": "v", "secret": {"secretName": "q"}}), "secret \"q\" not found");
    let items = json!([{"key": "z", "path": "z"}]);
    check(
        json!({"name": "v", "configMap": {"name": "m", "items": items}}),
        "references non-existent config key: z",
    );
    let path = dir.path().join("none");
    check(
        json!({"name": "v", "hostPath": {"path": path, "type": "Directory"}}),
        &format!("hostPath type check failed: {} is not a directory", path.display()),
    );
}

#[test]
fn memory_and_sub_paths_are_mounted_and_unmounted() {
    let dir = tempfile::tempdir().expect("a directory");
    let pod_dir = dir.path().join("pod");
    let host = dir.path().join("host");
    fs::create_dir(&host).expect("makes");
    // A link out of the volume must lead nowhere.
    std::os::unix::fs::symlink("/etc", host.join("escape")).expect("links");
    let volumes = json!([
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "h", "hostPath": {"path": host}},
    ]);
    let pod_ok = pod(
        volumes.clone(),
        json!([{"name": "m", "mountPath": "/m"}, {"name": "h", "mountPath": "h", "subPath": "new/dir", "readOnly": true}]),
    );
    set_up(&pod_dir, &facts(&pod_ok), &maps(), Part::All).expect("sets up");
    set_up(&pod_dir, &facts(&pod_ok), &maps(), Part::All).expect("twice is once");
    let container = &pod_ok.spec.as_ref().expect("has one").containers[0];
    let made = container_mounts(&pod_ok, &pod_dir, container, &[]).expect("mounts");
    assert_eq!(made[1].target, Path::new("/h"));
    assert!(made[1].read_only);
    fs::write(made[1].source.join("file"), "x").expect("writes");
    assert!(host.join("new/dir/file").exists());
    let written: Vec<_> = crate::made_paths(&pod_dir).into_iter().map(|own| (own.path, own.whose)).collect();
    let of = |path: &str| (host.join(path), "n/p".to_owned());
    assert_eq!(
        written,
        [of("new"), of("new/dir")],
        "what the subPath made of the node's own is written down"
    );
    let mounted = mounts::mount_points().expect("reads");
    assert_eq!(mounted.iter().filter(|point| point.starts_with(&pod_dir)).count(), 2);

    let escaping = pod(volumes, json!([{"name": "h", "mountPath": "/h", "subPath": "escape/passwd"}]));
    let container = &escaping.spec.as_ref().expect("has one").containers[0];
    container_mounts(&escaping, &pod_dir, container, &[]).expect_err("the volume has no such path");

    tear_down(&pod_dir).expect("tears down");
    assert!(!pod_dir.exists());
    assert!(host.join("new/dir/file").exists(), "the host's files are not ours");
}

struct OneToken;

impl Sources for OneToken {
    fn config_map(&self, _: &str) -> Option<&ConfigMap> {
        None
    }

    fn secret(&self, _: &str) -> Option<&Secret> {
        None
    }

    fn token(&self, wanted: &Wanted) -> Option<&str> {
        (wanted.audience == "a").then_some("secret")
    }
}

#[test]
fn a_token_is_readable_by_those_who_run_in_the_pod() {
    let check = |pod_context: Value, contexts: [Value; 2], mode: u32, owner: (Option<u32>, Option<u32>)| {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "securityContext": pod_context,
            "containers": [
                {"name": "c", "securityContext": contexts[0]},
                {"name": "d", "securityContext": contexts[1]},
            ],
            "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "dir/token", "audience": "a"}},
            ]}}],
        }}))
        .expect("a pod");
        let volume = &pod.spec.as_ref().expect("has one").volumes.as_ref().expect("has them")[0];
        let files = content::files(volume, &facts(&pod), &OneToken).expect("has a token").expect("has files");
        let file = &files["dir/token"];
        assert_eq!(file.bytes, b"secret");
        assert_eq!(
            (file.mode, (file.owner.user, file.owner.group)),
            (mode, owner),
            "{pod_context} {contexts:?}"
        );
    };
    let none = || json!({});
    check(none(), [none(), none()], 0o644, (None, None));
    check(json!({"runAsUser": 7}), [none(), none()], 0o600, (Some(7), None));
    check(json!({"runAsUser": 7}), [json!({"runAsUser": 8}), none()], 0o644, (None, None));
    check(none(), [json!({"runAsUser": 8}), json!({"runAsUser": 8})], 0o600, (Some(8), None));
    check(json!({"fsGroup": 9}), [none(), none()], 0o640, (None, Some(9)));
    check(json!({"fsGroup": 9, "runAsUser": 7}), [none(), none()], 0o640, (Some(7), Some(9)));
}

#[test]
fn volumes_with_tokens_are_made_last_and_their_faults_told_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "a"}});
    let map = |name: &str| json!({"configMap": {"name": name}});
    let with = |sources: Value| pod(json!([{"name": "v", "projected": {"sources": sources}}]), json!([]));
    let made = dir.path().join("volumes/projected/v");

    let lacks = with(json!([token, map("q")]));
    let error = set_up(dir.path(), &facts(&lacks), &maps(), Part::WithoutTokens).expect_err("it is missing");
    assert!(error.to_string().ends_with("configmap \"q\" not found"), "{error}");
    let whole = with(json!([token, map("m")]));
    set_up(dir.path(), &facts(&whole), &maps(), Part::WithoutTokens).expect("nothing is missing");
    assert!(!made.exists());
    let error = set_up(dir.path(), &facts(&whole), &maps(), Part::All).expect_err("no token is there");
    assert!(error.to_string().contains("token"), "{error}");
    set_up(dir.path(), &facts(&with(json!([token]))), &OneToken, Part::All).expect("sets up");
    assert_eq!(fs::read_to_string(made.join("token")).expect("is there"), "secret");
    tear_down(dir.path()).expect("tears down");
}

#[test]
fn mounts_are_read_only_as_far_as_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    for (read_only, recursive, expected, told) in [
        (json!(null), json!(null), (false, false), None),
        (json!(true), json!(null), (true, false), Some("Disabled")),
        (json!(true), json!("Disabled"), (true, false), Some("Disabled")),
        (json!(true), json!("IfPossible"), (true, true), Some("Enabled")),
        (json!(true), json!("Enabled"), (true, true), Some("Enabled")),
        // Validation refuses it; here it does no harm.
        (json!(false), json!("Enabled"), (false, false), None),
    ] {
        let mount =
            json!({"name": "v", "mountPath": "/v", "readOnly": read_only, "recursiveReadOnly": recursive});
        let pod = pod(json!([{"name": "v", "emptyDir": {}}]), json!([mount]));
        let container = &pod.spec.as_ref().expect("has one").containers[0];
        let made = container_mounts(&pod, dir.path(), container, &[]).expect("mounts");
        assert_eq!((made[0].read_only, made[0].recursive_read_only), expected, "{mount}");
        assert_eq!(made[0].name, "v");
        let status = crate::status::mounts(container).expect("mounts");
        assert_eq!(status[0].recursive_read_only.as_deref(), told, "{mount}");
    }
}

#[test]
fn a_directory_in_memory_holds_no_more_than_its_pod_may_have() {
    let check = |limits: &[Option<&str>], own: Option<&str>, expected: Option<u64>| {
        let containers: Vec<_> = limits
            .iter()
            .map(|limit| json!({"name": "c", "resources": {"limits": limit.map(|limit| json!({"memory": limit}))}}))
            .collect();
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
        let source: EmptyDirVolumeSource =
            serde_json::from_value(json!({"medium": "Memory", "sizeLimit": own})).unwrap();
        assert_eq!(memory_size(&pod, &source), expected, "{limits:?} {own:?}");
    };
    check(&[Some("64Mi")], None, Some(64 << 20));
    check(&[Some("64Mi")], Some("1Gi"), Some(64 << 20));
    check(&[Some("64Mi"), Some("64Mi")], Some("100Mi"), Some(100 << 20));
    check(&[Some("64Mi"), None], None, None);
    check(&[None], Some("1Gi"), Some(1 << 30));
    check(&[None], Some("0"), None);
}
