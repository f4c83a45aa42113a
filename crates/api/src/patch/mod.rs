//! Patches: from an object and a patch, the patched object. Nothing here checks the result; it goes
//! through [`crate::codec::normalise`], defaulting and validation like any other new object.
//!
//! | content type | function |
//! |---|---|
//! | `application/json-patch+json` (RFC 6902) | [`json`] |
//! | `application/merge-patch+json` (RFC 7386) | [`merge`] |
//! | `application/strategic-merge-patch+json` | [`strategic()`] |
//! | `application/apply-patch+yaml` | not here yet: it needs field managers |

mod strategic;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use strategic::strategic;

/// As many operations as upstream allows in one JSON patch.
const OPERATIONS_MAX: usize = 10_000;

/// The kinds of patches by content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// Why a patch could not be applied. The message of [`Error::Unprocessable`] is for logs: upstream
/// answers it with 422 and a fixed sentence, [`UNPROCESSABLE`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 400: the patch itself is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// 413
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooMany(usize),
    /// 422: the patch does not fit the object.
    #[error("{0}")]
    Unprocessable(String),
    /// 500, as upstream answers what its merge did not foresee.
    #[error("{0}")]
    Internal(String),
}

/// What upstream tells the client of a well-formed patch that can't be applied.
pub const UNPROCESSABLE: &str = "the server rejected our request due to an error in our request";

impl Format {
    /// From a `Content-Type` header.
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies a JSON patch.
pub fn json(current: &Value, patch: &Value) -> Result<Value, Error> {
    let Value::Array(operations) = patch else {
        let found = match patch {
            Value::Object(_) => "object",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => return Ok(current.clone()),
        };
        return Err(Error::BadRequest(format!(
            "json: cannot unmarshal {found} into Go value of type jsonpatch.Patch"
        )));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(Error::TooMany(operations.len()));
    }
    let mut patched = current.clone();
    for operation in operations {
        let name = operation.get("op").and_then(Value::as_str).unwrap_or("");
        let path = operation.get("path").and_then(Value::as_str).unwrap_or("");
        let parsed = serde_json::from_value(operation.clone()).map_err(|_| match name {
            "add" | "remove" | "replace" | "move" | "copy" | "test" => Error::Unprocessable(format!(
                "{name} operation does not apply: invalid operation at path {path:?}"
            )),
            _ => Error::Unprocessable(format!("Unexpected kind: {name}")),
        })?;
        // The crate treats the root as a value like others; so does Go's library.
        json_patch::patch(&mut patched, &[parsed]).map_err(|e| match (name, e.kind) {
            ("test", json_patch::PatchErrorKind::TestFailed) => {
                Error::Unprocessable(format!("testing value {path} failed: test failed"))
            }
            _ => Error::Unprocessable(format!(
                "{name} operation does not apply: doc is missing path: {path:?}: missing value"
            )),
        })?;
    }
    Ok(patched)
}

/// Applies a JSON merge patch.
pub fn merge(current: &Value, patch: &Value) -> Result<Value, Error> {
    if !patch.is_object() {
        return Err(Error::BadRequest("Invalid JSON Patch".into()));
    }
    let mut patched = current.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}
