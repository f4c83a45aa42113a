//! Only volumes that are of the API, or claimed.

use serde_json::Value;

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, plural, quoted};

const ALLOWED: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const KNOWN: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn is_one_of(volume: &Value, kinds: &[&'static str]) -> Option<&'static str> {
    kinds.iter().find(|kind| volume[**kind].is_object()).copied()
}

pub(super) fn check(pod: Pod<'_>) -> Found {
    let mut names = Vec::new();
    let mut kinds = Values::new();
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        if is_one_of(volume, ALLOWED).is_some() {
            continue;
        }
        names.push(volume["name"].as_str().unwrap_or_default());
        kinds.insert(is_one_of(volume, KNOWN).unwrap_or("unknown").to_owned());
    }
    if names.is_empty() {
        return None;
    }
    let volumes = plural("volume", "volumes", names.len());
    let uses = plural("uses", "use", names.len());
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    Some((
        "restricted volume types".to_owned(),
        format!("{volumes} {} {uses} {what} {}", quoted(names), quoted(kinds)),
    ))
}
