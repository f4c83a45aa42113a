//! Tokens of service accounts: signed JSON Web Tokens, bound to objects that exist.
//!
//! [`Tokens::issue`] signs, [`Tokens::verify`] tells whose a token is. A signature is checked when a token
//! is seen first; whether the token holds *now* (time, audience, the account and the objects that it is
//! bound to) is checked at every request against the watch caches, so that a token dies with its pod.

mod claims;
pub(crate) mod discovery;
mod jws;
mod keys;
pub(crate) mod request;
mod validate;
mod verified;

use std::sync::Arc;

use claims::{Claims, Reference};
pub(crate) use keys::Keys;
pub use keys::KeysError;
pub(crate) use validate::{INVALID_SINCE, Invalid, Kind, Lookup, Present, Validated};
use verified::{Verified, VerifiedTokens};

use crate::auth::Identity;

/// Signs and verifies; one for a server.
pub(crate) struct Tokens {
    keys: Keys,
    issuer: Arc<str>,
    verified: VerifiedTokens,
}

impl Tokens {
    pub(crate) fn new(keys: Keys, issuer: &str) -> Self {
        Self { keys, issuer: issuer.into(), verified: VerifiedTokens::default() }
    }

    /// Also the one audience of the API itself.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A token that says `claims`.
    fn issue(&self, claims: &Claims) -> Result<String, KeysError> {
        let payload = serde_json::to_vec(claims).expect("claims can be written to memory");
        self.keys.refreshed().sign(&payload)
    }

    /// A token of an account (name, UID) that is good as long as a Secret holds it.
    pub(crate) fn issue_kept(
        &self,
        namespace: &str,
        (name, uid): (&str, &str),
        secret: &str,
    ) -> Result<String, KeysError> {
        self.issue(&Claims::legacy(namespace, Reference::new(name, uid), secret))
    }

    /// Whose token it is and which of `audiences` it is for; `None` when it is none of this issuer's.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[&str],
        now: i64,
        objects: &dyn Lookup,
    ) -> Result<Option<Validated>, Invalid> {
        let Some(verified) = self.verified(token)? else { return Ok(None) };
        let audiences = validate::audiences(&verified.claims, &self.issuer, audiences)?;
        validate::in_time(&verified.claims, now)?;
        validate::still_bound(&verified, token, now, objects)?;
        Ok(Some(Validated { identity: verified.identity.clone(), audiences }))
    }

    /// The claims of a token whose signature holds.
    fn verified(&self, token: &str) -> Result<Option<Arc<Verified>>, Invalid> {
        let ring = self.keys.ring();
        let digest = verified::digest(token);
        if let Some(known) = self.verified.get(&digest)
            && ring.holds(&known.kid)
        {
            return Ok(Some(known));
        }
        let Some(parts) = jws::Parts::of(token) else { return Ok(None) };
        let Some(claims) = Claims::read(&parts.payload).filter(|claims| self.is_ours(claims)) else {
            return Ok(None);
        };
        let ring = if ring.holds(&parts.kid) { ring } else { self.keys.refreshed() };
        if !ring.verifies(&parts) {
            return Err(Invalid::Signature);
        }
        let known = Arc::new(Verified::new(parts.kid, claims)?);
        self.verified.keep(digest, Arc::clone(&known));
        Ok(Some(known))
    }

    fn is_ours(&self, claims: &Claims) -> bool {
        *claims.iss == *self.issuer || claims.iss == claims::LEGACY_ISSUER
    }
}

/// The identity that a service account has, without what a token adds.
pub(crate) fn account_identity(namespace: &str, name: &str, uid: &str) -> Identity {
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let of_namespace = format!("system:serviceaccounts:{namespace}");
    Identity { uid: uid.into(), ..Identity::new(&user, &["system:serviceaccounts", &of_namespace]) }
}
