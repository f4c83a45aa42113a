//! What a token says, in upstream's form, and how its payload is read.

use serde::{Deserialize, Serialize};

/// The issuer of tokens that are kept in Secrets.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// An object by name, and which one of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Reference {
    pub(crate) fn new(name: &str, uid: &str) -> Self {
        Self { name: name.into(), uid: uid.into() }
    }
}

/// The private part: the account and what the token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeReference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    #[serde(rename = "serviceaccount")]
    pub(crate) account: Reference,
    /// Unix seconds after which a client should have asked for another.
    #[serde(default, rename = "warnafter", skip_serializing_if = "Option::is_none")]
    pub(crate) warn_after: Option<i64>,
}

/// As [`Reference`], of a node that may not have been found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

/// Times are Unix seconds; a token that never ends has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub(crate) aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iat: Option<i64>,
    pub(crate) iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) jti: String,
    #[serde(default, rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub(crate) bound: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<i64>,
    pub(crate) sub: String,
    // Tokens that are kept in Secrets say flatly whose they are.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/namespace",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) legacy_namespace: String,
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/secret.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) legacy_secret: String,
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/service-account.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) legacy_account: String,
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) legacy_uid: String,
}

impl Claims {
    /// `None` when the payload is not of this form.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// For an account for some time, bound to nothing more yet.
    pub(crate) fn new(
        issuer: &str,
        namespace: &str,
        account: Reference,
        audiences: &[String],
        times: Times,
    ) -> Self {
        Self {
            aud: audiences.to_vec(),
            exp: Some(times.end),
            iat: Some(times.now),
            iss: issuer.into(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: Some(times.now),
            sub: subject(namespace, &account.name),
            bound: Some(Bound {
                namespace: namespace.into(),
                node: None,
                pod: None,
                secret: None,
                account,
                warn_after: times.warn_after,
            }),
            legacy_namespace: String::new(),
            legacy_secret: String::new(),
            legacy_account: String::new(),
            legacy_uid: String::new(),
        }
    }

    /// For an account as long as a Secret of the account's namespace holds the token.
    pub(crate) fn legacy(namespace: &str, account: Reference, secret: &str) -> Self {
        Self {
            aud: Vec::new(),
            exp: None,
            iat: None,
            iss: LEGACY_ISSUER.into(),
            jti: String::new(),
            nbf: None,
            sub: subject(namespace, &account.name),
            bound: None,
            legacy_namespace: namespace.into(),
            legacy_secret: secret.into(),
            legacy_account: account.name,
            legacy_uid: account.uid,
        }
    }
}

/// From when until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) now: i64,
    pub(crate) end: i64,
    pub(crate) warn_after: Option<i64>,
}

pub(super) fn subject(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// A claim that is a string, or a list of them (RFC 7519 §4.1.3).
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}
