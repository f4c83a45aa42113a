//! The JSON files by which one of the platform's processes tells another, or itself of later, what it needs
//! to know.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skiff_apiserver::private_file;

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let bytes =
        serde_json::to_vec_pretty(value).with_context(|| format!("cannot encode {}", path.display()))?;
    private_file::write(path, &bytes).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("cannot parse {}", path.display()))
}
