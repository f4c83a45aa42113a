//! Request bodies into normalised objects, by Content-Type; patches applied. The one place that reads
//! foreign objects.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use skiff_api::codec::{self, FieldValidation, Gvk, Media};
use skiff_api::patch::{self, Format};
use skiff_api::schema;
use skiff_api::status::{Cause, StatusError};

use crate::request::Query;
use crate::resources::Resource;
use crate::server::Call;

const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok())
}

fn media(headers: &HeaderMap) -> Result<Media, StatusError> {
    Media::of(content_type(headers)).ok_or_else(|| StatusError::unsupported_media_type(MEDIA_TYPES))
}

/// How strictly the request wants its fields to be known.
pub(crate) fn field_validation(query: &Query) -> Result<FieldValidation, StatusError> {
    let given = query.get("fieldValidation").unwrap_or_default();
    FieldValidation::parse(given).ok_or_else(|| {
        let fault = Cause::not_supported("fieldValidation", given, &["Ignore", "Strict", "Warn"]);
        StatusError::invalid("meta.k8s.io", "CreateOptions", "", &[fault])
    })
}

fn refused(error: codec::Error) -> StatusError {
    match error {
        codec::Error::TooLarge => StatusError::too_large(codec::BODY_MAX),
        error => StatusError::bad_request(error.to_string()),
    }
}

fn unpatched(error: &patch::Error) -> StatusError {
    match error {
        patch::Error::BadRequest(why) => StatusError::bad_request(why.clone()),
        patch::Error::TooMany(_) => StatusError::new(413, "RequestEntityTooLarge", error.to_string()),
        patch::Error::Unprocessable(_) => StatusError::new(422, "Invalid", patch::UNPROCESSABLE),
        patch::Error::Internal(why) => StatusError::internal(why),
    }
}

/// `DeleteOptions` of a deletion's body.
pub(crate) fn options(headers: &HeaderMap, body: &[u8]) -> Result<Value, StatusError> {
    let wanted = Gvk::new("", "v1", "DeleteOptions");
    codec::decode(body, media(headers)?, &wanted, FieldValidation::Ignore).map(|d| d.value).map_err(refused)
}

/// An object of the row's kind.
pub(crate) fn object(call: &Call, row: &Resource, body: &[u8]) -> Result<Value, StatusError> {
    let wanted = Gvk::new(row.group, row.version, row.kind);
    let decoded = codec::decode(body, media(&call.headers)?, &wanted, call.validation).map_err(refused)?;
    call.warn(decoded.warnings);
    Ok(decoded.value)
}

/// A body of a kind that is not stored (Binding, Scale, reviews).
pub(crate) fn any(
    headers: &HeaderMap,
    body: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<Value, StatusError> {
    let wanted = Gvk::parse(api_version, kind);
    codec::decode(body, media(headers)?, &wanted, FieldValidation::Ignore).map(|d| d.value).map_err(refused)
}

/// Which kind of patch a request brings. Known before the object is looked for: clients tell by the
/// refusal that there is no server-side apply.
pub(crate) fn patch_format(headers: &HeaderMap) -> Result<Format, StatusError> {
    match Format::of(content_type(headers).unwrap_or_default()) {
        None | Some(Format::Apply) => Err(StatusError::unsupported_media_type(PATCH_TYPES)),
        Some(format) => Ok(format),
    }
}

/// What a patch makes of the present object, in normal form again.
pub(crate) fn patched(call: &Call, wanted: &Gvk, patch: &[u8], object: Value) -> Result<Value, StatusError> {
    let format = patch_format(&call.headers)?;
    let (patch, repeated) = codec::parse(patch, Media::Json).map_err(StatusError::bad_request)?;
    if !repeated.is_empty() {
        match call.validation {
            FieldValidation::Strict => {
                return Err(StatusError::bad_request(codec::strict_error(&repeated)));
            }
            FieldValidation::Warn => call.warn(repeated),
            FieldValidation::Ignore => {}
        }
    }
    let apply = || match (format, wanted.schema()) {
        (Format::Json, _) => patch::json(&object, &patch),
        (Format::Strategic, Some(schema)) => patch::strategic(&object, &patch, schema),
        _ => patch::merge(&object, &patch),
    };
    let next = apply().map_err(|error| unpatched(&error))?;
    let decoded = codec::normalise(next, wanted, call.validation).map_err(|error| match error {
        // As upstream, which shows what the patch made.
        codec::Error::Unfit { cause, .. } if format != Format::Strategic && !codec::is_strict(&cause) => {
            let made = apply().map(|made| made.to_string()).unwrap_or_default();
            StatusError::invalid("", "", "", &[Cause::invalid("patch", made, &cause)])
        }
        // This one is converted by other means, which show the patch, and the type instead of the field.
        codec::Error::Unfit { cause, .. } if !codec::is_strict(&cause) => {
            let cause = restoring(&cause).unwrap_or(cause);
            StatusError::invalid("", "", "", &[Cause::invalid("patch", patch::go(&patch), &cause)])
        }
        error => refused(error),
    })?;
    call.warn(decoded.warnings);
    Ok(decoded.value)
}

/// What upstream's converter says where JSON's decoder says `json: cannot unmarshal FOUND into … of type GO`.
fn restoring(cause: &str) -> Option<String> {
    let (found, rest) = cause.strip_prefix("json: cannot unmarshal ")?.split_once(" into Go ")?;
    let go = rest.rsplit_once(" of type ")?.1.trim_start_matches('*');
    let found = match found.split(' ').collect::<Vec<_>>()[..] {
        ["object"] => "map",
        ["array"] => "slice",
        ["number", number] if number.contains(['.', 'e', 'E']) => "float64",
        ["number", ..] => "int64",
        ["bool"] => "bool",
        _ => "string",
    };
    Some(match go {
        go if go.starts_with("[]") => format!("cannot restore slice from {found}"),
        go if go.starts_with("map[") => format!("cannot restore map from {found}"),
        "bool" | "string" | "int32" | "int64" | "float64" => format!("unrecognized type: {go}"),
        go => match go.rsplit_once('.') {
            // What is no struct of its own is a string by another name.
            Some((_, name)) if !schema::TYPES.iter().any(|ty| ty.name == name) => {
                "unrecognized type: string".to_owned()
            }
            _ => format!("cannot restore struct from: {found}"),
        },
    })
}

/// The kind that a row's objects are written in.
pub(crate) fn kind_of(row: &Resource) -> Gvk {
    Gvk::new(row.group, row.version, row.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategic_patch_of_a_wrong_type_is_worded_by_the_converter() {
        let check = |found: &str, go: &str, expected: &str| {
            let cause = format!("json: cannot unmarshal {found} into Go struct field X.a.b of type {go}");
            assert_eq!(restoring(&cause).as_deref(), Some(expected), "{found} {go}");
        };
        check("string", "int32", "unrecognized type: int32");
        check("number", "string", "unrecognized type: string");
        check("object", "[]v1.Container", "cannot restore slice from map");
        check("array", "map[string]string", "cannot restore map from slice");
        check("string", "v1.PodSpec", "cannot restore struct from: string");
        check("number 1.5", "v1.PodSpec", "cannot restore struct from: float64");
        check("object", "v1.Protocol", "unrecognized type: string");
        assert_eq!(restoring("quantities must match the regular expression"), None);
    }
}
