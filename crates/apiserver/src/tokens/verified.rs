//! Tokens whose signature was checked already, by their hash, and what each says.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::account_identity;
use super::claims::{Bound, Claims, LEGACY_ISSUER, Reference, subject};
use super::validate::Invalid;
use crate::auth::{Extra, Identity};

/// Tokens of one generation. There are two: a token that is used lives on, and memory is bounded.
const GENERATION_MAX: usize = 4096;

pub(super) type TokenDigest = [u8; 32];

pub(super) fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

/// A token's content, prepared for the check of every request.
pub(super) struct Verified {
    pub(super) kid: String,
    pub(super) claims: Claims,
    pub(super) identity: Identity,
    pub(super) namespace: String,
    pub(super) account: Reference,
    pub(super) binding: Binding,
}

/// What else must exist for the token to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Account,
    Pod(Reference),
    Secret(Reference),
    Node(Reference),
    /// A Secret that holds this very token.
    KeptIn(String),
}

impl Verified {
    pub(super) fn new(kid: String, claims: Claims) -> Result<Self, Invalid> {
        let (namespace, account, binding) = match (&claims.bound, claims.iss == LEGACY_ISSUER) {
            (Some(bound), false) => (bound.namespace.clone(), bound.account.clone(), binding(bound)),
            (None, true) => (
                claims.legacy_namespace.clone(),
                Reference::new(&claims.legacy_account, &claims.legacy_uid),
                Binding::KeptIn(claims.legacy_secret.clone()),
            ),
            _ => return Err(Invalid::Claims),
        };
        if namespace.is_empty() || account.name.is_empty() || account.uid.is_empty() {
            return Err(Invalid::Claims);
        }
        if claims.sub != subject(&namespace, &account.name) {
            return Err(Invalid::Claims);
        }
        let mut identity = account_identity(&namespace, &account.name, &account.uid);
        identity.extra = Arc::new(extra(&claims));
        Ok(Self { kid, claims, identity, namespace, account, binding })
    }
}

fn binding(bound: &Bound) -> Binding {
    match (&bound.pod, &bound.secret, &bound.node) {
        (Some(pod), ..) => Binding::Pod(pod.clone()),
        (_, Some(secret), _) => Binding::Secret(secret.clone()),
        (_, _, Some(node)) => Binding::Node(Reference::new(&node.name, &node.uid)),
        _ => Binding::Account,
    }
}

/// What upstream tells of a token besides the user.
fn extra(claims: &Claims) -> Extra {
    let mut extra = Extra::new();
    let mut tell = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        tell("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(bound) = &claims.bound {
        if let Some(pod) = &bound.pod {
            tell("pod-name", &pod.name);
            tell("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            tell("node-name", &node.name);
            tell("node-uid", &node.uid);
        }
    }
    extra
}

/// The cache.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<TokenDigest, Arc<Verified>>,
    old: HashMap<TokenDigest, Arc<Verified>>,
}

impl VerifiedTokens {
    pub(super) fn get(&self, digest: &TokenDigest) -> Option<Arc<Verified>> {
        let mut generations = self.0.lock();
        if let Some(found) = generations.young.get(digest) {
            return Some(Arc::clone(found));
        }
        let found = generations.old.remove(digest)?;
        generations.keep(*digest, Arc::clone(&found));
        Some(found)
    }

    pub(super) fn keep(&self, digest: TokenDigest, verified: Arc<Verified>) {
        self.0.lock().keep(digest, verified);
    }
}

impl Generations {
    fn keep(&mut self, digest: TokenDigest, verified: Arc<Verified>) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::claims::Times;

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let cache = VerifiedTokens::default();
        let times = Times { now: 0, end: 600, warn_after: None };
        let claims = Claims::new("i", "n", Reference::new("a", "u"), &[], times);
        let entry = Arc::new(Verified::new("k".into(), claims).expect("whole claims"));
        let used = digest("used");
        cache.keep(used, Arc::clone(&entry));
        for i in 0..10 * GENERATION_MAX {
            cache.keep(digest(&i.to_string()), Arc::clone(&entry));
            if i % 1000 == 0 {
                assert!(cache.get(&used).is_some(), "{i}");
            }
        }
        let generations = cache.0.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
    }
}
