//! No directory of the host's.

use super::Found;
use crate::pod::Pod;
use crate::wording::{plural, quoted};

pub(super) fn check(pod: Pod<'_>) -> Found {
    let names: Vec<&str> = pod.spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| volume["hostPath"].is_object())
        .map(|volume| volume["name"].as_str().unwrap_or_default())
        .collect();
    let detail = || format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    (!names.is_empty()).then(|| ("hostPath volumes".to_owned(), detail()))
}
