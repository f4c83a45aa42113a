//! The keys that sign and verify tokens: a directory of them, read again when it changes.
//!
//! Each `NAME.key` is a P-256 private key (PKCS #8, PEM). The one whose name sorts last signs, all
//! verify. So keys are rotated without a restart: put a new one there, with a later name (keys made here
//! are named by the time), and take the old one away when the tokens that it signed have ended:
//!
//! ```text
//! openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$(date -u +%Y%m%dT%H%M%SZ).key"
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::jws;
use crate::clock;
use crate::pki::{PkiError, write_private};

/// How old the list of keys may be for verifying. Signing always looks.
const FRESH: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot keep a new signing key")]
    Write(#[from] PkiError),
    #[error("{path} holds no P-256 private key in PKCS #8")]
    Invalid { path: PathBuf },
    #[error("cannot make a signing key")]
    Make(#[from] rcgen::Error),
    #[error("there is no key to sign with")]
    None,
    #[error("the system has no randomness to sign with")]
    Sign,
}

struct Key {
    /// Of its file; empty for a key that is in no file.
    name: String,
    /// SHA-256 of the public key's DER, base64url, as upstream names keys.
    kid: String,
    /// The uncompressed point.
    public: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl Key {
    fn of(name: &str, pair: &KeyPair) -> Option<Self> {
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info()));
        let der = pair.serialize_der();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new()).ok()?;
        Some(Self { name: name.to_owned(), kid, public: pair.der_bytes().to_vec(), pair: key })
    }
}

/// The keys of one moment, by name.
pub(crate) struct Ring(Vec<Arc<Key>>);

impl Ring {
    pub(super) fn holds(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid == kid)
    }

    pub(super) fn verifies(&self, parts: &jws::Parts<'_>) -> bool {
        self.0.iter().any(|key| key.kid == parts.kid && parts.verified_by(&key.public))
    }

    pub(super) fn sign(&self, payload: &[u8]) -> Result<String, KeysError> {
        let key = self.0.last().ok_or(KeysError::None)?;
        jws::sign(payload, &key.kid, &key.pair).ok_or(KeysError::Sign)
    }

    /// Identifier and point of each key.
    pub(crate) fn public(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|key| (key.kid.as_str(), key.public.as_slice()))
    }
}

/// The keys as they are now.
pub(crate) struct Keys {
    /// `None`: keys of this process alone.
    dir: Option<PathBuf>,
    state: Mutex<(Instant, Arc<Ring>)>,
}

impl Keys {
    /// The keys of a directory; a first one is made.
    pub(crate) fn open(dir: &Path) -> Result<Self, KeysError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| KeysError::Write(PkiError::Write { path: dir.into(), source }))?;
        if names(dir)?.is_empty() {
            let time = clock::rfc3339(clock::now()).replace(['-', ':'], "");
            write_private(&dir.join(format!("{time}.key")), &KeyPair::generate()?.serialize_pem())?;
        }
        let ring = load(dir, &names(dir)?, &Ring(Vec::new()))?;
        Ok(Self { dir: Some(dir.into()), state: Mutex::new((Instant::now(), Arc::new(ring))) })
    }

    /// One key, which is gone with this process.
    pub(crate) fn ephemeral() -> Result<Self, KeysError> {
        let key = Key::of("", &KeyPair::generate()?).ok_or(KeysError::None)?;
        Ok(Self { dir: None, state: Mutex::new((Instant::now(), Arc::new(Ring(vec![Arc::new(key)])))) })
    }

    /// The keys as they were a few seconds ago at most.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        let (read_at, ring) = self.state.lock().clone();
        if read_at.elapsed() < FRESH { ring } else { self.refreshed() }
    }

    /// The keys as they are.
    pub(crate) fn refreshed(&self) -> Arc<Ring> {
        let mut state = self.state.lock();
        let Some(dir) = &self.dir else { return Arc::clone(&state.1) };
        let found = names(dir).and_then(|found| {
            let same = found.iter().eq(state.1.0.iter().map(|key| &key.name));
            if same { Ok(None) } else { load(dir, &found, &state.1).map(Some) }
        });
        match found {
            Ok(None) => {}
            Ok(Some(ring)) => {
                tracing::info!(keys = ring.0.len(), "the signing keys for tokens have changed");
                state.1 = Arc::new(ring);
            }
            // Better the keys known than none.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot read signing keys")
            }
        }
        state.0 = Instant::now();
        Arc::clone(&state.1)
    }
}

fn names(dir: &Path) -> Result<Vec<String>, KeysError> {
    let fault = |source| KeysError::Read { path: dir.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".key") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn load(dir: &Path, names: &[String], known: &Ring) -> Result<Ring, KeysError> {
    let read = |name: &String| {
        if let Some(key) = known.0.iter().find(|key| key.name == *name) {
            return Ok(Arc::clone(key));
        }
        let path = dir.join(name);
        let pem =
            fs::read_to_string(&path).map_err(|source| KeysError::Read { path: path.clone(), source })?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok();
        let pair = der.and_then(|der| KeyPair::try_from(&der).ok());
        pair.and_then(|pair| Key::of(name, &pair)).map(Arc::new).ok_or(KeysError::Invalid { path })
    };
    Ok(Ring(names.iter().map(read).collect::<Result<_, _>>()?))
}
