//! What can go wrong between a request and its answer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::transport::BoxError;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, in its own words.
    #[error("{}", .0.message.as_deref().unwrap_or("the server refused without a message"))]
    Status(Box<Status>),
    /// No answer came.
    #[error("cannot reach the API server")]
    Transport(#[source] BoxError),
    /// No answer came in time.
    #[error("the API server did not answer within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("cannot decode the API server's answer")]
    Decode(#[source] BoxError),
    #[error("cannot encode the request")]
    Encode(#[source] BoxError),
}

impl Error {
    /// The HTTP status code of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status(status) => status.code.and_then(|code| u16::try_from(code).ok()),
            _ => None,
        }
    }

    /// The machine-readable reason of a refusal, such as `AlreadyExists`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Status(status) => status.reason.as_deref(),
            _ => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else changed the object meanwhile: read it again and retry.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409) && self.reason() != Some("AlreadyExists")
    }

    /// An object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some("AlreadyExists")
    }

    /// The resource version is too old: list again.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }
}
