//! OpenAPI documents of what a server serves, from the schema table and a list of resources.
//!
//! `/openapi/v2` as JSON and as gnostic's protobuf (kubectl up to 1.2x validates and explains with it),
//! `/openapi/v3` as an index and one document a group version. Types, required fields and the
//! `x-kubernetes-*` marks are there; texts that describe fields are not.
//!
//! Each document is made when first asked for and kept.
//!
//! ```
//! use skiff_api::openapi::{Documents, Served};
//! let documents = Documents::new(vec![Served {
//!     group: "", version: "v1", resource: "configmaps", subresource: "", namespaced: true,
//!     kind: ("", "v1", "ConfigMap"), verbs: &["create", "get", "list"],
//! }]);
//! let core = documents.v3("api/v1").unwrap();
//! assert!(core.text.contains("/api/v1/namespaces/{namespace}/configmaps/{name}"));
//! ```

mod definitions;
mod gnostic;
mod paths;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

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
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Vec<u8>>,
    v3: OnceLock<BTreeMap<String, Document>>,
    index: OnceLock<Document>,
}

impl Documents {
    pub fn new(served: Vec<Served>) -> Self {
        Self {
            served,
            v2: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
            v3: OnceLock::new(),
            index: OnceLock::new(),
        }
    }

    /// `/openapi/v2` as `application/json`.
    pub fn v2(&self) -> &Document {
        self.v2.get_or_init(|| Document::new(&self.v2_value()))
    }

    /// `/openapi/v2` as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`, which clients ask for
    /// with `@v1.0` too; the answer must not have the `@`, which is no legal media type.
    pub fn v2_protobuf(&self) -> &[u8] {
        self.v2_protobuf.get_or_init(|| gnostic::document(&self.v2_value()))
    }

    /// `/openapi/v3`: where each group version's document is.
    pub fn v3_index(&self) -> &Document {
        self.index.get_or_init(|| {
            let paths: Map<String, Value> = self
                .v3_documents()
                .iter()
                .map(|(path, document)| {
                    let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                    (path.clone(), json!({ "serverRelativeURL": url }))
                })
                .collect();
            Document::new(&json!({ "paths": paths }))
        })
    }

    /// One document of v3, by its path in the index: `api/v1`, `apis/apps/v1`.
    pub fn v3(&self, path: &str) -> Option<&Document> {
        self.v3_documents().get(path)
    }

    fn v2_value(&self) -> Value {
        let all: Vec<&Served> = self.served.iter().collect();
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths::paths(&all, Spec::V2),
            "definitions": definitions::definitions(&all, Spec::V2),
        })
    }

    fn v3_documents(&self) -> &BTreeMap<String, Document> {
        self.v3.get_or_init(|| {
            let mut by_path: BTreeMap<String, Vec<&Served>> = BTreeMap::new();
            for served in &self.served {
                by_path.entry(served.group_path()).or_default().push(served);
            }
            let document = |served: &[&Served]| {
                json!({
                    "openapi": "3.0.0",
                    "info": {"title": "Kubernetes", "version": "v1.36.0"},
                    "paths": paths::paths(served, Spec::V3),
                    "components": {"schemas": definitions::definitions(served, Spec::V3)},
                })
            };
            by_path.into_iter().map(|(path, served)| (path, Document::new(&document(&served)))).collect()
        })
    }
}

impl Document {
    fn new(value: &Value) -> Self {
        let text = value.to_string();
        // FNV-1a: the hash tells versions of one document apart, it protects nothing.
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self { text, hash: format!("{hash:016X}") }
    }
}

impl Served {
    /// `api/v1`, `apis/apps/v1`.
    fn group_path(&self) -> String {
        match self.group {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }
}
