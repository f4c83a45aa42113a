//! OpenAPI documents of what a server serves, from the schema table and a list of resources.
//!
//! `/openapi/v2` as JSON and as gnostic's protobuf (kubectl up to 1.2x validates and explains with it),
//! `/openapi/v3` as an index and one document a group version. Types, required fields and the
//! `x-kubernetes-*` marks are there, and what fields are for as far as [`Texts`] say it.
//!
//! A document is made each time it is asked for: they are large, and whoever serves them keeps them as he
//! likes. Only their hashes are kept here.
//!
//! ```
//! use skiff_api::openapi::{Documents, Served, Texts};
//! let configmaps = Served {
//!     group: "", version: "v1", resource: "configmaps", subresource: "", namespaced: true,
//!     kind: ("", "v1", "ConfigMap"), verbs: &["create", "get", "list"],
//! };
//! let documents = Documents::new(vec![configmaps], 0);
//! let core = documents.v3("api/v1", &Texts::default()).unwrap();
//! assert!(core.contains("/api/v1/namespaces/{namespace}/configmaps/{name}"));
//! ```

mod definitions;
mod gnostic;
mod paths;
mod texts;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

pub use texts::Texts;

/// One resource or subresource, as discovery lists it.
#[derive(Debug, Clone)]
pub struct Served {
    pub group: &'static str,
    pub version: &'static str,
    /// Plural name, `pods`.
    pub resource: &'static str,
    /// `status`, or empty for the resource itself.
    pub subresource: &'static str,
    pub namespaced: bool,
    /// Group, version and kind of the objects (of a subresource: of its bodies).
    pub kind: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

/// Kinds that the schema table does not have, as a server's own are.
#[derive(Debug, Clone, Default)]
pub struct Own {
    pub group: &'static str,
    pub version: &'static str,
    /// Kind → the name of its definition.
    pub kinds: BTreeMap<&'static str, String>,
    /// Name → schema; references are written as in v2, `#/definitions/NAME`.
    pub definitions: BTreeMap<String, Value>,
    /// Resource → the parameters that its requests take, and their types.
    pub parameters: BTreeMap<&'static str, Vec<(&'static str, &'static str)>>,
}

/// The two versions of the specification differ in where schemas stand and how bodies are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spec {
    V2,
    V3,
}

/// A document and a hash of it, for `ETag` and the `hash` parameter of v3.
#[derive(Debug)]
pub struct Document {
    pub text: String,
    /// Sixteen upper-case hexadecimal digits.
    pub hash: String,
}

/// The documents of one server.
#[derive(Debug)]
pub struct Documents {
    served: Vec<Served>,
    own: Own,
    texts: u64,
    v2_hash: OnceLock<String>,
    v3_hashes: OnceLock<BTreeMap<String, String>>,
}

impl Documents {
    /// `texts` tells the texts that documents will be made with from others.
    pub fn new(served: Vec<Served>, texts: u64) -> Self {
        let own = Own::default();
        Self { served, own, texts, v2_hash: OnceLock::new(), v3_hashes: OnceLock::new() }
    }

    /// Adds kinds of the server's own.
    #[must_use]
    pub fn with(self, own: Own) -> Self {
        Self { own, ..self }
    }

    /// The hash of `/openapi/v2`.
    pub fn v2_hash(&self) -> &str {
        self.v2_hash.get_or_init(|| self.hash(&self.v2_value(&Texts::default())))
    }

    /// `/openapi/v2` as `application/json`.
    pub fn v2(&self, texts: &Texts<'_>) -> String {
        self.v2_value(texts).to_string()
    }

    /// `/openapi/v2` as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`, which clients ask for
    /// with `@v1.0` too; the answer must not have the `@`, which is no legal media type.
    pub fn v2_protobuf(&self, texts: &Texts<'_>) -> Vec<u8> {
        gnostic::document(&self.v2_value(texts))
    }

    /// `/openapi/v3`: where each group version's document is.
    pub fn v3_index(&self) -> Document {
        let entry = |(path, hash): (&String, &String)| {
            (path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }))
        };
        let paths: Map<String, Value> = self.v3_hashes().iter().map(entry).collect();
        let value = json!({ "paths": paths });
        Document { hash: self.hash(&value), text: value.to_string() }
    }

    /// The hash of one document of v3, by its path in the index: `api/v1`, `apis/apps/v1`.
    pub fn v3_hash(&self, path: &str) -> Option<&str> {
        self.v3_hashes().get(path).map(String::as_str)
    }

    /// One document of v3.
    pub fn v3(&self, path: &str, texts: &Texts<'_>) -> Option<String> {
        let served: Vec<&Served> = self.served.iter().filter(|served| served.group_path() == path).collect();
        (!served.is_empty()).then(|| self.v3_value(&served, texts).to_string())
    }

    fn v2_value(&self, texts: &Texts<'_>) -> Value {
        let all: Vec<&Served> = self.served.iter().collect();
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths::paths(&all, Spec::V2, &self.own),
            "definitions": definitions::definitions(&all, Spec::V2, texts, &self.own),
        })
    }

    fn v3_hashes(&self) -> &BTreeMap<String, String> {
        self.v3_hashes.get_or_init(|| {
            let mut by_path: BTreeMap<String, Vec<&Served>> = BTreeMap::new();
            for served in &self.served {
                by_path.entry(served.group_path()).or_default().push(served);
            }
            let hash = |served: &[&Served]| self.hash(&self.v3_value(served, &Texts::default()));
            by_path.into_iter().map(|(path, served)| (path, hash(&served))).collect()
        })
    }

    fn v3_value(&self, served: &[&Served], texts: &Texts<'_>) -> Value {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths::paths(served, Spec::V3, &self.own),
            "components": {"schemas": definitions::definitions(served, Spec::V3, texts, &self.own)},
        })
    }

    /// Of a document without its texts, and of these.
    fn hash(&self, value: &Value) -> String {
        // FNV-1a: the hash tells versions of one document apart, it protects nothing.
        let hash = value
            .to_string()
            .bytes()
            .chain(self.texts.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        format!("{hash:016X}")
    }
}

impl Served {
    /// Whether the old paths of watches are of it: `/api/v1/watch/…`.
    fn is_watched(&self, own: &Own) -> bool {
        self.subresource.is_empty()
            && self.verbs.contains(&"watch")
            && (self.group, self.version) != (own.group, own.version)
    }

    /// `api/v1`, `apis/apps/v1`.
    fn group_path(&self) -> String {
        match self.group {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }
}
