//! A v2 document in the protobuf form of gnostic's `openapi.v2.Document` (OpenAPIv2.proto). Only what
//! our documents hold is written.

use serde_json::{Map, Value};

use crate::codec::{put_bytes, put_varint};

/// The whole document.
pub(crate) fn document(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, value.get("swagger"));
    message(&mut out, 2, value.get("info"), |info, out| {
        text(out, 1, info.get("title"));
        text(out, 2, info.get("version"));
    });
    message(&mut out, 8, value.get("paths"), |paths, out| named(out, 2, paths, path_item));
    message(&mut out, 9, value.get("definitions"), |definitions, out| named(out, 1, definitions, schema));
    out
}

fn path_item(item: &Value, out: &mut Vec<u8>) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        message(out, number, item.get(method), operation);
    }
    parameters(out, 9, item);
}

fn operation(operation: &Value, out: &mut Vec<u8>) {
    texts(out, 1, operation.get("tags"));
    text(out, 5, operation.get("operationId"));
    texts(out, 6, operation.get("produces"));
    texts(out, 7, operation.get("consumes"));
    parameters(out, 8, operation);
    message(out, 9, operation.get("responses"), |responses, out| {
        named(out, 1, responses, |response, out| {
            message(out, 1, Some(response), |response, out| {
                text(out, 1, response.get("description"));
                message(out, 2, response.get("schema"), |s, out| message(out, 1, Some(s), schema));
            });
        });
    });
    extensions(out, 13, operation);
}

fn parameters(out: &mut Vec<u8>, number: u32, of: &Value) {
    for parameter in of.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        // ParametersItem → Parameter → one of body and the others.
        message(out, number, Some(parameter), |p, out| message(out, 1, Some(p), one_parameter));
    }
}

fn one_parameter(parameter: &Value, out: &mut Vec<u8>) {
    let required = parameter.get("required");
    match parameter.get("in").and_then(Value::as_str) {
        Some("body") => message(out, 1, Some(parameter), |p, out| {
            text(out, 2, p.get("name"));
            text(out, 3, p.get("in"));
            flag(out, 4, required);
            message(out, 5, p.get("schema"), schema);
        }),
        // Those of paths and of queries differ in their numbers alone.
        place => {
            let is_path = place == Some("path");
            let (number, ty, unique) = if is_path { (4, 5, 19) } else { (3, 6, 20) };
            message(out, 2, Some(parameter), |p, out| {
                message(out, number, Some(p), |p, out| {
                    flag(out, 1, required);
                    text(out, 2, p.get("in"));
                    text(out, 4, p.get("name"));
                    text(out, ty, p.get("type"));
                    flag(out, unique, p.get("uniqueItems"));
                });
            });
        }
    }
}

fn schema(value: &Value, out: &mut Vec<u8>) {
    text(out, 1, value.get("$ref"));
    text(out, 3, value.get("format"));
    text(out, 4, value.get("description"));
    texts(out, 19, value.get("required"));
    message(out, 21, value.get("additionalProperties"), |item, out| message(out, 1, Some(item), schema));
    if let Some(ty) = value.get("type") {
        message(out, 22, Some(ty), |ty, out| text(out, 1, Some(ty)));
    }
    message(out, 23, value.get("items"), |item, out| message(out, 1, Some(item), schema));
    message(out, 25, value.get("properties"), |properties, out| named(out, 1, properties, schema));
    extensions(out, 31, value);
}

/// A map as gnostic writes it: repeated pairs of name (1) and value (2).
fn named(out: &mut Vec<u8>, number: u32, map: &Value, write: impl Fn(&Value, &mut Vec<u8>) + Copy) {
    for (name, value) in map.as_object().unwrap_or(&Map::new()) {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        message(&mut pair, 2, Some(value), write);
        put_bytes(out, number, &pair);
    }
}

/// `x-…` members, each a name and YAML text (JSON is YAML).
fn extensions(out: &mut Vec<u8>, number: u32, of: &Value) {
    for (name, value) in of.as_object().unwrap_or(&Map::new()) {
        if name.starts_with("x-") {
            let mut any = Vec::new();
            put_bytes(&mut any, 2, format!("{value}\n").as_bytes());
            let mut pair = Vec::new();
            put_bytes(&mut pair, 1, name.as_bytes());
            put_bytes(&mut pair, 2, &any);
            put_bytes(out, number, &pair);
        }
    }
}

fn message(out: &mut Vec<u8>, number: u32, value: Option<&Value>, write: impl Fn(&Value, &mut Vec<u8>)) {
    if let Some(value) = value {
        let mut bytes = Vec::new();
        write(value, &mut bytes);
        put_bytes(out, number, &bytes);
    }
}

fn text(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str) {
        put_bytes(out, number, text.as_bytes());
    }
}

fn texts(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    for item in value.and_then(Value::as_array).into_iter().flatten() {
        text(out, number, Some(item));
    }
}

fn flag(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if value == Some(&Value::Bool(true)) {
        put_varint(out, number, 1);
    }
}
