//! What the agent writes on sandboxes and containers, so that it knows them again after a restart.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_runtime as runtime;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Which attempt this is, from 0; a container's is its pod's restart count.
pub(crate) const ATTEMPT: &str = "skiff.attempt";
/// Of the part of a container's definition that may change in a running pod.
pub(crate) const SPEC_HASH: &str = "skiff.spec-hash";
/// The pod's grace period in seconds, for when its object is gone.
pub(crate) const GRACE: &str = "skiff.grace-seconds";
/// What the status calls the image and its digest.
pub(crate) const IMAGE: &str = "skiff.image";
pub(crate) const IMAGE_ID: &str = "skiff.image-id";
/// The node's copy of the termination message, and whether logs stand in for it.
pub(crate) const MESSAGE_PATH: &str = "skiff.message-path";
pub(crate) const MESSAGE_FROM_LOGS: &str = "skiff.message-from-logs";

/// The scheme before `://` in container IDs and in the node's runtime version.
pub(crate) const SCHEME: &str = "skiff";

/// Labels of anything that belongs to a pod.
pub(crate) fn of_pod(pod: &Pod, attempt: u32) -> BTreeMap<String, String> {
    let metadata = &pod.metadata;
    BTreeMap::from([
        (POD_NAME.into(), metadata.name.clone().unwrap_or_default()),
        (POD_NAMESPACE.into(), metadata.namespace.clone().unwrap_or_default()),
        (POD_UID.into(), metadata.uid.clone().unwrap_or_default()),
        (ATTEMPT.into(), attempt.to_string()),
        (GRACE.into(), grace_seconds(pod).to_string()),
    ])
}

/// The grace period that the pod itself asks for. A negative one is a second, as for whoever deletes the pod.
pub(crate) fn grace_seconds(pod: &Pod) -> u64 {
    let asked = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    asked.map_or(30, |seconds| u64::try_from(seconds).unwrap_or(1))
}

pub(crate) fn attempt(labels: &BTreeMap<String, String>) -> u32 {
    labels.get(ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(crate) fn uid(labels: &BTreeMap<String, String>) -> &str {
    labels.get(POD_UID).map_or("", String::as_str)
}

/// The pod's name for a container; the runtime's own is unique and longer.
pub(crate) fn container_name(container: &runtime::Container) -> &str {
    container.labels.get(CONTAINER_NAME).map_or("", String::as_str)
}

/// A change of this means: stop the container and start it anew. The image is all that may change.
pub(crate) fn spec_hash(container: &Container) -> String {
    // Written to disk and compared after upgrades, so its algorithm may not change: FNV-1a.
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    container.name.hash(&mut hash);
    container.image.hash(&mut hash);
    format!("{:016x}", hash.finish())
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_grace_period_is_a_second() {
        for (asked, expected) in [(None, 30), (Some(-1), 1), (Some(i64::MIN), 1), (Some(0), 0), (Some(5), 5)]
        {
            let spec = k8s_openapi::api::core::v1::PodSpec {
                termination_grace_period_seconds: asked,
                ..Default::default()
            };
            let pod = Pod { spec: Some(spec), ..Pod::default() };
            assert_eq!(grace_seconds(&pod), expected, "{asked:?}");
        }
    }

    #[test]
    fn the_hash_of_a_definition_stays_what_it_is_from_version_to_version() {
        let of = |image: Option<&str>| {
            let image = image.map(str::to_owned);
            spec_hash(&Container { name: "c".into(), image, ..Container::default() })
        };
        // FNV-1a, 64 bits: the name, whether there is an image, and the image.
        assert_eq!(of(Some("web:1")), "29c0723b0c93d256");
        assert_eq!(of(None), "b8fdec8a1fad3bf7");
    }
}
