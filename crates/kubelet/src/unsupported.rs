//! What a pod may ask for and this agent doesn't do yet: one table.
//!
//! The API admits such a pod; here its containers wait in `CreateContainerConfigError` with a message
//! that names the field, so that nothing is ever ignored silently.

use k8s_openapi::api::core::v1::{Container, PodSpec, ProjectedVolumeSource, Volume};
use serde_json::Value;

/// Fields of the pod's specification, as paths in its JSON form. `*` is each item of a list.
const POD: &[&str] = &[
    "ephemeralContainers",
    "readinessGates",
    "resourceClaims",
    "resources",
    "runtimeClassName",
    "volumes.*.awsElasticBlockStore",
    "volumes.*.azureDisk",
    "volumes.*.azureFile",
    "volumes.*.cephfs",
    "volumes.*.cinder",
    "volumes.*.csi",
    "volumes.*.ephemeral",
    "volumes.*.fc",
    "volumes.*.flexVolume",
    "volumes.*.flocker",
    "volumes.*.gcePersistentDisk",
    "volumes.*.gitRepo",
    "volumes.*.glusterfs",
    "volumes.*.image",
    "volumes.*.iscsi",
    "volumes.*.nfs",
    "volumes.*.persistentVolumeClaim",
    "volumes.*.photonPersistentDisk",
    "volumes.*.portworxVolume",
    "volumes.*.projected.sources.*.clusterTrustBundle",
    "volumes.*.projected.sources.*.podCertificate",
    "volumes.*.quobyte",
    "volumes.*.rbd",
    "volumes.*.scaleIO",
    "volumes.*.storageos",
    "volumes.*.vsphereVolume",
];

/// Fields of a container.
const CONTAINER: &[&str] = &[
    "env.*.valueFrom.fileKeyRef",
    "lifecycle",
    "livenessProbe.grpc",
    "readinessProbe.grpc",
    "resources.claims",
    "startupProbe.grpc",
    "volumeDevices",
];

/// Why a container of this pod can't be created here, naming the first field that stands in the way.
pub(crate) fn unsupported(spec: &PodSpec, container: &Container) -> Option<String> {
    let field = pod_field(spec).or_else(|| {
        let list = if spec.containers.iter().any(|each| each.name == container.name) {
            ("containers", &spec.containers)
        } else {
            ("initContainers", spec.init_containers.as_ref()?)
        };
        let index = list.1.iter().position(|each| each.name == container.name)?;
        container_field(container).map(|field| format!("{}[{index}].{field}", list.0))
    })?;
    Some(format!("spec.{field} is not supported by this version of Skiff"))
}

fn pod_field(spec: &PodSpec) -> Option<String> {
    if let Some(field) = huge_pages(spec).or_else(|| sidecar(spec)) {
        return Some(field);
    }
    // The walk is over JSON, so that a field is one line above; most pods use none and skip it.
    let plain = spec.affinity.is_none()
        && spec.volumes.iter().flatten().all(is_known)
        && spec.ephemeral_containers.is_none()
        && spec.readiness_gates.is_none()
        && spec.resource_claims.is_none()
        && spec.resources.is_none()
        && spec.runtime_class_name.is_none();
    if plain {
        return None;
    }
    first(&serde_json::to_value(spec).ok()?, POD)
}

/// A volume of a kind that this agent makes; it has one source only.
fn is_known(volume: &Volume) -> bool {
    let projected = |source: &ProjectedVolumeSource| {
        let mut parts = source.sources.iter().flatten();
        parts.all(|part| part.cluster_trust_bundle.is_none() && part.pod_certificate.is_none())
    };
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.projected.as_ref().is_some_and(projected)
}

fn container_field(container: &Container) -> Option<String> {
    first(&serde_json::to_value(container).ok()?, CONTAINER).or_else(|| restart_of_all(container))
}

// Values, not fields, that ask for too much.

fn huge_pages(spec: &PodSpec) -> Option<String> {
    let huge = |medium: &str| medium.starts_with("HugePages");
    let index = spec.volumes.iter().flatten().position(|volume| {
        volume.empty_dir.as_ref().and_then(|volume| volume.medium.as_deref()).is_some_and(huge)
    })?;
    Some(format!("volumes[{index}].emptyDir.medium"))
}

/// An init container that runs on beside the others.
fn sidecar(spec: &PodSpec) -> Option<String> {
    let mut inits = spec.init_containers.iter().flatten();
    let index = inits.position(|init| init.restart_policy.as_deref() == Some("Always"))?;
    Some(format!("initContainers[{index}].restartPolicy"))
}

/// A rule by which the end of one container restarts all.
fn restart_of_all(container: &Container) -> Option<String> {
    let index = container.restart_policy_rules.iter().flatten().position(|rule| rule.action != "Restart")?;
    Some(format!("restartPolicyRules[{index}].action"))
}

fn first(object: &Value, table: &[&str]) -> Option<String> {
    table.iter().find_map(|path| find(object, path, String::new()))
}

/// The concrete path of the first non-empty value at `path`.
fn find(value: &Value, path: &str, at: String) -> Option<String> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    if head == "*" {
        return value.as_array()?.iter().enumerate().find_map(|(index, item)| {
            let at = format!("{at}[{index}]");
            rest.map_or_else(|| is_set(item).then(|| at.clone()), |rest| find(item, rest, at.clone()))
        });
    }
    let next = value.get(head)?;
    let at = if at.is_empty() { head.to_owned() } else { format!("{at}.{head}") };
    match rest {
        Some(rest) => find(next, rest, at),
        None => is_set(next).then_some(at),
    }
}

/// `false` is a value too: `runAsNonRoot: false` is answered, not skipped. Empty lists and objects ask
/// for nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, expected: Option<&str>) {
        let spec: PodSpec = serde_json::from_value(spec).expect("a pod specification");
        assert_eq!(unsupported(&spec, &spec.containers[0]).as_deref(), expected);
    }

    #[test]
    fn names_the_field() {
        use serde_json::json;
        check(json!({"containers": [{"name": "a"}], "securityContext": {}}), None);
        check(
            json!({"containers": [{"name": "a"}], "runtimeClassName": "x"}),
            Some("spec.runtimeClassName is not supported by this version of Skiff"),
        );
        check(
            json!({"containers": [{"name": "a", "volumeDevices": [{"name": "d", "devicePath": "/d"}]}]}),
            Some("spec.containers[0].volumeDevices is not supported by this version of Skiff"),
        );
        check(
            json!({"containers": [{"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}}]}),
            None,
        );
        check(
            json!({"containers": [{"name": "a"}], "volumes": [{"name": "x", "emptyDir": {}}, {"name": "v", "nfs": {"server": "s", "path": "/"}}]}),
            Some("spec.volumes[1].nfs is not supported by this version of Skiff"),
        );
        check(
            json!({"containers": [{"name": "a", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}),
            Some("spec.containers[0].lifecycle is not supported by this version of Skiff"),
        );
        for (field, value) in [
            ("readinessGates", json!([{"conditionType": "example.org/ready"}])),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("resourceClaims", json!([{"name": "x", "resourceClaimName": "y"}])),
        ] {
            let expected = format!("spec.{field} is not supported by this version of Skiff");
            check(json!({"containers": [{"name": "a"}], field: value}), Some(&expected));
        }
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let expected =
                format!("spec.containers[0].{probe}.grpc is not supported by this version of Skiff");
            check(json!({"containers": [{"name": "a", probe: {"grpc": {"port": 80}}}]}), Some(&expected));
        }
        let rule = |action: &str| json!({"action": action, "exitCodes": {"operator": "In", "values": [1]}});
        let ruled = |action: &str| json!({"containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": [rule("Restart"), rule(action)]}]});
        check(ruled("Restart"), None);
        check(
            ruled("RestartAllContainers"),
            Some("spec.containers[0].restartPolicyRules[1].action is not supported by this version of Skiff"),
        );
        let after = |policy: &str| json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j", "restartPolicy": policy}]});
        check(after("OnFailure"), None);
        check(
            after("Always"),
            Some("spec.initContainers[1].restartPolicy is not supported by this version of Skiff"),
        );
    }

    #[test]
    fn of_volumes_the_odd_parts_are_named() {
        use serde_json::json;
        let volume = |volume: Value, expected: Option<&str>| {
            let expected = expected
                .map(|field| format!("spec.volumes[0].{field} is not supported by this version of Skiff"));
            check(json!({"containers": [{"name": "a"}], "volumes": [volume]}), expected.as_deref());
        };
        for known in ["configMap", "secret", "downwardAPI", "emptyDir"] {
            volume(json!({"name": "v", known: {}}), None);
        }
        volume(json!({"name": "v", "hostPath": {"path": "/"}}), None);
        volume(json!({"name": "v", "emptyDir": {"medium": "Memory"}}), None);
        volume(json!({"name": "v", "emptyDir": {"medium": "HugePages-2Mi"}}), Some("emptyDir.medium"));
        let projected =
            |part: Value| json!({"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}, part]}});
        volume(projected(json!({"configMap": {"name": "m"}})), None);
        volume(
            projected(json!({"clusterTrustBundle": {"path": "p"}})),
            Some("projected.sources[1].clusterTrustBundle"),
        );
        volume(
            projected(json!({"podCertificate": {"signerName": "s", "keyType": "ED25519"}})),
            Some("projected.sources[1].podCertificate"),
        );
    }

    #[test]
    fn nothing_has_several_forms() {
        use serde_json::json;
        for nothing in [json!(null), json!([]), json!({}), json!("")] {
            assert!(!is_set(&nothing), "{nothing}");
        }
        for something in [json!(false), json!(0), json!([null]), json!({"a": null}), json!(" ")] {
            assert!(is_set(&something), "{something}");
        }
    }
}
