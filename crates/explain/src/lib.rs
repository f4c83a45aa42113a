//! Explanations as plain values: what a pod shares, why it waits, where its start took time.
//!
//! The facts come from elsewhere (the agent reads the kernel, the scheduler its snapshot); here they are
//! judged, by plain functions, and told, as values that the API serves and as text for people. No I/O, no
//! clock.
//!
//! What can't be known is said: every answer has a list of what is [`Missing`], and why.

pub mod approach;
pub mod devices;
pub mod facts;
pub mod judge;
pub mod namespaces;
pub mod nearest;
pub mod node;
pub mod path;
pub mod pending;
pub mod pod;
pub mod policies;
pub mod reach;
pub mod redact;
pub mod schema;
pub mod start;
pub mod text;
pub mod trace;
pub mod waits;

use serde::{Deserialize, Serialize};

/// The API group of the explanations.
pub const GROUP: &str = "explain.skiff.dev";
pub const VERSION: &str = "v1";
pub const API_VERSION: &str = "explain.skiff.dev/v1";

/// Which object an answer is about, and its version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The object's name.
    pub name: String,
    /// The object's namespace; empty for a node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The object's UID, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Something that the answer lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// Why it is missing.
    pub why: String,
}

impl Missing {
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// `1 pod`, `2 pods`.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
