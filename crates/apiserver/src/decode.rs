//! Request bodies into JSON values, by Content-Type. The one place that reads foreign objects.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use skiff_api::status::StatusError;

use crate::resources::Resource;
use crate::server::Call;

const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The Content-Type without parameters; JSON where there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        "" | "*/*" => "application/json",
        media_type => media_type,
    }
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Value, StatusError> {
    match media_type(headers) {
        "application/json" => serde_json::from_slice(body).map_err(|e| {
            StatusError::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
        }),
        "application/yaml" => {
            serde_yaml_ng::from_slice(body).map_err(|e| StatusError::bad_request(e.to_string()))
        }
        _ => Err(StatusError::unsupported_media_type(MEDIA_TYPES)),
    }
}

/// `DeleteOptions` and the like.
pub(crate) fn options(headers: &HeaderMap, body: &[u8]) -> Result<Value, StatusError> {
    parse(headers, body)
}

/// An object of this kind.
pub(crate) fn object(call: &Call, row: &Resource, body: &[u8]) -> Result<Value, StatusError> {
    let value = parse(&call.headers, body)?;
    check_kind(&value, row.api_version(), row.kind)?;
    Ok(value)
}

pub(crate) fn check_kind(value: &Value, api_version: &str, kind: &str) -> Result<(), StatusError> {
    let given = value["apiVersion"].as_str().unwrap_or_default();
    if !given.is_empty() && given != api_version {
        return Err(StatusError::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({api_version})"
        )));
    }
    let given = value["kind"].as_str().unwrap_or_default();
    if !given.is_empty() && given != kind {
        return Err(StatusError::bad_request(format!(
            "{given} in version {api_version:?} cannot be handled as a {kind}"
        )));
    }
    Ok(())
}

/// What a patch of this media type makes of the present object.
pub(crate) fn patched(
    headers: &HeaderMap,
    _row: &Resource,
    patch: &[u8],
    mut object: Value,
) -> Result<Value, StatusError> {
    let bad = |e: serde_json::Error| StatusError::bad_request(e.to_string());
    match media_type(headers) {
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(patch).map_err(bad)?;
            json_patch::patch(&mut object, &patch).map_err(|e| StatusError::bad_request(e.to_string()))?;
            Ok(object)
        }
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            let patch: Value = serde_json::from_slice(patch).map_err(bad)?;
            json_patch::merge(&mut object, &patch);
            Ok(object)
        }
        _ => Err(StatusError::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ])),
    }
}

/// A body of a kind that is not stored (Binding, Scale, reviews).
pub(crate) fn any(
    headers: &HeaderMap,
    body: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<Value, StatusError> {
    let value = parse(headers, body)?;
    check_kind(&value, api_version, kind)?;
    Ok(value)
}
