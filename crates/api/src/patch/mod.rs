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

pub use strategic::{go, strategic};

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

/// Bytes that all copies of one JSON patch may add, as upstream bounds them.
const COPIED_MAX: usize = 3 << 20;

/// Bytes that moves may touch; a bound on work, beyond any honest patch.
const MOVED_MAX: usize = 64 << 20;

/// Nesting beyond which neither a path nor a value may go.
const DEPTH_MAX: usize = 200;

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
    let (mut copied, mut moved) = (0, 0);
    for operation in operations {
        let name = operation.get("op").and_then(Value::as_str).unwrap_or("");
        let path = operation.get("path").and_then(Value::as_str).unwrap_or("");
        let parsed = serde_json::from_value(operation.clone()).map_err(|_| match name {
            "add" | "remove" | "replace" | "move" | "copy" | "test" => Error::Unprocessable(format!(
                "{name} operation does not apply: invalid operation at path {path:?}"
            )),
            _ => Error::Unprocessable(format!("Unexpected kind: {name}")),
        })?;
        if path.bytes().filter(|b| *b == b'/').count() > DEPTH_MAX {
            return Err(Error::Unprocessable("exceeded max depth".into()));
        }
        // Copies of copies grow exponentially, so what they and moves handle is measured.
        let from = operation.get("from").and_then(Value::as_str);
        if let (Some(from), "copy" | "move") = (from.and_then(|from| patched.pointer(from)), name) {
            let size = size(from).ok_or_else(|| Error::Unprocessable("exceeded max depth".into()))?;
            let (sum, max) = if name == "copy" { (&mut copied, COPIED_MAX) } else { (&mut moved, MOVED_MAX) };
            *sum += size;
            if *sum > max {
                return Err(Error::Unprocessable(format!(
                    "Unable to copy, the accumulated size increase of copy is {sum}, exceeding the limit {max}"
                )));
            }
        }
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

/// About how long the value is as text; `None` if it is nested too deeply. Does not recurse.
fn size(value: &Value) -> Option<usize> {
    let mut total = 0;
    let mut stack = vec![(value, 0)];
    while let Some((value, depth)) = stack.pop() {
        if depth > DEPTH_MAX {
            return None;
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    total += key.len() + 4;
                    stack.push((value, depth + 1));
                }
            }
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::String(s) => total += s.len() + 2,
            _ => total += 4,
        }
        total += 2;
    }
    Some(total)
}
