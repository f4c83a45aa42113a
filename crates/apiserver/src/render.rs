//! Which representation a client takes, and objects in it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::{Value, json};
use skiff_api::status::StatusError;
use skiff_api::tables;

use crate::clock;
use crate::encoding::Rendered;
use crate::http_body::{Body, Response, full};
use crate::object::Object;
use crate::resources::Resource;
use crate::server::Call;

/// The shape that objects are answered in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    /// `metav1.Table` of this version.
    Table(&'static str),
    /// `PartialObjectMetadata` of this version.
    Metadata(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) shape: Shape,
    pub(crate) yaml: bool,
}

pub(crate) const WHOLE: Accepted = Accepted { shape: Shape::Whole, yaml: false };

const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

fn meta_version(version: Option<&str>) -> Option<&'static str> {
    match version {
        Some("v1") | None => Some("v1"),
        Some("v1beta1") => Some("v1beta1"),
        Some(_) => None,
    }
}

/// The first clause of Accept that can be served; of several headers, the first counts, as for upstream.
/// `transforms` says whether tables and metadata can.
pub(crate) fn negotiate(headers: &HeaderMap, transforms: bool) -> Result<Accepted, StatusError> {
    let mut given = false;
    let text = headers.get(ACCEPT).and_then(|header| header.to_str().ok()).unwrap_or_default();
    for clause in text.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        given = true;
        if let Some(accepted) = clause_accepts(clause, transforms) {
            return Ok(accepted);
        }
    }
    if given { Err(StatusError::not_acceptable(MEDIA_TYPES)) } else { Ok(WHOLE) }
}

fn clause_accepts(clause: &str, transforms: bool) -> Option<Accepted> {
    let mut parts = clause.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let (mut as_, mut version, mut group) = (None, None, None);
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key.trim() {
            "as" => as_ = Some(value.trim()),
            "v" => version = Some(value.trim()),
            "g" => group = Some(value.trim()),
            "q" if value.trim().parse::<f32>().is_ok_and(|q| q == 0.0) => return None,
            _ => {}
        }
    }
    let Some(as_) = as_ else { return Some(Accepted { shape: Shape::Whole, yaml }) };
    if !transforms || group.is_some_and(|g| g != "meta.k8s.io") {
        return None;
    }
    let version = meta_version(version)?;
    let shape = match as_ {
        "Table" => Shape::Table(version),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata(version),
        _ => return None,
    };
    Some(Accepted { shape, yaml })
}

/// What a table's rows carry beside their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, StatusError> {
        match text {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => {
                Err(StatusError::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }
}

/// An object in its row's version as a value.
pub(crate) fn value(row: &'static Resource, stored: &'static Resource, object: &Object) -> Value {
    let mut value = object.value(stored);
    if let Some(conversion) = &row.conversion {
        (conversion.from_stored)(&mut value);
        value["kind"] = row.kind.into();
        value["apiVersion"] = row.api_version().into();
    }
    value
}

fn to_bytes(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("a JSON value can be written to memory"))
}

/// Of which kind a table's columns are.
type GroupKind = (&'static str, &'static str);

fn metadata_of(value: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": value.get("metadata").cloned().unwrap_or_default(),
    })
}

fn table_row(of: GroupKind, value: Value, version: &str, include: Include, now: i64) -> Value {
    let cells = tables::cells(of.0, of.1, &value, now);
    let mut out = json!({"cells": cells});
    match include {
        Include::None => {}
        Include::Metadata => out["object"] = metadata_of(&value, version),
        Include::Object => out["object"] = value,
    }
    out
}

fn table(of: GroupKind, version: &str, metadata: Value, rows: Vec<Value>, columns: bool) -> Value {
    let definitions: Vec<Value> = if columns {
        tables::columns(of.0, of.1)
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "type": c.type_, "format": c.format,
                    "description": c.description, "priority": c.priority,
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// A single object in the shape that was asked for.
fn shaped(of: GroupKind, value: Value, shape: Shape, include: Include, columns: bool, now: i64) -> Bytes {
    let rendered = match shape {
        Shape::Whole => value,
        Shape::Metadata(version) => metadata_of(&value, version),
        Shape::Table(version) => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            let row = table_row(of, value, version, include, now);
            table(of, version, metadata, vec![row], columns)
        }
    };
    to_bytes(&rendered)
}

/// The answer with an object that is no resource of its own, such as the Scale of another.
pub(crate) fn view(call: &Call, of: GroupKind, value: Value) -> Result<Response, StatusError> {
    let accepted = negotiate(&call.headers, true)?;
    let include = Include::parse(call.query.get("includeObject"))?;
    let json = shaped(of, value, accepted.shape, include, true, clock::now());
    Ok(respond(StatusCode::OK, json, accepted.yaml))
}

/// How one request wants its objects.
#[derive(Clone, Copy)]
pub(crate) struct Renderer {
    pub(crate) row: &'static Resource,
    pub(crate) stored: &'static Resource,
    pub(crate) accepted: Accepted,
    pub(crate) include: Include,
    /// Unix seconds.
    pub(crate) now: i64,
}

impl Renderer {
    /// Whether objects are answered as the cache can give them, byte by byte.
    pub(crate) fn is_plain(&self) -> bool {
        self.accepted == WHOLE && self.row.conversion.is_none()
    }

    pub(crate) fn object(&self, object: &Object) -> Bytes {
        if self.is_plain() {
            return object.json(self.stored);
        }
        self.value(value(self.row, self.stored, object), true)
    }

    /// A single object (or row, for a watch without repeated columns).
    pub(crate) fn value(&self, value: Value, columns: bool) -> Bytes {
        shaped(self.of(), value, self.accepted.shape, self.include, columns, self.now)
    }

    fn of(&self) -> GroupKind {
        (self.row.group, self.row.kind)
    }

    pub(crate) fn list(
        &self,
        items: &[Arc<Object>],
        revision: u64,
        continue_: Option<&str>,
        remaining: Option<usize>,
    ) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(token) = continue_ {
            metadata["continue"] = token.into();
            if let Some(remaining) = remaining {
                metadata["remainingItemCount"] = remaining.into();
            }
        }
        if self.is_plain() {
            return self.plain_list(items, &metadata);
        }
        let values = items.iter().map(|o| value(self.row, self.stored, o));
        let rendered = match self.accepted.shape {
            Shape::Whole => {
                let items: Vec<Value> = values
                    .map(|mut v| {
                        if let Value::Object(map) = &mut v {
                            map.remove("kind");
                            map.remove("apiVersion");
                        }
                        v
                    })
                    .collect();
                json!({
                    "kind": self.row.list_kind, "apiVersion": self.row.api_version(),
                    "metadata": metadata, "items": items,
                })
            }
            Shape::Metadata(version) => {
                let items: Vec<Value> = values.map(|v| metadata_of(&v, version)).collect();
                json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata, "items": items,
                })
            }
            Shape::Table(version) => {
                let rows = values.map(|v| table_row(self.of(), v, version, self.include, self.now)).collect();
                table(self.of(), version, metadata, rows, true)
            }
        };
        to_bytes(&rendered)
    }

    fn plain_list(&self, items: &[Arc<Object>], metadata: &Value) -> Bytes {
        let size: usize = items.iter().map(|o| o.body.len() + 40).sum();
        let mut out = BytesMut::with_capacity(size + 256);
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            self.row.list_kind,
            self.row.api_version()
        );
        out.put_slice(head.as_bytes());
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.put_u8(b',');
            }
            item.write_item(&mut out);
        }
        out.put_slice(b"]}\n");
        out.freeze()
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");

/// A response of JSON (or its YAML form).
pub(crate) fn respond(code: StatusCode, json: Bytes, yaml: bool) -> Response {
    if yaml {
        let text = serde_json::from_slice::<Value>(&json)
            .ok()
            .and_then(|value| serde_yaml_ng::to_string(&value).ok())
            .unwrap_or_default();
        return own(code, YAML, full(text));
    }
    own(code, JSON, full(json))
}

/// With a body that the server itself has rendered.
pub(crate) fn own(code: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = with_type(code, content_type, body);
    response.extensions_mut().insert(Rendered);
    response
}

pub(crate) fn with_type(code: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// With a body that the server itself has rendered.
pub(crate) fn json_response(code: StatusCode, body: Body) -> Response {
    own(code, JSON, body)
}

pub(crate) fn status(status: &Status) -> Response {
    let code = status.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = serde_json::to_vec(status).expect("a Status can be written to memory");
    respond(code, json.into(), false)
}

pub(crate) fn error(error: &StatusError) -> Response {
    let mut response = status(&error.0);
    if let Some(seconds) = error.0.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The plain text that unknown paths are answered with.
pub(crate) fn page_not_found() -> Response {
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    with_type(StatusCode::NOT_FOUND, TEXT, full("404 page not found\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str, transforms: bool) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().expect("a header"));
        negotiate(&headers, transforms).map_err(|e| e.code())
    }

    #[test]
    fn the_first_clause_that_can_be_served_counts() {
        let table = Ok(Accepted { shape: Shape::Table("v1"), yaml: false });
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;\
                       g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, true), table);
        assert_eq!(accept(kubectl, false), Ok(WHOLE));
        assert_eq!(accept("application/vnd.kubernetes.protobuf, application/json", true), Ok(WHOLE));
        assert_eq!(accept("application/json;as=Table;v=v1;g=meta.k8s.io", false), Err(406));
        assert_eq!(accept("application/vnd.kubernetes.protobuf", true), Err(406));
        assert_eq!(accept("application/yaml", true), Ok(Accepted { shape: Shape::Whole, yaml: true }));
        assert_eq!(accept("*/*", true), Ok(WHOLE));
        let mut twice = HeaderMap::new();
        for kind in ["application/yaml", "application/json"] {
            twice.append(ACCEPT, kind.parse().expect("a header"));
        }
        assert_eq!(negotiate(&twice, true), Ok(Accepted { shape: Shape::Whole, yaml: true }));
    }
}
