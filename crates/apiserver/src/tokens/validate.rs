//! Whether a token with a good signature holds now: audience, time, and what it is bound to.
//!
//! The wording of each fault is upstream's; clients see it in a TokenReview's status, and nowhere else.

use super::claims::{Claims, Reference};
use super::verified::{Binding, Verified};
use crate::auth::Identity;

/// How far clocks may be apart, and how long a deleted object's tokens outlive its grace period.
const LEEWAY_S: i64 = 60;

/// The label by which a Secret's token is out of use, until somebody takes it off.
pub(crate) const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validated {
    pub(crate) identity: Identity,
    /// Those that were asked for and that it is for.
    pub(crate) audiences: Vec<String>,
}

/// Why a token of our own issuer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("go-jose/go-jose: error in cryptographic primitive")]
    Signature,
    #[error("service account token claims could not be validated due to unexpected private claim")]
    Claims,
    #[error("token audiences [{}] is invalid for the target audiences [{}]", quoted(token), quoted(wanted))]
    Audience { token: Vec<String>, wanted: Vec<String> },
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("service account token is issued in the future")]
    Future,
    #[error("serviceaccounts {0:?} not found")]
    NoAccount(String),
    #[error("service account UID ({present}) does not match claim ({claimed})")]
    OtherAccount { present: String, claimed: String },
    #[error("service account {0} has been deleted")]
    DeletedAccount(String),
    #[error("service account token has been invalidated")]
    Unbound,
    #[error("{kind} UID ({present}) does not match service account {kind} ref claim ({claimed})")]
    OtherObject { kind: &'static str, present: String, claimed: String },
    #[error("Token has been invalidated")]
    Revoked,
    #[error("Token does not match server's copy")]
    NotTheCopy,
    #[error(
        "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. \
         Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
         '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
    )]
    OutOfUse { namespace: String, secret: String, account: String },
}

fn quoted(texts: &[String]) -> String {
    texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" ")
}

/// Kinds that tokens are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Account,
    Pod,
    Secret,
    Node,
}

/// What must be known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) uid: Box<str>,
    /// When it is to be gone, in Unix seconds, if it is being deleted.
    pub(crate) ends: Option<i64>,
}

/// Where objects are looked up: the watch caches.
pub(crate) trait Lookup {
    /// `namespace` is empty for a node.
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Present>;
    /// The token that a Secret holds.
    fn secret_token(&self, namespace: &str, name: &str) -> Option<Vec<u8>>;
    /// Since when a Secret's token is marked as out of use.
    fn secret_invalid_since(&self, namespace: &str, name: &str) -> Option<String>;
    /// That somebody came with a Secret's token.
    fn note_use(&self, namespace: &str, name: &str);
}

/// The audiences of `wanted` that the token is for. A token that names none is for the API alone (`own`).
pub(super) fn audiences(claims: &Claims, own: &str, wanted: &[&str]) -> Result<Vec<String>, Invalid> {
    let named = match claims.aud.is_empty() {
        true => vec![own.to_owned()],
        false => claims.aud.clone(),
    };
    let wanted = || wanted.iter().map(|audience| (*audience).to_owned());
    let both: Vec<String> = wanted().filter(|audience| named.contains(audience)).collect();
    if both.is_empty() {
        return Err(Invalid::Audience { token: named, wanted: wanted().collect() });
    }
    Ok(both)
}

pub(super) fn in_time(claims: &Claims, now: i64) -> Result<(), Invalid> {
    if claims.nbf.is_some_and(|start| start > now + LEEWAY_S) {
        return Err(Invalid::NotYet);
    }
    if claims.exp.is_some_and(|end| now - LEEWAY_S > end) {
        return Err(Invalid::Expired);
    }
    if claims.iat.is_some_and(|issued| issued > now + LEEWAY_S) {
        return Err(Invalid::Future);
    }
    Ok(())
}

/// Whether the account and what the token is bound to are there, the same ones, and not past their end.
pub(super) fn still_bound(
    verified: &Verified,
    token: &str,
    now: i64,
    objects: &dyn Lookup,
) -> Result<(), Invalid> {
    let namespace = verified.namespace.as_str();
    let is_over = |present: &Present| present.ends.is_some_and(|end| end < now - LEEWAY_S);
    if let Binding::KeptIn(secret) = &verified.binding {
        let kept = objects.find(Kind::Secret, namespace, secret).ok_or(Invalid::Revoked)?;
        if kept.ends.is_some() {
            return Err(Invalid::Revoked);
        }
        if objects.secret_token(namespace, secret).as_deref() != Some(token.as_bytes()) {
            return Err(Invalid::NotTheCopy);
        }
    }
    let Reference { name, uid } = &verified.account;
    let account =
        objects.find(Kind::Account, namespace, name).ok_or_else(|| Invalid::NoAccount(name.clone()))?;
    if *account.uid != **uid {
        return Err(Invalid::OtherAccount { present: account.uid.into(), claimed: uid.clone() });
    }
    if is_over(&account) {
        return Err(Invalid::DeletedAccount(format!("{namespace}/{name}")));
    }
    let (kind, word, namespace, claimed) = match &verified.binding {
        Binding::Account => return Ok(()),
        Binding::KeptIn(secret) => {
            objects.note_use(namespace, secret);
            return match objects.secret_invalid_since(namespace, secret) {
                None => Ok(()),
                Some(_) => Err(Invalid::OutOfUse {
                    namespace: namespace.to_owned(),
                    secret: secret.clone(),
                    account: name.clone(),
                }),
            };
        }
        Binding::Pod(pod) => (Kind::Pod, "pod", namespace, pod),
        Binding::Secret(secret) => (Kind::Secret, "secret", namespace, secret),
        Binding::Node(node) => (Kind::Node, "node", "", node),
    };
    let present = objects.find(kind, namespace, &claimed.name).ok_or(Invalid::Unbound)?;
    if *present.uid != *claimed.uid {
        return Err(Invalid::OtherObject {
            kind: word,
            present: present.uid.into(),
            claimed: claimed.uid.clone(),
        });
    }
    if is_over(&present) { Err(Invalid::Unbound) } else { Ok(()) }
}
