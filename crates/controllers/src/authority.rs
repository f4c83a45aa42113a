//! What only the holder of the cluster's keys can do. The keys stay with the server: the controllers decide,
//! and have it done by this.

use std::fmt;
use std::net::IpAddr;

/// A certificate to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRequest {
    /// The request (PKCS #10), PEM.
    pub request: String,
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
    /// As in a CertificateSigningRequest.
    pub usages: Vec<String>,
}

/// A service account, and the Secret that is to hold a token of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountToken {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    pub secret: String,
}

/// Why something was not signed.
#[derive(Debug, thiserror::Error)]
#[error("the cluster's authority did not sign")]
pub struct AuthorityError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

pub trait Authority: fmt::Debug + Send + Sync {
    /// A certificate, PEM.
    fn sign(&self, request: &SigningRequest) -> Result<String, AuthorityError>;

    /// Where the connections of a node have come from, by its certificate: not what it says of itself.
    fn node_addresses(&self, node: &str) -> Vec<IpAddr>;

    /// Whether the last client certificate of a node has ended.
    fn node_has_ended(&self, node: &str) -> bool;

    /// A token that is good as long as the Secret holds it.
    fn account_token(&self, of: &AccountToken) -> Result<String, AuthorityError>;
}
