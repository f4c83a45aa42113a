//! `/openapi/v2` and `/openapi/v3`: the documents of `api::openapi` over HTTP, with their hashes as ETags.

use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, StatusCode};
use skiff_api::openapi::{Documents, Served};
use skiff_api::status::StatusError;

use crate::discovery;
use crate::http_body::{Request, Response, empty, full};
use crate::request::Query;

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for; it is no legal media type, so the answer is named without the `@`.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The documents of everything that discovery lists.
pub(crate) fn documents() -> Documents {
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
    Documents::new(served)
}

/// The answer to a path below `/openapi`, `None` for an unknown one.
pub(crate) fn answer(
    documents: &Documents,
    path: &str,
    request: &Request,
) -> Result<Option<Response>, StatusError> {
    let headers = request.headers();
    let Some(path) = path.strip_prefix("/openapi/") else { return Ok(None) };
    if path == "v2" {
        let hash = &documents.v2().hash;
        if unchanged(headers, hash) {
            return Ok(Some(not_modified(hash)));
        }
        return match first_accepted(headers, &[V2_PROTOBUF, V2_PROTOBUF_ASKED, JSON]) {
            Some(JSON) => Ok(Some(document(JSON, documents.v2().text.clone(), hash))),
            Some(_) => Ok(Some(document(V2_PROTOBUF, documents.v2_protobuf().to_vec(), hash))),
            None => Err(StatusError::not_acceptable(&[JSON, V2_PROTOBUF])),
        };
    }
    if path == "v3" {
        let index = documents.v3_index();
        if unchanged(headers, &index.hash) {
            return Ok(Some(not_modified(&index.hash)));
        }
        return Ok(Some(document("text/plain; charset=utf-8", index.text.clone(), &index.hash)));
    }
    let Some(path) = path.strip_prefix("v3/") else { return Ok(None) };
    let Some(found) = documents.v3(path) else { return Ok(None) };
    if unchanged(headers, &found.hash) {
        return Ok(Some(not_modified(&found.hash)));
    }
    let query = Query::parse(request.uri().query());
    if query.given("hash").is_some_and(|hash| hash != found.hash) {
        let mut response = http::Response::new(empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(to) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={}", found.hash)) {
            response.headers_mut().insert(LOCATION, to);
        }
        return Ok(Some(response));
    }
    if first_accepted(headers, &[JSON]).is_none() {
        return Err(StatusError::not_acceptable(&[JSON]));
    }
    Ok(Some(document(JSON, found.text.clone(), &found.hash)))
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
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
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
