//! JSON Web Signature, compact serialization (RFC 7515), with ES256 (RFC 7518 §3.4) and nothing else.
//!
//! What a token's header may choose is only which of our keys signed it: an algorithm other than ES256,
//! `none` above all, makes it no token. Ring does the mathematics; the libraries for JWTs that are well
//! kept would bring a second one along.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, EcdsaKeyPair, UnparsedPublicKey};
use serde::Deserialize;

/// Longer ones are not looked at: headers are limited anyhow, reviews' bodies are not.
const TOKEN_MAX: usize = 64 * 1024;

const ALGORITHM: &str = "ES256";

/// A token taken apart, nothing in it believed yet.
pub(super) struct Parts<'a> {
    pub(super) kid: String,
    pub(super) payload: Vec<u8>,
    signature: Vec<u8>,
    /// Header and payload as they were sent, which the signature is over.
    signed: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    /// Extensions that must be understood; none is.
    crit: Option<serde_json::Value>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(token: &'a str) -> Option<Self> {
        if token.len() > TOKEN_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        if header.alg != ALGORITHM || header.crit.is_some() {
            return None;
        }
        Some(Self { kid: header.kid, payload: decode(payload)?, signature: decode(signature)?, signed })
    }

    pub(super) fn verified_by(&self, public: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)
            .verify(self.signed.as_bytes(), &self.signature)
            .is_ok()
    }
}

/// A token over `payload`. `None` when the system has no randomness.
pub(super) fn sign(payload: &[u8], kid: &str, key: &EcdsaKeyPair) -> Option<String> {
    let header = format!(r#"{{"alg":"{ALGORITHM}","kid":"{kid}"}}"#);
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = key.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Some(token)
}
