//! The cluster's own encryption configuration: made at the first start, beside the certificate authority.
//!
//! It is a file of upstream's format with one AES-GCM key for Secrets, readable by its owner only. A new
//! key goes in front of the others: it encrypts, and all of them decrypt. Keys are random and their
//! nonces are, too, so one key should not encrypt more than 2³² times (NIST SP 800-38D, 8.3).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cipher::random;
use super::configuration::{API_VERSION, KIND};
use crate::private_file;

const FILE: &str = "encryption-config.yaml";

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no YAML")]
    Yaml {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("{path} does not have AES-GCM keys for secrets as its first provider: add a key by hand")]
    Shape { path: PathBuf },
}

/// Where the file is, given the directory of the certificate authority.
pub fn key_file(pki_dir: &Path) -> PathBuf {
    pki_dir.join(FILE)
}

/// The cluster's own configuration, made if there is none.
pub fn open_or_make(pki_dir: &Path) -> Result<Value, KeyFileError> {
    if let Some(found) = open(pki_dir)? {
        return Ok(found);
    }
    let made = json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "resources": [{
            "resources": ["secrets"],
            "providers": [{"aesgcm": {"keys": [new_key()]}}, {"identity": {}}],
        }],
    });
    write(&key_file(pki_dir), &made)?;
    Ok(made)
}

/// The cluster's own configuration, if it has one.
pub fn open(pki_dir: &Path) -> Result<Option<Value>, KeyFileError> {
    let path = key_file(pki_dir);
    match fs::read_to_string(&path) {
        Ok(text) => {
            serde_yaml_ng::from_str(&text).map(Some).map_err(|source| KeyFileError::Yaml { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyFileError::Read { path, source }),
    }
}

/// Puts a new key before the others. What they have encrypted is encrypted anew when a server starts.
pub fn rotate(pki_dir: &Path) -> Result<(), KeyFileError> {
    let path = key_file(pki_dir);
    let mut document = open_or_make(pki_dir)?;
    let keys = document.pointer_mut("/resources/0/providers/0/aesgcm/keys").and_then(Value::as_array_mut);
    let Some(keys) = keys else { return Err(KeyFileError::Shape { path }) };
    keys.insert(0, new_key());
    write(&path, &document)
}

/// A key that is named by its own hash: another one never has the same name.
fn new_key() -> Value {
    let key = random::<32>();
    let hash = Sha256::digest(key);
    let name: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"name": format!("key-{name}"), "secret": STANDARD.encode(key)})
}

fn write(path: &Path, document: &Value) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Write { path: path.into(), source };
    let text = serde_yaml_ng::to_string(document)
        .map_err(|source| KeyFileError::Yaml { path: path.into(), source })?;
    private_file::write_durably(path, text.as_bytes()).map_err(failed)
}
