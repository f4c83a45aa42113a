//! `/openapi/v2` and `/openapi/v3`: the documents of `api::openapi` over HTTP, with their hashes as ETags.
//!
//! A document is made when it is first asked for, and kept packed: as clients want it mostly, and a tenth of
//! its size.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use skiff_api::openapi::{Documents, Served, Texts};
use skiff_api::status::StatusError;

use crate::http_body::{Response, empty, full};
use crate::request::Query;
use crate::{descriptions, discovery, encoding, explain};

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for; it is no legal media type, so the answer is named without the `@`.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The documents of one server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OpenApi {
    documents: Arc<Documents>,
    /// By path below `/openapi/` and media type.
    packed: Arc<Mutex<HashMap<(String, &'static str), Bytes>>>,
}

impl OpenApi {
    /// Of everything that discovery lists.
    pub(crate) fn new() -> Self {
        Self { documents: Arc::new(documents()), packed: Arc::default() }
    }

    /// A document in the coding that the client takes; `None` if there is none.
    async fn document(
        &self,
        path: &str,
        media_type: &'static str,
        headers: &HeaderMap,
        hash: &str,
    ) -> Option<Response> {
        let key = (path.to_owned(), media_type);
        let known = self.packed.lock().get(&key).cloned();
        let packed = match known {
            Some(packed) => packed,
            None => {
                let this = self.clone();
                // A tenth of a second, which other requests need not wait behind.
                tokio::task::spawn_blocking(move || this.make(key)).await.ok().flatten()?
            }
        };
        if encoding::takes_gzip(headers) {
            let mut response = document(media_type, packed, hash);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return Some(response);
        }
        let plain = tokio::task::spawn_blocking(move || {
            let mut plain = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut plain).map(|_| plain)
        });
        Some(document(media_type, plain.await.ok()?.ok()?, hash))
    }

    fn make(&self, key: (String, &'static str)) -> Option<Bytes> {
        let lines = descriptions::lines();
        let texts = Texts::read(&lines);
        let (path, media_type) = (key.0.as_str(), key.1);
        let plain = match path.strip_prefix("v3/") {
            Some(path) => self.documents.v3(path, &texts)?.into_bytes(),
            None if media_type == JSON => self.documents.v2(&texts).into_bytes(),
            None => self.documents.v2_protobuf(&texts),
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(&plain).ok()?;
        let packed = Bytes::from(encoder.finish().ok()?);
        self.packed.lock().insert(key, packed.clone());
        Some(packed)
    }
}

fn documents() -> Documents {
    let mut served = Vec::new();
    for group in discovery::groups() {
        for r in discovery::listed(group) {
            let base = Served {
                group,
                version: "v1",
                resource: r.plural,
                subresource: "",
                namespaced: r.namespaced,
                kind: (group, "v1", r.kind),
                verbs: r.verbs,
            };
            for s in r.subresources {
                let (group, version) =
                    if s.version.is_empty() { (group, "v1") } else { (s.group, s.version) };
                served.push(Served {
                    subresource: s.name,
                    kind: (group, version, s.kind),
                    verbs: s.verbs,
                    ..base.clone()
                });
            }
            served.push(base);
        }
    }
    Documents::new(served, descriptions::checksum()).with(explain::schemas())
}

/// The answer to a path below `/openapi`, `None` for an unknown one.
pub(crate) async fn answer(
    openapi: &OpenApi,
    path: &str,
    headers: HeaderMap,
    query: Query,
) -> Result<Option<Response>, StatusError> {
    let documents = &openapi.documents;
    let Some(path) = path.strip_prefix("/openapi/") else { return Ok(None) };
    if path == "v2" {
        let hash = documents.v2_hash();
        if unchanged(&headers, hash) {
            return Ok(Some(not_modified(hash)));
        }
        let media_type = match first_accepted(&headers, &[V2_PROTOBUF, V2_PROTOBUF_ASKED, JSON]) {
            Some(JSON) => JSON,
            Some(_) => V2_PROTOBUF,
            None => return Err(StatusError::not_acceptable(&[JSON, V2_PROTOBUF])),
        };
        return Ok(openapi.document(path, media_type, &headers, hash).await);
    }
    if path == "v3" {
        let index = documents.v3_index();
        if unchanged(&headers, &index.hash) {
            return Ok(Some(not_modified(&index.hash)));
        }
        return Ok(Some(document("text/plain; charset=utf-8", index.text, &index.hash)));
    }
    let Some(hash) = path.strip_prefix("v3/").and_then(|path| documents.v3_hash(path)) else {
        return Ok(None);
    };
    if unchanged(&headers, hash) {
        return Ok(Some(not_modified(hash)));
    }
    if query.given("hash").is_some_and(|asked| asked != hash) {
        let mut response = http::Response::new(empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(to) = HeaderValue::from_str(&format!("/openapi/{path}?hash={hash}")) {
            response.headers_mut().insert(LOCATION, to);
        }
        return Ok(Some(response));
    }
    if first_accepted(&headers, &[JSON]).is_none() {
        return Err(StatusError::not_acceptable(&[JSON]));
    }
    Ok(openapi.document(path, JSON, &headers, hash).await)
}

/// The first of the client's types that is offered; without any wish, JSON.
fn first_accepted(headers: &HeaderMap, offered: &[&'static str]) -> Option<&'static str> {
    let Some(accept) = headers.get(ACCEPT) else { return Some(JSON) };
    let accept = accept.to_str().unwrap_or_default();
    let types = accept.split(',').filter_map(|clause| clause.split(';').next()).map(str::trim);
    types
        .filter_map(|t| match t {
            "*/*" | "application/*" | "" => Some(JSON),
            t => offered.iter().copied().find(|o| *o == t),
        })
        .next()
}

fn unchanged(headers: &HeaderMap, hash: &str) -> bool {
    let known = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    known.split(',').any(|tag| tag.trim().trim_matches('"') == hash)
}

fn tagged(mut response: Response, hash: &str) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    response
}

fn not_modified(hash: &str) -> Response {
    let mut response = http::Response::new(empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    tagged(response, hash)
}

fn document(content_type: &'static str, body: impl Into<bytes::Bytes>, hash: &str) -> Response {
    let mut response = http::Response::new(full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    tagged(response, hash)
}
